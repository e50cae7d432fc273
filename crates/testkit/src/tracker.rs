//! A plain HTTP tracker (BEP 3, BEP 23) as stock clients know it, and ones that are of no use.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// How a tracker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerKind {
    /// Properly, with an interval of 30 s and nothing shorter allowed.
    Plain,
    /// With bytes that are no bencode.
    Rubbish,
    /// With bencode whose values have the wrong types and impossible lengths.
    WrongTypes,
    /// With megabytes and no end.
    Endless,
    /// With a `failure reason`.
    Failure,
    /// With a web page and status 500.
    ServerError,
}

/// One announce as it came.
#[derive(Clone, Debug)]
pub struct Announce {
    /// Since the tracker's start.
    pub at: std::time::Duration,
    /// The `info_hash` in hexadecimal.
    pub info_hash: String,
    /// Where the peer says it listens, at the address it called from.
    pub peer: (IpAddr, u16),
    /// `started`, `completed`, `stopped`, or empty.
    pub event: String,
    /// Bytes the peer lacks.
    pub left: u64,
    /// How many peers it asks for at most; 50 when it does not say.
    pub wanted: usize,
}

/// A tracker on 127.0.0.1. It lives as long as the test.
pub struct PlainTracker {
    port: u16,
    state: Arc<State>,
}

struct State {
    kind: TrackerKind,
    start: Instant,
    announces: Mutex<Vec<Announce>>,
}

impl PlainTracker {
    /// Starts a tracker.
    pub fn start(kind: TrackerKind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for a tracker");
        let port = listener.local_addr().expect("a bound port").port();
        let state = Arc::new(State {
            kind,
            start: Instant::now(),
            announces: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that breaks off is no concern of the test.
                thread::spawn(move || state.serve(stream).ok());
            }
        });
        Self { port, state }
    }

    /// The announce URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/announce", self.port)
    }

    /// All announces so far.
    pub fn announces(&self) -> Vec<Announce> {
        self.state
            .announces
            .lock()
            .expect("no thread panicked")
            .clone()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let from = stream.peer_addr()?.ip();
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let query = line
            .split(' ')
            .nth(1)
            .and_then(|target| target.split_once('?'))
            .map_or("", |(_, query)| query);
        let fields: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let number = |key: &str| fields.get(key)?.parse::<u64>().ok();
        let announce = Announce {
            at: self.start.elapsed(),
            info_hash: fields
                .get("info_hash")
                .map_or_else(String::new, |raw| unescape(raw)),
            peer: (
                from,
                fields
                    .get("port")
                    .and_then(|port| port.parse().ok())
                    .unwrap_or(0),
            ),
            event: fields.get("event").copied().unwrap_or_default().to_owned(),
            left: number("left").unwrap_or(0),
            wanted: number("numwant")
                .and_then(|n| n.try_into().ok())
                .unwrap_or(50),
        };
        let body = match self.kind {
            TrackerKind::Plain => self.peers_for(&announce),
            TrackerKind::Rubbish => b"\x00\xffthis is d8:interval no bencode".to_vec(),
            TrackerKind::WrongTypes => {
                b"d8:interval3:abc5:peersi99999999999999999999e9:incompletel999999999:e".to_vec()
            }
            TrackerKind::Failure => b"d14:failure reason13:no such thinge".to_vec(),
            TrackerKind::ServerError => b"<html>out of order</html>".to_vec(),
            TrackerKind::Endless => Vec::new(),
        };
        self.announces
            .lock()
            .expect("no thread panicked")
            .push(announce);
        let status = match self.kind {
            TrackerKind::ServerError => "500 Internal Server Error",
            _ => "200 OK",
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        )?;
        if self.kind == TrackerKind::Endless {
            write!(stream, "\r\nd8:intervali30e5:peers999999999:")?;
            loop {
                stream.write_all(&[7; 4096])?;
            }
        }
        write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)
    }

    /// The compact peer list for one announce: everybody else of that torrent who has not left.
    fn peers_for(&self, announce: &Announce) -> Vec<u8> {
        let mut peers = BTreeMap::new();
        for earlier in self.announces.lock().expect("no thread panicked").iter() {
            if earlier.info_hash == announce.info_hash && earlier.peer != announce.peer {
                peers.insert(earlier.peer, earlier.event != "stopped");
            }
        }
        let mut compact = Vec::new();
        let here = peers.into_iter().filter(|&(_, here)| here);
        for ((ip, port), _) in here.take(announce.wanted) {
            if let IpAddr::V4(ip) = ip {
                compact.extend_from_slice(&ip.octets());
                compact.extend_from_slice(&port.to_be_bytes());
            }
        }
        let mut body = format!(
            "d8:intervali30e12:min intervali30e5:peers{}:",
            compact.len()
        )
        .into_bytes();
        body.extend_from_slice(&compact);
        body.push(b'e');
        body
    }
}

/// The bytes that a percent-encoded text stands for, in hexadecimal; every client escapes others of them.
fn unescape(raw: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = raw.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|two| hex::decode(two).ok());
        if let Some(byte) = escaped {
            bytes.extend(byte);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    hex::encode(bytes)
}
