//! Which source brought how much.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use floodway_origin::SourceUrl;
use floodway_swarm::{PeerKey, SourceClass};

use super::SourceShare;

/// A content may meet many peers; what those beyond this number bring is counted as that of others.
const MOST: usize = 1000;
/// Who has brought most stands first; so many are told.
const TOLD: usize = 100;

/// Bytes by source. Names stay when a connection ends.
#[derive(Debug, Default)]
pub(super) struct Shares {
    peers: BTreeMap<SocketAddr, u64>,
    connected: HashMap<PeerKey, SocketAddr>,
    /// By what may be shown of a URL.
    http: BTreeMap<String, (SourceClass, u64)>,
    others: u64,
}

impl Shares {
    pub(super) fn peer_up(&mut self, peer: PeerKey, addr: SocketAddr) {
        self.connected.insert(peer, addr);
    }

    pub(super) fn peer_down(&mut self, peer: PeerKey) {
        self.connected.remove(&peer);
    }

    pub(super) fn by_peer(&mut self, peer: PeerKey, bytes: u64) {
        let addr = self.connected.get(&peer);
        let is_full = self.peers.len() >= MOST;
        match addr.filter(|addr| !is_full || self.peers.contains_key(addr)) {
            Some(addr) => *self.peers.entry(*addr).or_default() += bytes,
            None => self.others += bytes,
        }
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
        let peers = self.peers.iter();
        let mut list: Vec<_> = peers
            .map(|(addr, bytes)| peer(addr.to_string(), *bytes))
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
        let addr: SocketAddr = "192.0.2.1:7".parse().unwrap();
        shares.peer_up(PeerKey(1), addr);
        shares.by_peer(PeerKey(1), 3);
        shares.peer_down(PeerKey(1));
        shares.by_peer(PeerKey(1), 100);
        shares.peer_up(PeerKey(2), addr);
        shares.by_peer(PeerKey(2), 4);
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
}
