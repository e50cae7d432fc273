//! How a content's bytes divide into files, pieces and blocks.

use std::ops::Range;
use std::sync::Arc;

use crate::SafeName;
use crate::files::{FileSpan, FilesError, check_paths};

/// The usual block: what one peer request asks for (BEP 3).
pub const BLOCK_LENGTH: u32 = 16 * 1024;
/// The smallest and largest piece the engine accepts from foreign torrents.
pub const PIECE_LENGTH_RANGE: std::ops::RangeInclusive<u32> = 16 * 1024..=64 * 1024 * 1024;

/// As long as a content's length is not known it may have so many pieces, and no more: 256 GiB in pieces of 4 MiB. Nodes keep a
/// few bytes for each of these and 8 KiB of bits for each peer.
pub const PIECES_WHILE_UNKNOWN: u32 = 1 << 16;

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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The files of a folder that cannot be.
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// Piece and block sizes of one content, and its length when that is known.
///
/// Piece lengths need not be powers of two in v1 torrents of others; ours always are. While the length
/// is unknown there are as many pieces as there [may be](PIECES_WHILE_UNKNOWN), all of them whole.
///
/// The bytes of a *folder* are those of its files, one after the other and without gaps; but every file begins with a new
/// piece, so that the last piece of each file may be short (BEP 52). Clones are cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    length: Option<u64>,
    piece_length: u32,
    block_length: u32,
    /// The files of a folder.
    files: Option<Arc<[FileSpan]>>,
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
            files: None,
        })
    }

    /// The layout of a folder with blocks of [`BLOCK_LENGTH`], from the path and length of each file, in ascending order of
    /// the paths' names.
    ///
    /// # Errors
    /// As [`Layout::new`], and [`LayoutError::Files`] when the files cannot lie in one folder.
    pub fn folder(
        files: impl IntoIterator<Item = (Vec<SafeName>, u64)>,
        piece_length: u32,
    ) -> Result<Self, LayoutError> {
        let layout = Self::new(None, piece_length)?;
        let (mut spans, mut start, mut first) = (Vec::new(), 0u64, 0u32);
        for (path, length) in files {
            let end = start.checked_add(length).ok_or(FilesError::Length)?;
            let pieces = length.div_ceil(u64::from(piece_length));
            let last = u32::try_from(pieces)
                .ok()
                .and_then(|n| first.checked_add(n));
            let last = last.ok_or(LayoutError::TooManyPieces {
                length: end,
                piece: piece_length,
            })?;
            spans.push(FileSpan {
                path,
                bytes: start..end,
                pieces: first..last,
            });
            (start, first) = (end, last);
        }
        let paths: Vec<&[SafeName]> = spans.iter().map(|span| &span.path[..]).collect();
        check_paths(&paths)?;
        Ok(Self {
            length: Some(start),
            files: Some(spans.into()),
            ..layout
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

    /// The same content now that its length turned out to be this, in bytes.
    ///
    /// # Errors
    /// [`LayoutError::TooManyPieces`] when nobody made room for so many: see [`PIECES_WHILE_UNKNOWN`].
    pub fn ended(&self, length: u64) -> Result<Self, LayoutError> {
        if self.piece_count() < self.pieces_of(length) {
            return Err(LayoutError::TooManyPieces {
                length,
                piece: self.piece_length,
            });
        }
        Ok(Self {
            length: Some(length),
            ..self.clone()
        })
    }

    fn pieces_of(&self, length: u64) -> u32 {
        let pieces = length.div_ceil(u64::from(self.piece_length));
        u32::try_from(pieces).unwrap_or(u32::MAX)
    }

    /// The files of a folder, in order; `None` for a single file.
    pub fn files(&self) -> Option<&[FileSpan]> {
        self.files.as_deref()
    }

    /// The file of a folder that a piece belongs to: the last one that begins with it or before, so never an empty one.
    pub fn file_of(&self, piece: PieceIndex) -> Option<&FileSpan> {
        let files = self.files()?;
        let after = files.partition_point(|file| file.pieces.start <= piece.0);
        files.get(after.checked_sub(1)?)
    }

    /// The layout of the one file that a piece belongs to: what its hash tree is made over.
    #[must_use]
    pub fn of_piece(&self, piece: PieceIndex) -> Self {
        match self.file_of(piece) {
            None => self.clone(),
            Some(span) => Self {
                length: Some(span.length()),
                files: None,
                ..*self
            },
        }
    }

    /// How many zeros follow the piece's own bytes in v1 torrents (BEP 47): those of a pad file at the end of each file of
    /// a folder.
    pub fn padding(&self, piece: PieceIndex) -> u32 {
        match &self.files {
            None => 0,
            Some(_) => self.piece_length - self.piece_size(piece),
        }
    }

    /// The length of every piece but perhaps the last of a file, in bytes.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// The length of every block but perhaps the last, in bytes.
    pub fn block_length(&self) -> u32 {
        self.block_length
    }

    /// How many pieces there are; while the length is unknown as many as there [may be](PIECES_WHILE_UNKNOWN).
    pub fn piece_count(&self) -> u32 {
        if let Some(last) = self.files().and_then(<[_]>::last) {
            return last.pieces.end;
        }
        self.length
            .map_or(PIECES_WHILE_UNKNOWN, |length| self.pieces_of(length))
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

    /// Where the content ends, in bytes; while the length is unknown where the last piece ends that there
    /// [may be](PIECES_WHILE_UNKNOWN).
    pub fn limit(&self) -> u64 {
        self.length
            .unwrap_or_else(|| u64::from(self.piece_count()) * u64::from(self.piece_length))
    }

    /// Where the piece begins, in bytes from the content's start.
    pub fn piece_offset(&self, piece: PieceIndex) -> u64 {
        let (start, first) = self
            .file_of(piece)
            .map_or((0, 0), |span| (span.bytes.start, span.pieces.start));
        start + u64::from(piece.0 - first) * u64::from(self.piece_length)
    }

    /// The piece's own length in bytes: the last one of a file may be short.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let offset = self.piece_offset(piece);
        let end = self
            .file_of(piece)
            .map(|span| span.bytes.end)
            .or(self.length);
        let rest = end.map_or(u64::MAX, |end| end.saturating_sub(offset));
        u32::try_from(rest).map_or(self.piece_length, |rest| rest.min(self.piece_length))
    }

    /// The piece's bytes within the content.
    pub fn piece_bytes(&self, piece: PieceIndex) -> Range<u64> {
        let offset = self.piece_offset(piece);
        offset..offset + u64::from(self.piece_size(piece))
    }

    /// The piece that holds the byte at `offset`. `None` beyond the end.
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        if let Some(files) = self.files() {
            let file = files.partition_point(|file| file.bytes.end <= offset);
            let span = files.get(file)?;
            let within = (offset - span.bytes.start) / u64::from(self.piece_length);
            let within = u32::try_from(within).ok()?;
            return Some(PieceIndex(span.pieces.start + within));
        }
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

    /// The block that a peer may ask for, and how many bytes to answer with. Beside the [blocks](Self::block) there are
    /// those that v1 torrents of a folder have in their pad files: peers that count these among the piece's bytes, as stock
    /// clients do, ask for zeros after the piece's own bytes (BEP 47). Such a block may have no byte of its own.
    pub fn asked(&self, piece: u32, begin: u32, length: u32) -> Option<(BlockId, u32)> {
        if let Some(block) = self.block(piece, begin, length) {
            return Some((block, length));
        }
        let piece = self.piece(piece)?;
        let whole = self.piece_size(piece) + self.padding(piece);
        let rest = whole.checked_sub(begin).filter(|&rest| rest > 0)?;
        let index = begin / self.block_length;
        let fits = begin.is_multiple_of(self.block_length) && length == rest.min(self.block_length);
        fits.then_some((BlockId { piece, index }, length))
    }

    /// Where the block begins within its piece, in bytes.
    pub fn block_begin(&self, block: BlockId) -> u32 {
        block.index * self.block_length
    }

    /// The block's own length in bytes: a piece's last may be short. 0 for one that is all padding.
    pub fn block_size(&self, block: BlockId) -> u32 {
        let size = self.piece_size(block.piece);
        size.saturating_sub(self.block_begin(block))
            .min(self.block_length)
    }

    /// The block's bytes within the content.
    pub fn block_bytes(&self, block: BlockId) -> Range<u64> {
        let begin = self.block_begin(block).min(self.piece_size(block.piece));
        let start = self.piece_offset(block.piece) + u64::from(begin);
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
    fn an_unknown_length_may_turn_out_to_be_anything_up_to_the_limit() {
        assert_eq!(layout(0, 1 << 18).piece_count(), 0);
        let open = Layout::new(None, 1 << 22).unwrap();
        let last = PieceIndex(PIECES_WHILE_UNKNOWN - 1);
        assert_eq!(open.piece_count(), PIECES_WHILE_UNKNOWN);
        assert_eq!(open.piece_size(last), 1 << 22);
        assert_eq!(open.piece_at(open.piece_offset(last)), Some(last));
        for length in [0, 1, 5 << 22, (5 << 22) + 1, open.piece_bytes(last).end] {
            assert_eq!(open.ended(length), Layout::new(Some(length), 1 << 22));
        }
        assert!(open.ended(open.piece_bytes(last).end + 1).is_err());
    }

    const P: u32 = 32 << 10;

    fn folder(lengths: &[u64]) -> Layout {
        let name = |file: usize| vec![SafeName::new(&format!("{file:03}")).unwrap()];
        let files = lengths.iter().enumerate();
        Layout::folder(files.map(|(file, &length)| (name(file), length)), P).unwrap()
    }

    #[test]
    fn every_file_of_a_folder_begins_with_a_new_piece() {
        let p = u64::from(P);
        let l = folder(&[0, p + 1, 0, 1, 2 * p, 0]);
        assert_eq!((l.length(), l.piece_count()), (Some(3 * p + 2), 5));
        let sizes: Vec<u32> = l.pieces().map(|piece| l.piece_size(piece)).collect();
        assert_eq!(sizes, [P, 1, 1, P, P]);
        let mut next = 0;
        for piece in l.pieces() {
            let bytes = l.piece_bytes(piece);
            assert_eq!(bytes.start, next, "without gaps");
            next = bytes.end;
            for at in [bytes.start, bytes.end - 1] {
                assert_eq!(l.piece_at(at), Some(piece), "{at}");
            }
        }
        assert_eq!((next, l.piece_at(next)), (3 * p + 2, None));
        let lengths: Vec<_> = l.pieces().map(|p| l.of_piece(p).length()).collect();
        let (long, tail) = (Some(p + 1), Some(2 * p));
        assert_eq!(lengths, [long, long, Some(1), tail, tail]);
        assert_eq!(l.padding(PieceIndex(0)), 0);
        assert_eq!(l.padding(PieceIndex(2)), P - 1);
        assert_eq!(folder(&[0, 0]).piece_count(), 0);
    }

    #[test]
    fn stock_clients_may_ask_for_padding() {
        let l = folder(&[1, u64::from(P)]);
        let block = |piece, index| {
            let piece = PieceIndex(piece);
            BlockId { piece, index }
        };
        assert_eq!(l.asked(0, 0, 1), Some((block(0, 0), 1)));
        assert_eq!(l.asked(0, 0, 16384), Some((block(0, 0), 16384)));
        assert_eq!(l.asked(0, 16384, 16384), Some((block(0, 1), 16384)));
        assert_eq!(l.block_size(block(0, 1)), 0);
        assert_eq!(l.block_bytes(block(0, 1)), 1..1);
        for (piece, begin, length) in [(0, 0, 2), (0, 1, 16384), (0, P, 1), (2, 0, 16384)] {
            assert_eq!(l.asked(piece, begin, length), None, "{begin} {length}");
        }
        // A single file has no padding.
        assert_eq!(layout(1, P).asked(0, 0, 16384), None);
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
