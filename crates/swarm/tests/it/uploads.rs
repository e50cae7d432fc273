//! What is in hand: asked of the driver, and not yet in a socket.

use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{Layout, PeerName, Time};
use floodway_swarm::{Config, Input, Output, PeerKey, Start, Swarm};

use crate::{own_node, peer_up};

const BLOCK: u32 = 16 * 1024;
const BLOCKS: u32 = 64;
const PEER: PeerKey = PeerKey(1);

/// How many blocks are sent when the peer asks for all at once, and what was sent before waited so long.
fn in_hand(own: bool, queueing: Duration) -> u32 {
    let layout = Layout::new(Some((BLOCK * BLOCKS).into()), BLOCK * BLOCKS).unwrap();
    let config = Config::new(PeerName([5; 20]));
    let mut start = Start::empty(1);
    start.have.set(0);
    let mut swarm = Swarm::new(config, layout, start, 1);
    let now = Time::from_millis(1000);
    let mut feed = |input| swarm.handle_input(now, input);
    feed(peer_up(1));
    if own {
        feed(own_node(PEER, false));
    }
    for message in [Message::HaveNone, Message::Interested] {
        feed(Input::PeerMessage {
            peer: PEER,
            message,
        });
    }
    for _ in 0..30 {
        feed(Input::Queueing {
            peer: PEER,
            delay: queueing,
        });
    }
    for index in 0..BLOCKS {
        let request = Request {
            piece: 0,
            begin: index * BLOCK,
            length: BLOCK,
        };
        feed(Input::PeerMessage {
            peer: PEER,
            message: Message::Request(request),
        });
    }
    let mut blocks = 0;
    loop {
        match swarm.poll_output() {
            Output::WakeAt(_) => return blocks,
            Output::SendBlock { .. } => blocks += 1,
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
        assert_eq!(
            in_hand(own, queueing) * BLOCK,
            kib * 1024,
            "{own} {queueing:?}"
        );
    }
}
