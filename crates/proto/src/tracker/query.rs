//! Query strings: announce and scrape requests.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::{InfoHash, PeerName, percent};

/// How many contents one scrape may ask for.
pub const SCRAPE_LIMIT: usize = 64;
/// The longest query string in bytes; a full scrape fits.
const QUERY_LIMIT: usize = 8192;
/// The longest `key` in bytes.
const KEY_LIMIT: usize = 64;
/// The longest `trackerid` in bytes.
const TRACKER_ID_LIMIT: usize = 256;

/// Why a query string is no announce or scrape. All are the client's fault; the text may be sent back to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// More than 8 KiB.
    #[error("the query has {0} bytes; the limit is {QUERY_LIMIT}")]
    TooLong(usize),
    /// A field that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A field that makes no sense.
    #[error("`{0}` is not {1}")]
    Malformed(&'static str, &'static str),
    /// A field that may come once comes twice.
    #[error("`{0}` comes twice")]
    Duplicate(&'static str),
}

/// Why a client announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// Because the interval is over.
    #[default]
    Regular,
    /// It begins.
    Started,
    /// It ends.
    Stopped,
    /// It has just got the last piece.
    Completed,
}

impl Event {
    fn text(self) -> Option<&'static str> {
        match self {
            Self::Regular => None,
            Self::Started => Some("started"),
            Self::Stopped => Some("stopped"),
            Self::Completed => Some("completed"),
        }
    }
}

/// What a client tells a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// The content.
    pub info_hash: InfoHash,
    /// The client.
    pub peer: PeerName,
    /// Where it listens.
    pub port: u16,
    /// Payload bytes sent since the start.
    pub uploaded: u64,
    /// Payload bytes received since the start.
    pub downloaded: u64,
    /// Bytes that it still needs; 0: it is a seed.
    pub left: u64,
    /// Why it announces.
    pub event: Event,
    /// It reads compact peer lists (BEP 23). Absent counts as yes, as trackers do today.
    pub compact: bool,
    /// It does not need the peers' names in a list that is not compact.
    pub no_peer_id: bool,
    /// How many peers it wants.
    pub wanted: Option<u32>,
    /// The address that it claims; a tracker decides itself what to believe.
    pub address: Option<IpAddr>,
    /// A text by which the client proves that it is the same after its address changed.
    pub key: Option<String>,
    /// What the tracker asked to be told.
    pub tracker_id: Option<String>,
}

impl AnnounceRequest {
    /// The query string, without a question mark.
    pub fn to_query(&self) -> String {
        let mut out = String::from("info_hash=");
        percent::encode_into(&self.info_hash.0, &mut out);
        out.push_str("&peer_id=");
        percent::encode_into(&self.peer.0, &mut out);
        let Self {
            port,
            uploaded,
            downloaded,
            left,
            ..
        } = self;
        let compact = u8::from(self.compact);
        put(
            &mut out,
            format_args!(
                "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact={compact}"
            ),
        );
        if self.no_peer_id {
            out.push_str("&no_peer_id=1");
        }
        if let Some(event) = self.event.text() {
            put(&mut out, format_args!("&event={event}"));
        }
        if let Some(wanted) = self.wanted {
            put(&mut out, format_args!("&numwant={wanted}"));
        }
        if let Some(address) = self.address {
            out.push_str("&ip=");
            percent::encode_into(address.to_string().as_bytes(), &mut out);
        }
        if let Some(key) = &self.key {
            out.push_str("&key=");
            percent::encode_into(key.as_bytes(), &mut out);
        }
        if let Some(id) = &self.tracker_id {
            out.push_str("&trackerid=");
            percent::encode_into(id.as_bytes(), &mut out);
        }
        out
    }

    /// The URL to ask: `tracker`'s own query, which may hold a pass-key, is kept.
    pub fn to_url(&self, tracker: &str) -> String {
        let tracker = tracker.split('#').next().unwrap_or_default();
        let joint = if tracker.contains('?') { '&' } else { '?' };
        format!("{tracker}{joint}{}", self.to_query())
    }

    /// Reads a query string (without the question mark), still percent-encoded.
    ///
    /// Keys that we do not know are ignored, and so are values of no consequence that make no sense (`numwant`, `ip`, `key`).
    ///
    /// # Errors
    /// [`QueryError`] naming the field.
    pub fn parse_query(query: &str) -> Result<Self, QueryError> {
        let fields = Fields::read(query)?;
        Ok(Self {
            info_hash: InfoHash(fields.array("info_hash")?),
            peer: PeerName(fields.array("peer_id")?),
            port: fields.number("port")?.ok_or(QueryError::Missing("port"))?,
            uploaded: fields.number("uploaded")?.unwrap_or(0),
            downloaded: fields.number("downloaded")?.unwrap_or(0),
            // Clients that do not know their torrent yet leave it out or send a huge number: not a seed.
            left: fields.number("left")?.unwrap_or(u64::MAX),
            event: match fields.get("event")?.as_deref() {
                None | Some(b"" | b"empty") => Event::Regular,
                Some(b"started") => Event::Started,
                Some(b"stopped") => Event::Stopped,
                Some(b"completed") => Event::Completed,
                // BEP 21's `paused` and whatever comes later.
                Some(_) => Event::Regular,
            },
            compact: fields.get("compact")?.as_deref() != Some(b"0"),
            no_peer_id: fields.get("no_peer_id")?.as_deref() == Some(b"1"),
            wanted: fields.number("numwant").ok().flatten(),
            address: fields.text("ip")?.and_then(|text| text.parse().ok()),
            key: fields.text("key")?.filter(|key| key.len() <= KEY_LIMIT),
            tracker_id: fields
                .text("trackerid")?
                .filter(|id| id.len() <= TRACKER_ID_LIMIT),
        })
    }
}

/// Which contents a scrape asks for (BEP 48).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeRequest {
    /// The contents; none means all that the tracker is willing to tell.
    pub info_hashes: Vec<InfoHash>,
}

impl ScrapeRequest {
    /// The query string, without a question mark.
    pub fn to_query(&self) -> String {
        let mut out = String::new();
        for hash in &self.info_hashes {
            out.push_str(if out.is_empty() {
                "info_hash="
            } else {
                "&info_hash="
            });
            percent::encode_into(&hash.0, &mut out);
        }
        out
    }

    /// Reads a query string (without the question mark), still percent-encoded.
    ///
    /// # Errors
    /// [`QueryError`] when an info-hash is malformed or there are more than [`SCRAPE_LIMIT`].
    pub fn parse_query(query: &str) -> Result<Self, QueryError> {
        let fields = Fields::read(query)?;
        let hashes = fields
            .all("info_hash")
            .map(|value| array("info_hash", value));
        let info_hashes = hashes
            .map(|hash| hash.map(InfoHash))
            .collect::<Result<Vec<_>, _>>()?;
        if info_hashes.len() > SCRAPE_LIMIT {
            return Err(QueryError::Malformed("info_hash", "given at most 64 times"));
        }
        Ok(Self { info_hashes })
    }
}

/// Writing to a `String` cannot fail.
fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "a string takes everything");
}

/// The `key=value` pairs of a query, values still encoded.
struct Fields<'q>(Vec<(&'q str, &'q str)>);

impl<'q> Fields<'q> {
    fn read(query: &'q str) -> Result<Self, QueryError> {
        if query.len() > QUERY_LIMIT {
            return Err(QueryError::TooLong(query.len()));
        }
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Ok(Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .collect(),
        ))
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'q str> {
        self.0
            .iter()
            .filter(move |(name, _)| *name == key)
            .map(|&(_, value)| value)
    }

    fn get(&self, key: &'static str) -> Result<Option<Cow<'q, [u8]>>, QueryError> {
        let mut values = self.all(key);
        let value = values.next();
        if values.next().is_some() {
            return Err(QueryError::Duplicate(key));
        }
        value.map(|value| decoded(key, value)).transpose()
    }

    fn text(&self, key: &'static str) -> Result<Option<String>, QueryError> {
        let value = self.get(key)?;
        Ok(value.and_then(|value| String::from_utf8(value.into_owned()).ok()))
    }

    fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<Option<T>, QueryError> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        let digits = std::str::from_utf8(&value).ok();
        let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        number
            .map(Some)
            .ok_or(QueryError::Malformed(key, "a number in range"))
    }

    fn array(&self, key: &'static str) -> Result<[u8; 20], QueryError> {
        let mut values = self.all(key);
        let value = values.next().ok_or(QueryError::Missing(key))?;
        if values.next().is_some() {
            return Err(QueryError::Duplicate(key));
        }
        array(key, value)
    }
}

fn decoded<'v>(key: &'static str, value: &'v str) -> Result<Cow<'v, [u8]>, QueryError> {
    percent::decode(value).ok_or(QueryError::Malformed(key, "percent-encoded correctly"))
}

fn array(key: &'static str, value: &str) -> Result<[u8; 20], QueryError> {
    let bytes = decoded(key, value)?;
    let array = <[u8; 20]>::try_from(&*bytes);
    array.map_err(|_| QueryError::Malformed(key, "20 bytes long"))
}
