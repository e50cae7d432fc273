//! The thread that writes: data first, then the journal; syncs beside the writing; and gives the final name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use floodway_proto::digest::PieceDigest;
use floodway_proto::{BlockId, PieceIndex, Sha256};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::files::sync_folder;
use crate::journal::{Journal, Record, folder_of};
use crate::linear::{LinearHandle, LinearInput};
use crate::open;
use crate::shared::{GiveUp, PieceData, Shared};
use crate::spec::{Event, FileStamp};
use crate::verifier::{Input, Reply};

/// Written bytes are synced when there are this many of them ..
const SYNC_BYTES: u64 = 256 << 20;
/// .. or the oldest are this old: what a restart after `kill -9` has to hash again.
const SYNC_AGE: Duration = Duration::from_secs(5);

pub(crate) enum Job {
    /// Blocks to write, and what was computed of the piece if it is whole.
    Write {
        data: Arc<PieceData>,
        digest: PieceDigest,
    },
    /// What was recorded of the piece holds no more.
    Drop(PieceIndex),
    /// Makes all that was written durable.
    Sync(Reply),
    /// All pieces are written: give the file its final name.
    Finish { sha256: Option<Sha256> },
    /// Ends the thread.
    Stop,
}

/// Where a content lies while it is unfinished, and afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) target: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) journal: PathBuf,
    /// A folder that is being replaced, for a moment.
    pub(crate) old: PathBuf,
    /// Replace what has the target's name.
    pub(crate) overwrite: bool,
}

/// The journal, and which pieces it calls written but not synced.
pub(crate) struct Ledger {
    /// `None` once the file is finished.
    journal: Option<Journal>,
    unsynced: BTreeSet<PieceIndex>,
    unsynced_bytes: u64,
    unsynced_since: Instant,
    /// Pieces that the sync under way covers.
    syncing: BTreeSet<PieceIndex>,
    /// Set when the disk failed to sync: what is in the page cache may not be what was written.
    is_damaged: bool,
}

impl Ledger {
    pub(crate) fn new(journal: Journal, unsynced: BTreeSet<PieceIndex>) -> Self {
        Self {
            journal: Some(journal),
            unsynced,
            unsynced_bytes: 0,
            unsynced_since: Instant::now(),
            syncing: BTreeSet::new(),
            is_damaged: false,
        }
    }

    /// Gives up the journal, and with it the lock on the target. `None` when the file is finished.
    pub(crate) fn release(&mut self) -> Option<Journal> {
        self.journal.take()
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        match &mut self.journal {
            Some(journal) => journal.append(record),
            None => Ok(()),
        }
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    verifier: Sender<Input>,
    linear: Option<LinearHandle>,
    paths: Paths,
    ledger: Arc<Mutex<Ledger>>,
    syncer: Option<JoinHandle<Result<(), StoreError>>>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        verifier: Sender<Input>,
        linear: Option<LinearHandle>,
        paths: Paths,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Self {
        Self {
            shared,
            jobs,
            verifier,
            linear,
            paths,
            ledger,
            syncer: None,
        }
    }

    /// Works until the file is finished or the store is closed or dropped.
    pub(crate) fn run(mut self) {
        loop {
            let job = self.jobs.recv_timeout(SYNC_AGE);
            if self.shared.gate.is_stopped() {
                break;
            }
            let done = match job {
                Ok(Job::Write { data, digest }) => self.write(&data, digest),
                Ok(Job::Drop(piece)) => self.drop_piece(piece),
                Ok(Job::Sync(reply)) => {
                    let result = self.sync_now();
                    let _ = self.verifier.send(Input::Synced(reply, result));
                    Ok(())
                }
                Ok(Job::Finish { sha256 }) => match self.finish(sha256) {
                    Ok(true) => return,
                    Ok(false) => Ok(()),
                    Err(give_up) => Err(give_up),
                },
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            match done {
                Ok(()) => self.sync_beside(),
                Err(GiveUp::Stopped) => break,
                Err(GiveUp::Failed(error)) => {
                    self.refuse(error);
                    break;
                }
            }
        }
        if let Some(syncer) = self.syncer.take() {
            let _ = syncer.join();
        }
    }

    /// The store is being closed and the disk still refuses: tells whoever waits.
    fn refuse(&self, error: StoreError) {
        let mut error = Some(error);
        for job in &self.jobs {
            match job {
                Job::Sync(reply) => {
                    if let Some(error) = error.take() {
                        let _ = reply.send(Err(error));
                    }
                }
                Job::Stop => break,
                Job::Write { .. } | Job::Drop(_) | Job::Finish { .. } => {}
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Data first, then the record: a record never speaks of bytes that are not there.
    fn write(&self, data: &Arc<PieceData>, digest: PieceDigest) -> Result<(), GiveUp> {
        let piece = data.piece;
        let layout = self.shared.layout();
        let mut runs = Vec::new();
        for (index, buffers) in data.runs() {
            let offset = layout.block_bytes(BlockId { piece, index }).start;
            self.shared
                .persist(|| self.shared.files.write(offset, &buffers))?;
            runs.push((index, u32::try_from(buffers.len()).unwrap_or(u32::MAX)));
        }
        let record = if data.whole {
            Record::Written { piece, digest }
        } else {
            Record::Partial { piece, runs }
        };
        self.shared.persist(|| self.ledger().append(&record))?;
        if !data.whole {
            let _ = self.verifier.send(Input::Flushed(Arc::clone(data)));
            return Ok(());
        }
        if self.shared.mark_written(data) {
            let mut ledger = self.ledger();
            if ledger.unsynced.is_empty() {
                ledger.unsynced_since = Instant::now();
                ledger.unsynced_bytes = 0;
            }
            ledger.unsynced.insert(piece);
            ledger.unsynced_bytes += u64::from(layout.piece_size(piece));
            drop(ledger);
            self.shared.emit(Event::Written { piece });
            if let Some(linear) = &self.linear {
                linear.send(LinearInput::Written(piece));
            }
            let _ = self.verifier.send(Input::Written);
        }
        Ok(())
    }

    fn drop_piece(&self, piece: PieceIndex) -> Result<(), GiveUp> {
        self.shared.persist(|| {
            let mut ledger = self.ledger();
            ledger.unsynced.remove(&piece);
            ledger.syncing.remove(&piece);
            ledger.append(&Record::Dropped { piece })
        })
    }

    /// Starts a sync on a thread of its own when it is time, so that writing goes on.
    fn sync_beside(&mut self) {
        let ledger = self.ledger();
        let due = !ledger.unsynced.is_empty()
            && (ledger.unsynced_bytes >= SYNC_BYTES || ledger.unsynced_since.elapsed() >= SYNC_AGE);
        drop(ledger);
        let is_busy = self
            .syncer
            .as_ref()
            .is_some_and(|syncer| !syncer.is_finished());
        if is_busy {
            return;
        }
        self.join_syncer();
        if due {
            let (shared, ledger) = (Arc::clone(&self.shared), Arc::clone(&self.ledger));
            let syncer = thread::Builder::new()
                .name("store-sync".into())
                .spawn(move || sync(&shared, &ledger));
            self.syncer = syncer.ok();
        }
    }

    /// Waits for the sync under way, and says so when it failed.
    fn join_syncer(&mut self) {
        let result = self.syncer.take().map(JoinHandle::join);
        match result {
            // Only the journal lacks room; it is tried again.
            Some(Ok(Err(error))) if error.is_retryable() => {
                tracing::warn!(%error, "what was written is not called synced yet");
            }
            Some(Ok(Err(error))) => {
                let retryable = false;
                self.shared.emit(Event::Failed { error, retryable });
            }
            Some(Ok(Ok(())) | Err(_)) | None => {}
        }
    }

    fn sync_now(&mut self) -> Result<(), StoreError> {
        self.join_syncer();
        sync(&self.shared, &self.ledger)
    }

    /// Gives the file its final name. False when that is impossible, which was told.
    fn finish(&mut self, sha256: Option<Sha256>) -> Result<bool, GiveUp> {
        let shared = Arc::clone(&self.shared);
        let outcome = shared.persist(|| match self.try_finish() {
            Err(error) if error.is_retryable() => Err(error),
            outcome => Ok(outcome),
        })?;
        let stamp = match outcome {
            Ok(stamp) => stamp,
            Err(error) => {
                let retryable = false;
                shared.emit(Event::Failed { error, retryable });
                return Ok(false);
            }
        };
        let _ = self.verifier.send(Input::Finished);
        if let Some(linear) = &self.linear {
            linear.send(LinearInput::Stop);
        }
        shared.emit(Event::Finished {
            path: self.paths.target.clone(),
            sha256,
            stamp,
        });
        Ok(true)
    }

    /// Makes everything durable, then renames, then removes the journal.
    fn try_finish(&mut self) -> Result<FileStamp, StoreError> {
        let Paths { target, data, .. } = &self.paths;
        let (target, data) = (target.clone(), data.clone());
        let is_folder = self.shared.layout().files().is_some();
        if let Some(length) = self.shared.late_length() {
            // What was written beyond was none of the content.
            self.shared.files.end(length)?;
        }
        self.sync_now()?;
        self.shared.files.sync_names()?;
        let handle = {
            let mut ledger = self.ledger();
            ledger.append(&Record::Finishing)?;
            ledger.journal.as_ref().map(Journal::handle).transpose()?
        };
        if let Some(handle) = handle {
            handle.sync()?;
        }
        let unnamed = |error| StoreError::new(&target, "give the finished file its name", error);
        if is_folder && self.paths.overwrite && target.symlink_metadata().is_ok() {
            // A folder cannot take the place of another in one step. After a crash in between the unfinished data is there,
            // and is finished again.
            rename(&target, &self.paths.old, false).map_err(unnamed)?;
        }
        rename(&data, &target, self.paths.overwrite && !is_folder).map_err(unnamed)?;
        sync_folder(folder_of(&target))?;
        if is_folder {
            open::remove(&self.paths.old)?;
        }
        let journal = self.ledger().release();
        if let Some(Err(error)) = journal.map(Journal::remove) {
            // The next start finds that the file is finished, and tries again.
            tracing::warn!(%error, "the file is finished, but its journal remains");
        }
        FileStamp::of(&target, self.shared.layout())
    }
}

pub(crate) fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Data to the disk, then the record that says so, then the record to the disk.
///
/// When the data cannot be synced its pages may be lost although the system calls them clean, and the next sync says
/// nothing of it: these pieces are never called synced, the file is not finished, and a restart hashes them.
fn sync(shared: &Shared, ledger: &Mutex<Ledger>) -> Result<(), StoreError> {
    {
        let mut ledger = lock(ledger);
        if ledger.is_damaged {
            let source = Errno::IO;
            return Err(StoreError::new(shared.files.path(), "sync", source));
        }
        ledger.syncing = std::mem::take(&mut ledger.unsynced);
        ledger.unsynced_bytes = 0;
    }
    shared
        .files
        .sync()
        .inspect_err(|_| lock(ledger).is_damaged = true)?;
    let handle = {
        let mut ledger = lock(ledger);
        // Without those that were dropped meanwhile.
        let pieces = std::mem::take(&mut ledger.syncing);
        if let Err(error) = ledger.append(&Record::synced(pieces.iter().copied())) {
            ledger.unsynced.extend(pieces);
            ledger.unsynced_since = Instant::now();
            return Err(error);
        }
        ledger.journal.as_ref().map(Journal::handle).transpose()?
    };
    handle.map_or(Ok(()), |handle| handle.sync())
}

/// Renames `from` to `to`; unless told to overwrite fails with `EEXIST` when `to` is there.
fn rename(from: &Path, to: &Path, overwrite: bool) -> Result<(), Errno> {
    let as_errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    if overwrite {
        return std::fs::rename(from, to).map_err(as_errno);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot: look first. Another process may still slip in between.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(Errno::EXIST);
            }
            std::fs::rename(from, to).map_err(as_errno)
        }
        result => result,
    }
}
