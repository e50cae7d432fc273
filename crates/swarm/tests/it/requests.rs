//! Requests to peers: taken back and made again, and made twice in the end-game.

use std::collections::VecDeque;
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{BlockId, Layout, PeerName, PieceIndex, Time};
use floodway_swarm::{BufKey, Config, Input, Output, PeerKey, Sender, Start, Swarm, Verdict};

use crate::{own_node, peer_up};

const BLOCK: u32 = 16 * 1024;
const BLOCKS: u32 = 4;

/// An engine that lacks one piece of [`BLOCKS`] blocks, or many of one.
struct Bench {
    swarm: Swarm,
    now: Time,
    /// What peers were told and nobody has looked at.
    unseen: Vec<(PeerKey, Message)>,
}

impl Bench {
    fn new() -> Self {
        Self::of(1, BLOCK * BLOCKS)
    }

    fn of(pieces: u32, piece_length: u32) -> Self {
        let length = u64::from(pieces) * u64::from(piece_length);
        let layout = Layout::new(Some(length), piece_length).unwrap();
        let config = Config::new(PeerName([5; 20]));
        Self {
            swarm: Swarm::new(config, layout, Start::empty(pieces), 1),
            now: Time::from_millis(1000),
            unseen: Vec::new(),
        }
    }

    /// A peer that has everything and serves us.
    fn seed(&mut self, name: u8) -> PeerKey {
        let peer = PeerKey(name.into());
        self.feed(peer_up(name));
        for message in [Message::HaveAll, Message::Unchoke] {
            self.feed(Input::PeerMessage { peer, message });
        }
        peer
    }

    fn feed(&mut self, input: Input) {
        self.swarm.handle_input(self.now, input);
    }

    fn block(&mut self, peer: PeerKey, index: u32) {
        self.block_of(peer, 0, index);
    }

    fn block_of(&mut self, peer: PeerKey, piece: u32, index: u32) {
        let piece = PieceIndex(piece);
        self.feed(Input::Block {
            from: Sender::Peer(peer),
            block: BlockId { piece, index },
            buf: BufKey(index.into()),
        });
    }

    fn good(&mut self, piece: u32) {
        self.feed(Input::Hashed {
            piece: PieceIndex(piece),
            verdict: Verdict::Good {
                disproved: Vec::new(),
            },
        });
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(250);
            self.feed(Input::Tick);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            match self.swarm.poll_output() {
                Output::WakeAt(_) => return,
                Output::Send { peer, message } => self.unseen.push((peer, message)),
                _ => {}
            }
        }
    }

    /// What this peer was told since the last look: blocks it was asked for, blocks that were taken back.
    fn said(&mut self, to: PeerKey) -> (Vec<u32>, Vec<u32>) {
        self.drain();
        let (mut asked, mut taken_back) = (Vec::new(), Vec::new());
        for (_, message) in self.unseen.extract_if(.., |(peer, _)| *peer == to) {
            match message {
                Message::Request(request) => asked.push(request.begin / BLOCK),
                Message::Cancel(request) => taken_back.push(request.begin / BLOCK),
                _ => {}
            }
        }
        (asked, taken_back)
    }
}

#[test]
fn a_reject_answers_what_was_taken_back_and_not_the_request_made_since() {
    let mut bench = Bench::new();
    let peer = bench.seed(1);
    assert_eq!(bench.said(peer), (vec![0, 1, 2, 3], vec![]));
    bench.pass(Duration::from_secs(12));
    let (again, taken_back) = bench.said(peer);
    assert_eq!(taken_back, [0, 1, 2, 3]);
    assert_eq!(again, [0], "one at a time, until it delivers");
    for index in 0..BLOCKS {
        let message = Message::Reject(Request {
            piece: 0,
            begin: index * BLOCK,
            length: BLOCK,
        });
        bench.feed(Input::PeerMessage { peer, message });
    }
    assert_eq!(bench.said(peer).0, [0_u32; 0], "block 0 is still asked for");
    for index in 0..BLOCKS {
        bench.block(peer, index);
    }
    bench.good(0);
    assert!(bench.swarm.has(PieceIndex(0)));
    assert_eq!(bench.swarm.progress().counters.wasted, 0);
}

#[test]
fn what_is_asked_twice_is_what_would_come_last() {
    let mut bench = Bench::new();
    let slow = bench.seed(1);
    assert_eq!(bench.said(slow).0, [0, 1, 2, 3]);
    // A block a second: the third of those left takes two more.
    bench.pass(Duration::from_secs(1));
    bench.block(slow, 0);
    let quick = bench.seed(2);
    assert_eq!(bench.said(quick).0, [3], "and not what comes next anyhow");
}

/// A block that two were asked for, one that sat on it before and one that nobody has waited for yet: when both are gone without a
/// word, everybody else must not wait until the second counts as silent too.
#[test]
fn who_sat_on_a_block_leaves_its_place_to_another() {
    let mut bench = Bench::new();
    let silent = bench.seed(1);
    assert_eq!(bench.said(silent).0, [0, 1, 2, 3]);
    bench.pass(Duration::from_secs(12));
    assert_eq!(bench.said(silent).0, [0], "asked once more");
    let gone = bench.seed(2);
    assert!(bench.said(gone).0.contains(&0));
    let serves = bench.seed(3);
    assert_eq!(bench.said(serves).0[0], 0);
    bench.pass(Duration::from_secs(1));
    let (asked, taken_back) = bench.said(silent);
    assert_eq!(asked, [0_u32; 0], "it has had its chance");
    assert_eq!(taken_back, [0]);
    bench.block(serves, 0);
    assert_eq!(bench.swarm.progress().counters.wasted, 0);
    assert_eq!(bench.said(gone).1, [0], "it need not send it");
}

/// Our own link was down for a while, say: then all look as if they sat on what they were asked for, and some do.
#[test]
fn of_two_that_sat_on_a_block_both_are_asked_again() {
    let mut bench = Bench::new();
    let (first, second) = (bench.seed(1), bench.seed(2));
    bench.drain();
    for index in 0..BLOCKS - 1 {
        bench.block(first, index);
    }
    bench.pass(Duration::from_secs(40));
    for peer in [first, second] {
        let (asked, taken_back) = bench.said(peer);
        let last = |blocks: &[u32]| blocks.iter().filter(|block| **block == BLOCKS - 1).count();
        assert_eq!(last(&asked), last(&taken_back) + 1, "{peer:?}");
    }
    // One place is for whoever has not sat on it, and the two do not fight for the other.
    let serves = bench.seed(3);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.said(serves).0, [BLOCKS - 1]);
    let said = [first, second].map(|peer| bench.said(peer));
    assert!(said.iter().all(|(asked, _)| asked.is_empty()), "{said:?}");
    assert_eq!(said.iter().flat_map(|(_, back)| back).count(), 1);
}

/// Who deals out first copies is asked for one piece at a time. That these come fast says nothing of how many it can serve
/// at a time: when it has dealt all, it must not be asked for all the rest, which then nobody else is asked for.
#[test]
fn what_is_asked_at_a_time_does_not_grow_while_there_is_little_to_ask_for() {
    let mut bench = Bench::of(1000, BLOCK);
    let dealer = PeerKey(1);
    bench.feed(peer_up(1));
    bench.feed(own_node(dealer, true));
    let says = |message| Input::PeerMessage {
        peer: dealer,
        message,
    };
    for message in [Message::HaveAll, Message::Suggest(0), Message::Unchoke] {
        bench.feed(says(message));
    }
    for piece in 0..200 {
        assert_eq!(bench.said(dealer).0, [0], "piece {piece}, and nothing else");
        bench.now += Duration::from_millis(20);
        bench.block_of(dealer, piece, 0);
        bench.good(piece);
        bench.feed(says(Message::Suggest(piece + 1)));
    }
    bench.block_of(dealer, 200, 0);
    bench.good(200);
    bench.pass(Duration::from_millis(1500));
    let asked = bench.said(dealer).0.len() - 1;
    // A block in 20 ms, for a quarter of a second and the round trip.
    assert!((4..=16).contains(&asked), "{asked}");
}

/// Whoever is behind needs requests that wait with its neighbours: only then can it be served before others.
#[test]
fn who_is_behind_its_neighbours_asks_for_more_at_a_time() {
    let asked_at_a_time = |held_by_a_neighbour| {
        let mut bench = Bench::of(2000, BLOCK);
        let seed = bench.seed(1);
        let neighbour = PeerKey(2);
        bench.feed(peer_up(2));
        bench.feed(own_node(neighbour, false));
        for message in (0..held_by_a_neighbour).map(Message::Have) {
            let peer = neighbour;
            bench.feed(Input::PeerMessage { peer, message });
        }
        let mut asked = VecDeque::new();
        for _ in 0..500 {
            bench.drain();
            let new = bench.unseen.drain(..).filter_map(|said| match said {
                (peer, Message::Request(request)) if peer == seed => Some(request.piece),
                _ => None,
            });
            asked.extend(new);
            bench.now += Duration::from_millis(20);
            bench.feed(Input::Tick);
            let piece = asked.pop_front().expect("something is asked for");
            bench.block_of(seed, piece, 0);
            bench.good(piece);
        }
        asked.len()
    };
    // A block in 20 ms: for a quarter of a second and the round trip, and for half a second.
    let (level, behind) = (asked_at_a_time(0), asked_at_a_time(1000));
    assert!((12..20).contains(&level), "{level}");
    assert!((24..36).contains(&behind), "{behind}");
    // Fewer by two pieces in a hundred are nothing to speak of.
    assert!((12..20).contains(&asked_at_a_time(540)));
}
