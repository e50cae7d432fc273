//! What is in hand: asked of the driver, and not yet in a socket.

use std::collections::BTreeMap;
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{Layout, PeerName, Time};
use floodway_swarm::{Config, Input, Output, PeerKey, Start, Swarm};

use crate::{own_node, peer_up};

const BLOCK: u32 = 16 * 1024;
const BLOCKS: u32 = 64;

/// How many blocks are sent to each of so many peers when all ask for all at once, and what was sent before waited so long.
fn in_hand(peers: u8, own: bool, queueing: Duration) -> BTreeMap<PeerKey, u32> {
    let layout = Layout::new(Some((BLOCK * BLOCKS).into()), BLOCK * BLOCKS).unwrap();
    let config = Config::new(PeerName([5; 20]));
    let mut start = Start::empty(1);
    start.have.set(0);
    let mut swarm = Swarm::new(config, layout, start, 1);
    let now = Time::from_millis(1000);
    let mut feed = |input| swarm.handle_input(now, input);
    let requests = (0..BLOCKS).map(|index| {
        Message::Request(Request {
            piece: 0,
            begin: index * BLOCK,
            length: BLOCK,
        })
    });
    for number in 1..=peers {
        let peer = PeerKey(number.into());
        feed(peer_up(number));
        if own {
            feed(own_node(peer, false));
        }
        for _ in 0..30 {
            let delay = queueing;
            feed(Input::Queueing { peer, delay });
        }
        for message in [Message::HaveNone, Message::Interested]
            .into_iter()
            .chain(requests.clone())
        {
            feed(Input::PeerMessage { peer, message });
        }
    }
    let mut blocks = BTreeMap::new();
    loop {
        match swarm.poll_output() {
            Output::WakeAt(_) => return blocks,
            Output::SendBlock { peer, .. } => *blocks.entry(peer).or_default() += 1,
            _ => {}
        }
    }
}

#[test]
fn little_is_in_hand_for_own_nodes_before_a_full_uplink() {
    let full = Duration::from_millis(100);
    for (own, queueing, kib) in [
        (true, Duration::ZERO, 256),
        (true, full, 64),
        (false, full, 256),
    ] {
        let blocks: u32 = in_hand(1, own, queueing).values().sum();
        assert_eq!(blocks * BLOCK, kib * 1024, "{own} {queueing:?}");
    }
}

#[test]
fn what_is_in_hand_is_for_several_peers() {
    for (queueing, blocks) in [
        (Duration::ZERO, vec![8; 2]),
        (Duration::from_millis(100), vec![2; 2]),
    ] {
        let given = in_hand(6, true, queueing);
        assert_eq!(given.into_values().collect::<Vec<_>>(), blocks);
    }
}
