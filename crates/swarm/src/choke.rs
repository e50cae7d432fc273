//! Who is served at all: own nodes always, stock peers by what they give (BEP 3's tit-for-tat).

use std::collections::BTreeSet;
use std::time::Duration;

use floodway_proto::ByteRate;
use floodway_proto::wire::{Message, Request};

use crate::config::Rule;
use crate::io::PeerKey;
use crate::peer::Peer;
use crate::swarm::Swarm;

/// How often the slots are dealt anew, and the slot of chance moves on (BEP 3's usual intervals).
const CHOKE_EVERY: Duration = Duration::from_secs(5);
const OPTIMISTIC_FOR: Duration = Duration::from_secs(15);

impl Swarm {
    pub(crate) fn interest_of(&mut self, key: PeerKey, interested: bool) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.is_interested != interested {
            peer.is_interested = interested;
            self.deal_slot(key);
        }
    }

    /// Serves a peer at once when it may be served without a round; the next tick deals the slots anew.
    pub(crate) fn deal_slot(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key) else {
            return;
        };
        let (interested, slots) = (peer.is_interested, self.slots());
        let free = peer.own || self.slots_taken.len() < slots;
        if interested && slots > 0 && free {
            self.set_choke(key, false);
        } else if !interested {
            self.set_choke(key, true);
        }
        self.next_choke = self.now;
        self.spread.look_at(key);
    }

    fn slots(&self) -> usize {
        if self.config.limits.up == ByteRate::ZERO {
            0
        } else {
            self.config.upload_slots
        }
    }

    /// Deals the upload slots, when it is time.
    pub(crate) fn choke_round(&mut self) {
        if self.now < self.next_choke {
            return;
        }
        self.next_choke = self.now + CHOKE_EVERY;
        let interested = self.peers.iter().filter(|(_, peer)| peer.is_interested);
        // Own nodes play no tit-for-tat: all are served, in turn. Slots are for the others.
        let (own, mut others): (Vec<_>, Vec<_>) = interested
            .map(|(&key, peer)| (key, peer.own))
            .partition(|(_, own)| *own);
        let slots = self.slots();
        let complete = self.is_complete();
        others.sort_by_cached_key(|(key, _)| (self.rank(&self.peers[key], complete), *key));
        let others: Vec<PeerKey> = others.into_iter().map(|(key, _)| key).collect();
        let mut chosen: BTreeSet<PeerKey> = others.iter().copied().take(slots).collect();
        if slots > 0 {
            chosen.extend(self.optimistic_slot(&others[chosen.len()..]));
            chosen.extend(own.into_iter().map(|(key, _)| key));
        }
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.set_choke(key, !chosen.contains(&key));
        }
    }

    /// Smaller is served first. While we fetch: who gives us most. Once complete: who has got least of us, so that
    /// all get on, one choke round's worth apart.
    fn rank(&self, peer: &Peer, complete: bool) -> u64 {
        if !self.follows(Rule::TitForTat) {
            0
        } else if complete {
            peer.sent / (4 << 20)
        } else {
            u64::MAX - peer.down_long.rate(self.now).0
        }
    }

    fn optimistic_slot(&mut self, others: &[PeerKey]) -> Option<PeerKey> {
        let current = self
            .optimistic
            .filter(|(key, until)| *until > self.now && others.contains(key));
        if current.is_none() {
            self.optimistic = self
                .rng
                .choice(others)
                .map(|&key| (key, self.now + OPTIMISTIC_FOR));
        }
        self.optimistic.map(|(key, _)| key)
    }

    fn set_choke(&mut self, key: PeerKey, choke: bool) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.is_choked == choke {
            return;
        }
        peer.is_choked = choke;
        if !choke {
            if !peer.own {
                self.slots_taken.insert(key);
            }
            self.spread.look_at(key);
            return self.send(key, Message::Unchoke);
        }
        self.uploads.remove(&key);
        self.slots_taken.remove(&key);
        let (queue, fast) = (std::mem::take(&mut peer.queue), peer.fast);
        self.send(key, Message::Choke);
        if fast {
            for (block, zeros) in queue {
                let request = self.request_of(block);
                let length = request.length + zeros;
                self.send(key, Message::Reject(Request { length, ..request }));
            }
        }
    }
}
