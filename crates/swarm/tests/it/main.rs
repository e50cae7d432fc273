//! The engine from outside: inputs in, outputs out, no I/O.

use std::net::SocketAddr;

use floodway_proto::PeerName;
use floodway_swarm::{Input, PeerKey};

mod blame;
mod claims;
mod ended;
mod growing;
mod requests;
mod sites;
mod uploads;

/// A peer that connected to us from `10.0.0.NAME`. It knows BEP 6, and its key and its name are this number too.
fn peer_up(name: u8) -> Input {
    Input::PeerUp {
        peer: PeerKey(name.into()),
        addr: SocketAddr::from(([10, 0, 0, name], 1)),
        name: PeerName([name; 20]),
        inbound: true,
        fast: true,
    }
}

/// The peer says that it is an own node, and perhaps that it hears claims.
fn own_node(peer: PeerKey, hears_claims: bool) -> Input {
    Input::PeerExtended {
        peer,
        request_queue: None,
        own: true,
        hears_claims,
        listen_port: None,
    }
}
