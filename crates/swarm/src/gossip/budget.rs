//! How much a neighbour may send.

use floodway_proto::Time;

/// A burst is what two seconds allow.
const BURST_S: f64 = 2.0;
/// So many times the burst in vain, since the budget was last full, is no mistake.
const FLOOD: f64 = 4.0;

/// Counts what one neighbour sends against a steady rate.
#[derive(Debug)]
pub(super) struct Budget {
    per_s: f64,
    left: f64,
    refused: f64,
    at: Time,
}

impl Budget {
    pub(super) fn new(per_s: u32) -> Self {
        let per_s = f64::from(per_s);
        Self {
            per_s,
            left: per_s * BURST_S,
            refused: 0.0,
            at: Time::ZERO,
        }
    }

    /// True when one more is allowed now.
    pub(super) fn take(&mut self, now: Time) -> bool {
        let passed = now.since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_s).min(self.per_s * BURST_S);
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
    pub(super) fn is_flooded(&self) -> bool {
        self.refused > self.per_s * BURST_S * FLOOD
    }
}
