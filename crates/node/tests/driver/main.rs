//! Sessions against each other, against raw sockets and against small HTTP servers, in one process.

mod faults;
mod growing;
mod http;
mod kit;
mod peers;
mod torrent;
