//! Facts, leases, and what relays attest.

use std::fmt;

use bytes::BufMut as _;

use super::{Fields, Kind, Problem, PublicKey, RecordError, count};
use crate::facts::NodeAt;
use crate::{Sha1, Sha256};

/// Names a range lease; control never uses a number twice for one content, and later leases have greater ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A node of one file's hash tree: 39 bytes `file u16 | layer u8 | index u32 | hash 32`.
///
/// Layer 0 is that of the 16 KiB leaves, as in [`merkle`](crate::merkle); a fact of the piece layer is one piece's.
/// It covers the leaves `index << layer .. (index + 1) << layer` of *its file*, and never spans two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Which file of the genesis.
    pub file: u16,
    /// The node's layer, from the leaves up.
    pub layer: u8,
    /// Its index within the layer of this file.
    pub index: u32,
    /// The node.
    pub hash: Sha256,
}

impl Fact {
    /// The encoded length in bytes.
    pub const LENGTH: usize = 39;

    /// Where the node lies.
    pub fn at(&self) -> NodeAt {
        NodeAt {
            file: self.file,
            layer: self.layer,
            index: self.index,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(self.file);
        out.put_u8(self.layer);
        out.put_u32(self.index);
        out.put_slice(&self.hash.0);
    }

    pub(super) fn read(bytes: [u8; Self::LENGTH]) -> Self {
        let [f0, f1, layer, i0, i1, i2, i3, hash @ ..] = bytes;
        Self {
            file: u16::from_be_bytes([f0, f1]),
            layer,
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            hash: Sha256(hash),
        }
    }
}

/// A relay may fetch and attest a range of pieces:
/// `lease u64 | relay key 32 | first u32 | count u32 | expires u64 | flags u32 = 0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Names the lease.
    pub lease: LeaseId,
    /// The key that signs what is attested under it.
    pub relay: PublicKey,
    /// The first piece of the content.
    pub first: u32,
    /// How many; at least one.
    pub count: u32,
    /// For people: milliseconds since 1970. Whether a lease counts is said by checkpoints, not by clocks.
    pub expires_unix_ms: u64,
}

impl Lease {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(60);
        out.put_u64(self.lease.0);
        out.put_slice(&self.relay.to_bytes());
        out.put_u32(self.first);
        out.put_u32(self.count);
        out.put_u64(self.expires_unix_ms);
        out.put_u32(0);
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::new(Kind::Lease, body);
        let lease = LeaseId(fields.u64("lease")?);
        let relay = PublicKey::new(&fields.array("relay key")?)
            .map_err(|_| fields.error("relay key", Problem::Key))?;
        let (first, count) = (fields.u32("first")?, fields.u32("count")?);
        if count == 0 || first.checked_add(count).is_none() {
            return Err(fields.error("count", Problem::Contradiction));
        }
        let expires_unix_ms = fields.u64("expires")?;
        if fields.u32("flags")? != 0 {
            return Err(fields.error("flags", Problem::Unknown));
        }
        fields.end("flags")?;
        Ok(Self {
            lease,
            relay,
            first,
            count,
            expires_unix_ms,
        })
    }

    /// True when the lease is for this piece.
    pub fn covers(&self, piece: u32) -> bool {
        piece
            .checked_sub(self.first)
            .is_some_and(|at| at < self.count)
    }
}

/// What a relay read under a lease:
/// `lease u64 | flags u8 | 0 0 0 | nfacts u16 | facts 39 × nfacts | [sha1 20 × nfacts] | [length u64]`.
///
/// Flags: 1 SHA-1s follow, 2 the file's end was seen and its length follows. Each fact is one piece's: of the piece
/// layer, or the root of a file that is shorter than a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// The lease.
    pub lease: LeaseId,
    /// What was read; empty only beside `end`.
    pub facts: Vec<Fact>,
    /// The SHA-1 of each fact's piece, in the same order.
    pub sha1s: Option<Vec<Sha1>>,
    /// The body ended cleanly: the length of the last file in bytes, as far as this relay can tell.
    pub end: Option<u64>,
}

impl Attest {
    const SHA1S: u8 = 1;
    const END: u8 = 2;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.facts.len() * (Fact::LENGTH + 20));
        let flag = |on: bool, bit| if on { bit } else { 0 };
        out.put_u64(self.lease.0);
        out.put_u8(flag(self.sha1s.is_some(), Self::SHA1S) | flag(self.end.is_some(), Self::END));
        out.put_slice(&[0; 3]);
        out.put_u16(count(self.facts.len()));
        self.facts.iter().for_each(|fact| fact.put(&mut out));
        for sha1 in self.sha1s.iter().flatten() {
            out.put_slice(&sha1.0);
        }
        if let Some(length) = self.end {
            out.put_u64(length);
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::new(Kind::Attest, body);
        let lease = LeaseId(fields.u64("lease")?);
        let flags = fields.u8("flags")?;
        if flags & !(Self::SHA1S | Self::END) != 0 {
            return Err(fields.error("flags", Problem::Unknown));
        }
        if fields.array("reserved")? != [0; 3] {
            return Err(fields.error("reserved", Problem::Unknown));
        }
        let count = fields.u16("nfacts")?;
        let facts = fields.arrays("facts", count, Fact::read)?;
        let sha1s = (flags & Self::SHA1S != 0)
            .then(|| fields.arrays("sha1s", count, Sha1))
            .transpose()?;
        let end = (flags & Self::END != 0)
            .then(|| fields.u64("length"))
            .transpose()?;
        fields.end("length")?;
        if facts.is_empty() && end.is_none() {
            return Err(fields.error("nfacts", Problem::Contradiction));
        }
        if end == Some(u64::MAX) {
            return Err(fields.error("length", Problem::Contradiction));
        }
        Ok(Self {
            lease,
            facts,
            sha1s,
            end,
        })
    }
}
