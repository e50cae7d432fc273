//! What a content is told, and what it tells.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use floodway_origin::{Access, Bearer, Expectation, OriginError, SourceUrl, UrlCheck};
use floodway_proto::digest::PieceDigest;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::Signed;
use floodway_proto::{ByteRate, InfoHash, Layout, PieceIndex, Sha256, Sid};
use floodway_store::{FileStamp, Hashes, Note, OpenError, Predecessor, StoreError};
use floodway_swarm::{Counters, HttpPlan, Limits, Order, PlanReason, Prefer, SourceClass};
use url::Url;

use super::growing::Growth;

/// Everything that a [`Session`](crate::Session) must know to fetch or serve one content.
#[derive(Clone)]
pub struct ContentSpec {
    /// Names under which peers ask for it; trackers are told the first. Empty: no peers at all, neither dialled nor
    /// accepted.
    pub names: Vec<InfoHash>,
    /// Which of these names is a torrent's, and the torrent's info dict, for peers that know only the name (BEP 9). `None`:
    /// they do not get it from here.
    pub info: Option<(InfoHash, Bytes)>,
    /// The swarm's id, told to peers that are own nodes.
    pub sid: Option<Sid>,
    /// Pieces and blocks; the length must be known, but of a content that [grows](Self::growth): then it may follow by records.
    pub layout: Layout,
    /// How pieces are verified.
    pub hashes: Hashes,
    /// What content this is, in the resume journal.
    pub identity: [u8; 32],
    /// Unfinished data of this content, of which pieces are kept that may be the same. Nobody gets them before they are verified by
    /// hashes of this content.
    pub adopts: Option<Predecessor>,
    /// Where the bytes lie.
    pub target: Target,
    /// What matters more: being done soon, or little HTTP.
    pub prefer: Prefer,
    /// In which order pieces are fetched.
    pub order: Order,
    /// A user waits for it.
    pub foreground: bool,
    /// Upper bounds for this content alone.
    pub limits: Limits,
    /// Also compute the SHA-256 of the whole file.
    pub linear_digest: bool,
    /// Peers known from the start.
    pub peers: Vec<SocketAddr>,
    /// HTTP trackers.
    pub trackers: Vec<Url>,
    /// HTTP sources known from the start.
    pub sources: Vec<HttpSource>,
    /// True when every piece may be asked of anyone; false when that becomes known piece by piece.
    pub verifiable: bool,
    /// What is known of the hashes by records. Unless the content is `verifiable` already, `hashes` are [`Growth::nodes`], more
    /// become known while it is fetched, and the file gets its final name, and is done, when the content has its
    /// standard names.
    pub growth: Option<Growth>,
}

/// Where a content's bytes lie.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file that is fetched, or whose fetching is resumed.
    File {
        /// Its final path.
        path: PathBuf,
        /// Replace a different file that has this path.
        overwrite: bool,
        /// Give the file its final name when every piece is held. False: not before [`Content::finish`](crate::Content::finish).
        rename_when_done: bool,
    },
    /// A complete file that is served.
    Seed {
        /// Its path.
        path: PathBuf,
        /// How it looked when it was last known to be good: then it is not hashed again.
        known: Option<FileStamp>,
    },
}

impl Target {
    /// The final path.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::File { path, .. } | Self::Seed { path, .. } => path,
        }
    }
}

/// One URL that serves the content over HTTP.
#[derive(Clone)]
pub struct HttpSource {
    /// Where.
    pub url: SourceUrl,
    /// Relay or origin; web seeds of torrents are origins.
    pub class: SourceClass,
    /// A capability for it.
    pub bearer: Option<Bearer>,
    /// What every reply must agree with.
    pub expect: Expectation,
    /// How it can be read.
    pub access: Access,
    /// The allow-list, asked about the URL and about every redirect.
    pub check: Option<Arc<dyn UrlCheck>>,
    /// Of a folder at its origin: where each of its files is, in their order. Then `expect` does not count, and `url` only
    /// names the source. `None`: `url` has all bytes of the content.
    pub files: Option<Arc<[SourceFile]>>,
}

/// One file of a folder at its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where.
    pub url: SourceUrl,
    /// What every reply must agree with.
    pub expect: Expectation,
}

impl HttpSource {
    /// Two sources with the same URL, bearer and access are the same source.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.url == other.url
            && self.bearer == other.bearer
            && self.access == other.access
            && self.expect == other.expect
            && self.files == other.files
    }
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpSource({:?}, {})", self.class, self.url)
    }
}

/// What a content is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// What is on disk is being examined.
    #[default]
    Checking,
    /// Pieces are missing and being fetched.
    Fetching,
    /// Every piece is held; the last ones are being written, or the file renamed.
    Finishing,
    /// The file is complete; it is served as long as the content exists.
    Done,
    /// Nothing is fetched until the trouble is over: what it is. It is tried again by itself.
    Paused(String),
    /// It cannot go on: why.
    Failed(String),
}

/// How far a content is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it is doing.
    pub state: State,
    /// The content's length in bytes; `None` as long as its origin has not told.
    pub length: Option<u64>,
    /// Verified bytes held.
    pub have_bytes: u64,
    /// Bytes of blocks that came in this run, verified or not: whether anybody delivers.
    pub received_bytes: u64,
    /// Verified pieces held.
    pub pieces_held: u32,
    /// Connected peers.
    pub peers: usize,
    /// Those of them that hold everything.
    pub seeds: usize,
    /// What comes from peers now.
    pub rate_peer: ByteRate,
    /// What comes from relays now.
    pub rate_relay: ByteRate,
    /// What comes from the origin now.
    pub rate_origin: ByteRate,
    /// What goes to peers now.
    pub rate_up: ByteRate,
    /// How much HTTP is used now, and why.
    pub plan: HttpPlan,
    /// Bytes by source.
    pub counters: Counters,
}

impl Progress {
    /// Before anything has happened.
    pub(crate) fn start(length: Option<u64>) -> Self {
        Self {
            state: State::Checking,
            length,
            have_bytes: 0,
            received_bytes: 0,
            pieces_held: 0,
            peers: 0,
            seeds: 0,
            rate_peer: ByteRate::ZERO,
            rate_relay: ByteRate::ZERO,
            rate_origin: ByteRate::ZERO,
            rate_up: ByteRate::ZERO,
            plan: HttpPlan {
                relay: ByteRate::ZERO,
                origin: ByteRate::ZERO,
                reason: PlanReason::NoSource,
            },
            counters: Counters::default(),
        }
    }
}

/// Something worth telling: for explanations, reasons and relays' reports.
#[derive(Clone, Debug)]
pub enum ContentEvent {
    /// A piece is verified and held. Resumed pieces are told too when digests are collected.
    PieceDone {
        /// Which.
        piece: PieceIndex,
        /// What was computed of it: both digests where they are collected.
        digest: PieceDigest,
    },
    /// The origin's body ended, properly, after so many bytes, which nobody knew before. Its last piece follows.
    BodyEnded {
        /// The content's length.
        length: u64,
    },
    /// A piece failed its hash and is fetched again in parts.
    PieceFailed(PieceIndex),
    /// The decision about HTTP changed.
    Plan(HttpPlan),
    /// A peer was banned for wrong blocks.
    Banned {
        /// Its address.
        addr: SocketAddr,
        /// The piece by which it was convicted.
        piece: PieceIndex,
    },
    /// An HTTP source was dropped for wrong bytes.
    SourceDropped {
        /// Which.
        source: SourceUrl,
        /// The piece by which it was convicted.
        piece: PieceIndex,
    },
    /// A request to an HTTP source failed.
    SourceFailed {
        /// Which.
        source: SourceUrl,
        /// Relay or origin.
        class: SourceClass,
        /// What went wrong.
        error: Arc<OriginError>,
        /// It will not be asked again for this content.
        gone: bool,
    },
    /// A tracker failed or answered nonsense; it is asked again later.
    TrackerFailed {
        /// Which, without secrets.
        tracker: String,
        /// What went wrong.
        error: String,
    },
    /// A held piece turned out to be unreadable or wrong on this node's own disk.
    PieceLost(PieceIndex),
    /// The disk refused; nothing is fetched until it works again.
    Paused(Arc<StoreError>),
    /// The disk works again.
    Resumed,
    /// What was found of earlier work could not all be used.
    Note(Note),
    /// The first byte has come, from whomever.
    FirstByte,
    /// Every piece is held.
    Complete,
    /// A record about a growing content was verified: keep it for a restart.
    Record(Signed),
    /// More pieces of a growing content can be verified.
    Facts {
        /// How many can in all.
        verifiable: u32,
    },
    /// A growing content is final, and peers may ask for it by the name of its v1 torrent if they could ask before.
    Final {
        /// Its v1 torrent, without trackers. `None` when there is none, or control signed another one's name.
        torrent: Option<Arc<Metainfo>>,
        /// The name of that. A content without any name so far is not reached by it until it is added.
        name: Option<InfoHash>,
    },
    /// The hashes of all pieces of a final content are known: peers may ask for it by the names of its v2 torrents too. Of who
    /// joined late this can come after everything else.
    AllHashes {
        /// Those of its v2 and hybrid torrents. To be added as that of the v1 torrent.
        names: Vec<InfoHash>,
        /// What each piece hashes to (BEP 52), as if it were whole: kept, a later run can give them to others.
        hashes: Arc<[Sha256]>,
    },
}

/// A content that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The file: under its final name unless that was to wait.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole, if it was asked for.
    pub sha256: Option<Sha256>,
    /// How to know the file again without hashing it; `None` before it has its final name.
    pub stamp: Option<FileStamp>,
    /// Bytes by source.
    pub counters: Counters,
    /// What each peer and HTTP source brought.
    pub sources: Vec<SourceShare>,
}

/// What one source brought of a content in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceShare {
    /// The address of a peer, or what may be shown of the URL of a relay or origin.
    pub source: String,
    /// What it is.
    pub class: SourceClass,
    /// Block bytes that came from it, of use or not.
    pub bytes: u64,
}

/// Why a content did not become complete.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ContentError {
    /// It was stopped before.
    #[error(
        "the transfer was stopped before it was complete; what is on disk is kept for a resume"
    )]
    Stopped,
    /// The disk refused, and trying again cannot help.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// A defect of this program.
    #[error(
        "the transfer broke by a defect of this program ({0}); what is on disk is kept: start it again, and report this"
    )]
    Defect(String),
}

/// Why a content could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file to be served is not what its hashes say.
    #[error("{wrong} of {pieces} pieces of `{path}` differ from this content: it is another file, or damaged; fetch it again with `floodway get`", path = .path.display())]
    NotThisContent {
        /// The file.
        path: PathBuf,
        /// Pieces that differ.
        wrong: u32,
        /// Pieces in all.
        pieces: u32,
    },
    /// Another content of this session has the same name.
    #[error("the content {0} is being transferred by this process already")]
    NameTaken(InfoHash),
    /// The session is shutting down.
    #[error("this process is shutting down")]
    Closed,
}

impl AddError {
    /// True when somebody can make room or give permission.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Open(OpenError::Io(error)) if error.is_retryable())
    }
}

/// Why bytes could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Not all of them are held.
    #[error("bytes {}..{} are not all held here", .0.start, .0.end)]
    NotHeld(Range<u64>),
    /// The disk refused.
    #[error("{0}")]
    Store(Arc<StoreError>),
    /// The content was stopped.
    #[error("the content is no longer served here")]
    Stopped,
}
