//! Received blocks that wait for the engine's word.

use bytes::Bytes;
use floodway_swarm::BufKey;

/// Blocks by key. A key is used again once its block was taken.
#[derive(Default)]
pub(crate) struct Park {
    slots: Vec<Option<Bytes>>,
    free: Vec<usize>,
}

impl Park {
    pub(crate) fn put(&mut self, data: Bytes) -> BufKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(data);
        BufKey(slot as u64)
    }

    /// `None` when nothing is parked there.
    pub(crate) fn take(&mut self, key: BufKey) -> Option<Bytes> {
        let slot = usize::try_from(key.0).ok()?;
        let data = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parked_is_taken_once() {
        let mut park = Park::default();
        let (a, b) = (
            park.put(Bytes::from_static(b"a")),
            park.put(Bytes::from_static(b"b")),
        );
        assert_eq!(park.take(a).as_deref(), Some(&b"a"[..]));
        assert_eq!(park.take(a), None);
        assert_eq!(
            park.put(Bytes::from_static(b"c")),
            a,
            "slots are used again"
        );
        assert_eq!(park.take(b).as_deref(), Some(&b"b"[..]));
        assert_eq!(park.take(BufKey(u64::MAX)), None);
    }
}
