//! What a sync says of a content's signed records (`floodway_proto::record`), by which nodes verify while it still grows.

use floodway_proto::Sid;
use floodway_proto::record::Head;
use serde::{Deserialize, Serialize};

use crate::HexBytes;

/// What control tells a streaming node of the signed side of one content.
///
/// The news of a growing content goes to relays with every sync, and wakes their parked ones. Agents get `genesis` and
/// `records` once, when they join; later ones they learn from neighbours and relays, so what control sends does not
/// grow with the number of agents. An agent that [`head`](Self::head) tells that it is behind, and that nobody helps, asks
/// relays and then control for `GET /api/v1/s/SID/head?after=TERM.SEQ`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInfo {
    /// How far the content is. Informative: what counts is the newest record's state, which is signed.
    pub phase: Phase,
    /// The content that takes its place, when it is [`Phase::Superseded`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Sid>,
    /// The newest record of control.
    pub head: Head,
    /// How many pieces are sealed.
    pub sealed: u32,
    /// The genesis, whose SHA-256 is the sid: for a node whose [`manifest`](crate::sync::ContentReport::manifest) is `0.0`, or
    /// that does not report the content yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis: Option<HexBytes>,
    /// The genesis has a list of many files, and is too long to be here: relays and control have it at
    /// `/api/v1/s/SID/genesis`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub genesis_apart: bool,
    /// Signed records, one each, in ascending order. For a joining node the newest snapshot and what followed it; for a
    /// relay all that is newer than what it reported; for any node that does not know it the record that ends the content
    /// (final, aborted, superseded).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<HexBytes>,
}

/// How far a content is: the states of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Relays are fetching it; the hashes of its pieces become known one by one.
    Growing,
    /// Every piece is sealed, but its standard torrents do not exist yet.
    Complete,
    /// Its standard torrents exist.
    Final,
    /// It will never be complete: no relay fetches it any more.
    Aborted,
    /// Another content has taken its place: keep its bytes until the successor is known, whose equal pieces need not be
    /// fetched again.
    Superseded,
}

impl Phase {
    /// True when nothing more will be said of the content.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Final | Self::Aborted | Self::Superseded)
    }
}

/// Pieces that a relay reported and that do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPieces {
    /// The content, as the relay named it.
    pub sid: Option<Sid>,
    /// The first piece.
    pub first: u32,
    /// How many from there on.
    pub count: u32,
    /// A stable word: `no_content` (the report names no content that is being fetched for this task), `no_such_piece`,
    /// `not_leased`, `not_signed` (what is held of it has another hash than the signed one), `distrusted`.
    pub code: String,
    /// Why, for people.
    pub message: String,
}
