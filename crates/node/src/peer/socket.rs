//! What is asked of TCP for a connection to a peer.
//!
//! A host that vanished, or got another address, says nothing to its peers. Until they notice, its old connection takes what others
//! could have, what it had counts as to be had, and the host itself is refused under the name that it still seems connected by. So
//! TCP looks after idle connections, and gives up those on which nothing is confirmed (`TCP_KEEPIDLE` and the like and
//! `TCP_USER_TIMEOUT` of Linux, tcp(7); RFC 5482, RFC 9293 section 3.8.4).

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// An idle connection is probed after this.
const IDLE: Duration = Duration::from_secs(15);
/// And again, so often, until it counts as broken.
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// What was sent and is not confirmed for so long never will be.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNCONFIRMED_MAX: Duration = Duration::from_secs(30);

/// Makes a new connection ready for peer messages. What the system cannot do is left out.
///
/// # Errors
/// The connection is gone already.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Err(error) = look_after(stream) {
        tracing::debug!(%error, "who vanishes is noticed late");
    }
    Ok(())
}

fn look_after(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(UNCONFIRMED_MAX))?;
    Ok(())
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn tcp_gives_a_vanished_host_up_after_half_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        for stream in [dialled.unwrap(), accepted.unwrap().0] {
            prepare(&stream).unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            let probing =
                socket.tcp_keepalive_interval().unwrap() * socket.tcp_keepalive_retries().unwrap();
            let idle = socket.tcp_keepalive_time().unwrap() + probing;
            let unconfirmed = socket.tcp_user_timeout().unwrap().unwrap();
            assert_eq!([idle, unconfirmed], [Duration::from_secs(30); 2]);
        }
    }
}
