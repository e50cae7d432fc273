//! What goes into the engine and what comes out: names only, never payload.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use floodway_proto::wire::{HttpClaims, Message};
use floodway_proto::{BlockId, ByteRate, PeerName, PieceIndex, Site, Time};

/// One connection to a peer, named by the driver and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub u64);

/// One HTTP source (a URL of a relay or an origin), named by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey(pub u32);

/// One HTTP request, named by the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey(pub u64);

/// A received block that the driver has parked until the engine says what to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufKey(pub u64);

/// The three kinds of source that limits and counters tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceClass {
    /// A BitTorrent peer.
    Peer,
    /// A relay, over HTTP.
    Relay,
    /// The origin (or a torrent's web seed), over HTTP.
    Origin,
}

/// Who delivered a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// A peer.
    Peer(PeerKey),
    /// An HTTP reply.
    Http(RequestKey),
}

/// How an HTTP source can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any range, any number of times: strong validator.
    Ranges,
    /// One GET of the whole, from its first byte: no ranges, or nothing to pin them to.
    OneGet,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Addresses at which peers may be found: from control, a tracker, the command line.
    PeersFound(Vec<SocketAddr>),
    /// A dial that the engine asked for failed.
    DialFailed {
        /// Where.
        addr: SocketAddr,
    },
    /// A handshake is complete.
    PeerUp {
        /// Its name from now on.
        peer: PeerKey,
        /// The address dialled, or the remote end of an inbound connection.
        addr: SocketAddr,
        /// The name in its handshake: one connection is kept per name.
        name: PeerName,
        /// The peer dialled us.
        inbound: bool,
        /// Both sides speak BEP 6.
        fast: bool,
    },
    /// The peer's extension handshake (BEP 10) has come.
    PeerExtended {
        /// Who.
        peer: PeerKey,
        /// How many requests it lets us have outstanding (`reqq`), if it said.
        request_queue: Option<u32>,
        /// It is an own node that takes part in this content: it plays no tit-for-tat.
        own: bool,
        /// It wants to know what we fetch over HTTP.
        hears_claims: bool,
        /// The port at which it accepts connections (`p`), if it said.
        listen_port: Option<u16>,
    },
    /// An own node says where it stands.
    PeerSite {
        /// Who.
        peer: PeerKey,
        /// Where.
        site: Site,
    },
    /// An own node says which pieces it fetches over HTTP.
    PeerClaims {
        /// Who.
        peer: PeerKey,
        /// The whole list.
        claims: HttpClaims,
    },
    /// A message other than a block.
    PeerMessage {
        /// Who.
        peer: PeerKey,
        /// What it said.
        message: Message,
    },
    /// A block came. The engine answers with [`Output::Store`] or [`Output::Discard`] for `buf`.
    Block {
        /// From whom.
        from: Sender,
        /// Which; the driver has checked it against the layout.
        block: BlockId,
        /// Where it is parked.
        buf: BufKey,
    },
    /// Block bytes that [`Output::SendBlock`] asked for are in the socket.
    BlockSent {
        /// To whom.
        peer: PeerKey,
        /// Which.
        block: BlockId,
    },
    /// What is sent to a peer waits so long in queues on its way: its round trip less the shortest one (the queueing delay of
    /// RFC 6817). To be told now and then while blocks are sent, where the system knows.
    Queueing {
        /// To whom.
        peer: PeerKey,
        /// How long.
        delay: Duration,
    },
    /// The peer broke a rule that the engine does not know of: it is dropped for good.
    Banish {
        /// Who.
        peer: PeerKey,
    },
    /// The connection is gone.
    PeerDown {
        /// Whose.
        peer: PeerKey,
    },
    /// An HTTP source may be used from now on.
    HttpUp {
        /// Its name.
        source: SourceKey,
        /// Relay or origin.
        class: SourceClass,
        /// How it can be read.
        access: Access,
    },
    /// An HTTP source may no longer be used; its requests are over.
    HttpDown {
        /// Which.
        source: SourceKey,
    },
    /// An HTTP request is over. All its blocks were delivered before.
    HttpEnd {
        /// Which.
        request: RequestKey,
        /// How.
        end: HttpEnd,
    },
    /// The store has hashed a piece.
    Hashed {
        /// Which.
        piece: PieceIndex,
        /// With what result.
        verdict: Verdict,
    },
    /// A held piece was found to be unreadable or wrong: it is missing again.
    PieceLost {
        /// Which.
        piece: PieceIndex,
    },
    /// The hashes of these pieces are known now: they may be asked of anyone.
    Verifiable {
        /// Which.
        pieces: Range<u32>,
    },
    /// The content turned out to end here, in bytes. Ignored where the length is known already.
    Ended {
        /// Its length.
        length: u64,
    },
    /// The pieces that this node is to fetch from its origin under range leases: the whole list.
    Leases(Vec<Range<u32>>),
    /// Where this node stands, and which pieces it is to bring there.
    Site(Site),
    /// New limits.
    Limits(Limits),
    /// Stops (`false`) or resumes all fetching: a full disk, an operator.
    Fetching(bool),
    /// Time has passed; nothing else happened.
    Tick,
}

/// How an HTTP request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpEnd {
    /// Every byte asked for (after shortening) came.
    Done,
    /// It broke, and may work again after `after`.
    Failed {
        /// When to use this source again.
        after: Duration,
    },
    /// The source will not work for this content again: it lies, changed, or refuses.
    Gone,
}

/// What the store found when it hashed a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The piece is as it must be. `disproved` names the blocks that differ from an earlier, failed try.
    Good {
        /// Indices of blocks that some sender got wrong before.
        disproved: Vec<u32>,
    },
    /// Some of its blocks are wrong.
    Bad,
}

/// Upper bounds set by the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From all sources together.
    pub down: ByteRate,
    /// To all peers together.
    pub up: ByteRate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            down: ByteRate::MAX,
            up: ByteRate::MAX,
        }
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Open a connection; answer with `PeerUp` or `DialFailed`.
    Dial {
        /// Where.
        addr: SocketAddr,
    },
    /// Close a connection. No `PeerDown` is expected.
    HangUp {
        /// Whose.
        peer: PeerKey,
        /// Why.
        reason: HangUp,
    },
    /// Send a message.
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// Tell an own node which pieces we fetch over HTTP.
    Claims {
        /// Whom.
        peer: PeerKey,
        /// The whole list.
        claims: HttpClaims,
    },
    /// Tell an own node where we stand.
    Site {
        /// Whom.
        peer: PeerKey,
        /// Where.
        site: Site,
    },
    /// Read a block from the store and send it; answer with `BlockSent`.
    SendBlock {
        /// To whom.
        peer: PeerKey,
        /// Which.
        block: BlockId,
        /// How many zeros follow its own bytes: padding of a v1 torrent that the peer counts among them (BEP 47).
        zeros: u32,
    },
    /// Ask an HTTP source for bytes; deliver whole blocks in order, then `HttpEnd`.
    HttpGet {
        /// The request's name.
        request: RequestKey,
        /// Whom.
        source: SourceKey,
        /// Which bytes of the content; begins and ends on block borders (or the content's end).
        bytes: Range<u64>,
    },
    /// Deliver nothing at or beyond `end` for this request.
    HttpShorten {
        /// Which request.
        request: RequestKey,
        /// The new end, in bytes of the content.
        end: u64,
    },
    /// Give a request up; no `HttpEnd` is expected.
    HttpCancel {
        /// Which request.
        request: RequestKey,
    },
    /// From now on read the sockets of this class's requests no faster than this, together.
    HttpRate {
        /// Relay or origin.
        class: SourceClass,
        /// Zero: do not read.
        rate: ByteRate,
    },
    /// Give a parked block to the store.
    Store {
        /// Which block it is.
        block: BlockId,
        /// Where it is parked.
        buf: BufKey,
    },
    /// Drop a parked block.
    Discard {
        /// Where it is parked.
        buf: BufKey,
    },
    /// Something worth telling.
    Event(Event),
    /// Nothing is left to do until then, or (`None`) until an input.
    WakeAt(Option<Time>),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    /// The peer broke the protocol; it is not dialled again.
    Protocol(&'static str),
    /// The peer sent a block that was proven wrong; it is banned.
    WrongBlock(PieceIndex),
    /// Both sides are complete: nothing to exchange.
    BothComplete,
    /// A second connection to the same own node.
    Duplicate,
    /// It was banned earlier.
    Banned,
    /// No room for more connections.
    Full,
}

/// Something worth telling: for progress, `explain` and logs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A piece is verified and held.
    PieceDone(PieceIndex),
    /// A piece failed its hash.
    PieceFailed(PieceIndex),
    /// A peer was banned for a block that was proven wrong.
    Banned {
        /// Its address.
        addr: SocketAddr,
        /// The piece by which it was convicted.
        piece: PieceIndex,
    },
    /// An HTTP source was dropped for bytes that were proven wrong.
    SourceDropped {
        /// Which.
        source: SourceKey,
        /// The piece by which it was convicted.
        piece: PieceIndex,
    },
    /// The decision about HTTP changed.
    Plan(HttpPlan),
    /// Every piece is held.
    Complete,
}

/// How much HTTP to use now, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// From relays.
    pub relay: ByteRate,
    /// From the origin.
    pub origin: ByteRate,
    /// Why.
    pub reason: PlanReason,
}

/// Why HTTP is used, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlanReason {
    /// There is no HTTP source.
    NoSource,
    /// Everything is held or asked for already.
    NothingLeft,
    /// Peers are known and get a short time to answer first.
    Grace,
    /// Nobody else to ask.
    NoPeers,
    /// The content is so small that waiting costs more than fetching.
    Small,
    /// The user prefers speed: HTTP runs beside the peers.
    Speed,
    /// No connected peer has the missing pieces.
    FirstCopies,
    /// Peers are connected but deliver nothing.
    PeersStalled,
    /// Peers deliver: HTTP rests.
    PeersServe,
    /// This node fetches under range leases for everybody.
    Leased,
}

/// Kept bytes by where they came from, and what was thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kept, from peers.
    pub peer: u64,
    /// Kept, from relays.
    pub relay: u64,
    /// Kept, from the origin or web seeds.
    pub origin: u64,
    /// Held before this run.
    pub resumed: u64,
    /// Received and discarded: duplicates and wrong blocks.
    pub wasted: u64,
    /// Sent to peers.
    pub sent: u64,
}
