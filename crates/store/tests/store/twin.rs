//! The store against its twin in memory, under random operations with closes and kills among them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use floodway_proto::units::ByteCount;
use floodway_proto::{BlockId, Layout, PieceIndex};
use floodway_store::{Hashes, Nodes, Opened, ReadError, Spec, Store};
use proptest::prelude::*;

use crate::common::{PIECE, Rig, content, layout, nodes, spec, v1};

const BLOCK: usize = 16 << 10;
const LENGTH: usize = 4 * PIECE as usize + BLOCK + 77;

#[derive(Clone, Debug)]
enum Op {
    /// A block arrives, right or wrong.
    Put {
        piece: u32,
        index: u32,
        is_right: bool,
    },
    /// All of a piece arrives.
    PutPiece {
        piece: u32,
        is_right: bool,
    },
    Forget {
        piece: u32,
    },
    /// What a piece must be becomes known.
    Learn {
        piece: u32,
    },
    Read {
        start: usize,
        length: usize,
    },
    /// Both must agree on everything.
    Check,
    Close,
    /// The process dies, and another starts.
    Kill,
}

fn op() -> impl Strategy<Value = Op> {
    let piece = 0..5_u32;
    prop_oneof![
        8 => (piece.clone(), 0..4_u32, prop::bool::weighted(0.9))
            .prop_map(|(piece, index, is_right)| Op::Put { piece, index, is_right }),
        4 => (piece.clone(), prop::bool::weighted(0.8))
            .prop_map(|(piece, is_right)| Op::PutPiece { piece, is_right }),
        1 => piece.clone().prop_map(|piece| Op::Forget { piece }),
        2 => piece.prop_map(|piece| Op::Learn { piece }),
        2 => (0..LENGTH, 0..LENGTH).prop_map(|(start, length)| Op::Read { start, length }),
        2 => Just(Op::Check),
        1 => Just(Op::Close),
        1 => Just(Op::Kill),
    ]
}

/// What the store should hold.
struct MemStore {
    layout: Layout,
    /// What pieces must be.
    truth: Vec<u8>,
    /// Of which pieces that is known; the others are accepted whatever they are.
    known: BTreeSet<u32>,
    blocks: BTreeMap<BlockId, Vec<u8>>,
    held: BTreeSet<u32>,
}

impl MemStore {
    /// True when the block made its piece bad.
    fn put(&mut self, block: BlockId, bytes: &[u8]) -> bool {
        let piece = block.piece;
        if self.held.contains(&piece.0) || self.blocks.contains_key(&block) {
            return false;
        }
        self.blocks.insert(block, bytes.to_vec());
        if self.blocks_of(piece).count() < self.layout.block_count(piece) as usize {
            return false;
        }
        if self.is_good(piece) {
            self.held.insert(piece.0);
            return false;
        }
        self.forget(piece);
        true
    }

    fn is_good(&self, piece: PieceIndex) -> bool {
        let blocks = self.blocks_of(piece);
        let bytes: Vec<u8> = blocks.flat_map(|(_, bytes)| bytes.clone()).collect();
        let range = self.layout.piece_bytes(piece);
        let truth = &self.truth[to_usize(range.start)..to_usize(range.end)];
        !self.known.contains(&piece.0) || truth == bytes
    }

    /// True when the piece was held and is wrong.
    fn learn(&mut self, piece: PieceIndex) -> bool {
        self.known.insert(piece.0);
        let is_wrong = self.held.contains(&piece.0) && !self.is_good(piece);
        if is_wrong {
            self.forget(piece);
        }
        is_wrong
    }

    fn blocks_of(&self, piece: PieceIndex) -> impl Iterator<Item = (&BlockId, &Vec<u8>)> {
        let id = |index| BlockId { piece, index };
        self.blocks.range(id(0)..=id(u32::MAX))
    }

    fn forget(&mut self, piece: PieceIndex) {
        self.held.remove(&piece.0);
        self.blocks.retain(|block, _| block.piece != piece);
    }

    fn read(&self, start: usize, length: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (block, bytes) in &self.blocks {
            let at = to_usize(self.layout.block_bytes(*block).start);
            let (from, to) = (start.max(at), (start + length).min(at + bytes.len()));
            if from < to && self.held.contains(&block.piece.0) {
                out.extend(&bytes[from - at..to - at]);
            }
        }
        (out.len() == length).then_some(out)
    }

    fn partial(&self) -> BTreeSet<BlockId> {
        let blocks = self.blocks.keys();
        blocks
            .filter(|block| !self.held.contains(&block.piece.0))
            .copied()
            .collect()
    }

    /// A kill may lose what was not yet written, and nothing else may change.
    fn kill(&mut self, opened: &Opened) -> Result<(), TestCaseError> {
        let found: BTreeSet<u32> = opened.have.iter_ones().collect();
        let partial = partial(opened);
        prop_assert!(found.is_subset(&self.held), "{found:?} of {:?}", self.held);
        let had = self.blocks.keys().copied().collect();
        prop_assert!(partial.is_subset(&had), "{partial:?} of {had:?}");
        self.held = found;
        let held = &self.held;
        self.blocks
            .retain(|block, _| held.contains(&block.piece.0) || partial.contains(block));
        Ok(())
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

fn partial(opened: &Opened) -> BTreeSet<BlockId> {
    let blocks = opened.partial.iter();
    blocks
        .flat_map(|(piece, blocks)| {
            let piece = *piece;
            blocks
                .iter_ones()
                .map(move |index| BlockId { piece, index })
        })
        .collect()
}

struct Pair {
    spec: Spec,
    disk: Option<Rig>,
    memory: MemStore,
    /// True when nothing was put since everything was made durable.
    is_flushed: bool,
    /// True when blocks were dropped since: a kill may bring them back, and the model does not say which.
    is_dropped: bool,
    right: Vec<u8>,
    wrong: Vec<u8>,
}

impl Pair {
    fn disk(&self) -> &Rig {
        self.disk.as_ref().expect("open")
    }

    fn store(&self) -> &Store {
        &self.disk().store
    }

    fn put(&mut self, piece: u32, index: u32, is_right: bool) {
        let piece = PieceIndex(piece);
        if index >= self.spec.layout.block_count(piece) {
            return;
        }
        let block = BlockId { piece, index };
        let range = self.spec.layout.block_bytes(block);
        let range = to_usize(range.start)..to_usize(range.end);
        let bytes = &if is_right { &self.right } else { &self.wrong }[range];
        self.store().put(block, Bytes::copy_from_slice(bytes));
        self.is_dropped |= self.memory.put(block, bytes);
        self.is_flushed = false;
    }

    fn flush(&mut self) {
        self.store().flush().unwrap();
        self.is_flushed = true;
        self.is_dropped = false;
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.flush();
        let have: BTreeSet<u32> = self.store().have().iter_ones().collect();
        prop_assert_eq!(&have, &self.memory.held);
        if !self.spec.linear_digest {
            prop_assert_eq!(self.store().buffered(), 0);
        }
        for piece in have {
            let range = self.spec.layout.piece_bytes(PieceIndex(piece));
            self.read(to_usize(range.start), to_usize(range.end - range.start))?;
        }
        Ok(())
    }

    fn read(&self, start: usize, length: usize) -> Result<(), TestCaseError> {
        let mut out = vec![0; length];
        let range = start as u64..(start + length) as u64;
        let read = match self.store().read(range, &mut out) {
            Ok(()) => Some(out),
            Err(ReadError::NotHeld(_)) => None,
            Err(error) => panic!("{error}"),
        };
        if length > 0 {
            prop_assert!(
                read == self.memory.read(start, length),
                "at {start}+{length}"
            );
        }
        Ok(())
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Put {
                piece,
                index,
                is_right,
            } => self.put(piece, index, is_right),
            Op::PutPiece { piece, is_right } => {
                for index in 0..self.spec.layout.block_count(PieceIndex(piece)) {
                    self.put(piece, index, is_right);
                }
            }
            Op::Forget { piece } => {
                // Flushed, or a block that is still under way could complete the piece before it is forgotten.
                self.flush();
                self.store().forget(PieceIndex(piece));
                self.memory.forget(PieceIndex(piece));
                self.is_flushed = false;
                self.is_dropped = true;
            }
            Op::Learn { piece } => self.learn(PieceIndex(piece))?,
            Op::Read { start, length } => {
                self.flush();
                self.read(start, length.min(LENGTH - start))?;
            }
            Op::Check => self.check()?,
            Op::Close => {
                self.store().close().unwrap();
                self.is_flushed = true;
                self.is_dropped = false;
                self.reopen()?;
            }
            Op::Kill => {
                if self.is_dropped {
                    self.flush();
                }
                self.reopen()?;
            }
        }
        Ok(())
    }

    fn learn(&mut self, piece: PieceIndex) -> Result<(), TestCaseError> {
        let Hashes::Facts(known) = &mut self.spec.hashes else {
            return Ok(());
        };
        let node = nodes(&self.memory.truth, [piece.0]);
        // A later open knows it from the start.
        known.extend(node.clone());
        // Flushed, or a block still under way could be judged before or after.
        self.flush();
        // What was said of pieces before is no answer to this.
        while self.disk().events.try_recv().is_ok() {}
        let bad = self.disk().learn(node);
        let is_bad = self.memory.learn(piece);
        prop_assert_eq!(bad.contains(&piece.0), is_bad);
        self.is_dropped |= is_bad;
        self.is_flushed &= !is_bad;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), TestCaseError> {
        self.disk = None;
        let rig = Rig::open(self.spec.clone());
        prop_assert_eq!(rig.opened.note, None);
        if self.is_flushed {
            let found: BTreeSet<u32> = rig.opened.have.iter_ones().collect();
            prop_assert_eq!(&found, &self.memory.held);
            prop_assert_eq!(partial(&rig.opened), self.memory.partial());
        }
        self.memory.kill(&rig.opened)?;
        self.disk = Some(rig);
        // A piece of which every block was written, but that was not judged before the kill, is judged now.
        self.check_whole()
    }

    fn check_whole(&mut self) -> Result<(), TestCaseError> {
        let blocks = std::mem::take(&mut self.memory.blocks);
        let held = std::mem::take(&mut self.memory.held);
        for (block, bytes) in blocks {
            self.memory.put(block, &bytes);
        }
        prop_assert!(held.is_subset(&self.memory.held));
        self.check()
    }

    /// Whatever happened, the rest can be fetched and the file finished.
    fn finish(mut self) -> Result<(), TestCaseError> {
        self.flush();
        for piece in self.spec.layout.pieces() {
            if !self.memory.held.contains(&piece.0) {
                self.store().forget(piece);
                self.memory.forget(piece);
                self.apply(&Op::PutPiece {
                    piece: piece.0,
                    is_right: true,
                })?;
            }
        }
        self.store().finish();
        let (path, _) = self.disk().finished();
        prop_assert!(Some(std::fs::read(path).unwrap()) == self.memory.read(0, LENGTH));
        self.read(0, LENGTH)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_disk_store_agrees_with_the_memory_store(
        ops in prop::collection::vec(op(), 0..48),
        mode in 0..3_usize,
        linear_digest: bool,
        is_tight: bool,
    ) {
        let (right, wrong) = (content(LENGTH, 1), content(LENGTH, 2));
        let hashes = [v1(&right), Hashes::Facts(Nodes::new()), Hashes::Unknown][mode].clone();
        let pieces = layout(&right).pieces().map(|piece| piece.0);
        let folder = tempfile::tempdir().unwrap();
        let mut spec = spec(&folder.path().join("file"), &right, hashes);
        spec.linear_digest = linear_digest;
        spec.buffer_limit = ByteCount::kib(if is_tight { 64 } else { 1024 });
        let mut pair = Pair {
            disk: Some(Rig::open(spec.clone())),
            memory: MemStore {
                layout: layout(&right),
                truth: right.clone(),
                known: pieces.filter(|_| mode == 0).collect(),
                blocks: BTreeMap::new(),
                held: BTreeSet::new(),
            },
            spec,
            is_flushed: false,
            is_dropped: false,
            right,
            wrong,
        };
        for op in &ops {
            pair.apply(op).map_err(|error| TestCaseError::fail(format!("at {op:?}: {error}")))?;
        }
        pair.finish()?;
    }
}
