//! Real servers, peers and third-party clients for tests that take Floodway as a black box.
//!
//! Entry types: [`Program`] runs a binary, [`Fleet`] a control server with relays and agents, [`Nginx`] a real origin,
//! [`ScriptedOrigin`] one that lies, [`BadPeer`] a BitTorrent peer that misbehaves, [`Cable`] a second host, [`third_party`]
//! clients that we did not write. Invariant: nothing here outlives the value that started it, every wait has an end, and whatever goes
//! wrong panics with what the program in question had to say. All of it blocks; none of it needs a runtime.

mod bad_peer;
mod bencode;
mod cable;
mod files;
mod fleet;
mod http;
mod nginx;
mod process;
mod scripted_origin;
mod site;
pub mod third_party;
mod throttle;
pub mod tools;
mod tracker;
mod wait;

pub use bad_peer::{BadPeer, Conduct, TorrentFacts, throw_at};
pub use bencode::without_key;
pub use cable::Cable;
pub use files::{
    TestDir, damage_file, make_sparse, random_bytes, random_file, sha256_file, size_of,
};
pub use fleet::{Fleet, Node, task_id};
pub use http::{Api, Reply, metric, request, try_request};
pub use nginx::{Nginx, NginxBuilder};
pub use process::{Output, Program, Ready, Running, Signal};
pub use scripted_origin::{Conversation, Lie, ScriptedOrigin, Seen};
pub use site::Site;
pub use throttle::Throttle;
pub use tracker::{Announce, PlainTracker, TrackerKind};
pub use wait::{DEFAULT_PATIENCE, free_port, wait_until};
