//! What is asked of TCP for a connection to a peer, and what TCP knows of it.
//!
//! A host that vanished, or got another address, says nothing to its peers. Until they notice, its old connection takes what others
//! could have, what it had counts as to be had, and the host itself is refused under the name that it still seems connected by. So
//! TCP probes idle connections (RFC 9293 section 3.8.4), and one on which nothing is confirmed, however often it is sent, is
//! [lost](Socket::is_lost), as `TCP_INFO` of Linux tells (tcp(7)). `TCP_USER_TIMEOUT` would do, but also ends connections to those
//! who are there and do not read for a while.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// An idle connection is probed after this.
const IDLE: Duration = Duration::from_secs(15);
/// And again, so often, until it counts as broken.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// Nothing that is sent for so long, again and again, is confirmed: it never will be.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);

/// Makes a new connection ready for peer messages. What the system cannot do is left out.
///
/// # Errors
/// The connection is gone already.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "who vanishes is noticed late");
    }
    Ok(())
}

/// One socket, for questions only, while others read and write. Not to be asked after its stream is gone.
#[derive(Clone, Copy)]
pub(super) struct Socket(RawFd);

impl Socket {
    pub(super) fn of(stream: &TcpStream) -> Self {
        Self(stream.as_raw_fd())
    }

    /// What TCP knows, where the system tells.
    pub(super) fn info(self) -> Option<Info> {
        tcp_info(self.0)
    }

    /// The other host confirms nothing that is sent to it, and has not for long: it is gone, or to be reached elsewhere now.
    pub(super) fn is_lost(self) -> bool {
        self.info().is_some_and(|info| info.is_lost())
    }
}

/// What TCP knows of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    /// The smoothed round trip, and the shortest of the last minutes, in microseconds.
    pub(super) smoothed_us: u32,
    pub(super) shortest_us: u32,
    /// For how long nothing came, neither bytes nor confirmations.
    silent: Duration,
    /// How often what was sent last was sent again.
    resent: u8,
    /// Probes under way that are not answered: one is, from time to time, to a host that is there and has no room for more.
    probes: u8,
}

impl Info {
    fn is_lost(&self) -> bool {
        (self.resent > 0 || self.probes > 1) && self.silent >= UNCONFIRMED_MAX
    }
}

#[cfg(target_os = "linux")]
fn tcp_info(fd: RawFd) -> Option<Info> {
    use std::mem::{MaybeUninit, offset_of, size_of};

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    #[expect(
        unsafe_code,
        reason = "no safe wrapper; the kernel writes at most `length` bytes, and all bytes may have any value"
    )]
    let (failed, info) = unsafe {
        let failed = libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (failed != 0, info.assume_init())
    };
    // An old kernel writes less.
    let is_told = length as usize >= offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>();
    let silent_ms = info.tcpi_last_ack_recv.min(info.tcpi_last_data_recv);
    (!failed && is_told).then_some(Info {
        smoothed_us: info.tcpi_rtt,
        shortest_us: info.tcpi_min_rtt,
        silent: Duration::from_millis(silent_ms.into()),
        resent: info.tcpi_retransmits,
        probes: info.tcpi_probes,
    })
}

#[cfg(not(target_os = "linux"))]
fn tcp_info(_: RawFd) -> Option<Info> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (dialled.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn an_idle_connection_is_probed() {
        let (stream, _other) = connected().await;
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), PROBE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_lost() {
        let (stream, _reads_nothing) = connected().await;
        let chunk = vec![0; 1 << 20];
        let full = async {
            loop {
                stream.writable().await.unwrap();
                let _ = stream.try_write(&chunk);
            }
        };
        let blocked = tokio::time::timeout(Duration::from_secs(1), full).await;
        assert!(blocked.is_err());
        let info = Socket::of(&stream).info().unwrap();
        let silent = Duration::from_mins(10);
        assert!(!Info { silent, ..info }.is_lost(), "{info:?}");
    }

    #[test]
    fn who_confirms_nothing_for_long_is_lost() {
        let info = Info {
            smoothed_us: 1,
            shortest_us: 1,
            silent: UNCONFIRMED_MAX,
            resent: 1,
            probes: 0,
        };
        let silent = Duration::from_secs(29);
        assert!(info.is_lost());
        assert!(!Info { silent, ..info }.is_lost());
        assert!(!Info { resent: 0, ..info }.is_lost(), "nothing was sent");
    }
}
