//! When a final content that nobody has whole is read from its origin again.
//!
//! A relay that lost pieces which it had reported (killed before they were on its disk) leaves a content whose every hash is
//! known, and some pieces of which are nowhere but at the origin. That peers are connected says nothing: they may lack the
//! same pieces.

use std::time::{Duration, Instant};

/// Without a byte for so long, the origin is read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Relays that lack the same do not wait equally long, so that one of them reads for all.
const SPREAD: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Alone {
    received: u64,
    since: Option<Instant>,
    patience: Duration,
}

impl Alone {
    pub(super) fn new() -> Self {
        Self {
            received: 0,
            since: None,
            patience: PATIENCE + SPREAD.mul_f64(fastrand::f64()),
        }
    }

    /// To be asked every few seconds. `waits`: pieces are missing and could be taken; `received`: bytes that came, those
    /// of pieces that are not complete too. True once nobody brought anything for long.
    pub(super) fn look(&mut self, waits: bool, received: u64, now: Instant) -> bool {
        if !waits {
            self.since = None;
            return false;
        }
        let moved = std::mem::replace(&mut self.received, received) != received;
        let since = self.since.get_or_insert(now);
        if moved {
            *since = now;
        }
        now.duration_since(*since) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_standstill_counts() {
        let mut alone = Alone::new();
        let begun = Instant::now();
        let longest = PATIENCE + SPREAD;
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert!(!alone.look(true, 5, at(0)));
        assert!(!alone.look(true, 5, at(29)));
        assert!(!alone.look(true, 6, at(59)), "somebody delivers");
        assert!(!alone.look(true, 6, at(88)));
        assert!(alone.look(true, 6, at(59) + longest));
        assert!(!alone.look(false, 6, at(200)), "the disk is full");
        assert!(!alone.look(true, 6, at(300)), "and works again");
        assert!(alone.look(true, 6, at(300) + longest));
    }
}
