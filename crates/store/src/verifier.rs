//! The thread that takes blocks, hashes pieces in order from memory, and judges them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use floodway_proto::digest::PieceDigest;
use floodway_proto::{Bitfield, BlockId, PieceIndex, Sha1, Sha256};

use crate::active::Active;
use crate::error::{ReadError, StoreError};
use crate::hashing::{NOTHING, agrees, digest_pieces};
use crate::linear::{LinearHandle, LinearInput};
use crate::shared::{GiveUp, PieceData, Shared};
use crate::spec::{Event, FileStamp, Hashes, Nodes, Verdict};
use crate::writer::Job;

/// Blocks of an incomplete piece are written after at most this long, so that a crash costs little.
const OLDEST_WAITING: Duration = Duration::from_secs(2);
/// How often the age of waiting blocks is looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long blocks gather while a stream is slower than this thread.
const GATHER: Duration = Duration::from_micros(200);
/// Messages handled before looking at memory and age.
const BATCH: usize = 64;

/// Who waits for the end of a flush.
pub(crate) type Reply = Sender<Result<(), StoreError>>;

pub(crate) enum Input {
    Block(BlockId, Bytes),
    /// Blocks of an incomplete piece are on disk.
    Flushed(Arc<PieceData>),
    /// A verified piece is on disk.
    Written,
    /// The digest of the whole file, as it was after the `epoch`th piece was dropped.
    Linear {
        epoch: u64,
        sha256: Sha256,
    },
    Hashes(Hashes),
    Learn(Nodes),
    /// The length is known since.
    End,
    Forget(PieceIndex),
    Finish,
    /// The file has its final name: nothing is written any more.
    Finished,
    /// Writes everything that is in memory and makes it durable.
    Flush(Reply),
    /// The writer did so; what it wrote before has been told.
    Synced(Reply, Result<(), StoreError>),
    /// Ends the threads.
    Stop,
}

/// State of the thread. Everything that changes which pieces are held goes through it, in order.
pub(crate) struct Verifier {
    shared: Arc<Shared>,
    inbox: Receiver<Input>,
    jobs: Sender<Job>,
    /// The thread of the linear digest, if it is wanted.
    linear: Option<LinearHandle>,
    hashes: Hashes,
    buffer_limit: u64,
    target: PathBuf,
    active: HashMap<PieceIndex, Active>,
    digests: BTreeMap<PieceIndex, PieceDigest>,
    bad_before: HashSet<PieceIndex>,
    /// Bytes in memory of incomplete pieces, not on their way to the disk.
    waiting: u64,
    /// How many pieces were dropped after they were verified.
    epoch: u64,
    sha256: Option<Sha256>,
    completed: bool,
    may_finish: bool,
    /// True when the file has its final name.
    finished: bool,
}

/// What a verifier starts with.
pub(crate) struct Start {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: Receiver<Input>,
    pub(crate) jobs: Sender<Job>,
    pub(crate) linear: Option<LinearHandle>,
    pub(crate) hashes: Hashes,
    pub(crate) buffer_limit: u64,
    pub(crate) target: PathBuf,
    pub(crate) partial: Vec<(PieceIndex, Bitfield)>,
    pub(crate) digests: Vec<(PieceIndex, PieceDigest)>,
    /// True when the file has its final name already.
    pub(crate) finished: bool,
}

impl Verifier {
    pub(crate) fn new(start: Start) -> Self {
        let active = start.partial.iter().map(|(piece, blocks)| {
            let active = Active::new(*piece, &start.shared, &start.hashes, Some(blocks));
            (*piece, active)
        });
        Self {
            active: active.collect(),
            shared: start.shared,
            inbox: start.inbox,
            jobs: start.jobs,
            linear: start.linear,
            hashes: start.hashes,
            buffer_limit: start.buffer_limit,
            target: start.target,
            digests: start.digests.into_iter().collect(),
            bad_before: HashSet::new(),
            waiting: 0,
            epoch: 0,
            sha256: None,
            completed: false,
            may_finish: false,
            finished: start.finished,
        }
    }

    /// Works until the store is closed or dropped.
    pub(crate) fn run(mut self) {
        if let Err(GiveUp::Failed(error)) = self.work() {
            tracing::error!(%error, "the store was closed while the disk refused");
        }
        let _ = self.jobs.send(Job::Stop);
        if let Some(linear) = &self.linear {
            linear.send(LinearInput::Stop);
        }
    }

    fn work(&mut self) -> Result<(), GiveUp> {
        let whole: Vec<PieceIndex> = self
            .active
            .iter()
            .filter(|(_, active)| active.is_whole())
            .map(|(&piece, _)| piece)
            .collect();
        for piece in whole {
            self.advance(piece)?;
        }
        self.check_complete()?;
        let mut tick = Instant::now();
        loop {
            let input = if self.waiting > 0 {
                self.inbox.recv_timeout(TICK)
            } else {
                self.inbox.recv().map_err(Into::into)
            };
            match input {
                Ok(input) => {
                    let more = self.inbox.clone();
                    for input in std::iter::once(input).chain(more.try_iter().take(BATCH)) {
                        if matches!(input, Input::Stop) || self.shared.gate.is_stopped() {
                            return Ok(());
                        }
                        self.handle(input)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.relieve();
            if self.inbox.is_empty() && self.waiting > 0 {
                // Waiting on the channel would make every block of a fast stream wake this thread, which costs more
                // than the block's own work; so let a few come together.
                thread::sleep(GATHER);
            }
            if tick.elapsed() >= TICK {
                tick = Instant::now();
                self.flush_old();
            }
        }
    }

    fn handle(&mut self, input: Input) -> Result<(), GiveUp> {
        match input {
            Input::Block(block, bytes) => self.put(block, bytes)?,
            Input::Flushed(data) => {
                if let Some(active) = self.active.get_mut(&data.piece) {
                    active.flushed(&data);
                }
            }
            Input::Written => self.check_complete()?,
            Input::Linear { epoch, sha256 } => {
                if epoch == self.epoch {
                    self.sha256 = Some(sha256);
                    self.check_complete()?;
                }
            }
            Input::Hashes(hashes) => self.set_hashes(hashes)?,
            Input::Learn(nodes) => self.learn(nodes),
            Input::End => self.end()?,
            Input::Forget(piece) => self.drop_piece(piece),
            Input::Finish => {
                self.may_finish = true;
                if self.completed {
                    self.finish()?;
                }
            }
            Input::Finished => self.finished = true,
            Input::Flush(reply) => {
                self.flush_all();
                if let Err(refused) = self.jobs.send(Job::Sync(reply))
                    && let Job::Sync(reply) = refused.into_inner()
                {
                    // The writer has ended: the file is finished, and all of it durable.
                    let _ = reply.send(Ok(()));
                }
            }
            Input::Synced(reply, result) => {
                let _ = reply.send(result);
            }
            Input::Stop => {}
        }
        Ok(())
    }

    fn put(&mut self, block: BlockId, bytes: Bytes) -> Result<(), GiveUp> {
        let piece = block.piece;
        let length = bytes.len() as u64;
        let taken = !self.finished && !self.shared.holds(piece) && {
            let (shared, hashes) = (&self.shared, &self.hashes);
            self.active
                .entry(piece)
                .or_insert_with(|| Active::new(piece, shared, hashes, None))
                .put(block.index, bytes)
        };
        if !taken {
            self.shared.buffered.fetch_sub(length, Ordering::Relaxed);
            return Ok(());
        }
        self.waiting += length;
        self.advance(piece)
    }

    /// Hashes on, and judges the piece when it is whole.
    fn advance(&mut self, piece: PieceIndex) -> Result<(), GiveUp> {
        let Some(active) = self.active.get_mut(&piece) else {
            return Ok(());
        };
        self.shared.persist(|| active.hash(&self.shared))?;
        if !active.is_whole() {
            return Ok(());
        }
        let digest = active.digest();
        let is_good = agrees(&digest, &self.hashes, self.shared.layout(), piece);
        let blocks = if !is_good || self.bad_before.contains(&piece) {
            self.shared.persist(|| active.block_digests(&self.shared))?
        } else {
            Vec::new()
        };
        if is_good {
            self.accept(piece, digest, blocks);
        } else {
            self.bad_before.insert(piece);
            self.drop_active(piece);
            let verdict = Verdict::Bad { blocks };
            self.shared.emit(Event::Piece { piece, verdict });
        }
        Ok(())
    }

    fn accept(&mut self, piece: PieceIndex, digest: PieceDigest, blocks: Vec<Sha1>) {
        let Some(active) = self.active.remove(&piece) else {
            return;
        };
        self.waiting -= active.waiting();
        let data = active.into_data(&self.shared);
        self.shared.hold(&data);
        self.digests.insert(piece, digest);
        let verdict = Verdict::Good { digest, blocks };
        self.shared.emit(Event::Piece { piece, verdict });
        if let Some(linear) = &self.linear {
            linear.offer(&data);
        }
        let _ = self.jobs.send(Job::Write { data, digest });
    }

    /// Discards the blocks of an incomplete piece.
    fn drop_active(&mut self, piece: PieceIndex) {
        let Some(active) = self.active.remove(&piece) else {
            return;
        };
        self.waiting -= active.waiting();
        self.shared
            .buffered
            .fetch_sub(active.waiting(), Ordering::Relaxed);
        if active.is_recorded() {
            let _ = self.jobs.send(Job::Drop(piece));
        }
    }

    /// Forgets a piece, held or not.
    fn drop_piece(&mut self, piece: PieceIndex) {
        self.drop_active(piece);
        self.digests.remove(&piece);
        self.shared.unhold(piece);
        let _ = self.jobs.send(Job::Drop(piece));
        self.epoch += 1;
        self.sha256 = None;
        self.completed = false;
        if let Some(linear) = &self.linear {
            let epoch = self.epoch;
            linear.send(LinearInput::Dropped { piece, epoch });
        }
    }

    /// Compares what is held with hashes that became known.
    fn set_hashes(&mut self, hashes: Hashes) -> Result<(), GiveUp> {
        self.hashes = hashes;
        let held: Vec<PieceIndex> = self.shared.held().iter_ones().map(PieceIndex).collect();
        let unhashed: Vec<PieceIndex> = held
            .iter()
            .copied()
            .filter(|piece| {
                self.digests
                    .get(piece)
                    .is_none_or(|digest| digest.sha1.is_none())
            })
            .collect();
        let computed = self.shared.persist(|| {
            let read =
                |at: u64, out: &mut [u8]| match self.shared.read(at..at + out.len() as u64, out) {
                    Ok(()) => Ok(()),
                    Err(ReadError::Io(error)) => Err(error),
                    // Dropped by its owner meanwhile: its digest does not matter any more.
                    Err(ReadError::NotHeld(_) | ReadError::OutOfRange { .. }) => Ok(()),
                };
            digest_pieces(self.shared.layout(), &self.hashes, &unhashed, read, |_| ())
        })?;
        self.digests.extend(unhashed.into_iter().zip(computed));
        self.compare(held);
        for active in self.active.values_mut() {
            active.rehash(&self.shared, &self.hashes);
        }
        Ok(())
    }

    /// The length is known since: the last piece has fewer blocks than it could have had, perhaps no more than are here.
    fn end(&mut self) -> Result<(), GiveUp> {
        for piece in self.active.keys().copied().collect::<Vec<_>>() {
            let (shared, hashes) = (&self.shared, &self.hashes);
            let active = self.active.get_mut(&piece);
            if active.is_some_and(|active| active.end(shared, hashes)) {
                self.advance(piece)?;
            } else {
                self.drop_active(piece);
            }
        }
        if let Some(linear) = &self.linear {
            let pieces = self.shared.layout().piece_count();
            linear.send(LinearInput::Ended { pieces });
        }
        self.check_complete()
    }

    /// Takes nodes that became known, and says so once they hold. Nothing is hashed: all digests are here.
    fn learn(&mut self, nodes: Nodes) {
        let Hashes::Facts(known) = &mut self.hashes else {
            return;
        };
        let pieces: Vec<PieceIndex> = nodes.keys().copied().collect();
        for (piece, node) in nodes {
            // What a relay attested may turn out to be false: then control's word takes its place.
            known.insert(piece, node);
        }
        let held = pieces.iter().copied();
        let held = held.filter(|&piece| self.shared.holds(piece)).collect();
        self.compare(held);
        self.shared.emit(Event::Learnt { pieces });
    }

    /// Drops those of the `held` pieces that are not what they must be.
    fn compare(&mut self, held: Vec<PieceIndex>) {
        for piece in held {
            let digest = self.digests.get(&piece).copied();
            if digest.is_some_and(|digest| !self.agrees(&digest, piece)) {
                self.bad_before.insert(piece);
                self.drop_piece(piece);
                let verdict = Verdict::Bad { blocks: Vec::new() };
                self.shared.emit(Event::Piece { piece, verdict });
            }
        }
    }

    fn agrees(&self, digest: &PieceDigest, piece: PieceIndex) -> bool {
        agrees(digest, &self.hashes, self.shared.layout(), piece)
    }

    fn check_complete(&mut self) -> Result<(), GiveUp> {
        let is_digested = self.linear.is_none() || self.sha256.is_some();
        if self.completed || !is_digested || !self.shared.is_all_on_disk() {
            return Ok(());
        }
        self.completed = true;
        let sha256 = self.sha256;
        self.shared.emit(Event::Complete { sha256 });
        if self.may_finish {
            self.finish()?;
        }
        Ok(())
    }

    /// Gives the complete file its final name, or says that it has it.
    fn finish(&self) -> Result<(), GiveUp> {
        let sha256 = self.sha256;
        if !self.finished {
            let _ = self.jobs.send(Job::Finish { sha256 });
            return Ok(());
        }
        let stamp = self
            .shared
            .persist(|| FileStamp::of(&self.target, self.shared.layout()))?;
        if let Some(linear) = &self.linear {
            linear.send(LinearInput::Stop);
        }
        let path = self.target.clone();
        self.shared.emit(Event::Finished {
            path,
            sha256,
            stamp,
        });
        Ok(())
    }

    fn flush(&mut self, piece: PieceIndex, only_hashed: bool) {
        let Some(active) = self.active.get_mut(&piece) else {
            return;
        };
        let before = active.waiting();
        if let Some(data) = active.flush(only_hashed, &self.shared) {
            self.waiting -= before - active.waiting();
            let digest = NOTHING;
            let _ = self.jobs.send(Job::Write { data, digest });
        }
    }

    /// Writes blocks of incomplete pieces early when memory runs short: first those that are hashed, most at once.
    fn relieve(&mut self) {
        if self.waiting <= self.buffer_limit / 2 {
            return;
        }
        for only_hashed in [true, false] {
            let amount = |active: &Active| {
                if only_hashed {
                    active.waiting_hashed()
                } else {
                    active.waiting()
                }
            };
            let mut pieces: Vec<(u64, PieceIndex)> = self
                .active
                .iter()
                .map(|(&piece, active)| (amount(active), piece))
                .collect();
            pieces.sort_unstable_by(|a, b| b.cmp(a));
            for (_, piece) in pieces {
                if self.waiting <= self.buffer_limit / 4 {
                    return;
                }
                self.flush(piece, only_hashed);
            }
        }
    }

    /// Writes what has waited too long.
    fn flush_old(&mut self) {
        let is_old =
            |active: &Active| active.waiting() > 0 && active.since().elapsed() >= OLDEST_WAITING;
        let old = self.active.iter().filter(|(_, active)| is_old(active));
        let old: Vec<PieceIndex> = old.map(|(&piece, _)| piece).collect();
        for piece in old {
            self.flush(piece, false);
        }
    }

    fn flush_all(&mut self) {
        let pieces: Vec<PieceIndex> = self.active.keys().copied().collect();
        for piece in pieces {
            self.flush(piece, false);
        }
    }
}
