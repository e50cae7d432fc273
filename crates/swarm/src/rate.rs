//! Rates: measured ones, and limits to hold.

use std::time::Duration;

use floodway_proto::{ByteRate, Time};

/// An exponentially weighted rate in bytes per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    half_life: Duration,
    value: f64,
    at: Time,
}

impl Estimate {
    pub(crate) const fn new(half_life: Duration) -> Self {
        Self {
            half_life,
            value: 0.0,
            at: Time::ZERO,
        }
    }

    fn decayed(&self, now: Time) -> f64 {
        let halves = now.since(self.at).as_secs_f64() / self.half_life.as_secs_f64();
        self.value * (-halves).exp2()
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub(crate) fn add(&mut self, now: Time, bytes: u64) {
        let weight = std::f64::consts::LN_2 / self.half_life.as_secs_f64();
        self.value = self.decayed(now) + bytes as f64 * weight;
        self.at = now;
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "never negative, far below 2^64"
    )]
    pub(crate) fn rate(&self, now: Time) -> ByteRate {
        ByteRate(self.decayed(now) as u64)
    }
}

/// A token bucket: lets `rate` pass, with a burst of a quarter of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: ByteRate,
    /// Bytes that may pass now; negative while in debt.
    tokens: i64,
    at: Time,
}

/// How much of a second may pass in one burst.
const BURST: Duration = Duration::from_millis(250);

impl Bucket {
    pub(crate) fn new(rate: ByteRate) -> Self {
        let mut bucket = Self {
            rate,
            tokens: 0,
            at: Time::ZERO,
        };
        bucket.tokens = bucket.burst();
        bucket
    }

    pub(crate) fn set_rate(&mut self, now: Time, rate: ByteRate) {
        self.refill(now);
        self.rate = rate;
        self.tokens = self.tokens.min(self.burst());
    }

    pub(crate) fn rate(&self) -> ByteRate {
        self.rate
    }

    pub(crate) fn is_unlimited(&self) -> bool {
        self.rate == ByteRate::MAX
    }

    fn burst(&self) -> i64 {
        i64::try_from(self.rate.over(BURST).0)
            .unwrap_or(i64::MAX)
            .max(1)
    }

    fn refill(&mut self, now: Time) {
        if self.is_unlimited() {
            return;
        }
        let gained = self.rate.over(now.since(self.at)).0;
        if gained > 0 {
            self.tokens = self
                .tokens
                .saturating_add_unsigned(gained)
                .min(self.burst());
            self.at = now;
        }
    }

    /// True when something may pass now.
    pub(crate) fn ready(&mut self, now: Time) -> bool {
        self.refill(now);
        self.is_unlimited() || self.tokens > 0
    }

    /// Takes `bytes`, into debt if need be: the next ones wait for it.
    pub(crate) fn take(&mut self, now: Time, bytes: u64) {
        self.refill(now);
        if !self.is_unlimited() {
            self.tokens = self.tokens.saturating_sub_unsigned(bytes);
        }
    }

    /// When something may pass again; `None` when it may now, or never.
    pub(crate) fn ready_at(&self) -> Option<Time> {
        if self.is_unlimited() || self.tokens > 0 || self.rate == ByteRate::ZERO {
            return None;
        }
        let missing = u128::from(self.tokens.unsigned_abs()) + 1;
        let nanos = (missing * 1_000_000_000).div_ceil(u128::from(self.rate.0));
        Some(self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_settles_on_a_steady_rate_and_decays() {
        let mut estimate = Estimate::new(Duration::from_secs(2));
        for tick in 0..200 {
            estimate.add(Time::from_millis(tick * 100), 100_000);
        }
        let rate = estimate.rate(Time::from_millis(20_000)).0;
        assert!((900_000..1_100_000).contains(&rate), "{rate}");
        assert!(estimate.rate(Time::from_millis(40_000)).0 < 2_000);
    }

    #[test]
    fn a_bucket_never_lets_more_through_than_its_rate_and_one_burst() {
        let mut bucket = Bucket::new(ByteRate(1_000_000));
        let (mut now, mut passed) = (Time::ZERO, 0);
        while now < Time::from_millis(10_000) {
            while bucket.ready(now) {
                bucket.take(now, 16_384);
                passed += 16_384;
            }
            now = bucket
                .ready_at()
                .unwrap()
                .max(now + Duration::from_millis(1));
        }
        assert!(
            (9_900_000..=10_000_000 + 250_000 + 16_384).contains(&passed),
            "{passed}"
        );
    }

    #[test]
    fn a_bucket_of_zero_is_shut_and_an_unlimited_one_open() {
        let mut shut = Bucket::new(ByteRate::ZERO);
        shut.take(Time::ZERO, 1);
        assert!(!shut.ready(Time::from_millis(1_000_000)));
        assert_eq!(shut.ready_at(), None);
        let mut open = Bucket::new(ByteRate::MAX);
        open.take(Time::ZERO, u64::MAX);
        assert!(open.ready(Time::ZERO));
    }
}
