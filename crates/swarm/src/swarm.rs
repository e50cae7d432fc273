//! The machine: its state, how inputs enter and outputs leave.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use floodway_proto::{Bitfield, BlockId, ByteRate, Layout, PeerName, PieceIndex, Time};

use crate::blocks::{Giver, Partial};
use crate::claims::Claims;
use crate::config::{Config, Rule, Start};
use crate::dialer::Dialer;
use crate::fresh::Fresh;
use crate::http::{Extent, Source};
use crate::io::{
    Counters, Event, HangUp, HttpPlan, Input, Limits, Output, PeerKey, PlanReason, RequestKey,
    SourceClass, SourceKey,
};
use crate::peer::Peer;
use crate::picker::Picker;
use crate::rate::{Bucket, Estimate};
use crate::site::Border;
use crate::spread::Spread;

/// How often time-outs, chokes and the HTTP decision are looked at while something is going on.
const TICK: Duration = Duration::from_millis(250);

/// One node's part in the swarm of one content.
///
/// Feed [`handle_input`](Self::handle_input), then drain [`poll_output`](Self::poll_output) to
/// [`Output::WakeAt`]; several inputs may be fed before a drain. The same inputs at the same times with the same
/// seed give the same outputs.
pub struct Swarm {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    pub(crate) started: Option<Time>,

    pub(crate) have: Bitfield,
    /// Of these, what was held from the start.
    pub(crate) resumed: Bitfield,
    pub(crate) have_bytes: u64,
    pub(crate) verifiable: Bitfield,
    pub(crate) leased: Bitfield,
    /// This node reads its origin under range leases, and nothing else of it.
    pub(crate) by_leases: bool,
    pub(crate) growing: bool,
    /// Own nodes may know of the content's end, or not yet.
    pub(crate) open_ended: bool,
    pub(crate) fresh: Fresh,
    pub(crate) partials: BTreeMap<u32, Partial>,
    /// Begun pieces with blocks that nobody is asked for, outside HTTP extents.
    pub(crate) waiting: BTreeSet<u32>,
    pub(crate) picker: Picker,
    /// Who gave the blocks of a piece when it failed.
    pub(crate) failed: BTreeMap<u32, Vec<Option<Giver>>>,

    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    /// Addresses of peers that have left and gave blocks that were not judged then: blame outlives a connection.
    pub(crate) departed: BTreeMap<PeerKey, SocketAddr>,
    pub(crate) dialer: Dialer,
    /// Connected peers by name.
    pub(crate) names: BTreeMap<PeerName, PeerKey>,
    /// How many peers are complete.
    pub(crate) seeds: usize,
    /// How many peers have something that we want.
    pub(crate) useful: usize,

    pub(crate) sources: BTreeMap<SourceKey, Source>,
    pub(crate) extents: BTreeMap<RequestKey, Extent>,
    /// Pieces that an extent has still to deliver.
    pub(crate) reserved: Bitfield,
    /// No piece before this has a gap that HTTP could fill.
    pub(crate) gap_hint: u32,
    /// The same among the leased pieces.
    pub(crate) leased_gap_hint: u32,
    pub(crate) claims: Claims,
    pub(crate) next_request: u64,
    pub(crate) plan: HttpPlan,
    /// The rates last told to the driver, relay and origin.
    pub(crate) told_rates: [ByteRate; 2],

    pub(crate) down: Bucket,
    pub(crate) up: Bucket,
    pub(crate) counters: Counters,
    pub(crate) rates: Rates,
    pub(crate) peer_block_at: Option<Time>,
    /// Of a growing content: since when somebody has something that we want.
    pub(crate) useful_since: Time,
    /// Peers with something in their upload queue and room for it on its way to the socket.
    pub(crate) uploads: BTreeSet<PeerKey>,
    /// Bytes handed to the driver and not yet in sockets, those to stuck peers aside.
    pub(crate) sending: u64,
    /// How long what we send to own nodes waits in queues, smoothed.
    pub(crate) queueing: Duration,
    /// Peers that are no own nodes and have an upload slot.
    pub(crate) slots_taken: BTreeSet<PeerKey>,
    /// Pieces that are being sent, the oldest first: to whom, and the last block that was handed over.
    pub(crate) uploads_under_way: Vec<(PeerKey, BlockId)>,
    /// Whose turn was last.
    pub(crate) upload_turn: PeerKey,
    /// How long blocks that we send are in hand, smoothed.
    pub(crate) usual_wait: Option<Duration>,
    /// When peers that are only slow are taken for stuck, too.
    pub(crate) next_probe: Time,
    pub(crate) spread: Spread,
    pub(crate) border: Border,
    pub(crate) next_choke: Time,
    pub(crate) optimistic: Option<(PeerKey, Time)>,
    pub(crate) fetching: bool,
    /// Clearly less is held here than our own neighbours hold that are not complete.
    pub(crate) is_behind: bool,

    pub(crate) out: VecDeque<Output>,
    /// Peers whose requests or uploads need a look before the next wake.
    pub(crate) dirty: BTreeSet<PeerKey>,
    pub(crate) all_dirty: bool,
    pub(crate) plan_dirty: bool,
    next_tick: Time,
    /// Drains until the books are recounted: a recount must not cost more than the work that it looks over.
    #[cfg(debug_assertions)]
    recount_in: u32,
}

/// Measured rates by direction and class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) peer: Estimate,
    pub(crate) relay: Estimate,
    pub(crate) origin: Estimate,
    pub(crate) up: Estimate,
}

/// Where a swarm stands, for people and for control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Verified bytes held.
    pub have_bytes: u64,
    /// Verified pieces held.
    pub pieces_held: u32,
    /// Connected peers, and how many of them are complete.
    pub peers: usize,
    /// Connected peers that are complete.
    pub seeds: usize,
    /// From peers, now.
    pub rate_peer: ByteRate,
    /// From relays, now.
    pub rate_relay: ByteRate,
    /// From the origin or web seeds, now.
    pub rate_origin: ByteRate,
    /// To peers, now.
    pub rate_up: ByteRate,
    /// Every piece is held.
    pub complete: bool,
    /// The present decision about HTTP.
    pub plan: HttpPlan,
    /// Bytes by source since the start.
    pub counters: Counters,
}

impl Swarm {
    /// A swarm that holds `start`; `seed` decides everything random.
    pub fn new(config: Config, layout: Layout, start: Start, seed: u64) -> Self {
        let pieces = layout.piece_count();
        let estimate = Estimate::new(Duration::from_secs(2));
        let limits = config.limits;
        let held = start.have.iter_ones();
        let held = held.map(|piece| u64::from(layout.piece_size(PieceIndex(piece))));
        let have_bytes = held.sum();
        let mut swarm = Self {
            config,
            layout,
            rng: Rng::with_seed(seed),
            now: Time::ZERO,
            started: None,
            have_bytes,
            resumed: start.have.clone(),
            have: start.have,
            verifiable: if start.verifiable {
                Bitfield::full(pieces)
            } else {
                Bitfield::new(pieces)
            },
            leased: Bitfield::new(pieces),
            by_leases: false,
            growing: start.growing,
            open_ended: start.open_ended,
            fresh: Fresh::new(pieces),
            partials: BTreeMap::new(),
            waiting: BTreeSet::new(),
            picker: Picker::new(pieces),
            failed: BTreeMap::new(),
            peers: BTreeMap::new(),
            departed: BTreeMap::new(),
            dialer: Dialer::default(),
            names: BTreeMap::new(),
            seeds: 0,
            useful: 0,
            sources: BTreeMap::new(),
            extents: BTreeMap::new(),
            reserved: Bitfield::new(pieces),
            gap_hint: 0,
            leased_gap_hint: 0,
            claims: Claims::new(pieces),
            next_request: 0,
            plan: HttpPlan {
                relay: ByteRate::ZERO,
                origin: ByteRate::ZERO,
                reason: PlanReason::NoSource,
            },
            told_rates: [ByteRate::ZERO; 2],
            down: Bucket::new(limits.down),
            up: Bucket::new(limits.up),
            counters: Counters::default(),
            rates: Rates {
                peer: estimate,
                relay: estimate,
                origin: estimate,
                up: estimate,
            },
            peer_block_at: None,
            useful_since: Time::ZERO,
            uploads: BTreeSet::new(),
            sending: 0,
            queueing: Duration::ZERO,
            slots_taken: BTreeSet::new(),
            uploads_under_way: Vec::new(),
            upload_turn: PeerKey(0),
            usual_wait: None,
            next_probe: Time::ZERO,
            spread: Spread::default(),
            border: Border::default(),
            next_choke: Time::ZERO,
            optimistic: None,
            fetching: true,
            is_behind: false,
            out: VecDeque::new(),
            dirty: BTreeSet::new(),
            all_dirty: false,
            plan_dirty: true,
            next_tick: Time::ZERO,
            #[cfg(debug_assertions)]
            recount_in: 0,
        };
        swarm.counters.resumed = swarm.have_bytes;
        for (piece, blocks) in start.partial {
            swarm.resume_partial(piece, &blocks);
        }
        for piece in 0..pieces {
            swarm.reconsider(piece);
        }
        if swarm.is_complete() {
            swarm.out.push_back(Output::Event(Event::Complete));
        }
        swarm
    }

    /// Blocks that are on disk already; their piece is hashed when the others have come, or at once if all are there.
    fn resume_partial(&mut self, piece: PieceIndex, blocks: &Bitfield) {
        if self.have.get(piece.0) || blocks.len() != self.layout.block_count(piece) {
            return;
        }
        let mut partial = Partial::new(blocks.len());
        for block in blocks.iter_ones() {
            partial.receive(block, None);
        }
        self.partials.insert(piece.0, partial);
    }

    /// Feeds one thing that happened at `now`; then drain [`Self::poll_output`] to `WakeAt`.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        assert!(now >= self.now, "time runs forward");
        self.now = now;
        if self.started.is_none() {
            self.started = Some(now);
        }
        match input {
            Input::PeersFound(addrs) => self.peers_found(&addrs),
            Input::DialFailed { addr } => self.dialer.failed(now, addr),
            Input::PeerUp {
                peer,
                addr,
                name,
                inbound,
                fast,
            } => self.peer_up(peer, addr, name, inbound, fast),
            Input::PeerExtended {
                peer,
                request_queue,
                own,
                hears_claims,
                listen_port,
            } => {
                self.peer_extended(peer, request_queue, own, hears_claims);
                self.peer_listens(peer, listen_port);
            }
            Input::PeerSite { peer, site } => self.peer_site(peer, site),
            Input::PeerClaims { peer, claims } => self.peer_claims(peer, &claims),
            Input::PeerMessage { peer, message } => self.peer_message(peer, message),
            Input::Block { from, block, buf } => self.block_in(from, block, buf),
            Input::BlockSent { peer, block } => self.block_sent(peer, block),
            Input::Queueing { peer, delay } => self.uplink_queues(peer, delay),
            Input::Banish { peer } => {
                self.hang_up(
                    peer,
                    HangUp::Protocol("a rule of another part of this node"),
                );
            }
            Input::PeerDown { peer } => self.peer_down(peer),
            Input::HttpUp {
                source,
                class,
                access,
            } => self.http_up(source, class, access),
            Input::HttpDown { source } => self.http_down(source),
            Input::HttpEnd { request, end } => self.http_end(request, end),
            Input::Hashed { piece, verdict } => self.hashed(piece, verdict),
            Input::PieceLost { piece } => self.piece_lost(piece),
            Input::Verifiable { pieces } => self.now_verifiable(pieces),
            Input::Ended { length } => self.ended(length),
            Input::Leases(ranges) => self.set_leases(&ranges),
            Input::Site(site) => self.set_site(site),
            Input::Limits(limits) => self.set_limits(limits),
            Input::Fetching(on) => self.set_fetching(on),
            Input::Tick => {}
        }
    }

    /// The next thing to do. `WakeAt`: nothing is left until then, or (`None`) until an input.
    #[must_use]
    pub fn poll_output(&mut self) -> Output {
        if self.out.is_empty() {
            self.settle();
        }
        self.out
            .pop_front()
            .unwrap_or_else(|| Output::WakeAt(self.wake_at()))
    }

    /// Brings requests, uploads and the HTTP plan in line with what has changed since the last drain.
    fn settle(&mut self) {
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.tick();
        }
        if self.plan_dirty {
            self.plan_dirty = false;
            self.replan();
        }
        // Before the peers: what a peer sat on must not go back to it while HTTP could bring it.
        self.plan_extents();
        self.tell_claims();
        if std::mem::take(&mut self.all_dirty) {
            self.dirty.clear();
            let mut peers: Vec<_> = self.peers.keys().copied().collect();
            self.rng.shuffle(&mut peers);
            for peer in peers {
                self.fill_requests(peer);
            }
        } else {
            while let Some(peer) = self.dirty.pop_first() {
                self.fill_requests(peer);
            }
        }
        self.suggest_first_copies();
        self.fill_uploads();
        self.dial();
        #[cfg(debug_assertions)]
        self.check_invariants();
    }

    fn tick(&mut self) {
        self.expire_requests();
        self.expire_claims();
        self.expire_fresh();
        self.leave_stalled();
        self.reassign_failed();
        self.notice_stuck();
        self.notice_silent();
        self.notice_behind();
        self.look_at_overdue();
        self.choke_round();
        self.look_again_at_first_copies();
        self.plan_dirty = true;
        self.all_dirty = true;
    }

    fn wake_at(&self) -> Option<Time> {
        let busy = !self.peers.is_empty() || (!self.is_complete() && !self.sources.is_empty());
        let tick = busy.then_some(self.next_tick);
        let dial = if self.may_dial() {
            self.dialer.next_at()
        } else {
            None
        };
        let buckets = if busy {
            [self.down.ready_at(), self.up.ready_at()]
        } else {
            [None; 2]
        };
        [tick, dial, buckets[0], buckets[1]]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(self.now + Duration::from_millis(1)))
    }

    /// The rule holds: only simulations leave one out.
    pub(crate) fn follows(&self, rule: Rule) -> bool {
        self.config.without != Some(rule)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.layout.length().is_some() && self.have.is_full()
    }

    /// Bytes not held that may be fetched now.
    pub(crate) fn missing_bytes(&self) -> u64 {
        self.layout.length().unwrap_or(u64::MAX) - self.have_bytes
    }

    fn set_limits(&mut self, limits: Limits) {
        self.config.limits = limits;
        self.down.set_rate(self.now, limits.down);
        self.up.set_rate(self.now, limits.up);
        self.all_dirty = true;
        self.plan_dirty = true;
    }

    fn set_fetching(&mut self, on: bool) {
        self.fetching = on;
        self.plan_dirty = true;
        self.all_dirty = true;
        if !on {
            self.drop_all_requests();
        }
    }

    fn now_verifiable(&mut self, pieces: Range<u32>) {
        for piece in pieces {
            if self.layout.piece(piece).is_none() || !self.verifiable.set(piece) {
                continue;
            }
            self.note_fresh(piece);
            self.reconsider(piece);
            if self.have.get(piece) {
                // Fetched under a lease: others can verify it only now.
                self.offer(piece, false);
            } else {
                self.count_wanted(piece);
            }
        }
        self.plan_dirty = true;
    }

    /// True when the piece is held and others can verify it: then it is offered to them, and given to who asks.
    pub fn offers(&self, piece: PieceIndex) -> bool {
        self.have.get(piece.0) && self.verifiable.get(piece.0)
    }

    /// All that is offered.
    pub(crate) fn offered(&self) -> Bitfield {
        let mut offered = Bitfield::new(self.layout.piece_count());
        for piece in self.have.iter_common(&self.verifiable) {
            offered.set(piece);
        }
        offered
    }

    /// Puts a piece where it belongs: open for peers, waiting for its missing blocks, or neither.
    pub(crate) fn reconsider(&mut self, piece: u32) {
        let free = self.verifiable.get(piece) && !self.have.get(piece) && !self.reserved.get(piece);
        match self.partials.get(&piece) {
            None if free => self.picker.open(piece, &mut self.rng),
            _ => self.picker.close(piece),
        }
        match self.partials.get(&piece) {
            Some(partial) if free && partial.missing > 0 => {
                self.waiting.insert(piece);
            }
            _ => {
                self.waiting.remove(&piece);
            }
        }
        if piece < self.gap_hint && self.has_gap(piece) {
            self.gap_hint = piece;
        }
        if piece < self.leased_gap_hint && self.leased.get(piece) && self.has_gap(piece) {
            self.leased_gap_hint = piece;
        }
    }

    pub(crate) fn class_of(&self, giver: Giver) -> SourceClass {
        match giver {
            Giver::Peer(_) => SourceClass::Peer,
            Giver::Source(source) => self
                .sources
                .get(&source)
                .map_or(SourceClass::Origin, |source| source.class),
        }
    }

    pub(crate) fn send(&mut self, peer: PeerKey, message: floodway_proto::wire::Message) {
        self.out.push_back(Output::Send { peer, message });
    }

    /// Where the swarm stands.
    pub fn progress(&self) -> Progress {
        Progress {
            have_bytes: self.have_bytes,
            pieces_held: self.have.count(),
            peers: self.peers.len(),
            seeds: self.seeds,
            rate_peer: self.rates.peer.rate(self.now),
            rate_relay: self.rates.relay.rate(self.now),
            rate_origin: self.rates.origin.rate(self.now),
            rate_up: self.rates.up.rate(self.now),
            complete: self.is_complete(),
            plan: self.plan,
            counters: self.counters,
        }
    }

    /// The hash of every piece is known here, and what was held before that was compared with it.
    pub fn all_verifiable(&self) -> bool {
        self.verifiable.is_full()
    }

    /// True when the piece is held and verified.
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.have.get(piece.0)
    }

    #[cfg(debug_assertions)]
    fn check_invariants(&mut self) {
        if self.recount_in > 0 {
            self.recount_in -= 1;
            return;
        }
        self.recount_in = self.layout.piece_count() / 16;
        self.picker.check_invariants();
        for (&piece, partial) in &self.partials {
            partial.check_invariants();
            assert!(
                !self.have.get(piece),
                "piece {piece} is both held and begun"
            );
            assert!(
                !self.picker.is_open(piece),
                "piece {piece} is both open and begun"
            );
        }
        for piece in self.have.iter_ones() {
            assert!(
                !self.picker.is_open(piece),
                "piece {piece} is both open and held"
            );
        }
        self.check_counts();
        for peer in self.peers.values() {
            let asked = peer
                .asked
                .iter()
                .map(|asked| asked.block)
                .collect::<BTreeSet<_>>();
            assert_eq!(
                asked.len(),
                peer.asked.len(),
                "a block is asked of a peer once"
            );
            assert!(
                asked.iter().all(|block| !self.have.get(block.piece.0)),
                "asked for a piece we have"
            );
        }
    }

    /// What is counted as it changes is what a recount finds.
    #[cfg(debug_assertions)]
    fn check_counts(&self) {
        let count = |is: fn(&Peer) -> bool| self.peers.values().filter(|peer| is(peer)).count();
        assert_eq!(self.seeds, count(Peer::is_seed));
        assert_eq!(self.useful, count(|peer| peer.wanted > 0));
        assert_eq!(
            self.slots_taken.len(),
            count(|peer| !peer.own && !peer.is_choked)
        );
        assert_eq!(self.names.len(), self.peers.len());
        let moving = self.peers.values().filter(|peer| !peer.is_stuck);
        assert_eq!(self.sending, moving.map(|peer| peer.sending).sum::<u64>());
        let ready = |peer: &Peer| !peer.queue.is_empty() && peer.takes_more();
        assert_eq!(self.uploads.len(), count(ready));
    }
}
