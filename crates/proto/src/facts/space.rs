//! How the pieces of a content are numbered through its files.

use std::ops::Range;

use crate::genesis::Genesis;
use crate::layout::PIECES_WHILE_UNKNOWN;
use crate::merkle::Tree;
use crate::{Layout, LayoutError};

/// The most pieces of a content: libtorrent's limit, 8 TiB in pieces of 4 MiB.
pub const PIECES_LIMIT: u32 = 1 << 21;

/// Why files cannot be numbered through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// The piece length does not suit the engine.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Pieces without a hash tree.
    #[error("the piece length of {0} bytes is not a power of two")]
    PieceLength(u32),
    /// More files than a fact can name, or none.
    #[error("a content has 1 to 65536 files, not {0}")]
    Files(usize),
    /// A file before the last has no length.
    #[error("the length of file {0} is unknown; only that of the last file may be")]
    UnknownLength(usize),
    /// More pieces than any torrent client takes.
    #[error("the content has more than {PIECES_LIMIT} pieces")]
    TooManyPieces,
}

/// The pieces of a content: those of its files one after the other, each file beginning with a new piece (BEP 52; pad
/// files in v1, BEP 47). An empty file has none. The last file's length may be unknown at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSpace {
    piece_length: u32,
    /// First piece and length of each file.
    files: Vec<(u32, Option<u64>)>,
}

impl PieceSpace {
    /// Numbers files of these lengths, in bytes.
    ///
    /// # Errors
    /// [`SpaceError`] when there are none or too many, or another than the last has no length.
    pub fn new(piece_length: u32, lengths: &[Option<u64>]) -> Result<Self, SpaceError> {
        Layout::new(None, piece_length)?;
        if !piece_length.is_power_of_two() {
            return Err(SpaceError::PieceLength(piece_length));
        }
        if !(1..=1 << 16).contains(&lengths.len()) {
            return Err(SpaceError::Files(lengths.len()));
        }
        let mut first = 0u64;
        let mut files = Vec::with_capacity(lengths.len());
        for (file, &length) in lengths.iter().enumerate() {
            if length.is_none() && file + 1 < lengths.len() {
                return Err(SpaceError::UnknownLength(file));
            }
            let begins = u32::try_from(first).map_err(|_| SpaceError::TooManyPieces)?;
            files.push((begins, length));
            let pieces = length.unwrap_or(0).div_ceil(u64::from(piece_length));
            first = first.saturating_add(pieces);
            if first > u64::from(PIECES_LIMIT) {
                return Err(SpaceError::TooManyPieces);
            }
        }
        Ok(Self {
            piece_length,
            files,
        })
    }

    /// The pieces of a genesis' files.
    ///
    /// # Errors
    /// As [`new`](Self::new). Those of a decoded genesis can be numbered.
    pub fn of(genesis: &Genesis) -> Result<Self, SpaceError> {
        let lengths: Vec<_> = genesis.files.iter().map(|file| file.length).collect();
        Self::new(genesis.piece_length, &lengths)
    }

    /// Bytes in a piece.
    pub fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// How many files there are.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The length of a file in bytes, if it is known.
    pub fn file_length(&self, file: u16) -> Option<u64> {
        self.files.get(usize::from(file))?.1
    }

    /// The length of the last file in bytes, if it is known.
    pub fn last_length(&self) -> Option<u64> {
        self.files.last()?.1
    }

    /// How many pieces the content has, once every length is known.
    pub fn piece_count(&self) -> Option<u32> {
        self.files.last()?.1?;
        Some(self.limit())
    }

    /// The content has no piece from this one on; while the length is unknown this is the most it can have.
    pub fn limit(&self) -> u32 {
        let last = self.files.len() - 1;
        self.pieces_of(last).end
    }

    fn pieces_of(&self, file: usize) -> Range<u32> {
        let (first, length) = self.files[file];
        let Some(length) = length else {
            let most = first.saturating_add(PIECES_WHILE_UNKNOWN);
            return first..most.min(PIECES_LIMIT);
        };
        let pieces = length.div_ceil(u64::from(self.piece_length));
        let pieces = u32::try_from(pieces).expect("the constructor checked it");
        first..first + pieces
    }

    /// The pieces of a file; up to the limit while its length is unknown. Empty for a file that does not exist.
    pub fn file_pieces(&self, file: u16) -> Range<u32> {
        if usize::from(file) < self.files.len() {
            self.pieces_of(file.into())
        } else {
            0..0
        }
    }

    /// The file that a piece belongs to, and the piece's number within it. `None` beyond the end.
    pub fn locate(&self, piece: u32) -> Option<(u16, u32)> {
        let after = self.files.partition_point(|&(first, _)| first <= piece);
        let file = after.checked_sub(1)?;
        let pieces = self.pieces_of(file);
        let index = u16::try_from(file).expect("at most 65536 files");
        pieces
            .contains(&piece)
            .then(|| (index, piece - pieces.start))
    }

    /// The bytes of a piece that belong to its file: all that is hashed into its node, as a range within the file.
    pub fn piece_bytes(&self, piece: u32) -> Option<(u16, Range<u64>)> {
        let (file, index) = self.locate(piece)?;
        let start = u64::from(index) * u64::from(self.piece_length);
        let end = start + u64::from(self.piece_length);
        let end = self.file_length(file).map_or(end, |length| length.min(end));
        Some((file, start..end))
    }

    /// Notes the length of the last file. The caller has checked that it was unknown.
    ///
    /// # Errors
    /// [`SpaceError::TooManyPieces`] when there are more than there could be: see [`PIECES_WHILE_UNKNOWN`].
    pub(super) fn set_length(&mut self, length: u64) -> Result<(), SpaceError> {
        let lengths = self.files.iter().map(|&(_, length)| length);
        let mut lengths: Vec<_> = lengths.collect();
        if let Some(last) = lengths.last_mut() {
            *last = Some(length);
        }
        let ended = Self::new(self.piece_length, &lengths)?;
        if ended.limit() > self.limit() {
            return Err(SpaceError::TooManyPieces);
        }
        *self = ended;
        Ok(())
    }

    /// An empty tree for a file; none for an empty file.
    pub(super) fn tree(&self, file: usize) -> Option<Tree> {
        let layout = Layout::new(self.files[file].1, self.piece_length).ok()?;
        Tree::new(&layout).ok()
    }
}
