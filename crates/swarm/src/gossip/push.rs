//! To whom a new record goes at once, and to whom a word that there is one.

use std::time::Duration;

use floodway_proto::Time;
use floodway_proto::record::{Head, Signed};
use floodway_proto::wire::ManifestMessage;

use super::{Gossip, Neighbour, is_control};
use crate::PeerKey;

/// A neighbour is told what is new at most so often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A neighbour that had so many new records before it was sent them gets them from others.
const IN_VAIN: u8 = 2;
/// So many are told at a time; who hears it asks, and passes it on.
const TOLD_AT_ONCE: usize = 4;

impl Gossip {
    /// Sends a new record to those who should have it at once.
    pub(super) fn push(&mut self, from: Option<PeerKey>, signed: &Signed) {
        let head = is_control(signed).then(|| signed.record().head);
        let lacks = |one: &Neighbour| head.is_none_or(|head| one.head < head);
        let targets: Vec<PeerKey> = self
            .neighbours
            .iter()
            .filter(|&(&peer, one)| Some(peer) != from && one.is_eager && lacks(one))
            .map(|(&peer, _)| peer)
            .collect();
        for peer in targets {
            // From what relays attest nobody learns who is sooner: control may have signed it already.
            if let (Some(neighbour), Some(head)) = (self.neighbours.get_mut(&peer), head) {
                neighbour.head = neighbour.head.max(head);
                neighbour.pushed = neighbour.pushed.max(Some(head));
            }
            self.send(peer, ManifestMessage::Record(signed.clone()));
        }
    }

    /// A neighbour sent what we had: it learns what we have, and stops sending at once.
    pub(super) fn heard_twice(&mut self, now: Time, peer: PeerKey) {
        let is_due = self
            .neighbours
            .get(&peer)
            .is_some_and(|one| one.tell_at <= now);
        if is_due {
            self.send_state(now, peer);
        }
    }

    pub(super) fn heard_state(&mut self, peer: PeerKey, head: Head) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        // It had what we sent from somebody else, sooner. Once that may be control, which tells everybody who joins.
        if neighbour.pushed.take().is_some_and(|pushed| head >= pushed) {
            neighbour.in_vain += 1;
            neighbour.is_eager &= neighbour.in_vain < IN_VAIN;
        }
        neighbour.head = neighbour.head.max(head);
    }

    pub(super) fn is_behind(&self, neighbour: &Neighbour) -> bool {
        let own = self.manifest.head();
        neighbour.head < own && neighbour.told < own
    }

    /// Tells some of those who may not have heard that there is something new.
    pub(super) fn tell(&mut self, now: Time) {
        let behind = self.neighbours.iter();
        let behind = behind.filter(|(_, one)| one.tell_at <= now && self.is_behind(one));
        let mut behind: Vec<PeerKey> = behind.map(|(&peer, _)| peer).collect();
        if behind.is_empty() {
            return;
        }
        self.random.shuffle(&mut behind);
        let later = behind.split_off(behind.len().min(TOLD_AT_ONCE));
        for peer in behind {
            self.send_state(now, peer);
        }
        // The others may hear it from these.
        for peer in later {
            if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                neighbour.tell_at = now + TELL_EVERY;
            }
        }
    }

    pub(super) fn send_state(&mut self, now: Time, peer: PeerKey) {
        let head = self.manifest.head();
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            neighbour.told = head;
            neighbour.tell_at = now + TELL_EVERY;
        }
        let message = ManifestMessage::State {
            head,
            sealed: self.manifest.facts().proven_pieces(),
            capabilities: self.config.capabilities,
        };
        self.send(peer, message);
    }
}
