//! Two connections to one peer, of which the peer may drop the one that we keep.

use floodway_proto::{Layout, Time};

use super::*;
use crate::config::{Config, Start};
use crate::io::{Input, PeerKey};

const LISTENS: &str = "192.0.2.1:6881";
const FROM: &str = "192.0.2.1:40000";

/// A swarm that has dialled a peer, with the addresses that it dialled since.
struct Play {
    swarm: Swarm,
    dialled: Vec<SocketAddr>,
    dropped: Vec<PeerKey>,
}

impl Play {
    fn new(own: u8) -> Self {
        let layout = Layout::new(Some(1 << 20), 256 << 10).unwrap();
        let config = Config::new(PeerName([own; 20]));
        let start = Start::empty(layout.piece_count());
        Self {
            swarm: Swarm::new(config, layout, start, 1),
            dialled: Vec::new(),
            dropped: Vec::new(),
        }
    }

    fn feed(&mut self, millis: u64, input: Input) {
        self.swarm.handle_input(Time::from_millis(millis), input);
        loop {
            match self.swarm.poll_output() {
                Output::Dial { addr } => self.dialled.push(addr),
                Output::HangUp { peer, .. } => self.dropped.push(peer),
                Output::WakeAt(_) => return,
                _ => {}
            }
        }
    }

    fn up(&mut self, key: u64, addr: &str, inbound: bool) {
        let (peer, addr) = (PeerKey(key), addr.parse().unwrap());
        let name = PeerName([5; 20]);
        let fast = false;
        self.feed(
            100,
            Input::PeerUp {
                peer,
                addr,
                name,
                inbound,
                fast,
            },
        );
    }
}

#[test]
fn a_peer_that_drops_the_connection_we_kept_is_dialled_again_soon() {
    // With the larger name we keep the connection that the peer dialled, in whichever order they come.
    for outbound_first in [true, false] {
        let mut play = Play::new(9);
        play.feed(0, Input::PeersFound(vec![LISTENS.parse().unwrap()]));
        let (dialled, inbound) = (PeerKey(1), PeerKey(2));
        if outbound_first {
            play.up(1, LISTENS, false);
            play.up(2, FROM, true);
        } else {
            play.up(2, FROM, true);
            play.up(1, LISTENS, false);
        }
        assert_eq!(play.dropped, [dialled]);
        play.feed(8_000, Input::Tick);
        assert_eq!(play.dialled.len(), 1, "the other connection lives");
        play.feed(9_000, Input::PeerDown { peer: inbound });
        play.feed(12_000, Input::Tick);
        assert_eq!(play.dialled.len(), 2, "outbound first: {outbound_first}");
    }
}

#[test]
fn the_connection_that_the_smaller_name_dialled_is_kept() {
    for (own, kept_is_inbound) in [(9, true), (1, false)] {
        let mut play = Play::new(own);
        play.up(1, LISTENS, false);
        play.up(2, FROM, true);
        assert_eq!(play.dropped, [PeerKey(1 + u64::from(!kept_is_inbound))]);
    }
}
