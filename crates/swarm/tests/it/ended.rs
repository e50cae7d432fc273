//! Contents whose length becomes known while they are fetched: what the engine counts before and after.

use bytes::Bytes;
use floodway_proto::wire::{HttpClaims, Message, Request};
use floodway_proto::{Bitfield, BlockId, Layout, PIECES_WHILE_UNKNOWN, PeerName, PieceIndex, Time};
use floodway_swarm::{
    Access, BufKey, Config, Event, HangUp, HttpEnd, Input, Output, PeerKey, Sender, SourceClass,
    SourceKey, Start, Swarm, Verdict,
};

use crate::peer_up;

const PIECE: u32 = 32 << 10;
const BLOCK: u64 = 16 << 10;
/// Three pieces, the last of which has one short block.
const LENGTH: u64 = 2 * PIECE as u64 + 5;
const PEER: PeerKey = PeerKey(1);

struct Bench {
    swarm: Swarm,
    next: u64,
}

impl Bench {
    fn new(length: Option<u64>) -> Self {
        let layout = Layout::new(length, PIECE).unwrap();
        let start = Start {
            verifiable: false,
            growing: true,
            open_ended: true,
            ..Start::empty(layout.piece_count())
        };
        let config = Config::new(PeerName([5; 20]));
        Self {
            swarm: Swarm::new(config, layout, start, 1),
            next: 0,
        }
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.swarm.handle_input(Time::from_millis(1000), input);
        let outputs = std::iter::from_fn(|| match self.swarm.poll_output() {
            Output::WakeAt(_) => None,
            output => Some(output),
        });
        outputs.collect()
    }

    fn block(&mut self, from: Sender, piece: u32, index: u32) -> Vec<Output> {
        self.next += 1;
        let buf = BufKey(self.next);
        let piece = PieceIndex(piece);
        let block = BlockId { piece, index };
        self.feed(Input::Block { from, block, buf })
    }

    fn good(&mut self, piece: u32) -> Vec<Output> {
        let piece = PieceIndex(piece);
        let verdict = Verdict::Good { disproved: vec![] };
        self.feed(Input::Hashed { piece, verdict })
    }

    fn peer_up(&mut self) -> Vec<Output> {
        let mut said = self.feed(peer_up(1));
        said.extend(self.feed(Input::PeerExtended {
            peer: PEER,
            request_queue: None,
            own: true,
            hears_claims: false,
            listen_port: None,
        }));
        said
    }

    fn says(&mut self, message: Message) -> Vec<Output> {
        self.feed(Input::PeerMessage {
            peer: PEER,
            message,
        })
    }
}

fn sent(outputs: &[Output]) -> Vec<Message> {
    let messages = outputs.iter().filter_map(|output| match output {
        Output::Send { message, .. } => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

fn is_complete(outputs: &[Output]) -> bool {
    outputs.contains(&Output::Event(Event::Complete))
}

fn hangs_up(outputs: &[Output]) -> bool {
    let protocol = |output: &Output| {
        matches!(
            output,
            Output::HangUp {
                reason: HangUp::Protocol(_),
                ..
            }
        )
    };
    outputs.iter().any(protocol)
}

fn bits(len: u32, pieces: impl IntoIterator<Item = u32>) -> Message {
    let mut set = Bitfield::new(len);
    for piece in pieces {
        set.set(piece);
    }
    Message::Bitfield(Bytes::from(set.to_bytes()))
}

#[test]
fn one_get_ends_where_the_body_ends() {
    for length in [
        LENGTH,
        2 * u64::from(PIECE) + BLOCK,
        2 * u64::from(PIECE),
        0,
    ] {
        let mut bench = Bench::new(None);
        bench.feed(Input::Leases(
            std::iter::once(0..PIECES_WHILE_UNKNOWN).collect(),
        ));
        let outputs = bench.feed(Input::HttpUp {
            source: SourceKey(0),
            class: SourceClass::Origin,
            access: Access::OneGet,
        });
        let request = outputs.iter().find_map(|output| match output {
            Output::HttpGet { request, bytes, .. } => {
                let most = u64::from(PIECES_WHILE_UNKNOWN) * u64::from(PIECE);
                assert_eq!(*bytes, 0..most, "all that there may be");
                Some(*request)
            }
            _ => None,
        });
        let request = request.expect("it is read");
        let from = Sender::Http(request);
        let whole = u32::try_from(length / BLOCK).unwrap();
        for block in 0..whole {
            bench.block(from, block / 2, block % 2);
            if block % 2 == 1 {
                assert!(!is_complete(&bench.good(block / 2)));
            }
        }
        let mut outputs = bench.feed(Input::Ended { length });
        if !length.is_multiple_of(BLOCK) {
            outputs.extend(bench.block(from, whole / 2, whole % 2));
        }
        let end = HttpEnd::Done;
        outputs.extend(bench.feed(Input::HttpEnd { request, end }));
        if !length.is_multiple_of(u64::from(PIECE)) {
            assert!(!is_complete(&outputs), "{length}");
            outputs.extend(bench.good(whole / 2));
        }
        assert!(is_complete(&outputs), "{length}");
        let reads = |output: &Output| matches!(output, Output::HttpGet { .. });
        assert!(
            !outputs.iter().any(reads),
            "{length}: nothing is read twice"
        );
        let progress = bench.swarm.progress();
        assert_eq!(
            (progress.have_bytes, progress.counters.origin),
            (length, length)
        );
    }
}

#[test]
fn a_peer_that_has_all_is_asked_for_what_can_be_verified() {
    let mut bench = Bench::new(None);
    assert_eq!(sent(&bench.peer_up()), [Message::HaveNone]);
    bench.says(Message::Unchoke);
    assert_eq!(sent(&bench.says(Message::HaveAll)), []);
    let asked = sent(&bench.feed(Input::Verifiable { pieces: 0..1 }));
    let request = |piece, begin, length| {
        Message::Request(Request {
            piece,
            begin,
            length,
        })
    };
    assert!(asked.contains(&request(0, 0, 16 << 10)), "{asked:?}");
    bench.block(Sender::Peer(PEER), 0, 0);
    bench.block(Sender::Peer(PEER), 0, 1);
    assert_eq!(sent(&bench.good(0)), [Message::NotInterested]);
    assert_eq!(bench.swarm.progress().seeds, 1, "whatever all is");
    bench.feed(Input::Ended { length: LENGTH });
    assert_eq!(bench.swarm.progress().seeds, 1);
    let asked = sent(&bench.feed(Input::Verifiable { pieces: 1..3 }));
    assert!(asked.contains(&request(2, 0, 5)), "{asked:?}");
    for (piece, index) in [(1, 0), (1, 1), (2, 0)] {
        bench.block(Sender::Peer(PEER), piece, index);
    }
    assert!(!is_complete(&bench.good(1)));
    assert!(is_complete(&bench.good(2)));
    assert_eq!(bench.swarm.progress().have_bytes, LENGTH);
}

#[test]
fn lists_of_pieces_are_read_whoever_knows_the_end() {
    // The peer knows it, we do not.
    let mut bench = Bench::new(None);
    bench.peer_up();
    assert!(!hangs_up(&bench.says(bits(3, [0, 2]))));
    let asked = sent(&bench.feed(Input::Verifiable { pieces: 2..3 }));
    assert_eq!(asked, [Message::Interested]);
    bench.feed(Input::Ended { length: LENGTH });
    assert_eq!(bench.swarm.progress().seeds, 0);
    bench.says(Message::Have(1));
    assert_eq!(bench.swarm.progress().seeds, 1);
    // We know it, the peer does not.
    let mut bench = Bench::new(Some(LENGTH));
    bench.peer_up();
    let claims = HttpClaims {
        ranges: std::iter::once(0..PIECES_WHILE_UNKNOWN).collect(),
    };
    let peer = PEER;
    assert!(!hangs_up(&bench.feed(Input::PeerClaims { peer, claims })));
    assert!(!hangs_up(&bench.says(bits(PIECES_WHILE_UNKNOWN, 0..3))));
    assert_eq!(bench.swarm.progress().seeds, 1);
    // Nobody has what does not exist.
    let mut bench = Bench::new(Some(LENGTH));
    bench.peer_up();
    assert!(hangs_up(&bench.says(bits(PIECES_WHILE_UNKNOWN, [3]))));
}
