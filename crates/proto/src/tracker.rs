//! What clients and HTTP trackers say to each other (BEP 3, 7, 23, 31, 48).
//!
//! Entry types: [`AnnounceRequest`] (a query string) and [`AnnounceResponse`] (bencoding), [`ScrapeRequest`] and
//! [`ScrapeResponse`]. Both directions are here, since control is a tracker and every node a client of one.

use crate::bencode::{DecodeError, FieldError};

mod query;
mod response;

pub use query::{AnnounceRequest, Event, QueryError, SCRAPE_LIMIT, ScrapeRequest};
pub use response::{
    AnnounceResponse, PEERS_LIMIT, PeerFormat, ScrapeEntry, ScrapeResponse, TrackerPeer,
    encode_failure,
};

/// Why a tracker's reply is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// The tracker refused, and said why.
    #[error("the tracker refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
        /// When to ask again, in seconds, if it said so (BEP 31).
        retry_in_s: Option<u32>,
    },
    /// No bencoding: perhaps a web page.
    #[error("the tracker's reply is unreadable: {0}")]
    Bencode(DecodeError),
    /// A field is missing or of a wrong kind.
    #[error("the tracker's reply is malformed: {0}")]
    Field(FieldError),
    /// A compact peer list that is not made of whole entries.
    #[error("the tracker's `{field}` has {length} bytes, which is no multiple of {entry}")]
    Peers {
        /// `peers` or `peers6`.
        field: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The length of one entry in bytes.
        entry: usize,
    },
}

#[cfg(test)]
mod tests;
