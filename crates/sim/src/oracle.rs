//! What must hold at every step, whatever the plan. A violation names the scenario and the seed.
//!
//! Beside these, a node's store asserts that a block is stored once, in a piece that is not held, and the engine
//! recounts its own books in debug builds.

use std::ops::Range;

use floodway_proto::wire::Message;
use floodway_proto::{BlockId, ByteRate, PieceIndex};
use floodway_swarm::{Access, RequestKey, SourceClass, SourceKey};

use crate::node::Books;
use crate::plan::{Conduct, ServerFault};
use crate::world::World;

/// Nodes whose whole account is compared after each piece; the others' when they are complete.
const SAMPLED_NODES: usize = 64;

impl World<'_> {
    fn require(&self, at: usize, fact: bool, what: impl FnOnce() -> String) {
        assert!(fact, "{}", self.report.complain(at, &what()));
    }

    /// Nobody serves what it does not hold.
    pub(crate) fn check_serves(&self, at: usize, block: BlockId) {
        self.require(at, self.nodes[at].held.get(block.piece.0), || {
            format!("serves {block:?}, which it does not hold")
        });
    }

    /// No piece is held and asked for.
    pub(crate) fn check_message(&self, at: usize, message: &Message) {
        match message {
            Message::Request(request) => {
                self.require(at, !self.nodes[at].held.get(request.piece), || {
                    format!("asks for {request:?}, which it holds")
                });
            }
            Message::Have(piece) => self.require(at, self.nodes[at].held.get(*piece), || {
                format!("says that it has piece {piece}, which it does not hold")
            }),
            _ => {}
        }
    }

    /// HTTP is read only when the node's own plan wants it, not before Retry-After, and never for what is held, or asked for in
    /// another request.
    pub(crate) fn check_request(&self, at: usize, server: usize, bytes: &Range<u64>) {
        let plan = &self.plan.servers[server];
        let node = &self.nodes[at];
        let refused = node.refused.get(&server);
        let too_soon = refused.is_some_and(|&(heard, until)| heard < self.now && self.now < until);
        self.require(at, !too_soon, || {
            format!("asks server {server} again before it was told to")
        });
        self.require(at, node.rate_of(plan.class) > ByteRate::ZERO, || {
            format!("asks server {server} for {bytes:?}, against its own plan")
        });
        if plan.access == Access::OneGet {
            return;
        }
        let twice = node
            .requests
            .values()
            .any(|other| bytes.start < other.end && other.next < bytes.end);
        self.require(at, !twice, || {
            format!("asks server {server} for {bytes:?}, which is already on its way")
        });
        let mut byte = bytes.start;
        while let Some(piece) = self.layout.piece_at(byte).filter(|_| byte < bytes.end) {
            self.require(at, !node.held.get(piece.0), || {
                format!("asks server {server} for {piece:?}, which it holds")
            });
            byte = self.layout.piece_bytes(piece).end;
        }
    }

    /// What the plan forbids is not read any more: looked at when the engine has nothing more to say.
    pub(crate) fn check_permitted(&self, at: usize) {
        let node = &self.nodes[at];
        let against = |(key, class): (&RequestKey, _)| {
            (node.rate_of(class) == ByteRate::ZERO).then_some(*key)
        };
        let mut classes = node
            .requests
            .iter()
            .map(|(key, request)| (key, self.plan.servers[request.server].class));
        let forbidden = classes.find_map(against);
        self.require(at, forbidden.is_none(), || {
            format!("goes on reading {forbidden:?}, against its own plan")
        });
    }

    /// HTTP is switched on and off only with a reason.
    pub(crate) fn check_reason(&self, at: usize, class: SourceClass, rate: ByteRate) {
        let planned = self.nodes[at].plan.map(|plan| match class {
            SourceClass::Relay => plan.relay,
            _ => plan.origin,
        });
        let told = planned.unwrap_or(ByteRate::ZERO) > ByteRate::ZERO;
        self.require(at, told || rate == ByteRate::ZERO, || {
            format!("reads {class:?} sources at {rate:?} without having given a reason")
        });
    }

    /// Every block is stored or discarded at once.
    pub(crate) fn check_decided(&self, at: usize) {
        self.require(at, self.nodes[at].parked.is_none(), || {
            "has neither stored nor discarded a block".into()
        });
    }

    /// No unverified byte is delivered, and each kept byte is counted once.
    pub(crate) fn check_delivered(&self, at: usize, piece: PieceIndex) {
        let node = &self.nodes[at];
        self.require(at, node.held.get(piece.0), || {
            format!("delivers {piece:?} unverified")
        });
        if self.nodes.len() <= SAMPLED_NODES {
            self.check_books(at);
        }
    }

    pub(crate) fn check_complete(&self, at: usize) {
        self.require(at, self.nodes[at].held.is_full(), || {
            "is complete without all pieces".into()
        });
        self.check_books(at);
    }

    /// The engine's account of the bytes that came is what the network brought.
    fn check_books(&self, at: usize) {
        let progress = self.nodes[at].swarm.progress();
        let kept = progress.counters;
        let books = Books {
            peer: kept.peer,
            relay: kept.relay,
            origin: kept.origin,
            wasted: kept.wasted,
        };
        self.require(at, books == self.nodes[at].books, || {
            format!("was brought {:?} and counts {kept:?}", self.nodes[at].books)
        });
        let total = kept.peer + kept.relay + kept.origin + kept.resumed;
        self.require(at, total == progress.have_bytes, || {
            format!("holds {} bytes and counts {kept:?}", progress.have_bytes)
        });
    }

    /// Nobody is blamed for what others did.
    pub(crate) fn check_banned(&self, at: usize, whom: usize) {
        let conduct = self.plan.nodes[whom].conduct;
        self.require(at, matches!(conduct, Conduct::Lies { .. }), || {
            format!("bans node {whom}, which never lied")
        });
    }

    /// The same for servers.
    pub(crate) fn check_dropped(&self, at: usize, source: SourceKey) {
        let server = source.0 as usize;
        let mut faults = self.plan.servers[server].faults.iter();
        let lies = faults.any(|fault| matches!(fault, ServerFault::Lies { .. }));
        self.require(at, lies, || {
            format!("drops server {server}, which never lied")
        });
    }
}
