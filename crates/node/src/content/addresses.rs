//! Where peers may be found, and by which names they know the content.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use floodway_api::sync::PeerInfo;
use floodway_proto::InfoHash;

/// Addresses remembered as those of stock clients: as many as the engine remembers in all.
const STOCK_MAX: usize = 2000;

/// Where a peer may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAt {
    /// Its address.
    pub addr: SocketAddr,
    /// The only name by which it knows the content: a stock client's. `None`: own nodes know all of them.
    pub name: Option<InfoHash>,
}

impl From<SocketAddr> for PeerAt {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, name: None }
    }
}

impl From<&PeerInfo> for PeerAt {
    fn from(info: &PeerInfo) -> Self {
        Self {
            addr: info.addr,
            name: info.name.filter(|_| info.node.is_none()),
        }
    }
}

/// The names of stock clients, by address.
#[derive(Debug, Default)]
pub(super) struct StockNames(BTreeMap<SocketAddr, InfoHash>);

impl StockNames {
    /// Remembers what is said of these addresses. Those that can be dialled: a stock client only once this node knows its
    /// name.
    pub(super) fn found(&mut self, peers: Vec<PeerAt>, names: &[InfoHash]) -> Vec<SocketAddr> {
        let mut dialled = Vec::with_capacity(peers.len());
        for PeerAt { addr, name } in peers {
            match name {
                None => drop(self.0.remove(&addr)),
                Some(name) if !names.contains(&name) => continue,
                Some(_) if self.0.len() >= STOCK_MAX && !self.0.contains_key(&addr) => continue,
                Some(name) => drop(self.0.insert(addr, name)),
            }
            dialled.push(addr);
        }
        dialled
    }

    /// By which name to dial; `None`: by any.
    pub(super) fn get(&self, addr: SocketAddr) -> Option<InfoHash> {
        self.0.get(&addr).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: InfoHash = InfoHash([1; 20]);
    const V2: InfoHash = InfoHash([2; 20]);

    fn at(host: u8, name: Option<InfoHash>) -> PeerAt {
        let addr = SocketAddr::from(([10, 0, 0, host], 1));
        PeerAt { addr, name }
    }

    #[test]
    fn stock_clients_are_dialled_by_their_name_and_not_before_it_is_known() {
        let mut stock = StockNames::default();
        let peers = vec![at(1, None), at(2, Some(V2)), at(3, Some(V1))];
        let addr = |host| at(host, None).addr;
        assert_eq!(stock.found(peers.clone(), &[V1]), [addr(1), addr(3)]);
        assert_eq!(
            [stock.get(addr(1)), stock.get(addr(2)), stock.get(addr(3))],
            [None, None, Some(V1)]
        );
        assert_eq!(stock.found(peers, &[V1, V2]).len(), 3);
        assert_eq!(stock.get(addr(2)), Some(V2));
        // An own node listens there now.
        stock.found(vec![at(2, None)], &[V1, V2]);
        assert_eq!(stock.get(addr(2)), None);
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let mut stock = StockNames::default();
        let peer = |port| PeerAt {
            addr: SocketAddr::from(([10, 0, 0, 1], port)),
            name: Some(V1),
        };
        let peers = (1..3000).map(peer).collect();
        assert_eq!(stock.found(peers, &[V1]).len(), STOCK_MAX);
        assert_eq!(stock.found(vec![peer(1), peer(2999)], &[V1]).len(), 1);
    }
}
