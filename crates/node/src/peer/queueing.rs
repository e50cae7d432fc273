//! How long what we send to a peer waits in queues on its way: the smoothed round trip of TCP less the shortest one.
//! A link that is full has a queue before it; a connection that loss or distance keeps slow has none.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::socket::Socket;

/// TCP is asked no more often than this.
const EVERY: Duration = Duration::from_millis(100);

/// Asks one socket from time to time.
pub(super) struct Queueing {
    asked: Instant,
    /// The shortest round trip of all, in microseconds: TCP's own forgets after minutes, while the queue may stand for longer.
    shortest: u32,
}

impl Queueing {
    pub(super) fn new() -> Self {
        Self {
            asked: Instant::now(),
            shortest: u32::MAX,
        }
    }

    /// The delay, if it is time to ask and the system tells.
    pub(super) fn delay(&mut self, stream: &TcpStream) -> Option<Duration> {
        let now = Instant::now();
        if now - self.asked < EVERY {
            return None;
        }
        self.asked = now;
        let info = Socket::of(stream).info()?;
        self.shortest = self.shortest.min(info.shortest_us);
        let queued = info.smoothed_us.saturating_sub(self.shortest);
        Some(Duration::from_micros(queued.into()))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_idle_path_has_no_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut here, _) = listener.accept().await.unwrap();
        here.write_all(b"x").await.unwrap();
        there.read_exact(&mut [0]).await.unwrap();
        let mut queueing = Queueing::new();
        assert_eq!(queueing.delay(&here), None, "it was asked just now");
        queueing.asked -= EVERY;
        let info = Socket::of(&here).info().unwrap();
        assert!(0 < info.shortest_us && info.shortest_us <= info.smoothed_us);
        assert!(queueing.delay(&here).is_some());
        (queueing.asked, queueing.shortest) = (queueing.asked - EVERY, 0);
        let delay = queueing.delay(&here).unwrap();
        assert!(!delay.is_zero(), "measured against the shortest of all");
    }
}
