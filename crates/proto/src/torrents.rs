//! The standard torrents of a content whose pieces are all known: info dicts in v1, v2 (BEP 52) and hybrid form.
//!
//! Entry: [`Contents`]. Every info dict is a pure function of the genesis, the lengths and the hashes, so everybody who
//! knows these makes the same, with the same info-hash: [`Contents::verify`] compares them with what control signed.

use std::collections::BTreeMap;

use crate::bencode::Item;
use crate::facts::FactStore;
use crate::files::PAD_FOLDER;
use crate::genesis::Genesis;
use crate::merkle::Tree;
use crate::record::{FinalNames, ROOTS_LIMIT};
use crate::{InfoHash, Layout, SafeName, Sha1, Sha256, digest};

/// Why final names do not fit a content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// A file's length is not known yet.
    #[error("the content's length is not known")]
    Length,
    /// The names speak of more or fewer files.
    #[error("the names have {found} roots, but the content has {expected} files")]
    Files {
        /// How many roots there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A file's root is another than its pieces fold to.
    #[error("the root of file {0} is not that of its pieces")]
    Root(u16),
    /// A torrent has another info-hash.
    #[error("the {0} info-hash is not that of the content")]
    InfoHash(&'static str),
    /// More or fewer SHA-1 digests than pieces.
    #[error("{found} SHA-1 digests do not make a torrent of {expected} pieces")]
    Pieces {
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: u64,
    },
}

/// What torrents of a content say beside its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The content's name: of the file, or of the folder.
    pub name: SafeName,
    /// Path within the folder, and length in bytes, of each file, in ascending order of the paths' segments (BEP 52). A
    /// single file with just the content's name is no folder.
    pub files: Vec<(Vec<SafeName>, u64)>,
    /// Bytes in a piece: a power of two, for v2.
    pub piece_length: u32,
    /// BEP 27.
    pub private: bool,
    /// The info dict's `source`; none if empty.
    pub source: String,
}

/// A folder of the v2 file tree.
#[derive(Default)]
struct Folder<'a> {
    folders: BTreeMap<&'a str, Self>,
    files: BTreeMap<&'a str, (u64, Option<&'a Sha256>)>,
}

impl<'a> Folder<'a> {
    fn insert(&mut self, path: &'a [SafeName], file: (u64, Option<&'a Sha256>)) {
        match path {
            [] => {}
            [name] => {
                self.files.insert(name.as_str(), file);
            }
            [folder, rest @ ..] => {
                let folder = self.folders.entry(folder.as_str()).or_default();
                folder.insert(rest, file);
            }
        }
    }

    fn item(&self) -> Item<'a> {
        let files = self.files.iter().map(|(&name, &(length, root))| {
            let properties = Item::dict_of_some([
                ("length", Some(Item::Integer(length))),
                ("pieces root", root.map(|root| Item::Bytes(&root.0))),
            ]);
            (name, Item::dict([("", properties)]))
        });
        let folders = self
            .folders
            .iter()
            .map(|(&name, folder)| (name, folder.item()));
        Item::dict(files.chain(folders))
    }
}

impl Contents {
    /// What torrents of a content say, once its length is known.
    ///
    /// # Errors
    /// [`NamesError::Length`] when it is not.
    pub fn of(genesis: &Genesis, facts: &FactStore) -> Result<Self, NamesError> {
        let files = (0..=u16::MAX).zip(&genesis.files).map(|(index, file)| {
            let length = facts.space().file_length(index);
            Ok((file.path.clone(), length.ok_or(NamesError::Length)?))
        });
        Ok(Self {
            name: genesis.name.clone(),
            files: files.collect::<Result<_, _>>()?,
            piece_length: genesis.piece_length,
            private: genesis.final_torrents.private,
            source: genesis.final_torrents.source.clone(),
        })
    }

    /// The length, if this is a single file and no folder.
    fn single(&self) -> Option<u64> {
        match &self.files[..] {
            [(path, length)] if *path == [self.name.clone()] => Some(*length),
            _ => None,
        }
    }

    /// How many pieces there are in all.
    pub fn piece_count(&self) -> u64 {
        let pieces = self
            .files
            .iter()
            .map(|(_, length)| length.div_ceil(self.piece_length.into()));
        pieces.sum()
    }

    /// What all info dicts have.
    fn common(&self) -> [(&'static str, Option<Item<'_>>); 4] {
        let source = (!self.source.is_empty()).then(|| Item::text(&self.source));
        [
            ("name", Some(Item::text(self.name.as_str()))),
            (
                "piece length",
                Some(Item::Integer(self.piece_length.into())),
            ),
            ("private", self.private.then(|| Item::flag(true))),
            ("source", source),
        ]
    }

    fn v1_keys<'a>(
        &'a self,
        pieces: &'a [u8],
        pads: &'a [String],
    ) -> [(&'static str, Option<Item<'a>>); 3] {
        let length = self.single();
        let files = length.is_none().then(|| self.v1_files(pads));
        [
            ("files", files),
            ("length", length.map(Item::Integer)),
            ("pieces", Some(Item::Bytes(pieces))),
        ]
    }

    /// The files, each filled up to whole pieces by a pad file (BEP 47), as libtorrent does it.
    fn v1_files<'a>(&'a self, pads: &'a [String]) -> Item<'a> {
        let mut items = Vec::new();
        for (at, (path, length)) in self.files.iter().enumerate() {
            let path = path.iter().map(|name| Item::text(name.as_str()));
            items.push(Item::dict([
                ("length", Item::Integer(*length)),
                ("path", Item::List(path.collect())),
            ]));
            let pad = self.pad(*length);
            if pad > 0 {
                let path = vec![Item::text(PAD_FOLDER), Item::text(&pads[at])];
                items.push(Item::dict([
                    ("attr", Item::text("p")),
                    ("length", Item::Integer(pad)),
                    ("path", Item::List(path)),
                ]));
            }
        }
        Item::List(items)
    }

    /// How many bytes a file lacks to whole pieces.
    fn pad(&self, length: u64) -> u64 {
        let pieces = length.div_ceil(self.piece_length.into());
        pieces * u64::from(self.piece_length) - length
    }

    fn pads(&self) -> Vec<String> {
        let lengths = self.files.iter();
        lengths
            .map(|(_, length)| self.pad(*length).to_string())
            .collect()
    }

    fn v2_keys<'a>(&'a self, roots: &'a [Option<Sha256>]) -> [(&'static str, Option<Item<'a>>); 2] {
        let mut tree = Folder::default();
        for ((path, length), root) in self.files.iter().zip(roots) {
            tree.insert(path, (*length, root.as_ref()));
        }
        [
            ("file tree", Some(tree.item())),
            ("meta version", Some(Item::Integer(2))),
        ]
    }

    fn check_pieces(&self, sha1s: &[Sha1]) -> Result<(), NamesError> {
        let expected = self.piece_count();
        if sha1s.len() as u64 != expected {
            let found = sha1s.len();
            return Err(NamesError::Pieces { found, expected });
        }
        Ok(())
    }

    fn check_roots(&self, roots: &[Option<Sha256>]) -> Result<(), NamesError> {
        let (found, expected) = (roots.len(), self.files.len());
        if found != expected {
            return Err(NamesError::Files { found, expected });
        }
        Ok(())
    }

    /// The info dict of the v1 torrent. In a folder each SHA-1 is of a whole piece, with zeros after a file's end.
    ///
    /// # Errors
    /// [`NamesError::Pieces`] when there is not one for each piece.
    pub fn v1_info(&self, sha1s: &[Sha1]) -> Result<Vec<u8>, NamesError> {
        self.check_pieces(sha1s)?;
        Ok(self.v1_dict(sha1s))
    }

    /// The same without counting the pieces.
    pub(crate) fn v1_dict(&self, sha1s: &[Sha1]) -> Vec<u8> {
        let (pieces, pads) = (joined(sha1s), self.pads());
        let keys = self.v1_keys(&pieces, &pads);
        Item::dict_of_some(self.common().into_iter().chain(keys)).encode()
    }

    /// The info dict of the v2-only torrent, from BEP 52's root of each file; an empty file has none.
    ///
    /// # Errors
    /// [`NamesError::Files`] when there is not one for each file.
    pub fn v2_info(&self, roots: &[Option<Sha256>]) -> Result<Vec<u8>, NamesError> {
        self.check_roots(roots)?;
        let keys = self.common().into_iter().chain(self.v2_keys(roots));
        Ok(Item::dict_of_some(keys).encode())
    }

    /// The info dict of the hybrid torrent.
    ///
    /// # Errors
    /// As [`v1_info`](Self::v1_info) and [`v2_info`](Self::v2_info).
    pub fn hybrid_info(
        &self,
        sha1s: &[Sha1],
        roots: &[Option<Sha256>],
    ) -> Result<Vec<u8>, NamesError> {
        self.check_roots(roots)?;
        self.check_pieces(sha1s)?;
        let (pieces, pads) = (joined(sha1s), self.pads());
        let keys = self.common().into_iter();
        let keys = keys
            .chain(self.v1_keys(&pieces, &pads))
            .chain(self.v2_keys(roots));
        Ok(Item::dict_of_some(keys).encode())
    }

    /// The layer of a file's root, and whether it lies below the piece layer. `None` for an empty file.
    fn root_layer(&self, file: u16) -> Option<(u8, bool)> {
        let (_, length) = self.files.get(usize::from(file))?;
        let tree = Tree::new(&Layout::new(Some(*length), self.piece_length).ok()?).ok()?;
        let layer = tree.root_layer()?;
        Some((layer, layer < tree.piece_layer()))
    }

    /// Of files shorter than a piece: file, layer and root that `names` give. They do not follow from the hash of the
    /// piece, but lead to it.
    ///
    /// # Errors
    /// [`NamesError`] when the names have no root of such a file.
    pub fn small_roots(&self, names: &FinalNames) -> Result<Vec<(u16, u8, Sha256)>, NamesError> {
        self.check_roots(&names.roots)?;
        let roots = (0..=u16::MAX).zip(&names.roots);
        let small = roots.filter_map(|(file, root)| match self.root_layer(file) {
            Some((layer, true)) => Some((file, layer, root)),
            _ => None,
        });
        small
            .map(|(file, layer, root)| Ok((file, layer, root.ok_or(NamesError::Root(file))?)))
            .collect()
    }

    /// BEP 52's root of each file by the facts; none of an empty file, and of one whose pieces are not all known.
    pub fn roots(&self, facts: &FactStore) -> Vec<Option<Sha256>> {
        let files = (0..=u16::MAX).zip(&self.files);
        files.map(|(file, _)| facts.pieces_root(file)).collect()
    }

    /// True when the names have no roots because there are too many files: they follow from the facts.
    pub fn lacks_roots(&self, names: &FinalNames) -> bool {
        names.roots.is_empty() && self.files.len() > ROOTS_LIMIT
    }

    /// Compares signed names with what follows from the facts. The v1 names need the SHA-1 of every piece: see
    /// [`verify_v1`](Self::verify_v1).
    ///
    /// # Errors
    /// [`NamesError`] naming the first difference.
    pub fn verify(&self, facts: &FactStore, names: &FinalNames) -> Result<(), NamesError> {
        self.check_roots(&names.roots)?;
        for (file, root) in (0..=u16::MAX).zip(&names.roots) {
            let own = self.root_layer(file).and_then(|_| facts.pieces_root(file));
            if own != *root {
                return Err(NamesError::Root(file));
            }
        }
        let info = self.v2_info(&names.roots)?;
        if names.v2.is_some_and(|v2| v2 != digest::sha256(&info)) {
            return Err(NamesError::InfoHash("v2"));
        }
        Ok(())
    }

    /// Compares the signed v1 and hybrid names with what follows from the SHA-1 of every piece. Only then may the content
    /// be offered under them.
    ///
    /// # Errors
    /// [`NamesError`] naming the first difference.
    pub fn verify_v1(&self, names: &FinalNames, sha1s: &[Sha1]) -> Result<(), NamesError> {
        if let Some(v1) = names.v1
            && v1 != InfoHash(digest::sha1(&self.v1_info(sha1s)?).0)
        {
            return Err(NamesError::InfoHash("v1"));
        }
        if let Some(hybrid) = names.hybrid {
            let info = self.hybrid_info(sha1s, &names.roots)?;
            if hybrid != (InfoHash(digest::sha1(&info).0), digest::sha256(&info)) {
                return Err(NamesError::InfoHash("hybrid"));
            }
        }
        Ok(())
    }
}

fn joined(sha1s: &[Sha1]) -> Vec<u8> {
    sha1s.iter().flat_map(|sha1| sha1.0).collect()
}

#[cfg(test)]
mod tests;
