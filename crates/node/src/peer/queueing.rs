//! How long what we send to a peer waits in queues on its way: the smoothed round trip of TCP less the shortest one
//! (`TCP_INFO` of Linux, tcp(7)). A link that is full has a queue before it; a connection that loss or distance keeps slow has none.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

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
        let (smoothed, shortest) = round_trips(stream)?;
        self.shortest = self.shortest.min(shortest);
        Some(Duration::from_micros(
            smoothed.saturating_sub(self.shortest).into(),
        ))
    }
}

/// The smoothed and the shortest round trip, in microseconds.
#[cfg(target_os = "linux")]
fn round_trips(stream: &TcpStream) -> Option<(u32, u32)> {
    use std::mem::{MaybeUninit, offset_of, size_of};
    use std::os::fd::AsRawFd as _;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    #[expect(
        unsafe_code,
        reason = "no safe wrapper; the kernel writes at most `length` bytes, and all bytes may have any value"
    )]
    let (failed, info) = unsafe {
        let failed = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (failed != 0, info.assume_init())
    };
    // An old kernel writes less.
    let is_told = length as usize >= offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>();
    (!failed && is_told).then_some((info.tcpi_rtt, info.tcpi_min_rtt))
}

#[cfg(not(target_os = "linux"))]
fn round_trips(_: &TcpStream) -> Option<(u32, u32)> {
    None
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
        let (smoothed, shortest) = round_trips(&here).unwrap();
        assert!(0 < shortest && shortest <= smoothed);
        assert!(queueing.delay(&here).is_some());
        (queueing.asked, queueing.shortest) = (queueing.asked - EVERY, 0);
        let delay = queueing.delay(&here).unwrap();
        assert!(!delay.is_zero(), "measured against the shortest of all");
    }
}
