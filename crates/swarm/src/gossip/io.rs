//! What goes into [`Gossip`](super::Gossip) and what comes out.

use std::ops::Range;
use std::sync::Arc;

use floodway_proto::facts::{Changes, FactError, NodeAt};
use floodway_proto::manifest::Refusal;
use floodway_proto::record::{Fact, Head, SecretKey, Signed};
use floodway_proto::wire::ManifestMessage;
use floodway_proto::{Sha256, Time};

use super::http::{HttpAnswer, HttpQuestion};
use crate::PeerKey;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// What is said of this node's abilities in STATE: as `c` of the handshake's `fw`.
    pub capabilities: u8,
    /// Neighbours that get new records at once, before it shows who has them from somebody else sooner. A relay has no
    /// limit: it knows everything first.
    pub eager: usize,
    /// Records that a neighbour may send in a second on average; verifying one costs about 0.1 ms.
    pub records_per_s: u32,
    /// Requests of a neighbour that are answered in a second on average.
    pub requests_per_s: u32,
    /// What this node signs with that it reads under leases ([`Read`](GossipInput::Read)): only a relay has such a key.
    pub signer: Option<Arc<SecretKey>>,
}

impl GossipConfig {
    /// A relay, which control tells everything.
    pub fn relay() -> Self {
        Self {
            eager: usize::MAX,
            ..Self::default()
        }
    }
}

impl Default for GossipConfig {
    /// An agent.
    fn default() -> Self {
        Self {
            capabilities: 0,
            eager: 4,
            records_per_s: 200,
            requests_per_s: 50,
            signer: None,
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum GossipInput {
    /// A neighbour named `fw_manifest` and this content's sid in its extension handshake.
    NeighbourUp {
        /// Its connection.
        peer: PeerKey,
        /// The newest record it knows (`t`, `q`).
        head: Head,
        /// It is a relay (`c`).
        is_relay: bool,
    },
    /// The connection is gone.
    NeighbourDown {
        /// Whose.
        peer: PeerKey,
    },
    /// A neighbour said something.
    Message {
        /// Who.
        peer: PeerKey,
        /// What.
        message: ManifestMessage,
    },
    /// A record came from control, over HTTP or from disk.
    Record(Signed),
    /// The hashes under a node, which this node computed itself.
    Hashes {
        /// The node.
        node: NodeAt,
        /// Of all pieces under it.
        hashes: Vec<Sha256>,
    },
    /// This node has read a piece from the origin, and says what it hashes to.
    Read {
        /// The piece.
        piece: u32,
        /// Its node.
        fact: Fact,
    },
    /// Somebody can be asked over HTTP from now on, or nobody any more: without, no questions are put.
    Help(bool),
    /// Somebody new can be asked over HTTP, or there are records that this node does not know.
    MoreMayBeKnown,
    /// What came of the question that was put over HTTP.
    Answered(HttpAnswer),
    /// A neighbour has pieces that cannot be verified here: it can say what they must hash to.
    Lacking {
        /// Whose HAVE it was.
        peer: PeerKey,
        /// Which; those that are verifiable are ignored.
        pieces: Range<u32>,
    },
    /// Time has passed; nothing else happened.
    Tick,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GossipOutput {
    /// Send a message.
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: ManifestMessage,
    },
    /// Close the connection, and do not dial this peer again.
    Drop {
        /// Whose.
        peer: PeerKey,
        /// What it did.
        fault: Fault,
    },
    /// A new record was verified: keep it, and serve it over HTTP.
    Accepted(Signed),
    /// Pieces became verifiable, or no longer are; relays contradict each other.
    Changed(Changes),
    /// The content's state changed, or its final names became usable.
    StateChanged,
    /// A record from outside does not count, or control or a relay contradicted itself: worth an alarm.
    Refused(Refusal),
    /// Neighbours do not help: ask a relay, or else control, over HTTP. Say what came of it by
    /// [`Answered`](GossipInput::Answered); until then no other question is put.
    AskHttp(HttpQuestion),
    /// Whoever answered last over HTTP sent what no honest node would: do not ask it again.
    HttpFault,
    /// Nothing is left to do until then, or (`None`) until an input.
    WakeAt(Option<Time>),
}

/// What a neighbour did that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It sent a record that no honest node passes on.
    Record(Refusal),
    /// It sent hashes that are not those under the node.
    Hashes(FactError),
    /// It sent far more than it may.
    Flood,
}
