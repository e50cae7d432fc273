//! Which source brought how much.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use floodway_origin::SourceUrl;
use floodway_proto::{PeerName, Site};
use floodway_swarm::{PeerKey, SourceClass};

use super::SourceShare;

/// A content may meet many peers; what those beyond this number bring is counted as that of others.
const MOST: usize = 1000;
/// Who has brought most stands first; so many are told.
const TOLD: usize = 100;

/// Bytes by source. Names stay when a connection ends.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By the name that a peer's process has in handshakes: whoever dials us comes from another port each time.
    peers: BTreeMap<PeerName, PeerShare>,
    connected: HashMap<PeerKey, Connected>,
    /// By what may be shown of a URL.
    http: BTreeMap<String, (SourceClass, u64)>,
    others: u64,
    /// Where we stand, if control says so.
    site: Option<Site>,
}

#[derive(Debug)]
struct PeerShare {
    /// Where it listens, once it was dialled; else where it came from first.
    addr: SocketAddr,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Connected {
    name: PeerName,
    addr: SocketAddr,
    inbound: bool,
    /// Where it says that it stands.
    site: Option<Site>,
}

impl Shares {
    pub(super) fn peer_up(
        &mut self,
        peer: PeerKey,
        name: PeerName,
        addr: SocketAddr,
        inbound: bool,
    ) {
        let connected = Connected {
            name,
            addr,
            inbound,
            site: None,
        };
        self.connected.insert(peer, connected);
    }

    pub(super) fn peer_down(&mut self, peer: PeerKey) {
        self.connected.remove(&peer);
    }

    pub(super) fn by_peer(&mut self, peer: PeerKey, bytes: u64) {
        let is_full = self.peers.len() >= MOST;
        let from = self.connected.get(&peer).copied();
        let Some(from) = from.filter(|from| !is_full || self.peers.contains_key(&from.name)) else {
            self.others += bytes;
            return;
        };
        let new = PeerShare {
            addr: from.addr,
            bytes: 0,
        };
        let share = self.peers.entry(from.name).or_insert(new);
        share.bytes += bytes;
        if !from.inbound {
            share.addr = from.addr;
        }
    }

    pub(super) fn site(&self) -> Option<Site> {
        self.site
    }

    pub(super) fn stands_at(&mut self, site: Option<Site>) {
        self.site = site;
    }

    pub(super) fn peer_stands_at(&mut self, peer: PeerKey, site: Site) {
        if let Some(peer) = self.connected.get_mut(&peer) {
            peer.site = Some(site);
        }
    }

    /// We stand at a site, and the peer is not known to be there.
    pub(super) fn is_from_elsewhere(&self, peer: PeerKey) -> bool {
        let peer = self.connected.get(&peer).and_then(|peer| peer.site);
        (self.site).is_some_and(|own| peer.is_none_or(|peer| peer.tag != own.tag))
    }

    pub(super) fn by_http(&mut self, url: &SourceUrl, class: SourceClass, bytes: u64) {
        let (_, sum) = self.http.entry(url.redacted()).or_insert((class, 0));
        *sum += bytes;
    }

    /// All of them, the largest first.
    pub(super) fn list(&self) -> Vec<SourceShare> {
        let peer = |source: String, bytes| SourceShare {
            source,
            class: SourceClass::Peer,
            bytes,
        };
        let peers = self.peers.values();
        let mut list: Vec<_> = peers
            .map(|share| peer(share.addr.to_string(), share.bytes))
            .collect();
        list.extend(self.http.iter().map(|(url, (class, bytes))| SourceShare {
            source: url.clone(),
            class: *class,
            bytes: *bytes,
        }));
        list.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        let cut: u64 = list.iter().skip(TOLD).map(|share| share.bytes).sum();
        list.truncate(TOLD);
        if cut + self.others > 0 {
            list.push(peer("others".into(), cut + self.others));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_comes_again_is_one_source_and_the_largest_is_first() {
        let mut shares = Shares::default();
        let up = |shares: &mut Shares, key, name, port, inbound| {
            let addr = SocketAddr::from(([192, 0, 2, 1], port));
            shares.peer_up(PeerKey(key), PeerName([name; 20]), addr, inbound);
        };
        up(&mut shares, 1, 1, 50_001, true);
        shares.by_peer(PeerKey(1), 1);
        shares.peer_down(PeerKey(1));
        shares.by_peer(PeerKey(1), 100);
        up(&mut shares, 2, 1, 7, false);
        shares.by_peer(PeerKey(2), 2);
        shares.peer_down(PeerKey(2));
        up(&mut shares, 3, 1, 50_002, true);
        shares.by_peer(PeerKey(3), 4);
        up(&mut shares, 4, 2, 50_003, true);
        shares.by_peer(PeerKey(4), 5);
        let relay = "http://relay/".parse().unwrap();
        shares.by_http(&relay, SourceClass::Relay, 9);
        shares.by_http(&relay, SourceClass::Relay, 1);
        let list = shares.list().into_iter();
        let list: Vec<_> = list
            .map(|share| (share.source, share.class, share.bytes))
            .collect();
        assert_eq!(
            list,
            [
                ("http://relay/".into(), SourceClass::Relay, 10),
                ("192.0.2.1:7".into(), SourceClass::Peer, 7),
                ("192.0.2.1:50003".into(), SourceClass::Peer, 5),
                ("others".into(), SourceClass::Peer, 100),
            ]
        );
    }

    #[test]
    fn urls_are_told_without_their_secrets() {
        let mut shares = Shares::default();
        let mut bring = |url: &str, bytes| {
            shares.by_http(&url.parse().unwrap(), SourceClass::Origin, bytes);
        };
        bring("http://bob:pw@h/f?X-Amz-Signature=abc", 3);
        bring("http://h/f?X-Amz-Signature=def", 4);
        bring("http://relay/api/v1/w/c4P/f", 1);
        let told = shares.list().into_iter();
        let told: Vec<_> = told.map(|share| (share.source, share.bytes)).collect();
        assert_eq!(
            told,
            [
                ("http://h/f?…".into(), 7),
                ("http://relay/api/v1/w/…/f".into(), 1)
            ]
        );
    }

    #[test]
    fn who_is_not_known_to_be_at_our_site_is_elsewhere_as_long_as_we_stand_at_one() {
        let mut shares = Shares::default();
        for key in 1..=3 {
            let addr = SocketAddr::from(([192, 0, 2, 1], 7));
            shares.peer_up(PeerKey(key), PeerName([7; 20]), addr, false);
        }
        shares.peer_stands_at(PeerKey(1), Site::named("oslo"));
        shares.peer_stands_at(PeerKey(2), Site::named("bergen"));
        let elsewhere =
            |shares: &Shares| [1, 2, 3].map(|key| shares.is_from_elsewhere(PeerKey(key)));
        assert_eq!(elsewhere(&shares), [false; 3]);
        shares.stands_at(Some(Site::named("oslo")));
        assert_eq!(elsewhere(&shares), [false, true, true]);
        shares.stands_at(None);
        assert_eq!(elsewhere(&shares), [false; 3]);
    }
}
