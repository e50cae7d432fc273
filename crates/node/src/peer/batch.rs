//! What goes out in one write: messages and blocks, in the order in which they were queued.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use floodway_proto::wire::{self, Message};
use floodway_proto::{BlockId, Layout, PieceIndex};
use floodway_store::ReadError;

use crate::content::{PeerOut, Shared};

/// Most messages in one write.
const MESSAGES: usize = 4096;
/// Messages beside blocks end a write only when they are longer than this in all, in bytes, however small the limit is.
const HEADS_LEAST: usize = 64 * 1024;

/// The peer's numbers for the extended messages that we know.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    pub(super) claims: u8,
    pub(super) manifest: u8,
    pub(super) metadata: u8,
}

/// What goes out in one go.
#[derive(Default)]
pub(super) struct Batch {
    /// Encoded messages and block headers.
    heads: Vec<u8>,
    /// Blocks, one after the other; at least `data_length` bytes once they are read.
    data: Vec<u8>,
    data_length: usize,
    /// What to send in which order: a part of `heads`, then a part of `data`.
    parts: Vec<(Range<usize>, Range<usize>)>,
    /// What to read into `data`: bytes of the content, and where to.
    extents: Vec<(Range<u64>, usize)>,
    /// Parts of `data` that are zeros: padding.
    zeros: Vec<Range<usize>>,
    blocks: Vec<BlockId>,
    answer_count: usize,
}

impl Batch {
    /// Takes from the queue what fits into one go.
    pub(super) fn fill(
        queue: &mut VecDeque<PeerOut>,
        layout: &Layout,
        bytes_max: usize,
        ids: Ids,
    ) -> Self {
        let mut batch = Self::default();
        let mut messages = 0;
        while let Some(next) = queue.front() {
            messages += 1;
            if messages > MESSAGES || batch.heads.len() > bytes_max.max(HEADS_LEAST) {
                break;
            }
            let head = batch.heads.len();
            match next {
                PeerOut::Message(message) => {
                    message.encode(&mut batch.heads);
                    batch.part(head, 0);
                }
                PeerOut::Claims(claims) => {
                    let (id, payload) = (ids.claims, claims.encode().into());
                    Message::Extended { id, payload }.encode(&mut batch.heads);
                    batch.part(head, 0);
                }
                PeerOut::Manifest(message) => {
                    let (id, payload) = (ids.manifest, message.encode());
                    Message::Extended { id, payload }.encode(&mut batch.heads);
                    batch.part(head, 0);
                }
                PeerOut::Metadata(message) => {
                    let (id, payload) = (ids.metadata, message.encode().into());
                    Message::Extended { id, payload }.encode(&mut batch.heads);
                    batch.part(head, 0);
                    batch.answer_count += 1;
                }
                PeerOut::Hashes(message) => {
                    message.encode(&mut batch.heads);
                    batch.part(head, 0);
                    batch.answer_count += 1;
                }
                PeerOut::Block { block, zeros } => {
                    let bytes = layout.block_bytes(*block);
                    let length = layout.block_size(*block) + zeros;
                    if batch.data_length > 0 && batch.data_length + length as usize > bytes_max {
                        break;
                    }
                    let begin = layout.block_begin(*block);
                    wire::encode_piece_header(block.piece.0, begin, length, &mut batch.heads);
                    let at = batch.data_length;
                    let end = at + length as usize;
                    if *zeros > 0 {
                        batch.zeros.push(end - *zeros as usize..end);
                    }
                    match batch.extents.last_mut() {
                        _ if bytes.is_empty() => {}
                        // In the content, and in the buffer: no zeros lie between.
                        Some((extent, place))
                            if extent.end == bytes.start
                                && (extent.end - extent.start) == (at - *place) as u64 =>
                        {
                            extent.end = bytes.end;
                        }
                        _ => batch.extents.push((bytes, at)),
                    }
                    batch.part(head, length as usize);
                    batch.blocks.push(*block);
                }
            }
            queue.pop_front();
        }
        batch
    }

    /// Adds the head that begins at `head` and ends where the heads end now, and `length` bytes of data.
    fn part(&mut self, head: usize, length: usize) {
        let data = self.data_length..self.data_length + length;
        self.data_length = data.end;
        match self.parts.last_mut() {
            Some((last, none)) if none.start == none.end => {
                last.end = self.heads.len();
                *none = data;
            }
            _ => self.parts.push((head..self.heads.len(), data)),
        }
    }

    /// The blocks that it carries.
    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// How many answers to questions about the torrent it carries.
    pub(super) fn answer_count(&self) -> usize {
        self.answer_count
    }

    /// Bytes of blocks in all.
    pub(super) fn data_length(&self) -> usize {
        self.data_length
    }

    /// Gives back the buffer, which must be filled anew for another batch.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.data
    }

    /// Reads the blocks into `buffer`, which has room for them.
    ///
    /// # Errors
    /// The first piece that cannot be read.
    pub(super) fn read(&mut self, buffer: Vec<u8>, content: &Shared) -> Result<(), PieceIndex> {
        self.data = buffer;
        for zeros in &self.zeros {
            self.data[zeros.clone()].fill(0);
        }
        for (bytes, at) in &self.extents {
            let lost = content
                .layout()
                .piece_at(bytes.start)
                .unwrap_or(PieceIndex(0));
            let store = content.store().ok_or(lost)?;
            let length = usize::try_from(bytes.end - bytes.start).unwrap_or(usize::MAX);
            let out = &mut self.data[*at..][..length];
            store.read(bytes.clone(), out).map_err(|error| {
                tracing::warn!(%error, "a block that a peer asked for cannot be read");
                match error {
                    ReadError::NotHeld(piece) => piece,
                    ReadError::OutOfRange { .. } | ReadError::Io(_) => lost,
                }
            })?;
        }
        Ok(())
    }

    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let slices = self
            .parts
            .iter()
            .flat_map(|(head, data)| [&self.heads[head.clone()], &self.data[data.clone()]]);
        slices
            .filter(|slice| !slice.is_empty())
            .map(IoSlice::new)
            .collect()
    }

    pub(super) fn length(&self) -> usize {
        self.heads.len() + self.data_length
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::wire::HttpClaims;

    use super::*;

    #[test]
    fn order_is_kept_and_neighbours_are_read_at_once() {
        let layout = Layout::new(Some(1 << 20), 64 * 1024).unwrap();
        let block = |piece, index| {
            let piece = PieceIndex(piece);
            let block = BlockId { piece, index };
            PeerOut::Block { block, zeros: 0 }
        };
        let mut queue = VecDeque::from([
            PeerOut::Message(Message::Unchoke),
            PeerOut::Message(Message::Have(1)),
            block(0, 2),
            block(0, 3),
            block(1, 0),
            PeerOut::Claims(HttpClaims { ranges: vec![] }),
            block(9, 0),
            block(9, 1),
        ]);
        let mut batch = Batch::fill(&mut queue, &layout, 5 * 16 * 1024, Ids::default());
        assert!(queue.is_empty());
        let extents: Vec<_> = batch
            .extents
            .iter()
            .map(|(bytes, at)| (bytes.clone(), *at))
            .collect();
        assert_eq!(extents, [(32_768..81_920, 0), (589_824..622_592, 49_152)]);
        batch.data = vec![7; batch.data_length];
        let lengths: Vec<_> = batch.slices().iter().map(|slice| slice.len()).collect();
        assert_eq!(
            lengths,
            [
                5 + 9 + 13,
                16384,
                13,
                16384,
                13,
                16384,
                6 + 13,
                16384,
                13,
                16384
            ]
        );
        assert_eq!(lengths.iter().sum::<usize>(), batch.length());
    }

    #[test]
    fn padding_is_sent_as_zeros() {
        let name = |name: &str| vec![floodway_proto::SafeName::new(name).unwrap()];
        let files = [(name("a"), 5), (name("b"), 40_000)];
        let layout = Layout::folder(files, 32 * 1024).unwrap();
        let block = |piece, index, zeros| {
            let piece = PieceIndex(piece);
            let block = BlockId { piece, index };
            PeerOut::Block { block, zeros }
        };
        let queue = [
            block(0, 0, 16_379),
            block(0, 1, 16_384),
            block(1, 0, 0),
            block(1, 1, 0),
        ];
        let mut batch = Batch::fill(&mut queue.into(), &layout, 1 << 20, Ids::default());
        let extents = [(0..5, 0), (5..32_773, 32_768)];
        assert_eq!(batch.extents, extents);
        assert_eq!(batch.zeros, [5..16_384, 16_384..32_768]);
        batch.data = vec![7; batch.data_length];
        let lengths: Vec<_> = batch.slices().iter().map(|slice| slice.len()).collect();
        assert_eq!(lengths, [13, 16384, 13, 16384, 13, 16384, 13, 16384]);
    }

    #[test]
    fn a_batch_has_a_limit_but_takes_one_block_at_least() {
        let layout = Layout::new(Some(1 << 20), 64 * 1024).unwrap();
        let block = |index| {
            let piece = PieceIndex(0);
            let block = BlockId { piece, index };
            PeerOut::Block { block, zeros: 0 }
        };
        let mut queue = VecDeque::from([block(0), block(1), block(2)]);
        assert_eq!(
            Batch::fill(&mut queue, &layout, 1, Ids::default())
                .blocks()
                .len(),
            1
        );
        assert_eq!(
            Batch::fill(&mut queue, &layout, 40_000, Ids::default())
                .blocks()
                .len(),
            2
        );
    }
}
