//! A stream of bytes to blocks.

use bytes::{Bytes, BytesMut};
use floodway_proto::{BlockId, Layout};

use crate::content::Item;

/// Cuts a body into the blocks of a layout. A block that lies whole in one chunk shares its memory.
pub(super) struct Slicer {
    layout: Layout,
    /// Offset in the content of the next byte to come.
    next: u64,
    /// Bytes before this are dropped; a block border.
    start: u64,
    /// The beginning of the block at `next`, which more than one chunk carry.
    begun: BytesMut,
}

impl Slicer {
    /// For a body whose first byte is at `next`; blocks from `start` on are wanted.
    pub(super) fn new(layout: Layout, next: u64, start: u64) -> Self {
        Self {
            layout,
            next,
            start,
            begun: BytesMut::new(),
        }
    }

    /// Offset in the content of the next byte to come.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What came of the last block, which it does not fill.
    pub(super) fn into_tail(self) -> Bytes {
        self.begun.freeze()
    }

    /// The blocks that `chunk` completes and that end at or before `end`.
    pub(super) fn cut(&mut self, mut chunk: Bytes, end: u64) -> Vec<Item> {
        let mut items = Vec::new();
        if self.next < self.start {
            let skip = usize::try_from(self.start - self.next).unwrap_or(usize::MAX);
            let skipped = chunk.split_to(skip.min(chunk.len()));
            self.next += skipped.len() as u64;
        }
        while !chunk.is_empty() {
            let Some(block) = self.block_at(self.next) else {
                break;
            };
            let bytes = self.layout.block_bytes(block);
            if bytes.end > end {
                break;
            }
            let rest = usize::try_from(bytes.end - self.next).unwrap_or(usize::MAX);
            let part = chunk.split_to(rest.min(chunk.len()));
            self.next += part.len() as u64;
            let whole = part.len() == rest;
            if self.begun.is_empty() && whole {
                items.push(Item::Block { block, data: part });
                continue;
            }
            if self.begun.is_empty() {
                self.begun.reserve(rest);
            }
            self.begun.extend_from_slice(&part);
            if whole {
                items.push(Item::Block {
                    block,
                    data: self.begun.split().freeze(),
                });
            }
        }
        items
    }

    fn block_at(&self, offset: u64) -> Option<BlockId> {
        let piece = self.layout.piece_at(offset)?;
        let within = offset - self.layout.piece_offset(piece);
        let index = u32::try_from(within / u64::from(self.layout.block_length())).ok()?;
        Some(BlockId { piece, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 2 * 32_768 + 20_000;

    fn content() -> Vec<u8> {
        (0..LENGTH).map(|n| (n * 31 / 7).to_le_bytes()[0]).collect()
    }

    /// Offsets and bytes of the blocks that chunks of `size` bytes give.
    fn blocks(first: u64, start: u64, end: u64, size: usize) -> Vec<(u64, Bytes)> {
        let layout = Layout::new(Some(LENGTH), 32_768).unwrap();
        let all = Bytes::from(content());
        let mut slicer = Slicer::new(layout.clone(), first, start);
        let body = all.slice(usize::try_from(first).unwrap()..);
        let chunks = body.chunks(size).map(Bytes::copy_from_slice);
        let items = chunks
            .flat_map(|chunk| slicer.cut(chunk, end))
            .collect::<Vec<_>>();
        let offset = |item| match item {
            Item::Block { block, data } => (layout.block_bytes(block).start, data),
            _ => panic!("only blocks"),
        };
        items.into_iter().map(offset).collect()
    }

    #[test]
    fn chunks_of_any_size_give_the_same_blocks() {
        let all = content();
        for size in [1000, 16_383, 16_384, 16_385, 40_000, 100_000] {
            let got = blocks(0, 0, LENGTH, size);
            let expected: Vec<_> = (0..)
                .step_by(16_384)
                .zip(all.chunks(16_384).map(Bytes::copy_from_slice))
                .collect();
            // A piece ends in the middle of a row of blocks only at the end.
            assert_eq!(got, expected, "chunks of {size}");
        }
    }

    #[test]
    fn blocks_before_the_start_and_beyond_the_end_are_left_out() {
        let offsets = |first, start, end| {
            blocks(first, start, end, 5000)
                .into_iter()
                .map(|(offset, _)| offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(offsets(0, 32_768, LENGTH), [32_768, 49_152, 65_536, 81_920]);
        assert_eq!(offsets(32_768, 32_768, 65_536), [32_768, 49_152]);
        assert_eq!(offsets(0, 0, 40_000), [0, 16_384]);
    }

    #[test]
    fn a_block_within_one_chunk_is_not_copied() {
        let layout = Layout::new(Some(LENGTH), 32_768).unwrap();
        let chunk = Bytes::from(content());
        let start = chunk.as_ptr();
        let items = Slicer::new(layout, 0, 0).cut(chunk, LENGTH);
        let Some(Item::Block { data, .. }) = items.into_iter().next() else {
            panic!("a block must come");
        };
        assert_eq!(data.as_ptr(), start);
    }
}
