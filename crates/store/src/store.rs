//! The store itself: its threads, and what others call.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam_channel::{Sender, bounded, unbounded};
use floodway_proto::{Bitfield, BlockId, Layout, PieceIndex};

use crate::error::{OpenError, ReadError, StoreError};
use crate::files::{FileMap, Missing};
use crate::hashing::{agrees, digest_pieces};
use crate::linear::{Linear, LinearHandle};
use crate::open::{self, Found, check_count, checked_length};
use crate::shared::Shared;
use crate::spec::{Event, FileStamp, Hashes, Nodes, Opened, Spec};
use crate::verifier::{Input, Start, Verifier};
use crate::writer::{self, Ledger, Paths, Writer};

/// The bytes of one content on disk. See the [crate] for how it works.
///
/// All methods may be called from any thread. Dropping it stops its threads at once, as a crash would, but for the
/// blocks in memory nothing is lost; [`Store::close`] loses nothing at all.
pub struct Store {
    shared: Arc<Shared>,
    /// `None` for a store that only reads.
    verifier: Option<Sender<Input>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Where unfinished data lies, and its journal; `None` when the file had its final name from the start.
    unfinished: Option<(Paths, Arc<Mutex<Ledger>>)>,
}

impl Store {
    /// Opens or creates the store of `spec`, taking the lock on its target.
    ///
    /// Pieces called synced by the journal are trusted; those only written are hashed before this returns, on all
    /// cores. So is a file that has the target's name already, when its hashes are known. Not for an async thread.
    /// `events` may be called before this returns.
    ///
    /// # Errors
    /// [`OpenError`]: nothing was changed, except that unfinished data of another content may be gone.
    pub fn open(
        spec: Spec,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<(Self, Opened), OpenError> {
        let Found {
            files,
            opened,
            unfinished,
        } = open::find(&spec)?;
        let shared = Shared::new(spec.layout.clone(), files, opened.have.clone(), events);
        let (verifier, inbox) = unbounded();
        let (jobs, job_queue) = unbounded();
        let unfinished = unfinished.map(|(paths, ledger)| (paths, Arc::new(Mutex::new(ledger))));
        let store = Self {
            shared: Arc::clone(&shared),
            verifier: Some(verifier.clone()),
            threads: Mutex::default(),
            unfinished: unfinished.clone(),
        };
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.into()).spawn(work);
            let thread = thread
                .map_err(|error| StoreError::new(&spec.target, "start a thread for", error))?;
            store.lock_threads().push(thread);
            Ok::<_, StoreError>(())
        };
        let linear: Option<LinearHandle> = if spec.linear_digest {
            let limit = spec.buffer_limit.0 / 4;
            let (linear, handle) = Linear::new(&shared, verifier.clone(), limit);
            start("store-digest", Box::new(move || linear.run()))?;
            Some(handle)
        } else {
            None
        };
        let finished = unfinished.is_none();
        if let Some((paths, ledger)) = unfinished {
            let linear = linear.clone();
            let shared = Arc::clone(&shared);
            let writer = Writer::new(shared, job_queue, verifier, linear, paths, ledger);
            start("store-write", Box::new(move || writer.run()))?;
        }
        let verifier = Verifier::new(Start {
            shared,
            inbox,
            jobs,
            linear,
            hashes: spec.hashes,
            buffer_limit: spec.buffer_limit.0,
            target: spec.target.clone(),
            partial: opened.partial.clone(),
            digests: opened.digests.clone(),
            finished,
        });
        start("store-verify", Box::new(move || verifier.run()))?;
        Ok((store, opened))
    }

    /// Opens a finished file to read from it. No thread, no event; what is put is ignored.
    ///
    /// Hashes the file on all cores, and tells `progress` the bytes of every piece done, unless `known` is the stamp
    /// that [`Event::Finished`] gave for it and it has not changed since. `have` says which pieces are good.
    ///
    /// # Errors
    /// [`OpenError`] when it cannot be read or has another length.
    pub fn seed(
        path: &Path,
        layout: Layout,
        hashes: &Hashes,
        known: Option<FileStamp>,
        progress: impl Fn(u64) + Sync,
    ) -> Result<(Self, Opened), OpenError> {
        let expected = checked_length(path, &layout, hashes)?;
        let files = open_finished(path, &layout, expected)?;
        let mut have = Bitfield::new(layout.piece_count());
        let mut digests = Vec::new();
        let collects = matches!(hashes, Hashes::Facts(_));
        if known.is_some() && known == Some(FileStamp::of(path, &layout)?) && !collects {
            have = Bitfield::full(layout.piece_count());
        } else {
            let pieces: Vec<PieceIndex> = layout.pieces().collect();
            let read = |at: u64, out: &mut [u8]| files.read(at, out);
            let computed = digest_pieces(&layout, hashes, &pieces, read, progress)?;
            for (piece, digest) in pieces.into_iter().zip(computed) {
                if agrees(&digest, hashes, &layout, piece) {
                    have.set(piece.0);
                    digests.push((piece, digest));
                }
            }
        }
        let resumed = have.iter_ones().map(PieceIndex);
        let resumed = resumed.map(|piece| u64::from(layout.piece_size(piece)));
        let opened = Opened {
            partial: Vec::new(),
            digests,
            complete: have.is_full(),
            resumed_bytes: resumed.sum(),
            note: None,
            have: have.clone(),
        };
        let store = Self {
            shared: Shared::new(layout, files, have, |_| ()),
            verifier: None,
            threads: Mutex::default(),
            unfinished: None,
        };
        Ok((store, opened))
    }

    /// Hands over one received block; never waits. A block that is here already, or is none of this content, is ignored.
    pub fn put(&self, block: BlockId, data: Bytes) {
        let layout = self.shared.layout();
        let exists = layout.piece(block.piece.0).is_some()
            && block.index < layout.block_count(block.piece)
            && layout.block_size(block) as usize == data.len();
        if !exists {
            tracing::warn!(?block, length = data.len(), "a block that does not exist");
            return;
        }
        let length = data.len() as u64;
        self.shared.buffered.fetch_add(length, Ordering::Relaxed);
        if !self.tell(Input::Block(block, data)) {
            self.shared.buffered.fetch_sub(length, Ordering::Relaxed);
        }
    }

    /// Reads the bytes of `range`, which must be as long as `out`, from memory or the file.
    ///
    /// # Errors
    /// [`ReadError`]: every piece that the range touches must be held.
    pub fn read(&self, range: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        self.shared.read(range, out)
    }

    /// Which pieces are held now.
    pub fn have(&self) -> Bitfield {
        self.shared.held()
    }

    /// Bytes put and not yet in the file. Above the spec's `buffer_limit` stop reading sockets.
    pub fn buffered(&self) -> u64 {
        self.shared.buffered.load(Ordering::Relaxed)
    }

    /// Tells the hashes of a store opened without. Pieces held are compared; those that differ are dropped, each with
    /// an [`Event::Piece`]. Anything but [`Hashes::V1`] is ignored: what is known is not forgotten.
    ///
    /// # Errors
    /// [`OpenError::HashCount`] unless there is one hash for each piece.
    pub fn set_hashes(&self, hashes: Hashes) -> Result<(), OpenError> {
        check_count(self.shared.layout(), &hashes)?;
        if matches!(hashes, Hashes::V1(_)) {
            self.tell(Input::Hashes(hashes));
        }
        Ok(())
    }

    /// Tells nodes of a store opened with [`Hashes::Facts`]; ignored by others. Pieces held are compared; those that differ
    /// are dropped, each with an [`Event::Piece`]. [`Event::Learnt`] follows: from then on the pieces can be verified.
    /// A node told twice changes nothing: facts are for good.
    pub fn learn(&self, nodes: Nodes) {
        self.tell(Input::Learn(nodes));
    }

    /// The content, whose length was not known, turned out to end here: its last piece is judged as soon as all blocks of that
    /// are here, and [`Event::Complete`] can follow. Ignored where the length is known already.
    pub fn end(&self, length: u64) {
        if self.shared.end(length) {
            self.tell(Input::End);
        }
    }

    /// Drops a piece, held or partial, that was found bad. No event. It can be put again unless the file is finished.
    pub fn forget(&self, piece: PieceIndex) {
        self.shared.unhold(piece);
        self.tell(Input::Forget(piece));
    }

    /// Allows the file to get its final name: at once if [`Event::Complete`] has come, else when it comes.
    /// [`Event::Finished`] follows. Wait for `Complete` first when its digest decides.
    pub fn finish(&self) {
        self.tell(Input::Finish);
    }

    /// Tries again after [`Event::Failed`].
    pub fn retry(&self) {
        self.shared.gate.retry();
    }

    /// Writes everything put so far, blocks of incomplete pieces too, and waits until it is durable and recorded.
    ///
    /// Waits for [`Store::retry`] while the disk refuses.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        let (reply, answer) = bounded(1);
        if !self.tell(Input::Flush(reply)) {
            return Ok(());
        }
        answer.recv().unwrap_or_else(|_| {
            // The writer ended on its own: at the finish, or because the disk refused while closing.
            if self.shared.is_all_on_disk() {
                return Ok(());
            }
            let source = std::io::Error::other("it is being closed");
            Err(StoreError::new(self.shared.files.path(), "write", source))
        })
    }

    /// Flushes and ends the threads; a later open finds everything. From now on the store only reads.
    ///
    /// # Errors
    /// [`StoreError`] when the disk refuses: blocks in memory are lost then, but nothing that was recorded.
    pub fn close(&self) -> Result<(), StoreError> {
        self.shared.gate.close();
        let result = self.flush();
        self.tell(Input::Stop);
        self.join();
        if let Some((_, ledger)) = &self.unfinished {
            // Ends the lock on the target.
            drop(writer::lock(ledger).release());
        }
        result
    }

    /// Closes the store and removes its unfinished data: the content is not wanted, or not what it should be.
    /// A finished file stays.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be removed.
    pub fn discard(self) -> Result<(), StoreError> {
        self.stop();
        let Some((paths, ledger)) = &self.unfinished else {
            return Ok(());
        };
        match writer::lock(ledger).release() {
            Some(journal) => {
                open::remove(&paths.data)?;
                journal.remove()
            }
            None => Ok(()),
        }
    }

    /// False when nobody listens any more.
    fn tell(&self, input: Input) -> bool {
        let verifier = self.verifier.as_ref();
        verifier.is_some_and(|verifier| verifier.send(input).is_ok())
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the threads at once.
    fn stop(&self) {
        self.shared.gate.stop();
        self.tell(Input::Stop);
        self.join();
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.lock_threads());
        for thread in threads {
            // A store dropped by its own event handler cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Opens a finished file or folder for reading.
fn open_finished(path: &Path, layout: &Layout, expected: u64) -> Result<FileMap, OpenError> {
    let missing = match layout.files() {
        Some(files) => match FileMap::open_folder(path, files) {
            Ok(files) => return Ok(files),
            Err(missing) => missing,
        },
        None => match FileMap::open(path)? {
            (files, found) if found == expected => return Ok(files),
            (_, found) => Missing::Length {
                path: path.to_owned(),
                found,
                expected,
            },
        },
    };
    Err(match missing {
        Missing::Refused(error) => error.into(),
        Missing::Length {
            path,
            found,
            expected,
        } => OpenError::WrongLength {
            path,
            found,
            expected,
        },
    })
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}
