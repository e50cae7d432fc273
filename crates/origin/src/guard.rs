//! The permission to read: no guard, no bytes.

use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Lets its holder read an origin and counts the body bytes that arrive. Clones share the counters.
///
/// Every read needs one, so bytes that nobody accounts for cannot be read by construction. Make one per source class
/// and hand out clones. An unmetered guard grants everything at once; all it does is count.
#[derive(Clone, Debug)]
pub struct Guard {
    counters: Arc<Counters>,
    lease: Lease,
}

/// What entitles to bytes. Leases with rates join here; every use is a `match`, so none can be overlooked.
#[derive(Clone, Debug)]
enum Lease {
    None,
}

#[derive(Debug, Default)]
struct Counters {
    body: Counter,
    without_lease: Counter,
}

/// A count of bytes that only grows; clones show the same count.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// The count now, in bytes.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Guard {
    /// A guard without a lease: unlimited, all bytes counted as read without lease.
    pub fn unmetered() -> Self {
        Self {
            counters: Arc::default(),
            lease: Lease::None,
        }
    }

    /// All body bytes that arrived under this guard (`floodway_origin_body_bytes_total`).
    pub fn body_bytes(&self) -> Counter {
        self.counters.body.clone()
    }

    /// Those of them that no lease covered (`floodway_origin_bytes_without_lease_total`).
    pub fn bytes_without_lease(&self) -> Counter {
        self.counters.without_lease.clone()
    }

    /// Counts body bytes that arrived, once, whether they are of use or not.
    pub(crate) fn count(&self, bytes: u64) {
        self.counters.body.add(bytes);
        match self.lease {
            Lease::None => self.counters.without_lease.add(bytes),
        }
    }

    /// Waits until `bytes` that arrived may be passed on. While it waits nothing is read from the socket, so a lease's
    /// rate reaches the origin as backpressure. May be asked again about the same bytes when a wait was cancelled.
    pub(crate) fn admit(&self, _bytes: u64) -> impl Future<Output = ()> + Send + use<> {
        match self.lease {
            Lease::None => ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_guard_share_their_counters() {
        let guard = Guard::unmetered();
        let (body, bare) = (guard.body_bytes(), guard.bytes_without_lease());
        guard.clone().count(7);
        assert_eq!((body.get(), bare.get()), (7, 7));
        assert_eq!(Guard::unmetered().body_bytes().get(), 0);
    }
}
