//! Contents whose hashes become known while they are fetched: what is offered, asked for and read, and when.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::wire::{Message, Request};
use floodway_proto::{Bitfield, BlockId, Layout, PeerName, PieceIndex, Time};
use floodway_swarm::{
    Access, BufKey, Config, HangUp, HttpEnd, Input, Output, PeerKey, Prefer, RequestKey, Sender,
    SourceClass, SourceKey, Start, Swarm, Verdict,
};

use crate::peer_up;

const PIECE: u32 = 32 << 10;
const PIECES: u32 = 8;
const ORIGIN: SourceKey = SourceKey(0);
const RELAY: SourceKey = SourceKey(1);
const PEER: PeerKey = PeerKey(1);
const NEIGHBOUR: [u8; 4] = [10, 0, 0, 1];

/// An engine of which nothing is known yet.
struct Bench {
    swarm: Swarm,
    now: Time,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(Config::new(PeerName([5; 20])))
    }

    /// An agent in the background.
    fn agent() -> Self {
        Self::with(Config {
            prefer: Prefer::Peers,
            grace: Duration::from_secs(30),
            ..Config::new(PeerName([5; 20]))
        })
    }

    fn with(config: Config) -> Self {
        let layout = Layout::new(Some(u64::from(PIECE * PIECES)), PIECE).unwrap();
        let start = Start {
            verifiable: false,
            growing: true,
            ..Start::empty(PIECES)
        };
        Self {
            swarm: Swarm::new(config, layout, start, 1),
            now: Time::from_millis(1000),
            next: 0,
        }
    }

    /// With an origin of which these pieces are leased, and what is asked of it.
    fn relay(leases: Range<u32>) -> (Self, RequestKey, Range<u64>) {
        let mut bench = Self::new();
        bench.lease(leases);
        let asked = bench.feed(Input::HttpUp {
            source: ORIGIN,
            class: SourceClass::Origin,
            access: Access::Ranges,
        });
        let asked = asked.into_iter().find_map(|output| match output {
            Output::HttpGet { request, bytes, .. } => Some((request, bytes)),
            _ => None,
        });
        let (request, bytes) = asked.expect("leased pieces are read");
        (bench, request, bytes)
    }

    fn lease(&mut self, pieces: Range<u32>) -> Vec<Output> {
        self.feed(Input::Leases(vec![pieces]))
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.swarm.handle_input(self.now, input);
        let outputs = std::iter::from_fn(|| match self.swarm.poll_output() {
            Output::WakeAt(_) => None,
            output => Some(output),
        });
        outputs.collect()
    }

    fn relay_http(&mut self) -> Vec<Output> {
        self.feed(Input::HttpUp {
            source: RELAY,
            class: SourceClass::Relay,
            access: Access::Ranges,
        })
    }

    /// Time passes, in ticks.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while self.now < end {
            self.now = (self.now + Duration::from_millis(250)).min(end);
            outputs.extend(self.feed(Input::Tick));
        }
        outputs
    }

    fn peer_up(&mut self, own: bool) -> Vec<Output> {
        let mut said = self.feed(peer_up(1));
        said.extend(self.feed(Input::PeerExtended {
            peer: PEER,
            request_queue: None,
            own,
            hears_claims: false,
            listen_port: None,
        }));
        said
    }

    fn message(&mut self, message: Message) -> Vec<Output> {
        self.feed(Input::PeerMessage {
            peer: PEER,
            message,
        })
    }

    /// A piece comes whole and is good.
    fn piece(&mut self, from: Sender, piece: u32) -> Vec<Output> {
        let piece = PieceIndex(piece);
        for index in 0..2 {
            self.next += 1;
            let buf = BufKey(self.next);
            let block = BlockId { piece, index };
            self.feed(Input::Block { from, block, buf });
        }
        let verdict = Verdict::Good { disproved: vec![] };
        self.feed(Input::Hashed { piece, verdict })
    }

    fn request(&mut self, piece: u32) -> Vec<Output> {
        self.message(Message::Request(request(piece)))
    }
}

fn request(piece: u32) -> Request {
    Request {
        piece,
        begin: 0,
        length: 16 << 10,
    }
}

fn sent(outputs: &[Output]) -> Vec<Message> {
    let messages = outputs.iter().filter_map(|output| match output {
        Output::Send { message, .. } => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

fn asked(outputs: &[Output]) -> Vec<u32> {
    let requests = sent(outputs)
        .into_iter()
        .filter_map(|message| match message {
            Message::Request(request) => Some(request.piece),
            _ => None,
        });
    let mut pieces: Vec<u32> = requests.collect();
    pieces.dedup();
    pieces
}

/// Which pieces are read over HTTP.
fn read(outputs: &[Output]) -> Vec<(RequestKey, Range<u32>)> {
    let piece = |byte: u64| u32::try_from(byte / u64::from(PIECE)).unwrap();
    let reads = outputs.iter().filter_map(|output| match output {
        Output::HttpGet { request, bytes, .. } => {
            Some((*request, piece(bytes.start)..piece(bytes.end)))
        }
        _ => None,
    });
    reads.collect()
}

#[test]
fn a_relay_offers_what_it_fetched_once_others_can_verify_it() {
    let (mut bench, http, bytes) = Bench::relay(0..4);
    assert_eq!(bytes, 0..u64::from(4 * PIECE));
    let from = Sender::Http(http);
    assert_eq!(sent(&bench.piece(from, 0)), []);
    assert_eq!(sent(&bench.peer_up(true)), [Message::HaveNone]);
    let said = sent(&bench.message(Message::Interested));
    assert!(said.contains(&Message::Unchoke), "{said:?}");
    assert_eq!(
        sent(&bench.piece(from, 1)),
        [],
        "held, and nobody could verify it"
    );
    assert_eq!(sent(&bench.request(1)), [Message::Reject(request(1))]);

    let said = bench.feed(Input::Verifiable { pieces: 1..3 });
    assert_eq!(
        sent(&said),
        [Message::Have(1)],
        "and not piece 2, which is not held"
    );
    let block = BlockId {
        piece: PieceIndex(1),
        index: 0,
    };
    let served = bench.request(1);
    assert!(
        served.contains(&Output::SendBlock {
            peer: PEER,
            block,
            zeros: 0
        }),
        "{served:?}"
    );
    // One whose hash is known already is offered as soon as it is held.
    assert_eq!(sent(&bench.piece(from, 2)), [Message::Have(2)]);
}

#[test]
fn a_new_peer_hears_only_of_what_it_can_verify() {
    let (mut bench, http, _) = Bench::relay(0..4);
    for piece in 0..3 {
        bench.piece(Sender::Http(http), piece);
    }
    bench.feed(Input::Verifiable { pieces: 1..2 });
    let mut offered = Bitfield::new(PIECES);
    offered.set(1);
    let offered = Message::Bitfield(Bytes::from(offered.to_bytes()));
    assert_eq!(sent(&bench.peer_up(true)), [offered]);
}

#[test]
fn a_relay_reads_its_origin_for_leased_pieces_only() {
    let (mut bench, http, _) = Bench::relay(0..4);
    let outputs = bench.feed(Input::Verifiable { pieces: 0..8 });
    let reads = |outputs: &[Output]| {
        let reads = |output: &Output| matches!(output, Output::HttpGet { .. });
        outputs.iter().any(reads)
    };
    assert!(!reads(&outputs));
    bench.piece(Sender::Http(http), 0);
    // The lease shrinks: what was asked for beyond it is cut off.
    let outputs = bench.lease(0..2);
    let end = u64::from(2 * PIECE);
    assert!(
        outputs.contains(&Output::HttpShorten { request: http, end }),
        "{outputs:?}"
    );
    let mut outputs = bench.piece(Sender::Http(http), 1);
    outputs.extend(bench.feed(Input::HttpEnd {
        request: http,
        end: HttpEnd::Done,
    }));
    bench.now = Time::from_millis(120_000);
    outputs.extend(bench.feed(Input::Tick));
    assert!(
        !reads(&outputs),
        "the others are to come from peers: {outputs:?}"
    );
    let outputs = bench.lease(4..5);
    let (from, to) = (u64::from(4 * PIECE), u64::from(5 * PIECE));
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::HttpGet { bytes, .. } if *bytes == (from..to))),
        "{outputs:?}"
    );
}

#[test]
fn peers_are_wanted_from_the_start_and_asked_for_what_can_be_verified() {
    let mut bench = Bench::new();
    let addr = SocketAddr::from((NEIGHBOUR, 1));
    let outputs = bench.feed(Input::PeersFound(vec![addr]));
    assert!(outputs.contains(&Output::Dial { addr }), "{outputs:?}");
    bench.peer_up(true);
    let mut outputs = bench.message(Message::HaveAll);
    outputs.extend(bench.message(Message::Unchoke));
    assert_eq!(sent(&outputs), [], "it has nothing that we could verify");

    let outputs = bench.feed(Input::Verifiable { pieces: 3..4 });
    assert_eq!(sent(&outputs)[0], Message::Interested);
    assert_eq!(asked(&outputs), [3]);
    let outputs = bench.piece(Sender::Peer(PEER), 3);
    assert!(sent(&outputs).contains(&Message::NotInterested));
    assert_eq!(asked(&bench.feed(Input::Verifiable { pieces: 0..1 })), [0]);
}

#[test]
fn own_nodes_stay_connected_when_both_are_complete() {
    for own in [true, false] {
        let (mut bench, http, _) = Bench::relay(0..PIECES);
        bench.feed(Input::Verifiable { pieces: 0..PIECES });
        bench.peer_up(own);
        bench.message(Message::HaveAll);
        let mut outputs = Vec::new();
        for piece in 0..PIECES {
            outputs.extend(bench.piece(Sender::Http(http), piece));
        }
        let parted = outputs.contains(&Output::HangUp {
            peer: PEER,
            reason: HangUp::BothComplete,
        });
        assert_eq!(parted, !own, "own: {own}");
    }
}

#[test]
fn a_banished_peer_is_not_dialled_again() {
    let mut bench = Bench::new();
    let addr = SocketAddr::from((NEIGHBOUR, 1));
    bench.peer_up(true);
    let outputs = bench.feed(Input::Banish { peer: PEER });
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::HangUp { peer: PEER, .. }))
    );
    bench.now = Time::from_millis(3_600_000);
    assert!(
        !bench
            .feed(Input::PeersFound(vec![addr]))
            .contains(&Output::Dial { addr })
    );
}

#[test]
fn a_relay_deals_each_new_piece_out_to_one_peer() {
    let (mut bench, http, _) = Bench::relay(0..PIECES);
    bench.peer_up(true);
    bench.message(Message::HaveNone);
    bench.message(Message::Interested);
    let other = PeerKey(2);
    for input in [
        peer_up(2),
        Input::PeerExtended {
            peer: other,
            request_queue: None,
            own: true,
            hears_claims: false,
            listen_port: None,
        },
        Input::PeerMessage {
            peer: other,
            message: Message::HaveNone,
        },
        Input::PeerMessage {
            peer: other,
            message: Message::Interested,
        },
    ] {
        bench.feed(input);
    }
    for piece in 0..4 {
        bench.piece(Sender::Http(http), piece);
        let outputs = bench.feed(Input::Verifiable {
            pieces: piece..piece + 1,
        });
        let suggested = outputs.iter().filter(|output| {
            matches!(output, Output::Send { message: Message::Suggest(one), .. } if *one == piece)
        });
        assert_eq!(suggested.count(), 1, "piece {piece}: {outputs:?}");
    }
    // The other one is a relay too and has all: that spreads nothing.
    for piece in 0..PIECES {
        bench.feed(Input::PeerMessage {
            peer: other,
            message: Message::Have(piece),
        });
    }
    for piece in 0..4 {
        bench.message(Message::Have(piece));
    }
    for piece in 4..6 {
        bench.piece(Sender::Http(http), piece);
        let outputs = bench.feed(Input::Verifiable {
            pieces: piece..piece + 1,
        });
        let suggested = outputs.iter().any(|output| {
            matches!(output, Output::Send { peer: PEER, message: Message::Suggest(one) } if *one == piece)
        });
        assert!(suggested, "piece {piece}: {outputs:?}");
    }
}

#[test]
fn a_node_without_peers_reads_of_a_relay_what_it_can_verify_and_no_more() {
    let mut bench = Bench::new();
    assert_eq!(read(&bench.relay_http()), []);
    let reads = read(&bench.feed(Input::Verifiable { pieces: 2..4 }));
    let [(first, pieces)] = &reads[..] else {
        panic!("{reads:?}");
    };
    assert_eq!(*pieces, 2..4);
    let reads = read(&bench.feed(Input::Verifiable { pieces: 5..6 }));
    assert_eq!(reads.len(), 1, "the next is asked for meanwhile: {reads:?}");
    assert_eq!(reads[0].1, 5..6);
    bench.piece(Sender::Http(*first), 2);
    bench.piece(Sender::Http(*first), 3);
    let request = *first;
    let end = HttpEnd::Done;
    assert_eq!(read(&bench.feed(Input::HttpEnd { request, end })), []);
    assert_eq!(bench.swarm.progress().counters.relay, u64::from(2 * PIECE));
}

#[test]
fn what_has_just_become_verifiable_is_left_to_peers() {
    for mut bench in [Bench::new(), Bench::agent()] {
        bench.relay_http();
        bench.peer_up(true);
        bench.message(Message::HaveNone);
        bench.message(Message::Unchoke);
        // Long enough for the background's patience with peers.
        bench.pass(Duration::from_secs(40));
        for piece in 0..4 {
            // The record comes, then the word of the peer, then its bytes.
            let mut outputs = bench.feed(Input::Verifiable {
                pieces: piece..piece + 1,
            });
            bench.now += Duration::from_millis(40);
            outputs.extend(bench.message(Message::Have(piece)));
            assert_eq!(asked(&outputs), [piece]);
            bench.now += Duration::from_millis(200);
            outputs.extend(bench.piece(Sender::Peer(PEER), piece));
            // The origin is slow.
            outputs.extend(bench.pass(Duration::from_secs(20)));
            assert_eq!(read(&outputs), [], "piece {piece}");
        }
        // One that no peer has is read of the relay.
        let outputs = bench.feed(Input::Verifiable { pieces: 6..7 });
        assert_eq!(read(&outputs), []);
        let reads = read(&bench.pass(Duration::from_secs(1)));
        assert_eq!(reads.len(), 1, "{reads:?}");
        assert_eq!(reads[0].1, 6..7);
    }
}

#[test]
fn a_relay_that_sits_on_a_request_is_not_waited_for_when_a_peer_has_the_piece() {
    let mut bench = Bench::new();
    bench.peer_up(true);
    bench.message(Message::HaveNone);
    bench.message(Message::Unchoke);
    bench.relay_http();
    bench.feed(Input::Verifiable { pieces: 3..4 });
    let reads = read(&bench.pass(Duration::from_secs(1)));
    let request = reads[0].0;
    // Nobody else has it: it is waited for.
    let cancelled = Output::HttpCancel { request };
    assert!(!bench.pass(Duration::from_secs(30)).contains(&cancelled));
    let mut outputs = bench.message(Message::Have(3));
    outputs.extend(bench.pass(Duration::from_secs(1)));
    assert!(outputs.contains(&cancelled), "{outputs:?}");
    assert_eq!(asked(&outputs), [3]);
    assert_eq!(read(&outputs), [], "and not of the relay again");
}

#[test]
fn peers_that_had_nothing_to_give_have_not_stalled() {
    let mut bench = Bench::agent();
    bench.relay_http();
    bench.peer_up(true);
    bench.message(Message::HaveNone);
    bench.message(Message::Unchoke);
    bench.pass(Duration::from_mins(1));
    bench.message(Message::Have(1));
    let mut outputs = bench.feed(Input::Verifiable { pieces: 1..2 });
    assert_eq!(asked(&outputs), [1]);
    outputs.extend(bench.pass(Duration::from_secs(4)));
    assert_eq!(read(&outputs), []);
}

#[test]
fn a_suggestion_that_comes_before_the_hash_is_followed_when_that_is_known() {
    let mut bench = Bench::new();
    bench.peer_up(true);
    bench.message(Message::HaveNone);
    bench.message(Message::Unchoke);
    // The relay's word of a piece may be sooner here than the store's of what it must hash to.
    for piece in [3, 1] {
        bench.message(Message::Have(piece));
        assert!(asked(&bench.message(Message::Suggest(piece))).is_empty());
    }
    assert_eq!(asked(&bench.feed(Input::Verifiable { pieces: 1..2 })), [1]);
    assert_eq!(asked(&bench.feed(Input::Verifiable { pieces: 3..4 })), [3]);
}
