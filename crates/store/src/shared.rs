//! What all threads of a store see: the files, which pieces are held, and those still in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use floodway_proto::{Bitfield, Layout, PieceIndex};

use crate::error::{ReadError, StoreError};
use crate::files::FileMap;
use crate::spec::Event;

/// One block in memory.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Bytes,
    /// False when an earlier job is writing it already.
    pub(crate) write: bool,
}

/// Blocks of one piece on their way to the disk. Counts as buffered until the last holder drops it.
#[derive(Debug)]
pub(crate) struct PieceData {
    pub(crate) piece: PieceIndex,
    /// True when the piece is verified; false when blocks of an incomplete one are written early.
    pub(crate) whole: bool,
    /// By block index; `None`: on disk, or not here.
    pub(crate) blocks: Vec<Option<Block>>,
    buffered: Arc<AtomicU64>,
}

impl PieceData {
    pub(crate) fn new(
        piece: PieceIndex,
        whole: bool,
        blocks: Vec<Option<Block>>,
        shared: &Shared,
    ) -> Arc<Self> {
        let buffered = Arc::clone(&shared.buffered);
        Arc::new(Self {
            piece,
            whole,
            blocks,
            buffered,
        })
    }

    /// Bytes that this job writes.
    pub(crate) fn length(&self) -> u64 {
        let written = self.blocks.iter().flatten().filter(|block| block.write);
        written.map(|block| block.bytes.len() as u64).sum()
    }

    /// Bytes that are here, to be written or not.
    pub(crate) fn in_memory(&self) -> u64 {
        let blocks = self.blocks.iter().flatten();
        blocks.map(|block| block.bytes.len() as u64).sum()
    }

    /// True when no block is only on disk.
    pub(crate) fn is_in_memory(&self) -> bool {
        self.blocks.iter().all(Option::is_some)
    }

    /// The contiguous runs to write: the first block's index, and the blocks.
    pub(crate) fn runs(&self) -> Vec<(u32, Vec<Bytes>)> {
        let mut runs: Vec<(u32, Vec<Bytes>)> = Vec::new();
        let mut previous = None;
        for (index, block) in (0..).zip(&self.blocks) {
            let Some(block) = block.as_ref().filter(|block| block.write) else {
                continue;
            };
            if previous.is_none_or(|previous: u32| previous + 1 != index) {
                runs.push((index, Vec::new()));
            }
            previous = Some(index);
            if let Some((_, run)) = runs.last_mut() {
                run.push(block.bytes.clone());
            }
        }
        runs
    }
}

impl Drop for PieceData {
    fn drop(&mut self) {
        self.buffered.fetch_sub(self.length(), Ordering::Relaxed);
    }
}

/// State of one store, behind all its threads.
pub(crate) struct Shared {
    /// As it was when the store was opened.
    begun: Layout,
    /// As it is since the length is known, if that was not known from the start.
    ended: OnceLock<Layout>,
    pub(crate) files: FileMap,
    /// Bytes put and not yet written.
    pub(crate) buffered: Arc<AtomicU64>,
    pub(crate) gate: Gate,
    places: RwLock<Places>,
    events: Box<dyn Fn(Event) + Send + Sync>,
}

/// Where the verified pieces are: each on disk or in memory, never both.
struct Places {
    on_disk: Bitfield,
    memory: HashMap<PieceIndex, Arc<PieceData>>,
}

impl Shared {
    /// The state of a store that has these pieces on disk.
    pub(crate) fn new(
        layout: Layout,
        files: FileMap,
        on_disk: Bitfield,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let memory = HashMap::new();
        Arc::new(Self {
            begun: layout,
            ended: OnceLock::new(),
            files,
            buffered: Arc::default(),
            gate: Gate::default(),
            places: RwLock::new(Places { on_disk, memory }),
            events: Box::new(events),
        })
    }

    /// Pieces and blocks, as far as known now.
    pub(crate) fn layout(&self) -> &Layout {
        self.ended.get().unwrap_or(&self.begun)
    }

    /// The length, if it became known only after the store was opened.
    pub(crate) fn late_length(&self) -> Option<u64> {
        self.ended.get()?.length()
    }

    /// The content turned out to end here. False when that was known before, or more than this is held.
    pub(crate) fn end(&self, length: u64) -> bool {
        if self.layout().length().is_some() {
            return false;
        }
        let Ok(ended) = self.begun.ended(length) else {
            return false;
        };
        self.with_places(|places| {
            places.on_disk.truncate(ended.piece_count());
            places
                .memory
                .retain(|&piece, _| ended.piece(piece.0).is_some());
            // In the lock: nothing beyond the end is held any more.
            self.ended.set(ended).is_ok()
        })
    }

    pub(crate) fn emit(&self, event: Event) {
        (self.events)(event);
    }

    fn with_places<T>(&self, change: impl FnOnce(&mut Places) -> T) -> T {
        change(&mut self.places.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self, piece: PieceIndex) -> bool {
        let places = self.places();
        places.on_disk.get(piece.0) || places.memory.contains_key(&piece)
    }

    /// All verified pieces.
    pub(crate) fn held(&self) -> Bitfield {
        let places = self.places();
        let mut held = places.on_disk.clone();
        for piece in places.memory.keys() {
            held.set(piece.0);
        }
        held
    }

    /// True when every piece is in the file, which nobody can tell before the length is known.
    pub(crate) fn is_all_on_disk(&self) -> bool {
        self.layout().length().is_some() && self.places().on_disk.is_full()
    }

    /// A piece was verified: it can be read from now on, unless the content turned out to end before it.
    pub(crate) fn hold(&self, data: &Arc<PieceData>) {
        self.with_places(|places| {
            if self.layout().piece(data.piece.0).is_some() {
                places.memory.insert(data.piece, Arc::clone(data));
            }
        });
    }

    /// A piece was found bad: it cannot be read any more.
    pub(crate) fn unhold(&self, piece: PieceIndex) {
        self.with_places(|places| {
            places.memory.remove(&piece);
            places.on_disk.clear(piece.0);
        });
    }

    /// The piece's bytes are in the file. False when the piece was dropped meanwhile (and perhaps fetched anew).
    pub(crate) fn mark_written(&self, data: &Arc<PieceData>) -> bool {
        self.with_places(|places| {
            let current = places.memory.get(&data.piece);
            let is_current = current.is_some_and(|current| Arc::ptr_eq(current, data));
            if is_current {
                places.memory.remove(&data.piece);
                places.on_disk.set(data.piece.0);
            }
            is_current
        })
    }

    /// Fills `out` with the content's bytes from `range.start` on, from memory or the file.
    pub(crate) fn read(&self, range: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        if range.end.checked_sub(range.start) != Some(out.len() as u64) {
            return Err(out_of(&range));
        }
        let mut rest = out;
        for (part, data) in self.locate(range)? {
            let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_mut(length);
            rest = later;
            match data {
                Some(data) => self.read_memory(&data, part.start, now)?,
                None => self.files.read(part.start, now)?,
            }
        }
        Ok(())
    }

    /// Cuts `range` where bytes move between memory and the file.
    fn locate(&self, range: Range<u64>) -> Result<Vec<Located>, ReadError> {
        let places = self.places();
        // The end cannot become known while the places are locked.
        let layout = self.layout();
        if range.end > layout.limit() {
            return Err(out_of(&range));
        }
        let mut parts: Vec<Located> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let piece = layout.piece_at(at).ok_or_else(|| out_of(&range))?;
            let end = layout.piece_bytes(piece).end.min(range.end);
            let data = places.memory.get(&piece);
            if data.is_none() && !places.on_disk.get(piece.0) {
                return Err(ReadError::NotHeld(piece));
            }
            match (parts.last_mut(), data) {
                (Some((part, None)), None) => part.end = end,
                (_, data) => parts.push((at..end, data.cloned())),
            }
            at = end;
        }
        Ok(parts)
    }

    /// Reads a part of a piece in memory, of which some blocks may be on disk already.
    fn read_memory(&self, data: &PieceData, start: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let mut within = start - self.layout().piece_offset(data.piece);
        let mut rest = out;
        while !rest.is_empty() {
            let block_length = u64::from(self.layout().block_length());
            let index = usize::try_from(within / block_length).unwrap_or(usize::MAX);
            let skip = usize::try_from(within % block_length).unwrap_or(usize::MAX);
            let room = self.layout().block_length() as usize - skip;
            let (now, later) = rest.split_at_mut(rest.len().min(room));
            rest = later;
            if let Some(Some(block)) = data.blocks.get(index) {
                now.copy_from_slice(&block.bytes[skip..skip + now.len()]);
            } else {
                let offset = self.layout().piece_offset(data.piece) + within;
                self.files.read(offset, now)?;
            }
            within += now.len() as u64;
        }
        Ok(())
    }

    /// Tries until it works: on failure says so and waits for [`Gate::retry`].
    pub(crate) fn persist<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, GiveUp> {
        loop {
            let seen = self.gate.lock().retries;
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if self.gate.is_stopped() {
                return Err(GiveUp::Stopped);
            }
            if self.gate.lock().closing {
                return Err(GiveUp::Failed(error));
            }
            let retryable = true;
            self.emit(Event::Failed { error, retryable });
            self.gate.wait(seen);
        }
    }
}

fn out_of(range: &Range<u64>) -> ReadError {
    ReadError::OutOfRange {
        start: range.start,
        end: range.end,
    }
}

/// Bytes of the content; in the file if `None`.
type Located = (Range<u64>, Option<Arc<PieceData>>);

/// Why a thread ends before its work is done.
#[derive(Debug)]
pub(crate) enum GiveUp {
    /// The store was dropped.
    Stopped,
    /// The store is being closed, and the disk still refuses.
    Failed(StoreError),
}

/// Where threads wait after the disk refused.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Set when the store is dropped: every thread ends as soon as it can.
    stop: AtomicBool,
}

#[derive(Default)]
struct GateState {
    retries: u64,
    closing: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets waiting threads try again.
    pub(crate) fn retry(&self) {
        self.lock().retries += 1;
        self.changed.notify_all();
    }

    /// From now on a failure is final.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Under the lock: a thread is either before its check of `stop`, or waiting already.
        drop(self.lock());
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits for a retry after the `seen`th, for closing or for the end.
    fn wait(&self, seen: u64) {
        let waiting =
            |state: &mut GateState| state.retries == seen && !state.closing && !self.is_stopped();
        drop(
            self.changed
                .wait_while(self.lock(), waiting)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_verified_after_the_end_became_known_is_not_held_beyond_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let layout = Layout::new(None, 1 << 16).unwrap();
        let (files, _) = FileMap::create(&path, &path, None, layout.limit()).unwrap();
        let on_disk = Bitfield::new(layout.piece_count());
        let shared = Shared::new(layout, files, on_disk, |_| ());
        let piece = |piece| PieceData::new(PieceIndex(piece), true, Vec::new(), &shared);
        shared.hold(&piece(5));
        assert!(shared.end(3 << 16));
        shared.hold(&piece(2));
        shared.hold(&piece(3));
        assert!(!shared.mark_written(&piece(3)));
        assert_eq!(shared.held().iter_ones().collect::<Vec<_>>(), [2]);
        assert!(!shared.holds(PieceIndex(5)) && !shared.holds(PieceIndex(3)));
    }
}
