//! The line by which a role says that it can be used.

use std::net::SocketAddr;

use serde::Serialize;

use crate::say;

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    http: Option<String>,
    peer: Option<SocketAddr>,
}

/// Prints the ready line: the listeners are bound and control, where there is one, has accepted the node.
pub(crate) fn print(http: Option<SocketAddr>, peer: Option<SocketAddr>) {
    let http = http.map(|addr| format!("http://{addr}"));
    say::json(&Ready {
        event: "ready",
        http,
        peer,
    });
}
