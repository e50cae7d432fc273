//! Whom to dial, and when again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use floodway_proto::Time;

/// Addresses remembered at most: control and trackers send new ones when these fail.
const KNOWN_MAX: usize = 2000;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(5);
/// Failures after which nobody waits for an address any more.
const HOPELESS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle { retry_at: Time },
    Dialing,
    Connected,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    state: State,
    failures: u32,
    /// How many were found before it. Who names peers does so in an order of chance; were they dialled by address, those with
    /// low ones would have all the connections.
    order: u64,
}

impl Known {
    fn is_hopeful(&self) -> bool {
        self.state == State::Dialing || self.failures < HOPELESS
    }
}

/// Addresses of possible peers. All that is asked for again and again is counted or kept in order as it changes, so it
/// costs the same whether two addresses are known or two thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialer {
    known: BTreeMap<SocketAddr, Known>,
    banned: BTreeSet<SocketAddr>,
    /// Idle addresses by when they are due.
    waiting: BTreeSet<(Time, SocketAddr)>,
    /// Those of them that are due: fewest failures first, then those found first.
    due: BTreeMap<(u32, u64), SocketAddr>,
    found: u64,
    dialing: usize,
    hopeful: usize,
    untried: usize,
}

impl Dialer {
    pub(crate) fn found(&mut self, addr: SocketAddr) {
        if self.known.len() < KNOWN_MAX
            && addr.port() != 0
            && !self.banned.contains(&addr)
            && !self.known.contains_key(&addr)
        {
            let never_tried = Known {
                state: State::Idle {
                    retry_at: Time::ZERO,
                },
                failures: 0,
                order: self.found,
            };
            self.found += 1;
            self.set(addr, Some(never_tried));
        }
    }

    /// Replaces what is known of an address, and keeps counts and orders in line with it.
    fn set(&mut self, addr: SocketAddr, new: Option<Known>) {
        let old = match new {
            Some(new) => self.known.insert(addr, new),
            None => self.known.remove(&addr),
        };
        if let Some(old) = old {
            self.hopeful -= usize::from(old.is_hopeful());
            match old.state {
                State::Idle { retry_at } => {
                    self.untried -= usize::from(retry_at == Time::ZERO);
                    self.waiting.remove(&(retry_at, addr));
                    self.due.remove(&(old.failures, old.order));
                }
                State::Dialing => self.dialing -= 1,
                State::Connected => {}
            }
        }
        if let Some(new) = new {
            self.hopeful += usize::from(new.is_hopeful());
            match new.state {
                State::Idle { retry_at } => {
                    self.untried += usize::from(retry_at == Time::ZERO);
                    self.waiting.insert((retry_at, addr));
                }
                State::Dialing => self.dialing += 1,
                State::Connected => {}
            }
        }
    }

    fn is_now(&mut self, addr: SocketAddr, state: State) {
        if let Some(&known) = self.known.get(&addr) {
            self.set(addr, Some(Known { state, ..known }));
        }
    }

    /// Addresses that may yet turn into peers.
    pub(crate) fn hopeful(&self) -> usize {
        self.hopeful
    }

    /// Some address was never tried, or is being dialled.
    pub(crate) fn is_trying(&self) -> bool {
        self.dialing > 0 || self.untried > 0
    }

    /// No address but this one is known.
    pub(crate) fn knows_only(&self, addr: SocketAddr) -> bool {
        self.known.len() <= 1 && self.known.keys().all(|known| *known == addr)
    }

    pub(crate) fn dialing(&self) -> usize {
        self.dialing
    }

    /// The next address to dial now.
    pub(crate) fn next(&mut self, now: Time) -> Option<SocketAddr> {
        while let Some(&(retry_at, addr)) = self.waiting.first()
            && retry_at <= now
        {
            self.waiting.pop_first();
            let known = &self.known[&addr];
            self.due.insert((known.failures, known.order), addr);
        }
        let (_, &addr) = self.due.first_key_value()?;
        self.is_now(addr, State::Dialing);
        Some(addr)
    }

    /// When the next address is due; `None` when there is none.
    pub(crate) fn next_at(&self) -> Option<Time> {
        if !self.due.is_empty() {
            return Some(Time::ZERO);
        }
        self.waiting.first().map(|&(retry_at, _)| retry_at)
    }

    pub(crate) fn failed(&mut self, now: Time, addr: SocketAddr) {
        if let Some(&known) = self.known.get(&addr) {
            let wait = RETRY_MIN * 2_u32.pow(known.failures.min(10));
            let retry_at = now + wait.min(RETRY_MAX);
            let failed = Known {
                state: State::Idle { retry_at },
                failures: known.failures + 1,
                ..known
            };
            self.set(addr, Some(failed));
        }
    }

    /// A handshake is complete. Its failures are forgotten only when it [has talked](Self::talked): one that hangs up at
    /// once each time is dialled less and less often.
    pub(crate) fn connected(&mut self, addr: SocketAddr) {
        self.is_now(addr, State::Connected);
    }

    /// The peer that listens there has dialled us. A dial under way goes on: which connection is kept its name decides.
    pub(crate) fn reached(&mut self, addr: SocketAddr) {
        let known = self.known.get(&addr);
        if known.is_some_and(|known| known.state != State::Dialing) {
            self.connected(addr);
        }
    }

    /// The peer there takes part.
    pub(crate) fn talked(&mut self, addr: SocketAddr) {
        if let Some(&known) = self.known.get(&addr)
            && known.failures > 0
        {
            let failures = 0;
            self.set(addr, Some(Known { failures, ..known }));
        }
    }

    /// The connection ended; try again after `wait`.
    pub(crate) fn closed(&mut self, now: Time, addr: SocketAddr, wait: Duration) {
        let retry_at = now + wait;
        self.is_now(addr, State::Idle { retry_at });
    }

    /// False when it was banned before.
    pub(crate) fn ban(&mut self, addr: SocketAddr) -> bool {
        self.set(addr, None);
        self.banned.insert(addr)
    }

    pub(crate) fn is_banned(&self, addr: SocketAddr) -> bool {
        self.banned.contains(&addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_failed_address_is_tried_again_later_and_later() {
        let mut dialer = Dialer::default();
        dialer.found(addr(1));
        let mut now = Time::ZERO;
        let mut waits = Vec::new();
        for _ in 0..4 {
            assert_eq!(dialer.next(now), Some(addr(1)));
            assert_eq!((dialer.next(now), dialer.dialing()), (None, 1));
            dialer.failed(now, addr(1));
            let next = dialer.next_at().unwrap();
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8]);
        assert_eq!(dialer.dialing(), 0);
    }

    #[test]
    fn who_hangs_up_at_once_is_tried_later_and_later_until_it_talks() {
        let mut dialer = Dialer::default();
        dialer.found(addr(1));
        let mut now = Time::ZERO;
        let mut waits = Vec::new();
        for talks in [false, false, false, true, false] {
            assert_eq!(dialer.next(now), Some(addr(1)));
            dialer.connected(addr(1));
            if talks {
                dialer.talked(addr(1));
            }
            dialer.failed(now, addr(1));
            let next = dialer.next_at().unwrap();
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 1, 2]);
    }

    #[test]
    fn addresses_are_dialled_in_the_order_in_which_they_were_found() {
        let mut dialer = Dialer::default();
        for found in [3, 1, 4, 2].map(addr) {
            dialer.found(found);
        }
        assert_eq!(dialer.next(Time::ZERO), Some(addr(3)));
        dialer.failed(Time::ZERO, addr(3));
        let now = Time::from_millis(5000);
        let rest: Vec<_> = std::iter::from_fn(|| dialer.next(now)).collect();
        assert_eq!(rest, [1, 4, 2, 3].map(addr));
    }

    #[test]
    fn a_banned_address_is_never_dialled() {
        let mut dialer = Dialer::default();
        dialer.found(addr(1));
        dialer.ban(addr(1));
        dialer.found(addr(1));
        assert_eq!(dialer.next(Time::from_millis(1)), None);
    }
}
