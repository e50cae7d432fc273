//! Which peers of a content an own node is told of.

use std::ops::Range;

use floodway_api::sync::PeerInfo;
use floodway_proto::{NodeId, PARTS, Sid};

use super::{LOOKED_AT_MAX, PeerKey, Swarm, Swarms};

/// One of so many peers that a bringer is told of brings the same to other sites: few are needed, and only at first.
const FAR_OF: usize = 5;
/// A relay is named to those that bring a part to so many sites; these serve the others. So all find room there.
const SITES_OF_RELAY: usize = 3;
/// Where a node's own site has not enough peers, one of so many may be of other sites without bringing the same: the way to
/// the content should those who bring it be gone, and control too.
const SPARE_OF: usize = 4;

/// An own node that asks for peers.
#[derive(Clone, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) node: NodeId,
    /// Its `site` label; empty if it has none.
    pub(crate) site: &'a str,
    pub(crate) is_relay: bool,
    /// It has everything.
    pub(crate) complete: bool,
    /// What it brings to its site; `None` where sites play no role for it.
    pub(crate) brings: Option<Range<u8>>,
}

/// An answer in the making.
struct Chosen<'a> {
    swarm: &'a Swarm,
    asker: &'a Asker<'a>,
    peers: Vec<PeerKey>,
}

impl Swarms {
    /// Peers for an own node. Where sites play no role: about half of its own site, the rest from everywhere. Else first those that
    /// bring the same parts to other sites, if it brings any, then its own site, and some others if these are few. A node
    /// that has everything gets only those that do not.
    pub(crate) fn for_node(
        &self,
        sid: Sid,
        asker: &Asker<'_>,
        rng: &mut fastrand::Rng,
    ) -> Vec<PeerInfo> {
        let Some(swarm) = self.by_sid.get(&sid) else {
            return Vec::new();
        };
        let most = self.peers_max;
        let mut chosen = Chosen {
            swarm,
            asker,
            peers: Vec::new(),
        };
        let near = (!asker.site.is_empty()).then(|| swarm.around_at(asker.site, rng.u64(..)));
        let near = near.into_iter().flatten().take(LOOKED_AT_MAX);
        let rest = swarm.around(rng.u64(..)).take(LOOKED_AT_MAX);
        if let Some(parts) = &asker.brings {
            let far = swarm.counterparts(asker, parts, rng);
            chosen.add(far.iter().copied(), most / FAR_OF);
            chosen.add(near, most);
            chosen.add(far.into_iter(), most);
            let spare = most.min(chosen.peers.len() + most / SPARE_OF);
            let is_relay =
                |key: &PeerKey| matches!(key, PeerKey::Own(node) if swarm.relays.contains(node));
            chosen.add(rest.filter(|key| !is_relay(key)), spare);
        } else {
            chosen.add(near, most.div_ceil(2));
            chosen.add(rest, most);
        }
        let info = |key: &PeerKey| swarm.peers[key].info(*key);
        chosen.peers.iter().map(info).collect()
    }
}

impl Chosen<'_> {
    /// Adds those that fit, until there are `most`.
    fn add(&mut self, keys: impl Iterator<Item = PeerKey>, most: usize) {
        for key in keys {
            if self.peers.len() >= most {
                return;
            }
            let is_self = key == PeerKey::Own(self.asker.node);
            let is_useful = !(self.asker.complete && self.swarm.peers[&key].complete);
            if !is_self && is_useful && !self.peers.contains(&key) {
                self.peers.push(key);
            }
        }
    }
}

impl Swarm {
    /// Who brings some of these parts to other sites, relays first, in random order.
    fn counterparts(
        &self,
        asker: &Asker<'_>,
        parts: &Range<u8>,
        rng: &mut fastrand::Rng,
    ) -> Vec<PeerKey> {
        if parts.is_empty() {
            return Vec::new();
        }
        let mut relays: Vec<_> = self.relays.iter().map(|node| PeerKey::Own(*node)).collect();
        let is_away = |key: &PeerKey| {
            let site = &self.peers[key].site;
            site.is_empty() || site != asker.site
        };
        let asks_relays = asker.is_relay || self.asks_relays(asker, parts);
        relays.retain(|key| asks_relays && is_away(key));
        rng.shuffle(&mut relays);
        let others = self.deals.iter().filter(|(site, _)| *site != asker.site);
        let agents = others.flat_map(|(_, deal)| deal.who_brings(parts));
        let mut agents: Vec<_> = agents.map(PeerKey::Own).collect();
        rng.shuffle(&mut agents);
        relays.append(&mut agents);
        relays
    }

    /// Whether one of these parts is brought to the node's site from relays, and not only from other sites.
    fn asks_relays(&self, asker: &Asker<'_>, parts: &Range<u8>) -> bool {
        let sites = self.deals.iter().filter(|(_, deal)| !deal.is_empty());
        let (before, after): (Vec<_>, Vec<_>) =
            sites.partition(|(site, _)| site.as_str() < asker.site);
        let (own, sites) = (before.len(), (before.len() + after.len()).max(1));
        let turn = |part: u8| (own + usize::from(PARTS) * sites - usize::from(part)) % sites;
        parts.clone().any(|part| turn(part) < SITES_OF_RELAY)
    }
}
