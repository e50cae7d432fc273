//! One GET of the whole object, for origins that cannot be read by ranges. Each try begins anew: nothing tells whether
//! bytes of an earlier one belong to the same version.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use floodway_origin::{Expectation, Probe, ReadRequest, SourceUrl, Validator};
use floodway_proto::Sha256;
use floodway_store::{OpenError, lock_journal};
use floodway_swarm::{Counters, SourceClass};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256 as Hasher};
use tokio::sync::mpsc;

use super::{Fetched, GetError, GetEvent, Job, Nudge, VerifiedBy};
use crate::origin_source::{again, reader};
use crate::{AddError, Finished, Progress, SourceShare, State};

/// Chunks on their way to the disk.
const QUEUE: usize = 64;
/// How often the listener is told.
const TELL: Duration = Duration::from_millis(250);

/// Fetches and verifies; the file gets its name only then.
pub(super) async fn fetch(
    job: &mut Job,
    url: &SourceUrl,
    probe: &Probe,
    path: PathBuf,
    verified_by: VerifiedBy,
) -> Result<Fetched, GetError> {
    let place = Unfinished::lock(path, job.rules.overwrite)?;
    job.one_get = true;
    let begun = Instant::now();
    let mut counters = Counters::default();
    let mut tries = 0;
    let sha256 = loop {
        let error = match one_try(job, url, probe, &place, &mut counters).await {
            Ok(sha256) => break sha256,
            Err(GetError::Origin(error)) => error,
            Err(error) => return Err(error),
        };
        counters.wasted += std::mem::take(&mut counters.origin);
        tries += 1;
        let Some(pause) = again(&error, tries, begun.elapsed()) else {
            return Err(error.into());
        };
        job.reasons
            .add(format!("{error}; read again from the beginning"));
        tokio::time::sleep(pause).await;
    };
    if let (Some(expected), Some(found)) = (job.rules.sha256, sha256)
        && expected != found
    {
        return Err(GetError::Mismatch { expected, found });
    }
    let path = place.finish(job.rules.overwrite)?;
    if let Some(sink) = job.sink.as_mut().filter(|sink| sink.waits()) {
        sink.file(&path).await?;
    }
    let share = SourceShare {
        source: job
            .url
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        class: SourceClass::Origin,
        bytes: counters.origin,
    };
    let finished = Finished {
        path,
        bytes: counters.origin,
        sha256,
        stamp: None,
        counters,
        sources: vec![share],
    };
    Ok(Fetched {
        content: None,
        finished,
        verified_by,
    })
}

async fn one_try(
    job: &mut Job,
    url: &SourceUrl,
    probe: &Probe,
    place: &Unfinished,
    counters: &mut Counters,
) -> Result<Option<Sha256>, GetError> {
    let origin = reader(&job.session, job.rules.check.as_ref());
    // A strong validator pins the version that was probed; without one any version will do, if it is only one.
    let pinned = matches!(
        probe.validator,
        Validator::Strong(_) | Validator::File { .. }
    );
    let expect = if pinned {
        probe.expectation()
    } else {
        Expectation::default()
    };
    let request = ReadRequest {
        url: url.clone(),
        range: None,
        expect,
        bearer: None,
    };
    let guard = job.session.origin_guard().clone();
    let mut body = origin.read(&request, &guard).await?;
    let digest = job.rules.linear_digest || job.rules.sha256.is_some();
    let (chunks, inbox) = mpsc::channel(QUEUE);
    let file = place.begin()?;
    let writing = tokio::task::spawn_blocking(move || write(file, inbox, digest));
    let mut told = Instant::now();
    if let Some(sink) = &mut job.sink {
        sink.restart();
    }
    let result = loop {
        job.session.down().ready().await;
        let chunk = tokio::select! {
            chunk = body.next() => chunk,
            Ok(()) = job.orders.changed() => {
                if job.orders.borrow().cancelled {
                    break Err(GetError::Cancelled);
                }
                continue;
            }
        };
        let chunk = match chunk {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(chunk)) => chunk,
        };
        job.session.down().charge(chunk.len());
        counters.origin += chunk.len() as u64;
        if chunks.send(chunk.clone()).await.is_err() {
            // The writer has failed; it says how.
            break Ok(());
        }
        if let Some(sink) = job.sink.as_mut().filter(|sink| !sink.waits())
            && let Err(error) = sink.take(chunk).await
        {
            break Err(error);
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            tell(job, body.end(), counters);
        }
    };
    drop(chunks);
    let written = writing
        .await
        .map_err(|panic| place.failed("write")(io::Error::other(panic)))?;
    result?;
    tell(job, Some(counters.origin), counters);
    written.map_err(place.failed("write"))
}

fn tell(job: &Job, length: Option<u64>, counters: &Counters) {
    let mut progress = Progress::start(length);
    progress.state = State::Fetching;
    progress.have_bytes = counters.origin;
    progress.counters = *counters;
    job.board.set(Nudge::Progressed, |status| {
        status.bytes = counters.origin;
        status.counters = *counters;
    });
    (job.listener)(GetEvent::Progress(Box::new(progress)));
}

/// Writes what comes, to the end, and makes it durable.
fn write(
    mut file: File,
    mut chunks: mpsc::Receiver<Bytes>,
    digest: bool,
) -> io::Result<Option<Sha256>> {
    let mut hasher = digest.then(Hasher::new);
    while let Some(chunk) = chunks.blocking_recv() {
        file.write_all(&chunk)?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&chunk);
        }
    }
    file.sync_data()?;
    Ok(hasher.map(|hasher| Sha256(hasher.finalize().into())))
}

/// The unfinished file beside its target, under the same lock as a store's. Nobody can go on with it: it is removed with this.
struct Unfinished {
    target: PathBuf,
    data: PathBuf,
    journal: PathBuf,
    _lock: File,
}

impl Unfinished {
    fn lock(target: PathBuf, overwrite: bool) -> Result<Self, GetError> {
        let open = |error: OpenError| GetError::Add(AddError::Open(error));
        if target.is_dir() {
            return Err(open(OpenError::IsFolder(target)));
        }
        let folder = target
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        if !folder.is_dir() {
            return Err(open(OpenError::NoFolder(folder.to_owned())));
        }
        if target.symlink_metadata().is_ok() && !overwrite {
            return Err(GetError::TargetExists(target));
        }
        let (data, journal) = (
            beside(&target, ".floodway"),
            beside(&target, ".floodway-journal"),
        );
        let lock = lock_journal(&journal, &target).map_err(open)?;
        // Whatever a store recorded is about to be overwritten.
        lock.set_len(0).map_err(failed("open", &journal))?;
        Ok(Self {
            target,
            data,
            journal,
            _lock: lock,
        })
    }

    fn begin(&self) -> Result<File, GetError> {
        File::create(&self.data).map_err(self.failed("create"))
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> GetError + use<> {
        failed(action, &self.data)
    }

    fn finish(self, overwrite: bool) -> Result<PathBuf, GetError> {
        let failed = self.failed("rename");
        if overwrite {
            std::fs::rename(&self.data, &self.target).map_err(&failed)?;
        } else {
            rename_new(&self.data, &self.target).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => GetError::TargetExists(self.target.clone()),
                _ => failed(error),
            })?;
        }
        if let Some(folder) = self
            .target
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(&failed)?;
        }
        Ok(std::path::absolute(&self.target).unwrap_or_else(|_| self.target.clone()))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is only room on the disk; a later run of the same command takes it over.
        let _ = std::fs::remove_file(&self.data);
        let _ = std::fs::remove_file(&self.journal);
    }
}

/// Renames unless the name is taken.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that flag: a link never replaces.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        result => Ok(result?),
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> GetError + use<> {
    let path = path.to_owned();
    move |source| GetError::File {
        action,
        path: path.clone(),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn the_target_appears_whole_and_never_replaces_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        let place = Unfinished::lock(target.clone(), false).unwrap();
        let second = Unfinished::lock(target.clone(), false).err().unwrap();
        assert!(second.to_string().contains("another process"), "{second}");
        place.begin().unwrap().write_all(b"new").unwrap();
        std::fs::write(&target, b"old").unwrap();
        assert!(matches!(
            place.finish(false),
            Err(GetError::TargetExists(_))
        ));
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(
            Unfinished::lock(target.clone(), false),
            Err(GetError::TargetExists(_))
        ));
        let place = Unfinished::lock(target.clone(), true).unwrap();
        place.begin().unwrap().write_all(b"new").unwrap();
        assert_eq!(place.finish(true).unwrap(), target);
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_nobody_can_go_on_with_does_not_stay() {
        let folder = tempfile::tempdir().unwrap();
        let place = Unfinished::lock(folder.path().join("f"), false).unwrap();
        place.begin().unwrap().write_all(b"new").unwrap();
        // As when the task that downloads is aborted.
        drop(place);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn whoever_has_the_lock_has_the_file_that_others_would_lock() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("f");
        let holders = AtomicUsize::new(0);
        // Each removes the journal with its lock, while others may have opened it and not locked it yet.
        let take_and_drop = || {
            for _ in 0..5000 {
                let Ok(place) = Unfinished::lock(target.clone(), false) else {
                    continue;
                };
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                std::thread::yield_now();
                holders.fetch_sub(1, Ordering::SeqCst);
                drop(place);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(take_and_drop);
            }
        });
    }

    #[test]
    fn folders_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: PathBuf| Unfinished::lock(path, false).err().unwrap();
        assert_eq!(error(folder.path().to_owned()).exit_code(), 2);
        assert_eq!(error(folder.path().join("no/f")).exit_code(), 2);
    }
}
