//! Bencoded replies: peers, failures, scrapes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::bencode::{self, Dict, FieldError, FieldProblem, Item, Value};
use crate::tracker::TrackerError;
use crate::{InfoHash, PeerName};

/// How many peers of one reply are read; the rest are left out.
pub const PEERS_LIMIT: usize = 2000;
/// What clients assume when a tracker does not say how long to wait, in seconds.
const DEFAULT_INTERVAL_S: u32 = 1800;
/// The longest message of a tracker that is read, in bytes.
const REASON_LIMIT: usize = 512;

/// A peer as a tracker names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrackerPeer {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name; compact lists have none.
    pub name: Option<PeerName>,
}

/// How a reply lists its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFormat {
    /// 6 bytes each (BEP 23), 18 for IPv6 (BEP 7).
    Compact,
    /// A dict each (BEP 3), with names where known.
    Dicts,
    /// A dict each, without names (`no_peer_id`).
    DictsWithoutNames,
}

/// What a tracker answers to an announce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceResponse {
    /// Announce again after so many seconds.
    pub interval_s: u32,
    /// Do not announce again earlier than after so many seconds, unless something happened.
    pub min_interval_s: Option<u32>,
    /// How many peers have everything.
    pub complete: Option<u32>,
    /// How many peers still need something.
    pub incomplete: Option<u32>,
    /// A message for the user; the announce counted nevertheless.
    pub warning: Option<String>,
    /// What the client shall send with its next announces.
    pub tracker_id: Option<String>,
    /// Other peers.
    pub peers: Vec<TrackerPeer>,
}

/// The reply to a request that is refused.
///
/// `retry_in_s` is the earliest sensible time to ask again, in seconds (BEP 31, which counts minutes: rounded up).
pub fn encode_failure(reason: &str, retry_in_s: Option<u32>) -> Vec<u8> {
    let minutes = retry_in_s.map(|seconds| seconds.div_ceil(60).to_string());
    Item::dict_of_some([
        ("failure reason", Some(Item::text(reason))),
        ("retry in", minutes.as_deref().map(Item::text)),
    ])
    .encode()
}

impl AnnounceResponse {
    /// The reply's bytes.
    pub fn encode(&self, format: PeerFormat) -> Vec<u8> {
        let number = |value: Option<u32>| value.map(|value| Item::Integer(value.into()));
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let addresses: Vec<String>;
        let compact = format == PeerFormat::Compact;
        let peers = if compact {
            for peer in &self.peers {
                put_compact(peer.address, &mut v4, &mut v6);
            }
            Item::Bytes(&v4)
        } else {
            addresses = self
                .peers
                .iter()
                .map(|peer| peer.address.ip().to_canonical().to_string())
                .collect();
            let named = format == PeerFormat::Dicts;
            let peers = self.peers.iter().zip(&addresses);
            Item::List(
                peers
                    .map(|(peer, address)| peer_dict(peer, address, named))
                    .collect(),
            )
        };
        Item::dict_of_some([
            ("complete", number(self.complete)),
            ("incomplete", number(self.incomplete)),
            ("interval", number(Some(self.interval_s))),
            ("min interval", number(self.min_interval_s)),
            ("peers", Some(peers)),
            (
                "peers6",
                (compact && !v6.is_empty()).then_some(Item::Bytes(&v6)),
            ),
            ("tracker id", self.tracker_id.as_deref().map(Item::text)),
            ("warning message", self.warning.as_deref().map(Item::text)),
        ])
        .encode()
    }

    /// Reads a tracker's reply. Peers beyond [`PEERS_LIMIT`], and those without a usable address, are left out.
    ///
    /// # Errors
    /// [`TrackerError::Refused`] when the tracker says so, otherwise what is wrong with the reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrackerError> {
        let value =
            bencode::decode(bytes, &bencode::Limits::MESSAGE).map_err(TrackerError::Bencode)?;
        let dict = reply(&value)?;
        let text = |key| text(dict, key).map_err(TrackerError::Field);
        let number = |key| dict.number::<u32>(key).map_err(TrackerError::Field);
        Ok(Self {
            interval_s: number("interval")?.unwrap_or(DEFAULT_INTERVAL_S),
            min_interval_s: number("min interval")?,
            // For show only, and some trackers send -1.
            complete: number("complete").unwrap_or_default(),
            incomplete: number("incomplete").unwrap_or_default(),
            warning: text("warning message")?,
            tracker_id: text("tracker id")?,
            peers: read_peers(dict)?,
        })
    }
}

/// The dict of a reply that is no refusal.
fn reply<'v, 'a>(value: &'v Value<'a>) -> Result<&'v Dict<'a>, TrackerError> {
    let not_dict = || FieldError::new("reply", FieldProblem::NotDict);
    let dict = value
        .as_dict()
        .ok_or_else(not_dict)
        .map_err(TrackerError::Field)?;
    match text(dict, "failure reason").map_err(TrackerError::Field)? {
        Some(reason) => Err(TrackerError::Refused {
            reason,
            retry_in_s: retry_in(dict),
        }),
        None => Ok(dict),
    }
}

/// Minutes as text; "never" and anything odd count as not said.
fn retry_in(dict: &Dict<'_>) -> Option<u32> {
    let value = dict.get("retry in")?;
    let minutes = value.as_text().and_then(|text| text.parse().ok());
    let minutes = minutes.or_else(|| u32::try_from(value.as_integer()?).ok());
    minutes?.checked_mul(60)
}

fn text(dict: &Dict<'_>, key: &str) -> Result<Option<String>, FieldError> {
    let text = dict
        .bytes(key)?
        .map(|text| &text[..text.len().min(REASON_LIMIT)]);
    Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
}

fn put_compact(address: SocketAddr, v4: &mut Vec<u8>, v6: &mut Vec<u8>) {
    let out = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            v4.extend_from_slice(&ip.octets());
            v4
        }
        IpAddr::V6(ip) => {
            v6.extend_from_slice(&ip.octets());
            v6
        }
    };
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn peer_dict<'a>(peer: &'a TrackerPeer, address: &'a str, named: bool) -> Item<'a> {
    let name = peer.name.as_ref().filter(|_| named);
    Item::dict_of_some([
        ("ip", Some(Item::text(address))),
        ("peer id", name.map(|name| Item::Bytes(&name.0))),
        ("port", Some(Item::Integer(peer.address.port().into()))),
    ])
}

fn read_peers(dict: &Dict<'_>) -> Result<Vec<TrackerPeer>, TrackerError> {
    let mut peers = Vec::new();
    match dict.get("peers") {
        None => {}
        Some(value) if value.as_bytes().is_some() => read_compact::<6>(dict, "peers", &mut peers)?,
        Some(_) => {
            let list = dict
                .list("peers", usize::MAX)
                .map_err(TrackerError::Field)?;
            let list = list.unwrap_or_default().iter();
            peers.extend(list.filter_map(|value| read_peer_dict(value.as_dict()?)));
        }
    }
    read_compact::<18>(dict, "peers6", &mut peers)?;
    peers.retain(usable);
    peers.truncate(PEERS_LIMIT);
    Ok(peers)
}

fn usable(peer: &TrackerPeer) -> bool {
    peer.address.port() != 0
        && !peer.address.ip().is_unspecified()
        && !peer.address.ip().is_multicast()
}

fn read_compact<const ENTRY: usize>(
    dict: &Dict<'_>,
    field: &'static str,
    peers: &mut Vec<TrackerPeer>,
) -> Result<(), TrackerError> {
    let bytes = dict
        .bytes(field)
        .map_err(TrackerError::Field)?
        .unwrap_or_default();
    let (entries, []) = bytes.as_chunks::<ENTRY>() else {
        return Err(TrackerError::Peers {
            field,
            length: bytes.len(),
            entry: ENTRY,
        });
    };
    peers.extend(entries.iter().filter_map(|entry| {
        let (ip, port) = entry.split_last_chunk::<2>()?;
        let ip = match ip.len() {
            4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)),
            _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?)),
        };
        Some(TrackerPeer {
            address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            name: None,
        })
    }));
    Ok(())
}

/// `None` for a peer under a host name: we do not resolve names that a stranger gives.
fn read_peer_dict(dict: &Dict<'_>) -> Option<TrackerPeer> {
    let ip: IpAddr = dict.get("ip")?.as_text()?.parse().ok()?;
    let port = dict.number("port").ok()??;
    let name = dict.array("peer id").ok().flatten().map(PeerName);
    let address = SocketAddr::new(ip, port);
    Some(TrackerPeer { address, name })
}

/// What a tracker knows of one content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeEntry {
    /// How many peers have everything.
    pub complete: u32,
    /// How often a peer reported that it got everything.
    pub downloaded: u32,
    /// How many peers still need something.
    pub incomplete: u32,
}

/// What a tracker answers to a scrape (BEP 48).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeResponse {
    /// By content; those that the tracker does not know are left out.
    pub files: BTreeMap<InfoHash, ScrapeEntry>,
}

impl ScrapeResponse {
    /// The reply's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let files = self.files.iter().map(|(hash, entry)| {
            let number = |value: u32| Item::Integer(value.into());
            let entry = Item::dict([
                ("complete", number(entry.complete)),
                ("downloaded", number(entry.downloaded)),
                ("incomplete", number(entry.incomplete)),
            ]);
            (&hash.0[..], entry)
        });
        Item::dict([("files", Item::Dict(files.collect()))]).encode()
    }

    /// Reads a tracker's reply.
    ///
    /// # Errors
    /// [`TrackerError::Refused`] when the tracker says so, otherwise what is wrong with the reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, TrackerError> {
        let value =
            bencode::decode(bytes, &bencode::Limits::MESSAGE).map_err(TrackerError::Bencode)?;
        let files = reply(&value)?.dict("files").map_err(TrackerError::Field)?;
        let missing = || FieldError::new("files", FieldProblem::Missing);
        let files = files.ok_or_else(missing).map_err(TrackerError::Field)?;
        let files = files.entries().filter_map(|(hash, entry)| {
            let (hash, entry) = (InfoHash(hash.try_into().ok()?), entry.as_dict()?);
            let number = |key| entry.number(key).ok().flatten().unwrap_or(0);
            let entry = ScrapeEntry {
                complete: number("complete"),
                downloaded: number("downloaded"),
                incomplete: number("incomplete"),
            };
            Some((hash, entry))
        });
        Ok(Self {
            files: files.collect(),
        })
    }
}
