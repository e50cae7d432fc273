//! Own nodes tell each other how busy their uplinks are.

use std::net::SocketAddr;

use floodway_proto::wire::{Message, UplinkUse};
use floodway_proto::{Layout, PeerName, Time};
use floodway_swarm::{Config, Input, Output, PeerKey, Start, Swarm};

const PIECES: u32 = 64;

/// An engine, and what it told whom of its uplink.
struct Bench {
    swarm: Swarm,
    now: Time,
    told: Vec<(PeerKey, UplinkUse)>,
}

impl Bench {
    /// Holds so many pieces.
    fn holding(pieces: u32) -> Self {
        let mut start = Start::empty(PIECES);
        for piece in 0..pieces {
            start.have.set(piece);
        }
        let layout = Layout::new(Some(4 << 20), 64 << 10).unwrap();
        let config = Config::new(PeerName([5; 20]));
        Self {
            swarm: Swarm::new(config, layout, start, 1),
            now: Time::from_millis(1000),
            told: Vec::new(),
        }
    }

    fn feed(&mut self, input: Input) {
        self.swarm.handle_input(self.now, input);
        loop {
            match self.swarm.poll_output() {
                Output::WakeAt(_) => return,
                Output::Uplink { peer, uplink } => self.told.push((peer, uplink)),
                _ => {}
            }
        }
    }

    fn connect(&mut self, name: u8, own: bool, says: Message) {
        let peer = PeerKey(name.into());
        self.feed(Input::PeerUp {
            peer,
            addr: SocketAddr::from(([10, 0, 0, name], 1)),
            name: PeerName([name; 20]),
            inbound: true,
            fast: true,
        });
        self.feed(Input::PeerExtended {
            peer,
            request_queue: None,
            own,
            hears_claims: own,
        });
        self.feed(Input::PeerMessage {
            peer,
            message: says,
        });
    }

    fn pass(&mut self, seconds: u64) -> Vec<(PeerKey, UplinkUse)> {
        for _ in 0..seconds * 4 {
            self.now += std::time::Duration::from_millis(250);
            self.feed(Input::Tick);
        }
        std::mem::take(&mut self.told)
    }
}

#[test]
fn who_has_nothing_that_others_lack_says_so_once_and_to_own_nodes_only() {
    let mut bench = Bench::holding(8);
    bench.connect(1, true, Message::HaveNone);
    bench.connect(2, false, Message::HaveNone);
    bench.told.clear();
    assert_eq!(bench.pass(5), [(PeerKey(1), UplinkUse::Idle)]);
    // Who comes later hears it too.
    bench.connect(3, true, Message::HaveNone);
    assert_eq!(bench.told, [(PeerKey(3), UplinkUse::Idle)]);
}

#[test]
fn who_came_late_or_is_alone_with_complete_nodes_is_not_idle() {
    let mut bench = Bench::holding(8);
    bench.connect(1, true, Message::HaveAll);
    bench.told.clear();
    assert_eq!(bench.pass(5), [], "nobody lacks anything");
    bench.connect(2, true, Message::HaveNone);
    for piece in 0..PIECES / 2 {
        bench.feed(Input::PeerMessage {
            peer: PeerKey(2),
            message: Message::Have(piece),
        });
    }
    bench.told.clear();
    assert_eq!(bench.pass(5), [], "it has only begun");
}
