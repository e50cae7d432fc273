//! Who gave wrong bytes is found out, also when it has left.

use floodway_proto::wire::Message;
use floodway_proto::{BlockId, Layout, PeerName, PieceIndex, Time};
use floodway_swarm::{
    BufKey, Config, Event, Input, Output, PeerKey, Sender, Start, Swarm, Verdict,
};

use crate::peer_up;

const PIECE: PieceIndex = PieceIndex(0);
const NOW: Time = Time::from_millis(1000);

/// Feeds the engine; the peers that it bans.
fn bans(swarm: &mut Swarm, input: Input) -> usize {
    swarm.handle_input(NOW, input);
    let mut bans = 0;
    loop {
        match swarm.poll_output() {
            Output::WakeAt(_) => return bans,
            Output::Event(Event::Banned { .. }) => bans += 1,
            _ => {}
        }
    }
}

fn block(from: u64, index: u32) -> Input {
    Input::Block {
        from: Sender::Peer(PeerKey(from)),
        block: BlockId {
            piece: PIECE,
            index,
        },
        buf: BufKey(index.into()),
    }
}

fn hashed(verdict: Verdict) -> Input {
    Input::Hashed {
        piece: PIECE,
        verdict,
    }
}

#[test]
fn who_left_before_the_verdict_is_banned_once() {
    let layout = Layout::new(Some(64 << 10), 64 << 10).unwrap();
    let config = Config::new(PeerName([200; 20]));
    let mut swarm = Swarm::new(config, layout, Start::empty(1), 1);
    let mut feed = |input| bans(&mut swarm, input);
    for peer in [1, 2] {
        feed(peer_up(peer));
        for message in [Message::HaveAll, Message::Unchoke] {
            let peer = PeerKey(peer.into());
            feed(Input::PeerMessage { peer, message });
        }
    }
    for (from, index) in [(1, 0), (1, 1), (2, 2), (2, 3)] {
        feed(block(from, index));
    }
    feed(Input::PeerDown { peer: PeerKey(1) });
    assert_eq!(feed(hashed(Verdict::Bad)), 0, "it may have been either");
    (0..4).for_each(|index| {
        feed(block(2, index));
    });
    let disproved = vec![0, 1];
    assert_eq!(feed(hashed(Verdict::Good { disproved })), 1);
}

/// The next try of a failed piece is one peer's, whatever others suggest: else its verdict would again say nothing of anybody.
#[test]
fn a_failed_piece_is_not_asked_of_who_suggests_it() {
    const BLOCKS: u32 = 8;
    let length = BLOCKS * (16 << 10);
    let layout = Layout::new(Some(length.into()), length).unwrap();
    let config = Config::new(PeerName([200; 20]));
    let mut swarm = Swarm::new(config, layout, Start::empty(1), 1);
    for peer in [1, 2, 3] {
        bans(&mut swarm, peer_up(peer));
        for message in [Message::HaveAll, Message::Unchoke] {
            let peer = PeerKey(peer.into());
            bans(&mut swarm, Input::PeerMessage { peer, message });
        }
    }
    for index in 0..BLOCKS {
        bans(&mut swarm, block(1 + u64::from(index % 2), index));
    }
    bans(&mut swarm, hashed(Verdict::Bad));
    let suggests = Input::PeerMessage {
        peer: PeerKey(2),
        message: Message::Suggest(PIECE.0),
    };
    swarm.handle_input(NOW, suggests);
    loop {
        match swarm.poll_output() {
            Output::WakeAt(_) => return,
            Output::Send { peer, message } => {
                let asks = matches!(message, Message::Request(_));
                assert!(!asks, "{peer:?} is asked beside the innocent one");
            }
            _ => {}
        }
    }
}
