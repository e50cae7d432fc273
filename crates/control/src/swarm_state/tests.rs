use std::ops::Range;

use super::*;

const SID: Sid = Sid([5; 32]);

fn node(index: u8) -> NodeId {
    NodeId([index; 16])
}

fn peer(index: u8, site: &str) -> Peer {
    Peer {
        addr: SocketAddr::from(([10, 0, 0, index], 6881)),
        site: site.into(),
        brings: Brings::Parts,
        complete: index.is_multiple_of(2),
        final_ok: index < 10,
        v2_ok: index < 5,
        streaming: false,
        expires: None,
    }
}

/// A node that has not everything, and for which sites play no role.
fn asker(index: u8, site: &str) -> Asker<'_> {
    Asker {
        node: node(index),
        site,
        is_relay: false,
        complete: false,
        brings: None,
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
    let peers = swarms.for_node(SID, &asker(3, "berlin"), &mut rng);
    assert_eq!(peers.len(), 50);
    let near = peers
        .iter()
        .filter(|peer| peer.node.unwrap().0[0] < 40)
        .count();
    assert!((25..=39).contains(&near), "{near} of berlin");
    assert!(peers.iter().all(|peer| peer.node != Some(node(3))));
    let distinct: std::collections::HashSet<_> = peers.iter().map(|peer| peer.addr).collect();
    assert_eq!(distinct.len(), 50);
    let seed = Asker {
        complete: true,
        ..asker(2, "")
    };
    let seeds_own = swarms.for_node(SID, &seed, &mut rng);
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
        let peers = swarms.for_node(SID, &asker(199, ""), &mut rng);
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
    let own = swarms.for_node(SID, &asker(1, ""), &mut rng);
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

/// What is dealt to the agents of a site.
fn parts(swarms: &Swarms, nodes: Range<u8>, site: &str) -> Vec<Range<u8>> {
    nodes
        .map(|index| swarms.parts(SID, node(index), site))
        .collect()
}

/// Nodes that count as there, one after the other.
fn count(parts: &[Range<u8>]) -> usize {
    parts.iter().map(ExactSizeIterator::len).sum()
}

#[test]
fn each_site_is_dealt_all_parts_and_again_when_who_brings_some_leaves() {
    let (mut swarms, pace) = (swarm_of(60), Duration::from_millis(250));
    let at = Time::from_millis;
    assert_eq!(count(&parts(&swarms, 0..60, "berlin")), 0, "not yet");
    assert_eq!(swarms.deal(at(1000), pace).len(), 32);
    assert_eq!(count(&parts(&swarms, 0..40, "berlin")), 16);
    assert_eq!(count(&parts(&swarms, 40..60, "oslo")), 16);
    assert_eq!(
        swarms.deal(at(2000), pace),
        [],
        "nobody came who would get some"
    );
    let before = parts(&swarms, 0..40, "berlin");
    let leaves = before.iter().position(|parts| !parts.is_empty()).unwrap();
    swarms.remove(
        SID,
        PeerKey::Own(node(u8::try_from(leaves).unwrap_or_default())),
    );
    assert_eq!(swarms.deal(at(1100), pace), [], "at a pace");
    let changed = swarms.deal(at(3000), pace);
    assert_eq!(changed.len(), 2, "who left, and who took its place");
    let after = parts(&swarms, 0..40, "berlin");
    assert_eq!(count(&after), 16);
    let same = before.iter().zip(&after).filter(|(old, new)| old == new);
    assert_eq!(same.count(), 38);
    // Who stands elsewhere now brings nothing here.
    let moves = after.iter().position(|parts| !parts.is_empty()).unwrap();
    let moves = u8::try_from(moves).unwrap_or_default();
    swarms.put(SID, PeerKey::Own(node(moves)), peer(moves, "oslo"));
    swarms.deal(at(4000), pace);
    assert!(swarms.parts(SID, node(moves), "berlin").is_empty());
    assert_eq!(count(&parts(&swarms, 0..40, "berlin")), 16);
}

#[test]
fn agents_bring_nothing_where_a_relay_does() {
    let (mut swarms, pace) = (swarm_of(60), Duration::ZERO);
    let relay = |brings| Peer {
        brings,
        ..peer(99, "oslo")
    };
    swarms.put(SID, PeerKey::Own(node(99)), relay(Brings::Nothing));
    swarms.deal(Time::from_millis(1000), pace);
    assert_eq!(count(&parts(&swarms, 40..60, "oslo")), 16);
    assert!(swarms.parts(SID, node(99), "oslo").is_empty());
    swarms.put(SID, PeerKey::Own(node(99)), relay(Brings::All));
    swarms.deal(Time::from_millis(2000), pace);
    assert_eq!(count(&parts(&swarms, 40..60, "oslo")), 0);
    assert_eq!(count(&parts(&swarms, 0..40, "berlin")), 16);
    swarms.remove(SID, PeerKey::Own(node(99)));
    swarms.deal(Time::from_millis(3000), pace);
    assert_eq!(count(&parts(&swarms, 40..60, "oslo")), 16);
}

/// Sites of these sizes, a relay that stands nowhere, and parts dealt.
fn sites_of(sizes: &[u8]) -> Swarms {
    let mut swarms = Swarms::new(50);
    let mut next = 0;
    for (site, size) in sizes.iter().enumerate() {
        for index in next..next + size {
            let peer = peer(index, &format!("site {site}"));
            swarms.put(SID, PeerKey::Own(node(index)), peer);
        }
        next += size;
    }
    let relay = Peer {
        brings: Brings::All,
        ..peer(255, "")
    };
    swarms.put(SID, PeerKey::Own(node(255)), relay);
    swarms.deal(Time::from_millis(1000), Duration::ZERO);
    swarms
}

#[test]
fn whoever_brings_parts_hears_of_others_that_bring_them_and_fills_up_with_distinct_peers() {
    let sizes = [40, 60, 20, 20, 80];
    let (swarms, mut rng) = (sites_of(&sizes), fastrand::Rng::with_seed(7));
    let mut with_relay = 0;
    let mut first = 0;
    for (site, size) in sizes.iter().enumerate() {
        let name = format!("site {site}");
        let near = first..first + size;
        for index in near.clone() {
            let parts = swarms.parts(SID, node(index), &name);
            let asker = Asker {
                brings: Some(parts.clone()),
                ..asker(index, &name)
            };
            let peers = swarms.for_node(SID, &asker, &mut rng);
            let nodes: Vec<u8> = peers.iter().map(|peer| peer.node.unwrap().0[0]).collect();
            let distinct: std::collections::HashSet<_> = nodes.iter().collect();
            assert_eq!(distinct.len(), nodes.len());
            assert!(!nodes.contains(&index));
            let at_site = nodes.iter().filter(|other| near.contains(other)).count();
            assert!(at_site >= 25.min(usize::from(size - 1)), "{at_site} near");
            assert!(nodes.len() >= 31, "{} peers", nodes.len());
            let far = nodes.len() - at_site;
            with_relay += usize::from(nodes.contains(&255));
            if parts.is_empty() {
                assert!(far <= 12, "only a few beside its own site");
                assert!(!nodes.contains(&255), "room at relays is for bringers");
                continue;
            }
            // All four are named, before the others.
            let brings_same = |other: &&u8| {
                (0..sizes.len())
                    .any(|site| swarms.parts(SID, node(**other), &format!("site {site}")) == parts)
            };
            let named = nodes.iter().take(5).filter(brings_same).count();
            assert_eq!(named, 4, "{nodes:?}");
        }
        first += size;
    }
    assert_eq!(
        with_relay,
        16 * 3,
        "each part is brought from it to three sites"
    );
    let relay = Asker {
        is_relay: true,
        brings: Some(0..16),
        ..asker(255, "")
    };
    let peers = swarms.for_node(SID, &relay, &mut rng);
    assert_eq!(peers.len(), 50);
}

#[test]
fn half_of_the_peers_are_of_the_same_site_with_parts_too() {
    let (mut swarms, mut rng) = (swarm_of(200), fastrand::Rng::with_seed(7));
    swarms.deal(Time::from_millis(1000), Duration::ZERO);
    for index in 0..40 {
        let parts = swarms.parts(SID, node(index), "berlin");
        let asker = Asker {
            brings: Some(parts),
            ..asker(index, "berlin")
        };
        let peers = swarms.for_node(SID, &asker, &mut rng);
        let distinct: std::collections::HashSet<_> = peers.iter().map(|peer| peer.addr).collect();
        assert_eq!(distinct.len(), 50);
        let near = peers.iter().filter(|peer| peer.node.unwrap().0[0] < 40);
        assert!((25..=39).contains(&near.count()));
    }
}
