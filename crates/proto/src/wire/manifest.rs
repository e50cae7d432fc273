//! The extended message `fw_manifest` (BEP 10): how own nodes pass signed records and piece hashes on.
//!
//! Sent only to a peer that named it in `m`. The payload is one byte that says which sub-message, then its fields,
//! big-endian:
//!
//! | sub | fields |
//! |---|---|
//! | 00 STATE | `term u32 seq u64 sealed u32 caps u8` |
//! | 01 RECORD | one [signed record](crate::record) |
//! | 02 `GET_HEAD` | `term u32 seq u64` |
//! | 03 `GET_FACTS` | `first u32 count u16`, 1 to 512 pieces |
//! | 05 HASHES | `file u16 layer u8 index u32 n u16 hash 32 × n`, 1 to 512 |
//! | 06 REJECT | `sub u8 first u32 count u16 reason u8` |
//! | 07 `HAVE_RUNS` | `n u16 (first u32 length u32) × n`, 1 to 4096 |
//! | 08 `GET_LEAVES` | `piece u32` |
//! | 09 LEAVES | `piece u32 n u16 hash 32 × n`, 1 to 4096 |
//! | 0B MISSING | `n u16 piece u32 × n`, 1 to 512 |
//!
//! 04 and 0A are not used.

use bytes::{Buf, BufMut, Bytes};

use crate::Sha256;
use crate::record::{Head, RECORD_LIMIT, RecordError, Signed};

/// The name in `m` of the extension handshake.
pub const MANIFEST: &str = "fw_manifest";

/// The most pieces one `GET_FACTS` asks for, and the most hashes one HASHES carries: a group.
pub const HASHES_LIMIT: usize = 512;
/// The most runs of a `HAVE_RUNS`.
pub const RUNS_LIMIT: usize = 4096;
/// The most leaves of a LEAVES: those of a piece of 64 MiB.
pub const LEAVES_LIMIT: usize = 4096;
/// The most pieces of a MISSING.
pub const MISSING_LIMIT: usize = 512;

/// One sub-message of `fw_manifest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestMessage {
    /// What the sender knows: after the handshake, and when it changed at most once a second.
    State {
        /// The newest control record it has.
        head: Head,
        /// How many pieces it knows the sealed hash of.
        sealed: u32,
        /// As `c` of the handshake's `fw`.
        capabilities: u8,
    },
    /// A signed record.
    Record(Signed),
    /// Send what is newer than `have`: the deltas, or the newest snapshot and what followed it. Answered by RECORDs.
    GetHead {
        /// The newest record up to which the sender knows all.
        have: Head,
    },
    /// Send what proves the hashes of these pieces. Answered by HASHES, RECORDs, or REJECT.
    GetFacts {
        /// The first piece of the content.
        first: u32,
        /// How many.
        count: u16,
    },
    /// The hashes of all pieces under one sealed node, in order. They fold to it, which proves them.
    Hashes {
        /// Which file.
        file: u16,
        /// The sealed node's layer.
        layer: u8,
        /// Its index within the layer of the file.
        index: u32,
        /// The pieces' nodes; those beyond the file's end are left out.
        hashes: Vec<Sha256>,
    },
    /// A request will not be answered.
    Reject {
        /// The sub-message that asked.
        sub: u8,
        /// As in the request.
        first: u32,
        /// As in the request.
        count: u16,
        /// Why.
        reason: RejectReason,
    },
    /// The sender has these runs of pieces now, as `(first, length)`: in place of a bitfield while the length is
    /// unknown, and of many HAVEs.
    HaveRuns(Vec<(u32, u32)>),
    /// Send the leaves of a piece: the sender got a bad piece and wants to know which block is wrong.
    GetLeaves {
        /// The piece.
        piece: u32,
    },
    /// The leaves of a piece, in order; they fold to its hash.
    Leaves {
        /// The piece.
        piece: u32,
        /// One for every 16 KiB of the piece that lie within the file.
        leaves: Vec<Sha256>,
    },
    /// To a relay: the hashes of these pieces are known, but nobody has the data.
    Missing(Vec<u32>),
    /// A sub-message that we do not know; it is ignored. Never sent.
    Unknown(u8),
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The sender does not know it (yet).
    NotKnown = 1,
    /// Asked too often.
    TooOften = 2,
    /// The content has no such pieces.
    OutOfRange = 3,
}

/// Why a `fw_manifest` message was refused: a fault of the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestMessageError {
    /// It has no sub-message.
    #[error("a manifest message is empty")]
    Empty,
    /// It ends within a field.
    #[error("manifest message {sub:#04x} is cut off")]
    CutOff {
        /// Which sub-message.
        sub: u8,
    },
    /// Bytes follow its last field.
    #[error("manifest message {sub:#04x} is followed by {count} bytes")]
    Trailing {
        /// Which sub-message.
        sub: u8,
        /// How many bytes.
        count: usize,
    },
    /// A list that is empty or above its limit.
    #[error("manifest message {sub:#04x} has a list of {count}; 1 to {limit} are allowed")]
    Count {
        /// Which sub-message.
        sub: u8,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// An empty run of pieces, or one beyond what can be numbered.
    #[error("manifest message {sub:#04x} names an impossible run of pieces")]
    Run {
        /// Which sub-message.
        sub: u8,
    },
    /// A reason that does not exist.
    #[error("manifest message {sub:#04x} gives reason {reason}, which does not exist")]
    Reason {
        /// Which sub-message.
        sub: u8,
        /// The reason.
        reason: u8,
    },
    /// Something else than one record.
    #[error("a record in a manifest message is malformed: {0}")]
    Record(#[from] RecordError),
}

/// The numbers of the sub-messages.
pub mod sub {
    /// [`ManifestMessage::State`](super::ManifestMessage::State)
    pub const STATE: u8 = 0;
    /// [`ManifestMessage::Record`](super::ManifestMessage::Record)
    pub const RECORD: u8 = 1;
    /// [`ManifestMessage::GetHead`](super::ManifestMessage::GetHead)
    pub const GET_HEAD: u8 = 2;
    /// [`ManifestMessage::GetFacts`](super::ManifestMessage::GetFacts)
    pub const GET_FACTS: u8 = 3;
    /// [`ManifestMessage::Hashes`](super::ManifestMessage::Hashes)
    pub const HASHES: u8 = 5;
    /// [`ManifestMessage::Reject`](super::ManifestMessage::Reject)
    pub const REJECT: u8 = 6;
    /// [`ManifestMessage::HaveRuns`](super::ManifestMessage::HaveRuns)
    pub const HAVE_RUNS: u8 = 7;
    /// [`ManifestMessage::GetLeaves`](super::ManifestMessage::GetLeaves)
    pub const GET_LEAVES: u8 = 8;
    /// [`ManifestMessage::Leaves`](super::ManifestMessage::Leaves)
    pub const LEAVES: u8 = 9;
    /// [`ManifestMessage::Missing`](super::ManifestMessage::Missing)
    pub const MISSING: u8 = 11;
}

impl RejectReason {
    fn read(raw: u8) -> Option<Self> {
        [Self::NotKnown, Self::TooOften, Self::OutOfRange]
            .into_iter()
            .find(|&reason| reason as u8 == raw)
    }
}

impl ManifestMessage {
    /// The number of the sub-message.
    pub fn sub(&self) -> u8 {
        match self {
            Self::State { .. } => sub::STATE,
            Self::Record(_) => sub::RECORD,
            Self::GetHead { .. } => sub::GET_HEAD,
            Self::GetFacts { .. } => sub::GET_FACTS,
            Self::Hashes { .. } => sub::HASHES,
            Self::Reject { .. } => sub::REJECT,
            Self::HaveRuns(_) => sub::HAVE_RUNS,
            Self::GetLeaves { .. } => sub::GET_LEAVES,
            Self::Leaves { .. } => sub::LEAVES,
            Self::Missing(_) => sub::MISSING,
            Self::Unknown(sub) => *sub,
        }
    }

    /// The payload of the extended message, without its id. [`Self::Unknown`] is never sent.
    ///
    /// # Panics
    /// When a list is longer than its limit, which the caller sees to.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u8(self.sub());
        match self {
            Self::State {
                head,
                sealed,
                capabilities,
            } => {
                put_head(*head, &mut out);
                out.put_u32(*sealed);
                out.put_u8(*capabilities);
            }
            Self::Record(signed) => out.put_slice(signed.bytes()),
            Self::GetHead { have } => put_head(*have, &mut out),
            Self::GetFacts { first, count } => {
                out.put_u32(*first);
                out.put_u16(*count);
            }
            Self::Hashes {
                file,
                layer,
                index,
                hashes,
            } => {
                out.put_u16(*file);
                out.put_u8(*layer);
                out.put_u32(*index);
                put_hashes(hashes, HASHES_LIMIT, &mut out);
            }
            Self::Reject {
                sub,
                first,
                count,
                reason,
            } => {
                out.put_u8(*sub);
                out.put_u32(*first);
                out.put_u16(*count);
                out.put_u8(*reason as u8);
            }
            Self::HaveRuns(runs) => {
                out.put_u16(count(runs.len(), RUNS_LIMIT));
                for (first, length) in runs {
                    out.put_u32(*first);
                    out.put_u32(*length);
                }
            }
            Self::GetLeaves { piece } => out.put_u32(*piece),
            Self::Leaves { piece, leaves } => {
                out.put_u32(*piece);
                put_hashes(leaves, LEAVES_LIMIT, &mut out);
            }
            Self::Missing(pieces) => {
                out.put_u16(count(pieces.len(), MISSING_LIMIT));
                for piece in pieces {
                    out.put_u32(*piece);
                }
            }
            Self::Unknown(_) => {}
        }
        out.into()
    }

    /// Reads the payload of an extended message that came under the id we gave to [`MANIFEST`].
    ///
    /// # Errors
    /// [`ManifestMessageError`] when it is malformed; the connection should be closed.
    pub fn decode(payload: Bytes) -> Result<Self, ManifestMessageError> {
        let mut input = payload;
        let sub = input
            .try_get_u8()
            .map_err(|_| ManifestMessageError::Empty)?;
        if sub == sub::RECORD {
            if input.len() > RECORD_LIMIT {
                let count = input.len() - RECORD_LIMIT;
                return Err(ManifestMessageError::Trailing { sub, count });
            }
            return Ok(Self::Record(Signed::decode(input)?));
        }
        let message = Self::read(sub, &mut input)?;
        match message {
            Self::Unknown(_) => Ok(message),
            _ if input.is_empty() => Ok(message),
            _ => Err(ManifestMessageError::Trailing {
                sub,
                count: input.len(),
            }),
        }
    }

    fn read(sub: u8, input: &mut Bytes) -> Result<Self, ManifestMessageError> {
        let cut_off = |_| ManifestMessageError::CutOff { sub };
        Ok(match sub {
            sub::STATE => Self::State {
                head: get_head(sub, input)?,
                sealed: input.try_get_u32().map_err(cut_off)?,
                capabilities: input.try_get_u8().map_err(cut_off)?,
            },
            sub::GET_HEAD => Self::GetHead {
                have: get_head(sub, input)?,
            },
            sub::GET_FACTS => {
                let first = input.try_get_u32().map_err(cut_off)?;
                let count = input.try_get_u16().map_err(cut_off)?;
                check_count(sub, count, HASHES_LIMIT)?;
                check_run(sub, first, count.into())?;
                Self::GetFacts { first, count }
            }
            sub::HASHES => Self::Hashes {
                file: input.try_get_u16().map_err(cut_off)?,
                layer: input.try_get_u8().map_err(cut_off)?,
                index: input.try_get_u32().map_err(cut_off)?,
                hashes: get_list(sub, HASHES_LIMIT, input, Sha256)?,
            },
            sub::REJECT => Self::Reject {
                sub: input.try_get_u8().map_err(cut_off)?,
                first: input.try_get_u32().map_err(cut_off)?,
                count: input.try_get_u16().map_err(cut_off)?,
                reason: {
                    let reason = input.try_get_u8().map_err(cut_off)?;
                    RejectReason::read(reason)
                        .ok_or(ManifestMessageError::Reason { sub, reason })?
                },
            },
            sub::HAVE_RUNS => {
                let runs = get_list(sub, RUNS_LIMIT, input, |run: [u8; 8]| {
                    let run = u64::from_be_bytes(run);
                    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
                    ((run >> 32) as u32, run as u32)
                })?;
                for &(first, length) in &runs {
                    check_run(sub, first, length)?;
                }
                Self::HaveRuns(runs)
            }
            sub::GET_LEAVES => Self::GetLeaves {
                piece: input.try_get_u32().map_err(cut_off)?,
            },
            sub::LEAVES => Self::Leaves {
                piece: input.try_get_u32().map_err(cut_off)?,
                leaves: get_list(sub, LEAVES_LIMIT, input, Sha256)?,
            },
            sub::MISSING => Self::Missing(get_list(sub, MISSING_LIMIT, input, u32::from_be_bytes)?),
            _ => Self::Unknown(sub),
        })
    }
}

fn put_head(head: Head, out: &mut Vec<u8>) {
    out.put_u32(head.term);
    out.put_u64(head.seq);
}

fn get_head(sub: u8, input: &mut Bytes) -> Result<Head, ManifestMessageError> {
    let cut_off = |_| ManifestMessageError::CutOff { sub };
    Ok(Head {
        term: input.try_get_u32().map_err(cut_off)?,
        seq: input.try_get_u64().map_err(cut_off)?,
    })
}

fn count(length: usize, limit: usize) -> u16 {
    assert!(length <= limit, "a list of {length} is above its limit");
    u16::try_from(length).expect("every limit fits 16 bits")
}

fn put_hashes(hashes: &[Sha256], limit: usize, out: &mut Vec<u8>) {
    out.put_u16(count(hashes.len(), limit));
    for hash in hashes {
        out.put_slice(&hash.0);
    }
}

fn check_count(sub: u8, count: u16, limit: usize) -> Result<(), ManifestMessageError> {
    let count = usize::from(count);
    if count == 0 || count > limit {
        return Err(ManifestMessageError::Count { sub, count, limit });
    }
    Ok(())
}

fn check_run(sub: u8, first: u32, length: u32) -> Result<(), ManifestMessageError> {
    if length == 0 || first.checked_add(length).is_none() {
        return Err(ManifestMessageError::Run { sub });
    }
    Ok(())
}

/// A count and so many values of `N` bytes. Nothing is allocated before all are known to be there.
fn get_list<const N: usize, T>(
    sub: u8,
    limit: usize,
    input: &mut Bytes,
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, ManifestMessageError> {
    let cut_off = ManifestMessageError::CutOff { sub };
    let count = input.try_get_u16().map_err(|_| cut_off.clone())?;
    check_count(sub, count, limit)?;
    let length = usize::from(count) * N;
    if input.len() < length {
        return Err(cut_off);
    }
    let values = input.split_to(length);
    Ok(values
        .as_chunks()
        .0
        .iter()
        .map(|chunk| read(*chunk))
        .collect())
}

#[cfg(test)]
mod tests;
