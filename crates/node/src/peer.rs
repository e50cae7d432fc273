//! Connections to peers: plain BitTorrent over TCP, accepted or dialled.
//!
//! A connection decodes what it receives, checks every block against the layout, and passes batches on to the
//! content's driver; it sends what the driver queues. It ends when the driver forgets the peer.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use floodway_proto::InfoHash;
use floodway_proto::wire::Handshake;
use floodway_swarm::{PeerKey, Sender};
use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::content::{Item, Packet, PeerOut, Reading, Shared};
use crate::session::Session;

mod batch;
mod error;
mod handshake;
mod outbox;
mod queueing;
mod reader;
mod received;
mod socket;
mod unsent;
mod writer;

pub(crate) use error::PeerError;
pub(crate) use handshake::{dial, inbound};
use socket::Socket;
pub(crate) use writer::site_message;

/// The number under which we want [`HttpClaims`](floodway_proto::wire::HttpClaims).
const CLAIMS_ID: u8 = 1;
/// Capabilities towards own nodes (`c` of `fw`): it knows the final torrent; it is a relay.
const KNOWS_FINAL: u32 = 4;
const IS_RELAY: u32 = 8;
/// The number under which we want [`ManifestMessage`](floodway_proto::wire::ManifestMessage)s of a growing content.
const MANIFEST_ID: u8 = 2;
/// The number under which we want [`MetadataMessage`](floodway_proto::wire::MetadataMessage)s: requests only.
const METADATA_ID: u8 = 3;
/// A peer that has asked so many things about the torrent, and has not taken the answers, is not listened to meanwhile.
const UNANSWERED_MAX: usize = 256;
/// A peer that makes us say so much beside one word for each piece, and takes nothing of it, is hung up on: not to listen meanwhile
/// would let two that are busy wait for each other.
const WAITING_MAX: usize = 16 * 1024;
/// A peer that sends nothing, not even keep-alives, for this long is gone.
const SILENCE_MAX: Duration = Duration::from_mins(3);
/// How often TCP is asked whether the peer's host is still there.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// One end of a connection whose handshake is complete.
struct Connection {
    session: Session,
    content: Arc<Shared>,
    key: PeerKey,
    /// The name by which the connection was opened.
    name: InfoHash,
    /// Bytes came since the watchdog looked.
    heard: AtomicBool,
    /// The number under which the peer wants [`HttpClaims`](floodway_proto::wire::HttpClaims); 0: it wants none.
    claims_id: AtomicU8,
    /// The number under which the peer wants [`ManifestMessage`](floodway_proto::wire::ManifestMessage)s; 0: it wants none.
    manifest_id: AtomicU8,
    /// The number under which the peer wants [`MetadataMessage`](floodway_proto::wire::MetadataMessage)s; 0: it wants none.
    metadata_id: AtomicU8,
    /// Questions about the torrent (info dict, hashes) whose answers have not been sent.
    unanswered: watch::Sender<usize>,
    /// How many orders of the driver wait to be sent.
    waiting: Arc<AtomicUsize>,
}

/// A connected peer, as its handshake described it.
struct Connected {
    stream: TcpStream,
    theirs: Handshake,
    addr: SocketAddr,
    inbound: bool,
    /// Its place among all peers of the session.
    place: OwnedSemaphorePermit,
}

impl Connection {
    /// Talks until one side has enough.
    async fn run(session: Session, content: Arc<Shared>, peer: Connected) {
        let Connected {
            mut stream,
            theirs,
            addr,
            inbound,
            place,
        } = peer;
        let key = session.next_peer_key();
        let (out, queue) = mpsc::unbounded_channel();
        let hang_up = CancellationToken::new();
        let waiting = Arc::new(AtomicUsize::new(0));
        let up = Packet::PeerUp {
            peer: key,
            addr,
            name: theirs.peer,
            inbound,
            fast: theirs.fast,
            out,
            waiting: Arc::clone(&waiting),
            hang_up: hang_up.clone(),
        };
        if content.packets.send(up).await.is_err() {
            return;
        }
        session.metrics().peers.add(1);
        let connection = Self {
            session,
            content,
            key,
            name: theirs.info_hash,
            heard: AtomicBool::new(true),
            claims_id: AtomicU8::new(0),
            manifest_id: AtomicU8::new(0),
            metadata_id: AtomicU8::new(0),
            unanswered: watch::Sender::new(0),
            waiting,
        };
        let talk = connection.talk(&mut stream, theirs.extensions, queue, hang_up);
        if let Ok(error) = AssertUnwindSafe(talk).catch_unwind().await {
            if error.is_peers_fault() {
                connection.session.metrics().peers_faulty.add(1);
            }
            tracing::debug!(%addr, %error, "connection closed");
        } else {
            tracing::error!(%addr, "a defect broke this connection");
        }
        connection.session.metrics().peers.sub(1);
        drop((stream, place));
        // A driver that is gone does not care.
        let _ = connection.content.packets.send(Packet::PeerDown(key)).await;
    }

    async fn talk(
        &self,
        stream: &mut TcpStream,
        extensions: bool,
        queue: mpsc::UnboundedReceiver<Vec<PeerOut>>,
        hang_up: CancellationToken,
    ) -> PeerError {
        let socket = Socket::of(stream);
        let (read, write) = stream.split();
        let ended = tokio::select! {
            ended = self.read(read) => ended,
            ended = self.write(write, queue, extensions) => ended,
            ended = self.watch(socket) => ended,
            () = hang_up.cancelled() => Err(PeerError::HungUp),
        };
        ended.err().unwrap_or(PeerError::Closed)
    }

    /// Passes what was received on to the driver.
    async fn send(&self, items: Vec<Item>) -> Result<(), PeerError> {
        let packet = Packet::Items {
            from: Sender::Peer(self.key),
            source: None,
            items,
        };
        self.content
            .packets
            .send(packet)
            .await
            .map_err(|_| PeerError::HungUp)
    }

    /// Waits until the store has room for what comes, and the peer has taken what it asked for.
    async fn may_read(&self, reading: &mut watch::Receiver<Reading>) -> Result<(), PeerError> {
        let pieces = self.content.layout().piece_count() as usize;
        if self.waiting.load(Ordering::Relaxed) > WAITING_MAX + pieces {
            return Err(PeerError::TakesNothing);
        }
        if *self.unanswered.borrow() > UNANSWERED_MAX {
            let few = |unanswered: &usize| *unanswered <= UNANSWERED_MAX;
            let mut unanswered = self.unanswered.subscribe();
            // The sender is in our hands.
            let _ = unanswered.wait_for(few).await;
        }
        if !reading.borrow().peers {
            let open = reading.wait_for(|reading| reading.peers).await;
            open.map_err(|_| PeerError::HungUp)?;
        }
        self.session.down().ready().await;
        Ok(())
    }

    /// Ends when the peer's host is gone, or the peer was silent for too long while it was listened to.
    async fn watch(&self, socket: Socket) -> Result<(), PeerError> {
        let mut silence_ends = Instant::now() + SILENCE_MAX;
        loop {
            tokio::time::sleep(WATCH_EVERY).await;
            if socket.is_lost() {
                return Err(PeerError::Lost);
            }
            if Instant::now() < silence_ends {
                continue;
            }
            silence_ends += SILENCE_MAX;
            let listened = self.content.reading.borrow().peers;
            if !self.heard.swap(false, Ordering::Relaxed) && listened {
                return Err(PeerError::Silent);
            }
        }
    }
}
