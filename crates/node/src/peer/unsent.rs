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
    since: Instant,
    at: Instant,
    bytes: u64,
    limit: u64,
}

impl Unsent {
    pub(super) fn new(stream: &TcpStream) -> Self {
        limit(stream, LEAST);
        let now = Instant::now();
        Self {
            since: now,
            at: now,
            bytes: 0,
            limit: LEAST,
        }
    }

    /// So many bytes more were taken by the socket.
    pub(super) fn took(&mut self, stream: &TcpStream, bytes: usize) {
        let now = Instant::now();
        if now - self.at > WINDOW {
            // It stood still: that says nothing of its rate.
            (self.since, self.bytes) = (now, 0);
        } else {
            self.bytes += bytes as u64;
        }
        self.at = now;
        let passed = now - self.since;
        if passed < WINDOW && self.bytes < MOST {
            return;
        }
        let worth = u128::from(self.bytes) * WORTH.as_micros() / passed.as_micros().max(1);
        (self.since, self.bytes) = (now, 0);
        let wanted = u64::try_from(worth).unwrap_or(MOST).clamp(LEAST, MOST);
        // Small changes are not worth a system call.
        if wanted > self.limit || wanted < self.limit / 2 {
            self.limit = wanted;
            limit(stream, wanted);
        }
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
