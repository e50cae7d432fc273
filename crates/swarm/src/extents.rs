//! Which bytes the next HTTP request asks for.
//!
//! Without peers: in order, as many as one request may have. Among peers: *first copies*, pieces that no peer has and
//! nobody claims, in extents short enough that all who read the source are done at the same time; and where peers are
//! too slow, *second copies*, the rarest first.

use std::ops::Range;
use std::time::Duration;

use floodway_proto::{BlockId, PieceIndex};

use crate::blocks::Giver;
use crate::config::{Order, Rule};
use crate::http::Extent;
use crate::io::{Access, PlanReason, SourceClass, SourceKey};
use crate::swarm::Swarm;

/// Into how many requests a node cuts its share of what is missing.
const SHARED_PARTS: u64 = 4;
/// Candidates looked at before it counts as decided that there is none.
const PROBES: usize = 32;
/// When few first copies are left, few read them: pieces that arrive one after the other can be passed on meanwhile,
/// pieces that arrive all at the end cannot. One reader for so many pieces, and never fewer readers than this.
const PIECES_PER_READER: usize = 8;
const READERS_MIN: usize = 4;
/// A second copy over HTTP must come so much sooner than peers would bring it.
const SECOND_COPY_GAIN: Duration = Duration::from_secs(1);

impl Swarm {
    /// The bytes of the next request to this source.
    pub(crate) fn next_extent(&mut self, key: SourceKey, access: Access) -> Option<Range<u64>> {
        let alone = self.peers.is_empty();
        let most = self.config.extent_max;
        // Whoever reads its origin under leases gets everything else from others.
        let leased = self.by_leases && self.class_of(Giver::Source(key)) == SourceClass::Origin;
        if access == Access::OneGet {
            let wanted = if leased {
                self.first_leased_gap()
            } else if alone {
                self.first_gap()
            } else {
                self.pick_for_http(key)
            };
            // What is being hashed is no gap: the whole is not read again for it.
            return wanted.and_then(|_| Some(0..self.end_of_content()?));
        }
        if leased {
            let piece = self.first_leased_gap()?;
            return self.run_from(piece, most, |swarm, piece| swarm.leased.get(piece));
        }
        if alone {
            let piece = self.first_gap()?;
            return self.run_from(piece, most, |_, _| true);
        }
        if self.config.order == Order::Sequential {
            let first = self.first_gap()?;
            let free =
                |&piece: &u32| !self.claims.is_claimed(piece) && self.gap_in(piece).is_some();
            let piece = (first..self.layout.piece_count()).take(PROBES).find(free)?;
            let free = |swarm: &Self, piece| !swarm.claims.is_claimed(piece);
            return self.run_from(piece, self.shared_extent(), free);
        }
        let piece = self.pick_for_http(key)?;
        let rarity = self.picker.availability(piece);
        let alike = |swarm: &Self, piece| {
            swarm.picker.is_open(piece)
                && swarm.picker.availability(piece) <= rarity
                && !swarm.claims.is_claimed(piece)
        };
        let size = self.shared_extent();
        let back = size / u64::from(self.layout.piece_length());
        let start = (piece.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX))..piece)
            .rev()
            .take_while(|&before| alike(self, before))
            .last()
            .filter(|_| self.picker.is_open(piece));
        self.run_from(start.unwrap_or(piece), size, alike)
    }

    /// A piece to fetch over HTTP while peers are there.
    fn pick_for_http(&mut self, key: SourceKey) -> Option<u32> {
        if let Some(piece) = self.first_copy() {
            return Some(piece);
        }
        if self.plan.reason == PlanReason::FirstCopies || !self.peers_are_slow(key) {
            return None;
        }
        let claims = &self.claims;
        let rarest = self.picker.rarest_of(PROBES, &mut self.rng, |piece| {
            !claims.is_claimed(piece) && !self.fresh.contains(piece)
        });
        rarest.or_else(|| self.waiting_for_http(|_| true))
    }

    /// A piece that no connected peer has and nobody claims, if it is our turn to read the source.
    fn first_copy(&mut self) -> Option<u32> {
        let left = self.picker.unavailable() - self.fresh_unavailable();
        if self.claims.readers >= READERS_MIN.max(left / PIECES_PER_READER) {
            return None;
        }
        let claims = &self.claims;
        let open = self.picker.unavailable_of(PROBES, &mut self.rng, |piece| {
            !claims.is_claimed(piece) && !self.fresh.contains(piece)
        });
        open.or_else(|| self.waiting_for_http(|availability| availability == 0))
    }

    /// A begun piece with blocks that nobody is asked for.
    fn waiting_for_http(&self, availability: impl Fn(u32) -> bool) -> Option<u32> {
        let fits = |piece: &u32| {
            availability(self.picker.availability(*piece))
                && !self.claims.is_claimed(*piece)
                && self.gap_in(*piece).is_some()
        };
        self.waiting.iter().copied().find(fits)
    }

    /// Peers will not bring what they have before this source could bring a piece of it.
    fn peers_are_slow(&self, key: SourceKey) -> bool {
        let piece_length = u64::from(self.layout.piece_length());
        let waiting = self.bytes_on_offer();
        let time =
            |bytes: u64, rate: u64| Duration::from_millis(bytes.saturating_mul(1000) / rate.max(1));
        let by_peers = time(waiting, self.rates.peer.rate(self.now).0);
        let rate = self.sources.get(&key).and_then(|source| source.rate);
        let by_source = rate.map_or(Duration::ZERO, |rate| time(piece_length, rate.0));
        by_peers > by_source + SECOND_COPY_GAIN
    }

    /// The length of one request while others of the swarm may read the same source.
    pub(crate) fn shared_extent(&self) -> u64 {
        let users = 1 + self.peers.len() as u64;
        let piece_length = u64::from(self.layout.piece_length());
        (self.missing_bytes() / users / SHARED_PARTS)
            .clamp(piece_length, self.config.extent_max.max(piece_length))
    }

    /// A request that began when nobody else was there leaves the others their share.
    pub(crate) fn share_extents(&mut self) {
        if self.peers.is_empty() || self.plan.reason == PlanReason::Leased {
            return;
        }
        let share = self.shared_extent();
        let long =
            |extent: &Extent| extent.end - extent.next > 2 * share && !self.is_one_get(extent);
        let long = self.extents.iter().filter(|(_, extent)| long(extent));
        let cuts: Vec<_> = long
            .map(|(&request, extent)| (request, extent.next + share))
            .collect();
        for (request, end) in cuts {
            // Not within a piece.
            let piece = self.layout.piece_at(end - 1);
            let end = piece.map_or(end, |piece| self.layout.piece_bytes(piece).end);
            self.shorten(request, end);
        }
    }

    /// What HTTP may fetch of a piece: its first run of blocks that nobody is asked for.
    fn gap_in(&self, piece: u32) -> Option<Range<u64>> {
        if !self.has_gap(piece) {
            return None;
        }
        let piece = PieceIndex(piece);
        let Some(partial) = self.partials.get(&piece.0) else {
            return Some(self.layout.piece_bytes(piece));
        };
        let run = partial.missing_run().filter(|_| partial.only.is_none())?;
        if !self.follows(Rule::NothingTwice) {
            return Some(self.layout.piece_bytes(piece));
        }
        let byte = |index| self.layout.block_bytes(BlockId { piece, index });
        Some(byte(run.start).start..byte(run.end - 1).end)
    }

    /// The piece has blocks that nobody is asked for. When that becomes true again, `reconsider` hears of it.
    pub(crate) fn has_gap(&self, piece: u32) -> bool {
        !self.have.get(piece)
            && !self.reserved.get(piece)
            && self.may_fetch(piece)
            && !self.fresh.contains(piece)
            && self
                .partials
                .get(&piece)
                .is_none_or(|partial| partial.missing > 0)
    }

    /// The first piece with a gap. What was passed is looked at again only when `reconsider` says so.
    fn first_gap(&mut self) -> Option<u32> {
        let count = self.layout.piece_count();
        while self.gap_hint < count && !self.has_gap(self.gap_hint) {
            self.gap_hint += 1;
        }
        (self.gap_hint..count).find(|&piece| self.gap_in(piece).is_some())
    }

    /// The same among the pieces that are leased to us.
    fn first_leased_gap(&mut self) -> Option<u32> {
        let count = self.layout.piece_count();
        while self.leased_gap_hint < count
            && !(self.leased.get(self.leased_gap_hint) && self.has_gap(self.leased_gap_hint))
        {
            self.leased_gap_hint += 1;
        }
        let fits = |&piece: &u32| self.leased.get(piece) && self.gap_in(piece).is_some();
        (self.leased_gap_hint..count).find(fits)
    }

    /// The gap in `piece` and those that follow without a hole, up to about `size` bytes.
    fn run_from(
        &self,
        mut piece: u32,
        size: u64,
        goes_on: impl Fn(&Self, u32) -> bool,
    ) -> Option<Range<u64>> {
        let mut bytes = self.gap_in(piece)?;
        while bytes.end - bytes.start < size
            && bytes.end == self.layout.piece_bytes(PieceIndex(piece)).end
        {
            piece += 1;
            if piece >= self.layout.piece_count() || !goes_on(self, piece) {
                break;
            }
            match self.gap_in(piece) {
                Some(more) if more.start == bytes.end => bytes.end = more.end,
                _ => break,
            }
        }
        Some(bytes)
    }
}
