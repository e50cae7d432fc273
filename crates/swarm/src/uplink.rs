//! Pieces go first to those who can pass them on.
//!
//! Where uploads are the bottleneck, one node with a fast uplink could serve many, but it gets no more than its share of the
//! first copies and soon has nothing that others lack. So own nodes tell each other how busy their uplinks are, and while
//! nearly all are busy, one that is idle asks for more at once and has every other turn at those who have what it
//! lacks, until it is idle no longer.
//!
//! What a peer says of itself is believed: it can win half of what others send, as long as most others are busy, and
//! nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use floodway_proto::Time;
use floodway_proto::wire::UplinkUse;

use crate::config::Rule;
use crate::io::{Output, PeerKey};
use crate::swarm::Swarm;

/// How long an uplink is watched before others are told.
const WINDOW: Duration = Duration::from_secs(1);
/// An uplink without anything to send for less than this part of the window, in percent, is busy,
const BUSY_BELOW: u128 = 30;
/// and one without for more than this is idle.
const IDLE_ABOVE: u128 = 50;
/// Who has less than three quarters of what others have lacks pieces to give because it came late: that passes by itself.
const LATE: (u64, u64) = (3, 4);
/// So many of the peers that still fetch are busy when idle ones are favoured.
const MOST: (usize, usize) = (3, 4);
/// An idle node asks for so many times what its rate alone would ask for: at the queue of one who serves many, rate and
/// requests would keep each other small.
const ASKS: usize = 8;
/// Of so many idle peers the one furthest from done is served.
const COMPARED: usize = 5;

/// What is known of this node's uplink and of those of its peers.
#[derive(Clone, Debug)]
pub(crate) struct Uplinks {
    window_begun: Time,
    looked_at: Time,
    /// There was nothing to send when it was last looked at.
    was_idle: bool,
    /// For how long there was nothing to send in this window.
    idle: Duration,
    /// What peers were told last.
    told: UplinkUse,
    idle_peers: BTreeSet<PeerKey>,
    busy_peers: BTreeSet<PeerKey>,
    /// The next turn is an idle peer's.
    favours: bool,
}

impl Uplinks {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            window_begun: now,
            looked_at: now,
            was_idle: true,
            idle: Duration::ZERO,
            told: UplinkUse::Partly,
            idle_peers: BTreeSet::new(),
            busy_peers: BTreeSet::new(),
            favours: false,
        }
    }

    pub(crate) fn forget(&mut self, key: PeerKey) {
        self.idle_peers.remove(&key);
        self.busy_peers.remove(&key);
    }
}

impl Swarm {
    /// Something has happened, or was decided: books the time since the last look.
    pub(crate) fn watch_uplink(&mut self) {
        let nothing_to_send = self.sending == 0 && self.uploads.is_empty();
        let uplinks = &mut self.uplinks;
        if uplinks.was_idle {
            uplinks.idle += self.now.since(uplinks.looked_at);
        }
        (uplinks.looked_at, uplinks.was_idle) = (self.now, nothing_to_send);
    }

    /// Tells own nodes how busy this node's uplink was, when that has changed.
    pub(crate) fn tell_uplink(&mut self) {
        let passed = self.now.since(self.uplinks.window_begun);
        if passed < WINDOW {
            return;
        }
        self.watch_uplink();
        let idle = std::mem::take(&mut self.uplinks.idle);
        self.uplinks.window_begun = self.now;
        let percent = idle.as_micros() * 100 / passed.as_micros().max(1);
        let uplink = if self.is_complete() {
            UplinkUse::Partly
        } else if percent < BUSY_BELOW {
            UplinkUse::Busy
        } else if percent > IDLE_ABOVE && !self.came_late() {
            UplinkUse::Idle
        } else {
            UplinkUse::Partly
        };
        if std::mem::replace(&mut self.uplinks.told, uplink) != uplink {
            let own = self.peers.iter().filter(|(_, peer)| peer.own);
            for key in own.map(|(&key, _)| key).collect::<Vec<_>>() {
                self.tell_uplink_to(key);
            }
        }
    }

    /// Tells one own node how busy this node's uplink was last.
    pub(crate) fn tell_uplink_to(&mut self, key: PeerKey) {
        let uplink = self.uplinks.told;
        if self.follows(Rule::FeedIdleUplinks) {
            self.out.push_back(Output::Uplink { peer: key, uplink });
        }
    }

    /// It holds much less than the others that still fetch, or nobody does.
    fn came_late(&self) -> bool {
        let fetching = self
            .peers
            .values()
            .filter(|peer| peer.own && !peer.is_seed());
        let (peers, pieces) = fetching.fold((0, 0), |(peers, pieces), peer| {
            (peers + 1, pieces + u64::from(peer.have.count()))
        });
        u64::from(self.have.count()) * peers * LATE.1 <= pieces * LATE.0
    }

    /// An own node says how busy its uplink is.
    pub(crate) fn peer_uplink(&mut self, key: PeerKey, uplink: UplinkUse) {
        self.uplinks.forget(key);
        if !self.peers.get(&key).is_some_and(|peer| peer.own) {
            return;
        }
        match uplink {
            UplinkUse::Busy => self.uplinks.busy_peers.insert(key),
            UplinkUse::Idle => self.uplinks.idle_peers.insert(key),
            UplinkUse::Partly => false,
        };
    }

    /// Nearly all who still fetch are busy: what they are sent, few others get of them soon.
    fn most_are_busy(&self) -> bool {
        let fetching = self.peers.len() - self.seeds;
        fetching > 0 && self.uplinks.busy_peers.len() * MOST.1 >= fetching * MOST.0
    }

    /// How many times the usual requests this node has outstanding.
    pub(crate) fn asks_for_more(&self) -> usize {
        if self.uplinks.told == UplinkUse::Idle && self.most_are_busy() {
            ASKS
        } else {
            1
        }
    }

    /// Whose turn it is before all others: a peer's that would pass on what it gets at once.
    pub(crate) fn favoured_upload(&mut self) -> Option<PeerKey> {
        let favours = std::mem::replace(&mut self.uplinks.favours, false);
        if !favours || self.uplinks.idle_peers.is_empty() || !self.most_are_busy() {
            self.uplinks.favours = true;
            return None;
        }
        let idle = self.uplinks.idle_peers.intersection(&self.uploads);
        idle.take(COMPARED)
            .min_by_key(|key| self.peers[key].have.count())
            .copied()
    }
}
