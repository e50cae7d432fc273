//! How much HTTP to use now: a pure decision over measured facts.
//!
//! This is the simple rule; the minimum-speed guarantee replaces [`decide`] behind the same types.

use std::time::Duration;

use floodway_proto::ByteRate;

use crate::config::Prefer;
use crate::io::{HttpPlan, PlanReason};

/// What the decision depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) prefer: Prefer,
    /// How long the swarm has run.
    pub(crate) age: Duration,
    pub(crate) grace: Duration,
    /// Bytes still missing and allowed to be fetched.
    pub(crate) missing: u64,
    /// The content is so small that waiting costs more than fetching.
    pub(crate) small: bool,
    /// Pieces are leased to this node.
    pub(crate) leased: bool,
    /// A relay's HTTP side is usable.
    pub(crate) relay: bool,
    /// The origin is usable.
    pub(crate) origin: bool,
    /// Peers connected that have something we want.
    pub(crate) useful_peers: usize,
    /// Addresses that may yet turn into peers, connected ones included.
    pub(crate) possible_peers: usize,
    /// An address was never tried, or is being dialled.
    pub(crate) trying: bool,
    /// Missing pieces that no connected peer has.
    pub(crate) unavailable: bool,
    /// Since a peer last delivered, or since the start.
    pub(crate) peer_silence: Duration,
}

/// Peers that are connected and deliver nothing for so long count as stalled.
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// How much HTTP to use, from whom and why. Relays go before the origin.
pub(crate) fn decide(facts: &Facts) -> HttpPlan {
    let (on, reason) = wanted(facts);
    let rate = |usable: bool| {
        if on && usable {
            ByteRate::MAX
        } else {
            ByteRate::ZERO
        }
    };
    let relay = rate(facts.relay);
    // Under a range lease this node is the one that reads the origin.
    let origin = rate(facts.origin && (facts.leased || !facts.relay));
    HttpPlan {
        relay,
        origin,
        reason,
    }
}

fn wanted(facts: &Facts) -> (bool, PlanReason) {
    if facts.missing == 0 {
        return (false, PlanReason::NothingLeft);
    }
    if !facts.relay && !facts.origin {
        return (false, PlanReason::NoSource);
    }
    if facts.leased {
        return (true, PlanReason::Leased);
    }
    if facts.small && facts.prefer == Prefer::Speed {
        return (true, PlanReason::Small);
    }
    if facts.possible_peers == 0 {
        return (true, PlanReason::NoPeers);
    }
    let waited = facts.age >= facts.grace;
    // Whoever prefers speed waits for nobody once all who are known are connected and have nothing.
    let waits = facts.trying || facts.prefer == Prefer::Peers;
    if facts.useful_peers == 0 && !waited && waits {
        return (false, PlanReason::Grace);
    }
    match facts.prefer {
        Prefer::Speed => (true, PlanReason::Speed),
        Prefer::Peers if facts.useful_peers > 0 && facts.peer_silence >= STALL => {
            (true, PlanReason::PeersStalled)
        }
        Prefer::Peers if facts.unavailable && waited => (true, PlanReason::FirstCopies),
        Prefer::Peers => (false, PlanReason::PeersServe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        prefer: Prefer::Peers,
        age: Duration::from_mins(1),
        grace: Duration::from_secs(2),
        missing: 1 << 30,
        small: false,
        leased: false,
        relay: true,
        origin: true,
        useful_peers: 3,
        possible_peers: 5,
        trying: false,
        unavailable: false,
        peer_silence: Duration::ZERO,
    };

    fn check(facts: Facts, relay: bool, origin: bool, reason: PlanReason) {
        let plan = decide(&facts);
        assert_eq!(
            (
                plan.relay > ByteRate::ZERO,
                plan.origin > ByteRate::ZERO,
                plan.reason
            ),
            (relay, origin, reason)
        );
    }

    #[test]
    fn with_preference_peers_http_rests_while_they_deliver() {
        check(FACTS, false, false, PlanReason::PeersServe);
        check(
            Facts {
                unavailable: true,
                ..FACTS
            },
            true,
            false,
            PlanReason::FirstCopies,
        );
        check(
            Facts {
                peer_silence: STALL,
                ..FACTS
            },
            true,
            false,
            PlanReason::PeersStalled,
        );
    }

    #[test]
    fn the_origin_is_used_only_without_a_relay() {
        let facts = Facts {
            prefer: Prefer::Speed,
            ..FACTS
        };
        check(facts, true, false, PlanReason::Speed);
        check(
            Facts {
                relay: false,
                ..facts
            },
            false,
            true,
            PlanReason::Speed,
        );
        check(
            Facts {
                leased: true,
                ..facts
            },
            true,
            true,
            PlanReason::Leased,
        );
    }

    #[test]
    fn nobody_waits_for_peers_that_are_not_there() {
        let young = Facts {
            age: Duration::ZERO,
            useful_peers: 0,
            unavailable: true,
            ..FACTS
        };
        check(young, false, false, PlanReason::Grace);
        let hasty = Facts {
            prefer: Prefer::Speed,
            trying: true,
            ..young
        };
        check(hasty, false, false, PlanReason::Grace);
        check(
            Facts {
                trying: false,
                ..hasty
            },
            true,
            false,
            PlanReason::Speed,
        );
        check(
            Facts {
                possible_peers: 0,
                ..young
            },
            true,
            false,
            PlanReason::NoPeers,
        );
        check(
            Facts {
                prefer: Prefer::Speed,
                small: true,
                ..young
            },
            true,
            false,
            PlanReason::Small,
        );
        check(
            Facts {
                missing: 0,
                ..young
            },
            false,
            false,
            PlanReason::NothingLeft,
        );
        check(
            Facts {
                relay: false,
                origin: false,
                ..young
            },
            false,
            false,
            PlanReason::NoSource,
        );
    }
}
