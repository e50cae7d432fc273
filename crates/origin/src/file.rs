//! Local files as origins: the same questions, answered by the file system.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Expectation, OriginError, Probe, SourceUrl, Validator};

/// Bytes per read. Each is one call on a blocking thread.
const CHUNK: usize = 256 * 1024;

/// An open file in the state that it had when it was opened.
pub(crate) struct FileReader {
    file: Arc<File>,
    shown: String,
    state: Validator,
}

fn state(metadata: &Metadata) -> Validator {
    Validator::File {
        length: metadata.len(),
        mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        inode: metadata.ino(),
    }
}

/// Opens the file and says what it is.
pub(crate) async fn open(
    source: &SourceUrl,
    path: PathBuf,
) -> Result<(FileReader, Probe), OriginError> {
    let shown = source.redacted();
    let opened = blocking(move || {
        // Looked at before it is opened: opening a pipe would wait for its writer.
        let kind = what_it_is(&std::fs::metadata(&path)?);
        if let Some(kind) = kind {
            return Ok(Err(kind));
        }
        let file = File::open(&path)?;
        let metadata = file.metadata()?;
        Ok(match what_it_is(&metadata) {
            Some(kind) => Err(kind),
            None => Ok((file, metadata)),
        })
    });
    let (file, metadata) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(what)) => return Err(OriginError::NotAFile { url: shown, what }),
        Err(error) => return Err(failed(shown, error)),
    };
    let state = state(&metadata);
    let probe = Probe {
        final_url: source.clone(),
        length: Some(metadata.len()),
        validator: state.clone(),
        ranges: true,
        last_modified: None,
        content_type: None,
        digest: None,
    };
    Ok((
        FileReader {
            file: Arc::new(file),
            shown,
            state,
        },
        probe,
    ))
}

fn what_it_is(metadata: &Metadata) -> Option<&'static str> {
    if metadata.is_file() {
        None
    } else if metadata.is_dir() {
        Some("a directory")
    } else {
        Some("a device, pipe or socket")
    }
}

fn failed(url: String, source: io::Error) -> OriginError {
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            OriginError::NotFound { url, status: None }
        }
        io::ErrorKind::PermissionDenied => OriginError::Refused { url, status: None },
        _ => OriginError::File { url, source },
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl FileReader {
    /// The bytes that will be yielded for `range`, when the file is what was expected.
    pub(crate) fn check(
        &self,
        range: Option<&Range<u64>>,
        expect: &Expectation,
    ) -> Result<Range<u64>, OriginError> {
        let Validator::File { length, .. } = self.state else {
            return Err(self.changed(&expect.validator, &self.state));
        };
        if expect.validator != Validator::None && expect.validator != self.state {
            return Err(self.changed(&expect.validator, &self.state));
        }
        if let Some(expected) = expect.length.filter(|&expected| expected != length) {
            return Err(OriginError::Changed {
                url: self.shown.clone(),
                what: "its length",
                expected: expected.to_string(),
                found: length.to_string(),
            });
        }
        match range {
            None => Ok(0..length),
            Some(range)
                if range.start >= length || (expect.length.is_some() && range.end > length) =>
            {
                Err(OriginError::RangeNotSatisfiable {
                    url: self.shown.clone(),
                    length: Some(length),
                    expected: false,
                })
            }
            Some(range) => Ok(range.start..range.end.min(length)),
        }
    }

    /// The next bytes of `range`, at most [`CHUNK`], read while the file was still in the state it had at first.
    pub(crate) async fn chunk(&self, range: Range<u64>) -> Result<Bytes, OriginError> {
        let file = Arc::clone(&self.file);
        let wanted =
            usize::try_from(range.end - range.start).map_or(CHUNK, |length| length.min(CHUNK));
        let read = blocking(move || {
            let mut buffer = vec![0; wanted];
            let outcome = file.read_exact_at(&mut buffer, range.start);
            // After the bytes: whoever wrote before or between them moved the time.
            Ok((outcome.map(|()| buffer), state(&file.metadata()?)))
        });
        let (outcome, now) = read
            .await
            .map_err(|error| failed(self.shown.clone(), error))?;
        if now != self.state {
            return Err(self.changed(&self.state, &now));
        }
        let buffer = outcome.map_err(|error| failed(self.shown.clone(), error))?;
        Ok(buffer.into())
    }

    fn changed(&self, expected: &Validator, found: &Validator) -> OriginError {
        OriginError::Changed {
            url: self.shown.clone(),
            what: "its length, time or inode",
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
