//! A BitTorrent peer (BEP 3) that misbehaves in one chosen way, or behaves, on a connection of its own making.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a peer must know of a torrent.
#[derive(Clone, Debug)]
pub struct TorrentFacts {
    /// The v1 info-hash.
    pub info_hash: [u8; 20],
    /// Bytes a piece.
    pub piece_length: u64,
    /// The content itself.
    pub data: Arc<Vec<u8>>,
}

impl TorrentFacts {
    /// From the JSON that `torrent show --json` prints and the content.
    #[track_caller]
    pub fn new(shown: &Value, data: Vec<u8>) -> Self {
        let mut info_hash = [0; 20];
        let text = shown["info_hash_v1"]
            .as_str()
            .expect("info_hash_v1 is a text");
        hex::decode_to_slice(text, &mut info_hash).expect("info_hash_v1 is 40 digits");
        let piece_length = shown["piece_length"]
            .as_u64()
            .expect("piece_length is a number");
        assert_eq!(shown["length"].as_u64(), Some(data.len() as u64));
        Self {
            info_hash,
            piece_length,
            data: Arc::new(data),
        }
    }

    fn pieces(&self) -> usize {
        usize::try_from((self.data.len() as u64).div_ceil(self.piece_length)).expect("few pieces")
    }
}

/// How a peer behaves. All of them claim to have every piece unless said otherwise.
#[derive(Clone, Debug)]
pub enum Conduct {
    /// Serves what is asked, correctly.
    Honest,
    /// Serves wrong bytes in these pieces.
    CorruptPieces(BTreeSet<u32>),
    /// Serves every block of these pieces wrong, serves no other, and claims to have only these.
    OnlyCorrupt(BTreeSet<u32>),
    /// Has only these pieces, and serves them correctly.
    Only(BTreeSet<u32>),
    /// Sends a message that claims to be 2 GiB long.
    Oversized,
    /// Accepts the connection and never says a word.
    Mute,
    /// Shakes hands, claims everything, unchokes, and answers no request.
    NeverAnswers,
    /// Answers the handshake with random bytes.
    Garbage,
    /// Sends blocks nobody asked for, with impossible indices.
    Unasked,
}

/// A listening peer. It lives as long as the test.
pub struct BadPeer {
    addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    facts: TorrentFacts,
    conduct: Conduct,
    bytes_per_second: u64,
    connections: AtomicUsize,
    open: AtomicUsize,
    wrong_blocks: AtomicU64,
    right_blocks: AtomicU64,
    first_wrong: Mutex<Option<Instant>>,
    last_connection: Mutex<Option<Instant>>,
}

impl BadPeer {
    /// Listens on `ip` (any 127.x.y.z: a ban by address must hit only this peer) and behaves by `conduct`.
    pub fn start(ip: &str, facts: TorrentFacts, conduct: Conduct) -> Self {
        Self::start_limited(ip, facts, conduct, u64::MAX)
    }

    /// The same, sending at most so many bytes a second on each connection.
    pub fn start_limited(
        ip: &str,
        facts: TorrentFacts,
        conduct: Conduct,
        bytes_per_second: u64,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a port for a peer");
        let addr = listener.local_addr().expect("a bound port");
        let state = Arc::new(State {
            facts,
            conduct,
            bytes_per_second,
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            wrong_blocks: AtomicU64::new(0),
            right_blocks: AtomicU64::new(0),
            first_wrong: Mutex::new(None),
            last_connection: Mutex::new(None),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                state.connections.fetch_add(1, Ordering::SeqCst);
                *state.last_connection.lock().expect("no thread panicked") = Some(Instant::now());
                thread::spawn(move || {
                    state.open.fetch_add(1, Ordering::SeqCst);
                    // The other side breaking off is what the tests are about; they look at the counters.
                    state.talk(stream).ok();
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, state }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Blocks sent with wrong bytes.
    pub fn wrong_blocks(&self) -> u64 {
        self.state.wrong_blocks.load(Ordering::SeqCst)
    }

    /// Blocks sent with right bytes.
    pub fn right_blocks(&self) -> u64 {
        self.state.right_blocks.load(Ordering::SeqCst)
    }

    /// How long after its first wrong block it was last dialled; `None` when not at all.
    pub fn dialled_after_first_lie(&self) -> Option<Duration> {
        let lie = (*self.state.first_wrong.lock().expect("no thread panicked"))?;
        let dial = (*self
            .state
            .last_connection
            .lock()
            .expect("no thread panicked"))?;
        dial.checked_duration_since(lie)
    }
}

const HAVE_BITFIELD: u8 = 5;
const UNCHOKE: u8 = 1;
const INTERESTED: u8 = 2;
const REQUEST: u8 = 6;
const PIECE: u8 = 7;

impl State {
    fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        if matches!(self.conduct, Conduct::Mute) {
            return drain(&mut stream);
        }
        let mut theirs = [0; 68];
        stream.read_exact(&mut theirs)?;
        if matches!(self.conduct, Conduct::Garbage) {
            stream.write_all(&[0xa5; 300])?;
            return drain(&mut stream);
        }
        stream.write_all(&handshake(&self.facts.info_hash))?;
        if matches!(self.conduct, Conduct::Oversized) {
            stream.write_all(&0x8000_0000_u32.to_be_bytes())?;
            stream.write_all(&[PIECE])?;
            // The other side may close at once: then writing fails, which ends the connection as it should.
            for _ in 0..1024 {
                stream.write_all(&[0; 16 * 1024])?;
            }
            return drain(&mut stream);
        }
        message(&mut stream, HAVE_BITFIELD, &self.bitfield())?;
        message(&mut stream, UNCHOKE, &[])?;
        message(&mut stream, INTERESTED, &[])?;
        if matches!(self.conduct, Conduct::Unasked) {
            for index in [0, 1, u32::MAX] {
                let mut body = index.to_be_bytes().to_vec();
                body.extend_from_slice(&0_u32.to_be_bytes());
                body.extend_from_slice(&[0xee; 16 * 1024]);
                message(&mut stream, PIECE, &body)?;
            }
            return drain(&mut stream);
        }
        self.serve(&mut stream)
    }

    fn serve(&self, stream: &mut TcpStream) -> io::Result<()> {
        let begun = Instant::now();
        let mut sent = 0_u64;
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut body)?;
            if body.first() != Some(&REQUEST) || matches!(self.conduct, Conduct::NeverAnswers) {
                continue;
            }
            let number =
                |at: usize| u32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"));
            let (piece, begin, size) = (number(1), number(5), number(9));
            let start = u64::from(piece) * self.facts.piece_length + u64::from(begin);
            let start = usize::try_from(start).expect("an offset in memory");
            let mut block = self.facts.data[start..start + size as usize].to_vec();
            if self.lies_in(piece) {
                for byte in &mut block {
                    *byte = !*byte;
                }
                self.wrong_blocks.fetch_add(1, Ordering::SeqCst);
                self.first_wrong
                    .lock()
                    .expect("no thread panicked")
                    .get_or_insert_with(Instant::now);
            } else {
                self.right_blocks.fetch_add(1, Ordering::SeqCst);
            }
            let mut reply = body[1..9].to_vec();
            reply.extend_from_slice(&block);
            message(stream, PIECE, &reply)?;
            sent += u64::from(size);
            if self.bytes_per_second != u64::MAX {
                let due = Duration::from_micros(sent * 1_000_000 / self.bytes_per_second);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
    }

    fn lies_in(&self, piece: u32) -> bool {
        match &self.conduct {
            Conduct::CorruptPieces(pieces) | Conduct::OnlyCorrupt(pieces) => {
                pieces.contains(&piece)
            }
            _ => false,
        }
    }

    fn bitfield(&self) -> Vec<u8> {
        let pieces = self.facts.pieces();
        let mut bits = vec![0_u8; pieces.div_ceil(8)];
        for piece in 0..pieces {
            let has = match &self.conduct {
                Conduct::OnlyCorrupt(only) | Conduct::Only(only) => {
                    u32::try_from(piece).is_ok_and(|piece| only.contains(&piece))
                }
                _ => true,
            };
            if has {
                bits[piece / 8] |= 0x80 >> (piece % 8);
            }
        }
        bits
    }
}

fn handshake(info_hash: &[u8; 20]) -> Vec<u8> {
    let mut bytes = b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(info_hash);
    bytes.extend_from_slice(b"-XX0001-");
    bytes.extend((0..12).map(|_| fastrand::alphanumeric() as u8));
    bytes
}

fn message(stream: &mut TcpStream, id: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 1).expect("a short message");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.push(id);
    bytes.extend_from_slice(body);
    stream.write_all(&bytes)
}

/// Reads until the other side closes.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(|_| ())
}

/// Dials a peer, sends `bytes` (after a proper handshake when `info_hash` is given) and waits until the peer closes.
///
/// False when it is still open after `patience`.
pub fn throw_at(
    addr: &str,
    info_hash: Option<&[u8; 20]>,
    bytes: &[u8],
    patience: Duration,
) -> bool {
    let mut stream = TcpStream::connect(addr).expect("the peer listens");
    stream.set_read_timeout(Some(patience)).expect("a timeout");
    let mut all = info_hash.map(handshake).unwrap_or_default();
    all.extend_from_slice(bytes);
    // A peer that closes in the middle of it is just what is wanted.
    stream.write_all(&all).ok();
    let start = Instant::now();
    let mut buffer = [0; 4096];
    while start.elapsed() < patience {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
    false
}
