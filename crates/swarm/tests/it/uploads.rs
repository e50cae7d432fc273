//! What is in hand: asked of the driver, and not yet in a socket.

use std::collections::BTreeMap;
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{Bitfield, Layout, PeerName, Time};
use floodway_swarm::{Config, Input, Output, PeerKey, Start, Swarm};

use crate::{own_node, peer_up};

const BLOCK: u32 = 16 * 1024;
const BLOCKS: u32 = 64;

const NOW: Time = Time::from_millis(1000);

/// A complete node that so many peers ask for all at once, and what was sent before waited so long.
fn seed(piece_blocks: u32, peers: u8, own: bool, queueing: Duration) -> Swarm {
    let layout = Layout::new(Some((BLOCK * BLOCKS).into()), BLOCK * piece_blocks).unwrap();
    let config = Config::new(PeerName([200; 20]));
    let start = Start {
        have: Bitfield::full(layout.piece_count()),
        ..Start::empty(layout.piece_count())
    };
    let mut swarm = Swarm::new(config, layout, start, 1);
    let mut feed = |input| swarm.handle_input(NOW, input);
    let requests = (0..BLOCKS).map(|index| {
        Message::Request(Request {
            piece: index / piece_blocks,
            begin: index % piece_blocks * BLOCK,
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
    swarm
}

/// How many blocks of one piece are sent to each peer before any is in a socket.
fn in_hand(peers: u8, own: bool, queueing: Duration) -> BTreeMap<PeerKey, u32> {
    let mut swarm = seed(BLOCKS, peers, own, queueing);
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

#[test]
fn who_is_furthest_from_done_is_served_first_and_secrets_gain_little() {
    let (ahead, secret) = (PeerKey(1), PeerKey(9));
    let mut swarm = seed(1, 9, true, Duration::from_millis(100));
    let has = |peer, piece| Input::PeerMessage {
        peer,
        message: Message::Have(piece),
    };
    // The first has eight pieces from elsewhere; the last says of nothing that it has it.
    (BLOCKS - 8..BLOCKS).for_each(|piece| swarm.handle_input(NOW, has(ahead, piece)));
    let mut sent = BTreeMap::new();
    while sent.values().sum::<u32>() < 72 {
        if let Output::SendBlock { peer, block, .. } = swarm.poll_output() {
            *sent.entry(peer).or_default() += 1;
            swarm.handle_input(NOW, Input::BlockSent { peer, block });
            if peer != secret {
                swarm.handle_input(NOW, has(peer, block.piece.0));
            }
        }
    }
    // All but the first have about eight; half of what the last was sent counts: without that it would have 36.
    let of = |peer| sent.get(&peer).copied().unwrap_or(0);
    assert!(of(ahead) <= 2 && of(secret) <= 20, "{sent:?}");
    assert!((2..9).all(|peer| of(PeerKey(peer)) >= 6), "{sent:?}");
}
