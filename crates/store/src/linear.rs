//! The thread that computes the SHA-256 of the whole file, with a cursor that goes through the pieces in order.
//!
//! A piece that is verified when the cursor stands before it is hashed from memory; one that came earlier than its
//! turn is read back from the file, usually from the page cache, so that memory stays bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use floodway_proto::{Bitfield, PieceIndex, Sha256};
use sha2::Digest as _;

use crate::shared::{GiveUp, PieceData, Shared};
use crate::verifier::Input;

/// Bytes read back at once.
const CHUNK: usize = 1 << 20;

pub(crate) enum LinearInput {
    /// A verified piece that is wholly in memory.
    Verified(Arc<PieceData>),
    /// A verified piece is in the file.
    Written(PieceIndex),
    /// A piece is not held any more; the `epoch`th of them.
    Dropped { piece: PieceIndex, epoch: u64 },
    /// There are so many pieces: the length is known since.
    Ended { pieces: u32 },
    /// Ends the thread.
    Stop,
}

/// The way to the thread, and how much memory waits for it.
#[derive(Clone)]
pub(crate) struct LinearHandle {
    sender: Sender<LinearInput>,
    waiting: Arc<AtomicU64>,
    limit: u64,
}

impl LinearHandle {
    pub(crate) fn send(&self, input: LinearInput) {
        // When the thread has ended its result is not wanted any more.
        let _ = self.sender.send(input);
    }

    /// Offers a verified piece while it is in memory; does nothing when too much waits already, or a part is on disk.
    pub(crate) fn offer(&self, data: &Arc<PieceData>) {
        let length = data.in_memory();
        let fits = self.waiting.load(Ordering::Relaxed) + length <= self.limit;
        if fits && data.is_in_memory() {
            self.waiting.fetch_add(length, Ordering::Relaxed);
            self.send(LinearInput::Verified(Arc::clone(data)));
        }
    }
}

pub(crate) struct Linear {
    shared: Arc<Shared>,
    inbox: Receiver<LinearInput>,
    verifier: Sender<Input>,
    waiting: Arc<AtomicU64>,
    hasher: sha2::Sha256,
    /// The piece before which the cursor stands.
    next: u32,
    on_disk: Bitfield,
    /// Pieces in memory that come next or soon.
    memory: HashMap<u32, Arc<PieceData>>,
    /// How many pieces ahead of the cursor are kept in memory.
    window: u32,
    epoch: u64,
}

impl Linear {
    /// The thread's state, and the way to it. At most `limit` bytes wait in memory for it.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        verifier: Sender<Input>,
        limit: u64,
    ) -> (Self, LinearHandle) {
        let (sender, inbox) = unbounded();
        let waiting = Arc::new(AtomicU64::new(0));
        let window = limit / u64::from(shared.layout().piece_length());
        let linear = Self {
            inbox,
            verifier,
            waiting: Arc::clone(&waiting),
            hasher: sha2::Sha256::new(),
            next: 0,
            on_disk: shared.held(),
            memory: HashMap::new(),
            window: u32::try_from(window).unwrap_or(u32::MAX),
            epoch: 0,
            shared: Arc::clone(shared),
        };
        let handle = LinearHandle {
            sender,
            waiting,
            limit,
        };
        (linear, handle)
    }

    /// Works until the store is finished, closed or dropped.
    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; CHUNK];
        if self.is_done() {
            self.tell();
        }
        loop {
            let input = if self.is_ready() {
                self.inbox.try_recv()
            } else {
                self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
            };
            match input {
                Ok(LinearInput::Stop) | Err(TryRecvError::Disconnected) => return,
                Ok(LinearInput::Ended { pieces }) => {
                    self.on_disk.truncate(pieces);
                    if self.is_done() {
                        self.tell();
                    }
                }
                Ok(input) => self.handle(input),
                Err(TryRecvError::Empty) => {
                    if self.shared.gate.is_stopped() || self.advance(&mut buffer).is_err() {
                        return;
                    }
                    if self.is_done() {
                        self.tell();
                    }
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.next == self.on_disk.len()
    }

    fn is_ready(&self) -> bool {
        self.memory.contains_key(&self.next) || self.on_disk.get(self.next)
    }

    fn tell(&self) {
        let sha256 = Sha256(self.hasher.clone().finalize().into());
        let epoch = self.epoch;
        let _ = self.verifier.send(Input::Linear { epoch, sha256 });
    }

    fn handle(&mut self, input: LinearInput) {
        match input {
            LinearInput::Verified(data) => {
                let ahead = data.piece.0.checked_sub(self.next);
                let old = if ahead.is_some_and(|ahead| ahead <= self.window) {
                    self.memory.insert(data.piece.0, data)
                } else {
                    Some(data)
                };
                self.release(old);
            }
            LinearInput::Written(piece) => {
                self.on_disk.set(piece.0);
            }
            LinearInput::Dropped { piece, epoch } => {
                self.epoch = epoch;
                self.on_disk.clear(piece.0);
                let old = self.memory.remove(&piece.0);
                self.release(old);
                if piece.0 < self.next {
                    self.hasher = sha2::Sha256::new();
                    self.next = 0;
                }
            }
            LinearInput::Ended { .. } | LinearInput::Stop => {}
        }
    }

    fn release(&self, data: Option<Arc<PieceData>>) {
        if let Some(data) = data {
            self.waiting.fetch_sub(data.in_memory(), Ordering::Relaxed);
        }
    }

    /// Hashes the next piece, which is there.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<(), GiveUp> {
        if let Some(data) = self.memory.remove(&self.next) {
            for block in data.blocks.iter().flatten() {
                self.hasher.update(&block.bytes);
            }
            self.release(Some(data));
        } else {
            let bytes = self.shared.layout().piece_bytes(PieceIndex(self.next));
            let mut at = bytes.start;
            while at < bytes.end {
                let rest = usize::try_from(bytes.end - at).unwrap_or(usize::MAX);
                let chunk = &mut buffer[..rest.min(CHUNK)];
                self.shared.persist(|| self.shared.files.read(at, chunk))?;
                self.hasher.update(&*chunk);
                at += chunk.len() as u64;
            }
        }
        self.next += 1;
        Ok(())
    }
}
