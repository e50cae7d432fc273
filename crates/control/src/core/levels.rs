//! Levels of relays: one that feeds from others by its settings never reads an origin.
//!
//! Which relay feeds from which is soft, like all that nodes say of themselves: it holds while they are live.

use std::collections::BTreeSet;

use floodway_api::rest::Role;
use floodway_api::sync::{PeerInfo, SyncRequest};
use floodway_proto::{NodeId, Sid};

use super::Core;
use crate::db::NodeRow;
use crate::error::ApiError;
use crate::swarm_state::PeerKey;

/// A relay feeds from at most so many others.
const UPSTREAMS_MAX: usize = 16;

/// Whether `name` means this relay: by its id, or by the name that people gave it.
fn is_meant(row: &NodeRow, name: &str) -> bool {
    row.role == Role::Relay && (row.name == name || row.id.to_string() == name)
}

impl Core {
    /// Checks from whom a node wants to feed.
    ///
    /// # Errors
    /// When it is no relay, names too many, or is fed by itself, over others too.
    pub(super) fn check_levels(
        &self,
        row: &NodeRow,
        request: &SyncRequest,
    ) -> Result<(), ApiError> {
        let names = &request.feeds_from;
        let wrong = |message: String| Err(ApiError::bad_field("feeds_from", message));
        if names.is_empty() {
            return Ok(());
        }
        if row.role != Role::Relay {
            return wrong("only relays feed from relays".into());
        }
        if names.len() > UPSTREAMS_MAX {
            return wrong(format!(
                "a relay feeds from at most {UPSTREAMS_MAX} others, not from {}",
                names.len()
            ));
        }
        if names.iter().any(|name| is_meant(row, name)) {
            return wrong(format!(
                "relay `{}` would feed from itself: name another relay in `feeds_from`, by its id if both have the same name",
                row.name
            ));
        }
        let (mut seen, mut next) = (BTreeSet::new(), self.upstreams(names));
        while let Some(node) = next.pop() {
            let Some(live) = self.live.get(&node).filter(|_| seen.insert(node)) else {
                continue;
            };
            if live.said.feeds_from.iter().any(|name| is_meant(row, name)) {
                return wrong(format!(
                    "relays would feed from each other in a circle, and none of them would read the origin: relay {} feeds from `{}`; take `feeds_from` out of the settings of one of them",
                    self.name_of(node),
                    row.name
                ));
            }
            next.extend(self.upstreams(&live.said.feeds_from));
        }
        Ok(())
    }

    /// The live relays that these names mean.
    fn upstreams(&self, names: &[String]) -> Vec<NodeId> {
        let named = self.live_relays().filter(|node| {
            let row = self.model.nodes.get(node);
            row.is_some_and(|row| names.iter().any(|name| is_meant(row, name)))
        });
        named.collect()
    }

    fn feeds_from(&self, node: NodeId) -> &[String] {
        let live = self.live.get(&node);
        live.map_or(&[], |live| &live.said.feeds_from)
    }

    /// Whether a relay feeds from others and leaves origins alone.
    pub(super) fn feeds(&self, node: NodeId) -> bool {
        !self.feeds_from(node).is_empty()
    }

    /// Those names of the relay's settings that mean no live relay.
    pub(super) fn absent_upstreams(&self, node: NodeId) -> Vec<String> {
        let is_absent = |name: &&String| self.upstreams(std::slice::from_ref(name)).is_empty();
        let names = self.feeds_from(node).iter();
        names.filter(is_absent).cloned().collect()
    }

    /// The live relays that read origins, and whose word counts.
    pub(super) fn origin_readers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.live_relays()
            .filter(|node| !self.feeds(*node) && !self.is_distrusted(*node))
    }

    /// From whom a relay may have a content over HTTP: one that feeds from others, from these only.
    pub(super) fn may_feed(&self, node: NodeId, from: NodeId) -> bool {
        !self.feeds(node) || self.upstreams(self.feeds_from(node)).contains(&from)
    }

    /// Whether this relay, which feeds from others, is there for the site of this node: then each byte is to come to the site once,
    /// and to the node over HTTP from nobody else. A relay that is cut off, or whose disk refuses the content, is no help to its site.
    pub(super) fn feeds_site(&self, relay: NodeId, node: NodeId, sid: Sid) -> bool {
        let site = self.site_of(node);
        let is_fed = || self.has_complete(relay, sid) || self.takes_in(relay, sid);
        !site.is_empty() && self.feeds(relay) && self.site_of(relay) == site && is_fed()
    }

    /// Whether this relay, which feeds from others, goes on with a content.
    fn takes_in(&self, relay: NodeId, sid: Sid) -> bool {
        let content = self.model.contents.get(&sid);
        let works = content.is_some_and(|row| !self.has_failed(relay, &row.relay_task));
        works && !self.is_paused(relay, sid) && self.is_fed(relay)
    }

    /// Whether a relay gets bytes from somewhere: from an origin, or from an upstream that is live.
    pub(super) fn is_fed(&self, relay: NodeId) -> bool {
        !self.feeds(relay) || !self.upstreams(self.feeds_from(relay)).is_empty()
    }

    /// The peers that a relay that feeds from others is to dial: these, and who is at its own site. Others dial it.
    pub(super) fn peers_of_level(
        &self,
        node: NodeId,
        sid: Sid,
        peers: Vec<PeerInfo>,
    ) -> Vec<PeerInfo> {
        let upstreams = self.upstreams(self.feeds_from(node));
        let own = self.site_of(node);
        let at_own_site = |peer: &PeerInfo| {
            let other = peer.node.filter(|other| !upstreams.contains(other));
            !own.is_empty() && other.is_some_and(|other| self.site_of(other) == own)
        };
        let fed = upstreams.iter().map(|node| PeerKey::Own(*node));
        let fed = fed.filter_map(|key| self.swarms.peer(sid, key));
        fed.chain(peers.into_iter().filter(at_own_site)).collect()
    }
}
