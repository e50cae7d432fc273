//! What a node is told: everything that concerns it now. A sync whose answer would be the one that the node knows
//! stays parked.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hasher};
use std::io;
use std::time::Duration;

use floodway_api::HexBytes;
use floodway_api::manifest::RefusedPieces;
use floodway_api::rest::Role;
use floodway_api::sync::{
    AgentState, Ask, ContentInfo, Grant, Policy, RangeLease, RelayContent, RelayOrder, RelaySource,
    SyncReply, TaskOrder,
};
use floodway_proto::record::Head;
use floodway_proto::{NodeId, Sid};
use url::Url;

use super::Core;
use crate::db::{ContentRow, ContentState, RelayState, RelayTaskRow};
use crate::error::ApiError;
use crate::swarm_state::Asker;
use crate::tasks::folder::is_folder;

/// Life of the capabilities in an answer: longer than any interval between syncs.
const CAPABILITY_SECONDS: u64 = 3600;
/// When to ask for a ticket again while a relay works.
const TICKET_RETRY_MS: u64 = 2000;

/// A live relay that serves a content.
pub(super) struct ServingRelay {
    pub(super) node: NodeId,
    /// Base URL of its HTTP side.
    pub(super) http: String,
    /// It serves while it fetches.
    pub(super) streaming: bool,
}

/// Hashes what is written to it.
struct HashWriter(DefaultHasher);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Core {
    /// Ends a turn: signs what is due, and answers the parked syncs whose answer changed.
    pub(crate) fn settle(&mut self) {
        self.sign_due();
        while let Some(node) = self.dirty.iter().next().copied() {
            self.dirty.remove(&node);
            let Some(parked) = self.parked.get(&node) else {
                continue;
            };
            let (known, until) = (parked.known, parked.until);
            if self.role_of(node) == Some(Role::Relay) {
                self.deal_to(node);
            }
            let (reply, interval) = self.reply_for(node);
            if reply.version == known && until > self.now.time && !self.closing {
                continue;
            }
            if let Some(parked) = self.parked.remove(&node) {
                self.due.remove(&(until, node));
                self.replies.push((parked.slot, reply));
            }
            let patience = self
                .advanced()
                .node_timeout
                .0
                .max(interval.saturating_mul(3));
            if let Some(live) = self.live.get_mut(&node) {
                live.dies = self.now.time + patience;
            }
        }
    }

    /// The answer to a node that goes away.
    pub(super) fn farewell(&self) -> SyncReply {
        SyncReply {
            interval_ms: millis(self.idle_interval()),
            policy: self.policy(),
            ..SyncReply::default()
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            offline_origin: self.config.settings.offline_origin,
        }
    }

    /// How long until the node syncs again at the latest.
    pub(super) fn interval(&self, node: NodeId) -> Duration {
        let busy = self.is_busy(node);
        if busy {
            self.advanced().busy_interval.0
        } else {
            self.idle_interval()
        }
    }

    /// True while the node has something unfinished to do.
    fn is_busy(&self, node: NodeId) -> bool {
        let Some(live) = self.live.get(&node) else {
            return true;
        };
        let open = |task: &RelayTaskRow| task.state == RelayState::Open;
        !live.said.asks.is_empty()
            || live.said.contents.iter().any(|content| !content.complete)
            || self
                .agent_tasks(node)
                .any(|(_, state)| matches!(state, AgentState::Offered | AgentState::Downloading))
            || self.role_of(node) == Some(Role::Relay) && self.model.relay_tasks.values().any(open)
    }

    /// The distribution tasks that an agent is to execute, and how far it is.
    fn agent_tasks(&self, node: NodeId) -> impl Iterator<Item = (&str, AgentState)> {
        let tasks = self.model.tasks_of_node.get(&node).into_iter().flatten();
        tasks.filter_map(move |id| {
            let task = self.model.tasks.get(id).filter(|task| !task.cancelled)?;
            let relay_task = self.model.relay_tasks.get(&task.relay_task)?;
            let row = self.model.task_agents.get(id)?.get(&node)?;
            (relay_task.state != RelayState::Cancelled).then_some((id.as_str(), row.state))
        })
    }

    /// The whole answer for a live node, and its interval.
    pub(super) fn reply_for(&mut self, node: NodeId) -> (SyncReply, Duration) {
        let interval = self.interval(node);
        let is_relay = self.role_of(node) == Some(Role::Relay);
        let tasks = self.task_orders(node);
        let relay_tasks = if is_relay {
            self.relay_orders(node)
        } else {
            Vec::new()
        };
        let asks = self
            .live
            .get(&node)
            .map(|live| live.said.asks.clone())
            .unwrap_or_default();
        let grants: Vec<_> = asks.iter().map(|ask| self.grant(node, ask)).collect();
        let mut sids: BTreeSet<Sid> = tasks.iter().filter_map(|task| task.sid).collect();
        sids.extend(
            relay_tasks
                .iter()
                .filter_map(|order| Some(order.content.as_ref()?.sid)),
        );
        sids.extend(grants.iter().filter_map(|grant| match grant {
            Grant::Content { sid, .. } => *sid,
            Grant::Ticket { .. } | Grant::Refused { .. } => None,
        }));
        if let Some(live) = self.live.get(&node) {
            sids.extend(live.said.contents.iter().map(|content| content.sid));
        }
        let contents = sids
            .iter()
            .filter_map(|sid| self.content_info(node, *sid))
            .collect();
        let key = is_relay.then(|| HexBytes(self.config.capability_key.secret().to_vec()));
        let mut reply = SyncReply {
            version: 0,
            interval_ms: millis(interval),
            contents,
            tasks,
            relay_tasks,
            grants,
            policy: self.policy(),
            capability_key: key,
            control_key: self.control_key(node),
            refused: self.refused(node),
            absent_upstreams: self.absent_upstreams(node),
        };
        reply.version = self.version(node, &reply);
        (reply, interval)
    }

    fn control_key(&self, node: NodeId) -> Option<HexBytes> {
        let live = self.live.get(&node).filter(|live| live.said.streaming);
        live.map(|_| HexBytes(self.config.signing_key.public().to_bytes().to_vec()))
    }

    fn refused(&self, node: NodeId) -> Vec<RefusedPieces> {
        let live = self.live.get(&node);
        live.map(|live| live.refused.clone()).unwrap_or_default()
    }

    /// A number for what is in the answer, without what differs every time: who of the peers was chosen, how long leases
    /// and capabilities still live.
    fn version(&self, node: NodeId, reply: &SyncReply) -> u64 {
        let mut told = reply.clone();
        told.interval_ms = 0;
        for order in told
            .relay_tasks
            .iter_mut()
            .filter_map(|order| order.content.as_mut())
        {
            order
                .leases
                .iter_mut()
                .for_each(|lease| lease.expires_ms = 0);
        }
        let mut hash = HashWriter(DefaultHasher::new());
        for content in &mut told.contents {
            content.peers.clear();
            if let Some(manifest) = content.manifest.as_mut() {
                // What agents are told once, or learn from others, is no reason to answer them.
                manifest.genesis = None;
                manifest.genesis_apart = false;
                manifest.records.clear();
                if self.role_of(node) != Some(Role::Relay) {
                    manifest.head = Head::default();
                    manifest.sealed = 0;
                }
            }
            content
                .relays
                .iter_mut()
                .for_each(|relay| relay.capability.clear());
            if !self.has_complete(node, content.sid) {
                hash.0.write_u64(self.swarms.news(content.sid));
            }
        }
        // Writing to a hash cannot fail, and neither can plain data.
        drop(serde_json::to_writer(&mut hash, &told));
        // Programs that read JSON numbers as floats keep 53 bits; 0 means none.
        (hash.0.finish() >> 11).max(1)
    }

    pub(super) fn has_complete(&self, node: NodeId, sid: Sid) -> bool {
        let said = self.live.get(&node).map(|live| &live.said.contents);
        said.is_some_and(|all| {
            all.iter()
                .any(|content| content.sid == sid && content.complete)
        })
    }

    fn task_orders(&self, node: NodeId) -> Vec<TaskOrder> {
        let tasks = self
            .agent_tasks(node)
            .filter_map(|(id, _)| self.model.tasks.get(id));
        tasks
            .filter_map(|task| {
                let relay_task = self.model.relay_tasks.get(&task.relay_task)?;
                Some(TaskOrder {
                    task: task.id.clone(),
                    sid: relay_task.sid.filter(|_| relay_task.is_live()),
                    url: relay_task.url.clone(),
                })
            })
            .collect()
    }

    fn relay_orders(&self, node: NodeId) -> Vec<RelayOrder> {
        let tasks = self
            .model
            .relay_tasks
            .values()
            .filter(|task| task.is_live());
        // Who feeds from others has nothing to probe.
        let feeds = self.feeds(node);
        tasks
            .filter(|task| !feeds || task.sid.is_some())
            .filter(|task| task.state == RelayState::Final || !self.has_failed(node, &task.id))
            .map(|task| {
                let row = self.model.content_of(task);
                let to_probe = if row.is_none() { &task.files[..] } else { &[] };
                RelayOrder {
                    relay_task: task.id.clone(),
                    url: task.url.clone(),
                    files: to_probe.to_vec(),
                    content: row.map(|row| self.relay_content(node, row)),
                }
            })
            .collect()
    }

    fn relay_content(&self, node: NodeId, row: &ContentRow) -> RelayContent {
        let own = self
            .held_leases(row.sid)
            .into_iter()
            .filter(|lease| lease.node == node);
        let leases = own.map(|lease| RangeLease {
            lease: lease.id,
            first: lease.first,
            count: lease.count,
            expires_ms: self
                .held
                .get(&lease.id)
                .map_or(0, |end| millis(end.since(self.now.time))),
        });
        RelayContent {
            sid: row.sid,
            genesis: row.genesis.for_messages().unwrap_or_default(),
            ranges: row.ranges,
            is_final: row.state == ContentState::Final,
            leases: leases.collect(),
            audits: self.audit_orders(node, row.sid),
        }
    }

    /// What control knows of a content; `None` when nobody shall hold it any more.
    fn content_info(&mut self, node: NodeId, sid: Sid) -> Option<ContentInfo> {
        let row = self.model.contents.get(&sid)?;
        let task = self.model.relay_tasks.get(&row.relay_task)?;
        let manifest = self.manifest_info(node, row);
        if !task.is_live() || task.sid != Some(sid) {
            // Whoever followed its records is told how it ended.
            let followed = self.reported(node, sid).is_some();
            return manifest.filter(|_| followed).map(|manifest| ContentInfo {
                sid,
                is_final: false,
                peers: Vec::new(),
                relays: Vec::new(),
                relay_live: self.may_be_relayed(&task.id),
                manifest: Some(manifest),
                site: None,
            });
        }
        let is_final = row.state == ContentState::Final;
        let relay_live = self.may_be_relayed(&task.id);
        let relays = self.relay_sources(node, sid);
        let site = self.stand(node, sid);
        let mut rng = self.rng.fork();
        let asker = Asker {
            node,
            site: self.site_of(node),
            is_relay: self.role_of(node) == Some(Role::Relay),
            complete: self.has_complete(node, sid),
            brings: site.map(|site| site.first..site.end),
        };
        let mut peers = self.swarms.for_node(sid, &asker, &mut rng);
        if self.feeds(node) {
            peers = self.peers_of_level(node, sid, peers);
        }
        Some(ContentInfo {
            sid,
            is_final,
            peers,
            relays,
            relay_live,
            manifest,
            site,
        })
    }

    /// True when a relay is live that works on the task, or could: one that feeds from others only when it has everything.
    pub(super) fn has_live_relay(&self, relay_task: &str) -> bool {
        let task = self.model.relay_tasks.get(relay_task);
        let sid = task.and_then(|task| task.sid);
        let provides =
            |node: NodeId| !self.feeds(node) || sid.is_some_and(|sid| self.has_complete(node, sid));
        self.live_relays()
            .any(|node| provides(node) && !self.has_failed(node, relay_task))
    }

    /// The live relays that hold something of the content, or serve it while they fetch it, those with everything first; among
    /// equals in another order for each who asks, so that they share the load.
    pub(super) fn serving_relays(&self, sid: Sid, asking: Option<NodeId>) -> Vec<ServingRelay> {
        let mut relays: Vec<_> = self
            .live_relays()
            .filter_map(|node| {
                let live = self.live.get(&node)?;
                let report = live
                    .said
                    .contents
                    .iter()
                    .find(|content| content.sid == sid)?;
                let streaming = report.manifest.is_some();
                let serves = report.complete || report.have > 0 || streaming;
                let serves = serves && report.serving;
                let place = BuildHasherDefault::<DefaultHasher>::new().hash_one((asking, node));
                let relay = ServingRelay {
                    node,
                    http: live.http.clone().filter(|_| serves)?,
                    streaming,
                };
                Some(((!report.complete, place, node), relay))
            })
            .collect();
        relays.sort_by_key(|(order, _)| *order);
        relays.into_iter().map(|(_, relay)| relay).collect()
    }

    fn relay_sources(&self, node: NodeId, sid: Sid) -> Vec<RelaySource> {
        let expires = self.now.us.cast_unsigned() / 1_000_000 + CAPABILITY_SECONDS;
        let mut relays = self.serving_relays(sid, Some(node));
        relays.retain(|relay| self.may_feed(node, relay.node));
        if !self.feeds(node)
            && relays
                .iter()
                .any(|relay| self.feeds_site(relay.node, node, sid))
        {
            relays.retain(|relay| self.feeds_site(relay.node, node, sid));
        }
        relays
            .into_iter()
            .map(|relay| RelaySource {
                node: relay.node,
                url: format!("{}/api/v1/s/{sid}/data", relay.http),
                capability: self.config.capability_key.issue(sid, Some(expires)),
                streaming: relay.streaming,
            })
            .collect()
    }

    fn grant(&self, node: NodeId, ask: &Ask) -> Grant {
        match ask {
            Ask::Open { url } => self.grant_open(node, url),
            Ask::Join { sid } => self.grant_join(*sid),
            Ask::Ticket { sid, url } => self.grant_ticket(node, *sid, url),
        }
    }

    fn grant_open(&self, node: NodeId, url: &str) -> Grant {
        if let Err(error) = self.allowed_url(url) {
            return not_allowed(url, &error);
        }
        let opened = self.live.get(&node).and_then(|live| live.opened.get(url));
        match opened.and_then(|id| self.model.relay_tasks.get(id)) {
            Some(task) => content_grant(url, task),
            None if url.ends_with('/') => {
                let message = "nobody published this folder; publish it first, with the list of its files (`floodway publish URL/ --files LIST`)";
                refused(url, "not_found", message, None)
            }
            // Only after the database refused the task and was read again: the node asks once more.
            None => refused(
                url,
                "not_found",
                "control lost the relay task; ask again",
                Some(TICKET_RETRY_MS),
            ),
        }
    }

    fn grant_join(&self, sid: Sid) -> Grant {
        let row = self.model.contents.get(&sid);
        let task = row.and_then(|row| self.model.relay_tasks.get(&row.relay_task));
        let known =
            |task: &&RelayTaskRow| task.sid == Some(sid) && task.state != RelayState::Cancelled;
        if let Some(task) = task.filter(known) {
            return content_grant(&task.url, task);
        }
        let message = "control knows no such content, or it was cancelled or replaced; check the sid with `floodway task list`";
        refused(&sid.to_string(), "not_found", message, None)
    }

    /// One unlimited ticket per ask when no relay is live (or may be in a moment) or the relay task failed; none otherwise.
    fn grant_ticket(&self, node: NodeId, sid: Option<Sid>, url: &str) -> Grant {
        let parsed = match self.allowed_url(url) {
            Ok(parsed) => parsed,
            Err(error) => return not_allowed(url, &error),
        };
        if is_folder(&parsed) {
            let message = "only relays read the files of a folder from their origin";
            return refused(url, "folder", message, Some(TICKET_RETRY_MS));
        }
        let by_sid = sid.and_then(|sid| Some(&self.model.contents.get(&sid)?.relay_task));
        let by_task = || {
            let opened = self.live.get(&node).and_then(|live| live.opened.get(url));
            opened.or_else(|| self.model.by_url.get(parsed.as_str()))
        };
        let task = by_sid
            .or_else(by_task)
            .and_then(|id| self.model.relay_tasks.get(id));
        // A ticket is for the URL that the content came from, whatever the node calls it.
        let task = task.filter(|task| task.url == parsed.as_str());
        let failed = task.is_some_and(|task| task.state == RelayState::Failed);
        let relay_live = if let Some(task) = task {
            self.may_be_relayed(&task.id)
        } else {
            let mut awaited = self.awaited_relays();
            let comes = awaited.any(|node| !self.is_distrusted(node));
            comes || self.origin_readers().next().is_some()
        };
        if relay_live && !failed {
            let message = "a relay is live and fetches this object, or may come back to it after control's start; the origin is left alone";
            return refused(url, "relay_live", message, Some(TICKET_RETRY_MS));
        }
        let content = task.and_then(|task| self.model.content_of(task));
        Grant::Ticket {
            url: url.to_owned(),
            etag: content.and_then(|row| row.etag.clone()),
        }
    }

    /// Reads a URL and checks it against the allow-list.
    pub(super) fn allowed_url(&self, text: &str) -> Result<Url, ApiError> {
        crate::core::admin::parse_allowed(&self.config.allow, text)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn refused(subject: &str, code: &str, message: &str, retry_ms: Option<u64>) -> Grant {
    Grant::Refused {
        subject: subject.into(),
        code: code.into(),
        message: message.into(),
        retry_ms,
    }
}

fn not_allowed(url: &str, error: &ApiError) -> Grant {
    refused(url, "not_allowed", error.message(), None)
}

fn content_grant(url: &str, task: &RelayTaskRow) -> Grant {
    let failed = (task.state == RelayState::Failed).then(|| {
        task.reason
            .clone()
            .unwrap_or_else(|| "the relay task failed".into())
    });
    let cancelled = (task.state == RelayState::Cancelled)
        .then(|| "an operator cancelled the relay task".to_owned());
    Grant::Content {
        url: url.to_owned(),
        sid: task.sid.filter(|_| task.is_live()),
        failed: failed.or(cancelled),
    }
}
