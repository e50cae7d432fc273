//! First copies are spread, not repeated.
//!
//! A complete node, or one that fetches under leases and has each piece first, tells each own peer by `Suggest` (BEP 6) which pieces to ask it for, each piece to one peer only,
//! until every piece has been seen at some peer: in spirit super-seeding (BEP 16), without hiding anything. A node
//! that gets suggestions from a peer asks that peer for nothing else while pieces are left that no other peer has.
//! So the first source sends each piece once before it sends any twice, and the swarm is never short of new pieces.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use floodway_proto::wire::Message;
use floodway_proto::{PARTS, Site, Time, part_of};

use crate::config::Rule;
use crate::io::PeerKey;
use crate::picker::Tie;
use crate::swarm::Swarm;

/// Peers in one swarm from which on spreading pays.
const PEERS_MIN: usize = 2;
/// A piece that nobody has after this long is suggested to another peer as well.
const STALE: Duration = Duration::from_secs(5);

/// New pieces for so long are under way to each peer: longer than a round trip, and no longer, since when the last are
/// dealt whoever is served sooner has nothing to ask for until all have come.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// A peer that has suggested nothing for so long is asked for anything it has.
const SILENT: Duration = Duration::from_secs(1);
/// The same for one that still fetches what it deals out: it may have nothing new, and what it has others may lack. And
/// for any as long as we lack much: then its link is worth more than that it sends nothing twice.
const SILENT_SOON: Duration = Duration::from_millis(250);
/// Less than this part of the content is little.
const LITTLE: u64 = 4;

/// Pieces to be dealt.
#[derive(Clone, Debug, Default)]
struct Lane {
    order: Vec<u32>,
    /// The next of these to look at.
    next: usize,
}

impl Lane {
    fn front(&self) -> Option<u32> {
        self.order.get(self.next).copied()
    }

    fn is_over(&self) -> bool {
        self.next == self.order.len()
    }
}

/// What a node knows of the first copies that are its to give.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    /// Pieces in a random order; none until spreading begins. One lane, or one for each part of what sites are brought.
    lanes: Vec<Lane>,
    /// Which lane was dealt from last.
    turn: usize,
    /// When each piece was last suggested.
    given_at: Vec<Option<Time>>,
    /// Pieces already passed may have been lost with their peer: look again.
    revisit: bool,
    /// Peers that may want another piece since they were looked at last.
    due: BTreeSet<PeerKey>,
}

impl Spread {
    fn begin(&mut self, pieces: u32, offered: Vec<u32>, rng: &mut Rng) {
        let mut order = offered;
        rng.shuffle(&mut order);
        self.lanes = vec![Lane { order, next: 0 }];
        self.given_at = vec![None; pieces as usize];
    }

    /// From now on pieces are dealt by parts.
    fn divide(&mut self) {
        let pieces = self.lanes.drain(..).flat_map(|lane| lane.order);
        let mut lanes = vec![Lane::default(); PARTS.into()];
        for piece in pieces {
            lanes[usize::from(part_of(piece))].order.push(piece);
        }
        self.lanes = lanes;
    }

    fn is_divided(&self) -> bool {
        self.lanes.len() > 1
    }

    /// The peer may want another piece now.
    pub(crate) fn look_at(&mut self, key: PeerKey) {
        self.due.insert(key);
    }

    pub(crate) fn forget(&mut self, key: PeerKey) {
        self.due.remove(&key);
    }

    /// One more piece is offered.
    fn offered(&mut self, piece: u32) {
        let lane = if self.is_divided() {
            part_of(piece).into()
        } else {
            0
        };
        // Before that, `begin` takes all at once.
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.order.push(piece);
        }
    }

    /// The peer that the piece was given to has it, or is gone: if nobody has it then, it is given again.
    pub(crate) fn no_longer_given(&mut self, piece: u32) {
        if let Some(given_at) = self.given_at.get_mut(piece as usize) {
            *given_at = None;
        }
    }
}

impl Swarm {
    /// Keeps every own peer supplied with pieces that only we can give.
    pub(crate) fn suggest_first_copies(&mut self) {
        if !self.deals_first_copies()
            || self.peers.is_empty()
            || !self.follows(Rule::SpreadFirstCopies)
        {
            return;
        }
        let ready = |peer: &crate::peer::Peer| {
            peer.own && peer.fast && peer.is_interested && !peer.is_choked
        };
        let due = std::mem::take(&mut self.spread.due).into_iter();
        let is_ready = |key: &PeerKey| self.peers.get(key).is_some_and(ready);
        let mut hungry: Vec<_> = due.filter(is_ready).collect();
        if self.spread.lanes.is_empty() {
            if hungry.is_empty() || self.layout.piece_count() < 2 {
                return;
            }
            hungry = self.peers.keys().copied().filter(is_ready).collect();
            if hungry.len() < PEERS_MIN {
                return;
            }
            let offered: Vec<u32> = self.offered().iter_ones().collect();
            if offered.is_empty() {
                return;
            }
            let pieces = self.layout.piece_count();
            self.spread.begin(pieces, offered, &mut self.rng);
        }
        // Most events make nobody hungry: they must not cost a look at each peer.
        if hungry.is_empty() {
            return;
        }
        let parts: Vec<Site> = if self.border.has_far_peers() {
            let far = self.peers.values().filter(|peer| peer.is_far);
            far.filter_map(|peer| peer.site).collect()
        } else {
            Vec::new()
        };
        if !parts.is_empty() && !self.spread.is_divided() {
            self.spread.divide();
        }
        if std::mem::take(&mut self.spread.revisit) {
            let over = self.spread.lanes.iter_mut().filter(|lane| lane.is_over());
            over.for_each(|lane| lane.next = 0);
        }
        // One piece each in turn, so that all get their share of the last ones.
        while !hungry.is_empty() && !self.spread.lanes.iter().all(Lane::is_over) {
            hungry.retain(|&key| self.is_hungry(key) && self.suggest_one(key, &parts));
        }
    }

    /// It has pieces that nobody can have from elsewhere: all, or those that it fetches under leases. Who has begun goes on
    /// when its leases are over: others wait for its suggestions.
    fn deals_first_copies(&self) -> bool {
        self.is_complete() || self.leased.count() > 0 || !self.spread.lanes.is_empty()
    }

    /// One more piece is offered: anybody may want to be the first to have it.
    pub(crate) fn offer_first_copy(&mut self, piece: u32) {
        if self.deals_first_copies() {
            self.spread.offered(piece);
            self.spread.due.extend(self.peers.keys());
        }
    }

    /// Time has passed, or a peer is gone: what was given may have to be given again, to anybody.
    pub(crate) fn look_again_at_first_copies(&mut self) {
        if self.deals_first_copies() {
            self.spread.revisit = true;
            self.spread.due.extend(self.peers.keys());
        }
    }

    /// The peer has fewer new pieces under way than come to it in [`UNDER_WAY`], and at least two; more where that leaves our
    /// link idle.
    fn is_hungry(&self, key: PeerKey) -> bool {
        let Some(peer) = self.peers.get(&key) else {
            return false;
        };
        let coming = peer.up.rate(self.now).over(UNDER_WAY).0;
        let coming = coming / u64::from(self.layout.piece_length()) + 2;
        peer.handed.len()
            < peer
                .handed_max
                .max(usize::try_from(coming).unwrap_or(usize::MAX))
    }

    /// Suggests the next piece that nobody else has. False when there is none for this peer. `parts`: what those of our
    /// peers bring that stand at other sites.
    fn suggest_one(&mut self, key: PeerKey, parts: &[Site]) -> bool {
        let far = self.peers.get(&key).filter(|peer| peer.is_far);
        let site = far.and_then(|peer| peer.site);
        let lanes = self.spread.lanes.len();
        let last = self.spread.turn;
        let mut turns = (1..=lanes).map(|step| (last + step) % lanes);
        turns.any(|lane| {
            let piece = u32::try_from(lane).unwrap_or(u32::MAX);
            let brings = |site: &Site| site.brings(piece);
            // A part that nobody brings goes to anybody.
            let fits = site.as_ref().is_none_or(brings) || !parts.iter().any(brings);
            fits && self.suggest_from(key, lane)
        })
    }

    fn suggest_from(&mut self, key: PeerKey, lane: usize) -> bool {
        while let Some(piece) = self.spread.lanes[lane].front() {
            let given = self.spread.given_at[piece as usize];
            let fresh = given.is_some_and(|at| self.now.since(at) < STALE);
            let lacks = self
                .peers
                .get(&key)
                .is_some_and(|peer| !peer.handed.contains(&piece));
            // That other complete nodes have it spreads nothing: they wait as we do, or leave it to us.
            if self.picker.availability(piece) as usize > self.seeds || fresh {
                self.spread.lanes[lane].next += 1;
                continue;
            }
            if !lacks {
                return false;
            }
            self.spread.lanes[lane].next += 1;
            self.spread.turn = lane;
            self.spread.given_at[piece as usize] = Some(self.now);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.handed.push(piece);
            }
            self.send(key, Message::Suggest(piece));
            return true;
        }
        false
    }

    /// A peer suggests that we ask it for this piece.
    pub(crate) fn suggested(&mut self, key: PeerKey, piece: u32) {
        if self.layout.piece(piece).is_none() {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&key)
            && peer.suggested.len() < self.layout.piece_count() as usize
        {
            peer.spreads = true;
            peer.suggested_at = self.now;
            peer.fell_silent = false;
            if !self.have.get(piece) {
                peer.suggested.push_back(piece);
            }
            self.dirty.insert(key);
        }
    }

    /// Who has suggested nothing for long, while nothing was asked of it, is asked for anything until it suggests again.
    pub(crate) fn notice_silent(&mut self) {
        let length = self.layout.length().unwrap_or(u64::MAX);
        let lacks_little = self.missing_bytes() < length / LITTLE;
        for peer in self.peers.values_mut().filter(|peer| peer.spreads) {
            let patience = if peer.is_seed() && lacks_little {
                SILENT
            } else {
                SILENT_SOON
            };
            let silent = self.now.since(peer.suggested_at.max(peer.progress_at));
            peer.fell_silent |= peer.asked.is_empty() && silent >= patience;
        }
    }

    /// The peer deals out first copies, and will soon suggest what to ask it for: pieces are left that only those who deal
    /// them out have. One that suggests nothing more believes us served, perhaps by somebody who does not serve us.
    pub(crate) fn waits_for_suggestions(&self, peer: &crate::peer::Peer) -> bool {
        if !peer.spreads || peer.fell_silent {
            return false;
        }
        if peer.is_seed() {
            let rarest = self.picker.rarest_availability();
            return rarest.is_some_and(|rarest| rarest <= self.seeds);
        }
        // A relay that still fetches deals out its part; what others have to deal is not to be waited for at this one.
        let mut rng = self.rng.clone();
        let rarest = self.picker.rarest(&peer.have, Tie::Highest, &mut rng);
        rarest.is_some_and(|piece| self.picker.availability(piece) as usize <= self.seeds + 1)
    }
}
