//! Sessions against each other, against raw sockets and against small HTTP servers, in one process.

mod adopted;
mod attested;
mod faults;
#[path = "../../../proto/tests/common/genesis.rs"]
mod genesis;
mod growing;
mod http;
mod kit;
mod liars;
mod peers;
mod torrent;
