//! What is in hand: asked of the driver, and not yet in a socket.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{Bitfield, BlockId, Layout, PeerName, SafeName, Time};
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
    for number in 1..=peers {
        ask_for_all(&mut swarm, number, own, piece_blocks);
        for _ in 0..30 {
            let (peer, delay) = (PeerKey(number.into()), queueing);
            swarm.handle_input(NOW, Input::Queueing { peer, delay });
        }
    }
    swarm
}

/// A peer that has nothing connects and asks for everything.
fn ask_for_all(swarm: &mut Swarm, number: u8, own: bool, piece_blocks: u32) {
    let peer = PeerKey(number.into());
    swarm.handle_input(NOW, peer_up(number));
    if own {
        swarm.handle_input(NOW, own_node(peer, false));
    }
    let requests = (0..BLOCKS).map(|index| {
        Message::Request(Request {
            piece: index / piece_blocks,
            begin: index % piece_blocks * BLOCK,
            length: BLOCK,
        })
    });
    let says = [Message::HaveNone, Message::Interested].into_iter();
    for message in says.chain(requests) {
        swarm.handle_input(NOW, Input::PeerMessage { peer, message });
    }
}

/// How many blocks of one piece are sent to each peer before any is in a socket.
fn in_hand(peers: u8, own: bool, queueing: Duration) -> BTreeMap<PeerKey, usize> {
    let mut sockets = Sockets::default();
    sockets.take(&mut seed(BLOCKS, peers, own, queueing));
    let waiting = sockets.waiting.into_iter();
    waiting.map(|(peer, blocks)| (peer, blocks.len())).collect()
}

/// What was handed over and waits to be taken, and the order in which it was handed over.
#[derive(Default)]
struct Sockets {
    waiting: BTreeMap<PeerKey, VecDeque<BlockId>>,
    handed: Vec<(PeerKey, BlockId)>,
}

impl Sockets {
    /// Everything that the engine wants sent now.
    fn take(&mut self, swarm: &mut Swarm) {
        loop {
            match swarm.poll_output() {
                Output::WakeAt(_) => return,
                Output::SendBlock { peer, block, .. } => {
                    self.waiting.entry(peer).or_default().push_back(block);
                    self.handed.push((peer, block));
                }
                _ => {}
            }
        }
    }

    /// The socket of this peer takes one block, if there is one.
    fn sends(&mut self, swarm: &mut Swarm, now: Time, peer: PeerKey) -> bool {
        let block = self.waiting.get_mut(&peer).and_then(VecDeque::pop_front);
        if let Some(block) = block {
            swarm.handle_input(now, Input::BlockSent { peer, block });
            self.take(swarm);
        }
        block.is_some()
    }

    /// Takes all, and then sends the first so many blocks in the order in which they are handed over.
    fn send_in_order(&mut self, swarm: &mut Swarm, blocks: usize) {
        self.take(swarm);
        for at in 0..blocks {
            let (peer, _) = self.handed[at];
            assert!(self.sends(swarm, NOW, peer));
        }
    }

    /// How many blocks each peer was handed.
    fn shares(&self) -> BTreeMap<PeerKey, usize> {
        let mut shares = BTreeMap::new();
        for (peer, _) in &self.handed {
            *shares.entry(*peer).or_default() += 1;
        }
        shares
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
        let blocks: usize = in_hand(1, own, queueing).values().sum();
        assert_eq!(blocks, kib / 16, "{own} {queueing:?}");
    }
}

/// Nobody would say any more that the link is not full.
#[test]
fn stock_peers_get_as_much_in_hand_once_the_last_own_node_is_gone() {
    let mut swarm = seed(BLOCKS, 1, true, Duration::from_millis(100));
    swarm.handle_input(NOW, Input::PeerDown { peer: PeerKey(1) });
    ask_for_all(&mut swarm, 2, false, BLOCKS);
    let mut sockets = Sockets::default();
    sockets.take(&mut swarm);
    assert_eq!(sockets.shares().get(&PeerKey(2)), Some(&16));
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
    let mut sockets = Sockets::default();
    sockets.take(&mut swarm);
    for at in 0..72 {
        let (peer, block) = sockets.handed[at];
        assert!(sockets.sends(&mut swarm, NOW, peer));
        if peer != secret {
            swarm.handle_input(NOW, has(peer, block.piece.0));
        }
    }
    let sent = sockets.shares();
    // All but the first have about eight; half of what the last was sent counts: without that it would have 36.
    let of = |peer| sent.get(&peer).copied().unwrap_or(0);
    assert!(of(ahead) <= 2 && of(secret) <= 20, "{sent:?}");
    assert!((2..9).all(|peer| of(PeerKey(peer)) >= 6), "{sent:?}");
}

/// What one lacks more than another may be on its way: all others, who see the same, would give to that one too.
#[test]
fn who_is_hardly_further_from_done_has_no_more_than_its_turn() {
    let mut swarm = seed(1, 3, true, Duration::from_millis(100));
    // Of the last pieces one has 22, the others 20.
    for (peer, held) in [(PeerKey(1), 22), (PeerKey(2), 20), (PeerKey(3), 20)] {
        for message in (BLOCKS - held..BLOCKS).map(Message::Have) {
            swarm.handle_input(NOW, Input::PeerMessage { peer, message });
        }
    }
    let mut sockets = Sockets::default();
    sockets.send_in_order(&mut swarm, 20);
    let sent = sockets.shares();
    assert_eq!(sent.into_values().collect::<Vec<_>>(), [8, 8, 8]);
}

/// Two peers take a block now and then, and are furthest from done: the others are served all the same.
#[test]
fn slow_sockets_do_not_hold_up_the_others() {
    let slow = [PeerKey(1), PeerKey(2)];
    for queueing in [Duration::ZERO, Duration::from_millis(100)] {
        let mut swarm = seed(8, 6, true, queueing);
        for peer in 3..=6 {
            let (peer, message) = (PeerKey(peer), Message::Have(0));
            swarm.handle_input(NOW, Input::PeerMessage { peer, message });
        }
        let mut sockets = Sockets::default();
        sockets.take(&mut swarm);
        let mut now = NOW;
        let mut taken = 0;
        // Ten seconds. The slow ones take a block every 0.9 s, the others 20 a second each.
        for step in 1..=200 {
            now += Duration::from_millis(50);
            swarm.handle_input(now, Input::Tick);
            sockets.take(&mut swarm);
            for peer in (3..=6).map(PeerKey) {
                taken += u32::from(sockets.sends(&mut swarm, now, peer));
            }
            if step % 18 == 0 {
                for peer in slow {
                    sockets.sends(&mut swarm, now, peer);
                }
            }
        }
        assert_eq!(taken, 4 * BLOCKS, "{queueing:?}: {:?}", sockets.shares());
    }
}

/// Who asks for the same piece again and again has no more than its turn.
#[test]
fn a_piece_asked_for_again_waits_for_its_turn() {
    let mut swarm = seed(8, 3, false, Duration::ZERO);
    let again = PeerKey(4);
    swarm.handle_input(NOW, peer_up(4));
    let request = |index: u32| {
        Message::Request(Request {
            piece: 0,
            begin: index % 8 * BLOCK,
            length: BLOCK,
        })
    };
    let says = [Message::HaveNone, Message::Interested].into_iter();
    for message in says.chain((0..128).map(request)) {
        swarm.handle_input(
            NOW,
            Input::PeerMessage {
                peer: again,
                message,
            },
        );
    }
    let mut sockets = Sockets::default();
    sockets.send_in_order(&mut swarm, 128);
    let shares = sockets.shares();
    assert!((16..=48).contains(&shares[&again]), "{shares:?}");
}

/// The pieces under way are completed before others begin, though each waits for room now and then.
#[test]
fn few_pieces_are_under_way_at_once() {
    let mut swarm = seed(16, 8, true, Duration::from_millis(100));
    let mut sockets = Sockets::default();
    sockets.take(&mut swarm);
    let mut under_way = BTreeMap::new();
    for at in 0..128 {
        let (peer, block) = sockets.handed[at];
        let sent: &mut u32 = under_way.entry((peer, block.piece)).or_default();
        *sent += 1;
        if *sent == 16 {
            under_way.remove(&(peer, block.piece));
        }
        assert!(under_way.len() <= 2, "{under_way:?}");
        assert!(sockets.sends(&mut swarm, NOW, peer));
    }
}

/// Zeros between the files of a folder are sent like other bytes, and asked for as easily.
#[test]
fn padding_is_in_hand_like_other_bytes() {
    let file = |name: &str| (vec![SafeName::new(name).unwrap()], 1);
    let layout = Layout::folder([file("a"), file("b")], 4 * BLOCK).unwrap();
    let start = Start {
        have: Bitfield::full(layout.piece_count()),
        ..Start::empty(layout.piece_count())
    };
    let mut swarm = Swarm::new(Config::new(PeerName([200; 20])), layout, start, 1);
    let peer = PeerKey(1);
    swarm.handle_input(NOW, peer_up(1));
    let padding = Message::Request(Request {
        piece: 0,
        begin: BLOCK,
        length: BLOCK,
    });
    let says = [Message::HaveNone, Message::Interested].into_iter();
    for message in says.chain(std::iter::repeat_n(padding, 200)) {
        swarm.handle_input(NOW, Input::PeerMessage { peer, message });
    }
    let mut sockets = Sockets::default();
    sockets.take(&mut swarm);
    assert_eq!(sockets.handed.len(), 16);
}
