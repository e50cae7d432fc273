//! How much may stand in a socket's buffer that TCP has not sent yet.
//!
//! What is said of pieces stands behind the blocks that are already there. A link that is shared by many connections
//! would have seconds of blocks in their buffers; a fast connection needs them full. So each is left what it sends in
//! [`WORTH`] (`TCP_NOTSENT_LOWAT` of Linux, tcp(7)).

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longer than it takes to fill the buffer again.
const WORTH: Duration = Duration::from_millis(20);
/// The least, in bytes: one block.
const LEAST: u64 = 16 * 1024;
/// From here on, in bytes, the buffer is left to the kernel.
const MOST: u64 = 1024 * 1024;
/// Rates are those of so long, of connections that are in use.
const WINDOW: Duration = Duration::from_millis(250);

/// Bounds what stands unsent in one socket.
pub(super) struct Unsent {
    rate: Window,
    limit: u64,
}

impl Unsent {
    pub(super) fn new(stream: &TcpStream) -> Self {
        limit(stream, LEAST);
        Self {
            rate: Window::new(Instant::now()),
            limit: LEAST,
        }
    }

    /// What may stand in the socket, in bytes: what it sends in [`WORTH`].
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Something is about to be given to the socket.
    pub(super) fn begins(&mut self) {
        self.rate.begins(Instant::now());
    }

    /// So many bytes more were taken by the socket.
    pub(super) fn took(&mut self, stream: &TcpStream, bytes: usize) {
        let Some(worth) = self.rate.took(Instant::now(), bytes as u64) else {
            return;
        };
        let wanted = worth.clamp(LEAST, MOST);
        // Small changes are not worth a system call.
        if wanted > self.limit || wanted < self.limit / 2 {
            self.limit = wanted;
            limit(stream, wanted);
        }
    }
}

/// What was sent since when, the time without anything to send left out.
struct Window {
    since: Instant,
    ended: Instant,
    bytes: u64,
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            ended: now,
            bytes: 0,
        }
    }

    fn begins(&mut self, now: Instant) {
        if now - self.ended > WINDOW {
            // It had nothing to say: that says nothing of its rate.
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// When enough is known, the bytes that are sent in [`WORTH`]; then it begins anew.
    fn took(&mut self, now: Instant, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        self.ended = now;
        let passed = now - self.since;
        if passed < WINDOW && self.bytes < MOST {
            return None;
        }
        let worth = u128::from(self.bytes) * WORTH.as_micros() / passed.as_micros().max(1);
        (self.since, self.bytes) = (now, 0);
        Some(u64::try_from(worth).unwrap_or(MOST))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn limit(stream: &TcpStream, bytes: u64) {
    let bounded = u32::try_from(bytes).ok().filter(|_| bytes < MOST);
    let lowat = bounded.unwrap_or(u32::MAX);
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(lowat) {
        tracing::debug!(%error, "the socket keeps its usual buffer");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn limit(_: &TcpStream, _: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_worth_keeping_follows_the_rate() {
        let begun = Instant::now();
        let mut window = Window::new(begun);
        window.begins(begun);
        assert_eq!(window.took(begun + 10 * MS, 100_000), None, "too short");
        let fast = window.took(begun + 20 * MS, MOST);
        assert!(fast > Some(MOST), "{fast:?}");
        // One batch that the socket took a second for: it was not idle.
        window.begins(begun + 21 * MS);
        let slow = window.took(begun + 1020 * MS, 500_000);
        assert_eq!(slow, Some(10_000));
        // A pause is not slowness.
        window.begins(begun + 60_000 * MS);
        assert_eq!(window.took(begun + 60_010 * MS, 500_000), None);
        let again = window.took(begun + 60_020 * MS, 600_000);
        assert!(again > Some(MOST), "{again:?}");
    }
}
