//! A file's bytes in order, as they come: what `get -o -` writes to a pipe.
//!
//! Entry: [`Sink`]. It takes bytes from the first on, each once it is verified, and gives them to a writer on a thread of its
//! own. Invariant: what was written is the beginning of the file that the job ends with. A job that begins anew (another
//! version, another way to get it) gives its bytes from the first on again; those that were written before are
//! compared, not written.

use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256 as Hasher};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};

use super::GetError;
use crate::{Content, Finished, ReadError};

/// Most bytes read at once.
const CHUNK_LENGTH: usize = 256 * 1024;
const CHUNK: u64 = CHUNK_LENGTH as u64;
/// Chunks on their way to the writer.
const QUEUE: usize = 16;
/// Before a piece that was lost from the disk is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// What ended the writer: how many bytes it wrote, and what the system said.
type Ended = Result<(), (u64, io::Error)>;

/// Where a file's bytes go in order.
pub(crate) struct Sink {
    chunks: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<Ended>,
    /// Nothing is written before the whole file is known to be good.
    waits: bool,
    /// Bytes given to the writer, and their digest.
    written: u64,
    digest: Hasher,
    again: Option<Again>,
}

/// Bytes that were written before come again.
struct Again {
    at: u64,
    digest: Hasher,
}

impl Sink {
    /// Begins to write to `out`. `waits`: nothing before the whole file is known to be good.
    pub(crate) fn new(out: impl Write + Send + 'static, waits: bool) -> Self {
        let (chunks, inbox) = mpsc::channel(QUEUE);
        let (tell, ended) = oneshot::channel();
        // A writer that is stuck in a full pipe must not hold up the end of the process.
        thread::spawn(move || {
            // Nobody listens when the job has ended otherwise.
            let _ = tell.send(write(out, inbox));
        });
        Self {
            chunks,
            ended,
            waits,
            written: 0,
            digest: Hasher::new(),
            again: None,
        }
    }

    /// Nothing may be given before the whole file is known to be good.
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// The file's bytes come from the first on, perhaps again.
    pub(crate) fn restart(&mut self) {
        self.again = (self.written > 0).then(|| Again {
            at: 0,
            digest: Hasher::new(),
        });
    }

    /// Takes the next bytes; waits while the writer has enough. Cancelled it may have taken none.
    ///
    /// # Errors
    /// [`GetError::Output`] when they cannot be written, [`GetError::OutputDiffers`] when they are not what was written
    /// before.
    pub(crate) async fn take(&mut self, mut bytes: Bytes) -> Result<(), GetError> {
        if let Some(again) = &mut self.again {
            let left = usize::try_from(self.written - again.at).unwrap_or(usize::MAX);
            let part = bytes.split_to(left.min(bytes.len()));
            again.digest.update(&part);
            again.at += part.len() as u64;
            if again.at < self.written {
                return Ok(());
            }
            let before = self.digest.clone().finalize();
            if again.digest.clone().finalize() != before {
                return Err(GetError::OutputDiffers(self.written));
            }
            self.again = None;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.chunks.send(bytes.clone()).await.is_err() {
            return Err(self.failure().await);
        }
        self.digest.update(&bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Why the writer takes no more.
    async fn failure(&mut self) -> GetError {
        let (written, source) = match (&mut self.ended).await {
            Ok(Err(failed)) => failed,
            // It ends without an error only after its last byte.
            Ok(Ok(())) | Err(_) => (self.written, io::ErrorKind::BrokenPipe.into()),
        };
        let source = Arc::new(source);
        GetError::Output { written, source }
    }

    /// Gives a content's bytes from the first on, each piece once it is verified.
    ///
    /// # Errors
    /// As [`Sink::take`], and when the content ends before.
    async fn follow(&mut self, content: &Content) -> Result<(), GetError> {
        self.restart();
        let piece = u64::from(content.layout().piece_length());
        let mut at = 0;
        // The end may become known only while this waits for what turns out to lie beyond it.
        let ended = |end: u64| content.length().map_or(end, |length| length.min(end));
        while at < ended(u64::MAX) {
            let end = ended((at / piece + 1) * piece).min(at + CHUNK);
            let available = content.available(at..end).await;
            let end = ended(end);
            let read = match available {
                Ok(()) if end <= at => return Ok(()),
                Ok(()) => content.read(at..end).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(bytes) => {
                    self.take(bytes).await?;
                    at = end;
                }
                // It was lost from the disk meanwhile, and is fetched again.
                Err(ReadError::NotHeld(_)) => tokio::time::sleep(PAUSE).await,
                Err(ReadError::Stopped) => return Err(crate::ContentError::Stopped.into()),
                Err(ReadError::Store(error)) => {
                    return Err(crate::ContentError::Store(error).into());
                }
            }
        }
        Ok(())
    }

    /// Gives a whole file that is known to be good.
    ///
    /// # Errors
    /// As [`Sink::take`], and when it cannot be read.
    pub(super) async fn file(&mut self, path: &Path) -> Result<(), GetError> {
        let failed = |source| GetError::File {
            action: "read",
            path: path.to_owned(),
            source: Arc::new(source),
        };
        let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
        self.restart();
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_LENGTH);
            if file.read_buf(&mut chunk).await.map_err(failed)? == 0 {
                return Ok(());
            }
            self.take(chunk.freeze()).await?;
        }
    }

    /// Gives a content's bytes while `finish` completes it.
    ///
    /// # Errors
    /// As `finish`, and when the bytes cannot be written.
    pub(super) async fn along(
        &mut self,
        content: &Content,
        finish: impl Future<Output = Result<Finished, GetError>>,
    ) -> Result<Finished, GetError> {
        if self.waits {
            let finished = finish.await?;
            self.follow(content).await?;
            return Ok(finished);
        }
        let (mut finish, mut follow) = (pin!(finish), pin!(self.follow(content)));
        tokio::select! {
            biased;
            finished = &mut finish => {
                let finished = finished?;
                follow.await?;
                Ok(finished)
            }
            followed = &mut follow => {
                followed?;
                finish.await
            }
        }
    }

    /// Waits until all bytes are written.
    ///
    /// # Errors
    /// [`GetError::Output`] when they cannot be.
    pub(crate) async fn end(self) -> Result<(), GetError> {
        let Self { chunks, ended, .. } = self;
        drop(chunks);
        match ended.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((written, source))) => Err(GetError::Output {
                written,
                source: Arc::new(source),
            }),
            Err(_) => Err(GetError::Output {
                written: self.written,
                source: Arc::new(io::Error::other("a defect of this program")),
            }),
        }
    }
}

fn write(mut out: impl Write, mut chunks: mpsc::Receiver<Bytes>) -> Ended {
    let mut written = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        out.write_all(&chunk).map_err(|error| (written, error))?;
        written += chunk.len() as u64;
    }
    out.flush().map_err(|error| (written, error))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A writer whose bytes the test sees; it fails after so many.
    #[derive(Clone, Default)]
    struct Seen {
        bytes: Arc<Mutex<Vec<u8>>>,
        limit: Option<usize>,
    }

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut seen = self.bytes.lock().unwrap();
            if self.limit.is_some_and(|limit| seen.len() >= limit) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            seen.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_was_written_before_is_compared_and_not_written_again() {
        let seen = Seen::default();
        let mut sink = Sink::new(seen.clone(), false);
        sink.take(Bytes::from_static(b"abcde")).await.unwrap();
        sink.restart();
        for part in [&b"ab"[..], b"", b"cd", b"efg", b"h"] {
            sink.take(Bytes::from_static(part)).await.unwrap();
        }
        sink.restart();
        sink.take(Bytes::from_static(b"abcdefghi")).await.unwrap();
        sink.end().await.unwrap();
        assert_eq!(*seen.bytes.lock().unwrap(), b"abcdefghi");
    }

    #[tokio::test]
    async fn another_version_is_not_written_behind_the_first() {
        let mut sink = Sink::new(Seen::default(), false);
        sink.take(Bytes::from_static(b"abcde")).await.unwrap();
        sink.restart();
        sink.take(Bytes::from_static(b"abXd")).await.unwrap();
        let error = sink.take(Bytes::from_static(b"efg")).await.unwrap_err();
        assert!(matches!(error, GetError::OutputDiffers(5)), "{error}");
    }

    #[tokio::test]
    async fn a_reader_that_went_away_ends_it_with_a_reason() {
        let seen = Seen {
            limit: Some(5),
            ..Seen::default()
        };
        let mut sink = Sink::new(seen, false);
        let error = loop {
            if let Err(error) = sink.take(Bytes::from_static(b"abcde")).await {
                break error;
            }
        };
        assert!(
            matches!(error, GetError::Output { written: 5, .. }),
            "{error}"
        );
        assert_eq!(error.exit_code(), 1);
        // The same when it goes away at the very end.
        let seen = Seen {
            limit: Some(0),
            ..Seen::default()
        };
        let mut sink = Sink::new(seen, false);
        sink.take(Bytes::from_static(b"a")).await.unwrap();
        let error = sink.end().await.unwrap_err();
        assert!(
            matches!(error, GetError::Output { written: 0, .. }),
            "{error}"
        );
    }
}
