//! What one event costs the engine, by the number of pieces and of peers: it must not grow with either.
//!
//! `have`: a peer says that it has a piece (the picker moves the piece to another bucket). `block`: a block comes, the
//! piece is done, the next block is picked and asked for; every piece is one block, so every event is a pick.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use floodway_proto::wire::Message;
use floodway_proto::{BlockId, Layout, PeerName, Time};
use floodway_swarm::{BufKey, Config, Input, Output, PeerKey, Sender, Start, Swarm, Verdict};

const PIECE_LENGTH: u32 = 16 << 10;

/// A swarm and what it waits for.
struct Driver {
    swarm: Swarm,
    layout: Layout,
    now: Time,
    peers: u64,
    /// Requests that peers have not answered yet.
    asked: VecDeque<(PeerKey, BlockId)>,
    events: u64,
}

impl Driver {
    fn new(pieces: u32, peers: u64, says: &Message) -> Self {
        let length = u64::from(pieces) * u64::from(PIECE_LENGTH);
        let layout = Layout::new(Some(length), PIECE_LENGTH).expect("a good layout");
        let mut config = Config::new(PeerName([0; 20]));
        config.connections_max = usize::try_from(peers).expect("few peers") + 1;
        let mut driver = Self {
            swarm: Swarm::new(config, layout.clone(), Start::empty(pieces), 1),
            layout,
            now: Time::ZERO,
            peers,
            asked: VecDeque::new(),
            events: 0,
        };
        for peer in 0..peers {
            let [.., c, d] = u32::try_from(peer).expect("few peers").to_be_bytes();
            let mut name = [1; 20];
            name[..8].copy_from_slice(&peer.to_be_bytes());
            driver.input(Input::PeerUp {
                peer: PeerKey(peer),
                addr: SocketAddr::from((Ipv4Addr::new(10, 1, c, d), 6881)),
                name: PeerName(name),
                inbound: true,
                fast: true,
            });
            for message in [says.clone(), Message::Unchoke] {
                driver.input(Input::PeerMessage {
                    peer: PeerKey(peer),
                    message,
                });
            }
        }
        driver
    }

    /// Feeds one input and does what comes out, as far as it needs no answer from a peer.
    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
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
                        self.asked.push_back((peer, block));
                    }
                    Output::Store { block, .. } => inputs.push_back(Input::Hashed {
                        piece: block.piece,
                        verdict: Verdict::Good {
                            disproved: Vec::new(),
                        },
                    }),
                    Output::WakeAt(_) => break,
                    _ => {}
                }
            }
        }
    }

    /// The next peer says that it has a piece more; false when half of all was said.
    fn have(&mut self) -> bool {
        let (peer, round) = (self.events % self.peers, self.events / self.peers);
        let pieces = u64::from(self.layout.piece_count());
        // Far from each other, and each once: the stride is odd, the number of pieces a power of two.
        let piece = (round * 2_654_435_761 + peer * 40_503) % pieces;
        self.events += 1;
        self.input(Input::PeerMessage {
            peer: PeerKey(peer),
            message: Message::Have(u32::try_from(piece).expect("an index")),
        });
        round < pieces / 2
    }

    /// The oldest request is answered; false when half of the content has come.
    fn block(&mut self) -> bool {
        let (peer, block) = self
            .asked
            .pop_front()
            .expect("something is always asked for");
        self.events += 1;
        self.input(Input::Block {
            from: Sender::Peer(peer),
            block,
            buf: BufKey(self.events),
        });
        self.events < u64::from(self.layout.piece_count()) / 2
    }
}

/// Measures `event`; a swarm that is used up is replaced outside the measured time.
#[expect(clippy::disallowed_methods, reason = "a bench measures real time")]
fn measure(
    criterion: &mut Criterion,
    name: &str,
    new: impl Fn() -> Driver,
    event: impl Fn(&mut Driver) -> bool,
) {
    let mut driver = None;
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|events| {
            let (mut left, mut spent) = (events, Duration::ZERO);
            while left > 0 {
                let mut current = driver.take().unwrap_or_else(&new);
                let start = Instant::now();
                let mut more = true;
                while left > 0 && more {
                    more = event(&mut current);
                    left -= 1;
                }
                spent += start.elapsed();
                driver = more.then_some(current);
            }
            spent
        });
    });
}

fn events(criterion: &mut Criterion) {
    for pieces in [1 << 10, 1 << 14, 1 << 17, 1 << 20] {
        measure(
            criterion,
            &format!("have, 50 peers, {pieces} pieces"),
            || Driver::new(pieces, 50, &Message::HaveNone),
            Driver::have,
        );
        measure(
            criterion,
            &format!("block, 8 peers, {pieces} pieces"),
            || Driver::new(pieces, 8, &Message::HaveAll),
            Driver::block,
        );
    }
    for peers in [500, 5000] {
        measure(
            criterion,
            &format!("have, {peers} peers, 16384 pieces"),
            || Driver::new(1 << 14, peers, &Message::HaveNone),
            Driver::have,
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = events
}
criterion_main!(benches);
