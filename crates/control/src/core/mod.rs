//! Control's decisions over all of its state: a machine that is told what happened and when, and that gives back
//! changes to make durable and replies to send once they are.
//!
//! Invariant: nothing that a [`Core`] answers leaves control before [`Core::take_changes`] of the same turn is
//! committed. Durable state is [`Model`]; all else (who is live, peers, held leases, parked syncs) is soft and
//! rebuilt by the next round of syncs.

mod admin;
mod audit;
mod awaited;
mod confirm;
mod contents;
mod ended;
mod enrol;
mod growth;
mod levels;
mod manifest;
mod relay;
mod reply;
mod sites;
mod sync;
mod ticks;
mod tracker;
mod trust;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use floodway_api::AllowList;
use floodway_api::manifest::RefusedPieces;
use floodway_api::rest::Role;
use floodway_api::sync::{SyncReply, SyncRequest};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::record::SecretKey;
use floodway_proto::{NodeId, Sid, Time};
use tokio::sync::oneshot;

use self::confirm::{EarlyWords, Wait};
use crate::db::{Change, LeaseRow, Model};
use crate::error::ApiError;
use crate::settings::{Advanced, Settings};
use crate::swarm_state::Swarms;
use crate::tasks::growing::Growing;
use awaited::Awaited;

pub(crate) use contents::News;
pub(crate) use enrol::{Joining, Sponsor};
pub(crate) use view::Gauges;

/// The moment of one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Monotonic.
    pub(crate) time: Time,
    /// Microseconds since 1970.
    pub(crate) us: i64,
}

/// What a core works by.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) allow: AllowList,
    /// Control's own address as torrents and nodes are told, without a `/` at the end.
    pub(crate) base_url: String,
    pub(crate) settings: Settings,
    pub(crate) capability_key: CapabilityKey,
    /// Signs the records of contents.
    pub(crate) signing_key: SecretKey,
}

/// A node that has synced since control started.
#[derive(Debug)]
struct LiveNode {
    /// What it said last, without the pieces.
    said: SyncRequest,
    peer: Option<SocketAddr>,
    http: Option<String>,
    /// It counts as gone then, unless it syncs again or is parked.
    dies: Time,
    /// Relay tasks that its `Ask::Open`s came to, by URL.
    opened: HashMap<String, String>,
    /// Pieces it reported in its last sync, by content: how quick it is.
    recent: HashMap<Sid, u32>,
    /// What it reported in its last sync and does not count.
    refused: Vec<RefusedPieces>,
}

/// Where the answer of a sync goes.
pub(crate) type ReplySlot = oneshot::Sender<Result<SyncReply, ApiError>>;

/// A sync that waits for something to do.
#[derive(Debug)]
struct Parked {
    known: u64,
    /// It is answered then at the latest.
    until: Time,
    slot: ReplySlot,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Core {
    config: Arc<Config>,
    pub(crate) model: Model,
    now: Now,
    changes: Vec<Change>,
    replies: Vec<(ReplySlot, SyncReply)>,
    live: HashMap<NodeId, LiveNode>,
    /// Those of them that are relays: few, and looked at with each sync of an agent.
    live_relays: BTreeSet<NodeId>,
    awaited: Awaited,
    swarms: Swarms,
    /// Nodes of several sites were enrolled when parts were dealt last.
    had_sites: bool,
    /// The contents whose records are not at their end.
    growing: BTreeMap<Sid, Growing>,
    /// When the lease of this number ends, of those that are held.
    held: HashMap<u64, Time>,
    /// Reported pieces that none was chosen of for an audit yet; after a start all of them may be.
    unaudited: BTreeMap<Sid, Vec<u32>>,
    /// How long an open audit is waited for.
    audits_end: BTreeMap<(Sid, u32, NodeId), Time>,
    /// How long complete contents wait for a second relay's word for every SHA-1.
    confirm_waits: BTreeMap<Sid, Wait>,
    /// What relays said of pieces that others have not reported yet.
    early_words: BTreeMap<Sid, EarlyWords>,
    last_lease: u64,
    parked: HashMap<NodeId, Parked>,
    /// Moments at which a parked sync is due.
    due: BTreeSet<(Time, NodeId)>,
    /// Parked nodes whose answer may have changed.
    dirty: HashSet<NodeId>,
    closing: bool,
    rng: fastrand::Rng,
}

impl Core {
    /// Control right after a start: `model` is what the database holds; nobody is live. Leases dealt earlier are held for one
    /// life more, so that their holders can come back; relays are awaited for a while.
    pub(crate) fn new(config: Arc<Config>, model: Model, now: Now, seed: u64) -> Self {
        let peers_max = config.settings.advanced.peers_per_reply;
        let node_timeout = config.settings.advanced.node_timeout.0;
        let awaited = Awaited::new(&model, node_timeout, now.time);
        let mut core = Self {
            config,
            model,
            now,
            changes: Vec::new(),
            replies: Vec::new(),
            live: HashMap::new(),
            live_relays: BTreeSet::new(),
            awaited,
            swarms: Swarms::new(peers_max),
            had_sites: false,
            growing: BTreeMap::new(),
            held: HashMap::new(),
            unaudited: BTreeMap::new(),
            audits_end: BTreeMap::new(),
            confirm_waits: BTreeMap::new(),
            early_words: BTreeMap::new(),
            last_lease: 0,
            parked: HashMap::new(),
            due: BTreeSet::new(),
            dirty: HashSet::new(),
            closing: false,
            rng: fastrand::Rng::with_seed(seed),
        };
        core.hold_all_leases();
        core.resume_manifests();
        core.resume_audits();
        core
    }

    fn hold_all_leases(&mut self) {
        let ends = self.now.time + self.advanced().lease.0;
        for lease in self.model.leases.values().flatten() {
            self.held.insert(lease.id, ends);
            self.last_lease = self.last_lease.max(lease.id);
        }
    }

    /// True once control has begun to stop.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Begins a turn.
    pub(crate) fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    fn advanced(&self) -> &Advanced {
        &self.config.settings.advanced
    }

    /// The changes since the last call, to be made durable before anything else leaves.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// The answers that may leave once the changes are durable.
    pub(crate) fn take_replies(&mut self) -> Vec<(ReplySlot, SyncReply)> {
        std::mem::take(&mut self.replies)
    }

    /// All who wait for an answer to a sync, answered now or parked.
    pub(crate) fn take_slots(&mut self) -> Vec<ReplySlot> {
        self.due.clear();
        let answered = self.replies.drain(..).map(|(slot, _)| slot);
        let parked = self.parked.drain().map(|(_, parked)| parked.slot);
        answered.chain(parked).collect()
    }

    /// The changes could not be made durable: back to what the database holds. Soft state stays; it is told anew by
    /// the next syncs.
    pub(crate) fn reload(&mut self, model: Model) {
        self.model = model;
        self.held.clear();
        self.hold_all_leases();
        self.resume_manifests();
        self.resume_audits();
    }

    fn change(&mut self, change: Change) {
        self.model.apply(change.clone());
        self.changes.push(change);
    }

    fn is_live(&self, node: NodeId) -> bool {
        self.live.contains_key(&node)
    }

    fn role_of(&self, node: NodeId) -> Option<Role> {
        self.model.nodes.get(&node).map(|row| row.role)
    }

    fn live_relays(&self) -> impl Iterator<Item = NodeId> + '_ {
        let live = self.live_relays.iter().copied();
        live.filter(|node| self.role_of(*node) == Some(Role::Relay))
    }

    /// Leases of this content that are held now, oldest first.
    fn held_leases(&self, sid: Sid) -> Vec<LeaseRow> {
        let of_content = self.model.leases.get(&sid).into_iter().flatten();
        of_content
            .filter(|lease| self.held.contains_key(&lease.id))
            .copied()
            .collect()
    }

    /// Looks at the parked syncs of all live relays again.
    fn wake_relays(&mut self) {
        let relays: Vec<_> = self.live_relays().collect();
        self.dirty.extend(relays);
    }

    /// Looks at the parked syncs of everybody who is concerned with this relay task again.
    fn wake_relay_task(&mut self, relay_task: &str) {
        self.wake_relays();
        let tasks = self.model.tasks_of_relay_task.get(relay_task);
        for task in tasks.into_iter().flatten() {
            let agents = self.model.task_agents.get(task);
            self.dirty
                .extend(agents.into_iter().flat_map(|agents| agents.keys()));
        }
        let openers = self.live.iter().filter(|(_, node)| {
            !node.said.asks.is_empty() || node.opened.values().any(|opened| opened == relay_task)
        });
        self.dirty.extend(openers.map(|(node, _)| *node));
        if let Some(sid) = self
            .model
            .relay_tasks
            .get(relay_task)
            .and_then(|task| task.sid)
        {
            self.wake_swarm(sid);
        }
    }

    fn wake_swarm(&mut self, sid: Sid) {
        self.dirty.extend(self.swarms.nodes(sid));
    }

    /// How long until an idle node syncs again: it grows with the fleet, so that control's load does not.
    fn idle_interval(&self) -> Duration {
        let advanced = self.advanced();
        let (least, most) = (advanced.idle_interval_min.0, advanced.idle_interval_max.0);
        let seconds = u64::try_from(self.live.len()).unwrap_or(u64::MAX) / 20_000;
        Duration::from_secs(seconds).clamp(least, most.max(least))
    }
}

#[cfg(test)]
mod tests;
