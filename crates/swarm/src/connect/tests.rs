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
        self.up_at(100, key, addr, inbound, false);
    }

    fn up_at(&mut self, millis: u64, key: u64, addr: &str, inbound: bool, fast: bool) {
        let (peer, addr) = (PeerKey(key), addr.parse().unwrap());
        let name = PeerName([5; 20]);
        self.feed(
            millis,
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

/// The own node of this connection says that it listens at [`LISTENS`].
fn listens(key: u64) -> Input {
    Input::PeerExtended {
        peer: PeerKey(key),
        request_queue: None,
        own: true,
        hears_claims: false,
        listen_port: Some(6881),
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

#[test]
fn an_own_node_that_is_connected_already_is_not_dialled_again_and_again() {
    // Own nodes speak BEP 6: a connection that ends at once brings not even a bitfield.
    for (own, outbound_first) in [(9, true), (9, false), (1, true), (1, false)] {
        let mut play = Play::new(own);
        play.feed(0, Input::PeersFound(vec![LISTENS.parse().unwrap()]));
        let (dialled, inbound) = ((1, LISTENS, false), (2, FROM, true));
        let order = if outbound_first {
            [dialled, inbound]
        } else {
            [inbound, dialled]
        };
        for (key, addr, inbound) in order {
            play.up_at(100, key, addr, inbound, true);
        }
        assert_eq!(play.dropped.len(), 1);
        for second in 1..300 {
            play.feed(second * 1000, Input::Tick);
        }
        assert_eq!(
            play.dialled.len(),
            1,
            "{own}, outbound first: {outbound_first}"
        );
    }
}

#[test]
fn a_second_connection_gives_the_first_its_address() {
    let mut play = Play::new(9);
    play.feed(0, Input::PeersFound(vec![LISTENS.parse().unwrap()]));
    play.up_at(50, 2, FROM, true, true);
    play.up_at(100, 1, LISTENS, false, true);
    assert_eq!(play.dropped, [PeerKey(1)]);
    play.feed(300_000, Input::PeerDown { peer: PeerKey(2) });
    play.feed(303_000, Input::Tick);
    assert_eq!(play.dialled.len(), 2, "it is dialled where it listens");
}

#[test]
fn an_own_node_that_dialled_us_is_not_dialled_where_it_listens_until_it_is_gone() {
    // Its address is known before it says where it listens, or after; and its socket may be one of both families.
    for (from, known_before) in [
        (FROM, true),
        (FROM, false),
        ("[::ffff:192.0.2.1]:40000", false),
    ] {
        let mut play = Play::new(1);
        let addr: SocketAddr = LISTENS.parse().unwrap();
        let found = || Input::PeersFound(vec![addr]);
        if known_before {
            play.feed(0, found());
            play.feed(10, Input::DialFailed { addr });
        }
        play.up_at(50, 2, from, true, true);
        play.feed(60, listens(2));
        play.feed(100, found());
        play.dialled.clear();
        (1..300).for_each(|second| play.feed(second * 1000, Input::Tick));
        assert!(play.dialled.is_empty(), "{from} {known_before}");
        play.feed(300_000, Input::PeerDown { peer: PeerKey(2) });
        play.feed(303_000, Input::Tick);
        assert_eq!(play.dialled, [addr], "{from} {known_before}");
    }
}

#[test]
fn who_left_and_gave_nothing_is_not_remembered() {
    let mut play = Play::new(1);
    for key in 1..100 {
        play.up(key, FROM, true);
        play.feed(100, Input::PeerDown { peer: PeerKey(key) });
    }
    assert!(play.swarm.departed.is_empty());
}

/// Both ends dialled at once: what is left of the dropped connection must not have the kept one dialled again.
#[test]
fn the_address_of_a_kept_connection_is_not_dialled_for_the_dropped_one() {
    let mut play = Play::new(1);
    play.feed(0, Input::PeersFound(vec![LISTENS.parse().unwrap()]));
    play.up_at(50, 2, FROM, true, true);
    play.feed(60, listens(2));
    play.up_at(100, 1, LISTENS, false, true);
    assert_eq!(play.dropped, [PeerKey(2)]);
    (1..2000).for_each(|second| play.feed(second * 1000, Input::Tick));
    assert_eq!(play.dialled.len(), 1);
}

#[test]
fn who_hangs_up_at_once_every_time_is_dialled_less_and_less_often() {
    let mut play = Play::new(1);
    play.feed(0, Input::PeersFound(vec![LISTENS.parse().unwrap()]));
    let (mut key, mut answered) = (0, 0);
    for tenth in 1..600 {
        play.feed(tenth * 100, Input::Tick);
        if play.dialled.len() > answered {
            answered += 1;
            key += 1;
            play.up_at(tenth * 100, key, LISTENS, false, true);
            play.feed(tenth * 100, Input::PeerDown { peer: PeerKey(key) });
        }
    }
    assert!((4..=8).contains(&answered), "{answered} times in a minute");
}
