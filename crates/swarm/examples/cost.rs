//! What one event costs the engine, as instructions: `cargo xtask bench cost` runs this under callgrind, which counts
//! only what happens within [`measured`].
//!
//! Usage: `cost EVENT PEERS PIECES`; prints how many events were measured.

#![expect(clippy::print_stdout, reason = "a command-line tool")]

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{Bitfield, BlockId, Layout, PeerName, Time};
use floodway_swarm::{BufKey, Config, Input, Output, PeerKey, Sender, Start, Swarm};

const BLOCK: u32 = 16 << 10;
/// Pieces so large that none is completed while we count: telling all peers of one costs a message each.
const PIECE: u32 = 256 * BLOCK;
const EVENTS: u64 = 2000;

/// An engine, and the requests of it that nobody has answered yet.
struct Bench {
    swarm: Swarm,
    layout: Layout,
    now: Time,
    peers: u64,
    asked: Vec<(PeerKey, BlockId)>,
    sent: Vec<(PeerKey, BlockId)>,
}

impl Bench {
    fn new(peers: u64, pieces: u32, complete: bool) -> Self {
        let length = u64::from(pieces) * u64::from(PIECE);
        let layout = Layout::new(Some(length), PIECE).expect("a good layout");
        let mut config = Config::new(PeerName([0; 20]));
        config.connections_max = 10_000;
        let mut start = Start::empty(pieces);
        if complete {
            start.have = Bitfield::full(pieces);
        }
        Self {
            swarm: Swarm::new(config, layout.clone(), start, 1),
            layout,
            now: Time::ZERO,
            peers,
            asked: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// The peer connects, and says what it has.
    fn connect(&mut self, key: u64, says: &Message) {
        let peer = PeerKey(key);
        let mut name = [1; 20];
        name[..8].copy_from_slice(&key.to_be_bytes());
        self.input(Input::PeerUp {
            peer,
            addr: SocketAddr::from((Ipv6Addr::from_bits(u128::from(key)), 6881)),
            name: PeerName(name),
            inbound: true,
            fast: true,
        });
        self.input(Input::PeerExtended {
            peer,
            request_queue: Some(2000),
            own: true,
            hears_claims: false,
            listen_port: None,
        });
        for message in [says.clone(), Message::Unchoke, Message::Interested] {
            self.input(Input::PeerMessage { peer, message });
        }
    }

    fn connect_all(&mut self, says: &Message) {
        (0..self.peers).for_each(|key| self.connect(key, says));
    }

    fn input(&mut self, input: Input) {
        self.now += Duration::from_micros(1);
        self.swarm.handle_input(self.now, input);
        loop {
            match self.swarm.poll_output() {
                Output::Send {
                    peer,
                    message: Message::Request(request),
                } => {
                    let block = self
                        .layout
                        .block(request.piece, request.begin, request.length)
                        .expect("the engine asks for blocks");
                    self.asked.push((peer, block));
                }
                Output::SendBlock { peer, block, .. } => self.sent.push((peer, block)),
                Output::WakeAt(_) => break,
                _ => {}
            }
        }
    }

    /// A peer says that it has a piece more.
    fn have(&mut self, event: u64) {
        let pieces = u64::from(self.layout.piece_count());
        let (peer, round) = (event % self.peers, event / self.peers);
        // Far from each other: the stride is odd, the number of pieces a power of two.
        let piece = (round * 2_654_435_761 + peer * 40_503) % pieces;
        self.input(Input::PeerMessage {
            peer: PeerKey(peer),
            message: Message::Have(u32::try_from(piece).expect("an index")),
        });
    }

    /// A block comes, and another is picked and asked for.
    fn block(&mut self, event: u64) {
        let (peer, block) = self.asked.pop().expect("something is always asked for");
        self.input(Input::Block {
            from: Sender::Peer(peer),
            block,
            buf: BufKey(event),
        });
    }

    /// A peer asks for a block, and one goes into a socket.
    fn request(&mut self, event: u64) {
        self.ask(PeerKey(event % self.peers), event % 256);
        if let Some((peer, block)) = self.sent.pop() {
            self.input(Input::BlockSent { peer, block });
        }
    }

    /// A block goes into a socket, and its peer asks for another, while all peers wait for many.
    fn serve(&mut self, event: u64) {
        let (peer, block) = self.sent.pop().expect("something is always in hand");
        self.input(Input::BlockSent { peer, block });
        self.ask(peer, event);
    }

    fn ask(&mut self, peer: PeerKey, event: u64) {
        let blocks = u64::from(PIECE / BLOCK);
        let piece = u32::try_from(event / blocks).expect("an index") % self.layout.piece_count();
        let index = u32::try_from(event % blocks).expect("an index");
        let request = Request {
            piece,
            begin: index * BLOCK,
            length: BLOCK,
        };
        let message = Message::Request(request);
        self.input(Input::PeerMessage { peer, message });
    }

    /// A quarter of a second passes; one event a peer.
    fn tick(&mut self) {
        self.now += Duration::from_millis(250);
        self.input(Input::Tick);
    }
}

/// What callgrind counts.
#[inline(never)]
fn measured(events: u64, mut event: impl FnMut(u64)) -> u64 {
    (0..events).for_each(&mut event);
    events
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [event, peers, pieces] = &arguments[..] else {
        panic!("usage: cost EVENT PEERS PIECES")
    };
    let peers = peers.parse().expect("a number of peers");
    let pieces = pieces.parse().expect("a number of pieces");
    let gives = matches!(event.as_str(), "request" | "serve");
    let mut bench = Bench::new(peers, pieces, gives);
    let count = match event.as_str() {
        "have" => {
            bench.connect_all(&Message::HaveNone);
            // The first piece of a peer makes it interesting, and is asked for.
            (0..peers).for_each(|at| bench.have(at));
            measured(EVENTS, |at| bench.have(peers + at))
        }
        "block" => {
            bench.connect_all(&Message::HaveAll);
            measured(EVENTS, |at| bench.block(at))
        }
        "request" => {
            bench.connect_all(&Message::HaveNone);
            measured(EVENTS, |at| bench.request(at))
        }
        "serve" => {
            bench.connect_all(&Message::HaveNone);
            for peer in 0..peers {
                (0..8).for_each(|at| bench.ask(PeerKey(peer), peer + at * 31));
            }
            measured(EVENTS, |at| bench.serve(at))
        }
        "connect" => {
            bench.connect_all(&Message::HaveNone);
            measured(EVENTS, |at| bench.connect(peers + at, &Message::HaveNone))
        }
        "tick" => {
            bench.connect_all(&Message::HaveAll);
            let ticks = 20_000 / peers;
            measured(ticks, |_| bench.tick()) * peers
        }
        other => panic!("there is no event `{other}`"),
    };
    println!("{count}");
}
