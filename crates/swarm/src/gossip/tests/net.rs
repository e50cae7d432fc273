//! A small network of gossiping nodes with latency, told the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;

/// What a message costs beside its payload: length, id, extended id.
const FRAMING: usize = 6;

#[derive(Debug)]
struct Link {
    /// The other node, and under which name this one is known there.
    to: usize,
    back: PeerKey,
    latency: Duration,
}

struct Node {
    gossip: Gossip,
    links: BTreeMap<PeerKey, Link>,
    bytes_in: u64,
}

/// Node 0 is the relay that control feeds.
pub(super) struct Net {
    control: Control,
    nodes: Vec<Node>,
    events: BTreeMap<(Time, u64), (usize, GossipInput)>,
    wakes: BTreeMap<usize, Time>,
    now: Time,
    count: u64,
    next_key: u64,
    random: fastrand::Rng,
    pieces: u32,
    sealed: Vec<usize>,
    pub(super) records_received: usize,
    pub(super) dropped: Vec<(usize, Fault)>,
    /// A digest of all that was sent, and when.
    pub(super) trace: u64,
}

impl Net {
    fn new(seed: u64, nodes: usize, pieces: u32) -> Self {
        let mut net = Self {
            control: Control::new(pieces),
            nodes: Vec::new(),
            events: BTreeMap::new(),
            wakes: BTreeMap::new(),
            now: Time::ZERO,
            count: 0,
            next_key: 0,
            random: fastrand::Rng::with_seed(seed),
            pieces,
            sealed: Vec::new(),
            records_received: 0,
            dropped: Vec::new(),
            trace: 0,
        };
        for _ in 0..nodes {
            net.add_node();
        }
        net
    }

    fn add_node(&mut self) -> usize {
        let index = self.nodes.len();
        let config = if index == 0 {
            GossipConfig {
                signer: Some(Arc::new(relay_key())),
                ..GossipConfig::relay()
            }
        } else {
            GossipConfig::default()
        };
        let seed = self.random.u64(..);
        self.nodes.push(Node {
            gossip: Gossip::new(self.now, manifest(self.pieces), config, seed),
            links: BTreeMap::new(),
            bytes_in: 0,
        });
        index
    }

    /// A chain, so that all are connected, and two more links a node.
    pub(super) fn random(seed: u64, nodes: usize, pieces: u32) -> Self {
        let mut net = Self::new(seed, nodes, pieces);
        for node in 1..nodes {
            net.link(node - 1, node);
            for _ in 0..2 {
                let other = net.random.usize(..node);
                if other + 1 != node {
                    net.link(other, node);
                }
            }
        }
        net
    }

    /// All at the relay, and one chain beside it.
    pub(super) fn star(seed: u64, agents: usize, pieces: u32) -> Self {
        let mut net = Self::new(seed, agents + 1, pieces);
        for node in 1..=agents {
            net.link(0, node);
            if node > 1 {
                net.link(node - 1, node);
            }
        }
        net
    }

    fn link(&mut self, a: usize, b: usize) {
        let (key_a, key_b) = (PeerKey(self.next_key), PeerKey(self.next_key + 1));
        self.next_key += 2;
        let latency = Duration::from_millis(self.random.u64(2..40));
        for (node, key, to, back) in [(a, key_a, b, key_b), (b, key_b, a, key_a)] {
            let link = Link { to, back, latency };
            self.nodes[node].links.insert(key, link);
            let input = GossipInput::NeighbourUp {
                peer: key,
                head: self.nodes[to].gossip.manifest().head(),
                is_relay: to == 0,
            };
            self.later(self.now, node, input);
        }
    }

    /// A new node with links to some others.
    pub(super) fn join(&mut self, links: usize) -> usize {
        let node = self.add_node();
        for other in 1..=links {
            self.link(node - other, node);
        }
        node
    }

    /// A link that is not needed to keep all connected breaks.
    pub(super) fn cut_a_link(&mut self) {
        let links = self.nodes.iter().enumerate().flat_map(|(node, one)| {
            let links = one.links.iter();
            links.map(move |(&key, link)| (node, key, link.to, link.back))
        });
        let links: Vec<_> = links
            .filter(|&(node, _, to, _)| node.abs_diff(to) > 1)
            .collect();
        if let Some(&(node, key, to, back)) = self.random.choice(&links) {
            for (node, peer) in [(node, key), (to, back)] {
                self.nodes[node].links.remove(&peer);
                self.later(self.now, node, GossipInput::NeighbourDown { peer });
            }
        }
    }

    fn later(&mut self, at: Time, node: usize, input: GossipInput) {
        self.count += 1;
        self.events.insert((at, self.count), (node, input));
    }

    /// Control seals pieces and tells the relay. How many records it took.
    pub(super) fn control_seals(&mut self, pieces: impl IntoIterator<Item = u32>) -> usize {
        let records = self.control.seal(pieces);
        self.sealed.push(records.len());
        let count = records.len();
        for record in records {
            self.later(self.now, 0, GossipInput::Record(record));
        }
        count
    }

    /// Control leases pieces to the relay, and tells it.
    pub(super) fn control_leases(&mut self, lease: u64, first: u32, count: u32) {
        let record = self.control.lease(lease, first, count);
        self.later(self.now, 0, GossipInput::Record(record));
    }

    /// The relay has read a piece.
    pub(super) fn relay_reads(&mut self, piece: u32) {
        let fact = fact(piece);
        self.later(self.now, 0, GossipInput::Read { piece, fact });
    }

    /// A node hears from all its neighbours that they have these pieces.
    pub(super) fn hears_of(&mut self, node: usize, pieces: Range<u32>) {
        let peers: Vec<PeerKey> = self.nodes[node].links.keys().copied().collect();
        for peer in peers {
            let pieces = pieces.clone();
            self.later(self.now, node, GossipInput::Lacking { peer, pieces });
        }
    }

    /// Every node can verify the first so many pieces.
    pub(super) fn check_all_can_verify(&self, pieces: u32) {
        for (index, node) in self.nodes.iter().enumerate() {
            let missing = node.gossip.manifest().facts().missing(0..pieces);
            assert!(missing.is_empty(), "node {index}: {missing:?}");
        }
    }

    pub(super) fn records_sealed_since(&self, step: usize) -> usize {
        self.sealed[step..].iter().sum()
    }

    pub(super) fn run_until(&mut self, end: Time) {
        loop {
            let event = self.events.keys().next().map(|&(at, _)| at);
            let wake = self.wakes.iter().map(|(&node, &at)| (at, node)).min();
            match (event, wake) {
                (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => {
                    if let Some(((at, _), (node, input))) = self.events.pop_first() {
                        self.now = self.now.max(at);
                        self.handle(node, input);
                    }
                }
                (_, Some((at, node))) if at <= end => {
                    self.now = self.now.max(at);
                    self.handle(node, GossipInput::Tick);
                }
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }

    fn handle(&mut self, node: usize, input: GossipInput) {
        if let GossipInput::Message { message, .. } = &input {
            let bytes = message.encode().len() + FRAMING;
            self.nodes[node].bytes_in += bytes as u64;
            self.records_received += usize::from(matches!(message, ManifestMessage::Record(_)));
        }
        self.nodes[node].gossip.handle_input(self.now, input);
        loop {
            match self.nodes[node].gossip.poll_output() {
                GossipOutput::WakeAt(at) => {
                    self.wakes.remove(&node);
                    self.wakes.extend(at.map(|at| (node, at)));
                    return;
                }
                GossipOutput::Send { peer, message } => self.send(node, peer, message),
                GossipOutput::Drop { fault, .. } => self.dropped.push((node, fault)),
                GossipOutput::Refused(refusal) => panic!("{node}: {refusal}"),
                GossipOutput::Accepted(_)
                | GossipOutput::Changed(_)
                | GossipOutput::StateChanged
                | GossipOutput::AskHttp(_)
                | GossipOutput::HttpFault => {}
            }
        }
    }

    fn send(&mut self, node: usize, peer: PeerKey, message: ManifestMessage) {
        let Some(link) = self.nodes[node].links.get(&peer) else {
            return;
        };
        let (to, back, at) = (link.to, link.back, self.now + link.latency);
        let digest = digest::sha256(&message.encode());
        let word = u64::from_be_bytes(*digest.0.first_chunk().unwrap());
        self.trace = self.trace.rotate_left(5) ^ word ^ at.as_nanos() ^ peer.0;
        let input = GossipInput::Message {
            peer: back,
            message,
        };
        self.later(at, to, input);
    }

    /// Every node knows the hashes of so many pieces, and the same of all as control.
    pub(super) fn check_all_know(&self, pieces: u32) {
        for (index, node) in self.nodes.iter().enumerate() {
            let known = node.gossip.manifest().facts().proven_pieces();
            assert_eq!(known, pieces, "node {index} of {}", self.nodes.len());
            let head = node.gossip.manifest().complete_to();
            assert_eq!(head, self.control.sealer.head(), "node {index}");
        }
    }

    pub(super) fn bytes_in(&self, node: usize) -> u64 {
        self.nodes[node].bytes_in
    }

    pub(super) fn most_bytes_in(&self) -> u64 {
        let agents = self.nodes.iter().skip(1);
        agents.map(|node| node.bytes_in).max().unwrap_or(0)
    }

    pub(super) fn control_bytes(&self) -> usize {
        self.control.bytes
    }
}
