//! Who holds or wants which content: soft, in memory, rebuilt by the next round of syncs and announces.
//!
//! A content has one set of peers under all its names. Own nodes are known by their id, stock clients by their
//! address; only own nodes that know the content's final names are given to stock clients.

mod choice;
mod parts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use floodway_api::sync::PeerInfo;
use floodway_proto::{InfoHash, NodeId, Sid, Time};

use crate::sites::Deal;

pub(crate) use choice::Asker;

/// A peer by what it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKey {
    Own(NodeId),
    /// A stock client under one name of the content. The swarms of stock clients under different names are apart.
    Stock(SocketAddr, InfoHash),
}

/// What a peer may be asked to bring to its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brings {
    /// All: it is a relay that has the content, or goes on with it.
    All,
    /// The parts that it is dealt: it is an agent.
    Parts,
    /// Nothing: it is a relay that does not go on, or a stock client.
    Nothing,
}

/// A peer of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    /// The node's `site` label; empty if none, and for stock clients.
    pub(crate) site: String,
    pub(crate) brings: Brings,
    pub(crate) complete: bool,
    /// Stock clients may be sent to it.
    pub(crate) final_ok: bool,
    /// Those of v2 torrents too.
    pub(crate) v2_ok: bool,
    /// It verifies by signed records, before and after the content is final.
    pub(crate) streaming: bool,
    /// Stock clients are dropped then; own nodes when they stop syncing.
    pub(crate) expires: Option<Time>,
}

/// A stock client that asks for peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    pub(crate) addr: SocketAddr,
    /// The name of its torrent: a hybrid's first.
    pub(crate) name: InfoHash,
    /// Its torrent has BEP 52's hashes.
    pub(crate) is_v2: bool,
    /// It has everything.
    pub(crate) is_seed: bool,
}

/// Peers of one content. They are kept in random order, and by site: a run of neighbours from a random place is a
/// random choice.
#[derive(Debug, Default)]
struct Swarm {
    peers: HashMap<PeerKey, Peer>,
    shuffled: BTreeMap<u64, PeerKey>,
    by_site: BTreeMap<(String, u64), PeerKey>,
    /// The relays that bring all to where they stand.
    relays: BTreeSet<NodeId>,
    /// Which agents bring what to each site.
    deals: BTreeMap<String, Deal>,
    /// Sites to which parts are to be dealt anew; and when that was done last.
    undealt: BTreeSet<String>,
    dealt_at: Option<Time>,
    /// How many of them have everything.
    complete: u32,
    /// Rises when there are new peers to tell of.
    news: u64,
    news_at: Time,
    /// A peer came since `news` rose.
    untold: bool,
    /// Downloads that stock clients said they completed.
    downloaded: u32,
}

/// All swarms. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Swarms {
    by_sid: HashMap<Sid, Swarm>,
    hash: RandomState,
    peers_max: usize,
}

/// How many peers a stock client gets at most.
const STOCK_PEERS_MAX: usize = 200;

/// At most so many peers are looked at for one answer, so that a large swarm of seeds costs no more than a small one.
const LOOKED_AT_MAX: usize = 2000;

/// How many have everything, how many still need something, and how many downloads were completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SwarmCounts {
    pub(crate) complete: u32,
    pub(crate) incomplete: u32,
    pub(crate) downloaded: u32,
}

impl Swarms {
    /// No swarms. Own nodes get up to `peers_max` peers at a time.
    pub(crate) fn new(peers_max: usize) -> Self {
        Self {
            by_sid: HashMap::new(),
            hash: RandomState::new(),
            peers_max,
        }
    }

    /// Adds a peer or brings it up to date.
    pub(crate) fn put(&mut self, sid: Sid, key: PeerKey, peer: Peer) {
        let place = self.hash.hash_one(key);
        let swarm = self.by_sid.entry(sid).or_default();
        swarm.note_bringer(key, Some(&peer));
        let old = swarm.peers.get(&key);
        let moved = old.is_none_or(|old| old.addr != peer.addr);
        if let Some(old) = old.filter(|old| old.site != peer.site) {
            swarm.by_site.remove(&(old.site.clone(), place));
        }
        swarm.untold |= moved;
        swarm.complete -= u32::from(old.is_some_and(|old| old.complete));
        swarm.complete += u32::from(peer.complete);
        swarm.shuffled.insert(place, key);
        if !peer.site.is_empty() {
            swarm.by_site.insert((peer.site.clone(), place), key);
        }
        swarm.peers.insert(key, peer);
    }

    /// Removes a peer, if it is there.
    pub(crate) fn remove(&mut self, sid: Sid, key: PeerKey) {
        let place = self.hash.hash_one(key);
        if let Some(swarm) = self.by_sid.get_mut(&sid) {
            swarm.note_bringer(key, None);
            if let Some(peer) = swarm.peers.remove(&key) {
                swarm.complete -= u32::from(peer.complete);
                swarm.shuffled.remove(&place);
                swarm.by_site.remove(&(peer.site, place));
            }
            if swarm.peers.is_empty() {
                self.by_sid.remove(&sid);
            }
        }
    }

    /// Counts a completed download of a stock client.
    pub(crate) fn completed(&mut self, sid: Sid) {
        if let Some(swarm) = self.by_sid.get_mut(&sid) {
            swarm.downloaded = swarm.downloaded.saturating_add(1);
        }
    }

    /// Drops the stock clients that did not announce again.
    pub(crate) fn expire(&mut self, now: Time) {
        let mut gone = Vec::new();
        for (sid, swarm) in &self.by_sid {
            let expired = swarm
                .peers
                .iter()
                .filter(|(_, peer)| peer.expires.is_some_and(|at| at <= now));
            gone.extend(expired.map(|(key, _)| (*sid, *key)));
        }
        for (sid, key) in gone {
            self.remove(sid, key);
        }
    }

    /// Swarms whose new peers are to be told of now: at most once in `pace`, less often the larger the swarm is.
    pub(crate) fn take_news(&mut self, now: Time, pace: Duration) -> Vec<Sid> {
        let mut told = Vec::new();
        for (sid, swarm) in self.by_sid.iter_mut().filter(|(_, swarm)| swarm.untold) {
            let pace = swarm.pace(pace);
            if swarm.news == 0 || now.since(swarm.news_at) >= pace {
                swarm.news += 1;
                swarm.news_at = now;
                swarm.untold = false;
                told.push(*sid);
            }
        }
        told
    }

    /// Rises whenever there are new peers of the content to tell of.
    pub(crate) fn news(&self, sid: Sid) -> u64 {
        self.by_sid.get(&sid).map_or(0, |swarm| swarm.news)
    }

    /// The own nodes of a content.
    pub(crate) fn nodes(&self, sid: Sid) -> Vec<NodeId> {
        let keys = self
            .by_sid
            .get(&sid)
            .into_iter()
            .flat_map(|swarm| swarm.peers.keys());
        keys.filter_map(|key| match key {
            PeerKey::Own(node) => Some(*node),
            PeerKey::Stock(..) => None,
        })
        .collect()
    }

    /// One peer of a content, for an own node.
    pub(crate) fn peer(&self, sid: Sid, key: PeerKey) -> Option<PeerInfo> {
        let peer = self.by_sid.get(&sid)?.peers.get(&key)?;
        Some(peer.info(key))
    }

    /// Addresses for a stock client: own nodes that answer by the name of its torrent, and stock clients under the same name.
    pub(crate) fn for_stock(
        &self,
        sid: Sid,
        asking: Asking,
        wanted: usize,
        rng: &mut fastrand::Rng,
    ) -> Vec<SocketAddr> {
        let Some(swarm) = self.by_sid.get(&sid) else {
            return Vec::new();
        };
        let keys = swarm.around(rng.u64(..)).take(LOOKED_AT_MAX);
        let answers = |key: &PeerKey, peer: &Peer| match key {
            PeerKey::Own(_) => peer.final_ok && (peer.v2_ok || !asking.is_v2),
            PeerKey::Stock(_, name) => *name == asking.name,
        };
        keys.map(|key| (key, &swarm.peers[&key]))
            .filter(|(key, peer)| answers(key, peer))
            .map(|(_, peer)| peer)
            .filter(|peer| peer.addr != asking.addr && !(asking.is_seed && peer.complete))
            .map(|peer| peer.addr)
            .take(wanted.min(STOCK_PEERS_MAX))
            .collect()
    }

    /// What trackers tell of a swarm.
    pub(crate) fn counts(&self, sid: Sid) -> SwarmCounts {
        let mut counts = SwarmCounts::default();
        if let Some(swarm) = self.by_sid.get(&sid) {
            let peers = u32::try_from(swarm.peers.len()).unwrap_or(u32::MAX);
            counts.complete = swarm.complete;
            counts.incomplete = peers - swarm.complete;
            counts.downloaded = swarm.downloaded;
        }
        counts
    }

    /// Peers in all swarms: own nodes, and stock clients.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let keys = || self.by_sid.values().flat_map(|swarm| swarm.peers.keys());
        let own = keys().filter(|key| matches!(key, PeerKey::Own(_))).count();
        (own, keys().count() - own)
    }
}

impl Peer {
    fn info(&self, key: PeerKey) -> PeerInfo {
        let (node, name) = match key {
            PeerKey::Own(node) => (Some(node), None),
            PeerKey::Stock(_, name) => (None, Some(name)),
        };
        PeerInfo {
            addr: self.addr,
            node,
            streaming: self.streaming,
            name,
            final_ok: self.final_ok,
        }
    }
}

impl Swarm {
    /// How often something is to be told to all, if no more often than `least`.
    fn pace(&self, least: Duration) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        least.max(Duration::from_micros(100).saturating_mul(peers))
    }

    /// All peers, beginning at a place and going around.
    fn around(&self, place: u64) -> impl Iterator<Item = PeerKey> + '_ {
        let after = self.shuffled.range(place..);
        after
            .chain(self.shuffled.range(..place))
            .map(|(_, key)| *key)
    }

    /// The peers at one site, likewise.
    fn around_at(&self, site: &str, place: u64) -> impl Iterator<Item = PeerKey> + '_ {
        let at = |place| (site.to_owned(), place);
        let after = self.by_site.range(at(place)..=at(u64::MAX));
        let before = self.by_site.range(at(0)..at(place));
        after.chain(before).map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests;
