//! A content's first record, and the torrent at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use floodway_api::sync::ProbeReport;
use floodway_proto::bencode::Item;
use floodway_proto::genesis::{
    FinalTorrents, Flavors, Genesis, GenesisError, GenesisFile, OriginIdentity,
};
use floodway_proto::merkle::{Tree, TreeError};
use floodway_proto::metainfo::{Info, Metainfo, MetainfoError};
use floodway_proto::record::PublicKey;
use floodway_proto::torrents::{Contents, NamesError};
use floodway_proto::{InfoHash, Layout, PieceIndex, SafeName, Sha1, Sha256, digest};

use super::folder;
use super::pieces::PieceTable;

/// What torrents say that made them.
const CREATED_BY: &str = concat!("Floodway ", env!("CARGO_PKG_VERSION"));
/// What stock clients accept: libtorrent's limit.
const PIECES_MAX: u32 = 1 << 21;

/// Why no content can be made of what a relay found, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProbeRefused {
    #[error("the folder cannot be published: {0}")]
    Files(String),
    #[error(
        "the paths and validators of the {files} files of folder `{name}` take more than the 16 MiB that a genesis has for them; publish it in parts, packed, or with shorter paths"
    )]
    LongList { name: String, files: usize },
    #[error("the object is too large: {length} bytes would be more than {PIECES_MAX} pieces")]
    TooLarge { length: u64 },
    #[error(
        "the relay reported something that fits no genesis record ({0}); its software may be faulty or of another version"
    )]
    Malformed(String),
}

/// What control adds to a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GenesisTerms {
    /// Which torrents there will be.
    pub(crate) flavors: Flavors,
    /// What control signs records with.
    pub(crate) key: PublicKey,
    /// Random: it gives every attempt its own swarm id.
    pub(crate) nonce: [u8; 16],
    pub(crate) created_unix_s: u64,
}

/// Makes the genesis of a content from the first probe of its origin object. Of a folder, `asked` are the files that the
/// relay was told to look for, if it was.
pub(crate) fn genesis(
    url: &str,
    asked: &[String],
    probe: &ProbeReport,
    terms: GenesisTerms,
) -> Result<Genesis, ProbeRefused> {
    let GenesisTerms {
        flavors,
        key,
        nonce,
        created_unix_s,
    } = terms;
    let name = SafeName::new(&probe.name)
        .or_else(|_| SafeName::from_url_path(url.trim_end_matches('/')))
        .or_else(|_| SafeName::new("content"))
        .map_err(|error| ProbeRefused::Malformed(error.to_string()))?;
    let is_folder = url.ends_with('/');
    let etag = probe.etag.clone().unwrap_or_default();
    let files = if is_folder {
        folder::found(probe, asked)?
    } else {
        vec![GenesisFile {
            path: vec![name.clone()],
            // A chunked body has none: it follows when a relay has read to its end.
            length: probe.length,
            url_suffix: String::new(),
            etag: etag.clone(),
            last_modified: String::new(),
            version: String::new(),
        }]
    };
    let mut lengths = files.iter().map(|file| file.length);
    let length = lengths.try_fold(0u64, |sum, length| Some(sum.saturating_add(length?)));
    let piece_length = Layout::default_piece_length(length);
    let strong = files.iter().all(|file| !file.etag.is_empty());
    let genesis = Genesis {
        created_unix_s,
        final_torrents: FinalTorrents {
            flavors,
            private: true,
            source: String::new(),
        },
        keys: vec![key.to_bytes()],
        files,
        name,
        nonce,
        origin: OriginIdentity {
            etag,
            last_modified: probe.last_modified.clone().unwrap_or_default(),
            url_hash: digest::sha256(url.as_bytes()),
            version: String::new(),
        },
        piece_length,
        strong,
        trust: 0,
    };
    // What nodes would refuse must not become a content.
    Genesis::decode(&genesis.encode()).map_err(|error| match error {
        GenesisError::Layout(_) | GenesisError::TooManyPieces(_) => {
            let length = length.unwrap_or_default();
            ProbeRefused::TooLarge { length }
        }
        GenesisError::Bencode(_) if is_folder => ProbeRefused::LongList {
            name: genesis.name.to_string(),
            files: genesis.files.len(),
        },
        error => ProbeRefused::Malformed(error.to_string()),
    })
}

/// What a complete content is called in the world of stock clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The raw v1 info dict.
    pub(crate) info: Vec<u8>,
    pub(crate) info_hash: InfoHash,
    /// The BEP 52 root of a single file; an empty file has none.
    pub(crate) root: Option<Sha256>,
}

/// Why complete digests could not be published: a fault of this program or of the database's file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("the content's hash tree cannot be built: {0}")]
    Tree(#[from] TreeError),
    #[error("the content's torrent cannot be made: {0}")]
    Torrent(#[from] MetainfoError),
}

/// Folds the digests of all pieces into the tree's root and the v1 info dict.
pub(crate) fn publish(
    name: SafeName,
    layout: &Layout,
    pieces: &PieceTable,
) -> Result<Published, PublishError> {
    let nodes: Vec<Sha256> = pieces.digests().iter().map(|(node, _)| *node).collect();
    let root = match layout.files() {
        Some(_) => None,
        None => root_of(layout, &nodes)?,
    };
    let files = layout.files().unwrap_or_default().iter();
    let sha1s: Arc<[_]> = pieces.digests().iter().map(|(_, sha1)| *sha1).collect();
    let metainfo = Metainfo::new(Info {
        name,
        length: layout.length().unwrap_or_default(),
        files: files
            .map(|file| (file.path.clone(), file.length()))
            .collect(),
        piece_length: layout.piece_length(),
        pieces: sha1s,
        private: true,
    })?;
    Ok(Published {
        info: metainfo.raw_info.to_vec(),
        info_hash: metainfo.info_hash,
        root,
    })
}

/// BEP 52's root of one file from the nodes of all its pieces; an empty file has none.
fn root_of(file: &Layout, nodes: &[Sha256]) -> Result<Option<Sha256>, TreeError> {
    let mut tree = match Tree::new(file) {
        Err(TreeError::NoTree) => return Ok(None),
        tree => tree?,
    };
    for (piece, node) in (0..).zip(nodes) {
        tree.insert_piece(PieceIndex(piece), *node)?;
    }
    Ok(tree.root())
}

/// The forms of a standard torrent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// BEP 3: what every client reads.
    #[default]
    V1,
    /// BEP 52 only.
    V2,
    /// Both in one info dict.
    Hybrid,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            "hybrid" => Ok(Self::Hybrid),
            other => Err(format!(
                "`{}` is not a form of torrent: v1, v2 or hybrid",
                other.escape_debug()
            )),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

/// The torrent file of a form that has a BEP 52 tree, from the digests of all pieces in order.
pub(crate) fn torrent_with_tree(
    genesis: &Genesis,
    format: Format,
    digests: &[(Sha256, Sha1)],
    tracker: &str,
    web_seeds: &[String],
) -> Result<Vec<u8>, NamesError> {
    let mut files = Vec::new();
    let (mut roots, mut layers) = (Vec::new(), BTreeMap::new());
    let mut rest = digests;
    for (file, at) in genesis.files.iter().zip(0..=u16::MAX) {
        let length = file.length.ok_or(NamesError::Length)?;
        let wrong = |_| NamesError::Root(at);
        let layout =
            Layout::new(Some(length), genesis.piece_length).map_err(|_| NamesError::Root(at))?;
        let count = layout.piece_count() as usize;
        let (own, later) = rest.split_at_checked(count).ok_or(NamesError::Root(at))?;
        rest = later;
        let nodes: Vec<Sha256> = own.iter().map(|(node, _)| *node).collect();
        let root = root_of(&layout, &nodes).map_err(wrong)?;
        // BEP 52: of files that are longer than a piece only.
        if let Some(root) = root.filter(|_| length > u64::from(genesis.piece_length)) {
            layers.insert(
                root.0,
                nodes.iter().flat_map(|node| node.0).collect::<Vec<u8>>(),
            );
        }
        roots.push(root);
        files.push((file.path.clone(), length));
    }
    let contents = Contents {
        name: genesis.name.clone(),
        files,
        piece_length: genesis.piece_length,
        private: genesis.final_torrents.private,
        source: genesis.final_torrents.source.clone(),
    };
    let sha1s: Vec<_> = digests.iter().map(|(_, sha1)| *sha1).collect();
    let info = match format {
        Format::V1 => contents.v1_info(&sha1s)?,
        Format::V2 => contents.v2_info(&roots)?,
        Format::Hybrid => contents.hybrid_info(&sha1s, &roots)?,
    };
    let layers = layers
        .iter()
        .map(|(root, layer)| (&root[..], Item::Bytes(layer)));
    let seeds = web_seeds.iter().map(|url| Item::text(url)).collect();
    let torrent = Item::dict_of_some([
        ("announce", Some(Item::text(tracker))),
        ("created by", Some(Item::text(CREATED_BY))),
        ("info", Some(Item::Raw(&info))),
        ("piece layers", Some(Item::Dict(layers.collect()))),
        (
            "url-list",
            (!web_seeds.is_empty()).then_some(Item::List(seeds)),
        ),
    ]);
    Ok(torrent.encode())
}

/// The torrent file around a raw v1 info dict.
pub(crate) fn torrent(
    info: &[u8],
    tracker: String,
    web_seeds: Vec<String>,
) -> Result<Vec<u8>, MetainfoError> {
    let mut metainfo = Metainfo::decode(&[b"d4:info", info, b"e"].concat())?;
    metainfo.trackers = vec![vec![tracker]];
    metainfo.web_seeds = web_seeds;
    metainfo.created_by = Some(CREATED_BY.into());
    Ok(metainfo.encode())
}

#[cfg(test)]
mod tests {
    use floodway_proto::record::SecretKey;
    use floodway_proto::{NodeId, merkle};

    use super::*;

    fn probe(length: Option<u64>) -> ProbeReport {
        ProbeReport {
            length,
            etag: Some("\"v1\"".into()),
            last_modified: None,
            ranges: true,
            name: "disk.img".into(),
            files: Vec::new(),
        }
    }

    const URL: &str = "https://origin.example/images/disk.img";

    fn terms(nonce: u8) -> GenesisTerms {
        GenesisTerms {
            flavors: Flavors::V1_AND_V2,
            key: SecretKey::from_seed(&[1; 32]).public(),
            nonce: [nonce; 16],
            created_unix_s: 7,
        }
    }

    #[test]
    fn a_new_nonce_gives_a_new_swarm() {
        let one = genesis(URL, &[], &probe(Some(1000)), terms(1)).unwrap();
        let two = genesis(URL, &[], &probe(Some(1000)), terms(2)).unwrap();
        assert_ne!(one.sid(), two.sid());
        assert!(one.strong && one.final_torrents.private);
    }

    #[test]
    fn an_object_of_unknown_length_becomes_a_content_in_pieces_of_4_mib() {
        let open = ProbeReport {
            etag: None,
            ranges: false,
            ..probe(None)
        };
        let genesis = genesis(URL, &[], &open, terms(1)).unwrap();
        assert_eq!((genesis.length(), genesis.piece_length), (None, 4 << 20));
        assert!(!genesis.strong);
    }

    #[test]
    fn what_cannot_become_a_content_is_refused_with_a_reason() {
        let refused = |probe| genesis(URL, &[], &probe, terms(1)).unwrap_err();
        let length = 1 << 50;
        assert_eq!(
            refused(probe(Some(length))),
            ProbeRefused::TooLarge { length }
        );
        let etag = Some("x".repeat(70_000));
        let long = ProbeReport {
            etag,
            ..probe(Some(1))
        };
        assert!(matches!(refused(long), ProbeRefused::Malformed(_)));
        let name = "../../etc/passwd".into();
        let evil = ProbeReport {
            name,
            ..probe(Some(1))
        };
        assert_eq!(
            genesis(URL, &[], &evil, terms(1)).unwrap().name.as_str(),
            "disk.img"
        );
    }

    #[test]
    fn the_torrent_says_what_the_pieces_are() {
        for length in [0_u64, 1, 300_000, 1_000_000] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251).to_le_bytes()[0]).collect();
            let layout = Layout::new(Some(length), 256 << 10).unwrap();
            let mut table = PieceTable::new(layout.piece_count());
            for piece in layout.pieces() {
                let range = layout.piece_bytes(piece);
                let data = &bytes
                    [usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
                let node = merkle::piece_node(data, &layout, piece).unwrap();
                table.insert(NodeId([1; 16]), piece.0, (node, digest::sha1(data)));
            }
            let name = SafeName::new("disk.img").unwrap();
            let published = publish(name, &layout, &table).unwrap();
            assert_eq!(published.root.is_some(), length > 0);
            let web = vec!["http://relay/x".to_owned()];
            let torrent =
                torrent(&published.info, "http://c/announce/k".into(), web.clone()).unwrap();
            let read = Metainfo::decode(&torrent).unwrap();
            assert_eq!(read.info_hash, published.info_hash);
            assert_eq!((read.info.length, read.web_seeds), (length, web));
            assert_eq!(read.trackers, [["http://c/announce/k".to_owned()]]);
            assert!(read.info.private);
        }
    }
}
