//! One file on its way to this machine: what `get` and the agent share.
//!
//! Entry: [`Job::fetch`]. A job waits until it knows how to begin ([`orders::start`]), then runs one content with the
//! sources that its orders permit, and ends with a verified file under its final name, or an error. Invariant: under
//! control the origin is not touched before a ticket or the offline policy permits it.

mod error;
mod genesis;
mod growing;
mod left;
mod one_get;
mod open;
pub(crate) mod orders;
mod plain;
pub(crate) mod sink;
pub(crate) mod sources;
mod transfer;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use floodway_api::rest::SourceBytes;
use floodway_api::sync::{AgentState, ContentReport, TaskReport};
use floodway_origin::{SourceUrl, UrlCheck};
use floodway_proto::genesis::Genesis;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::Head;
use floodway_proto::{Layout, SafeName, Sha256, Sid};
use floodway_swarm::{Counters, Limits, Order, Prefer};
use tokio::sync::{mpsc, watch};
use url::Url;

use crate::control_client::ControlClient;
use crate::reasons::Reasons;
use crate::state::DataDir;
use crate::{Content, Finished, Progress, Session};
use orders::{Orders, Situation, Start, Waiting, asks_ticket, start};

pub use error::GetError;
pub(crate) use genesis::Apart;
pub(crate) use left::{Left, Wanted, sweep};

/// How a file was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifiedBy {
    /// Each piece by what control signed of it.
    Facts,
    /// Each piece by its torrent's hash.
    Torrent,
    /// The whole by a SHA-256 that was given or that the origin offers.
    Digest,
    /// By its length and, where there is one, one pinned strong validator.
    Transport,
}

impl fmt::Display for VerifiedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Facts => "facts",
            Self::Torrent => "torrent",
            Self::Digest => "digest",
            Self::Transport => "transport",
        })
    }
}

/// Where the file is to lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In this folder, under the content's own name.
    Folder(PathBuf),
    /// Exactly here.
    File(PathBuf),
}

impl Place {
    pub(crate) fn path(&self, name: &SafeName) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name.as_str()),
            Self::File(path) => path.clone(),
        }
    }
}

/// How a job is to be done.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) place: Place,
    pub(crate) overwrite: bool,
    pub(crate) prefer: Prefer,
    pub(crate) order: Order,
    pub(crate) foreground: bool,
    pub(crate) limits: Limits,
    pub(crate) linear_digest: bool,
    /// What the whole file must have.
    pub(crate) sha256: Option<Sha256>,
    pub(crate) no_origin: bool,
    pub(crate) no_p2p: bool,
    /// Which URLs of origins may be read.
    pub(crate) check: Option<Arc<dyn UrlCheck>>,
    /// Peers named by the user.
    pub(crate) peers: Vec<SocketAddr>,
}

impl Rules {
    /// Those of an agent that keeps what it fetches in this folder: in the background, for peers first.
    pub(crate) fn of_agent(folder: PathBuf) -> Self {
        Self {
            place: Place::Folder(folder),
            overwrite: false,
            prefer: Prefer::Peers,
            order: Order::RarestFirst,
            foreground: false,
            limits: Limits::default(),
            linear_digest: false,
            sha256: None,
            no_origin: false,
            no_p2p: false,
            check: None,
            peers: Vec::new(),
        }
    }
}

/// Where a job has control and its own memory.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: ControlClient,
    /// Keeps torrents, records and control's key; a one-shot has none.
    pub(crate) data: Option<Arc<DataDir>>,
}

/// How far a job is, for reports to control.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) state: AgentState,
    pub(crate) reason: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) counters: Counters,
    /// It asks for permission to read the origin.
    pub(crate) asks_ticket: bool,
    pub(crate) serving: Option<Serving>,
}

/// A content that a job holds, in part or whole, and serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) sid: Sid,
    pub(crate) complete: bool,
    /// Its final names are known here.
    pub(crate) final_ok: bool,
    /// It answers by those of v2 torrents too.
    pub(crate) v2_ok: bool,
    /// How far its records are known, if it is verified by them.
    pub(crate) manifest: Option<Head>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: AgentState::Downloading,
            reason: None,
            bytes: 0,
            counters: Counters::default(),
            asks_ticket: false,
            serving: None,
        }
    }
}

impl Status {
    pub(crate) fn task_report(&self, task: &str) -> TaskReport {
        TaskReport {
            task: task.to_owned(),
            state: self.state,
            reason: self.reason.clone(),
            bytes: self.bytes,
            sources: source_bytes(self.counters),
        }
    }

    pub(crate) fn content_report(&self) -> Option<ContentReport> {
        let serving = self.serving?;
        Some(ContentReport {
            sid: serving.sid,
            have: self.bytes,
            complete: serving.complete,
            final_ok: serving.final_ok,
            v2_ok: serving.v2_ok,
            peer_sent: self.counters.sent,
            serving: true,
            manifest: serving.manifest,
            paused: None,
        })
    }
}

pub(crate) fn source_bytes(counters: Counters) -> SourceBytes {
    SourceBytes {
        peer: counters.peer,
        relay: counters.relay,
        origin: counters.origin,
        resumed: counters.resumed,
    }
}

/// What a change of [`Status`] means for the next sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nudge {
    /// Control must know soon.
    Changed,
    /// Only some bytes more.
    Progressed,
}

/// Shows a job's status to the one who syncs.
#[derive(Clone)]
pub(crate) struct Board {
    status: Arc<Mutex<Status>>,
    nudges: mpsc::UnboundedSender<Nudge>,
}

impl Board {
    pub(crate) fn new(nudges: mpsc::UnboundedSender<Nudge>) -> Self {
        Self {
            status: Arc::default(),
            nudges,
        }
    }

    pub(crate) fn get(&self) -> Status {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, nudge: Nudge, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
        // Nobody syncs in a stand-alone run.
        let _ = self.nudges.send(nudge);
    }

    pub(crate) fn state(&self, state: AgentState, reason: Option<String>) {
        self.set(Nudge::Changed, |status| {
            status.state = state;
            status.reason = reason;
            status.asks_ticket = false;
        });
    }

    /// The file is there and verified.
    pub(crate) fn done(&self, finished: &Finished, verdict: String) {
        self.set(Nudge::Changed, |status| {
            status.state = AgentState::Verified;
            status.reason = Some(verdict);
            status.bytes = finished.bytes;
            status.counters = finished.counters;
            status.asks_ticket = false;
        });
    }
}

/// What a listener is told while a job runs.
#[derive(Clone, Debug)]
pub enum GetEvent {
    /// Nothing can be done yet: what is waited for.
    Waiting(String),
    /// It is known what is fetched, and to where.
    Found {
        /// The final path, absolute.
        path: PathBuf,
        /// The length in bytes, if known.
        length: Option<u64>,
    },
    /// How far it is; a few times a second.
    Progress(Box<Progress>),
    /// Something that explains how the transfer goes, each once.
    Reason(String),
    /// A step on the way, and when it was taken: microseconds since 1970.
    Step(Step, u64),
    /// The file is complete and verified; it is seeded from now on.
    Seeding(Box<crate::get::GetReport>),
}

/// Steps by which one measures how soon bytes are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first byte came.
    FirstByte,
    /// The first piece was verified.
    FirstVerifiedPiece,
    /// More of a growing content can be verified. At most one a second, but for the first and the last.
    Facts {
        /// So many pieces in all.
        verifiable: u32,
        /// Of so many; `None` as long as the length is not known.
        pieces: Option<u32>,
    },
}

pub(crate) type Listener = Arc<dyn Fn(GetEvent) + Send + Sync>;

/// A verified file under its final name.
pub(crate) struct Fetched {
    /// Still there for peers; `None` for a plain download without a swarm.
    pub(crate) content: Option<Content>,
    pub(crate) finished: Finished,
    pub(crate) verified_by: VerifiedBy,
}

/// One file on its way.
pub(crate) struct Job {
    pub(crate) session: Session,
    pub(crate) link: Option<Link>,
    pub(crate) url: Option<SourceUrl>,
    pub(crate) rules: Rules,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) board: Board,
    pub(crate) reasons: Reasons,
    pub(crate) listener: Listener,
    /// Where the file's bytes go beside the disk.
    pub(crate) sink: Option<sink::Sink>,
    /// It comes by one GET: what is fetched so far is of no use to a later run.
    pub(crate) one_get: bool,
    /// Pieces of a content that was given up, for what takes its place.
    pub(crate) left: Option<Left>,
    pub(crate) apart: Apart,
}

impl Job {
    /// Waits for orders and does what they say, until the file is here.
    ///
    /// # Errors
    /// [`GetError`].
    pub(crate) async fn fetch(&mut self) -> Result<Fetched, GetError> {
        let result = self.fetch_as_told().await;
        // Nothing has taken its place. Who is only stopped goes on in its next run.
        if !matches!(result, Err(GetError::Interrupted)) {
            self.leave(None).await;
        }
        result
    }

    async fn fetch_as_told(&mut self) -> Result<Fetched, GetError> {
        loop {
            match self.begin().await? {
                Start::Torrent(sid) => {
                    if let Some(torrent) = self.torrent(sid).await? {
                        // It says the v2 torrent's name. The bytes are had without it.
                        if let Err(error) = self.get_genesis(sid).await {
                            tracing::warn!(%error, "no genesis of a final content");
                        }
                        return self.by_torrent(&torrent, Some(sid), Vec::new()).await;
                    }
                    // Control took it back, or went away: think again.
                    self.changed().await?;
                }
                Start::Growing(sid) => {
                    let genesis = self.get_genesis(sid).await?;
                    // What is there already is compared once all hashes are known, with no byte fetched.
                    let is_new = |genesis: &Genesis| {
                        self.rules.overwrite || !self.rules.place.path(&genesis.name).exists()
                    };
                    let Some(genesis) = genesis.filter(is_new) else {
                        self.changed().await?;
                        continue;
                    };
                    match growing::by_genesis(self, &genesis).await {
                        Err(GetError::ByTorrent) => {}
                        Err(error @ GetError::Replaced) => self.reasons.add(error.to_string()),
                        Err(GetError::NoRelay(why)) => {
                            self.reasons.decide(why.to_owned());
                            return self.plain().await;
                        }
                        result => return result,
                    }
                }
                Start::Plain(why) => {
                    self.reasons.decide(why);
                    return self.plain().await;
                }
                Start::Refused(message) => return Err(GetError::Refused(message)),
                Start::NotFound(message) => return Err(GetError::NotFound(message)),
                Start::Wait(_) => {}
            }
        }
    }

    /// Waits until orders change, or a moment.
    async fn changed(&mut self) -> Result<(), GetError> {
        tokio::select! {
            changed = self.orders.changed() => changed.map_err(|_| GetError::Interrupted),
            () = tokio::time::sleep(Duration::from_secs(1)) => Ok(()),
        }
    }

    pub(crate) fn situation(&self, sid: Option<Sid>) -> Situation {
        let data = self.link.as_ref().and_then(|link| link.data.as_ref());
        Situation {
            torrent_kept: sid.is_some_and(|sid| {
                data.is_some_and(|data| matches!(data.torrent(sid), Ok(Some(_))))
            }),
            genesis_kept: sid.is_some_and(|sid| data.is_some_and(|data| data.has_genesis(sid))),
            // Under control a file: URL is a path on the relays, not here; and only relays read the files of folders.
            has_url: self.url.as_ref().is_some_and(|url| {
                let is_folder = url.as_url().path().ends_with('/');
                self.link.is_none() || (url.file_path().is_none() && !is_folder)
            }),
            no_origin: self.rules.no_origin,
            foreground: self.rules.foreground,
        }
    }

    /// Whether the SHA-256 of the whole is computed: a folder has none.
    ///
    /// # Errors
    /// [`GetError::Usage`] when the rules ask for what only a single file has.
    fn wants_digest(&self, layout: &Layout, path: &Path) -> Result<bool, GetError> {
        let rules = &self.rules;
        if layout.files().is_none() {
            return Ok(rules.linear_digest || rules.sha256.is_some());
        }
        if self.sink.is_some() {
            let message = "stdout takes one file, but this content is a folder of files: name a folder to put it into with -o";
            return Err(GetError::Usage(message.into()));
        }
        if rules.sha256.is_some() {
            let message = "--sha256 is that of one file, but this content is a folder of files; each of them is verified by its hashes";
            return Err(GetError::Usage(message.into()));
        }
        if rules.overwrite && path.exists() {
            return Err(GetError::Usage(format!(
                "--overwrite replaces files, not whole folders: remove `{}`, or choose another place with -o",
                path.display()
            )));
        }
        Ok(false)
    }

    fn data(&self) -> Option<&DataDir> {
        self.link.as_ref()?.data.as_deref()
    }

    /// Waits until something can be done.
    async fn begin(&mut self) -> Result<Start, GetError> {
        let mut told = None;
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.cancelled {
                return Err(GetError::Cancelled);
            }
            let situation = self.situation(orders.sid);
            let Start::Wait(waiting) = start(&orders, situation) else {
                return Ok(start(&orders, situation));
            };
            if told.replace(waiting) != Some(waiting) {
                (self.listener)(GetEvent::Waiting(waiting.to_string()));
            }
            self.ask_ticket(asks_ticket(&orders, situation, false, false));
            if self.orders.changed().await.is_err() {
                return Err(GetError::Interrupted);
            }
        }
    }

    /// Asks for a ticket from now on, or no longer.
    fn ask_ticket(&self, asks: bool) {
        if self.board.get().asks_ticket != asks {
            self.board
                .set(Nudge::Changed, |status| status.asks_ticket = asks);
        }
    }

    /// The content's torrent, from this disk or from control. `None`: not now.
    async fn torrent(&self, sid: Sid) -> Result<Option<Metainfo>, GetError> {
        let Some(link) = &self.link else {
            return Ok(None);
        };
        if let Some(data) = &link.data
            && let Ok(Some(bytes)) = data.torrent(sid)
            && let Ok(torrent) = Metainfo::decode(&bytes)
        {
            return Ok(Some(torrent));
        }
        let bytes = match link.client.torrent(sid).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            // Not found: another content has taken its place, and orders will name it.
            Err(error) if error.is_unreachable() || error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let torrent = Metainfo::decode(&bytes)?;
        if let Some(data) = &link.data {
            // Without it a restart asks control again.
            if let Err(error) = data.save_torrent(sid, &bytes) {
                tracing::warn!(%error, "the torrent could not be kept");
            }
        }
        Ok(Some(torrent))
    }

    /// Fetches by a torrent: of control, or of the user (then `trackers` are its own).
    pub(crate) async fn by_torrent(
        &mut self,
        torrent: &Metainfo,
        sid: Option<Sid>,
        trackers: Vec<Url>,
    ) -> Result<Fetched, GetError> {
        transfer::by_torrent(self, torrent, sid, trackers).await
    }

    /// Fetches the object from its origin, with nothing to verify it by but what the origin and the user say.
    pub(crate) async fn plain(&mut self) -> Result<Fetched, GetError> {
        plain::fetch(self).await
    }

    /// Keeps a complete content open to peers, until the task is over. `false`: the process ends.
    pub(crate) async fn serve(&mut self, content: &Content) -> bool {
        transfer::serve(self, content).await
    }

    /// How the file was verified, for control: with the reason, if it was not the usual way.
    pub(crate) fn verdict(&self, verified_by: VerifiedBy) -> String {
        match (verified_by, self.reasons.decisive()) {
            (VerifiedBy::Facts | VerifiedBy::Torrent, _) | (_, None) => verified_by.to_string(),
            (_, Some(reason)) => format!("{verified_by}; {reason}"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control has not answered yet",
            Self::Relay => "a relay fetches the file from its origin first",
            Self::Ticket => "control has not permitted yet to read the origin",
        })
    }
}

/// What content a journal belongs to, where there is no swarm id: a digest over all parts.
pub(crate) fn identity_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    floodway_proto::digest::sha256(&bytes).0
}
