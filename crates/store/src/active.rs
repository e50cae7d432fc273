//! A piece of which some blocks are here: hashed in order, in memory or on disk.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use floodway_proto::digest::{PieceDigest, PieceDigester, sha1};
use floodway_proto::{Bitfield, BlockId, PieceIndex, Sha1};

use crate::error::StoreError;
use crate::hashing::digester;
use crate::shared::{Block, PieceData, Shared};
use crate::spec::Hashes;

enum Slot {
    Missing,
    Memory(Bytes),
    /// In memory, and on its way to the disk.
    Flushing(Bytes),
    Disk,
}

/// The blocks of one piece that is not verified yet, and how far they are hashed.
pub(crate) struct Active {
    piece: PieceIndex,
    slots: Vec<Slot>,
    missing: usize,
    digester: PieceDigester,
    /// Blocks that went into `digester`: always the first ones.
    hashed: usize,
    /// Bytes in memory and not on their way to the disk.
    waiting: u64,
    /// Since when `waiting` is not 0.
    since: Instant,
}

impl Active {
    /// A piece of which the blocks `on_disk` are there already.
    pub(crate) fn new(
        piece: PieceIndex,
        shared: &Shared,
        hashes: &Hashes,
        on_disk: Option<&Bitfield>,
    ) -> Self {
        let on_disk = |index| on_disk.is_some_and(|blocks| blocks.get(index));
        let slots: Vec<Slot> = (0..shared.layout().block_count(piece))
            .map(|index| {
                if on_disk(index) {
                    Slot::Disk
                } else {
                    Slot::Missing
                }
            })
            .collect();
        let missing = slots.iter().filter(|slot| matches!(slot, Slot::Missing));
        Self {
            piece,
            missing: missing.count(),
            slots,
            digester: digester(hashes, shared.layout(), piece),
            hashed: 0,
            waiting: 0,
            since: Instant::now(),
        }
    }

    /// True when no block is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// Bytes in memory and not on their way to the disk.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Since when the oldest of `waiting` waits.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Takes a block. False when it is here already.
    pub(crate) fn put(&mut self, index: u32, bytes: Bytes) -> bool {
        let Some(slot @ Slot::Missing) = self.slots.get_mut(index as usize) else {
            return false;
        };
        if self.waiting == 0 {
            self.since = Instant::now();
        }
        self.waiting += bytes.len() as u64;
        self.missing -= 1;
        *slot = Slot::Memory(bytes);
        true
    }

    /// Hashes on, up to the first missing block; blocks that were written before they were hashed are read back.
    pub(crate) fn hash(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let mut buffer = Vec::new();
        while let Some(slot) = self.slots.get(self.hashed) {
            match slot {
                Slot::Missing => break,
                Slot::Memory(bytes) | Slot::Flushing(bytes) => self.digester.update(bytes),
                Slot::Disk => {
                    self.read_block(self.hashed, shared, &mut buffer)?;
                    self.digester.update(&buffer);
                }
            }
            self.hashed += 1;
        }
        Ok(())
    }

    /// The content's end became known: leaves out the blocks that the piece has not got after all. False when there is no such
    /// piece, or blocks came that it cannot have.
    pub(crate) fn end(&mut self, shared: &Shared, hashes: &Hashes) -> bool {
        let layout = shared.layout();
        let count = layout.block_count(self.piece) as usize;
        let fits = |(slot, index): (&Slot, u32)| match slot {
            Slot::Missing => true,
            Slot::Memory(bytes) | Slot::Flushing(bytes) => {
                let piece = self.piece;
                layout.block_size(BlockId { piece, index }) as usize == bytes.len()
            }
            Slot::Disk => (index as usize) < count,
        };
        if layout.piece(self.piece.0).is_none() || !self.slots.iter().zip(0..).all(fits) {
            return false;
        }
        if count < self.slots.len() {
            self.missing -= self.slots.len() - count;
            self.slots.truncate(count);
            self.rehash(shared, hashes);
        }
        true
    }

    /// Begins hashing anew: other hashes are wanted.
    pub(crate) fn rehash(&mut self, shared: &Shared, hashes: &Hashes) {
        self.digester = digester(hashes, shared.layout(), self.piece);
        self.hashed = 0;
    }

    fn read_block(
        &self,
        index: usize,
        shared: &Shared,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let block = BlockId {
            piece: self.piece,
            index,
        };
        buffer.resize(shared.layout().block_size(block) as usize, 0);
        shared
            .files
            .read(shared.layout().block_bytes(block).start, buffer)
    }

    /// What the hashed blocks give; meaningful once all are hashed.
    pub(crate) fn digest(&self) -> PieceDigest {
        self.digester.clone().finish()
    }

    /// The SHA-1 of every block of a whole piece.
    pub(crate) fn block_digests(&self, shared: &Shared) -> Result<Vec<Sha1>, StoreError> {
        let mut buffer = Vec::new();
        let mut digests = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            digests.push(match slot {
                Slot::Memory(bytes) | Slot::Flushing(bytes) => sha1(bytes),
                Slot::Disk | Slot::Missing => {
                    self.read_block(index, shared, &mut buffer)?;
                    sha1(&buffer)
                }
            });
        }
        Ok(digests)
    }

    /// True when some blocks are on disk or on their way, so that the journal knows of this piece.
    pub(crate) fn is_recorded(&self) -> bool {
        let recorded = |slot: &Slot| matches!(slot, Slot::Flushing(_) | Slot::Disk);
        self.slots.iter().any(recorded)
    }

    /// The blocks of a verified piece, to be held and written.
    pub(crate) fn into_data(self, shared: &Shared) -> Arc<PieceData> {
        let blocks = self.slots.into_iter().map(|slot| match slot {
            Slot::Missing | Slot::Disk => None,
            Slot::Memory(bytes) => Some(Block { bytes, write: true }),
            Slot::Flushing(bytes) => Some(Block {
                bytes,
                write: false,
            }),
        });
        PieceData::new(self.piece, true, blocks.collect(), shared)
    }

    /// Bytes in memory that are hashed: writing these early costs no reading back.
    pub(crate) fn waiting_hashed(&self) -> u64 {
        let hashed = self.slots.iter().take(self.hashed);
        let lengths = hashed.map(|slot| match slot {
            Slot::Memory(bytes) => bytes.len() as u64,
            Slot::Missing | Slot::Flushing(_) | Slot::Disk => 0,
        });
        lengths.sum()
    }

    /// Blocks to write early, from now on on their way: those hashed, or all. `None` if there are none.
    pub(crate) fn flush(&mut self, only_hashed: bool, shared: &Shared) -> Option<Arc<PieceData>> {
        let count = if only_hashed {
            self.hashed
        } else {
            self.slots.len()
        };
        let mut blocks = vec![None; self.slots.len()];
        let mut length = 0;
        for (slot, block) in self.slots.iter_mut().zip(&mut blocks).take(count) {
            let Slot::Memory(bytes) = slot else { continue };
            let bytes = std::mem::take(bytes);
            length += bytes.len() as u64;
            *slot = Slot::Flushing(bytes.clone());
            *block = Some(Block { bytes, write: true });
        }
        self.waiting -= length;
        (length > 0).then(|| PieceData::new(self.piece, false, blocks, shared))
    }

    /// Blocks were written early: their memory is not needed any more.
    pub(crate) fn flushed(&mut self, data: &PieceData) {
        for (slot, block) in self.slots.iter_mut().zip(&data.blocks) {
            // The same memory: not a later block in the same place, after the piece was found bad.
            if let (Slot::Flushing(bytes), Some(block)) = (&*slot, block)
                && bytes.as_ptr() == block.bytes.as_ptr()
            {
                *slot = Slot::Disk;
            }
        }
    }
}
