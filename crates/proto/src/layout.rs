//! How a content's bytes divide into pieces and blocks.

use std::ops::Range;

/// The usual block: what one peer request asks for (BEP 3).
pub const BLOCK_LENGTH: u32 = 16 * 1024;
/// The smallest and largest piece the engine accepts from foreign torrents.
pub const PIECE_LENGTH_RANGE: std::ops::RangeInclusive<u32> = 16 * 1024..=64 * 1024 * 1024;

/// The index of a piece that exists in its [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(pub u32);

/// A block that exists in its [`Layout`]: a piece and the block's index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// The piece it belongs to.
    pub piece: PieceIndex,
    /// Its index within the piece.
    pub index: u32,
}

/// Why a [`Layout`] could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The piece length is outside what the engine accepts.
    #[error("a piece length of {0} bytes is not between 16 KiB and 64 MiB")]
    PieceLength(u32),
    /// The block length does not divide the piece length.
    #[error("a piece length of {piece} bytes is not a multiple of the block length of {block}")]
    BlockLength {
        /// The block length asked for.
        block: u32,
        /// The piece length asked for.
        piece: u32,
    },
    /// More pieces than a 32-bit index can name.
    #[error("{length} bytes in pieces of {piece} bytes are more pieces than BitTorrent can number")]
    TooManyPieces {
        /// The content's length in bytes.
        length: u64,
        /// The piece length in bytes.
        piece: u32,
    },
}

/// Piece and block sizes of one content, and its length when that is known.
///
/// Piece lengths need not be powers of two in v1 torrents of others; ours always are. While the length
/// is unknown there is no piece count, and every index may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    length: Option<u64>,
    piece_length: u32,
    block_length: u32,
}

impl Layout {
    /// A layout with blocks of [`BLOCK_LENGTH`].
    ///
    /// # Errors
    /// [`LayoutError`] when the piece length is outside [`PIECE_LENGTH_RANGE`] or no multiple of a block, or there are too many pieces.
    pub fn new(length: Option<u64>, piece_length: u32) -> Result<Self, LayoutError> {
        Self::with_blocks(length, piece_length, BLOCK_LENGTH)
    }

    /// A layout with blocks of `block_length` bytes: large simulations use one block a piece.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn with_blocks(
        length: Option<u64>,
        piece_length: u32,
        block_length: u32,
    ) -> Result<Self, LayoutError> {
        if !PIECE_LENGTH_RANGE.contains(&piece_length) {
            return Err(LayoutError::PieceLength(piece_length));
        }
        if block_length == 0 || !piece_length.is_multiple_of(block_length) {
            return Err(LayoutError::BlockLength {
                block: block_length,
                piece: piece_length,
            });
        }
        if let Some(length) = length
            && length.div_ceil(u64::from(piece_length)) > u64::from(u32::MAX)
        {
            return Err(LayoutError::TooManyPieces {
                length,
                piece: piece_length,
            });
        }
        Ok(Self {
            length,
            piece_length,
            block_length,
        })
    }

    /// The piece length for our own contents: 64 to 256 KiB, the smallest power of two that gives at most 1024 pieces;
    /// beyond that the smallest that gives at most 32 768, at most 16 MiB. 4 MiB when the length is unknown.
    ///
    /// A piece is passed on only when it is whole and verified: the fewer there are of them, the longer uploaders wait for
    /// something to give at the beginning and at the end.
    pub fn default_piece_length(length: Option<u64>) -> u32 {
        const SMALL: std::ops::RangeInclusive<u32> = 64 * 1024..=256 * 1024;
        const LARGEST: u32 = 16 * 1024 * 1024;
        let Some(length) = length else {
            return 4 * 1024 * 1024;
        };
        let pieces = |piece: u32| length.div_ceil(u64::from(piece));
        let mut piece = *SMALL.start();
        while piece < *SMALL.end() && pieces(piece) > 1024 {
            piece *= 2;
        }
        while piece < LARGEST && pieces(piece) > 32_768 {
            piece *= 2;
        }
        piece
    }

    /// The content's length in bytes, once known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The length of every piece but perhaps the last, in bytes.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// The length of every block but perhaps the last, in bytes.
    pub fn block_length(&self) -> u32 {
        self.block_length
    }

    /// How many pieces there are; 0 for an empty or a still unknown length.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the constructor checked it"
    )]
    pub fn piece_count(&self) -> u32 {
        self.length.map_or(0, |length| {
            length.div_ceil(u64::from(self.piece_length)) as u32
        })
    }

    /// All pieces, in order.
    pub fn pieces(
        &self,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// `None` when a peer named a piece that this content does not have.
    pub fn piece(&self, raw: u32) -> Option<PieceIndex> {
        (raw < self.piece_count()).then_some(PieceIndex(raw))
    }

    /// Where the piece begins, in bytes from the content's start.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        u64::from(piece.0) * u64::from(self.piece_length)
    }

    /// The piece's own length in bytes: the last may be short.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let offset = self.piece_offset(piece);
        let rest = self
            .length
            .map_or(u64::MAX, |length| length.saturating_sub(offset));
        u32::try_from(rest).map_or(self.piece_length, |rest| rest.min(self.piece_length))
    }

    /// The piece's bytes within the content.
    pub fn piece_bytes(&self, piece: PieceIndex) -> Range<u64> {
        let offset = self.piece_offset(piece);
        offset..offset + u64::from(self.piece_size(piece))
    }

    /// The piece that holds the byte at `offset`. `None` beyond the end.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        u32::try_from(offset / u64::from(self.piece_length))
            .ok()
            .and_then(|raw| self.piece(raw))
    }

    /// How many blocks the piece has.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_size(piece).div_ceil(self.block_length)
    }

    /// The block a peer's request or reply names. `None` unless piece, beginning and length all fit this layout exactly.
    pub fn block(&self, piece: u32, begin: u32, length: u32) -> Option<BlockId> {
        let piece = self.piece(piece)?;
        let index = begin / self.block_length;
        let block = BlockId { piece, index };
        (begin.is_multiple_of(self.block_length)
            && index < self.block_count(piece)
            && self.block_size(block) == length)
            .then_some(block)
    }

    /// Where the block begins within its piece, in bytes.
    pub fn block_begin(&self, block: BlockId) -> u32 {
        block.index * self.block_length
    }

    /// The block's own length in bytes: a piece's last may be short.
    pub fn block_size(&self, block: BlockId) -> u32 {
        (self.piece_size(block.piece) - self.block_begin(block)).min(self.block_length)
    }

    /// The block's bytes within the content.
    pub fn block_bytes(&self, block: BlockId) -> Range<u64> {
        let start = self.piece_offset(block.piece) + u64::from(self.block_begin(block));
        start..start + u64::from(self.block_size(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(length: u64, piece: u32) -> Layout {
        Layout::new(Some(length), piece).unwrap()
    }

    #[test]
    fn the_last_piece_and_block_may_be_short() {
        let l = layout((256 << 10) * 2 + 16385, 256 << 10);
        assert_eq!(l.piece_count(), 3);
        let last = l.piece(2).unwrap();
        assert_eq!((l.piece_size(last), l.block_count(last)), (16385, 2));
        assert_eq!(
            l.block_size(BlockId {
                piece: last,
                index: 1
            }),
            1
        );
        assert_eq!(l.piece(3), None);
    }

    #[test]
    fn a_block_must_fit_exactly() {
        let l = layout(40_000, 32 << 10);
        assert!(l.block(0, 0, 16384).is_some());
        assert!(l.block(1, 0, 40_000 - 32768).is_some());
        for (piece, begin, length) in [
            (0, 1, 16384),
            (0, 0, 16383),
            (0, 32768, 16384),
            (1, 0, 16384),
            (2, 0, 16384),
            (0, u32::MAX, 1),
        ] {
            assert_eq!(
                l.block(piece, begin, length),
                None,
                "{piece} {begin} {length}"
            );
        }
    }

    #[test]
    fn empty_and_unknown_lengths_have_no_pieces() {
        assert_eq!(layout(0, 1 << 18).piece_count(), 0);
        assert_eq!(Layout::new(None, 1 << 22).unwrap().piece_count(), 0);
    }

    #[test]
    fn own_contents_get_at_most_32768_pieces() {
        assert_eq!(Layout::default_piece_length(Some(1)), 64 << 10);
        assert_eq!(Layout::default_piece_length(Some(64 << 20)), 64 << 10);
        assert_eq!(
            Layout::default_piece_length(Some((64 << 20) + 1)),
            128 << 10
        );
        assert_eq!(Layout::default_piece_length(Some(1 << 30)), 256 << 10);
        assert_eq!(Layout::default_piece_length(Some(8 << 30)), 256 << 10);
        assert_eq!(Layout::default_piece_length(Some((8 << 30) + 1)), 512 << 10);
        assert_eq!(Layout::default_piece_length(Some(100_000_000_000)), 4 << 20);
        assert_eq!(Layout::default_piece_length(Some(1 << 45)), 16 << 20);
        assert_eq!(Layout::default_piece_length(None), 4 << 20);
    }
}
