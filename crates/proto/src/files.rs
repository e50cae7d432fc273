//! The files of a folder: which lists of paths may reach a disk together.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{NameError, SafeName, percent};

/// The most files of one content. With their validators they must also fit into a genesis.
pub const FILES_LIMIT: usize = 1000;
/// The deepest path of a file: folders and name.
pub const DEPTH_LIMIT: usize = 32;
/// The longest path in bytes, with a separator between its names.
pub const PATH_LENGTH_LIMIT: usize = 1024;
/// Where v1 torrents put the names of pad files (BEP 47); no file may lie there.
pub(crate) const PAD_FOLDER: &str = ".pad";

/// Why paths cannot be the files of one folder. Files are counted from 0 in the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// No file, or more than [`FILES_LIMIT`].
    #[error("a folder has 1 to {FILES_LIMIT} files, not {0}")]
    Count(usize),
    /// No name, or more than [`DEPTH_LIMIT`] of them.
    #[error("the path of file {file} has {depth} names; 1 to {DEPTH_LIMIT} are allowed")]
    Depth {
        /// Which file.
        file: usize,
        /// How many names its path has.
        depth: usize,
    },
    /// Longer than [`PATH_LENGTH_LIMIT`].
    #[error(
        "the path of file {file} has {length} bytes, more than the limit of {PATH_LENGTH_LIMIT}"
    )]
    PathLength {
        /// Which file.
        file: usize,
        /// Bytes of its path.
        length: usize,
    },
    /// It lies where v1 torrents have their padding.
    #[error("file {0} lies in `{PAD_FOLDER}`, which torrents use for padding")]
    Pad(usize),
    /// Not in ascending order of the paths' names, byte by byte (BEP 52).
    #[error("file {0} is out of order: files are sorted by their paths")]
    Order(usize),
    /// The same path twice, a file with the path of a folder, or paths that differ only in case.
    #[error(
        "file {first} and file {second} cannot lie in one folder: their paths are equal, differ only in case, or one is a folder of the other"
    )]
    Clash {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A length that is not known: only a single file may have that.
    #[error("the length of file {0} is not known")]
    UnknownLength(usize),
    /// More bytes than can be counted.
    #[error("the files are too long together")]
    Length,
}

/// A file of a folder, and where its bytes and pieces lie within the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpan {
    /// Folders and name within the content's folder.
    pub path: Vec<SafeName>,
    /// Its bytes: those of the files follow each other without a gap.
    pub bytes: Range<u64>,
    /// Its pieces: none for an empty file. Each file begins with a new piece (BEP 52).
    pub pieces: Range<u32>,
}

impl FileSpan {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// Its path within the folder, names separated by `/`.
    pub fn path_text(&self) -> String {
        path_text(&self.path)
    }
}

/// A path as text, names separated by `/`.
pub fn path_text(path: &[SafeName]) -> String {
    let names: Vec<&str> = path.iter().map(SafeName::as_str).collect();
    names.join("/")
}

/// Reads a path as it is written in lists of files: names separated by `/`, none before the first and none after the last.
///
/// # Errors
/// [`NameError`] of the first name that may not reach a disk: `..`, an empty one, …
pub fn parse_path(text: &str) -> Result<Vec<SafeName>, NameError> {
    text.split('/').map(SafeName::new).collect()
}

/// What a folder's URL, which ends in `/`, is followed by in the URL of the file with this path: percent-encoded.
pub fn url_suffix(path: &[SafeName]) -> String {
    let mut suffix = String::new();
    for (at, name) in path.iter().enumerate() {
        if at > 0 {
            suffix.push('/');
        }
        percent::encode_into(name.as_str().as_bytes(), &mut suffix);
    }
    suffix
}

/// Checks that all of these paths can be files of one folder, on file systems that tell no case too.
///
/// # Errors
/// [`FilesError`] naming the first file at fault.
pub fn check_paths(paths: &[&[SafeName]]) -> Result<(), FilesError> {
    if !(1..=FILES_LIMIT).contains(&paths.len()) {
        return Err(FilesError::Count(paths.len()));
    }
    // Of each file and folder, without its case: how it is written, which file it comes from, and whether it is one.
    let mut seen: BTreeMap<String, (String, usize, bool)> = BTreeMap::new();
    for (file, path) in paths.iter().enumerate() {
        let depth = path.len();
        if !(1..=DEPTH_LIMIT).contains(&depth) {
            return Err(FilesError::Depth { file, depth });
        }
        let length = path_text(path).len();
        if length > PATH_LENGTH_LIMIT {
            return Err(FilesError::PathLength { file, length });
        }
        if path[0].as_str().eq_ignore_ascii_case(PAD_FOLDER) {
            return Err(FilesError::Pad(file));
        }
        for end in 1..=depth {
            let (text, is_file) = (path_text(&path[..end]), end == depth);
            let entry = seen.entry(text.to_lowercase());
            let (written, first, was_file) = entry.or_insert_with(|| (text.clone(), file, is_file));
            let is_shared_folder = *written == text && !is_file && !*was_file;
            if *first != file && !is_shared_folder {
                let (first, second) = (*first, file);
                return Err(FilesError::Clash { first, second });
            }
        }
        if file > 0 && paths[file - 1] >= *path {
            return Err(FilesError::Order(file));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Result<(), FilesError> {
        let name = |name| SafeName::new(name).unwrap();
        let paths: Vec<Vec<SafeName>> = paths
            .iter()
            .map(|path| path.split('/').map(name).collect())
            .collect();
        let paths: Vec<&[SafeName]> = paths.iter().map(Vec::as_slice).collect();
        check_paths(&paths)
    }

    #[test]
    fn folders_may_share_their_parents() {
        assert_eq!(check(&["a"]), Ok(()));
        assert_eq!(check(&["a/b/x", "a/b/y", "a/c", "a.x", "b"]), Ok(()));
    }

    #[test]
    fn paths_that_meet_on_some_disk_are_refused() {
        let clash = |first, second| Err(FilesError::Clash { first, second });
        assert_eq!(check(&["a", "a"]), clash(0, 1));
        assert_eq!(check(&["a", "a/b"]), clash(0, 1));
        assert_eq!(check(&["A", "a"]), clash(0, 1));
        assert_eq!(check(&["A/x", "a/y"]), clash(0, 1));
        assert_eq!(check(&["A/x", "a"]), clash(0, 1));
        assert_eq!(check(&["É", "é"]), clash(0, 1));
    }

    #[test]
    fn paths_are_read_and_become_urls() {
        let path = parse_path("a b/ü#1/x.bin").unwrap();
        assert_eq!(path_text(&path), "a b/ü#1/x.bin");
        assert_eq!(url_suffix(&path), "a%20b/%C3%BC%231/x.bin");
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\\b", "NUL"] {
            assert!(parse_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_folder_has_is_refused() {
        assert_eq!(check_paths(&[]), Err(FilesError::Count(0)));
        assert_eq!(check(&["b", "a"]), Err(FilesError::Order(1)));
        // In order of the names, not of the text: `a/b` comes before `a.x`.
        assert_eq!(check(&["a.x", "a/b"]), Err(FilesError::Order(1)));
        assert_eq!(check(&[".pad/5"]), Err(FilesError::Pad(0)));
        let depth = DEPTH_LIMIT + 1;
        let deep = vec!["d"; depth].join("/");
        assert_eq!(check(&[&deep]), Err(FilesError::Depth { file: 0, depth }));
        let long = ["n".repeat(200).as_str(); 6].join("/");
        let length = long.len();
        let error = FilesError::PathLength { file: 0, length };
        assert_eq!(check(&[&long]), Err(error));
        let many: Vec<String> = (0..=FILES_LIMIT).map(|n| format!("{n:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(check(&many), Err(FilesError::Count(FILES_LIMIT + 1)));
        assert_eq!(check(&many[1..]), Ok(()));
    }
}
