//! What travels between a content's driver and its connections and fetches: batches, never single blocks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use floodway_origin::OriginError;
use floodway_proto::record::Head;
use floodway_proto::wire::{HashRequest, HttpClaims, ManifestMessage, Message, MetadataMessage};
use floodway_proto::{BlockId, PeerName, PieceIndex};
use floodway_swarm::{HttpEnd, Input, PeerKey, RequestKey, Sender};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::HttpSource;
use super::help::Helped;

/// One wake of the driver.
pub(crate) enum Packet {
    /// A handshake is complete; `out` leads to the connection.
    PeerUp {
        peer: PeerKey,
        addr: SocketAddr,
        name: PeerName,
        inbound: bool,
        fast: bool,
        out: mpsc::UnboundedSender<Vec<PeerOut>>,
        /// How many of these wait to be sent: the driver counts up.
        waiting: Arc<AtomicUsize>,
        /// Ends the connection at once, whatever it is doing.
        hang_up: CancellationToken,
    },
    /// A dial failed.
    DialFailed(SocketAddr),
    /// A connection is gone.
    PeerDown(PeerKey),
    /// What one read of a socket brought.
    Items {
        from: Sender,
        /// Whom an HTTP request asked: the driver may have forgotten it, and the request, when this arrives.
        source: Option<Arc<HttpSource>>,
        items: Vec<Item>,
    },
    /// A body whose length nobody knew came to its end, as its framing says.
    BodyEnded {
        request: RequestKey,
        source: Arc<HttpSource>,
        /// Bytes of the whole object.
        length: u64,
        /// Its last bytes, if they do not fill a block.
        tail: Bytes,
    },
    /// An HTTP request is over.
    HttpEnd {
        request: RequestKey,
        end: HttpEnd,
        error: Option<Arc<OriginError>>,
        /// It failed when a body had begun.
        broke_off: bool,
    },
    /// A piece that peers asked for could not be read.
    Unreadable(PieceIndex),
    /// A question over HTTP about records or hashes is over.
    Helped(Helped),
    /// A tracker failed.
    TrackerFailed { tracker: String, error: String },
}

/// One thing that a connection or fetch received.
pub(crate) enum Item {
    /// Anything but a block.
    Input(Input),
    /// A block that fits the layout.
    Block { block: BlockId, data: Bytes },
    /// The peer is an own node that takes part in this growing content.
    Neighbour { head: Head, is_relay: bool },
    /// It says something about the content's records and hashes.
    Manifest(ManifestMessage),
    /// It asks for a piece of the info dict of the torrent by whose name it came; `None`: that is not given.
    MetadataRequest { info: Option<Bytes>, piece: u32 },
    /// It asks for hashes; by the name of a v2 torrent, or not.
    HashRequest { is_v2: bool, request: HashRequest },
}

/// One thing for a connection to send.
#[derive(Debug)]
pub(crate) enum PeerOut {
    Message(Message),
    /// What we fetch over HTTP.
    Claims(HttpClaims),
    /// About the records and hashes of a growing content.
    Manifest(ManifestMessage),
    /// The answer to an [`Item::MetadataRequest`].
    Metadata(MetadataMessage),
    /// The answer to an [`Item::HashRequest`].
    Hashes(Message),
    Block {
        block: BlockId,
        /// How many zeros follow its own bytes.
        zeros: u32,
    },
}

/// Who may read sockets now: back-pressure by the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) peers: bool,
    pub(crate) http: bool,
}

impl Reading {
    pub(crate) const ALL: Self = Self {
        peers: true,
        http: true,
    };
}
