//! The immutable first record of a content; its SHA-256 is the swarm id.
//!
//! Entry: [`Genesis`]. Everything that the info dicts of the final torrents will need is fixed here, before the first
//! byte is fetched. Invariant: one genesis has one encoding, and only that is accepted, so encoding a decoded
//! genesis gives back the very bytes.
//!
//! A genesis of up to 64 KiB is one record, a bencoded dict with the files in it: version 1. One that would be longer has
//! its *list of files* beside the record, which names the list by its SHA-256: version 2. It is written, sent and kept as a
//! bencoded list of both, as strings. In both cases the [`Sid`] is the SHA-256 of the record.

use crate::bencode::{self, DecodeError, Dict, FieldError, FieldProblem, Item, Value, required};
use crate::files::{FILES_LIMIT, FilesError, shown};
use crate::{Layout, LayoutError, NameError, SafeName, Sha256, Sid, digest};

/// The files are in the record.
const WITH_FILES: u32 = 1;
/// The files are listed beside the record.
const WITH_LIST: u32 = 2;
/// The longest record in bytes. A genesis that is no longer has no list beside it, and is passed on with other messages.
pub const RECORD_LIMIT: usize = 64 * 1024;
/// The longest list of files in bytes.
const LIST_LIMIT: usize = 16 * 1024 * 1024;
/// The longest encoded genesis in bytes: the record, and perhaps a list.
pub const GENESIS_LIMIT: usize = RECORD_LIMIT + LIST_LIMIT + 64;
/// The most values in a list of files. A torrent has three more for each file; both then stay below what nodes take.
const LIST_ITEMS_LIMIT: usize = bencode::Limits::TORRENT.items - 3 * FILES_LIMIT - 1000;
/// The longest validator, suffix or source in bytes.
const TEXT_LIMIT: usize = 4096;
/// How many signing keys of control one genesis may name.
const KEYS_LIMIT: usize = 16;
/// The most pieces of a content: libtorrent's limit, 8 TiB in pieces of 4 MiB. It also bounds what a small genesis can make us
/// allocate.
const PIECES_LIMIT: u32 = 1 << 21;
/// The deepest path of a file.
const PATH_LIMIT: usize = 32;

/// Why bytes are no genesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Too long, or no bencoding.
    #[error("this is no genesis: {0}")]
    Bencode(DecodeError),
    /// A field is missing or of a wrong kind.
    #[error("the genesis is malformed: {0}")]
    Field(FieldError),
    /// Made by a newer Floodway.
    #[error(
        "the genesis has version {0}; this Floodway knows versions {WITH_FILES} and {WITH_LIST}"
    )]
    Version(u32),
    /// What lies beside the record is not the list of files that it names.
    #[error("the genesis comes without the list of files that it names")]
    OtherList,
    /// It is not that of the content that was asked for.
    #[error("it is the genesis of another content")]
    OtherContent,
    /// A name that may not reach a disk.
    #[error("the genesis has a name that cannot be used: {0}")]
    Name(NameError),
    /// Pieces that the engine does not take.
    #[error("the genesis' `piece length`: {0}")]
    Layout(LayoutError),
    /// Files that cannot be those of one content.
    #[error("the genesis' `files`: {0}")]
    Files(FilesError),
    /// Pieces without a hash tree.
    #[error("the genesis' `piece length` of {0} bytes is not a power of two")]
    PieceLength(u32),
    /// More pieces than any torrent client takes.
    #[error("the genesis asks for {0} pieces, more than the limit of {PIECES_LIMIT}")]
    TooManyPieces(u32),
    /// The same values in another encoding, or with further keys.
    #[error("the genesis is not in its canonical form")]
    NotCanonical,
}

/// Which torrents are made once the content is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flavors {
    /// A plain v1 torrent: `1`.
    pub v1: bool,
    /// A v2-only torrent (BEP 52): `2`.
    pub v2: bool,
    /// A hybrid: `h`.
    pub hybrid: bool,
}

impl Flavors {
    /// A v1 torrent only.
    pub const V1: Self = Self {
        v1: true,
        v2: false,
        hybrid: false,
    };
    /// A v1 and a v2-only torrent: what every stock client understands one of.
    pub const V1_AND_V2: Self = Self {
        v1: true,
        v2: true,
        hybrid: false,
    };

    fn text(self) -> String {
        let letters = [(self.v1, '1'), (self.v2, '2'), (self.hybrid, 'h')];
        letters
            .into_iter()
            .filter_map(|(on, letter)| on.then_some(letter))
            .collect()
    }

    fn read(text: &str) -> Option<Self> {
        let flavors = Self {
            v1: text.contains('1'),
            v2: text.contains('2'),
            hybrid: text.contains('h'),
        };
        (flavors.text() == text).then_some(flavors)
    }
}

/// What the final torrents say beyond the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalTorrents {
    /// Which ones there are.
    pub flavors: Flavors,
    /// BEP 27.
    pub private: bool,
    /// The info dict's `source`, by which equal contents of different publishers get different info-hashes; none if empty.
    pub source: String,
}

/// One file of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenesisFile {
    /// Folders and name within the content's folder; just the content's name where the content is a single file.
    pub path: Vec<SafeName>,
    /// Length in bytes; `None` while the origin has not told.
    pub length: Option<u64>,
    /// What is appended to the content's URL, which ends in `/`, to get this file's: percent-encoded. Empty for a single
    /// file.
    pub url_suffix: String,
    /// Its strong `ETag`, with the quotes; empty if there is none.
    pub etag: String,
    /// Of a file of a folder without a strong `ETag`: its `Last-Modified` as the origin sends it; empty if there is none.
    pub last_modified: String,
    /// Its version in a versioned bucket; empty if there is none.
    pub version: String,
}

/// Which object of the origin this is, without credentials and without the URL itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginIdentity {
    /// The `ETag` as the origin sends it, with the quotes; empty if there is none.
    pub etag: String,
    /// `Last-Modified` as the origin sends it; empty if there is none.
    pub last_modified: String,
    /// SHA-256 of the URL without credentials.
    pub url_hash: Sha256,
    /// The version in a versioned bucket; empty if there is none.
    pub version: String,
}

/// The immutable first record of a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// When it was made: seconds since 1970.
    pub created_unix_s: u64,
    /// What the final torrents will say.
    pub final_torrents: FinalTorrents,
    /// Control's ed25519 keys, whose signatures on facts count.
    pub keys: Vec<[u8; 32]>,
    /// The files, in ascending order of the paths' names. One that has just the content's name for a path is no folder.
    pub files: Vec<GenesisFile>,
    /// The content's name.
    pub name: SafeName,
    /// Gives a new attempt at the same object a new [`Sid`].
    pub nonce: [u8; 16],
    /// Which object of the origin.
    pub origin: OriginIdentity,
    /// Bytes in a piece: a power of two.
    pub piece_length: u32,
    /// The origin gave a strong validator, of a folder for every file, so ranges of one version can be asked for.
    pub strong: bool,
    /// How much proof clients want before they accept a fact (0: the relay's word).
    pub trust: u8,
}

impl Genesis {
    /// The canonical bytes: of the record, or of the record and its list of files.
    pub fn encode(&self) -> Vec<u8> {
        match self.parts() {
            (record, None) => record,
            (record, Some(list)) => {
                let parts = [Item::Bytes(&record), Item::Bytes(&list)];
                Item::List(parts.into()).encode()
            }
        }
    }

    /// The record, and the list of files if that lies beside it.
    fn parts(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let list = Item::List(self.files.iter().map(GenesisFile::item).collect()).encode();
        let record = self.record(("files", Item::Raw(&list)), WITH_FILES);
        if record.len() <= RECORD_LIMIT {
            return (record, None);
        }
        let hash = digest::sha256(&list);
        let record = self.record((FILES_HASH, Item::Bytes(&hash.0)), WITH_LIST);
        (record, Some(list))
    }

    fn record<'a>(&'a self, files: (&'a str, Item<'a>), version: u32) -> Vec<u8> {
        let flavors = self.final_torrents.flavors.text();
        let final_torrents = Item::dict([
            ("flavors", Item::text(&flavors)),
            ("private", Item::flag(self.final_torrents.private)),
            ("source", Item::text(&self.final_torrents.source)),
        ]);
        let origin = Item::dict([
            ("etag", Item::text(&self.origin.etag)),
            ("lm", Item::text(&self.origin.last_modified)),
            ("url-hash", Item::Bytes(&self.origin.url_hash.0)),
            ("ver", Item::text(&self.origin.version)),
        ]);
        Item::dict([
            ("created", Item::Integer(self.created_unix_s)),
            files,
            ("final", final_torrents),
            (
                "keys",
                Item::List(self.keys.iter().map(|key| Item::Bytes(key)).collect()),
            ),
            ("name", Item::text(self.name.as_str())),
            ("nonce", Item::Bytes(&self.nonce)),
            ("origin", origin),
            ("piece length", Item::Integer(self.piece_length.into())),
            ("strong", Item::flag(self.strong)),
            ("trust", Item::Integer(self.trust.into())),
            ("v", Item::Integer(version.into())),
        ])
        .encode()
    }

    /// The swarm id: SHA-256 of the record.
    pub fn sid(&self) -> Sid {
        Sid(digest::sha256(&self.parts().0).0)
    }

    /// True when the content is a folder of files, not a single file with the content's name.
    pub fn is_folder(&self) -> bool {
        !matches!(&self.files[..], [file] if file.path == [self.name.clone()])
    }

    /// How the content divides into files and pieces.
    ///
    /// # Errors
    /// [`LayoutError`] when the piece length does not suit the engine, or the files cannot lie in one folder. A decoded
    /// genesis has passed this.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        if !self.is_folder() {
            return Layout::new(self.length(), self.piece_length);
        }
        let known = |file: &GenesisFile| {
            let length = file.length;
            let length = length.ok_or_else(|| FilesError::UnknownLength(shown(&file.path)))?;
            Ok((file.path.clone(), length))
        };
        let files = self.files.iter().map(known);
        let files = files.collect::<Result<Vec<_>, FilesError>>()?;
        Layout::folder(files, self.piece_length)
    }

    /// The content's length in bytes, if it was known from the start.
    pub fn length(&self) -> Option<u64> {
        self.files.iter().map(|file| file.length).sum()
    }

    /// Reads a genesis and checks all of it. Whoever got it under a [`Sid`] compares [`Genesis::sid`].
    ///
    /// # Errors
    /// [`GenesisError`] when it is malformed, newer than this program, or not in canonical form.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        let (record, list) = split(bytes)?;
        let genesis = Self::read(record, list)?;
        genesis.check()?;
        // Also finds keys that we do not know, unsorted ones, and flags other than 0 and 1.
        if genesis.encode() != bytes {
            return Err(GenesisError::NotCanonical);
        }
        Ok(genesis)
    }

    /// As [`Genesis::decode`], of bytes that anybody may have made: nothing of them is read unless they are of this content.
    ///
    /// # Errors
    /// [`GenesisError::OtherContent`], and those of [`Genesis::decode`].
    pub fn decode_of(sid: Sid, bytes: &[u8]) -> Result<Self, GenesisError> {
        let (record, _) = split(bytes)?;
        if Sid(digest::sha256(record).0) != sid {
            return Err(GenesisError::OtherContent);
        }
        Self::decode(bytes)
    }

    fn read(record: &[u8], list: Option<&[u8]>) -> Result<Self, GenesisError> {
        let limits = bencode::Limits {
            length: RECORD_LIMIT,
            ..bencode::Limits::MESSAGE
        };
        let field = GenesisError::Field;
        let value = bencode::decode(record, &limits).map_err(GenesisError::Bencode)?;
        let dict = value.as_dict().ok_or_else(|| not_dict("genesis"))?;
        // First: what follows may be different in another version.
        let version = required("v", dict.number::<u32>("v").map_err(field)?).map_err(field)?;
        let files = match version {
            WITH_FILES => {
                let files = dict.list("files", FILES_LIMIT).map_err(field)?;
                read_files(required("files", files).map_err(field)?)?
            }
            WITH_LIST => {
                let hash = dict.array(FILES_HASH).map_err(field)?;
                let hash = Sha256(required(FILES_HASH, hash).map_err(field)?);
                let list = list.filter(|list| digest::sha256(list) == hash);
                read_list(list.ok_or(GenesisError::OtherList)?)?
            }
            other => return Err(GenesisError::Version(other)),
        };
        let name =
            required("name", dict.text("name", TEXT_LIMIT).map_err(field)?).map_err(field)?;
        let name = SafeName::new(name).map_err(GenesisError::Name)?;
        Self::read_rest(dict, name, files).map_err(field)
    }

    fn read_rest(
        dict: &Dict<'_>,
        name: SafeName,
        files: Vec<GenesisFile>,
    ) -> Result<Self, FieldError> {
        let keys = required("keys", dict.list("keys", KEYS_LIMIT)?)?
            .iter()
            .map(|key| {
                let key = key.as_bytes().and_then(|key| key.try_into().ok());
                key.ok_or_else(|| FieldError::new("keys", FieldProblem::WrongLength(32)))
            });
        let final_torrents = required("final", dict.dict("final")?)?;
        let origin = required("origin", dict.dict("origin")?)?;
        Ok(Self {
            created_unix_s: required("created", dict.number("created")?)?,
            final_torrents: FinalTorrents::read(final_torrents).map_err(|e| e.within("final"))?,
            keys: keys.collect::<Result<_, _>>()?,
            files,
            name,
            nonce: required("nonce", dict.array("nonce")?)?,
            origin: OriginIdentity::read(origin).map_err(|error| error.within("origin"))?,
            piece_length: required("piece length", dict.number("piece length")?)?,
            strong: required("strong", dict.flag("strong")?)?,
            trust: required("trust", dict.number("trust")?)?,
        })
    }

    fn check(&self) -> Result<(), GenesisError> {
        let layout = self.layout().map_err(|error| match error {
            LayoutError::Files(error) => GenesisError::Files(error),
            error => GenesisError::Layout(error),
        })?;
        let pieces = layout.piece_count();
        if pieces > PIECES_LIMIT {
            return Err(GenesisError::TooManyPieces(pieces));
        }
        if !self.piece_length.is_power_of_two() {
            return Err(GenesisError::PieceLength(self.piece_length));
        }
        Ok(())
    }
}

/// The key of what names the list of files.
const FILES_HASH: &str = "files hash";

/// The record, and the list of files that may lie beside it.
fn split(bytes: &[u8]) -> Result<(&[u8], Option<&[u8]>), GenesisError> {
    if bytes.first() != Some(&b'l') {
        return Ok((bytes, None));
    }
    let limits = bencode::Limits {
        length: GENESIS_LIMIT,
        depth: 1,
        items: 3,
    };
    let parts = bencode::decode(bytes, &limits).map_err(GenesisError::Bencode)?;
    let parts: Option<Vec<&[u8]>> = parts
        .as_list()
        .and_then(|parts| parts.iter().map(Value::as_bytes).collect());
    match parts.as_deref() {
        Some(&[record, list]) => Ok((record, Some(list))),
        _ => Err(not_dict("genesis")),
    }
}

fn not_dict(what: &str) -> GenesisError {
    GenesisError::Field(FieldError::new(what, FieldProblem::NotDict))
}

/// Reads the list of files that lies beside a record. Its hash has been compared: these are the bytes that control meant.
fn read_list(list: &[u8]) -> Result<Vec<GenesisFile>, GenesisError> {
    let limits = bencode::Limits {
        length: LIST_LIMIT,
        items: LIST_ITEMS_LIMIT,
        ..bencode::Limits::MESSAGE
    };
    let list = bencode::decode(list, &limits).map_err(GenesisError::Bencode)?;
    let files = list
        .as_list()
        .ok_or_else(|| GenesisError::Field(FieldError::new("files", FieldProblem::NotList)))?;
    if files.len() > FILES_LIMIT {
        return Err(GenesisError::Files(FilesError::Count(files.len())));
    }
    read_files(files)
}

fn read_files(files: &[Value<'_>]) -> Result<Vec<GenesisFile>, GenesisError> {
    files.iter().map(GenesisFile::read).collect()
}

/// A text that must be there; absence is written as an empty one.
fn text(dict: &Dict<'_>, key: &str) -> Result<String, FieldError> {
    Ok(required(key, dict.text(key, TEXT_LIMIT)?)?.to_owned())
}

impl FinalTorrents {
    fn read(dict: &Dict<'_>) -> Result<Self, FieldError> {
        let flavors = Flavors::read(&text(dict, "flavors")?);
        Ok(Self {
            flavors: flavors.ok_or_else(|| FieldError::new("flavors", FieldProblem::OutOfRange))?,
            private: required("private", dict.flag("private")?)?,
            source: text(dict, "source")?,
        })
    }
}

impl OriginIdentity {
    fn read(dict: &Dict<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            etag: text(dict, "etag")?,
            last_modified: text(dict, "lm")?,
            url_hash: Sha256(required("url-hash", dict.array("url-hash")?)?),
            version: text(dict, "ver")?,
        })
    }
}

impl GenesisFile {
    fn item(&self) -> Item<'_> {
        let path = self.path.iter().map(|name| Item::text(name.as_str()));
        Item::dict_of_some([
            ("etag", Some(Item::text(&self.etag))),
            ("length", self.length.map(Item::Integer)),
            // Contents had none before it was thought of: their encoding must stay.
            (
                "lm",
                (!self.last_modified.is_empty()).then(|| Item::text(&self.last_modified)),
            ),
            ("path", Some(Item::List(path.collect()))),
            ("url", Some(Item::text(&self.url_suffix))),
            ("ver", Some(Item::text(&self.version))),
        ])
    }

    fn read(value: &Value<'_>) -> Result<Self, GenesisError> {
        let field = |error: FieldError| GenesisError::Field(error.within("files"));
        let dict = value.as_dict().ok_or_else(|| not_dict("files"))?;
        let mut path = Vec::new();
        for name in
            required("path", dict.list("path", PATH_LIMIT).map_err(field)?).map_err(field)?
        {
            let not_text = || field(FieldError::new("path", FieldProblem::NotText));
            let name = name.as_text().ok_or_else(not_text)?;
            path.push(SafeName::new(name).map_err(GenesisError::Name)?);
        }
        Ok(Self {
            path,
            length: dict.number("length").map_err(field)?,
            url_suffix: text(dict, "url").map_err(field)?,
            etag: text(dict, "etag").map_err(field)?,
            last_modified: (dict.text("lm", TEXT_LIMIT).map_err(field)?)
                .unwrap_or_default()
                .to_owned(),
            version: text(dict, "ver").map_err(field)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
