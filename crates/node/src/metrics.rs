//! Counters of one process, as Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use floodway_origin::Guard;

/// A number that other threads may read at any time.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds to it.
    pub fn add(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }

    /// Takes from it.
    pub(crate) fn sub(&self, value: u64) {
        self.0.fetch_sub(value, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What this process has done since it started.
#[derive(Debug)]
pub struct Metrics {
    origin: Guard,
    relay: Guard,
    /// Body bytes read from origins to audit what other relays reported; they are among the origin's body bytes.
    pub(crate) audit_bytes: Count,
    /// Body bytes that this relay's HTTP side sent.
    pub relay_http_sent: Count,
    /// Block bytes sent to peers.
    pub peer_sent: Count,
    /// Block bytes received from peers, of use or not.
    pub peer_received: Count,
    /// Of these, bytes from peers that are not known to stand at this node's site, as long as it is told one.
    pub(crate) peer_elsewhere: Count,
    /// Connected peers.
    pub(crate) peers: Count,
    /// Contents fetched or served.
    pub(crate) contents: Count,
    /// Peers banned for wrong blocks.
    pub(crate) peers_banned: Count,
    /// Peers that broke the protocol.
    pub(crate) peers_faulty: Count,
    /// Inbound connections that were not BitTorrent, or named no content of ours.
    pub(crate) inbound_refused: Count,
    /// Pieces that failed their hash.
    pub(crate) pieces_failed: Count,
    /// Failed HTTP requests.
    pub(crate) http_failures: Count,
    /// Failed announces.
    pub(crate) announce_failures: Count,
}

impl Metrics {
    pub(crate) fn new(origin: Guard, relay: Guard) -> Self {
        Self {
            origin,
            relay,
            audit_bytes: Count::default(),
            relay_http_sent: Count::default(),
            peer_sent: Count::default(),
            peer_received: Count::default(),
            peer_elsewhere: Count::default(),
            peers: Count::default(),
            contents: Count::default(),
            peers_banned: Count::default(),
            peers_faulty: Count::default(),
            inbound_refused: Count::default(),
            pieces_failed: Count::default(),
            http_failures: Count::default(),
            announce_failures: Count::default(),
        }
    }

    /// All of them in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut put = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                "# HELP floodway_{name} {help}\n# TYPE floodway_{name} {kind}\nfloodway_{name} {value}\n"
            );
        };
        for (name, help, value) in [
            (
                "origin_body_bytes_total",
                "Body bytes read from origins.",
                self.origin.body_bytes().get(),
            ),
            (
                "origin_bytes_without_lease_total",
                "Body bytes read from origins without a lease.",
                self.origin.bytes_without_lease().get(),
            ),
            (
                "audit_origin_bytes_total",
                "Of these, bytes read to audit what other relays reported.",
                self.audit_bytes.get(),
            ),
            (
                "relay_http_received_bytes_total",
                "Body bytes read from relays.",
                self.relay.body_bytes().get(),
            ),
            (
                "relay_http_sent_bytes_total",
                "Body bytes that the relay's HTTP side sent.",
                self.relay_http_sent.get(),
            ),
            (
                "peer_sent_bytes_total",
                "Block bytes sent to peers.",
                self.peer_sent.get(),
            ),
            (
                "peer_received_bytes_total",
                "Block bytes received from peers.",
                self.peer_received.get(),
            ),
            (
                "peer_elsewhere_received_bytes_total",
                "Of these, bytes from peers outside of the site where control says that this node stands.",
                self.peer_elsewhere.get(),
            ),
            (
                "peers_banned_total",
                "Peers banned for wrong blocks.",
                self.peers_banned.get(),
            ),
            (
                "peers_faulty_total",
                "Peers that broke the protocol.",
                self.peers_faulty.get(),
            ),
            (
                "inbound_refused_total",
                "Inbound connections refused.",
                self.inbound_refused.get(),
            ),
            (
                "pieces_failed_total",
                "Pieces that failed their hash.",
                self.pieces_failed.get(),
            ),
            (
                "http_failures_total",
                "HTTP requests that failed.",
                self.http_failures.get(),
            ),
            (
                "announce_failures_total",
                "Announces that failed.",
                self.announce_failures.get(),
            ),
        ] {
            put(name, "counter", help, value);
        }
        put("peers", "gauge", "Connected peers.", self.peers.get());
        put(
            "contents",
            "gauge",
            "Contents fetched or served.",
            self.contents.get(),
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_names_are_there() {
        let metrics = Metrics::new(Guard::unmetered(), Guard::unmetered());
        metrics.peer_sent.add(5);
        let text = metrics.render();
        for name in [
            "floodway_origin_body_bytes_total 0",
            "floodway_origin_bytes_without_lease_total 0",
            "floodway_relay_http_sent_bytes_total 0",
            "floodway_peer_sent_bytes_total 5",
            "floodway_peer_received_bytes_total 0",
        ] {
            assert!(text.lines().any(|line| line == name), "{name} in:\n{text}");
        }
    }
}
