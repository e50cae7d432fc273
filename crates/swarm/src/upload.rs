//! Serving peers: whose block goes next, and how much at a time.

use std::ops::{Bound, RangeInclusive};
use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{BlockId, PieceIndex};

use crate::config::Rule;
use crate::io::{HangUp, Output, PeerKey};
use crate::swarm::Swarm;

/// Requests that a peer may leave with us; we advertise 2000 (`reqq`).
const QUEUE_MAX: usize = 2500;
/// What the driver has in hand and not yet put into sockets: a tenth of a second at the present rate, so that what
/// is decided next is not far behind what was decided before.
const AHEAD: Duration = Duration::from_millis(100);
/// Before a full link never less than this, in bytes.
const AHEAD_MIN: u64 = 64 * 1024;
/// Our link is full when what we send waits so long in queues.
const FULL: Duration = Duration::from_millis(30);
/// Where loss and distance, not our link, keep each connection slow, a few that are waited for would keep all the others
/// idle, and the rate would be low for that: until the link is full twice as much is in hand, within these bounds in bytes.
const AHEAD_BELOW_FULL: RangeInclusive<u64> = 256 * 1024..=512 * 1024;
/// While others wait one peer has in hand at most one part in so many. Else all would lie in one socket: a connection that
/// starts slowly, or waits for a retransmission, would leave the link idle. In more parts pieces would be complete later.
const IN_HAND_PARTS: usize = 2;
/// Of so many peers whose turn is next, the one furthest from done is served: all, but among thousands.
const TURNS_COMPARED: usize = 64;
/// Pieces. Who lacks no more than so many more than another is not further from done: as many may be on their way to it. Else all
/// who look at the same time choose the one that happens to be last, and go on with it until it has told of what they gave: its downlink
/// is the limit then, and uplinks rest.
const NEWS_UNDER_WAY: u64 = 2;
/// A peer is stuck when its oldest block in hand has waited four times as long as blocks lately did, and at least so long: what it has
/// in hand does not count, and it gets no more. Else a few that take a block now and then would hold up all the others.
const LATE_MIN: Duration = Duration::from_millis(500);
/// When these were the only ones served lately, or nobody was, our link looks as slow as they are: so often all whose blocks have
/// waited so long are taken for stuck, to see how soon the others take theirs.
const PROBE_EVERY: Duration = Duration::from_secs(8);
const PROBED: Duration = Duration::from_secs(1);

impl Swarm {
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
            let Some(key) = self.next_upload(budget / IN_HAND_PARTS as u64) else {
                return;
            };
            let Some(peer) = self.peers.get_mut(&key) else {
                return;
            };
            let Some((block, zeros)) = peer.queue.pop_front() else {
                return;
            };
            let booked = u64::from(self.layout.block_length());
            peer.sending += booked;
            peer.in_hand.push_back(self.now);
            self.sending += booked;
            if peer.queue.is_empty() || !peer.takes_more() {
                self.uploads.remove(&key);
            }
            self.note_under_way(key, block);
            self.up
                .take(self.now, u64::from(self.layout.block_size(block) + zeros));
            self.out.push_back(Output::SendBlock {
                peer: key,
                block,
                zeros,
            });
        }
    }

    /// This block is the newest of a piece under way.
    fn note_under_way(&mut self, key: PeerKey, block: BlockId) {
        let mut under_way = std::mem::take(&mut self.uploads_under_way);
        let is_of_it = |(of, last): &(PeerKey, BlockId)| *of == key && last.piece == block.piece;
        if let Some((_, last)) = under_way.iter_mut().find(|upload| is_of_it(upload)) {
            *last = block;
        } else {
            under_way.retain(|upload| self.goes_on(upload));
            under_way.push((key, block));
            let surplus = under_way.len().saturating_sub(IN_HAND_PARTS);
            under_way.drain(..surplus);
        }
        self.uploads_under_way = under_way;
    }

    /// The peer's next block is a later one of the same piece: whoever asks for the same again and again has no more than its turn.
    fn goes_on(&self, (key, last): &(PeerKey, BlockId)) -> bool {
        let next = self.peers.get(key).and_then(|peer| peer.queue.front());
        next.is_some_and(|(block, _)| block.piece == last.piece && block.index > last.index)
    }

    /// So many bytes may be in hand.
    fn in_hand_max(&self) -> u64 {
        let ahead = self.rates.up.rate(self.now).over(AHEAD).0;
        if self.queueing >= FULL && self.follows(Rule::LittleInHand) {
            ahead.max(AHEAD_MIN)
        } else {
            let (least, most) = AHEAD_BELOW_FULL.into_inner();
            ahead.max((ahead * 2).clamp(least, most))
        }
    }

    /// Own nodes pass on at once what they get. Stock peers choke each other for seconds: among these little in hand gains nothing.
    pub(crate) fn uplink_queues(&mut self, peer: PeerKey, delay: Duration) {
        if self.peers.get(&peer).is_some_and(|peer| peer.own) {
            self.queueing = (self.queueing * 7 + delay) / 8;
        }
    }

    /// Whose block goes next: the pieces under way are finished first, the oldest before others, then the next peer has its turn.
    /// Whoever has `part` bytes in hand waits for the others; when all have as many, nobody does. An own node's turn goes to the one
    /// furthest from done.
    fn next_upload(&mut self, part: u64) -> Option<PeerKey> {
        let is_far = |key: &PeerKey| self.peers.get(key).is_some_and(|peer| peer.is_far);
        // A whole site waits behind a peer of another one: for it there is no such bound.
        let has_room = |key: &PeerKey| {
            (self.peers.get(key)).is_some_and(|peer| peer.sending < part || peer.is_far)
        };
        let nobody_has = !self.uploads.iter().any(has_room);
        let may = |key: &PeerKey| nobody_has || has_room(key);
        let goes_on = |upload: &&(PeerKey, BlockId)| {
            self.uploads.contains(&upload.0) && may(&upload.0) && self.goes_on(upload)
        };
        if let Some((key, _)) = self.uploads_under_way.iter().find(goes_on) {
            return Some(*key);
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

    /// Of two whose turn it is, the one that is clearly further from done, when both are own nodes: so all are done at about
    /// the same time, however good their other neighbours are. Half of what we sent counts also when a peer keeps it secret
    /// (what others sent it does not): the other half may still be under way.
    fn more_behind(&self, first: PeerKey, second: PeerKey) -> PeerKey {
        let piece_length = u64::from(self.layout.piece_length());
        let held = |key| {
            let peer = self.peers.get(key).filter(|peer| peer.own)?;
            Some(u64::from(peer.have.count()).max(peer.sent / piece_length / 2))
        };
        match (held(&first), held(&second)) {
            (Some(a), Some(b)) if b + NEWS_UNDER_WAY < a && self.follows(Rule::FurthestFirst) => {
                second
            }
            _ => first,
        }
    }

    pub(crate) fn block_sent(&mut self, key: PeerKey, block: BlockId) {
        let bytes = u64::from(self.layout.block_size(block));
        self.counters.sent += bytes;
        self.rates.up.add(self.now, bytes);
        let late = self.late_after().min(PROBED);
        if let Some(peer) = self.peers.get_mut(&key) {
            if !peer.is_stuck {
                self.sending -= peer.sending;
            }
            let booked = u64::from(self.layout.block_length());
            peer.sending = peer.sending.saturating_sub(booked);
            if let Some(handed) = peer.in_hand.pop_front() {
                let waited = self.now.since(handed);
                let usual = self.usual_wait.unwrap_or(waited);
                self.usual_wait = Some((usual * 15 + waited) / 16);
            }
            peer.is_stuck &= peer.is_late(self.now, late);
            if !peer.is_stuck {
                self.sending += peer.sending;
            }
            peer.sent += bytes;
            peer.up.add(self.now, bytes);
            if !peer.queue.is_empty() && peer.takes_more() {
                self.uploads.insert(key);
            }
            self.spread.look_at(key);
        }
    }

    /// Finds the peers whose sockets take nothing, or too little.
    pub(crate) fn notice_stuck(&mut self) {
        let probes = self.now >= self.next_probe;
        let late = self
            .late_after()
            .min(if probes { PROBED } else { Duration::MAX });
        for (key, peer) in &mut self.peers {
            if !peer.is_stuck && peer.is_late(self.now, late) {
                peer.is_stuck = true;
                self.sending -= peer.sending;
                self.uploads.remove(key);
                self.next_probe = self.now + PROBE_EVERY;
            }
        }
    }

    /// A block in hand should have gone into its socket by then.
    fn late_after(&self) -> Duration {
        (self.usual_wait).map_or(PROBED, |usual| (usual * 4).max(LATE_MIN))
    }
}
