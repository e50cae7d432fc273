//! `POST /api/v1/sync`: announce, heartbeat, statistics, ticket requests, task pick-up and results in one exchange.
//!
//! Everything a node says is its whole state, and everything control answers is all that concerns the node now, so
//! a lost or repeated exchange does no harm. A reply with success means that control has made durable what the
//! request reported. Control *parks* a request whose answer would be what the node already [`knows`](SyncRequest::known)
//! for up to [`wait_ms`](SyncRequest::wait_ms), and answers at once when there is something to do; a node that has
//! something to report sends a second request, which releases the parked one.

use std::net::SocketAddr;

use floodway_proto::record::Head;
use floodway_proto::{InfoHash, NodeId, Sha1, Sha256, Sid, Site};
use serde::{Deserialize, Serialize};

use crate::HexBytes;
use crate::manifest::{ManifestInfo, RefusedPieces};
use crate::rest::SourceBytes;

/// What a node tells control.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncRequest {
    /// Random number of this process start: a restarted node is a new holder of its leases.
    pub boot: u64,
    /// [`SyncReply::version`] of the newest answer, 0 for none.
    pub known: u64,
    /// How long control may park this request, in milliseconds; 0: answer at once.
    pub wait_ms: u64,
    /// Where peers reach this node; an unspecified address means the one this request comes from.
    pub peer: Option<SocketAddr>,
    /// Base URL of a relay's HTTP side; an unspecified host means the address this request comes from.
    pub http: Option<String>,
    /// Every content this node holds or wants.
    pub contents: Vec<ContentReport>,
    /// Every distribution task this node was given and has not been told to drop.
    pub tasks: Vec<TaskReport>,
    /// Relays: what was learnt of each relay task since the last acknowledged sync.
    pub relay_tasks: Vec<RelayReport>,
    /// What this node asks for now.
    pub asks: Vec<Ask>,
    /// The node is going away: drop it from peer lists and release its leases.
    pub leaving: bool,
    /// The node verifies pieces by signed records, so contents may be offered to it while they still grow: only then do
    /// answers have [`ContentInfo::manifest`]. Nodes that leave it out learn of a content's hashes when it is final.
    pub streaming: bool,
    /// Relays: it reads pieces again that other relays reported, when it is asked to ([`RelayContent::audits`]).
    pub audits: bool,
    /// Relays: the relays, by name or id, that this one takes its bytes from instead of any origin; empty: it reads origins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feeds_from: Vec<String>,
    /// Relays: the key (ed25519, 32 bytes) with which this process signs what it reads under leases. Control names it in the
    /// leases that it signs; without a key it signs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_key: Option<HexBytes>,
}

/// What a node holds of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentReport {
    /// The content.
    pub sid: Sid,
    /// Verified bytes held.
    pub have: u64,
    /// Complete, and serving.
    pub complete: bool,
    /// It knows the content's final names, so stock peers may be sent to it.
    pub final_ok: bool,
    /// It answers by the names of v2 torrents too: it knows the hashes that peers of these may ask for.
    #[serde(default)]
    pub v2_ok: bool,
    /// Bytes sent to peers since the process started.
    #[serde(default)]
    pub peer_sent: u64,
    /// It is open to peers at all: of a growing content, for the pieces whose hashes are known.
    pub serving: bool,
    /// The newest record of control up to which the node knows all of this content, `0.0` before the first: what control need
    /// not send again. Set from the first report on by nodes that verify by signed records; it makes a relay a peer and a
    /// source of the content even when it has no piece yet. Absent: the node takes part only once the content is final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Head>,
    /// Relays: why nothing of it is fetched for the moment (a full disk, say), for people. Agents say it in their tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
}

impl ContentReport {
    /// Of a content of which the node has nothing yet.
    pub fn nothing(sid: Sid) -> Self {
        Self {
            sid,
            have: 0,
            complete: false,
            final_ok: false,
            v2_ok: false,
            peer_sent: 0,
            serving: false,
            manifest: None,
            paused: None,
        }
    }
}

/// How far an agent is with a distribution task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Control has offered it; the agent has not answered yet.
    Offered,
    /// The agent is fetching.
    Downloading,
    /// The agent holds the verified file under its final name.
    Verified,
    /// The agent gave up; the reason is beside it.
    Failed,
    /// The task was cancelled.
    Cancelled,
}

/// A distribution task as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: String,
    /// How far it is.
    pub state: AgentState,
    /// Why it failed, or how it was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Verified bytes held.
    pub bytes: u64,
    /// Kept bytes by source.
    #[serde(default)]
    pub sources: SourceBytes,
}

/// What a relay reports of one relay task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    /// The task.
    pub relay_task: String,
    /// The content that `pieces` and `failure` are about; pieces without it are ignored. Absent while probing. A late
    /// report of a content that was given up because the object changed does no harm to its successor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Sid>,
    /// What the origin said, when this relay was asked to probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeReport>,
    /// How many bytes the object has whose length the probe did not say: its body was read to the end that its framing marks.
    /// Said before or with the last piece. A body that broke off has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
    /// Pieces fetched under a range lease, newly hashed; at most [`PIECES_PER_SYNC`].
    #[serde(default)]
    pub pieces: Vec<PieceReport>,
    /// What it found of pieces that it was asked to read again; at most [`PIECES_PER_SYNC`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audited: Vec<PieceReport>,
    /// What it computed of pieces that others reported and it got from them: their SHA-1 is confirmed so; at most
    /// [`PIECES_PER_SYNC`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<PieceReport>,
    /// Pieces that it was asked to read again and could not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<u32>,
    /// The relay cannot go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RelayFailure>,
}

/// At most so many [`PieceReport`]s in one sync: nodes count all lists of all relay tasks together, control takes so many of each.
pub const PIECES_PER_SYNC: usize = 4096;

/// The longest body of a sync in bytes.
pub const SYNC_LIMIT: usize = 16 << 20;

/// The most bytes that the [`ProbeReport`]s of one sync have together, as JSON: there is room for all else beside them.
pub const PROBES_LIMIT: usize = SYNC_LIMIT - (2 << 20);

/// What the origin said of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Its length in bytes.
    pub length: Option<u64>,
    /// The strong ETag, verbatim with its quotes, if there is one.
    pub etag: Option<String>,
    /// Last-Modified, verbatim.
    pub last_modified: Option<String>,
    /// Ranges can be read and combined: the origin serves ranges and the validator is strong. Of a folder: of every file.
    pub ranges: bool,
    /// The last segment of the URL's path, as a safe file name; of a folder the last one before the `/` at the end.
    pub name: String,
    /// The files of a folder; `length`, `etag` and `last_modified` are absent then. Empty for a single object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileProbe>,
}

/// What the origin said of one file of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileProbe {
    /// Its path within the folder, names separated by `/`; not percent-encoded.
    pub path: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its strong `ETag`, verbatim with its quotes, or empty; a local file's state takes its place.
    pub etag: String,
    /// Its `Last-Modified`, verbatim, where there is no strong `ETag`; or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_modified: String,
}

/// The digests of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceReport {
    /// Its index.
    pub piece: u32,
    /// Its node of the BEP 52 tree at the piece layer.
    pub node: Sha256,
    /// Its entry in a v1 torrent.
    pub sha1: Sha1,
}

/// Why a relay cannot go on with a relay task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayFailure {
    /// What kind of trouble.
    pub kind: RelayFailureKind,
    /// What happened, for people.
    pub message: String,
}

/// Kinds of trouble, as far as control's decision depends on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayFailureKind {
    /// The origin has no such object.
    NotFound,
    /// The origin refused.
    Refused,
    /// The object changed while it was read: all relays must begin anew with a new content.
    Changed,
    /// This relay cannot; another might.
    Local,
}

/// What a node asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// The content behind a URL (`get URL --control`); makes a relay task when there is none.
    Open {
        /// The origin object.
        url: String,
    },
    /// The content named by a swarm id (`get floodway:SID`).
    Join {
        /// The content.
        sid: Sid,
    },
    /// Permission to read the content from its origin.
    Ticket {
        /// The content, when known.
        sid: Option<Sid>,
        /// The origin object.
        url: String,
    },
}

/// What control tells a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncReply {
    /// Names this answer; the node sends it back as [`SyncRequest::known`].
    pub version: u64,
    /// When to sync next at the latest, in milliseconds.
    pub interval_ms: u64,
    /// Every content the node reported, asked for or is to fetch, as far as control knows it.
    pub contents: Vec<ContentInfo>,
    /// Every distribution task the node is to execute. One that is no longer listed is cancelled.
    pub tasks: Vec<TaskOrder>,
    /// Relays: every relay task to work on or to keep serving. One that is no longer listed is dropped.
    pub relay_tasks: Vec<RelayOrder>,
    /// Answers to [`SyncRequest::asks`], in any order.
    pub grants: Vec<Grant>,
    /// What the node keeps on disk for when control is away.
    pub policy: Policy,
    /// Relays: the secret by which they check capabilities.
    pub capability_key: Option<HexBytes>,
    /// The public ed25519 key (32 bytes) that control signs records with. A streaming node keeps the first that it sees, and
    /// takes no genesis whose `keys` lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_key: Option<HexBytes>,
    /// Relays: pieces of the last sync that do not count, and why. Reporting them again is of no use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPieces>,
    /// Relays: names in [`SyncRequest::feeds_from`] that mean no relay that is live.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent_upstreams: Vec<String>,
}

/// What control knows of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentInfo {
    /// The content.
    pub sid: Sid,
    /// Its torrent can be fetched.
    pub is_final: bool,
    /// Other nodes to dial; those that matter most first.
    pub peers: Vec<PeerInfo>,
    /// Relays that serve it over HTTP.
    pub relays: Vec<RelaySource>,
    /// A relay that works on this content, or could, is live; or may come back in a moment, after a start of control.
    pub relay_live: bool,
    /// The signed side of the content, for nodes that verify by it; absent for others, and for contents that were final before
    /// control signed records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestInfo>,
    /// Where the node stands, and which parts of the content it is to bring there from other sites; agents without a `site` label
    /// are told nothing. Absent where sites play no role: then any peer may be asked for anything, also by who was told of a
    /// site before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
}

/// A node to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Where.
    pub addr: SocketAddr,
    /// Which own node; absent for a stock client.
    pub node: Option<NodeId>,
    /// It verifies by signed records: it can be dialled under the content's sid, before and after FINAL.
    #[serde(default)]
    pub streaming: bool,
    /// Of a stock client, the name under which it knows the content: it can be dialled under this one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<InfoHash>,
    /// It knows the content's final names: it can be dialled under those.
    #[serde(default)]
    pub final_ok: bool,
}

/// A relay that serves one content over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaySource {
    /// Which relay.
    pub node: NodeId,
    /// `…/api/v1/s/SID/data`.
    pub url: String,
    /// The bearer token that reads it, and beside it the content's `genesis`, `head` and `hashes`.
    pub capability: String,
    /// It serves while it fetches: requests for bytes that it does not have yet wait for them. Listed from the first
    /// moment, when it has nothing yet. Otherwise it serves only what it has.
    #[serde(default)]
    pub streaming: bool,
}

/// A distribution task for an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOrder {
    /// The task.
    pub task: String,
    /// The content, once a relay has probed the origin.
    pub sid: Option<Sid>,
    /// The origin object: needed when no relay works.
    pub url: String,
}

/// A relay task for a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayOrder {
    /// The task.
    pub relay_task: String,
    /// The origin object; a folder if it ends in `/`.
    pub url: String,
    /// While there is no content: the paths of a folder's files within it, names separated by `/`; empty: walk the folder, which
    /// lies on this relay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Absent: probe the origin and report.
    pub content: Option<RelayContent>,
}

/// The content of a relay task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayContent {
    /// The content.
    pub sid: Sid,
    /// The genesis itself; empty when it has a list of many files: control has it at `/api/v1/s/SID/genesis`.
    #[serde(default)]
    pub genesis: HexBytes,
    /// The origin serves ranges that may be combined; else one GET of the whole object.
    pub ranges: bool,
    /// Published: fetch the torrent, get what is missing from peers, seed.
    pub is_final: bool,
    /// Pieces this relay is to fetch from the origin and report.
    pub leases: Vec<RangeLease>,
    /// Pieces that other relays reported and this one is to read from the origin again, whatever it holds of them, and to
    /// report in [`RelayReport::audited`] or [`RelayReport::unread`]. Listed until it has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audits: Vec<u32>,
}

/// A time-limited right to fetch and report a range of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeLease {
    /// Names the lease; never used twice.
    pub lease: u64,
    /// First piece.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Life from now, in milliseconds; each sync renews it.
    pub expires_ms: u64,
}

/// Control's answer to one [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "grant", rename_all = "snake_case")]
pub enum Grant {
    /// The content that was asked for by URL or by swarm id.
    Content {
        /// The URL asked for, or the content's own.
        url: String,
        /// The content, once known; its [`ContentInfo`] is in the same reply.
        sid: Option<Sid>,
        /// Why the relay task failed, when it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// The node may read this object from its origin.
    Ticket {
        /// The origin object.
        url: String,
        /// The validator that every reply must carry, when control knows the content.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        etag: Option<String>,
    },
    /// Refused for now.
    Refused {
        /// The URL or swarm id that was asked for.
        subject: String,
        /// A stable word: `not_allowed`, `not_found`, `relay_live`.
        code: String,
        /// Why, for people.
        message: String,
        /// When to ask again, in milliseconds; absent: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
    },
}

/// What a node may do when control is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfflineOrigin {
    /// Read from the origin.
    #[default]
    Allow,
    /// Read at the node's static share only.
    Floor,
    /// Never read from the origin.
    Deny,
}

/// Standing orders, kept on the node's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Who may touch the origin while control is away.
    pub offline_origin: OfflineOrigin,
}

#[cfg(test)]
mod tests {
    use floodway_proto::PARTS;
    use serde_json::{Value, json};

    use super::*;

    fn content(site: &Value) -> Result<ContentInfo, serde_json::Error> {
        let mut content = json!({
            "sid": "00".repeat(32),
            "is_final": false,
            "peers": [],
            "relays": [],
            "relay_live": true,
        });
        if !site.is_null() {
            content["site"] = site.clone();
        }
        serde_json::from_value(content)
    }

    #[test]
    fn a_site_that_makes_no_sense_is_refused_by_the_name_of_its_field() {
        assert_eq!(content(&Value::Null).unwrap().site, None);
        for (first, end) in [(0, PARTS), (3, 4), (7, 7)] {
            let site = json!({ "tag": 5, "first": first, "end": end });
            let tag = 5;
            let expected = Site { tag, first, end };
            assert_eq!(content(&site).unwrap().site, Some(expected));
        }
        for (tag, first, end, field) in [
            (1_u64 << 63, 0, 1, "`site.tag`"),
            (1, 4, 3, "`site.first`"),
            (1, 300, 3, "`site.first`"),
            (1, 0, 17, "`site.end`"),
            (1, 0, 1_000_000_000, "`site.end`"),
        ] {
            let error = content(&json!({ "tag": tag, "first": first, "end": end }));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }
}
