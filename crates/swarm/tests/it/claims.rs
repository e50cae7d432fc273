//! Own nodes share what they fetch: claims on HTTP (who is believed, how far, who gives way), and first copies.

use std::ops::Range;
use std::time::Duration;

use floodway_proto::wire::{HttpClaims, Message, Request};
use floodway_proto::{BlockId, Layout, PeerName, PieceIndex, Time};
use floodway_swarm::{
    Access, BufKey, Config, HangUp, Input, Output, PeerKey, Prefer, RequestKey, Sender,
    SourceClass, SourceKey, Start, Swarm,
};

use crate::{own_node, peer_up};

const PIECES: u32 = 256;
const SOURCE: SourceKey = SourceKey(0);

/// An engine with the name `5…`, and what it said since it was asked last.
struct Bench {
    swarm: Swarm,
    now: Time,
}

impl Bench {
    /// With peers of these names, who have nothing.
    fn with(peers: &[u8]) -> Self {
        Self::preferring(Prefer::Speed, peers)
    }

    fn preferring(prefer: Prefer, peers: &[u8]) -> Self {
        let layout = Layout::new(Some(64 << 20), 256 * 1024).unwrap();
        assert_eq!(layout.piece_count(), PIECES);
        let mut config = Config::new(PeerName([5; 20]));
        config.prefer = prefer;
        let mut bench = Self {
            swarm: Swarm::new(config, layout, Start::empty(PIECES), 1),
            now: Time::from_millis(1000),
        };
        for &name in peers {
            bench.connect(name, Message::HaveNone);
        }
        bench
    }

    fn connect(&mut self, name: u8, says: Message) {
        let peer = PeerKey(name.into());
        self.feed(peer_up(name));
        self.feed(own_node(peer, name != 1));
        self.message(peer, says);
    }

    /// Lets a peer answer all that it is asked for, until it is asked no more. The pieces of which it was asked.
    fn answers(&mut self, name: u8) -> Vec<u32> {
        let peer = PeerKey(name.into());
        let mut pieces = Vec::new();
        loop {
            let outputs = self.outputs();
            let requests: Vec<_> = requests(&outputs).collect();
            if requests.is_empty() {
                return pieces;
            }
            for request in requests {
                pieces.push(request.piece);
                let piece = PieceIndex(request.piece);
                let index = request.begin / request.length;
                self.feed(Input::Block {
                    from: Sender::Peer(peer),
                    block: BlockId { piece, index },
                    buf: BufKey(pieces.len() as u64),
                });
            }
        }
    }

    fn feed(&mut self, input: Input) {
        self.swarm.handle_input(self.now, input);
    }

    fn message(&mut self, peer: PeerKey, message: Message) {
        self.feed(Input::PeerMessage { peer, message });
    }

    fn claims(&mut self, name: u8, range: Range<u32>) {
        let ranges = vec![range];
        self.feed(Input::PeerClaims {
            peer: PeerKey(name.into()),
            claims: HttpClaims { ranges },
        });
    }

    fn web_seed(&mut self) {
        self.source(Access::Ranges);
    }

    fn source(&mut self, access: Access) {
        self.feed(Input::HttpUp {
            source: SOURCE,
            class: SourceClass::Origin,
            access,
        });
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| match self.swarm.poll_output() {
            Output::WakeAt(_) => None,
            output => Some(output),
        })
        .collect()
    }

    /// The pieces of the next HTTP request.
    fn asks(&mut self) -> Option<(RequestKey, Range<u32>)> {
        self.outputs().into_iter().find_map(|output| match output {
            Output::HttpGet { request, bytes, .. } => {
                let piece = |byte: u64| u32::try_from(byte / (256 * 1024)).unwrap();
                Some((request, piece(bytes.start)..piece(bytes.end)))
            }
            _ => None,
        })
    }

    /// Lets time pass in the engine's own steps, until it asks or `until` is reached.
    fn asks_by(&mut self, until: u64) -> Option<(u64, Range<u32>)> {
        while self.now < Time::from_millis(until) {
            self.now += Duration::from_millis(250);
            self.feed(Input::Tick);
            if let Some((_, pieces)) = self.asks() {
                return Some((self.now.as_nanos() / 1_000_000, pieces));
            }
        }
        None
    }
}

/// What peers are asked for.
fn requests(outputs: &[Output]) -> impl Iterator<Item = Request> {
    let request = |output: &Output| match output {
        Output::Send {
            message: Message::Request(request),
            ..
        } => Some(*request),
        _ => None,
    };
    outputs.iter().filter_map(request)
}

#[test]
fn what_another_claims_is_not_asked_for_until_it_fails() {
    for at in [0, 100, 200] {
        let mut bench = Bench::with(&[9]);
        let claimed = at..at + 48;
        bench.claims(9, claimed.clone());
        bench.web_seed();
        let (_, asked) = bench.asks().unwrap();
        let overlap = asked.start < claimed.end && claimed.start < asked.end;
        assert!(!overlap, "{asked:?} overlaps {claimed:?}");
    }
}

#[test]
fn those_who_hear_claims_are_told_of_each_request() {
    let mut bench = Bench::with(&[1, 9]);
    bench.outputs();
    bench.web_seed();
    let outputs = bench.outputs();
    let told: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Claims { peer, claims } => Some((*peer, claims.ranges.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1, "peer 1 did not ask for claims: {told:?}");
    assert_eq!((told[0].0, told[0].1.len()), (PeerKey(9), 1));
}

/// All pieces are claimed by peers that deliver nothing: each holds us up for one lease, and then never again.
#[test]
fn claims_on_which_nothing_comes_delay_and_do_not_block() {
    let mut bench = Bench::with(&[6, 7, 8, 9]);
    for (name, start) in [(6, 0), (7, 64), (8, 128), (9, 192)] {
        bench.claims(name, start..start + 64);
    }
    bench.web_seed();
    let (asked_at, _) = bench.asks_by(60_000).expect("claims must not block");
    assert!(asked_at <= 16_000, "asked after {asked_at} ms");
}

#[test]
fn whoever_claims_more_than_its_share_is_believed_for_its_share() {
    let mut bench = Bench::with(&[9]);
    bench.claims(9, 0..PIECES);
    bench.web_seed();
    assert!(bench.asks().is_some());
}

#[test]
fn of_two_who_read_the_same_the_greater_name_gives_way() {
    for (other, gives_way) in [(4, true), (6, false)] {
        let mut bench = Bench::with(&[other]);
        bench.web_seed();
        let (request, asked) = bench.asks().unwrap();
        bench.claims(other, asked.start + 1..asked.end);
        let shortened = bench.outputs().into_iter().any(
            |output| matches!(output, Output::HttpShorten { request: of, .. } if of == request),
        );
        assert_eq!(shortened, gives_way, "against the name {other}");
    }
}

/// What is cut off the one GET of a source without ranges can only be had by the whole again.
#[test]
fn the_one_get_of_the_whole_is_never_cut() {
    let mut bench = Bench::with(&[]);
    bench.source(Access::OneGet);
    let (request, asked) = bench.asks().unwrap();
    assert_eq!(asked, 0..PIECES);
    // It has not got a byte yet when somebody with a lesser name reads the same ..
    bench.connect(4, Message::HaveNone);
    bench.claims(4, 0..PIECES);
    // .. and when somebody has everything, who may bring what comes last.
    bench.connect(9, Message::HaveAll);
    bench.message(PeerKey(9), Message::Unchoke);
    let outputs = bench.outputs();
    let ends = outputs.iter().find(|output| {
        matches!(
            output,
            Output::HttpShorten { .. } | Output::HttpCancel { .. }
        )
    });
    assert_eq!(ends, None);
    let asked: Vec<u32> = requests(&outputs).map(|of| of.piece).collect();
    assert!(asked.contains(&(PIECES - 1)), "{asked:?}");
    // Both may bring the same block.
    let block = BlockId {
        piece: PieceIndex(PIECES - 1),
        index: 0,
    };
    for (from, is_new) in [
        (Sender::Http(request), true),
        (Sender::Peer(PeerKey(9)), false),
    ] {
        bench.feed(Input::Block {
            from,
            block,
            buf: BufKey(1),
        });
        let stored = |output: &Output| matches!(output, Output::Store { .. });
        assert_eq!(bench.outputs().iter().any(stored), is_new, "{from:?}");
    }
}

#[test]
fn a_claim_beyond_the_end_breaks_the_protocol() {
    let mut bench = Bench::with(&[9]);
    bench.outputs();
    bench.claims(9, PIECES - 1..PIECES + 1);
    let is_refusal = |output: &Output| {
        matches!(
            output,
            Output::HangUp {
                reason: HangUp::Protocol(_),
                ..
            }
        )
    };
    assert!(bench.outputs().iter().any(is_refusal));
}

/// When few first copies are left, few nodes read them: the others wait for what those pass on.
#[test]
fn the_last_first_copies_are_left_to_a_few_readers() {
    for (readers, asks) in [(3, true), (4, false)] {
        let mut bench = Bench::preferring(Prefer::Peers, &[20]);
        (0..PIECES - 16).for_each(|piece| bench.message(PeerKey(20), Message::Have(piece)));
        for reader in 0..readers {
            bench.connect(6 + reader, Message::HaveNone);
            let piece = PIECES - 16 + u32::from(reader);
            bench.claims(6 + reader, piece..piece + 1);
        }
        bench.now += Duration::from_millis(2500);
        bench.web_seed();
        let asked = bench.asks();
        assert_eq!(asked.is_some(), asks, "beside {readers} readers: {asked:?}");
    }
}

/// A request that began when nobody else was there is cut to this node's share when peers come.
#[test]
fn a_request_begun_alone_leaves_the_peers_that_come_their_share() {
    let mut bench = Bench::with(&[]);
    bench.web_seed();
    let (request, asked) = bench.asks().unwrap();
    assert_eq!(asked, 0..PIECES);
    (6..12).for_each(|name| bench.connect(name, Message::HaveNone));
    let ends = bench
        .outputs()
        .into_iter()
        .filter_map(|output| match output {
            Output::HttpShorten { request: of, end } if of == request => Some(end),
            _ => None,
        });
    // A quarter of the seventh part of 64 MiB, whole pieces.
    assert_eq!(ends.collect::<Vec<_>>(), [10 * 256 * 1024]);
}

/// Who gets first copies by suggestion asks for nothing else meanwhile: that would be the second copy of a piece that
/// other peers are about to have. When the suggestions end, anything goes.
#[test]
fn nothing_but_first_copies_is_asked_of_a_peer_that_suggests() {
    let mut bench = Bench::with(&[]);
    bench.connect(9, Message::HaveAll);
    for message in [Message::Suggest(77), Message::Unchoke] {
        bench.message(PeerKey(9), message);
    }
    let asked = bench.answers(9);
    assert_eq!(asked, [77; 16], "a piece has 16 blocks");
    bench.now += Duration::from_millis(2500);
    bench.feed(Input::Tick);
    assert!(bench.answers(9).iter().any(|piece| *piece != 77));
}
