//! Receive buffers that are used again: fresh memory costs a page fault per 4 KiB, a used one nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;

/// Size of a receive buffer in bytes: many blocks per read, and little waste while a single block keeps it alive.
pub(crate) const BUFFER_LENGTH: usize = 256 * 1024;
/// Used buffers kept in the hope that their blocks are gone soon: what a fast disk is behind, and no more, since they stay for good.
const KEPT: usize = 24;

/// Used buffers. Blocks are slices of a buffer's memory, so it can be used again when all of them are dropped.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<VecDeque<BytesMut>>);

impl Pool {
    /// An empty buffer with room for [`BUFFER_LENGTH`] bytes.
    pub(crate) fn take(&self) -> BytesMut {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..used.len() {
            let Some(mut buffer) = used.pop_front() else {
                break;
            };
            if buffer.try_reclaim(BUFFER_LENGTH) {
                return buffer;
            }
            used.push_back(buffer);
        }
        BytesMut::with_capacity(BUFFER_LENGTH)
    }

    /// Gives a buffer back; slices of it may still be in use.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        buffer.clear();
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() == KEPT {
            used.pop_front();
        }
        used.push_back(buffer);
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
        let mut first = pool.take();
        first.extend_from_slice(b"block and rest");
        let start = first.as_ptr();
        let block = first.split_to(5).freeze();
        pool.give(first);
        let other = pool.take();
        assert_ne!(other.as_ptr(), start, "the block still lives there");
        assert_eq!(block, "block");
        drop(block);
        let again = pool.take();
        assert_eq!(again.as_ptr(), start);
        assert!(again.is_empty() && again.capacity() >= BUFFER_LENGTH);
    }
}
