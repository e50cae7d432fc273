//! What a swarm is told at its start.

use std::time::Duration;

use floodway_proto::{Bitfield, PeerName, PieceIndex};

use crate::io::Limits;

/// Which source a user would rather wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// Fill the link: HTTP runs beside the peers.
    Speed,
    /// Peers first: HTTP only for what they cannot give.
    Peers,
}

/// In which order pieces are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The pieces that fewest peers have first.
    RarestFirst,
    /// From the first byte to the last.
    Sequential,
}

/// A rule of the engine that a simulation can leave out, to show what the rule is for. Nothing else sets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Peers eat an HTTP range from its far end.
    MeetInTheMiddle,
    /// A request that a peer sits on is given to another.
    RequestsExpire,
    /// A block that is slow to come is asked of a second peer when nothing else is left.
    EndGame,
    /// Requests outstanding grow with rate × round trip.
    DepthByRate,
    /// Who is behind its neighbours has more requests outstanding.
    CatchUp,
    /// A complete node hands out each piece once before any twice.
    SpreadFirstCopies,
    /// Own nodes say of each piece that they have it, to all but complete ones, and those that are furthest from done are served
    /// first.
    FurthestFirst,
    /// Before an uplink that is full little is in hand.
    LittleInHand,
    /// Peers of other sites are asked only for what this node is to bring to its own.
    OncePerSite,
    /// A piece that has begun is completed before another begins.
    WholePieces,
    /// Stock peers are served by what they give.
    TitForTat,
    /// Who gave a wrong block is banned.
    Blame,
    /// Blocks that came are not asked for again, though their source is gone.
    NothingTwice,
    /// A change of the HTTP plan is told with its reason.
    Reasons,
}

/// How one node behaves in one swarm.
#[derive(Clone, Debug)]
pub struct Config {
    /// This process's name in handshakes: of two connections between the same two names, the one that the smaller
    /// name dialled is kept, so both ends drop the same one.
    pub name: PeerName,
    /// HTTP beside the peers, or only where they fall short.
    pub prefer: Prefer,
    /// Order of pieces.
    pub order: Order,
    /// How long peers may take to answer before HTTP steps in. 2 s when a person waits, 30 s in the background.
    pub grace: Duration,
    /// Upper bounds.
    pub limits: Limits,
    /// Connections for this content up to which this node opens more.
    pub connections_max: usize,
    /// Connections beyond these that others may open: room for those who find everybody else full.
    pub inbound_extra: usize,
    /// Peers served at once; one more slot is given to a peer at random.
    pub upload_slots: usize,
    /// HTTP requests open at once per source.
    pub requests_per_source: usize,
    /// The longest HTTP range, in bytes.
    pub extent_max: u64,
    /// A content smaller than this is fetched over HTTP at once, in bytes: waiting would cost more.
    pub small: u64,
    /// For simulations: this rule does not hold.
    pub without: Option<Rule>,
}

impl Config {
    /// The defaults for the peer `name`, with somebody waiting for the content.
    pub fn new(name: PeerName) -> Self {
        Self {
            name,
            prefer: Prefer::Speed,
            order: Order::RarestFirst,
            grace: Duration::from_secs(2),
            limits: Limits::default(),
            connections_max: 60,
            inbound_extra: 60,
            upload_slots: 8,
            requests_per_source: 2,
            extent_max: 64 << 20,
            small: 4 << 20,
            without: None,
        }
    }
}

/// What this node holds when the swarm starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// Verified pieces.
    pub have: Bitfield,
    /// Blocks on disk of pieces that are not complete.
    pub partial: Vec<(PieceIndex, Bitfield)>,
    /// The hashes of all pieces are known; `false`: of none, until [`crate::Input::Verifiable`].
    pub verifiable: bool,
    /// Hashes become known while the content is fetched. Then peers are wanted before there is anything to ask them for,
    /// and own nodes stay connected when both are complete: what is known of the content travels between them.
    pub growing: bool,
    /// The length was not known when the content began: some own nodes may learn it later than others.
    pub open_ended: bool,
}

impl Start {
    /// Nothing held, all hashes known.
    pub fn empty(pieces: u32) -> Self {
        Self {
            have: Bitfield::new(pieces),
            partial: Vec::new(),
            verifiable: true,
            growing: false,
            open_ended: false,
        }
    }
}
