//! The linear byte space over a list of files: positioned reads and gathered writes.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::StoreError;

/// Most buffers in one system call: `IOV_MAX` on Linux.
const SLICES_PER_CALL: usize = 1024;
/// Most bytes in one system call: enough to hide its cost, short enough to let readers in between.
const BYTES_PER_CALL: usize = 2 << 20;

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    /// The file's bytes within the content.
    bytes: Range<u64>,
}

/// Open files whose bytes, one after the other, are the content. One file now; a bundle has many.
#[derive(Debug)]
pub(crate) struct FileMap {
    parts: Vec<Part>,
}

impl FileMap {
    /// A map of files that lie one after the other, each with its length in bytes.
    pub(crate) fn new(files: impl IntoIterator<Item = (PathBuf, File, u64)>) -> Self {
        let mut end = 0;
        let parts = files
            .into_iter()
            .map(|(path, file, length)| {
                let start = end;
                end += length;
                Part {
                    path,
                    file,
                    bytes: start..end,
                }
            })
            .collect();
        Self { parts }
    }

    /// Creates the file if need be and gives it its length at once, sparse: `fallocate` would fill a memory file system.
    ///
    /// `shown` is the path that errors name. Also returns the length it had: 0 for a new one.
    pub(crate) fn create(
        path: &Path,
        shown: &Path,
        length: u64,
    ) -> Result<(Self, u64), StoreError> {
        let fail = |action| move |source| StoreError::new(path, action, source);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fail("create"))?;
        let before = file.metadata().map_err(fail("examine"))?.len();
        if before != length {
            file.set_len(length).map_err(fail("set the length of"))?;
        }
        Ok((Self::new([(shown.to_owned(), file, length)]), before))
    }

    /// Opens a finished file for reading.
    pub(crate) fn open(path: &Path) -> Result<(Self, u64), StoreError> {
        let fail = |action| move |source| StoreError::new(path, action, source);
        let file = File::open(path).map_err(fail("open"))?;
        let length = file.metadata().map_err(fail("examine"))?.len();
        Ok((Self::new([(path.to_owned(), file, length)]), length))
    }

    /// The path that errors name.
    pub(crate) fn path(&self) -> &Path {
        self.parts
            .first()
            .map_or_else(|| Path::new(""), |part| &part.path)
    }

    /// The file that holds the byte at `offset`, and the offset within it.
    fn locate(&self, offset: u64) -> io::Result<(&Part, u64)> {
        let index = self.parts.partition_point(|part| part.bytes.end <= offset);
        let part = self
            .parts
            .get(index)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok((part, offset - part.bytes.start))
    }

    fn error(&self, offset: u64, action: &'static str, source: io::Error) -> StoreError {
        let path = self
            .locate(offset)
            .map_or_else(|_| self.path(), |(part, _)| &part.path);
        StoreError::new(path, action, source)
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let read = || -> io::Result<usize> {
                let (part, within) = self.locate(at)?;
                let room = usize::try_from(part.bytes.end - at).unwrap_or(usize::MAX);
                let end = out.len().min(done.saturating_add(room));
                part.file.read_exact_at(&mut out[done..end], within)?;
                Ok(end)
            }();
            done = read.map_err(|error| self.error(at, "read", error))?;
        }
        Ok(())
    }

    /// Writes `buffers`, one after the other, from `offset` on: one system call for many of them.
    pub(crate) fn write(&self, offset: u64, buffers: &[Bytes]) -> Result<(), StoreError> {
        let (mut at, mut next, mut skip) = (offset, 0, 0);
        while next < buffers.len() {
            let written = self
                .write_some(at, &buffers[next..], skip)
                .map_err(|error| self.error(at, "write", error))?;
            at += written as u64;
            skip += written;
            while next < buffers.len() && skip >= buffers[next].len() {
                skip -= buffers[next].len();
                next += 1;
            }
        }
        Ok(())
    }

    /// One system call: what fits of `buffers`, without the first `skip` bytes, into the file at `at`.
    fn write_some(&self, at: u64, buffers: &[Bytes], mut skip: usize) -> io::Result<usize> {
        let (part, within) = self.locate(at)?;
        let room = usize::try_from(part.bytes.end - at).unwrap_or(usize::MAX);
        let mut room = room.min(BYTES_PER_CALL);
        let mut slices = Vec::with_capacity(buffers.len().min(SLICES_PER_CALL));
        for buffer in buffers.iter().take(SLICES_PER_CALL) {
            let slice = &buffer[skip..];
            skip = 0;
            let slice = &slice[..slice.len().min(room)];
            room -= slice.len();
            slices.push(IoSlice::new(slice));
            if room == 0 {
                break;
            }
        }
        match rustix::io::pwritev(&part.file, &slices, within) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => Ok(written),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until everything written so far is on the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.parts.iter().try_for_each(|part| {
            part.file
                .sync_data()
                .map_err(|error| StoreError::new(&part.path, "sync", error))
        })
    }
}

/// Makes names created, renamed or removed in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| StoreError::new(folder, "sync the folder", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lengths: &[u64]) -> (tempfile::TempDir, FileMap) {
        let folder = tempfile::tempdir().unwrap();
        let files = lengths.iter().enumerate().map(|(index, &length)| {
            let path = folder.path().join(index.to_string());
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .unwrap();
            file.set_len(length).unwrap();
            (path, file, length)
        });
        let map = FileMap::new(files);
        (folder, map)
    }

    #[test]
    fn a_run_may_cross_files_and_empty_ones() {
        let (folder, map) = map(&[5, 0, 3, 10]);
        let buffers: Vec<Bytes> = ["abc", "defg", "hijkl"].map(Bytes::from).to_vec();
        map.write(2, &buffers).unwrap();
        let mut out = [0; 12];
        map.read(2, &mut out).unwrap();
        assert_eq!(&out, b"abcdefghijkl");
        assert_eq!(std::fs::read(folder.path().join("2")).unwrap(), b"def");
        assert!(
            map.read(10, &mut [0; 9]).is_err(),
            "reads beyond the end fail"
        );
        assert!(map.write(17, &[Bytes::from("ab")]).is_err());
    }

    #[test]
    fn more_buffers_than_one_call_takes_are_all_written() {
        let (_folder, map) = map(&[5000]);
        let buffers: Vec<Bytes> = (0..2500_u32)
            .map(|n| Bytes::copy_from_slice(&n.to_le_bytes()[..2]))
            .collect();
        map.write(0, &buffers).unwrap();
        let mut out = [0; 2];
        map.read(4998, &mut out).unwrap();
        assert_eq!(u16::from_le_bytes(out), 2499);
    }
}
