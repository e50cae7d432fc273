//! Sessions against each other, against raw sockets and against small HTTP servers, in one process.

mod adopted;
mod attested;
mod faults;
mod growing;
mod http;
mod kit;
mod liars;
mod peers;
mod torrent;
