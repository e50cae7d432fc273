//! What neighbours that ask get.

use floodway_proto::Time;
use floodway_proto::record::{Head, Signed};
use floodway_proto::wire::ManifestMessage;
use floodway_proto::wire::manifest::{RejectReason, sub};

use super::{Fault, Gossip, count};
use crate::PeerKey;

/// Neighbours that had to ask become eager up to so many times the configured number.
const EAGER_MOST: usize = 2;

impl Gossip {
    /// True when the neighbour may ask one thing more now. One that goes on asking is dropped.
    fn may_ask(&mut self, now: Time, peer: PeerKey) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return false;
        };
        if neighbour.requests.take(now) {
            return true;
        }
        if neighbour.requests.is_flooded() {
            self.drop_neighbour(peer, Fault::Flood);
        }
        false
    }

    fn reject(&mut self, peer: PeerKey, sub: u8, first: u32, count: u16, reason: RejectReason) {
        if self.neighbours.contains_key(&peer) {
            let message = ManifestMessage::Reject {
                sub,
                first,
                count,
                reason,
            };
            self.send(peer, message);
        }
    }

    pub(super) fn asked_for_head(&mut self, now: Time, peer: PeerKey, have: Head) {
        if !self.may_ask(now, peer) {
            return self.reject(peer, sub::GET_HEAD, 0, 0, RejectReason::TooOften);
        }
        let records: Vec<Signed> = self.manifest.records_after(have).cloned().collect();
        if records.is_empty() {
            return self.send_state(now, peer);
        }
        for signed in records {
            self.send(peer, ManifestMessage::Record(signed));
        }
        let eager = self.neighbours.values().filter(|one| one.is_eager).count();
        let head = self.manifest.head();
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.head = neighbour.head.max(head);
            neighbour.told = head;
            // It did not hear of it otherwise.
            neighbour.is_eager |= eager < self.config.eager.saturating_mul(EAGER_MOST);
            neighbour.in_vain = 0;
        }
    }

    pub(super) fn asked_for_facts(&mut self, now: Time, peer: PeerKey, first: u32, asked: u16) {
        let reject = |gossip: &mut Self, reason| {
            gossip.reject(peer, sub::GET_FACTS, first, asked, reason);
        };
        if !self.may_ask(now, peer) {
            return reject(self, RejectReason::TooOften);
        }
        let limit = self.manifest.facts().space().limit();
        let end = first.saturating_add(asked.into()).min(limit);
        if first >= end {
            return reject(self, RejectReason::OutOfRange);
        }
        let proof = self.manifest.proof(first..end);
        for (node, hashes) in proof.hashes {
            let message = ManifestMessage::Hashes {
                file: node.file,
                layer: node.layer,
                index: node.index,
                hashes,
            };
            self.send(peer, message);
        }
        for signed in proof.records {
            self.send(peer, ManifestMessage::Record(signed));
        }
        for run in proof.unknown {
            let (first, count) = (run.start, count(&run));
            let reason = RejectReason::NotKnown;
            self.reject(peer, sub::GET_FACTS, first, count, reason);
        }
    }
}
