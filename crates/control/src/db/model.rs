//! Control's durable state in memory, and the changes that make it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use floodway_api::rest::{Role, SourceBytes};
use floodway_api::sync::{AgentState, RelayFailureKind};
use floodway_proto::record::{Head, Signed};
use floodway_proto::{InfoHash, Layout, NodeId, PieceIndex, Sha256, Sid};
use serde::{Deserialize, Serialize};

use super::KeptGenesis;
use crate::tasks::audit::{Audits, Digests, Outcome, Reading};
use crate::tasks::pieces::{PieceTable, unpack};
use crate::tasks::records::Records;

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinTokenRow {
    pub(crate) id: String,
    pub(crate) hash: Sha256,
    pub(crate) role: Option<Role>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) revoked: bool,
    pub(crate) created_us: i64,
}

/// An enrolled node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRow {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) short_lived: bool,
    pub(crate) token_hash: Sha256,
    pub(crate) created_us: i64,
    pub(crate) seen_us: i64,
}

impl NodeRow {
    /// Its `site` label; empty if it has none.
    pub(crate) fn site(&self) -> &str {
        self.labels.get("site").map_or("", String::as_str)
    }
}

/// Where a relay task stands, as far as it is durable: pending and probing differ only in which relays are live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RelayState {
    Open,
    Final,
    Failed,
    Cancelled,
}

/// A relay task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayTaskRow {
    pub(crate) id: String,
    pub(crate) url: String,
    /// The files of a folder, sorted; empty for a single object, and for a folder that a relay walks.
    pub(crate) files: Arc<Vec<String>>,
    pub(crate) state: RelayState,
    pub(crate) reason: Option<String>,
    /// How many contents before the current one were given up because the object changed.
    pub(crate) attempt: u32,
    pub(crate) sid: Option<Sid>,
    /// Somebody asked for it in its own right, so it outlives the distribution tasks that need it.
    pub(crate) pinned: bool,
    pub(crate) created_us: i64,
    /// When it became final, failed or cancelled; 0 before.
    pub(crate) ended_us: i64,
}

impl RelayTaskRow {
    /// Nodes work on it or keep serving it.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, RelayState::Open | RelayState::Final)
    }
}

/// A relay said that it cannot go on with a relay task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayFailureRow {
    pub(crate) relay_task: String,
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) kind: RelayFailureKind,
    pub(crate) message: String,
}

/// Where a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ContentState {
    Relaying,
    Final,
    /// The object changed: nobody fetches or serves it any more.
    Superseded,
}

/// A content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRow {
    pub(crate) sid: Sid,
    pub(crate) relay_task: String,
    pub(crate) state: ContentState,
    /// When superseded: a relay had reported false pieces of it, rather than that the object changed.
    pub(crate) false_fact: bool,
    /// `None` as long as the origin has not told.
    pub(crate) length: Option<u64>,
    pub(crate) piece_length: u32,
    pub(crate) name: String,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    pub(crate) ranges: bool,
    pub(crate) genesis: KeptGenesis,
    /// The secret in the announce URL of its torrent.
    pub(crate) announce_key: String,
    pub(crate) info_hash: Option<InfoHash>,
    pub(crate) root: Option<Sha256>,
    pub(crate) created_us: i64,
}

impl ContentRow {
    /// How it divides into pieces. `None` only if the row was damaged.
    pub(crate) fn layout(&self) -> Option<Layout> {
        match self.genesis.folder() {
            Some(layout) => Some(layout.clone()),
            None => Layout::new(self.length, self.piece_length).ok(),
        }
    }

    /// How many files it has, if it is a folder.
    pub(crate) fn file_count(&self) -> Option<u32> {
        let files = self.genesis.folder()?.files()?;
        u32::try_from(files.len()).ok()
    }
}

/// Digests of a run of pieces, packed as in [`unpack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FactRow {
    pub(crate) sid: Sid,
    pub(crate) first: u32,
    pub(crate) relay: NodeId,
    pub(crate) digests: Vec<u8>,
}

/// A range lease that was dealt at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseRow {
    pub(crate) id: u64,
    pub(crate) sid: Sid,
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// A relay was asked to read a piece again, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub(crate) sid: Sid,
    pub(crate) piece: u32,
    pub(crate) node: NodeId,
    pub(crate) outcome: Outcome,
    /// What it found, if that is something else than what was reported.
    pub(crate) digests: Option<Digests>,
}

/// A run of pieces whose SHA-1 a relay other than their reporter computed too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConfirmedRow {
    pub(crate) sid: Sid,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// A relay that proved wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DistrustRow {
    pub(crate) node: NodeId,
    pub(crate) reason: String,
    pub(crate) since_us: i64,
}

/// A distribution task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskRow {
    pub(crate) id: String,
    pub(crate) relay_task: String,
    pub(crate) target: String,
    pub(crate) cancelled: bool,
    pub(crate) created_us: i64,
}

/// One agent of a distribution task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskAgentRow {
    pub(crate) task: String,
    pub(crate) node: NodeId,
    pub(crate) state: AgentState,
    pub(crate) reason: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) sources: SourceBytes,
}

/// One step of the durable state; rows replace those with the same key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    JoinToken(JoinTokenRow),
    Node(NodeRow),
    /// A short-lived node is gone for good.
    ForgetNode(NodeId),
    RelayTask(RelayTaskRow),
    RelayFailure(RelayFailureRow),
    Content(ContentRow),
    /// Nobody relays the content any more: its leases and confirmations (always) and facts (when superseded) are of no use.
    EndRelaying {
        sid: Sid,
        superseded: bool,
    },
    /// The raw info dict of a content that becomes final.
    Info {
        sid: Sid,
        info: Vec<u8>,
    },
    Fact(FactRow),
    /// Control signed a record.
    Record(Signed),
    /// Nobody needs the records before this one: a newer snapshot says the same.
    DropRecords {
        sid: Sid,
        before: Head,
    },
    Lease(LeaseRow),
    Audit(AuditRow),
    Confirmed(ConfirmedRow),
    Distrust(DistrustRow),
    /// An operator trusts a relay again.
    Trust(NodeId),
    Task(TaskRow),
    TaskAgent(TaskAgentRow),
}

/// All that control knows for good. Large things of final contents (facts, info dicts) stay in the database only.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) join_tokens: BTreeMap<String, JoinTokenRow>,
    pub(crate) nodes: BTreeMap<NodeId, NodeRow>,
    /// How many nodes are enrolled with each `site` label.
    sites: BTreeMap<String, usize>,
    pub(crate) relay_tasks: BTreeMap<String, RelayTaskRow>,
    pub(crate) failures: BTreeMap<String, BTreeMap<NodeId, RelayFailureRow>>,
    pub(crate) contents: BTreeMap<Sid, ContentRow>,
    /// Piece digests of the contents that are being relayed.
    pub(crate) pieces: BTreeMap<Sid, PieceTable>,
    /// Signed records of contents, as far as somebody may still want them.
    pub(crate) records: BTreeMap<Sid, Records>,
    /// Leases of the contents that are being relayed, oldest first.
    pub(crate) leases: BTreeMap<Sid, Vec<LeaseRow>>,
    /// How many pieces each relay reported of the contents that were not given up.
    pub(crate) reporters: BTreeMap<Sid, BTreeMap<NodeId, u32>>,
    /// What was read again of them.
    pub(crate) audits: BTreeMap<Sid, Audits>,
    /// Of contents that are being relayed, the pieces whose SHA-1 a second relay confirmed.
    pub(crate) confirmed: BTreeMap<Sid, BTreeSet<u32>>,
    /// The relays that proved wrong.
    pub(crate) distrusted: BTreeMap<NodeId, DistrustRow>,
    pub(crate) tasks: BTreeMap<String, TaskRow>,
    pub(crate) task_agents: BTreeMap<String, BTreeMap<NodeId, TaskAgentRow>>,
    /// The newest relay task of each URL.
    pub(crate) by_url: HashMap<String, String>,
    /// The distribution tasks of each relay task.
    pub(crate) tasks_of_relay_task: HashMap<String, BTreeSet<String>>,
    /// The distribution tasks of each agent, cancelled ones included.
    pub(crate) tasks_of_node: HashMap<NodeId, BTreeSet<String>>,
    /// The content of each announce key.
    pub(crate) by_announce_key: HashMap<String, Sid>,
}

impl Model {
    /// Takes one step.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::JoinToken(row) => {
                self.join_tokens.insert(row.id.clone(), row);
            }
            Change::Node(row) => {
                if !row.site().is_empty() {
                    *self.sites.entry(row.site().to_owned()).or_default() += 1;
                }
                let old = self.nodes.insert(row.id, row);
                self.leaves_site(old.as_ref());
            }
            Change::ForgetNode(node) => {
                let old = self.nodes.remove(&node);
                self.leaves_site(old.as_ref());
            }
            Change::RelayTask(row) => self.relay_task(row),
            Change::RelayFailure(row) => {
                let of_task = self.failures.entry(row.relay_task.clone()).or_default();
                of_task.insert(row.node, row);
            }
            Change::Content(row) => self.content(row),
            Change::EndRelaying { sid, superseded } => {
                self.leases.remove(&sid);
                self.pieces.remove(&sid);
                self.confirmed.remove(&sid);
                if superseded {
                    self.reporters.remove(&sid);
                    self.audits.remove(&sid);
                }
            }
            Change::Info { .. } => {}
            Change::Fact(row) => {
                let pieces = u32::try_from(unpack(&row.digests).count()).unwrap_or(u32::MAX);
                self.reported(row.sid, row.relay, pieces);
                if let Some(pieces) = self.pieces.get_mut(&row.sid) {
                    for (piece, digests) in (row.first..).zip(unpack(&row.digests)) {
                        pieces.insert(row.relay, piece, digests);
                    }
                }
            }
            Change::Record(signed) => {
                let of_content = self.records.entry(signed.record().sid).or_default();
                of_content.insert(signed);
            }
            Change::DropRecords { sid, before } => {
                if let Some(records) = self.records.get_mut(&sid) {
                    records.drop_before(before);
                    if records.head() == Head::default() {
                        self.records.remove(&sid);
                    }
                }
            }
            Change::Lease(row) => {
                self.leases.entry(row.sid).or_default().push(row);
            }
            Change::Audit(row) => {
                let reading = Reading {
                    outcome: row.outcome,
                    digests: row.digests,
                };
                let audits = self.audits.entry(row.sid).or_default();
                audits.insert(row.piece, row.node, reading);
            }
            Change::Confirmed(row) => {
                let pieces = row.first..row.first.saturating_add(row.count);
                self.confirmed.entry(row.sid).or_default().extend(pieces);
            }
            Change::Distrust(row) => {
                self.distrusted.insert(row.node, row);
            }
            Change::Trust(node) => {
                self.distrusted.remove(&node);
            }
            Change::Task(row) => {
                let of_relay_task = self.tasks_of_relay_task.entry(row.relay_task.clone());
                of_relay_task.or_default().insert(row.id.clone());
                self.tasks.insert(row.id.clone(), row);
            }
            Change::TaskAgent(row) => {
                let of_node = self.tasks_of_node.entry(row.node).or_default();
                of_node.insert(row.task.clone());
                let of_task = self.task_agents.entry(row.task.clone()).or_default();
                of_task.insert(row.node, row);
            }
        }
    }

    fn leaves_site(&mut self, old: Option<&NodeRow>) {
        let site = old.map_or("", NodeRow::site);
        if let Some(count) = self.sites.get_mut(site) {
            *count -= 1;
            if *count == 0 {
                self.sites.remove(site);
            }
        }
    }

    /// Sites play a role: nodes of two are enrolled.
    pub(crate) fn has_sites(&self) -> bool {
        self.sites.len() > 1
    }

    /// Counts pieces that a relay reported.
    pub(super) fn reported(&mut self, sid: Sid, relay: NodeId, pieces: u32) {
        if !self.contents.contains_key(&sid) {
            return;
        }
        let of_content = self.reporters.entry(sid).or_default();
        *of_content.entry(relay).or_default() += pieces;
    }

    fn relay_task(&mut self, row: RelayTaskRow) {
        let newest = self.by_url.entry(row.url.clone()).or_default();
        let older = self.relay_tasks.get(newest.as_str());
        if older.is_none_or(|older| (older.created_us, &older.id) <= (row.created_us, &row.id)) {
            newest.clone_from(&row.id);
        }
        self.relay_tasks.insert(row.id.clone(), row);
    }

    fn content(&mut self, row: ContentRow) {
        self.by_announce_key
            .insert(row.announce_key.clone(), row.sid);
        if row.state == ContentState::Relaying {
            let count = row.layout().map_or(0, |layout| layout.piece_count());
            let pieces = self.pieces.entry(row.sid);
            let pieces = pieces.or_insert_with(|| PieceTable::new(count));
            // The length may have become known.
            pieces.end(count);
        }
        self.contents.insert(row.sid, row);
    }

    /// The current content of a relay task.
    pub(crate) fn content_of(&self, relay_task: &RelayTaskRow) -> Option<&ContentRow> {
        self.contents.get(relay_task.sid.as_ref()?)
    }

    /// True when the node may report this piece: it holds or once held a lease of it.
    pub(crate) fn was_leased(&self, sid: Sid, node: NodeId, piece: PieceIndex) -> bool {
        self.leases.get(&sid).is_some_and(|leases| {
            leases
                .iter()
                .any(|lease| lease.node == node && piece.0.wrapping_sub(lease.first) < lease.count)
        })
    }
}
