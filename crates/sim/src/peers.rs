//! Connections between nodes, and what goes over them.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use floodway_proto::wire::Message;
use floodway_proto::{BlockId, PieceIndex};
use floodway_swarm::{BufKey, Input, PeerKey, Sender, SourceClass};

use crate::events::What;
use crate::net::{FlowKind, Packet};
use crate::node::{Connection, Parked, name};
use crate::plan::{Conduct, Departure};
use crate::world::World;

/// How long it takes until a silent connection counts as broken.
const TIMES_OUT: Duration = Duration::from_mins(1);
/// How long a dial takes that nobody answers, as behind NAT.
const NO_ANSWER: Duration = Duration::from_secs(2);

pub(crate) fn address(node: usize) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::from_bits(0xfd00 << 112 | node as u128), 6881))
}

pub(crate) fn node_at(addr: SocketAddr) -> usize {
    let SocketAddr::V6(addr) = addr else {
        unreachable!("all simulated addresses are IPv6")
    };
    usize::try_from(addr.ip().to_bits() & u128::from(u64::MAX)).unwrap_or(usize::MAX)
}

impl World<'_> {
    pub(crate) fn dial(&mut self, at: usize, addr: SocketAddr) {
        let other = node_at(addr);
        let round = (self.plan.nodes[at].link.delay + self.plan.nodes[other].link.delay) * 4;
        if !self.nodes[other].online || self.plan.nodes[other].nat {
            let slow = if self.plan.nodes[other].nat {
                NO_ANSWER
            } else {
                round
            };
            return self.input_after(slow, at, Input::DialFailed { addr });
        }
        let (ours, theirs) = (self.nodes[at].new_key(), self.nodes[other].new_key());
        self.connect((at, ours), (other, theirs));
        self.connect((other, theirs), (at, ours));
        for (node, key, from, inbound) in [(at, ours, other, false), (other, theirs, at, true)] {
            let up = Input::PeerUp {
                peer: key,
                addr: address(from),
                name: name(from),
                inbound,
                fast: true,
            };
            let extended = Input::PeerExtended {
                peer: key,
                request_queue: Some(2000),
                own: !self.plan.nodes[from].stock,
                hears_claims: !self.plan.nodes[from].stock,
                listen_port: Some(address(from).port()),
            };
            self.input_after(round, node, up);
            self.input_after(round, node, extended);
        }
    }

    fn connect(&mut self, (from, from_key): (usize, PeerKey), (to, to_key): (usize, PeerKey)) {
        let kind = FlowKind::Peer {
            from,
            from_key,
            to,
            to_key,
        };
        let connection = Connection {
            other: to,
            theirs: to_key,
            flow: self.net.open(kind, from, to),
            news: Vec::new(),
        };
        self.nodes[from].connections.insert(from_key, connection);
    }

    /// The node hangs up; the other side learns of it.
    pub(crate) fn hang_up(&mut self, at: usize, key: PeerKey) {
        if let Some(connection) = self.nodes[at].connections.remove(&key) {
            self.net.close(connection.flow);
            self.cut(connection.other, connection.theirs, Departure::Closes);
        }
    }

    /// All connections of a node end.
    pub(crate) fn cut_all(&mut self, at: usize, departure: Departure) {
        for connection in std::mem::take(&mut self.nodes[at].connections).into_values() {
            self.net.close(connection.flow);
            self.cut(connection.other, connection.theirs, departure);
        }
    }

    fn cut(&mut self, at: usize, key: PeerKey, departure: Departure) {
        if let Some(connection) = self.nodes[at].connections.remove(&key) {
            self.net.close(connection.flow);
            let notices = match departure {
                Departure::Closes => self.plan.nodes[at].link.delay,
                Departure::Silent => TIMES_OUT,
            };
            self.input_after(notices, at, Input::PeerDown { peer: key });
        }
    }

    pub(crate) fn send(&mut self, at: usize, peer: PeerKey, message: Message) {
        self.check_message(at, &message);
        let gather = self.plan.news_every;
        let node = &mut self.nodes[at];
        let Some(connection) = node.connections.get_mut(&peer) else {
            return;
        };
        if !gather.is_zero() && matches!(message, Message::Have(_)) {
            connection.news.push(message);
            if !std::mem::replace(&mut node.has_news, true) {
                let due = node.told_at.map_or(self.now, |told| told + gather);
                self.at(due, What::TellPieces(at));
            }
            return;
        }
        let flow = connection.flow;
        self.push(flow, Packet::Control(vec![message]));
    }

    pub(crate) fn send_other(&mut self, at: usize, peer: PeerKey, packet: Packet) {
        if let Some(connection) = self.nodes[at].connections.get(&peer) {
            self.push(connection.flow, packet);
        }
    }

    /// Sends the news that a node has gathered, one packet for each peer.
    pub(crate) fn tell_pieces(&mut self, at: usize) {
        self.nodes[at].has_news = false;
        self.nodes[at].told_at = Some(self.now);
        let connections = self.nodes[at].connections.values_mut();
        let news: Vec<_> = connections
            .filter(|connection| !connection.news.is_empty())
            .map(|connection| (connection.flow, std::mem::take(&mut connection.news)))
            .collect();
        for (flow, messages) in news {
            self.push(flow, Packet::Control(messages));
        }
    }

    pub(crate) fn send_block(&mut self, at: usize, peer: PeerKey, block: BlockId) {
        self.check_serves(at, block);
        let node = &mut self.nodes[at];
        node.served += 1;
        let right = match self.plan.nodes[at].conduct {
            Conduct::Honest => true,
            Conduct::Lies { one_in } => !block.piece.0.is_multiple_of(one_in),
            Conduct::Stalls { after } if node.served > after => return,
            Conduct::Stalls { .. } => true,
        };
        if let Some(connection) = node.connections.get(&peer) {
            let flow = connection.flow;
            self.push(flow, Packet::Block(block, right));
        }
    }

    /// A block is handed to a node's engine.
    pub(crate) fn block(&mut self, at: usize, from: Sender, id: BlockId, right: bool) {
        if !self.nodes[at].online {
            return;
        }
        let class = match from {
            Sender::Peer(_) => Some(SourceClass::Peer),
            // A request that was given up meanwhile is known no more: what it still brings is discarded.
            Sender::Http(request) => (self.nodes[at].requests.get(&request))
                .map(|request| self.plan.servers[request.server].class),
        };
        let buf = self.nodes[at].park(Parked { id, right, class });
        let block = id;
        self.input(at, Input::Block { from, block, buf });
        self.check_decided(at);
    }

    /// The engine wants a block on disk.
    pub(crate) fn store(&mut self, at: usize, block: BlockId, buf: BufKey) {
        let parked = self.nodes[at].unpark(buf);
        assert_eq!(parked.id, block, "the engine stores another block");
        let count = self.layout.block_count(block.piece);
        let piece: PieceIndex = block.piece;
        let Some(verdict) = self.nodes[at].store(parked, count) else {
            return;
        };
        let (disk, node) = (self.plan.nodes[at].disk, &mut self.nodes[at]);
        let mut begins = node.disk_free_at.max(self.now);
        let full = disk.full.filter(|full| (full.0..full.1).contains(&begins));
        if let Some((_, until)) = full {
            begins = until;
            if !std::mem::replace(&mut node.disk_refuses, true) {
                self.input_after(Duration::ZERO, at, Input::Fetching(false));
                self.input_after(until.since(self.now), at, Input::Fetching(true));
            }
        }
        self.nodes[at].disk_free_at = begins + disk.per_piece;
        let takes = self.nodes[at].disk_free_at.since(self.now);
        self.input_after(takes, at, Input::Hashed { piece, verdict });
    }
}
