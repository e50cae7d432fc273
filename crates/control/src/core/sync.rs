//! What a node says: taken in whole, durable before it is answered.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use floodway_api::rest::Role;
use floodway_api::sync::{AgentState, Ask, ContentReport, SyncRequest, TaskReport};
use floodway_proto::{NodeId, Sid};
use url::Url;

use super::{Core, LiveNode, Parked, ReplySlot};
use crate::db::{Change, ContentState, NodeRow, TaskAgentRow};
use crate::error::ApiError;
use crate::swarm_state::{Peer, PeerKey};

/// At most so many asks in one sync.
const ASKS_MAX: usize = 64;
/// At most so many contents in one sync.
const CONTENTS_MAX: usize = 10_000;
/// The longest reason that is kept, in bytes.
pub(super) const REASON_MAX: usize = 2000;

/// A text of somebody else as it may be kept and shown: on one line, and not too long.
pub(super) fn clipped(text: &str) -> String {
    let text = text.replace(char::is_control, " ");
    let mut end = text.len().min(REASON_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// An unspecified address means the one that the request came from.
fn reachable(addr: SocketAddr, remote: IpAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        SocketAddr::new(remote.to_canonical(), addr.port())
    } else {
        addr
    }
}

/// The base URL of a relay's HTTP side as others reach it, without a `/` at the end.
fn reachable_http(text: &str, remote: IpAddr) -> Result<String, ApiError> {
    let bad = |problem: String| {
        ApiError::bad_field(
            "http",
            format!("`{text}` is not the base URL of a relay: {problem}"),
        )
    };
    let mut url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || text.len() > 1024 {
        return Err(bad(
            "it must be a http:// or https:// URL of at most 1024 characters".into(),
        ));
    }
    let unspecified = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_unspecified(),
        Some(url::Host::Ipv6(ip)) => ip.is_unspecified(),
        Some(url::Host::Domain(_)) | None => false,
    };
    if unspecified {
        let host = url.set_ip_host(remote.to_canonical());
        host.map_err(|()| bad("its host cannot be replaced".into()))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

impl Core {
    /// Takes in a sync. It is answered through `slot`, at the end of this turn or when there is something to do.
    pub(crate) fn sync(
        &mut self,
        node: NodeId,
        remote: IpAddr,
        request: SyncRequest,
        slot: ReplySlot,
    ) {
        if let Err(error) = self.take_in(node, remote, request, slot) {
            let (slot, error) = *error;
            // The node may have hung up; then nobody waits.
            drop(slot.send(Err(error)));
        }
    }

    fn take_in(
        &mut self,
        node: NodeId,
        remote: IpAddr,
        mut request: SyncRequest,
        slot: ReplySlot,
    ) -> Result<(), Box<(ReplySlot, ApiError)>> {
        let checked = self.check(node, remote, &request);
        let (row, peer, http) = match checked {
            Ok(checked) => checked,
            Err(error) => return Err(Box::new((slot, error))),
        };
        let role = row.role;
        self.unpark(node);
        let reports = std::mem::take(&mut request.relay_tasks);
        let judge = self.note_live(&row, &request, peer, http);
        if role == Role::Relay {
            for report in reports {
                self.relay_report(node, request.boot, report);
            }
            self.renew_leases(node);
        }
        for report in &request.tasks {
            self.task_report(node, report);
        }
        self.open_asked(node, &request.asks);
        let (known, leaving) = (request.known, request.leaving);
        let wait = if leaving { 0 } else { request.wait_ms };
        self.note_contents(&row, request);
        if role == Role::Relay {
            self.note_pauses(node);
        }
        if judge {
            self.judge_open_tasks();
        }
        if leaving {
            self.await_return(node);
            self.gone(node);
            self.replies.push((slot, self.farewell()));
            if row.short_lived {
                self.change(Change::ForgetNode(node));
            }
            return Ok(());
        }
        let room = self.parked.len() < self.advanced().parked_max && !self.closing;
        let wait = if room {
            Duration::from_millis(wait)
        } else {
            Duration::ZERO
        };
        let until = self.now.time + wait.min(self.interval(node));
        self.parked.insert(node, Parked { known, until, slot });
        self.due.insert((until, node));
        self.dirty.insert(node);
        Ok(())
    }

    /// Checks all that can be wrong with a request before any of it counts.
    fn check(
        &self,
        node: NodeId,
        remote: IpAddr,
        request: &SyncRequest,
    ) -> Result<(NodeRow, Option<SocketAddr>, Option<String>), ApiError> {
        let row = self.model.nodes.get(&node).cloned().ok_or_else(|| {
            ApiError::unauthorized(
                "this node is not enrolled any more; enrol it again with a join token",
            )
        })?;
        if request.asks.len() > ASKS_MAX {
            return Err(ApiError::bad_field(
                "asks",
                format!("more than {ASKS_MAX} asks in one sync"),
            ));
        }
        if request.contents.len() > CONTENTS_MAX {
            let message = format!("more than {CONTENTS_MAX} contents in one sync");
            return Err(ApiError::bad_field("contents", message));
        }
        self.check_levels(&row, request)?;
        let peer = request.peer.filter(|addr| addr.port() != 0);
        let peer = peer.map(|addr| reachable(addr, remote));
        let http = request
            .http
            .as_deref()
            .map(|text| reachable_http(text, remote))
            .transpose()?;
        Ok((row, peer, http))
    }

    /// A newer sync of the same node releases the parked one.
    fn unpark(&mut self, node: NodeId) {
        if let Some(parked) = self.parked.remove(&node) {
            self.due.remove(&(parked.until, node));
            let (reply, _) = self.reply_for(node);
            self.replies.push((parked.slot, reply));
        }
    }

    /// True when relay tasks may have lost the last relay that could have gone on with them.
    fn note_live(
        &mut self,
        row: &NodeRow,
        request: &SyncRequest,
        peer: Option<SocketAddr>,
        http: Option<String>,
    ) -> bool {
        let dies = self.now.time + self.advanced().node_timeout.0;
        let old = self.live.get_mut(&row.id);
        let appeared = old.is_none();
        let restarted = old
            .as_ref()
            .is_some_and(|old| old.said.boot != request.boot);
        let moved = old.as_ref().is_some_and(|old| old.http != http);
        let relevelled = old
            .as_ref()
            .is_some_and(|old| old.said.feeds_from != request.feeds_from);
        let fresh = || LiveNode {
            said: SyncRequest::default(),
            peer: None,
            http: None,
            dies,
            opened: HashMap::new(),
            recent: HashMap::new(),
            refused: Vec::new(),
        };
        if row.role == Role::Relay {
            self.live_relays.insert(row.id);
        }
        let live = self.live.entry(row.id).or_insert_with(fresh);
        live.peer = peer;
        live.http = http;
        live.dies = dies;
        live.said.boot = request.boot;
        live.said.feeds_from.clone_from(&request.feeds_from);
        live.said.audits = request.audits;
        live.recent.clear();
        live.refused.clear();
        let came = self.awaited.came(row.id);
        if restarted {
            live.opened.clear();
        }
        if row.role == Role::Relay && !self.audits(row.id) {
            // It was asked when it still did.
            self.end_audits_of(row.id);
        }
        if appeared || restarted {
            self.drop_leases(row.id, Some(request.boot));
            let seen_us = self.now.us;
            self.change(Change::Node(NodeRow {
                seen_us,
                ..row.clone()
            }));
        }
        if row.role == Role::Relay && (appeared || moved || relevelled) {
            tracing::info!(node = %row.id, name = row.name, "relay is live");
            self.wake_all();
        }
        came || relevelled
    }

    pub(super) fn wake_all(&mut self) {
        self.dirty.extend(self.parked.keys());
    }

    /// The node's leases are free again, all but those of the process start `keep`.
    pub(super) fn drop_leases(&mut self, node: NodeId, keep: Option<u64>) {
        let all = self.model.leases.values().flatten();
        let dropped = all.filter(|lease| lease.node == node && Some(lease.boot) != keep);
        let before = self.held.len();
        for lease in dropped {
            self.held.remove(&lease.id);
        }
        if self.held.len() < before {
            self.wake_relays();
        }
    }

    fn renew_leases(&mut self, node: NodeId) {
        let ends = self.now.time + self.advanced().lease.0;
        for lease in self
            .model
            .leases
            .values()
            .flatten()
            .filter(|lease| lease.node == node)
        {
            if let Some(end) = self.held.get_mut(&lease.id) {
                *end = ends;
            }
        }
    }

    /// Durable when the state changes; progress alone is soft and told again by the next sync.
    fn task_report(&mut self, node: NodeId, report: &TaskReport) {
        let task = self.model.tasks.get(&report.task);
        let of_task = self.model.task_agents.get(&report.task);
        let row = of_task.and_then(|agents| agents.get(&node));
        let (Some(task), Some(row)) = (task, row) else {
            return;
        };
        let reason = report.reason.as_deref().map(clipped);
        let same = row.state == report.state && row.reason == reason;
        if task.cancelled || same || report.state == AgentState::Cancelled {
            return;
        }
        tracing::info!(task = report.task, %node, state = ?report.state, reason, "agent reported");
        self.change(Change::TaskAgent(TaskAgentRow {
            task: report.task.clone(),
            node,
            state: report.state,
            reason,
            bytes: report.bytes,
            sources: report.sources,
        }));
    }

    /// The first `Ask::Open` of a URL binds the node to a relay task, made if there is none.
    fn open_asked(&mut self, node: NodeId, asks: &[Ask]) {
        for ask in asks {
            let Ask::Open { url } = ask else { continue };
            let opened = self.live.get(&node).and_then(|live| live.opened.get(url));
            let bound = opened.is_some_and(|id| self.model.relay_tasks.contains_key(id));
            if bound {
                continue;
            }
            let parsed = self.allowed_url(url).ok();
            if let Some(relay_task) = parsed.and_then(|url| self.open_for_node(&url)) {
                if let Some(live) = self.live.get_mut(&node) {
                    live.opened.insert(url.clone(), relay_task);
                }
            }
        }
    }

    /// Brings the swarms up to date with what the node says that it holds.
    fn note_contents(&mut self, row: &NodeRow, request: SyncRequest) {
        let node = row.id;
        let reports = request.contents.iter();
        let brings: Vec<_> = reports.map(|report| self.brings(row, report)).collect();
        let Some(live) = self.live.get_mut(&node) else {
            return;
        };
        let old = std::mem::replace(&mut live.said, request);
        let (said, peer) = (&live.said, live.peer);
        let mut in_swarm = HashSet::new();
        let mut woken: Vec<Sid> = Vec::new();
        for (report, brings) in said.contents.iter().zip(brings) {
            let content = self.model.contents.get(&report.sid);
            if content.is_none_or(|content| content.state == ContentState::Superseded) {
                continue;
            }
            let before = old.contents.iter().find(|old| old.sid == report.sid);
            let serves = |report: &ContentReport| {
                let streams = report.manifest.is_some();
                let pauses = report.paused.is_some();
                (report.have > 0 || streams, report.complete, streams, pauses)
            };
            let same = before.is_some_and(|before| serves(before) == serves(report));
            if row.role == Role::Relay && !same {
                woken.push(report.sid);
            }
            if let Some(addr) = peer.filter(|_| report.serving) {
                in_swarm.insert(report.sid);
                let peer = Peer {
                    addr,
                    site: row.site().to_owned(),
                    brings,
                    complete: report.complete,
                    final_ok: report.final_ok,
                    v2_ok: report.v2_ok,
                    streaming: report.manifest.is_some(),
                    expires: None,
                };
                self.swarms.put(report.sid, PeerKey::Own(node), peer);
            }
        }
        for report in old
            .contents
            .iter()
            .filter(|old| !in_swarm.contains(&old.sid))
        {
            self.swarms.remove(report.sid, PeerKey::Own(node));
        }
        for sid in woken {
            self.wake_swarm(sid);
        }
    }

    /// The node left or stopped syncing.
    pub(super) fn gone(&mut self, node: NodeId) {
        self.unpark(node);
        self.live_relays.remove(&node);
        let Some(live) = self.live.remove(&node) else {
            return;
        };
        for report in &live.said.contents {
            self.swarms.remove(report.sid, PeerKey::Own(node));
        }
        self.drop_leases(node, None);
        self.keep_progress(node, &live.said.tasks);
        if let Some(row) = self.model.nodes.get(&node).cloned() {
            if row.role == Role::Relay {
                tracing::info!(%node, name = row.name, "relay is gone");
                self.end_audits_of(node);
                self.wake_all();
                self.judge_open_tasks();
            }
            let seen_us = self.now.us;
            self.change(Change::Node(NodeRow { seen_us, ..row }));
        }
    }

    /// What the node last said of its progress becomes durable when it goes.
    fn keep_progress(&mut self, node: NodeId, reports: &[TaskReport]) {
        for report in reports {
            let of_task = self.model.task_agents.get(&report.task);
            let row = of_task.and_then(|agents| agents.get(&node)).cloned();
            if let Some(row) = row.filter(|row| row.bytes != report.bytes) {
                let (bytes, sources) = (report.bytes, report.sources);
                self.change(Change::TaskAgent(TaskAgentRow {
                    bytes,
                    sources,
                    ..row
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_become_the_one_the_request_comes_from() {
        let remote: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
        let reached = reachable("0.0.0.0:6881".parse().unwrap(), remote);
        assert_eq!(reached, "10.1.2.3:6881".parse().unwrap());
        let kept: SocketAddr = "192.0.2.1:6881".parse().unwrap();
        assert_eq!(reachable(kept, remote), kept);
        let http = |text| reachable_http(text, remote).unwrap();
        assert_eq!(http("http://0.0.0.0:80/"), "http://10.1.2.3");
        assert_eq!(http("http://[::]:8080"), "http://10.1.2.3:8080");
        assert_eq!(http("https://relay.example/x/"), "https://relay.example/x");
        for bad in ["relay:80", "ftp://x", "", "http://"] {
            assert!(reachable_http(bad, remote).is_err(), "{bad}");
        }
    }

    #[test]
    fn foreign_texts_are_clipped_between_characters() {
        assert_eq!(clipped("a\x1b[2J\nb"), "a [2J b");
        assert!(clipped(&"ü".repeat(REASON_MAX)).len() <= REASON_MAX);
    }
}
