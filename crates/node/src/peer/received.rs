//! The bytes of a peer before they are messages.

use std::io;

use bytes::{Bytes, BytesMut};
use floodway_proto::wire::{self, Limits, WireError};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::session::{Pool, Size};

/// A read of this size, in bytes, shows that more waits in the socket than a small buffer takes at once.
const MUCH: usize = Size::Small.bytes() / 2;

/// A buffer that has room for the next read, and the beginning of a message in front of it.
pub(super) struct Received<'a> {
    pool: &'a Pool,
    buffer: BytesMut,
    /// `None` for a buffer that was made for one long message.
    size: Option<Size>,
    /// The largest read since the buffer was last changed, in bytes.
    most: usize,
}

impl<'a> Received<'a> {
    pub(super) fn new(pool: &'a Pool) -> Self {
        Self {
            pool,
            buffer: pool.take(Size::Small),
            size: Some(Size::Small),
            most: 0,
        }
    }

    /// Reads what has come, and waits for it; 0 bytes are the end.
    pub(super) async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<usize> {
        self.make_room();
        let read = stream.read_buf(&mut self.buffer).await?;
        self.most = self.most.max(read);
        Ok(read)
    }

    /// Gives the buffer room for the rest of a message whose beginning it holds, or for a good read.
    fn make_room(&mut self) {
        let rest = if self.buffer.len() < 4 {
            0
        } else {
            wire::needed(&self.buffer).saturating_sub(self.buffer.len())
        };
        // Small reads cost as much as large ones.
        let good = self.size.unwrap_or(Size::Small).bytes() / 8;
        if self.buffer.capacity() - self.buffer.len() >= rest.max(good) {
            return;
        }
        let next = if self.most >= MUCH {
            Size::Large
        } else {
            Size::Small
        };
        let length = self.buffer.len() + rest + good;
        let fitting = [next, Size::Large]
            .into_iter()
            .find(|size| length <= size.bytes());
        // A message that no pooled buffer holds gets its own.
        let mut fresh = match fitting {
            Some(size) => self.pool.take(size),
            None => BytesMut::with_capacity(length),
        };
        fresh.extend_from_slice(&self.buffer);
        let used = std::mem::replace(&mut self.buffer, fresh);
        if let Some(size) = std::mem::replace(&mut self.size, fitting) {
            self.pool.give(size, used);
        }
        self.most = 0;
    }

    /// Takes all whole frames; the beginning of the next one stays.
    ///
    /// # Errors
    /// A frame longer than `limits` allow.
    pub(super) fn frames(&mut self, limits: Limits) -> Result<Bytes, WireError> {
        frames(&mut self.buffer, limits)
    }
}

/// Takes all whole frames off `buffer`; the beginning of the next one stays.
fn frames(buffer: &mut BytesMut, limits: Limits) -> Result<Bytes, WireError> {
    let mut end = 0;
    loop {
        let rest = &buffer[end..];
        if rest.len() < 4 {
            break;
        }
        let total = wire::needed(rest);
        if total > rest.len() {
            // Refuses what is too long before it is waited for.
            let mut head = Bytes::copy_from_slice(&rest[..rest.len().min(5)]);
            wire::decode(&mut head, &limits)?;
            break;
        }
        end += total;
    }
    Ok(buffer.split_to(end).freeze())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use floodway_proto::wire::{Message, encode_piece_header};

    use super::*;

    #[test]
    fn whole_frames_are_taken_and_the_rest_stays() {
        let limits = Limits::for_pieces(16);
        let mut buffer = BytesMut::new();
        Message::Have(3).encode(&mut buffer);
        encode_piece_header(1, 0, 4, &mut buffer);
        buffer.put_slice(b"data");
        Message::Have(4).encode(&mut buffer);
        let all = buffer.clone();
        for cut in 0..all.len() {
            let mut buffer = BytesMut::from(&all[..cut]);
            let whole = frames(&mut buffer, limits).unwrap();
            let expected = [0, 9, 26].into_iter().rfind(|&end| end <= cut).unwrap();
            assert_eq!(
                (whole.len(), buffer.len()),
                (expected, cut - expected),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_head() {
        let limits = Limits::for_pieces(16);
        let head = |bytes: &[u8]| frames(&mut BytesMut::from(bytes), limits);
        assert!(head(b"\xff\xff\xff\xff").is_err());
        assert!(head(b"\0\x01\0\x0a\x07").is_err(), "a block above 64 KiB");
        assert!(head(b"\0\0\x40\x09\x07").is_ok());
    }

    fn buffer_after(reads: &[usize]) -> usize {
        let pool = Pool::default();
        let mut received = Received::new(&pool);
        for &read in reads {
            received.make_room();
            received.buffer.put_bytes(0, read);
            received.most = received.most.max(read);
            drop(received.buffer.split());
        }
        received.make_room();
        received.size.unwrap().bytes()
    }

    #[test]
    fn who_brings_much_at_a_time_gets_a_large_buffer() {
        let (small, large) = (Size::Small.bytes(), Size::Large.bytes());
        assert_eq!(buffer_after(&[small / 4; 8]), small);
        assert_eq!(buffer_after(&[small]), large);
        // And keeps it no longer than that.
        let mut reads = vec![small];
        reads.extend(vec![small / 4; 16]);
        assert_eq!(buffer_after(&reads), small);
    }

    #[test]
    fn a_long_message_gets_a_buffer_of_its_own() {
        let pool = Pool::default();
        let mut received = Received::new(&pool);
        for length in [1 << 17, 1 << 20] {
            received.buffer.clear();
            received.buffer.put_u32(length);
            received.make_room();
            assert!(received.buffer.capacity() >= length as usize + 4);
            assert_eq!(&received.buffer[..], length.to_be_bytes());
        }
        assert_eq!(received.size, None);
    }
}
