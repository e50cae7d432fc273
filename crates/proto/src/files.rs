//! The files of a folder: which lists of paths may reach a disk together.

use std::ops::Range;

use crate::name::folded;
use crate::{NameError, SafeName, percent};

/// The most files of one content. With their validators they must also fit into a [genesis](crate::genesis).
pub const FILES_LIMIT: usize = 32_000;
/// The deepest path of a file: folders and name.
pub const DEPTH_LIMIT: usize = 32;
/// The longest path in bytes, with a separator between its names.
pub const PATH_LENGTH_LIMIT: usize = 1024;
/// Where v1 torrents put the names of pad files (BEP 47); no file may lie there.
pub(crate) const PAD_FOLDER: &str = ".pad";

/// Why paths cannot be the files of one folder. Errors name paths, cut after some 300 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// No file, or more than [`FILES_LIMIT`].
    #[error("a folder has 1 to {FILES_LIMIT} files, not {0}")]
    Count(usize),
    /// No name, or more than [`DEPTH_LIMIT`] of them.
    #[error("`{path}`: a path of {depth} names; 1 to {DEPTH_LIMIT} are allowed")]
    Depth {
        /// Which file.
        path: String,
        /// How many names its path has.
        depth: usize,
    },
    /// Longer than [`PATH_LENGTH_LIMIT`].
    #[error("`{path}`: a path of {length} bytes is longer than the limit of {PATH_LENGTH_LIMIT}")]
    PathLength {
        /// Which file.
        path: String,
        /// Bytes of its path.
        length: usize,
    },
    /// It lies where v1 torrents have their padding.
    #[error("`{0}` lies in `{PAD_FOLDER}`, which torrents use for padding")]
    Pad(String),
    /// Not in ascending order of the paths' names, byte by byte (BEP 52).
    #[error("`{0}` is out of order: files are sorted by their paths")]
    Order(String),
    /// The same path twice, or a file with the path of a folder.
    #[error(
        "`{first}` and `{second}` cannot lie in one folder: they are equal, or one is a folder of the other"
    )]
    Clash {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// Paths that file systems of Windows and macOS take for one.
    #[error(
        "`{first}` and `{second}` are one path on Windows or macOS: they differ only in case or in how Unicode writes the same letters; rename one of them"
    )]
    Alike {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A length that is not known: only a single file may have that.
    #[error("`{0}`: its length is not known")]
    UnknownLength(String),
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

/// A path for an error's text, which must not become as long as what is wrong with it.
pub(crate) fn shown(path: &[SafeName]) -> String {
    path_text(path).chars().take(300).collect()
}

/// Checks that all of these paths can be files of one folder, on file systems that tell no case or normalise names too. Takes
/// about as much memory as the paths have bytes.
///
/// # Errors
/// [`FilesError`] naming the file at fault, or two that cannot lie in one folder.
pub fn check_paths(paths: &[&[SafeName]]) -> Result<(), FilesError> {
    if !(1..=FILES_LIMIT).contains(&paths.len()) {
        return Err(FilesError::Count(paths.len()));
    }
    paths.iter().try_for_each(|path| check_path(path))?;
    check_together(paths)?;
    let pairs = paths.iter().zip(&paths[1..]);
    match pairs.into_iter().find(|(before, path)| before >= path) {
        Some((_, path)) => Err(FilesError::Order(shown(path))),
        None => Ok(()),
    }
}

/// Checks that no path is another one, or a folder of another one, on any file system.
fn check_together(paths: &[&[SafeName]]) -> Result<(), FilesError> {
    // In this order those that begin with the same folders, as such a system knows them, follow each other, after a file that
    // has the name of one of these. So it is enough to compare neighbours.
    let names = |path: &&[SafeName]| {
        let names: Vec<String> = path.iter().map(|name| folded(name.as_str())).collect();
        names.join("\0")
    };
    let mut known: Vec<(String, usize)> = paths.iter().map(names).zip(0..).collect();
    known.sort_unstable();
    for ((one, at), (next, next_at)) in known.iter().zip(&known[1..]) {
        let both = one.split('\0').zip(next.split('\0'));
        let depth = both.take_while(|(one, next)| one == next).count();
        let (first, second) = (paths[*at.min(next_at)], paths[*at.max(next_at)]);
        let is_same = first[..depth] == second[..depth];
        if is_same && depth < first.len() && depth < second.len() {
            continue;
        }
        let (first, second) = (shown(first), shown(second));
        return Err(if is_same {
            FilesError::Clash { first, second }
        } else {
            FilesError::Alike { first, second }
        });
    }
    Ok(())
}

/// What one path must be like, whatever others there are.
fn check_path(path: &[SafeName]) -> Result<(), FilesError> {
    let depth = path.len();
    if !(1..=DEPTH_LIMIT).contains(&depth) {
        let path = shown(path);
        return Err(FilesError::Depth { path, depth });
    }
    let length = path
        .iter()
        .map(|name| name.as_str().len() + 1)
        .sum::<usize>()
        - 1;
    if length > PATH_LENGTH_LIMIT {
        let path = shown(path);
        return Err(FilesError::PathLength { path, length });
    }
    if path[0].as_str().eq_ignore_ascii_case(PAD_FOLDER) {
        return Err(FilesError::Pad(shown(path)));
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
        let clash = |first: &str, second: &str| {
            let (first, second) = (first.into(), second.into());
            Err(FilesError::Clash { first, second })
        };
        assert_eq!(check(&["a", "a"]), clash("a", "a"));
        assert_eq!(check(&["a", "a/b"]), clash("a", "a/b"));
        assert_eq!(check(&["d/a/b", "d/a/c", "d/a"]), clash("d/a/b", "d/a"));
        for (first, second) in [
            ("A", "a"),
            ("A/x", "a/y"),
            ("A/x", "a"),
            ("É", "é"),
            // The same letters, composed and not: macOS keeps one of them.
            ("e\u{301}", "é"),
            ("ü/x", "u\u{308}/x"),
            ("E\u{301}", "é"),
            ("가", "\u{1100}\u{1161}"),
            // What lower case alone does not show.
            ("STRASSE", "straße"),
            ("ΟΔΟΣ", "οδος"),
            ("K", "\u{212a}"),
            ("ﬁle", "FILE"),
            // Marks that Unicode orders.
            ("a\u{323}\u{307}", "a\u{307}\u{323}"),
        ] {
            let mut paths = [first, second];
            paths.sort_unstable();
            let (first, second) = (paths[0].into(), paths[1].into());
            assert_eq!(check(&paths), Err(FilesError::Alike { first, second }));
        }
        assert_eq!(check(&["Kiz", "köz", "kız"]), Ok(()), "other letters");
        let far = ["a/b/c/1", "a/b/c/2", "a/b/d", "a/bb", "a/B/c/3", "a/b!"];
        let first = "a/B/c/3".to_owned();
        let mut paths = far;
        paths.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
        let Err(FilesError::Alike { first: found, .. }) = check(&paths) else {
            panic!("one of them has `B` for `b`");
        };
        assert_eq!(found, first);
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
        assert_eq!(check(&["b", "a"]), Err(FilesError::Order("a".into())));
        // In order of the names, not of the text: `a/b` comes before `a.x`.
        assert_eq!(check(&["a.x", "a/b"]), Err(FilesError::Order("a/b".into())));
        assert_eq!(check(&[".pad/5"]), Err(FilesError::Pad(".pad/5".into())));
        let depth = DEPTH_LIMIT + 1;
        let deep = vec!["d"; depth].join("/");
        let path = deep.clone();
        assert_eq!(check(&[&deep]), Err(FilesError::Depth { path, depth }));
        let long = ["n".repeat(200).as_str(); 6].join("/");
        let length = long.len();
        let path = long[..300].to_owned();
        let error = FilesError::PathLength { path, length };
        assert_eq!(check(&[&long]), Err(error));
        let many: Vec<String> = (0..=FILES_LIMIT).map(|n| format!("{n:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(check(&many), Err(FilesError::Count(FILES_LIMIT + 1)));
        assert_eq!(check(&many[1..]), Ok(()));
    }
}
