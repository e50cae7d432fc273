//! A tracker for one swarm, in memory: BEP 3 over HTTP with the compact peers of BEP 23.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often clients are told to come back.
const INTERVAL_SECONDS: u32 = 30;
/// Who has not come back for so long is gone.
const EXPIRY: Duration = Duration::from_mins(2);
const PATIENCE: Duration = Duration::from_secs(10);
const PEERS_MAX: usize = 200;
const REQUEST_MAX: usize = 8192;

/// Whoever announces gets to know the others, whatever info-hash they name: there is one swarm.
#[derive(Clone, Default)]
pub(crate) struct Tracker(Arc<Mutex<BTreeMap<SocketAddrV4, Peer>>>);

struct Peer {
    seen: Instant,
    is_source: bool,
}

/// What a client says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Announce {
    port: u16,
    left: u64,
    wanted: usize,
    stopped: bool,
}

impl Tracker {
    /// Serves on a thread that runs as long as the process; the announce URL.
    pub(crate) fn start(&self) -> Result<String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let url = format!("http://{}/announce", listener.local_addr()?);
        let tracker = self.clone();
        thread::spawn(move || tracker.serve(&listener, |_| ()));
        Ok(url)
    }

    /// Answers for ever; tells `on_source` of each source (a peer that lacks nothing) that is new.
    pub(crate) fn serve(&self, listener: &TcpListener, on_source: fn(SocketAddrV4)) {
        for connection in listener.incoming().flatten() {
            let tracker = self.clone();
            // A client that breaks off asks again.
            thread::spawn(move || drop(tracker.answer(connection, on_source)));
        }
    }

    /// Forgets everybody.
    pub(crate) fn clear(&self) {
        self.peers().clear();
    }

    /// Whether somebody who has everything has announced itself.
    pub(crate) fn has_source(&self) -> bool {
        self.peers().values().any(|peer| peer.is_source)
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<SocketAddrV4, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut connection: TcpStream, on_source: fn(SocketAddrV4)) -> Result<()> {
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let IpAddr::V4(address) = connection.peer_addr()?.ip() else {
            return Ok(());
        };
        let mut request = Vec::new();
        let mut part = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_MAX {
            match connection.read(&mut part)? {
                0 => return Ok(()),
                length => request.extend_from_slice(&part[..length]),
            }
        }
        let announce = parse(&request).context("this is no announce")?;
        let own = SocketAddrV4::new(address, announce.port);
        let (body, is_new_source) = self.meet(own, &announce);
        if is_new_source {
            on_source(own);
        }
        write!(
            connection,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        Ok(connection.write_all(&body)?)
    }

    /// Notes the peer; the answer, and whether it is a source that was not known.
    fn meet(&self, own: SocketAddrV4, announce: &Announce) -> (Vec<u8>, bool) {
        let mut peers = self.peers();
        peers.retain(|_, peer| peer.seen.elapsed() < EXPIRY);
        let before = peers.remove(&own);
        let mut others: Vec<_> = peers.keys().copied().collect();
        let is_source = announce.left == 0;
        if !announce.stopped {
            let seen = Instant::now();
            peers.insert(own, Peer { seen, is_source });
        }
        drop(peers);
        fastrand::shuffle(&mut others);
        others.truncate(announce.wanted.min(PEERS_MAX));
        let mut body = format!(
            "d8:intervali{INTERVAL_SECONDS}e5:peers{}:",
            others.len() * 6
        )
        .into_bytes();
        for other in others {
            body.extend_from_slice(&other.ip().octets());
            body.extend_from_slice(&other.port().to_be_bytes());
        }
        body.push(b'e');
        let was_source = before.is_some_and(|peer| peer.is_source);
        (body, is_source && !was_source && !announce.stopped)
    }
}

fn parse(request: &[u8]) -> Option<Announce> {
    let text = String::from_utf8_lossy(request);
    let target = text.strip_prefix("GET ")?.split(' ').next()?;
    let (_, query) = target.split_once('?')?;
    let value = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    let number = |key: &str| value(key).and_then(|text| text.parse::<u64>().ok());
    Some(Announce {
        port: number("port").and_then(|port| u16::try_from(port).ok())?,
        left: number("left").unwrap_or(1),
        wanted: number("numwant").map_or(50, |wanted| usize::try_from(wanted).unwrap_or(PEERS_MAX)),
        stopped: value("event") == Some("stopped"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(port: u16, left: u64) -> Announce {
        Announce {
            port,
            left,
            wanted: 50,
            stopped: false,
        }
    }

    #[test]
    fn an_announce_is_read() {
        let request = b"GET /announce?info_hash=%01&port=6881&left=0&event=stopped&numwant=3 HTTP/1.1\r\n\r\n";
        let expected = Announce {
            wanted: 3,
            stopped: true,
            ..announce(6881, 0)
        };
        assert_eq!(parse(request), Some(expected));
        assert_eq!(parse(b"GET /announce?left=0 HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn peers_get_to_know_each_other_until_they_stop() {
        let tracker = Tracker::default();
        let [a, b] = [1, 2].map(|last| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), 80));
        let (nobody, new_source) = tracker.meet(a, &announce(80, 0));
        assert!(nobody.ends_with(b"5:peers0:e") && new_source && tracker.has_source());
        let (body, new_source) = tracker.meet(b, &announce(80, 9));
        assert!(body.ends_with(b"5:peers6:\x0a\0\0\x01\0\x50e") && !new_source);
        let stopped = Announce {
            stopped: true,
            ..announce(80, 0)
        };
        tracker.meet(a, &stopped);
        assert!(!tracker.has_source());
        assert!(tracker.meet(b, &announce(80, 9)).0.ends_with(b"5:peers0:e"));
    }
}
