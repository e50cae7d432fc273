//! What a store is told, and what it tells.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use floodway_proto::digest::PieceDigest;
use floodway_proto::units::ByteCount;
use floodway_proto::{Bitfield, Layout, PieceIndex, Sha1, Sha256};

use crate::error::StoreError;

/// What to store, where, and how to verify it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Final path of the file, or of the folder if the layout is one of files. Unfinished data lies beside it as
    /// `NAME.floodway`, its journal as `NAME.floodway-journal`. All files of a folder get their final names at once, as the
    /// folder gets its own.
    pub target: PathBuf,
    /// Pieces and blocks; the length must be known, but with [`Hashes::Facts`], where [`crate::Store::end`] may tell it later.
    pub layout: Layout,
    /// What content this is. Unfinished data of another identity is discarded, and reported as [`Note::OtherContent`], but for
    /// what is [adopted](Self::adopts).
    pub identity: [u8; 32],
    /// How pieces are verified.
    pub hashes: Hashes,
    /// Also compute the SHA-256 of the whole file, on a thread of its own.
    pub linear_digest: bool,
    /// Of this content, unfinished data that has the target's name is kept as far as it may be the same.
    pub adopts: Option<Predecessor>,
    /// Replace a different file, or a whole folder, that has the target's name.
    pub overwrite: bool,
    /// Bytes of received blocks kept in memory. Beyond half of it blocks of incomplete pieces are written early;
    /// the caller stops reading sockets while [`crate::Store::buffered`] is above it.
    pub buffer_limit: ByteCount,
}

impl Spec {
    /// A good `buffer_limit` for most: 16 MiB.
    pub const BUFFER_LIMIT: ByteCount = ByteCount::mib(16);
}

/// A content, of unfinished data of which pieces are kept that lie at the same place (of a folder: in the file with the same path)
/// and are as long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// What content it is.
    pub identity: [u8; 32],
    /// How it divides into files and pieces, if it is a folder: the journal does not say that.
    pub folder: Option<Layout>,
    /// Only pieces that hash to these are kept. `None`: all are, until the content's own hashes are known: with
    /// [`Hashes::Unknown`] that is never, so it must not be `None` then.
    pub only: Option<Nodes>,
}

/// How pieces are verified.
#[derive(Clone, Debug)]
pub enum Hashes {
    /// By the SHA-1 of each piece (a v1 torrent's `pieces`).
    V1(Arc<[Sha1]>),
    /// By the BEP 52 node of each piece, as if it were whole; these become known one by one, by [`crate::Store::learn`].
    /// The digests of each piece are computed. A piece whose node is not known is accepted, as a relay does that
    /// fetches first, and compared when it is known.
    Facts(Nodes),
    /// Everything is accepted; there is nothing to compare with, and nothing is hashed.
    Unknown,
}

/// The BEP 52 nodes of pieces, as far as known: see [`floodway_proto::facts::FactStore::piece_hash`].
pub type Nodes = BTreeMap<PieceIndex, Sha256>;

/// What a store held when it was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Pieces that need not be fetched.
    pub have: Bitfield,
    /// Blocks on disk of pieces that are not whole.
    pub partial: Vec<(PieceIndex, Bitfield)>,
    /// With [`Hashes::Facts`]: the digests of all pieces in `have`, ascending.
    pub digests: Vec<(PieceIndex, PieceDigest)>,
    /// True when the whole file has its final name already.
    pub complete: bool,
    /// Bytes that need not be fetched: of `have` and of `partial`.
    pub resumed_bytes: u64,
    /// What the user should know about what was found.
    pub note: Option<Note>,
}

/// What was found of earlier work, when it could not all be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// Unfinished data of another content had the same name, and was discarded.
    #[error("unfinished data of another content (or of another version of it) was discarded")]
    OtherContent,
    /// Unfinished data without a valid journal, or a journal without data: nothing could be used.
    #[error("unfinished data was found without a record of what it is, and was discarded")]
    NoRecord,
    /// This many pieces were recorded but are not what was recorded, or cannot be told; they are fetched again.
    #[error("{0} pieces on disk could not be trusted and will be fetched again")]
    Untrusted(u32),
}

/// What a store tells, from its own threads. A handler must not block and must not drop the store.
#[derive(Debug)]
pub enum Event {
    /// All blocks of a piece have arrived and were judged.
    Piece {
        /// The piece.
        piece: PieceIndex,
        /// The judgement.
        verdict: Verdict,
    },
    /// What [`crate::Store::learn`] told of these pieces holds from now on: those that were held and differ were dropped,
    /// each with an [`Event::Piece`] before this one.
    Learnt {
        /// The pieces.
        pieces: Vec<PieceIndex>,
    },
    /// A held piece is in the file: it survives a crash of this process.
    Written {
        /// The piece.
        piece: PieceIndex,
    },
    /// Every piece is held and in the file, and the digest of the whole is there if it was asked for. The file has
    /// not got its final name: that happens on [`crate::Store::finish`], at once if it was called before.
    /// Comes again when a piece was [forgotten](crate::Store::forget) and fetched again.
    Complete {
        /// SHA-256 of the whole file; `None` unless asked for.
        sha256: Option<Sha256>,
    },
    /// The file has its final name, and all is durable. From now on the store only reads.
    Finished {
        /// The final path.
        path: PathBuf,
        /// SHA-256 of the whole file; `None` unless asked for.
        sha256: Option<Sha256>,
        /// How to know the file again without hashing it: see [`crate::Store::seed`].
        stamp: FileStamp,
    },
    /// The disk refused. Nothing is lost; nothing more is written until [`crate::Store::retry`].
    Failed {
        /// What, where, and what helps.
        error: StoreError,
        /// False when trying again in this process cannot help.
        retryable: bool,
    },
}

/// What hashing a piece said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The piece is held: it can be read and passed on.
    Good {
        /// What was computed of it: with [`Hashes::Unknown`] nothing.
        digest: PieceDigest,
        /// The SHA-1 of each block if this piece was bad before, else empty: compare with those of the bad one to
        /// tell who sent the wrong blocks.
        blocks: Vec<Sha1>,
    },
    /// The hash differs: all blocks of the piece were discarded.
    Bad {
        /// The SHA-1 of each block; empty when a piece held for long turned out bad.
        blocks: Vec<Sha1>,
    },
}

/// What tells a file from a changed one without reading it; of a folder, the same of all its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// Its length in bytes; of a folder the sum.
    pub length: u64,
    /// When its bytes last changed; of a folder the latest time.
    pub modified: SystemTime,
    /// Its number in its file system; of a folder a digest over the stamps of its files.
    pub inode: u64,
}

impl FileStamp {
    /// The stamp of the content at `path` now.
    pub(crate) fn of(path: &Path, layout: &Layout) -> Result<Self, StoreError> {
        let Some(files) = layout.files() else {
            return Self::of_file(path);
        };
        let mut stamp = Self {
            length: 0,
            modified: SystemTime::UNIX_EPOCH,
            inode: 0,
        };
        let mut all = Vec::new();
        for file in files {
            let file = Self::of_file(&path.join(file.path_text()))?;
            stamp.length = stamp.length.saturating_add(file.length);
            stamp.modified = stamp.modified.max(file.modified);
            let since = file.modified.duration_since(SystemTime::UNIX_EPOCH);
            all.extend(file.length.to_be_bytes());
            all.extend(since.unwrap_or_default().as_nanos().to_be_bytes());
            all.extend(file.inode.to_be_bytes());
        }
        let digest = floodway_proto::digest::sha256(&all).0;
        stamp.inode = digest[..8].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        Ok(stamp)
    }

    fn of_file(path: &Path) -> Result<Self, StoreError> {
        let stamp = || -> std::io::Result<Self> {
            let data = std::fs::metadata(path)?;
            Ok(Self {
                length: data.len(),
                modified: data.modified()?,
                inode: data.ino(),
            })
        };
        stamp().map_err(|error| StoreError::new(path, "examine", error))
    }
}
