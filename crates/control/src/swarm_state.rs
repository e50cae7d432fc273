//! Who holds or wants which content: soft, in memory, rebuilt by the next round of syncs and announces.
//!
//! A content has one set of peers under all its names. Own nodes are known by their id, stock clients by their
//! address; only own nodes that know the content's final names are given to stock clients.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use floodway_api::sync::PeerInfo;
use floodway_proto::{InfoHash, NodeId, Sid, Time};

/// A peer by what it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKey {
    Own(NodeId),
    /// A stock client under one name of the content. The swarms of stock clients under different names are apart.
    Stock(SocketAddr, InfoHash),
}

/// A peer of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    /// The node's `site` label; empty if none, and for stock clients.
    pub(crate) site: String,
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
            let peers = u32::try_from(swarm.peers.len()).unwrap_or(u32::MAX);
            let pace = pace.max(Duration::from_micros(100).saturating_mul(peers));
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

    /// Peers for an own node: about half of its own site, the rest from everywhere. A node that has everything gets only
    /// those that do not.
    pub(crate) fn for_node(
        &self,
        sid: Sid,
        node: NodeId,
        site: &str,
        complete: bool,
        rng: &mut fastrand::Rng,
    ) -> Vec<PeerInfo> {
        let Some(swarm) = self.by_sid.get(&sid) else {
            return Vec::new();
        };
        let me = PeerKey::Own(node);
        let fits = |key: &PeerKey| *key != me && !(complete && swarm.peers[key].complete);
        let mut chosen = Vec::new();
        if !site.is_empty() {
            let from = (site.to_owned(), rng.u64(..));
            let (first, end) = ((site.to_owned(), 0), (site.to_owned(), u64::MAX));
            let after = swarm.by_site.range(from.clone()..=end);
            let near = after.chain(swarm.by_site.range(first..from));
            let near = near.map(|(_, key)| *key).take(LOOKED_AT_MAX).filter(fits);
            chosen.extend(near.take(self.peers_max.div_ceil(2)));
        }
        let rest = swarm.around(rng.u64(..)).take(LOOKED_AT_MAX).filter(fits);
        for key in rest {
            if chosen.len() >= self.peers_max {
                break;
            }
            if !chosen.contains(&key) {
                chosen.push(key);
            }
        }
        chosen
            .iter()
            .map(|key| swarm.peers[key].info(*key))
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
    /// All peers, beginning at a place and going around.
    fn around(&self, place: u64) -> impl Iterator<Item = PeerKey> + '_ {
        let after = self.shuffled.range(place..);
        after
            .chain(self.shuffled.range(..place))
            .map(|(_, key)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: Sid = Sid([5; 32]);

    fn node(index: u8) -> NodeId {
        NodeId([index; 16])
    }

    fn peer(index: u8, site: &str) -> Peer {
        Peer {
            addr: SocketAddr::from(([10, 0, 0, index], 6881)),
            site: site.into(),
            complete: index.is_multiple_of(2),
            final_ok: index < 10,
            v2_ok: index < 5,
            streaming: false,
            expires: None,
        }
    }

    fn swarm_of(count: u8) -> Swarms {
        let mut swarms = Swarms::new(50);
        for index in 0..count {
            let site = if index < 40 { "berlin" } else { "oslo" };
            swarms.put(SID, PeerKey::Own(node(index)), peer(index, site));
        }
        swarms
    }

    #[test]
    fn half_of_the_peers_are_of_the_same_site_and_nobody_gets_itself() {
        let (swarms, mut rng) = (swarm_of(200), fastrand::Rng::with_seed(7));
        let peers = swarms.for_node(SID, node(3), "berlin", false, &mut rng);
        assert_eq!(peers.len(), 50);
        let near = peers
            .iter()
            .filter(|peer| peer.node.unwrap().0[0] < 40)
            .count();
        assert!((25..=39).contains(&near), "{near} of berlin");
        assert!(peers.iter().all(|peer| peer.node != Some(node(3))));
        let distinct: std::collections::HashSet<_> = peers.iter().map(|peer| peer.addr).collect();
        assert_eq!(distinct.len(), 50);
        let seeds_own = swarms.for_node(SID, node(2), "", true, &mut rng);
        assert!(
            seeds_own
                .iter()
                .all(|peer| peer.node.unwrap().0[0] % 2 == 1),
            "a seed gets no seeds"
        );
    }

    #[test]
    fn different_nodes_get_different_peers() {
        let (swarms, mut rng) = (swarm_of(200), fastrand::Rng::with_seed(7));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..40 {
            let peers = swarms.for_node(SID, node(199), "", false, &mut rng);
            seen.extend(peers.iter().map(|peer| peer.addr));
        }
        assert!(seen.len() > 190, "{} of 199 were ever told", seen.len());
    }

    #[test]
    fn stock_clients_get_only_peers_that_know_the_final_names() {
        let (mut swarms, mut rng) = (swarm_of(20), fastrand::Rng::with_seed(7));
        let stock = SocketAddr::from(([10, 9, 9, 9], 51413));
        let entry = Peer {
            addr: stock,
            expires: Some(Time::from_millis(90_000)),
            ..peer(1, "")
        };
        let (v1, v2) = (InfoHash([1; 20]), InfoHash([2; 20]));
        swarms.put(SID, PeerKey::Stock(stock, v1), entry);
        let asks = |name| Asking {
            addr: SocketAddr::from(([10, 9, 9, 8], 1)),
            name,
            is_v2: false,
            is_seed: false,
        };
        let mut told = |asking| swarms.for_stock(SID, asking, 100, &mut rng).len();
        assert_eq!(told(asks(v1)), 11);
        assert_eq!(told(asks(v2)), 10, "not under its name");
        let is_v2 = true;
        let asks_v2 = Asking { is_v2, ..asks(v2) };
        assert_eq!(told(asks_v2), 5, "others do not answer by that name");
        let (addr, is_seed) = (stock, true);
        let stock_v1 = Asking { addr, ..asks(v1) };
        assert_eq!(told(stock_v1), 10, "nobody gets itself");
        let seed = Asking {
            is_seed,
            ..stock_v1
        };
        assert_eq!(told(seed), 5, "a seed gets no seeds");
        assert_eq!(swarms.for_stock(SID, stock_v1, 3, &mut rng).len(), 3);
        let own = swarms.for_node(SID, node(1), "", false, &mut rng);
        assert!(
            own.iter()
                .any(|peer| peer.node.is_none() && peer.addr == stock)
        );
        swarms.expire(Time::from_millis(89_999));
        assert_eq!(swarms.totals(), (20, 1));
        swarms.expire(Time::from_millis(90_000));
        assert_eq!(swarms.totals(), (20, 0));
    }

    #[test]
    fn news_are_told_at_once_and_then_at_a_pace() {
        let (mut swarms, pace) = (swarm_of(1), Duration::from_millis(250));
        let at = Time::from_millis;
        assert_eq!(swarms.take_news(at(1000), pace), [SID]);
        assert_eq!(swarms.take_news(at(1001), pace), []);
        swarms.put(SID, PeerKey::Own(node(9)), peer(9, ""));
        assert_eq!(swarms.take_news(at(1100), pace), []);
        assert_eq!(swarms.take_news(at(1250), pace), [SID]);
        swarms.put(SID, PeerKey::Own(node(9)), peer(9, ""));
        assert_eq!(
            swarms.take_news(at(2000), pace),
            [],
            "an old peer is no news"
        );
        assert_eq!(swarms.news(SID), 2);
    }

    #[test]
    fn an_emptied_swarm_is_gone() {
        let mut swarms = swarm_of(2);
        swarms.remove(SID, PeerKey::Own(node(0)));
        swarms.remove(SID, PeerKey::Own(node(1)));
        swarms.remove(SID, PeerKey::Own(node(1)));
        assert_eq!(swarms.counts(SID), SwarmCounts::default());
        assert!(swarms.by_sid.is_empty());
    }
}
