//! Each piece comes to a site once: who is asked for what, and to whom first copies are dealt.

use std::collections::BTreeSet;
use std::time::Duration;

use floodway_proto::wire::Message;
use floodway_proto::{Bitfield, BlockId, Layout, PARTS, PeerName, PieceIndex, Site, Time};
use floodway_swarm::{
    BufKey, Config, HangUp, Input, Output, PeerKey, Prefer, Sender, Start, Swarm,
};

use crate::{own_node, peer_up};

const PIECES: u32 = 256;
const BLOCK: u32 = 16 * 1024;

/// A node of one of two sites, with these parts.
fn at(site: &str, first: u8, end: u8) -> Site {
    Site {
        first,
        end,
        ..Site::named(site)
    }
}

/// An engine whose pieces have one block each.
struct Bench {
    swarm: Swarm,
    now: Time,
    blocks: u64,
}

impl Bench {
    fn new(start: Start) -> Self {
        let layout = Layout::with_blocks(Some((PIECES * BLOCK).into()), BLOCK, BLOCK).unwrap();
        let mut config = Config::new(PeerName([200; 20]));
        (config.prefer, config.connections_max) = (Prefer::Peers, 10);
        Self {
            swarm: Swarm::new(config, layout, start, 1),
            now: Time::from_millis(1000),
            blocks: 0,
        }
    }

    /// A node of Oslo with these parts, that has nothing.
    fn of_oslo(first: u8, end: u8) -> Self {
        let mut bench = Self::new(Start::empty(PIECES));
        bench.feed(Input::Site(at("oslo", first, end)));
        bench
    }

    /// An own node connects that stands there and says this of its pieces.
    fn meets(&mut self, name: u8, site: Site, says: Message) {
        let peer = PeerKey(name.into());
        self.feed(peer_up(name));
        self.feed(own_node(peer, false));
        for message in [says, Message::Unchoke, Message::Interested] {
            self.feed(Input::PeerMessage { peer, message });
        }
        self.feed(Input::PeerSite { peer, site });
    }

    fn feed(&mut self, input: Input) {
        self.swarm.handle_input(self.now, input);
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| match self.swarm.poll_output() {
            Output::WakeAt(_) => None,
            output => Some(output),
        })
        .collect()
    }

    /// Time passes; what the peer is asked for it gives. The pieces of which it was asked.
    fn gets(&mut self, name: u8, time: Duration) -> BTreeSet<u32> {
        let (from, until) = (PeerKey(name.into()), self.now + time);
        let mut pieces = BTreeSet::new();
        while self.now < until {
            self.now += Duration::from_millis(10);
            self.feed(Input::Tick);
            for output in self.outputs() {
                let Output::Send {
                    peer,
                    message: Message::Request(request),
                } = output
                else {
                    continue;
                };
                if peer == from {
                    pieces.insert(request.piece);
                    self.blocks += 1;
                    let (piece, buf) = (PieceIndex(request.piece), BufKey(self.blocks));
                    self.feed(Input::Block {
                        from: Sender::Peer(from),
                        block: BlockId { piece, index: 0 },
                        buf,
                    });
                }
            }
        }
        pieces
    }
}

fn all_of_parts(parts: std::ops::Range<u8>) -> BTreeSet<u32> {
    let is_of = |piece: &u32| parts.contains(&floodway_proto::part_of(*piece));
    (0..PIECES).filter(is_of).collect()
}

#[test]
fn another_site_is_asked_for_our_parts_and_our_own_site_for_anything() {
    let mut bench = Bench::of_oslo(3, 5);
    bench.meets(1, at("bergen", 3, 5), Message::HaveAll);
    assert_eq!(bench.gets(1, Duration::from_secs(2)), all_of_parts(3..5));
    let mut bench = Bench::of_oslo(3, 5);
    bench.meets(1, at("oslo", 0, 1), Message::HaveAll);
    assert_eq!(bench.gets(1, Duration::from_secs(2)).len(), 256);
}

#[test]
fn who_is_told_no_site_asks_anybody_for_anything() {
    let mut bench = Bench::new(Start::empty(PIECES));
    bench.feed(Input::Site(Site::named("")));
    bench.meets(1, at("bergen", 3, 5), Message::HaveAll);
    assert_eq!(bench.gets(1, Duration::from_secs(2)).len(), 256);
}

#[test]
fn what_is_at_our_site_is_not_brought_again() {
    let mut bench = Bench::of_oslo(3, 4);
    let mut have = Bitfield::new(PIECES);
    have.set(3);
    // It says nothing of its site: its pieces are here.
    bench.feed(peer_up(2));
    for message in [Message::Bitfield(have.to_bytes().into()), Message::Choke] {
        let peer = PeerKey(2);
        bench.feed(Input::PeerMessage { peer, message });
    }
    bench.meets(1, at("bergen", 3, 4), Message::HaveAll);
    let mut rest = all_of_parts(3..4);
    rest.remove(&3);
    assert_eq!(bench.gets(1, Duration::from_secs(2)), rest);
    // With the neighbour the piece is gone from the site.
    bench.feed(Input::PeerDown { peer: PeerKey(2) });
    assert_eq!(bench.gets(1, Duration::from_secs(2)), [3].into());
}

#[test]
fn a_part_that_nobody_brings_is_brought_by_anybody_after_a_time() {
    let mut bench = Bench::of_oslo(0, 0);
    bench.meets(1, at("bergen", 3, 4), Message::HaveAll);
    assert_eq!(bench.gets(1, Duration::from_millis(3900)).len(), 0);
    assert_eq!(bench.gets(1, Duration::from_secs(5)).len(), 256);
}

/// As long as pieces of a part come to the site its bringer is waited for.
#[test]
fn a_part_that_comes_slowly_is_waited_for() {
    let mut bench = Bench::of_oslo(0, 0);
    bench.meets(2, at("oslo", 0, PARTS), Message::HaveNone);
    bench.feed(Input::PeerMessage {
        peer: PeerKey(2),
        message: Message::Choke,
    });
    bench.meets(1, at("bergen", 3, 4), Message::HaveAll);
    let mut brought = BTreeSet::new();
    for piece in (5..).step_by(PARTS.into()).take(6) {
        brought.extend(bench.gets(1, Duration::from_secs(3)));
        let (peer, message) = (PeerKey(2), Message::Have(piece));
        bench.feed(Input::PeerMessage { peer, message });
    }
    assert!(!brought.is_empty() && brought.is_disjoint(&all_of_parts(5..6)));
}

#[test]
fn first_copies_are_dealt_to_those_who_bring_them() {
    let mut start = Start::empty(PIECES);
    start.have = Bitfield::full(PIECES);
    let mut bench = Bench::new(start);
    bench.feed(Input::Site(Site::named("")));
    bench.feed(Input::Site(at("bergen", 0, PARTS)));
    bench.meets(1, at("oslo", 2, 3), Message::HaveNone);
    bench.meets(2, at("oslo", 3, 4), Message::HaveNone);
    // Who has no part here gets what nobody brings.
    bench.meets(3, at("oslo", 0, 0), Message::HaveNone);
    let outputs = bench.outputs();
    let suggested = |name: u8| -> Vec<u8> {
        let of = outputs.iter().filter_map(|output| match output {
            Output::Send {
                peer,
                message: Message::Suggest(piece),
            } if *peer == PeerKey(name.into()) => Some(floodway_proto::part_of(*piece)),
            _ => None,
        });
        of.collect()
    };
    // Two of each lane while nothing is known of their rates; what nobody brings may go to anybody.
    for (name, other) in [(1, 3), (2, 2)] {
        assert!(!suggested(name).is_empty() && !suggested(name).contains(&other));
    }
    assert!(!suggested(3).is_empty());
    assert!(suggested(3).iter().all(|part| !(2..4).contains(part)));
}

/// Its own site must not take all the room that a bringer needs for peers of other sites, nor these what it needs for most of
/// the pieces.
#[test]
fn who_brings_keeps_room_for_both_kinds() {
    let mut bench = Bench::of_oslo(3, 4);
    let refused = |bench: &mut Bench| {
        let full = |output| match output {
            Output::HangUp {
                peer,
                reason: HangUp::Full,
            } => Some(peer),
            _ => None,
        };
        bench
            .outputs()
            .into_iter()
            .filter_map(full)
            .collect::<Vec<_>>()
    };
    for name in 1..=3 {
        bench.meets(name, at("bergen", 3, 4), Message::HaveNone);
    }
    assert_eq!(refused(&mut bench), [PeerKey(3)]);
    for name in 11..=19 {
        bench.meets(name, at("oslo", 0, 0), Message::HaveNone);
    }
    assert_eq!(refused(&mut bench), [PeerKey(19)]);
}

#[test]
fn own_nodes_are_told_where_we_stand_and_again_when_that_changes() {
    let mut bench = Bench::of_oslo(3, 4);
    bench.meets(1, at("oslo", 0, 0), Message::HaveNone);
    let told = |bench: &mut Bench| -> Vec<Site> {
        let site = |output| match output {
            Output::Site { site, .. } => Some(site),
            _ => None,
        };
        bench.outputs().into_iter().filter_map(site).collect()
    };
    assert_eq!(told(&mut bench), [at("oslo", 3, 4)]);
    bench.feed(Input::Site(at("oslo", 3, 5)));
    bench.feed(Input::Site(at("oslo", 3, 5)));
    assert_eq!(told(&mut bench), [at("oslo", 3, 5)]);
}
