//! How much a peer may send, or ask for.

use std::time::Duration;

use floodway_proto::Time;

/// A burst is what two seconds allow.
const BURST_S: f64 = 2.0;
/// So many times the burst in vain, since the budget was last full, is no mistake.
const FLOOD: f64 = 4.0;

/// Counts what one peer sends against a steady rate.
#[derive(Debug)]
pub(crate) struct Budget {
    per_s: f64,
    burst: f64,
    left: f64,
    refused: f64,
    at: Time,
}

impl Budget {
    pub(crate) fn new(per_s: u32) -> Self {
        let per_s = f64::from(per_s);
        Self::with_burst(per_s, per_s * BURST_S)
    }

    /// So many at once, and so many again over `refill`.
    pub(crate) fn of(burst: u32, refill: Duration) -> Self {
        let burst = f64::from(burst);
        Self::with_burst(burst / refill.as_secs_f64(), burst)
    }

    fn with_burst(per_s: f64, burst: f64) -> Self {
        Self {
            per_s,
            burst,
            left: burst,
            refused: 0.0,
            at: Time::ZERO,
        }
    }

    /// True when one more is allowed now.
    pub(crate) fn take(&mut self, now: Time) -> bool {
        let passed = now.since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_s).min(self.burst);
        // What is forgotten as slowly as the budget refills.
        self.refused = (self.refused - passed * self.per_s).max(0.0);
        if self.left < 1.0 {
            self.refused += 1.0;
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// True when far more came than is allowed.
    pub(crate) fn is_flooded(&self) -> bool {
        self.refused > self.burst * FLOOD
    }
}
