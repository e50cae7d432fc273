//! What we know of one connected peer.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use floodway_proto::{Bitfield, BlockId, Layout, PeerName, Site, Time};

use crate::rate::Estimate;

/// A request that the peer has not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) block: BlockId,
    pub(crate) at: Time,
}

/// One connected peer.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) name: PeerName,
    pub(crate) inbound: bool,
    /// Where it listens, when it dialled us: an own node says so (and may be wrong); else it is known from a second connection
    /// that we dialled and gave up for this one. A stock peer picks between the two by a rule of its own and may drop the other:
    /// then it must be dialled again soon.
    pub(crate) listens_at: Option<SocketAddr>,
    pub(crate) fast: bool,
    pub(crate) own: bool,
    /// Where it says that it stands.
    pub(crate) site: Option<Site>,
    /// It stands at another site than we do.
    pub(crate) is_far: bool,
    /// It stopped answering: what it has does not count as being at our site.
    pub(crate) is_lost: bool,
    pub(crate) have: Bitfield,
    /// Whether it has told us what it has: that must come first (BEP 3, 6).
    pub(crate) announced: bool,
    /// Pieces that it has and we want.
    pub(crate) wanted: u32,
    pub(crate) we_are_interested: bool,
    pub(crate) we_are_choked: bool,
    pub(crate) is_interested: bool,
    pub(crate) is_choked: bool,
    /// Requests under way, oldest first.
    pub(crate) asked: VecDeque<Asked>,
    /// Requests that were taken back and that it answers all the same, by a block or a reject (BEP 6), oldest first.
    taken_back: VecDeque<BlockId>,
    pub(crate) request_queue: usize,
    /// Grows with each block until the rate stops growing.
    depth: usize,
    slow_start: bool,
    /// The last time that it was asked, the depth was the limit, not what there was to ask for: it may grow (as RFC 7661 has it for
    /// congestion windows). Else it would grow while a few blocks come fast, and then all at once would be asked of this peer.
    pub(crate) depth_used: bool,
    pub(crate) down: Estimate,
    /// The same over a longer time: what the choker compares.
    pub(crate) down_long: Estimate,
    pub(crate) up: Estimate,
    rtt_min: Option<Duration>,
    /// How long it made us wait for the next block lately, while some were asked. Its rate would say less: that also
    /// sinks when it is asked for little.
    gap: Duration,
    /// Its requests timed out: it gets one at a time until it delivers.
    pub(crate) snubbed: bool,
    /// The last time that it delivered a block, or was first asked after a silence.
    pub(crate) progress_at: Time,
    /// What it asked of us, in order: blocks, and with how many zeros after their own bytes.
    pub(crate) queue: VecDeque<(BlockId, u32)>,
    /// Bytes handed to the driver and not yet in the socket; each block counts as a whole one.
    pub(crate) sending: u64,
    /// When each of these blocks was handed over, oldest first.
    pub(crate) in_hand: VecDeque<Time>,
    /// Its socket takes nothing, or too little: what it holds up must not count against the others.
    pub(crate) is_stuck: bool,
    pub(crate) sent: u64,
    /// Pieces that it suggests to us, in order (BEP 6).
    pub(crate) suggested: VecDeque<u32>,
    /// It hands out first copies by suggestion: until all pieces are out, we ask it for nothing else.
    pub(crate) spreads: bool,
    /// It suggested nothing for long: it is not waited for until it does.
    pub(crate) fell_silent: bool,
    /// When it last suggested something.
    pub(crate) suggested_at: Time,
    /// So many new pieces may be under way to it, as long as that leaves our link idle.
    pub(crate) handed_max: usize,
    /// Pieces that we have suggested to it and that it has not got yet.
    pub(crate) handed: Vec<u32>,
    /// It wants to know what we fetch over HTTP.
    pub(crate) hears_claims: bool,
    /// Pieces that it says it fetches over HTTP and has not got yet.
    pub(crate) claims: BTreeSet<u32>,
    /// Nobody had some of these pieces when it claimed them.
    pub(crate) claims_first_copies: bool,
    /// Its claims are void then, unless a piece of them comes.
    pub(crate) claims_until: Time,
    /// Its claims became void: they count for nothing until a piece comes.
    pub(crate) claims_doubted: bool,
}

/// What a peer that says nothing of it can queue (libtorrent's and others' default).
const REQUEST_QUEUE_DEFAULT: usize = 250;
/// What may be on its way to the socket of one peer: a slow one must not hold everything.
const SENDING_MAX: u64 = 1024 * 1024;
/// The most requests we keep outstanding with one peer.
const DEPTH_MAX: usize = 2000;
/// The fewest: below these bytes, or two, a round trip is an idle link. More would lie for long with a slow peer.
const DEPTH_MIN_BYTES: u32 = 64 * 1024;
/// A longer gap is not waited for in proportion.
const GAP_MAX: Duration = Duration::from_secs(20);
/// Beyond some gaps, silence of this length means that requests are lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same of an own node: it serves those first that are further from done, and whoever is ahead waits for long.
const PATIENCE_OWN: Duration = Duration::from_secs(4);
/// What must be under way beyond one round trip, so that a late answer does not leave the link idle.
const SLACK: Duration = Duration::from_millis(250);
/// The same for who is behind its neighbours: then some of its requests wait wherever others' do not, so that it can be served first.
const SLACK_BEHIND: Duration = Duration::from_millis(500);

/// The fewest requests that are kept outstanding with one peer.
pub(crate) fn depth_min(block_length: u32) -> usize {
    (DEPTH_MIN_BYTES / block_length).max(2) as usize
}

impl Peer {
    pub(crate) fn new(
        now: Time,
        addr: SocketAddr,
        name: PeerName,
        inbound: bool,
        fast: bool,
        layout: &Layout,
    ) -> Self {
        let pieces = layout.piece_count();
        Self {
            addr,
            name,
            inbound,
            listens_at: None,
            fast,
            own: false,
            site: None,
            is_far: false,
            is_lost: false,
            have: Bitfield::new(pieces),
            announced: false,
            wanted: 0,
            we_are_interested: false,
            we_are_choked: true,
            is_interested: false,
            is_choked: true,
            asked: VecDeque::new(),
            taken_back: VecDeque::new(),
            request_queue: REQUEST_QUEUE_DEFAULT,
            depth: depth_min(layout.block_length()),
            slow_start: true,
            depth_used: false,
            down: Estimate::new(Duration::from_secs(2)),
            down_long: Estimate::new(Duration::from_secs(10)),
            up: Estimate::new(Duration::from_secs(5)),
            rtt_min: None,
            gap: Duration::ZERO,
            snubbed: false,
            progress_at: now,
            queue: VecDeque::new(),
            sending: 0,
            in_hand: VecDeque::new(),
            is_stuck: false,
            sent: 0,
            suggested: VecDeque::new(),
            spreads: false,
            fell_silent: false,
            suggested_at: now,
            handed_max: 2,
            handed: Vec::new(),
            hears_claims: false,
            claims: BTreeSet::new(),
            claims_first_copies: false,
            claims_until: now,
            claims_doubted: false,
        }
    }

    /// What it has is not at our site.
    pub(crate) fn is_away(&self) -> bool {
        self.is_far || self.is_lost
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.have.is_full()
    }

    /// More may be handed to the driver for it.
    pub(crate) fn takes_more(&self) -> bool {
        !self.is_stuck && self.sending < SENDING_MAX
    }

    /// Its oldest block in hand has waited longer than this.
    pub(crate) fn is_late(&self, now: Time, after: Duration) -> bool {
        let oldest = self.in_hand.front();
        oldest.is_some_and(|&handed| now.since(handed) > after)
    }

    pub(crate) fn may_ask(&self) -> bool {
        !self.we_are_choked && self.we_are_interested
    }

    /// How many requests may be outstanding: rate × (round trip + slack), in slow start one more per block received; never
    /// more than the peer keeps. The slack is larger for a node that is behind its neighbours.
    pub(crate) fn depth(&self, now: Time, block_length: u32, is_behind: bool) -> usize {
        if self.snubbed {
            return 1;
        }
        let slack = if is_behind { SLACK_BEHIND } else { SLACK };
        let window = self.rtt_min.unwrap_or_default() + slack;
        let steady = self
            .down
            .rate(now)
            .over(window)
            .0
            .div_ceil(u64::from(block_length));
        let steady = usize::try_from(steady).unwrap_or(DEPTH_MAX);
        let depth = if self.slow_start {
            self.depth.max(steady)
        } else {
            steady
        };
        let most = DEPTH_MAX.min(self.request_queue);
        depth.max(depth_min(block_length)).min(most)
    }

    /// Accounts for a block that came, and returns whether it had been asked for.
    pub(crate) fn delivered(&mut self, now: Time, block: BlockId, bytes: u32) -> bool {
        self.down.add(now, u64::from(bytes));
        self.down_long.add(now, u64::from(bytes));
        self.snubbed = false;
        let before = std::mem::replace(&mut self.progress_at, now);
        let Some(at) = self.asked.iter().position(|asked| asked.block == block) else {
            self.answers_taken_back(block);
            return false;
        };
        let Some(asked) = self.asked.remove(at) else {
            return false;
        };
        let took = now.since(asked.at);
        let gap = now.since(before.max(asked.at));
        let rtt = self.rtt_min.map_or(took, |rtt| rtt.min(took));
        self.rtt_min = Some(rtt);
        self.gap = gap.max((self.gap * 7 + gap) / 8);
        if self.slow_start {
            self.depth += usize::from(self.depth_used);
            // Answers take far longer than a round trip: the link, not the depth, is the limit now.
            self.slow_start = took < rtt * 2 + SLACK && self.depth < DEPTH_MAX;
        }
        true
    }

    /// Removes a request that will not be answered. True when there was one.
    pub(crate) fn unask(&mut self, block: BlockId) -> bool {
        let at = self.asked.iter().position(|asked| asked.block == block);
        at.is_some_and(|at| self.asked.remove(at).is_some())
    }

    /// A request was taken back.
    pub(crate) fn takes_back(&mut self, block: BlockId) {
        if !self.fast {
            return;
        }
        if self.taken_back.len() == DEPTH_MAX {
            self.taken_back.pop_front();
        }
        self.taken_back.push_back(block);
    }

    /// True when an answer for this block belongs to a request that was taken back: one for the same block that was made since is
    /// still open.
    pub(crate) fn answers_taken_back(&mut self, block: BlockId) -> bool {
        let at = self.taken_back.iter().position(|back| *back == block);
        at.is_some_and(|at| self.taken_back.remove(at).is_some())
    }

    /// When its oldest request counts as lost: nothing came for several times its usual gap.
    pub(crate) fn expires_at(&self) -> Option<Time> {
        let oldest = self.asked.front()?;
        let patience = if self.rtt_min.is_none() {
            Duration::from_secs(10)
        } else {
            self.gap.min(GAP_MAX) * 3 + if self.own { PATIENCE_OWN } else { PATIENCE }
        };
        Some(oldest.at.max(self.progress_at) + patience)
    }

    /// The shortest time that an answer took.
    pub(crate) fn round_trip(&self) -> Duration {
        self.rtt_min.unwrap_or_default()
    }

    /// How long an answer will take at its present rate, when `before` requests are answered first.
    pub(crate) fn answers_in(&self, now: Time, before: usize, block_length: u32) -> Duration {
        let bytes = before as u64 * u64::from(block_length);
        Duration::from_micros(bytes.saturating_mul(1_000_000) / self.down.rate(now).0.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        let addr = SocketAddr::from(([10, 0, 0, 1], 1));
        let layout = Layout::new(Some(1 << 20), 1 << 18).unwrap();
        Peer::new(Time::ZERO, addr, PeerName([1; 20]), true, true, &layout)
    }

    #[test]
    fn never_more_is_asked_than_the_peer_keeps() {
        let mut peer = peer();
        assert_eq!(peer.depth(Time::ZERO, 16384, false), 4);
        peer.request_queue = 1;
        assert_eq!(peer.depth(Time::ZERO, 16384, false), 1);
    }

    #[test]
    fn few_large_blocks_are_asked_of_a_slow_peer() {
        let peer = Peer { depth: 0, ..peer() };
        assert_eq!(peer.depth(Time::ZERO, 1 << 14, false), 4);
        assert_eq!(peer.depth(Time::ZERO, 1 << 16, false), 2);
    }
}
