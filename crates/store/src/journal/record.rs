//! One record of the journal and its bytes: length, checksum, kind, fields; numbers in little endian.

use bytes::{Buf, BufMut};
use floodway_proto::digest::{PieceDigest, sha1};
use floodway_proto::{PieceIndex, Sha1, Sha256};

use crate::hashing::NOTHING;

/// Longer records are not ours: the longest is [`Record::Synced`] of every other piece.
const LONGEST: usize = 64 << 20;
const MAGIC: &[u8; 16] = b"floodway store 1";

/// What the data belongs to, and since when it has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The content.
    pub(crate) identity: [u8; 32],
    /// Its length in bytes.
    pub(crate) length: u64,
    /// The length of its pieces in bytes.
    pub(crate) piece_length: u32,
    /// The length of its blocks in bytes.
    pub(crate) block_length: u32,
    /// The boot of the machine since which everything not synced was written: the page cache lives no longer.
    pub(crate) boot: [u8; 16],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The first record.
    Header(Header),
    /// A whole piece is in the page cache.
    Written {
        piece: PieceIndex,
        /// What was computed of it to be collected.
        digest: PieceDigest,
    },
    /// Written pieces that have reached the disk, as runs of (first piece, pieces).
    Synced { runs: Vec<(u32, u32)> },
    /// Blocks of an incomplete piece are in the page cache, as runs of (first block, blocks).
    Partial {
        piece: PieceIndex,
        runs: Vec<(u32, u32)>,
    },
    /// What was recorded of a piece holds no more.
    Dropped { piece: PieceIndex },
    /// All is on the disk, and the file is about to get its final name.
    Finishing,
}

impl Record {
    /// A [`Record::Synced`] of ascending `pieces`.
    pub(crate) fn synced(pieces: impl IntoIterator<Item = PieceIndex>) -> Self {
        let runs = runs(pieces.into_iter().map(|piece| piece.0));
        Self::Synced { runs }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Self::Header(header) => {
                body.put_u8(1);
                body.put_slice(MAGIC);
                body.put_slice(&header.identity);
                body.put_u64_le(header.length);
                body.put_u32_le(header.piece_length);
                body.put_u32_le(header.block_length);
                body.put_slice(&header.boot);
            }
            Self::Written { piece, digest } => {
                body.put_u8(2);
                body.put_u32_le(piece.0);
                body.put_u8(u8::from(digest.sha1.is_some()) | u8::from(digest.node.is_some()) << 1);
                body.put_slice(digest.sha1.as_ref().map_or(&[], |sha1| &sha1.0));
                body.put_slice(digest.node.as_ref().map_or(&[], |node| &node.0));
            }
            Self::Synced { runs } => {
                body.put_u8(3);
                put_runs(&mut body, runs);
            }
            Self::Partial { piece, runs } => {
                body.put_u8(4);
                body.put_u32_le(piece.0);
                put_runs(&mut body, runs);
            }
            Self::Dropped { piece } => {
                body.put_u8(5);
                body.put_u32_le(piece.0);
            }
            Self::Finishing => body.put_u8(6),
        }
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        out.put_u32_le(length);
        out.put_slice(&checksum(&body));
        out.put_slice(&body);
    }

    /// The first record in `bytes` and what follows it. `None` when it is torn, of another kind, or there is none.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<(Self, &[u8])> {
        let length = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
        let (sum, bytes) = bytes.split_first_chunk::<4>()?;
        if length > LONGEST {
            return None;
        }
        let (body, rest) = bytes.split_at_checked(length)?;
        (checksum(body) == *sum).then_some(())?;
        Some((Self::decode_body(body)?, rest))
    }

    fn decode_body(mut body: &[u8]) -> Option<Self> {
        let record = match body.try_get_u8().ok()? {
            1 => {
                if take(&mut body)? != *MAGIC {
                    return None;
                }
                Self::Header(Header {
                    identity: take(&mut body)?,
                    length: body.try_get_u64_le().ok()?,
                    piece_length: body.try_get_u32_le().ok()?,
                    block_length: body.try_get_u32_le().ok()?,
                    boot: take(&mut body)?,
                })
            }
            2 => {
                let piece = PieceIndex(body.try_get_u32_le().ok()?);
                let flags = body.try_get_u8().ok()?;
                let mut digest = NOTHING;
                if flags & 1 != 0 {
                    digest.sha1 = Some(Sha1(take(&mut body)?));
                }
                if flags & 2 != 0 {
                    digest.node = Some(Sha256(take(&mut body)?));
                }
                Self::Written { piece, digest }
            }
            3 => Self::Synced {
                runs: get_runs(&mut body)?,
            },
            4 => Self::Partial {
                piece: PieceIndex(body.try_get_u32_le().ok()?),
                runs: get_runs(&mut body)?,
            },
            5 => Self::Dropped {
                piece: PieceIndex(body.try_get_u32_le().ok()?),
            },
            6 => Self::Finishing,
            _ => return None,
        };
        body.is_empty().then_some(record)
    }
}

/// Ascending numbers as runs of (first, count).
pub(crate) fn runs(numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

/// Four bytes of SHA-1: there are few records, and the hash is here already.
fn checksum(body: &[u8]) -> [u8; 4] {
    let Sha1([a, b, c, d, ..]) = sha1(body);
    [a, b, c, d]
}

fn put_runs(body: &mut Vec<u8>, runs: &[(u32, u32)]) {
    for &(first, count) in runs {
        body.put_u32_le(first);
        body.put_u32_le(count);
    }
}

fn get_runs(body: &mut &[u8]) -> Option<Vec<(u32, u32)>> {
    let mut runs = Vec::with_capacity(body.len() / 8);
    while !body.is_empty() {
        runs.push((body.try_get_u32_le().ok()?, body.try_get_u32_le().ok()?));
    }
    Some(runs)
}

fn take<const N: usize>(body: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = body.split_first_chunk::<N>()?;
    *body = rest;
    Some(*bytes)
}
