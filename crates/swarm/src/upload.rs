//! Serving peers: whom, and how much at a time.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{BlockId, ByteRate, PieceIndex};

use crate::config::Rule;
use crate::io::{HangUp, Output, PeerKey};
use crate::peer::Peer;
use crate::swarm::Swarm;

/// Requests that a peer may leave with us; we advertise 2000 (`reqq`).
const QUEUE_MAX: usize = 2500;
/// How often the slots are dealt anew, and the slot of chance moves on (BEP 3's usual intervals).
const CHOKE_EVERY: Duration = Duration::from_secs(5);
const OPTIMISTIC_FOR: Duration = Duration::from_secs(15);
/// What the driver has in hand and not yet put into sockets: a tenth of a second at the present rate, so that what
/// is decided next is not far behind what was decided before.
const AHEAD: Duration = Duration::from_millis(100);
/// And never less than this, in bytes.
const AHEAD_MIN: u64 = 64 * 1024;
/// Our link is full when what we send waits so long in queues.
const FULL: Duration = Duration::from_millis(30);
/// Where loss and distance, not our link, keep each connection slow, a few that are waited for would keep all the others
/// idle, and the rate would be low for that: until the link is full twice as much is in hand, within these bounds in bytes.
const AHEAD_DOUBLE: RangeInclusive<u64> = 256 * 1024..=512 * 1024;
/// While others wait one peer has in hand at most one part in so many. Else all would lie in one socket: a connection that
/// starts slowly, or waits for a retransmission, would leave the link idle. In more parts pieces would be complete later.
const IN_HAND_PARTS: u64 = 2;
/// Of so many peers whose turn is next, the one furthest from done is served: all, but among thousands.
const TURNS_COMPARED: usize = 64;
/// A peer whose socket has taken nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(1);

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

    pub(crate) fn asked_for(&mut self, key: PeerKey, request: Request) {
        let Some(asked) = self.block_asked(request) else {
            return self.hang_up(
                key,
                HangUp::Protocol("a request for what this torrent does not have"),
            );
        };
        let held = self.offers(PieceIndex(request.piece));
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.is_choked || !held || peer.queue.len() >= QUEUE_MAX {
            if peer.fast {
                self.send(key, Message::Reject(request));
            }
            return;
        }
        peer.queue.push_back(asked);
        if peer.takes_more() {
            self.uploads.insert(key);
        }
    }

    /// What a peer asks for: a block, and how many zeros after its own bytes.
    fn block_asked(&self, request: Request) -> Option<(BlockId, u32)> {
        let (block, length) = self
            .layout
            .asked(request.piece, request.begin, request.length)?;
        Some((block, length - self.layout.block_size(block)))
    }

    pub(crate) fn cancelled(&mut self, key: PeerKey, request: Request) {
        let Some(asked) = self.block_asked(request) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let Some(at) = peer.queue.iter().position(|queued| *queued == asked) else {
            return;
        };
        peer.queue.remove(at);
        if peer.queue.is_empty() {
            self.uploads.remove(&key);
        }
        if peer.fast {
            self.send(key, Message::Reject(request));
        }
    }

    /// Hands the driver as many blocks as it should have ready for the sockets, piece by piece: a piece that arrives
    /// whole can be passed on, many that arrive together cannot.
    pub(crate) fn fill_uploads(&mut self) {
        let budget = self.in_hand_max();
        while self.sending < budget && self.up.ready(self.now) {
            let Some(key) = self.next_upload(budget / IN_HAND_PARTS) else {
                return;
            };
            let Some(peer) = self.peers.get_mut(&key) else {
                return;
            };
            let Some((block, zeros)) = peer.queue.pop_front() else {
                return;
            };
            let bytes = u64::from(self.layout.block_size(block));
            if peer.sending == 0 {
                peer.sent_at = self.now;
            }
            peer.sending += bytes;
            if !peer.is_stuck {
                self.sending += bytes;
            }
            if peer.queue.is_empty() || !peer.takes_more() {
                self.uploads.remove(&key);
            }
            self.upload_under_way = Some((key, block.piece));
            self.up.take(self.now, bytes);
            self.out.push_back(Output::SendBlock {
                peer: key,
                block,
                zeros,
            });
        }
    }

    /// So many bytes may be in hand.
    fn in_hand_max(&self) -> u64 {
        let ahead = self.rates.up.rate(self.now).over(AHEAD).0;
        if self.queueing >= FULL && self.follows(Rule::LittleInHand) {
            ahead.max(AHEAD_MIN)
        } else {
            let (least, most) = AHEAD_DOUBLE.into_inner();
            ahead.max((ahead * 2).clamp(least, most))
        }
    }

    /// Own nodes pass on at once what they get. Stock peers choke each other for seconds: among these little in hand gains nothing.
    pub(crate) fn uplink_queues(&mut self, peer: PeerKey, delay: Duration) {
        if self.peers.get(&peer).is_some_and(|peer| peer.own) {
            self.queueing = (self.queueing * 7 + delay) / 8;
        }
    }

    /// Whose block goes next: the piece under way is finished first, then the next peer has its turn. Whoever has `part` bytes
    /// in hand waits for the others; when all have as many, nobody does. An own node's turn goes to the one furthest from done.
    fn next_upload(&mut self, part: u64) -> Option<PeerKey> {
        let is_far = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| peer.is_far);
        // A whole site waits behind a peer of another one: for it there is no such bound.
        let has_room = |key: &PeerKey| {
            (self.peers.get(key)).is_some_and(|peer| peer.sending < part || peer.is_far)
        };
        let nobody_has = !self.uploads.iter().any(has_room);
        let may = |key: &PeerKey| nobody_has || has_room(key);
        if let Some((current, piece)) = self.upload_under_way {
            let goes_on = self
                .peers
                .get(&current)
                .and_then(|peer| peer.queue.front())
                .is_some_and(|(block, _)| block.piece == piece);
            if goes_on && self.uploads.contains(&current) && may(&current) {
                return Some(current);
            }
        }
        let (before, after) = (
            self.uploads.range(..=self.upload_turn),
            self.uploads
                .range((Bound::Excluded(self.upload_turn), Bound::Unbounded)),
        );
        let far_first = self.border.has_far_peers() && self.uploads.iter().any(is_far);
        let turns = after.chain(before).copied();
        let mut turns = turns.filter(|key| may(key) && (!far_first || is_far(key)));
        let first = turns.next()?;
        let best = turns
            .take(TURNS_COMPARED - 1)
            .fold(first, |best, next| self.more_behind(best, next));
        self.upload_turn = first;
        Some(best)
    }

    /// Of two whose turn it is, the one that is further from done, when both are own nodes: so all are done at about
    /// the same time, however good their other neighbours are. Half of what we sent counts also when a peer keeps it secret:
    /// the other half may still be under way.
    fn more_behind(&self, first: PeerKey, second: PeerKey) -> PeerKey {
        let piece_length = u64::from(self.layout.piece_length());
        let held = |key| {
            let peer = self.peers.get(key).filter(|peer| peer.own)?;
            Some(u64::from(peer.have.count()).max(peer.sent / piece_length / 2))
        };
        match (held(&first), held(&second)) {
            (Some(a), Some(b)) if b < a && self.follows(Rule::FurthestFirst) => second,
            _ => first,
        }
    }

    pub(crate) fn block_sent(&mut self, key: PeerKey, block: BlockId) {
        let bytes = u64::from(self.layout.block_size(block));
        self.counters.sent += bytes;
        self.rates.up.add(self.now, bytes);
        if let Some(peer) = self.peers.get_mut(&key) {
            if !std::mem::take(&mut peer.is_stuck) {
                self.sending -= peer.sending;
            }
            peer.sending = peer.sending.saturating_sub(bytes);
            self.sending += peer.sending;
            peer.sent_at = self.now;
            peer.sent += bytes;
            peer.up.add(self.now, bytes);
            if !peer.queue.is_empty() && peer.takes_more() {
                self.uploads.insert(key);
            }
            self.spread.look_at(key);
        }
    }

    /// Finds the peers whose sockets take nothing.
    pub(crate) fn notice_stuck(&mut self) {
        for peer in self.peers.values_mut() {
            let silent = self.now.since(peer.sent_at) > STUCK;
            if !peer.is_stuck && peer.sending > 0 && silent {
                peer.is_stuck = true;
                self.sending -= peer.sending;
            }
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
