//! What can go wrong with bytes on disk, whose fault it was and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use floodway_proto::PieceIndex;
use rustix::io::Errno;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The layout has no length yet: a store needs it to lay out the file.
    #[error("the length of `{target}` is not known yet; a store needs it", target = .0.display())]
    LengthUnknown(PathBuf),
    /// Not one hash for each piece.
    #[error("{found} piece hashes were given for {expected} pieces")]
    HashCount {
        /// Pieces in the layout.
        expected: u32,
        /// Hashes given.
        found: usize,
    },
    /// The target is no path of a file.
    #[error("`{path}` cannot be the name of a file: give a file name", path = .0.display())]
    NotAFileName(PathBuf),
    /// The folder of the target does not exist or is no folder.
    #[error("the folder `{path}` does not exist; create it first", path = .0.display())]
    NoFolder(PathBuf),
    /// A folder has the target's name.
    #[error("`{path}` is a folder; give a file name in it", path = .0.display())]
    IsFolder(PathBuf),
    /// Another process works on the same target.
    #[error("another process is already downloading `{path}`; wait for it or choose another name", path = .0.display())]
    Locked(PathBuf),
    /// A file is there already, and nothing tells whether it is the same content.
    #[error("`{path}` already exists; remove it, choose another name with -o, or use --overwrite", path = .0.display())]
    TargetExists(PathBuf),
    /// A file is there already, and it is another one.
    #[error("`{path}` already exists and differs from this content; remove it, choose another name with -o, or use --overwrite", path = .0.display())]
    TargetDiffers(PathBuf),
    /// Something is there already where a folder is to be, and it is not (known to be) the same content.
    #[error("`{path}` already exists and is not known to be this content; remove it, or choose another place with -o", path = .0.display())]
    FolderExists(PathBuf),
    /// A file to be seeded has another length than its content.
    #[error("`{path}` has {found} bytes, but the content has {expected}: it is another file", path = .path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The content's length in bytes.
        expected: u64,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] StoreError),
}

/// Why bytes could not be read from a store.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The piece is not held (yet, or no more).
    #[error("piece {} is not held here", .0.0)]
    NotHeld(PieceIndex),
    /// The range ends beyond the content, or does not have the length of the buffer.
    #[error("bytes {start}..{end} are not a readable range of this content")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// The byte behind the last one asked for.
        end: u64,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] StoreError),
}

/// A system call on one file that failed: what was tried, where, and what helps.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} `{path}`: {source}{hint}", path = .path.display(), hint = hint(.source))]
pub struct StoreError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was tried, as a verb: `write`, `rename`.
    pub action: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    pub(crate) fn new(path: &Path, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self {
            path: path.to_owned(),
            action,
            source: source.into(),
        }
    }

    /// True when there is no room left: a full disk, or the quota or file-size limit of the user.
    pub fn is_full(&self) -> bool {
        let errno = Errno::from_io_error(&self.source);
        matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
    }

    /// True when somebody can make room or give permission, and nothing is lost until then.
    pub fn is_retryable(&self) -> bool {
        let errno = Errno::from_io_error(&self.source);
        let is_permission = matches!(errno, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS));
        self.is_full() || is_permission
    }

    /// True when the target's name was taken by another file meanwhile.
    pub fn is_target_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// What to do next, by the kind of failure.
fn hint(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC) => "; free some space there, nothing is lost",
        Some(Errno::DQUOT) => "; free some of your quota there, nothing is lost",
        Some(Errno::FBIG) => "; the file-size limit there is too small for this file",
        Some(Errno::ACCESS | Errno::PERM) => "; make it writable for this user",
        Some(Errno::ROFS) => "; make the file system writable",
        Some(Errno::IO) => "; the disk reports an error, check it",
        Some(Errno::EXIST) => "; another file took that name meanwhile, move one of them away",
        _ => "",
    }
}
