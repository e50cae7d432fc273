//! Keeps up which peers bring which parts to which site (see `crate::sites`).

use std::ops::Range;
use std::time::Duration;

use floodway_proto::{NodeId, Sid, Time};

use super::{Brings, Peer, PeerKey, Swarm, Swarms};
use crate::sites::Deal;

impl Swarms {
    /// Deals parts anew where that is due, at most once in `pace` for each content, less often the larger its swarm is. Returns the
    /// nodes whose parts changed.
    pub(crate) fn deal(&mut self, now: Time, pace: Duration) -> Vec<NodeId> {
        let mut changed = Vec::new();
        for (sid, swarm) in &mut self.by_sid {
            let pace = swarm.pace(pace);
            let is_due = swarm.dealt_at.is_none_or(|at| now.since(at) >= pace);
            if !swarm.undealt.is_empty() && is_due {
                swarm.dealt_at = Some(now);
                while let Some(site) = swarm.undealt.pop_first() {
                    changed.extend(swarm.deal_to(*sid, site));
                }
            }
        }
        changed
    }

    /// The parts of a content that an agent is to bring to its site; an empty range if none.
    pub(crate) fn parts(&self, sid: Sid, node: NodeId, site: &str) -> Range<u8> {
        let swarm = self.by_sid.get(&sid);
        let deal = swarm.and_then(|swarm| swarm.deals.get(site));
        deal.map_or(0..0, |deal| deal.parts(node))
    }
}

impl Swarm {
    /// A peer comes, changes, or goes (`None`): notes where parts are to be dealt anew. To be called before it is noted otherwise.
    pub(super) fn note_bringer(&mut self, key: PeerKey, now: Option<&Peer>) {
        let PeerKey::Own(node) = key else {
            return;
        };
        let old = self.peers.get(&key);
        let stand = |peer: Option<&Peer>| peer.map(|peer| (peer.brings, peer.site.clone()));
        let is_same = |old: &Peer, new: &Peer| (old.brings, &old.site) == (new.brings, &new.site);
        if old.zip(now).is_some_and(|(old, new)| is_same(old, new)) {
            return;
        }
        let (old, new) = (stand(old), stand(now));
        if let Some((brings, site)) = old {
            let had = self.deals.get(&site).is_some_and(|deal| deal.brings(node));
            if had || (brings == Brings::All && !site.is_empty()) {
                self.undealt.insert(site);
            }
            self.relays.remove(&node);
        }
        if let Some((brings, site)) = new {
            let has_room = self.deals.get(&site).is_none_or(Deal::has_room);
            if (has_room || brings == Brings::All) && !site.is_empty() {
                self.undealt.insert(site);
            }
            if brings == Brings::All {
                self.relays.insert(node);
            }
        }
    }

    /// Whether a relay brings all to this site.
    fn has_relay(&self, site: &str) -> bool {
        let at_site = |relay: &NodeId| {
            let peer = self.peers.get(&PeerKey::Own(*relay));
            peer.is_some_and(|peer| peer.site == site)
        };
        self.relays.iter().any(at_site)
    }

    fn deal_to(&mut self, sid: Sid, site: String) -> Vec<NodeId> {
        let mut deal = self.deals.remove(&site).unwrap_or_default();
        let has_relay = self.has_relay(&site);
        let may_bring = |node: &NodeId| {
            let peer = self.peers.get(&PeerKey::Own(*node));
            let is_fit = |peer: &Peer| peer.site == site && peer.brings == Brings::Parts;
            !has_relay && peer.is_some_and(is_fit)
        };
        // Of each content others bring the parts.
        let mut place = [0; 8];
        place.copy_from_slice(&sid.0[..8]);
        let keys = self.around_at(&site, u64::from_be_bytes(place));
        let nodes = keys.filter_map(|key| match key {
            PeerKey::Own(node) => Some(node),
            PeerKey::Stock(..) => None,
        });
        // A site with a relay is not looked through for agents.
        let most = if has_relay { 0 } else { usize::MAX };
        let others = nodes.take(most).filter(may_bring);
        let changed = deal.update(|node| may_bring(&node), others);
        if self.around_at(&site, 0).next().is_some() {
            self.deals.insert(site, deal);
        }
        changed
    }
}
