//! A token bucket that is applied by not reading, or not writing, a socket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use floodway_proto::ByteRate;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What may pass at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// The longest wait before the bucket is looked at again.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Holds whoever uses it together to a rate: wait until [`RateGate::ready`], move bytes, then [`RateGate::charge`] them.
#[derive(Debug)]
pub(crate) struct RateGate {
    /// The bucket's rate, bytes a second: spares the lock where there is no limit, and to who only asks for it.
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
    changed: Notify,
}

#[derive(Debug)]
struct Bucket {
    rate: ByteRate,
    /// Bytes that passed and are not paid for by time yet.
    debt: u64,
    /// When `debt` was right.
    at: Instant,
}

impl Bucket {
    /// Pays by the time that has passed. How long to wait until bytes may pass again: `None` for until the rate changes.
    fn settle(&mut self, now: Instant) -> Option<Duration> {
        let paid = self.rate.over(now.saturating_duration_since(self.at)).0;
        if paid > 0 || self.debt == 0 {
            self.debt = self.debt.saturating_sub(paid);
            self.at = now;
        }
        if self.rate == ByteRate::ZERO {
            return None;
        }
        let due = self.debt.saturating_sub(self.rate.over(BURST).0);
        let nanos = u128::from(due) * 1_000_000_000 / u128::from(self.rate.0);
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(LONGEST_WAIT))
    }
}

impl RateGate {
    pub(crate) fn new(rate: ByteRate) -> Self {
        Self {
            rate: AtomicU64::new(rate.0),
            bucket: Mutex::new(Bucket {
                rate,
                debt: 0,
                at: Instant::now(),
            }),
            changed: Notify::new(),
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rate(&self) -> ByteRate {
        ByteRate(self.rate.load(Ordering::Relaxed))
    }

    fn is_unlimited(&self) -> bool {
        self.rate() == ByteRate::MAX
    }

    pub(crate) fn set_rate(&self, rate: ByteRate) {
        {
            let mut bucket = self.bucket();
            bucket.settle(Instant::now());
            bucket.rate = rate;
            if rate == ByteRate::MAX {
                bucket.debt = 0;
            }
            self.rate.store(rate.0, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
    }

    /// Counts bytes that have passed.
    pub(crate) fn charge(&self, bytes: usize) {
        if self.is_unlimited() {
            return;
        }
        let mut bucket = self.bucket();
        bucket.settle(Instant::now());
        bucket.debt = bucket.debt.saturating_add(bytes as u64);
    }

    /// Waits until bytes may pass.
    pub(crate) async fn ready(&self) {
        while !self.is_unlimited() {
            // Enabled before the bucket is looked at, so that no change is missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let wait = self.bucket().settle(Instant::now());
            match wait {
                Some(Duration::ZERO) => return,
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, changed).await;
                }
                None => changed.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_rate_after_a_burst() {
        let gate = RateGate::new(ByteRate(1000));
        let start = Instant::now();
        for _ in 0..100 {
            gate.ready().await;
            gate.charge(100);
        }
        gate.ready().await;
        let took = start.elapsed().as_millis();
        assert!(
            (9700..=9900).contains(&took),
            "10 000 bytes, 250 of them at once, took {took} ms"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_zero_holds_until_it_changes() {
        let gate = Arc::new(RateGate::new(ByteRate::ZERO));
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.ready().await }
        });
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert!(!waiting.is_finished());
        gate.set_rate(ByteRate::MAX);
        waiting.await.unwrap();
    }
}
