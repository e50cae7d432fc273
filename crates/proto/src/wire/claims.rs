//! Which pieces own nodes fetch over HTTP: an extended message (BEP 10) between them.

use std::ops::Range;

use crate::wire::WireError;

/// The pieces that the sender is fetching from an HTTP source and will have soon, so that others need not.
///
/// Each message is the whole list: it replaces the one before, and an empty one takes everything back. The payload is
/// pairs of big-endian 32-bit numbers, first piece and count, ascending and apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpClaims {
    /// Ranges of pieces.
    pub ranges: Vec<Range<u32>>,
}

impl HttpClaims {
    /// The name of the message in the extension handshake's `m`.
    pub const NAME: &'static str = "fw_http";
    /// A node has a few requests under way, not more.
    pub const RANGES_LIMIT: usize = 16;

    /// The payload, without the extended message's id. Ranges beyond [`Self::RANGES_LIMIT`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        let ranges = self.ranges.iter().take(Self::RANGES_LIMIT);
        let numbers = ranges.flat_map(|range| [range.start, range.end - range.start]);
        numbers.flat_map(u32::to_be_bytes).collect()
    }

    /// Reads the payload. Whether the pieces exist is for the reader to check.
    ///
    /// # Errors
    /// [`WireError::Claims`] when it is not what [`Self::encode`] writes.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let (pairs, rest) = payload.as_chunks::<8>();
        if !rest.is_empty() || pairs.len() > Self::RANGES_LIMIT {
            return Err(WireError::Claims);
        }
        let mut ranges: Vec<Range<u32>> = Vec::with_capacity(pairs.len());
        for &[a, b, c, d, e, f, g, h] in pairs {
            let start = u32::from_be_bytes([a, b, c, d]);
            let end = start.checked_add(u32::from_be_bytes([e, f, g, h]));
            let end = end.filter(|&end| end > start).ok_or(WireError::Claims)?;
            if ranges.last().is_some_and(|before| start <= before.end) {
                return Err(WireError::Claims);
            }
            ranges.push(start..end);
        }
        Ok(Self { ranges })
    }
}
