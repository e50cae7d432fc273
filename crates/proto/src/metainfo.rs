//! Torrent files: v1 metainfo of one file, or of a folder whose files are padded to whole pieces (BEP 3, BEP 47, with BEP 12 tracker tiers, BEP 19 web seeds, BEP 27 `private`).
//!
//! Entry: [`Metainfo::decode`] reads and checks, [`Metainfo::new`] makes one from an [`Info`], [`Metainfo::encode`] writes.
//! Invariant: the info-hash is that of the info dict's own bytes, which are kept and written back as they came,
//! never re-encoded.

use std::sync::Arc;

use bytes::Bytes;

use crate::bencode::{self, DecodeError, Dict, FieldError, FieldProblem, Item, Value, required};
use crate::files::{DEPTH_LIMIT, FILES_LIMIT, FilesError};
use crate::torrents::Contents;
use crate::{InfoHash, Layout, LayoutError, NameError, SafeName, Sha1, digest};

/// How many trackers and how many web seeds a torrent may name.
const URLS_LIMIT: usize = 1000;
/// The longest such URL in bytes.
const URL_LENGTH_LIMIT: usize = 4096;
/// The longest comment or program name that is read, in bytes.
const COMMENT_LIMIT: usize = 64 * 1024;

/// Why a torrent file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetainfoError {
    /// It is too long, damaged, or no torrent at all.
    #[error("this is no torrent file: {0}")]
    Bencode(DecodeError),
    /// A field is missing or of a wrong kind.
    #[error("the torrent is malformed: {0}")]
    Field(FieldError),
    /// The name may not reach a disk.
    #[error("the torrent's `info.name` cannot be used: {0}")]
    Name(NameError),
    /// A folder whose files share pieces.
    #[error(
        "`info.files`: torrents of several files are supported only where each is padded to whole pieces (BEP 47) and they are sorted by their paths; this one is not"
    )]
    Unaligned,
    /// A folder's files that cannot lie together.
    #[error("`info.files`: {0}")]
    Files(FilesError),
    /// Only the format of BEP 52.
    #[error(
        "`info.meta version` is {0} and there are no v1 `pieces`: v2-only torrents are not supported yet"
    )]
    V2Only(i64),
    /// The piece length does not suit the engine.
    #[error("the torrent's `info.piece length` is not supported: {0}")]
    PieceLength(LayoutError),
    /// `pieces` is not what length and piece length ask for.
    #[error(
        "`info.pieces` has {found} bytes; {length} bytes in pieces of {piece_length} need {expected}"
    )]
    Pieces {
        /// Bytes of `pieces`.
        found: usize,
        /// Bytes it must have: 20 a piece.
        expected: u64,
        /// The content's length in bytes.
        length: u64,
        /// The piece length in bytes.
        piece_length: u32,
    },
}

/// What a v1 torrent says of its files: the values of the info dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The file's name, or the folder's.
    pub name: SafeName,
    /// The length in bytes, of all files of a folder but without their padding.
    pub length: u64,
    /// Path and length in bytes of each file of a folder, sorted by the paths' names; none for a single file.
    pub files: Vec<(Vec<SafeName>, u64)>,
    /// The length of every piece but perhaps the last of a file, in bytes.
    pub piece_length: u32,
    /// SHA-1 of each piece; in a folder with zeros after a file's end.
    pub pieces: Arc<[Sha1]>,
    /// BEP 27: peers only from the torrent's own trackers.
    pub private: bool,
}

/// A torrent file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    /// What the info dict says.
    pub info: Info,
    /// The info dict's own bytes.
    pub raw_info: Bytes,
    /// SHA-1 of [`raw_info`](Self::raw_info).
    pub info_hash: InfoHash,
    /// Trackers by tier (BEP 12): tiers in order, within a tier any order.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds: URLs of the same file (BEP 19).
    pub web_seeds: Vec<String>,
    /// For people.
    pub comment: Option<String>,
    /// The program that made it.
    pub created_by: Option<String>,
    /// When it was made: seconds since 1970.
    pub creation_date: Option<u64>,
}

impl Info {
    /// How the content divides into files and pieces.
    ///
    /// # Errors
    /// [`LayoutError`] when the piece length is no multiple of 16 KiB up to 64 MiB, or the files cannot lie in one folder. A
    /// decoded `Info` has passed this.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        if self.files.is_empty() {
            return Layout::new(Some(self.length), self.piece_length);
        }
        Layout::folder(self.files.iter().cloned(), self.piece_length)
    }

    fn read(dict: &Dict<'_>) -> Result<Self, MetainfoError> {
        let field = |error: FieldError| MetainfoError::Field(error.within("info"));
        let pieces = dict.bytes("pieces").map_err(field)?;
        if let (None, Some(version)) = (pieces, dict.integer("meta version").map_err(field)?) {
            return Err(MetainfoError::V2Only(version));
        }
        // Old clients put the name in another encoding under `name`.
        let key = if dict.get("name.utf-8").is_some() {
            "name.utf-8"
        } else {
            "name"
        };
        let name = required(key, dict.text(key, COMMENT_LIMIT).map_err(field)?).map_err(field)?;
        let name = SafeName::new(name).map_err(MetainfoError::Name)?;
        let piece_length = dict.number::<u32>("piece length").map_err(field)?;
        let piece_length = required("piece length", piece_length).map_err(field)?;
        let pieces = required("pieces", pieces).map_err(field)?;
        let (hashes, _) = pieces.as_chunks::<20>();
        let mut info = Self {
            name,
            length: 0,
            files: Vec::new(),
            piece_length,
            pieces: hashes.iter().copied().map(Sha1).collect(),
            private: dict.integer("private").map_err(field)? == Some(1),
        };
        if let Some(files) = dict.list("files", 2 * FILES_LIMIT).map_err(field)? {
            info.read_files(files)?;
        } else {
            let length = dict.number::<u64>("length").map_err(field)?;
            info.length = required("length", length).map_err(field)?;
        }
        info.check(pieces.len())?;
        Ok(info)
    }

    /// Reads the files of a folder: each filled up to whole pieces by a pad file (BEP 47).
    fn read_files(&mut self, list: &[Value<'_>]) -> Result<(), MetainfoError> {
        let field = |error: FieldError| MetainfoError::Field(error.within("info.files"));
        Layout::new(None, self.piece_length).map_err(MetainfoError::PieceLength)?;
        // Bytes that a pad file must have before the next file may come.
        let mut lacking = 0;
        for value in list {
            let not_dict = || field(FieldError::new("files", FieldProblem::NotDict));
            let dict = value.as_dict().ok_or_else(not_dict)?;
            let length = dict.number::<u64>("length").map_err(field)?;
            let length = required("length", length).map_err(field)?;
            let attributes = dict.text("attr", COMMENT_LIMIT).map_err(field)?;
            if attributes.is_some_and(|attributes| attributes.contains('p')) {
                if length != lacking {
                    return Err(MetainfoError::Unaligned);
                }
                lacking = 0;
                continue;
            }
            let path = dict.list("path", DEPTH_LIMIT).map_err(field)?;
            let not_text = || field(FieldError::new("path", FieldProblem::NotText));
            let names = required("path", path).map_err(field)?.iter().map(|name| {
                let name = name.as_text().ok_or_else(not_text)?;
                SafeName::new(name).map_err(MetainfoError::Name)
            });
            let path = names.collect::<Result<Vec<_>, _>>()?;
            if lacking > 0 {
                return Err(MetainfoError::Unaligned);
            }
            let piece = u64::from(self.piece_length);
            lacking = (piece - length % piece) % piece;
            let sum = self.length.checked_add(length);
            self.length = sum.ok_or(MetainfoError::Files(FilesError::Length))?;
            self.files.push((path, length));
        }
        if self.files.is_empty() {
            return Err(MetainfoError::Files(FilesError::Count(0)));
        }
        if lacking > 0 {
            return Err(MetainfoError::Unaligned);
        }
        Ok(())
    }

    /// Checks sizes and names against the bytes of `pieces`.
    fn check(&self, found: usize) -> Result<(), MetainfoError> {
        let layout = self.layout().map_err(|error| match error {
            LayoutError::Files(FilesError::Order(_)) => MetainfoError::Unaligned,
            LayoutError::Files(error) => MetainfoError::Files(error),
            error => MetainfoError::PieceLength(error),
        })?;
        let expected = u64::from(layout.piece_count()) * 20;
        if u64::try_from(found) == Ok(expected) {
            return Ok(());
        }
        Err(MetainfoError::Pieces {
            found,
            expected,
            length: self.length,
            piece_length: self.piece_length,
        })
    }
}

/// The info dict of `info` in its one canonical encoding, the one libtorrent makes too.
pub fn info_bytes(info: &Info) -> Vec<u8> {
    let files = if info.files.is_empty() {
        vec![(vec![info.name.clone()], info.length)]
    } else {
        info.files.clone()
    };
    let contents = Contents {
        name: info.name.clone(),
        files,
        piece_length: info.piece_length,
        private: info.private,
        source: String::new(),
    };
    contents.v1_dict(&info.pieces)
}

impl Metainfo {
    /// A torrent of `info` without trackers, web seeds and comments: set those fields as wanted.
    ///
    /// # Errors
    /// [`MetainfoError`] when the piece length does not suit the engine, the files cannot lie in one folder, or the number of
    /// hashes does not fit the length.
    pub fn new(info: Info) -> Result<Self, MetainfoError> {
        info.check(info.pieces.len() * 20)?;
        let raw_info = Bytes::from(info_bytes(&info));
        Ok(Self {
            info,
            info_hash: InfoHash(digest::sha1(&raw_info).0),
            raw_info,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            comment: None,
            created_by: None,
            creation_date: None,
        })
    }

    /// Reads a torrent file and checks all of it.
    ///
    /// # Errors
    /// [`MetainfoError`] naming the field: all are faults of the file, or of what Floodway supports yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetainfoError> {
        let value =
            bencode::decode(bytes, &bencode::Limits::TORRENT).map_err(MetainfoError::Bencode)?;
        let not_dict = || FieldError::new("torrent", FieldProblem::NotDict);
        let dict = value
            .as_dict()
            .ok_or_else(not_dict)
            .map_err(MetainfoError::Field)?;
        let info = dict.get("info").filter(|info| info.as_dict().is_some());
        let (Some(raw), Some(info)) = (info, info.and_then(Value::as_dict)) else {
            let info = dict.dict("info").and_then(|info| required("info", info));
            return Err(MetainfoError::Field(info.err().unwrap_or_else(not_dict)));
        };
        let info = Info::read(info)?;
        let raw_info = Bytes::copy_from_slice(raw.raw());
        Self::read(dict, info, raw_info).map_err(MetainfoError::Field)
    }

    fn read(dict: &Dict<'_>, info: Info, raw_info: Bytes) -> Result<Self, FieldError> {
        Ok(Self {
            info,
            info_hash: InfoHash(digest::sha1(&raw_info).0),
            raw_info,
            trackers: read_trackers(dict)?,
            web_seeds: read_web_seeds(dict)?,
            comment: remark(dict, "comment"),
            created_by: remark(dict, "created by"),
            creation_date: dict.number("creation date").ok().flatten(),
        })
    }

    /// The torrent file. Reading it back gives the same value, and the same value gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        let tiers = self.trackers.iter().filter(|tier| !tier.is_empty());
        let first = tiers.clone().flatten().next();
        // One tracker needs no tiers, and old clients read only `announce`.
        let tiers = (tiers.clone().flatten().count() > 1)
            .then(|| Item::List(tiers.map(|tier| urls(tier)).collect()));
        Item::dict_of_some([
            ("announce", first.map(|url| Item::text(url))),
            ("announce-list", tiers),
            ("comment", self.comment.as_deref().map(Item::text)),
            ("created by", self.created_by.as_deref().map(Item::text)),
            ("creation date", self.creation_date.map(Item::Integer)),
            ("info", Some(Item::Raw(&self.raw_info))),
            (
                "url-list",
                (!self.web_seeds.is_empty()).then(|| urls(&self.web_seeds)),
            ),
        ])
        .encode()
    }
}

fn urls(urls: &[String]) -> Item<'_> {
    Item::List(urls.iter().map(|url| Item::text(url)).collect())
}

/// Text for people, of no consequence: what cannot be read is repaired or left out.
fn remark(dict: &Dict<'_>, key: &str) -> Option<String> {
    let text = dict.get(key)?.as_bytes()?;
    let text = &text[..text.len().min(COMMENT_LIMIT)];
    Some(String::from_utf8_lossy(text).into_owned())
}

/// `announce-list` if it names anything, else `announce` (BEP 12).
fn read_trackers(dict: &Dict<'_>) -> Result<Vec<Vec<String>>, FieldError> {
    const LIST: &str = "announce-list";
    let mut tiers = Vec::new();
    let mut left = URLS_LIMIT;
    for tier in dict.list(LIST, URLS_LIMIT)?.unwrap_or_default() {
        let tier = tier
            .as_list()
            .ok_or_else(|| FieldError::new(LIST, FieldProblem::NotList))?;
        let tier = read_urls(LIST, tier)?;
        let Some(rest) = left.checked_sub(tier.len()) else {
            return Err(FieldError::new(LIST, FieldProblem::TooLong(URLS_LIMIT)));
        };
        left = rest;
        if !tier.is_empty() {
            tiers.push(tier);
        }
    }
    if tiers.is_empty() {
        let announce = dict.text("announce", URL_LENGTH_LIMIT)?.map(str::trim);
        tiers.extend(
            announce
                .filter(|url| !url.is_empty())
                .map(|url| vec![url.to_owned()]),
        );
    }
    Ok(tiers)
}

/// `url-list` is a list, or a single string.
fn read_web_seeds(dict: &Dict<'_>) -> Result<Vec<String>, FieldError> {
    const LIST: &str = "url-list";
    match dict.get(LIST) {
        None => Ok(Vec::new()),
        Some(value) if value.as_bytes().is_some() => read_urls(LIST, std::slice::from_ref(value)),
        Some(_) => read_urls(LIST, dict.list(LIST, URLS_LIMIT)?.unwrap_or_default()),
    }
}

/// The URLs among `values`; empty ones, which some programs write, are left out.
fn read_urls(field: &str, values: &[Value<'_>]) -> Result<Vec<String>, FieldError> {
    let mut urls = Vec::new();
    for value in values {
        let url = value
            .as_text()
            .ok_or_else(|| FieldError::new(field, FieldProblem::NotText))?;
        if url.len() > URL_LENGTH_LIMIT {
            return Err(FieldError::new(
                field,
                FieldProblem::TooLong(URL_LENGTH_LIMIT),
            ));
        }
        let url = url.trim();
        if !url.is_empty() {
            urls.push(url.to_owned());
        }
    }
    Ok(urls)
}

#[cfg(test)]
mod tests;
