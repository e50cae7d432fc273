//! HTTP sources: extents, from the start of a gap, few and large.
//!
//! An extent is a contiguous run of bytes asked for by one range request. Its pieces are *reserved*: peers do not
//! pick them, until they have nothing else to do; then they eat the extent from its far end, and it is shortened. The
//! one GET of a source without ranges goes on all the same: what is cut off it could only be had by the whole again.

use std::ops::Range;
use std::time::Duration;

use floodway_proto::{Bitfield, BlockId, ByteRate, PieceIndex, Time};

use crate::blocks::Giver;
use crate::config::Rule;
use crate::governor::{self, Facts};
use crate::io::{Access, Event, HttpEnd, Output, PeerKey, RequestKey, SourceClass, SourceKey};
use crate::swarm::Swarm;

/// One URL.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) class: SourceClass,
    pub(crate) access: Access,
    /// It lied, changed, refused, or was taken away.
    pub(crate) gone: bool,
    pub(crate) retry_at: Time,
    /// How fast its last request was.
    pub(crate) rate: Option<ByteRate>,
    /// How often it stalled since it last brought something.
    stalls: u32,
}

/// One request under way.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) source: SourceKey,
    /// The next byte to come.
    pub(crate) next: u64,
    pub(crate) end: u64,
    /// The end, or before it of one GET whose far end peers fetch too.
    reserved_to: u64,
    start: u64,
    opened_at: Time,
    /// When the last bytes came.
    pub(crate) moved_at: Time,
}

/// A request that has brought nothing for so long is not waited for when peers have what is left of it. The source is left alone as
/// long, and twice as long each time that it stalls again, up to a limit.
const STALLED: Duration = Duration::from_secs(3);
const STALLED_MAX: Duration = Duration::from_mins(1);

impl Extent {
    /// Bytes that come by this request only.
    fn to_go(&self) -> u64 {
        self.reserved_to.saturating_sub(self.next)
    }

    /// It ends here, or where it is if that is later. What it leaves to others.
    pub(crate) fn end_at(&mut self, end: u64) -> Range<u64> {
        self.end = end.max(self.next);
        let cut = self.end..self.reserved_to;
        self.reserved_to = self.reserved_to.min(self.end);
        cut
    }
}

impl Swarm {
    pub(crate) fn http_up(&mut self, key: SourceKey, class: SourceClass, access: Access) {
        self.sources.insert(
            key,
            Source {
                class,
                access,
                gone: false,
                retry_at: Time::ZERO,
                rate: None,
                stalls: 0,
            },
        );
        self.plan_dirty = true;
    }

    pub(crate) fn http_down(&mut self, key: SourceKey) {
        if let Some(source) = self.sources.get_mut(&key) {
            source.gone = true;
        }
        self.cancel_extents(|extent| extent.source == key);
        self.plan_dirty = true;
    }

    pub(crate) fn http_end(&mut self, request: RequestKey, end: HttpEnd) {
        let Some(extent) = self.extents.remove(&request) else {
            return;
        };
        self.claims.changed = true;
        self.unreserve(extent.next..extent.reserved_to);
        if let Some(source) = self.sources.get_mut(&extent.source) {
            let (bytes, took) = (extent.next - extent.start, self.now.since(extent.opened_at));
            if bytes >= u64::from(self.layout.piece_length()) {
                let rate = u128::from(bytes) * 1000 / took.as_millis().max(1);
                source.rate = Some(ByteRate(u64::try_from(rate).unwrap_or(u64::MAX)));
            }
            match end {
                HttpEnd::Done if extent.next >= extent.end => {}
                // It ended early without saying why: treat it as a fault, or it would be asked in a tight loop.
                HttpEnd::Done => source.retry_at = self.now + Duration::from_secs(1),
                HttpEnd::Failed { after } => source.retry_at = self.now + after,
                HttpEnd::Gone => source.gone = true,
            }
        }
        self.plan_dirty = true;
        self.all_dirty = true;
    }

    /// The extent has delivered up to `end`. `None` when the request is not ours any more.
    pub(crate) fn extent_progress(&mut self, request: RequestKey, end: u64) -> Option<SourceKey> {
        let extent = self.extents.get_mut(&request)?;
        extent.next = end;
        extent.moved_at = self.now;
        let (source, last) = (extent.source, end >= extent.end);
        if let Some(source) = self.sources.get_mut(&source) {
            source.stalls = 0;
        }
        // A piece leaves the reservation with its last byte, so that a failed one can be had elsewhere.
        if let Some(piece) = end
            .checked_sub(1)
            .and_then(|byte| self.layout.piece_at(byte))
            && (last || self.layout.piece_bytes(piece).end == end)
            && self.reserved.clear(piece.0)
        {
            self.reconsider(piece.0);
        }
        Some(source)
    }

    fn unreserve(&mut self, bytes: Range<u64>) {
        for piece in self.pieces_in(&bytes) {
            if self.reserved.clear(piece) {
                self.reconsider(piece);
            }
        }
    }

    /// The pieces that share a byte with the range.
    pub(crate) fn pieces_in(&self, bytes: &Range<u64>) -> Range<u32> {
        let count = self.layout.piece_count();
        let at = |byte: u64| self.layout.piece_at(byte).map_or(count, |piece| piece.0);
        if bytes.is_empty() {
            return 0..0;
        }
        at(bytes.start)..(at(bytes.end - 1) + 1).min(count)
    }

    pub(crate) fn cancel_extents(&mut self, which: impl Fn(&Extent) -> bool) {
        let keys: Vec<_> = self
            .extents
            .iter()
            .filter(|(_, extent)| which(extent))
            .map(|(&key, _)| key)
            .collect();
        for request in keys {
            self.cancel_extent(request);
        }
    }

    pub(crate) fn cancel_extent(&mut self, request: RequestKey) {
        if let Some(extent) = self.extents.remove(&request) {
            self.out.push_back(Output::HttpCancel { request });
            self.claims.changed = true;
            self.unreserve(extent.next..extent.reserved_to);
            self.all_dirty = true;
        }
    }

    /// The piece may be fetched over HTTP: its hash is known, or this node is the one that finds it out.
    pub(crate) fn may_fetch(&self, piece: u32) -> bool {
        self.verifiable.get(piece) || self.leased.get(piece)
    }

    pub(crate) fn set_leases(&mut self, ranges: &[Range<u32>]) {
        let mut leased = Bitfield::new(self.layout.piece_count());
        for piece in ranges.iter().cloned().flatten() {
            leased.set(piece);
        }
        self.leased = leased;
        self.by_leases = true;
        (self.gap_hint, self.leased_gap_hint) = (0, 0);
        let keys: Vec<_> = self.extents.keys().copied().collect();
        for request in keys {
            let Extent {
                next, end, source, ..
            } = self.extents[&request];
            let of_origin = self.class_of(Giver::Source(source)) == SourceClass::Origin;
            let barred = self.pieces_in(&(next..end)).find(|&piece| {
                let is_leased = self.leased.get(piece);
                !is_leased && (of_origin || !self.may_fetch(piece))
            });
            if let Some(piece) = barred {
                self.shorten(request, self.layout.piece_offset(PieceIndex(piece)));
            }
        }
        self.plan_dirty = true;
    }

    pub(crate) fn shorten(&mut self, request: RequestKey, end: u64) {
        let Some(extent) = self.extents.get_mut(&request) else {
            return;
        };
        self.claims.changed = true;
        let cut = extent.end_at(end);
        let end = extent.end;
        self.out.push_back(Output::HttpShorten { request, end });
        self.unreserve(cut);
    }

    /// It reads a source without ranges.
    pub(crate) fn is_one_get(&self, extent: &Extent) -> bool {
        let source = self.sources.get(&extent.source);
        source.is_some_and(|source| source.access == Access::OneGet)
    }

    /// Leaves to peers what a server sits on although they have it: a relay may let a request wait for bytes that it has not got
    /// itself, and others stall.
    pub(crate) fn leave_stalled(&mut self) {
        if !self.follows(Rule::MeetInTheMiddle) {
            return;
        }
        let stalled = self.extents.iter().filter(|(_, one)| self.is_stalled(one));
        let stalled: Vec<_> = stalled
            .map(|(&request, extent)| (request, extent.source, extent.next))
            .collect();
        for (request, source, next) in stalled {
            if let Some(source) = self.sources.get_mut(&source) {
                let wait = STALLED * 2_u32.pow(source.stalls.min(5));
                source.stalls += 1;
                source.retry_at = self.now + wait.min(STALLED_MAX);
            }
            let extent = self.extents.get(&request);
            if extent.is_some_and(|extent| self.is_one_get(extent)) {
                self.leave_to_peers(request, next);
            } else {
                self.cancel_extent(request);
            }
        }
    }

    /// Nothing came for long, though we read, and peers have some of what is left.
    fn is_stalled(&self, extent: &Extent) -> bool {
        if extent.moved_at + STALLED > self.now || !self.fetching {
            return false;
        }
        let class = self.class_of(Giver::Source(extent.source));
        let reads = self.told_rates[usize::from(class == SourceClass::Origin)].over(STALLED);
        if reads.0 < 2 * u64::from(self.layout.block_length()) {
            return false;
        }
        let mut left = self.pieces_in(&(extent.next..extent.reserved_to));
        let on_offer = |piece: u32| !self.have.get(piece) && self.picker.availability(piece) > 0;
        if self.growing {
            // What comes next may be worth waiting for, and what an origin is asked for nobody else is to read.
            class == SourceClass::Relay && left.next().is_some_and(on_offer)
        } else {
            left.any(on_offer)
        }
    }

    /// Peers may fetch what lies behind `end` of the request.
    fn leave_to_peers(&mut self, request: RequestKey, end: u64) {
        if !self
            .extents
            .get(&request)
            .is_some_and(|one| self.is_one_get(one))
        {
            return self.shorten(request, end);
        }
        if let Some(extent) = self.extents.get_mut(&request) {
            let left = end.max(extent.next)..extent.reserved_to;
            extent.reserved_to = left.start;
            self.unreserve(left);
        }
    }

    /// Decides how much HTTP to use, tells the driver what has changed, and ends requests that are not wanted.
    pub(crate) fn replan(&mut self) {
        let plan = governor::decide(&self.facts());
        if (plan.relay, plan.origin, plan.reason)
            != (self.plan.relay, self.plan.origin, self.plan.reason)
            && self.follows(Rule::Reasons)
        {
            self.out.push_back(Output::Event(Event::Plan(plan)));
        }
        self.plan = plan;
        self.share_extents();
        let room = self.http_room();
        for (at, class, planned) in [
            (0, SourceClass::Relay, plan.relay),
            (1, SourceClass::Origin, plan.origin),
        ] {
            let rate = planned.min(room);
            if rate != self.told_rates[at] {
                self.told_rates[at] = rate;
                self.out.push_back(Output::HttpRate { class, rate });
            }
            if planned == ByteRate::ZERO {
                self.cancel_class(class);
            }
        }
    }

    fn cancel_class(&mut self, class: SourceClass) {
        let sources: Vec<_> = self
            .sources
            .iter()
            .filter(|(_, source)| source.class == class)
            .map(|(&key, _)| key)
            .collect();
        self.cancel_extents(|extent| sources.contains(&extent.source));
    }

    /// What the user's limit leaves to HTTP beside the peers: at least a twentieth, so that it is never starved.
    fn http_room(&self) -> ByteRate {
        let limit = self.down.rate();
        if self.down.is_unlimited() {
            return limit;
        }
        ByteRate(
            limit
                .0
                .saturating_sub(self.rates.peer.rate(self.now).0)
                .max(limit.0 / 20),
        )
    }

    fn facts(&self) -> Facts {
        // A failed request bars new ones for a while; another to the same source goes on.
        let busy = |key| self.extents.values().any(|extent| extent.source == key);
        let usable = |class| {
            self.sources.iter().any(|(&key, source)| {
                let ready = source.retry_at <= self.now || busy(key);
                source.class == class && !source.gone && ready
            })
        };
        let may_read_origin = !self.by_leases || self.leased.count() > 0;
        let started = self.started.unwrap_or(self.now);
        Facts {
            prefer: self.config.prefer,
            age: self.now.since(started),
            grace: self.config.grace,
            missing: if self.fetching {
                self.missing_bytes()
            } else {
                0
            },
            small: self
                .layout
                .length()
                .is_some_and(|length| length < self.config.small),
            leased: self.leased.count() > 0,
            relay: usable(SourceClass::Relay),
            origin: usable(SourceClass::Origin) && may_read_origin,
            useful_peers: self.useful,
            possible_peers: self.peers.len() + self.dialer.hopeful(),
            trying: self.dialer.is_trying(),
            unavailable: !self.sources.is_empty() && self.lacks_copies(),
            peer_silence: self
                .now
                .since(self.peer_block_at.unwrap_or(started).max(self.useful_since)),
        }
    }

    /// Some missing piece is held by no connected peer; one that HTTP is about to deliver counts too, or the plan
    /// would end the very request that mends it.
    fn lacks_copies(&self) -> bool {
        let coming = |extent: &Extent| {
            let pieces = self.pieces_in(&(extent.next..extent.end));
            let mut ends = [pieces.clone().next(), pieces.last()].into_iter().flatten();
            ends.any(|piece| self.picker.availability(piece) == 0)
        };
        self.picker.unavailable() > self.fresh_unavailable()
            || self
                .waiting
                .iter()
                .any(|&piece| self.picker.availability(piece) == 0)
            || self.extents.values().any(coming)
    }

    /// Opens requests where the plan wants HTTP and a source has room for one.
    pub(crate) fn plan_extents(&mut self) {
        if !self.fetching || self.is_complete() {
            return;
        }
        for key in self.sources.keys().copied().collect::<Vec<_>>() {
            while let Some(bytes) = self
                .room_at(key)
                .and_then(|access| self.next_extent(key, access))
            {
                self.open_extent(key, bytes);
            }
        }
    }

    /// How the source can be read, when the plan wants it and it may get one more request.
    fn room_at(&self, key: SourceKey) -> Option<Access> {
        let source = self.sources.get(&key)?;
        let planned = match source.class {
            SourceClass::Relay => self.plan.relay,
            _ => self.plan.origin,
        };
        if planned == ByteRate::ZERO || source.gone || source.retry_at > self.now {
            return None;
        }
        // Among peers one at a time: what another node fetches meanwhile need not be fetched again.
        let alone = source.access == Access::Ranges && self.peers.is_empty();
        let most = if alone {
            self.config.requests_per_source
        } else {
            1
        };
        let under_way = self.extents.values().filter(|extent| extent.source == key);
        (under_way.count() < most).then_some(source.access)
    }

    fn open_extent(&mut self, source: SourceKey, bytes: Range<u64>) {
        let request = RequestKey(self.next_request);
        self.next_request += 1;
        for piece in self.pieces_in(&bytes) {
            if !self.have.get(piece) && self.reserved.set(piece) {
                self.reconsider(piece);
            }
        }
        self.claims.changed = true;
        self.extents.insert(
            request,
            Extent {
                source,
                next: bytes.start,
                end: bytes.end,
                reserved_to: bytes.end,
                start: bytes.start,
                opened_at: self.now,
                moved_at: self.now,
            },
        );
        self.out.push_back(Output::HttpGet {
            request,
            source,
            bytes,
        });
    }

    /// A peer with nothing else to do takes the last piece of the extent that has most to go.
    pub(crate) fn pick_from_extent(&mut self, key: PeerKey) -> Option<BlockId> {
        if !self.follows(Rule::MeetInTheMiddle) {
            return None;
        }
        let piece_length = u64::from(self.layout.piece_length());
        let (&request, extent) = self
            .extents
            .iter()
            .max_by_key(|(_, extent)| extent.to_go())?;
        // What is about to come is not worth a second request.
        if extent.to_go() < 2 * piece_length {
            return None;
        }
        let last = self.layout.piece_at(extent.reserved_to - 1)?;
        let peer = self.peers.get(&key)?;
        let lacks = self.verifiable.get(last.0) && !self.have.get(last.0);
        if !peer.have.get(last.0) || !lacks || !self.border.lets(self.now, peer, last.0) {
            return None;
        }
        self.leave_to_peers(request, self.layout.piece_offset(last));
        let index = match self.partials.get(&last.0) {
            Some(partial) => partial.first_missing()?,
            None => 0,
        };
        self.begin(last.0);
        let partial = self.partials.get_mut(&last.0)?;
        partial.claim(index, key).then(|| {
            if partial.missing == 0 {
                self.waiting.remove(&last.0);
            }
            BlockId { piece: last, index }
        })
    }
}
