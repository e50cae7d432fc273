//! Receive buffers that are used again: fresh memory costs a page fault per 4 KiB, a used one nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;

/// Sizes of receive buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// For connections that bring little at a time: a node has dozens of them, and each keeps its buffer.
    Small,
    /// Many blocks a read, and little waste while a single block keeps it alive.
    Large,
}

impl Size {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Small => 64 * 1024,
            Self::Large => 256 * 1024,
        }
    }
}

/// Used buffers of one size kept in the hope that their blocks are gone soon: what a fast disk is behind, and no more, since they
/// stay for good.
const KEPT: usize = 24;

/// Used buffers. Blocks are slices of a buffer's memory, so it can be used again when all of them are dropped.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    small: Shelf,
    large: Shelf,
}

type Shelf = Mutex<VecDeque<BytesMut>>;

impl Pool {
    /// An empty buffer with room for `size`.
    pub(crate) fn take(&self, size: Size) -> BytesMut {
        let mut used = self.shelf(size);
        for _ in 0..used.len() {
            let Some(mut buffer) = used.pop_front() else {
                break;
            };
            if buffer.try_reclaim(size.bytes()) {
                return buffer;
            }
            used.push_back(buffer);
        }
        BytesMut::with_capacity(size.bytes())
    }

    /// Gives a buffer of that size back; slices of it may still be in use.
    pub(crate) fn give(&self, size: Size, mut buffer: BytesMut) {
        buffer.clear();
        let mut used = self.shelf(size);
        if used.len() == KEPT {
            used.pop_front();
        }
        used.push_back(buffer);
    }

    fn shelf(&self, size: Size) -> MutexGuard<'_, VecDeque<BytesMut>> {
        let shelf = match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        };
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers for blocks on their way out. Connections that send nothing hold none.
#[derive(Debug, Default)]
pub(crate) struct SendPool(Mutex<Vec<Vec<u8>>>);

impl SendPool {
    /// Buffers kept for later.
    const KEPT: usize = 16;

    /// A buffer of at least `length` bytes, of any content: a used one is not cleared again.
    pub(crate) fn take(&self, length: usize) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = kept.pop().unwrap_or_default();
        drop(kept);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Self::KEPT && !buffer.is_empty() {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_its_slices_are_gone() {
        let pool = Pool::default();
        let mut first = pool.take(Size::Small);
        first.extend_from_slice(b"block and rest");
        let start = first.as_ptr();
        let block = first.split_to(5).freeze();
        pool.give(Size::Small, first);
        let other = pool.take(Size::Small);
        assert_ne!(other.as_ptr(), start, "the block still lives there");
        assert_eq!(block, "block");
        drop(block);
        assert_ne!(pool.take(Size::Large).as_ptr(), start);
        let again = pool.take(Size::Small);
        assert_eq!(again.as_ptr(), start);
        assert!(again.is_empty() && again.capacity() >= Size::Small.bytes());
    }
}
