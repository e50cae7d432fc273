//! The extension handshake (BEP 10) and what own nodes say in it about themselves.

use std::collections::BTreeMap;

use crate::bencode::{self, Dict, FieldError, FieldProblem, Item, required};
use crate::record::Head;
use crate::wire::WireError;
use crate::{NodeId, Sid, Site};

/// How many extensions a peer may name, and how long such a name may be in bytes.
const NAMES_LIMIT: usize = 64;
/// The longest name of an extension, and of a client, that is kept.
const NAME_LENGTH_LIMIT: usize = 64;

/// The payload of extended message 0. A peer may send it again later, to change it: see [`merge`](Self::merge).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// `m`: the number under which the sender wants each kind of extended message; 0 takes a kind back.
    pub names: BTreeMap<String, u8>,
    /// `v`: the sender's program, for people.
    pub client: Option<String>,
    /// `p`: where the sender listens.
    pub listen_port: Option<u16>,
    /// `reqq`: how many requests the sender keeps.
    pub request_queue: Option<u32>,
    /// BEP 9: the length of the info dict in bytes.
    pub metadata_size: Option<u32>,
    /// BEP 21: the sender wants no pieces.
    pub upload_only: Option<bool>,
    /// `fw`: the sender is a Floodway node.
    pub floodway: Option<OwnNode>,
}

/// What an own node says about itself: the dict `fw {v, sid, n, c, t, q, s, pf, pe}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// `v`: the version of what own nodes say to each other.
    pub version: u32,
    /// `sid`: the content that this connection is about, under whichever name it was opened.
    pub sid: Sid,
    /// `n`: the sender; two connections to the same node are one too many.
    pub node: NodeId,
    /// `c`: capabilities, one bit each (1 hold, 2 cut-through, 4 knows the final torrent, 8 relay).
    pub capabilities: u32,
    /// `t`, `q`: term and seq of the newest control record that the sender knows; zero for none.
    pub head: Head,
    /// `s`, `pf`, `pe`: where control says that it stands, and which parts it brings there; absent where control says nothing of it.
    pub site: Option<Site>,
}

impl ExtendedHandshake {
    /// The number under which the peer wants messages of the kind `name`. `None`: it must not be sent any.
    pub fn id(&self, name: &str) -> Option<u8> {
        self.names.get(name).copied().filter(|&id| id != 0)
    }

    /// Takes over what a later handshake of the same peer says; what it leaves out stays.
    pub fn merge(&mut self, later: Self) {
        for (name, id) in later.names {
            // However many handshakes come, no more is kept than one may say.
            if self.names.len() < NAMES_LIMIT || self.names.contains_key(&name) {
                self.names.insert(name, id);
            }
        }
        self.client = later.client.or_else(|| self.client.take());
        self.listen_port = later.listen_port.or(self.listen_port);
        self.request_queue = later.request_queue.or(self.request_queue);
        self.metadata_size = later.metadata_size.or(self.metadata_size);
        self.upload_only = later.upload_only.or(self.upload_only);
        self.floodway = later.floodway.or(self.floodway);
    }

    /// The bencoded payload, without the extended message's id.
    pub fn encode(&self) -> Vec<u8> {
        let names = self.names.iter();
        let names = names.map(|(name, &id)| (name.as_str(), Item::Integer(id.into())));
        let number = |value: Option<u32>| value.map(|value| Item::Integer(value.into()));
        Item::dict_of_some([
            ("fw", self.floodway.as_ref().map(OwnNode::item)),
            ("m", Some(Item::dict(names))),
            ("metadata_size", number(self.metadata_size)),
            ("p", number(self.listen_port.map(u32::from))),
            ("reqq", number(self.request_queue)),
            ("upload_only", self.upload_only.map(Item::flag)),
            ("v", self.client.as_deref().map(Item::text)),
        ])
        .encode()
    }

    /// Reads the payload. Keys that we do not know are ignored, and so are values of others' clients that make no sense.
    ///
    /// # Errors
    /// [`WireError`] when it is no bencoded dict, `m` is no dict or names too much, or `fw` is not what own nodes send.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        // Some clients let bytes follow the dict.
        let (value, _) = bencode::decode_prefix(payload, &bencode::Limits::MESSAGE)
            .map_err(WireError::Bencode)?;
        let not_dict = || FieldError::new("handshake", FieldProblem::NotDict);
        let dict = value.as_dict().ok_or_else(not_dict);
        dict.and_then(Self::read).map_err(WireError::Field)
    }

    fn read(dict: &Dict<'_>) -> Result<Self, FieldError> {
        let client = dict.get("v").and_then(bencode::Value::as_bytes);
        let floodway = dict.dict("fw")?.map(OwnNode::read).transpose();
        let names = dict.dict("m")?.map(read_names).transpose()?;
        Ok(Self {
            names: names.unwrap_or_default(),
            client: client.map(|name| {
                let name = &name[..name.len().min(NAME_LENGTH_LIMIT)];
                String::from_utf8_lossy(name).into_owned()
            }),
            listen_port: dict.number("p").ok().flatten().filter(|&port| port != 0),
            request_queue: dict.number("reqq").ok().flatten(),
            metadata_size: dict.number("metadata_size").ok().flatten(),
            upload_only: dict
                .integer("upload_only")
                .ok()
                .flatten()
                .map(|flag| flag != 0),
            floodway: floodway.map_err(|error| error.within("fw"))?,
        })
    }
}

fn read_names(dict: &Dict<'_>) -> Result<BTreeMap<String, u8>, FieldError> {
    if dict.entries().len() > NAMES_LIMIT {
        return Err(FieldError::new("m", FieldProblem::TooLong(NAMES_LIMIT)));
    }
    // A name that we cannot read or number is one that we do not know.
    let names = dict
        .entries()
        .filter(|(name, _)| name.len() <= NAME_LENGTH_LIMIT);
    let names = names.filter_map(|(name, id)| {
        let name = std::str::from_utf8(name).ok()?;
        Some((name.to_owned(), u8::try_from(id.as_integer()?).ok()?))
    });
    Ok(names.collect())
}

impl OwnNode {
    fn item(&self) -> Item<'_> {
        Item::dict_of_some([
            ("c", Some(Item::Integer(self.capabilities.into()))),
            ("n", Some(Item::Bytes(&self.node.0))),
            ("q", Some(Item::Integer(self.head.seq))),
            ("pe", self.site.map(|site| Item::Integer(site.end.into()))),
            ("pf", self.site.map(|site| Item::Integer(site.first.into()))),
            ("s", self.site.map(|site| Item::Integer(site.tag))),
            ("sid", Some(Item::Bytes(&self.sid.0))),
            ("t", Some(Item::Integer(self.head.term.into()))),
            ("v", Some(Item::Integer(self.version.into()))),
        ])
    }

    fn read(dict: &Dict<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            version: required("v", dict.number("v")?)?,
            sid: Sid(required("sid", dict.array("sid")?)?),
            node: NodeId(required("n", dict.array("n")?)?),
            capabilities: required("c", dict.number("c")?)?,
            head: Head {
                term: dict.number("t")?.unwrap_or(0),
                seq: dict.number("q")?.unwrap_or(0),
            },
            site: match dict.number("s")? {
                Some(tag) => Some(Site {
                    tag,
                    first: dict.number("pf")?.unwrap_or(0),
                    end: dict.number("pe")?.unwrap_or(0),
                }),
                None => None,
            },
        })
    }
}
