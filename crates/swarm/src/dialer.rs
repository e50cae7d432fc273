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
}

impl Known {
    /// Never tried.
    const NEW: Self = Self {
        state: State::Idle {
            retry_at: Time::ZERO,
        },
        failures: 0,
    };

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
    /// Those of them that are due: fewest failures first.
    due: BTreeSet<(u32, SocketAddr)>,
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
            self.set(addr, Some(Known::NEW));
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
                    self.due.remove(&(old.failures, addr));
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
            self.due.insert((self.known[&addr].failures, addr));
        }
        let &(failures, addr) = self.due.first()?;
        let state = State::Dialing;
        self.set(addr, Some(Known { state, failures }));
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
        if let Some(&Known { failures, .. }) = self.known.get(&addr) {
            let wait = RETRY_MIN * 2_u32.pow(failures.min(10));
            let retry_at = now + wait.min(RETRY_MAX);
            let (state, failures) = (State::Idle { retry_at }, failures + 1);
            self.set(addr, Some(Known { state, failures }));
        }
    }

    /// A handshake is complete. Its failures are forgotten only when it [has talked](Self::talked): one that hangs up at
    /// once each time is dialled less and less often.
    pub(crate) fn connected(&mut self, addr: SocketAddr) {
        if let Some(&Known { failures, .. }) = self.known.get(&addr) {
            let state = State::Connected;
            self.set(addr, Some(Known { state, failures }));
        }
    }

    /// The peer there takes part.
    pub(crate) fn talked(&mut self, addr: SocketAddr) {
        if let Some(&Known { state, failures }) = self.known.get(&addr)
            && failures > 0
        {
            self.set(addr, Some(Known { state, failures: 0 }));
        }
    }

    /// The connection ended; try again after `wait`.
    pub(crate) fn closed(&mut self, now: Time, addr: SocketAddr, wait: Duration) {
        if let Some(&Known { failures, .. }) = self.known.get(&addr) {
            let retry_at = now + wait;
            let state = State::Idle { retry_at };
            self.set(addr, Some(Known { state, failures }));
        }
    }

    pub(crate) fn ban(&mut self, addr: SocketAddr) {
        self.set(addr, None);
        self.banned.insert(addr);
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
    fn a_banned_address_is_never_dialled() {
        let mut dialer = Dialer::default();
        dialer.found(addr(1));
        dialer.ban(addr(1));
        dialer.found(addr(1));
        assert_eq!(dialer.next(Time::from_millis(1)), None);
    }
}
