//! What control vouches for.

use bytes::BufMut as _;

use super::{Fact, Fields, Kind, LeaseId, Problem, RecordError, count};
use crate::{InfoHash, Sha256, Sid};

/// Of more files than this [`FinalNames::roots`] are left out: a record has no room for them.
pub const ROOTS_LIMIT: usize = 1000;
/// The length that says "unknown".
const UNKNOWN: u64 = u64::MAX;

/// What control vouches for:
/// `length u64 | sealed u32 | state u8 | flags u8 | nfacts u16 | time u64 | lease floor u64 | nrevoked u16 |
/// revoked 8 × nrevoked | [part u16 | parts u16] | facts 39 × nfacts | what the state adds`.
///
/// Flags: 1 a part of a snapshot, whose number follows. States: 0 open, 1 complete, 2 final, 3 aborted, 4 superseded; see
/// [`State`] for what they add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The length in bytes of the *last* file, once known; only this one may be unknown at first.
    pub length: Option<u64>,
    /// How many pieces are sealed.
    pub sealed: u32,
    /// How far the content is.
    pub state: State,
    /// This is a part of a snapshot: together its parts say all that was said before them.
    pub snapshot: Option<Part>,
    /// For people: milliseconds since 1970.
    pub time_unix_ms: u64,
    /// Leases below this one are void: what was attested under them is sealed or no longer counts.
    pub lease_floor: LeaseId,
    /// Further leases that are void, ascending.
    pub revoked: Vec<LeaseId>,
    /// What is sealed: true of this content for good.
    pub facts: Vec<Fact>,
}

/// Which part of a snapshot. The parts of one snapshot are consecutive records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 0.
    pub index: u16,
    /// How many there are; at least one.
    pub of: u16,
}

/// How far a content is. A later state never goes back to an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Pieces are being fetched.
    Open,
    /// The length is known and every piece is sealed.
    Complete,
    /// Its standard torrents exist. Adds [`FinalNames`].
    Final(Box<FinalNames>),
    /// It will never be complete. Adds `reason u8 | 32 zero bytes`.
    Aborted(EndReason),
    /// Another content has taken its place. Adds `reason u8 | successor 32`.
    Superseded {
        /// Why.
        reason: EndReason,
        /// The content that takes over.
        successor: Sid,
    },
}

/// Why a content ended before or after its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The origin object was replaced.
    OriginChanged = 1,
    /// The origin gives different bytes under one validator.
    OriginUnstable = 2,
    /// The origin object is gone.
    OriginGone = 3,
    /// A sealed fact proved false.
    FalseFact = 4,
    /// An operator wanted it.
    Operator = 5,
}

/// Whether the origin itself vouched for the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginDigest {
    /// It gave no digest.
    Absent = 0,
    /// It gave one, and the bytes have it.
    Matched = 1,
}

/// The standard names of a final content:
/// `nroots u16 | root 32 × nroots | names u8 | [v1 20] | [v2 32] | [hybrid v1 20 | hybrid v2 32] | origin digest u8`.
///
/// Names: 1 v1, 2 v2, 4 hybrid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalNames {
    /// BEP 52's `pieces root` of each file of the genesis; an empty file has none, which is written as 32 zero bytes. Of more
    /// than [`ROOTS_LIMIT`] files a record has none of them: they follow from the facts.
    pub roots: Vec<Option<Sha256>>,
    /// The plain v1 torrent's info-hash.
    pub v1: Option<InfoHash>,
    /// The v2-only torrent's info-hash.
    pub v2: Option<Sha256>,
    /// The hybrid's two info-hashes.
    pub hybrid: Option<(InfoHash, Sha256)>,
    /// Whether the origin vouched for the bytes.
    pub origin_digest: OriginDigest,
}

impl State {
    /// 0 to 4, rising through a content's life.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Complete => 1,
            Self::Final(_) => 2,
            Self::Aborted(_) => 3,
            Self::Superseded { .. } => 4,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open | Self::Complete => {}
            Self::Final(names) => names.put(out),
            Self::Aborted(reason) => {
                out.put_u8(*reason as u8);
                out.put_slice(&[0; 32]);
            }
            Self::Superseded { reason, successor } => {
                out.put_u8(*reason as u8);
                out.put_slice(&successor.0);
            }
        }
    }

    fn read(rank: u8, fields: &mut Fields<'_>) -> Result<Self, RecordError> {
        Ok(match rank {
            0 => Self::Open,
            1 => Self::Complete,
            2 => Self::Final(Box::new(FinalNames::read(fields)?)),
            3 | 4 => {
                let reason = EndReason::read(fields)?;
                let successor = Sid(fields.array("successor")?);
                match (rank, successor.0 == [0; 32]) {
                    (3, true) => Self::Aborted(reason),
                    (4, false) => Self::Superseded { reason, successor },
                    _ => return Err(fields.error("successor", Problem::Contradiction)),
                }
            }
            _ => return Err(fields.error("state", Problem::Unknown)),
        })
    }
}

impl EndReason {
    fn read(fields: &mut Fields<'_>) -> Result<Self, RecordError> {
        let raw = fields.u8("reason")?;
        [
            Self::OriginChanged,
            Self::OriginUnstable,
            Self::OriginGone,
            Self::FalseFact,
            Self::Operator,
        ]
        .into_iter()
        .find(|&reason| reason as u8 == raw)
        .ok_or_else(|| fields.error("reason", Problem::Unknown))
    }
}

impl FinalNames {
    const V1: u8 = 1;
    const V2: u8 = 2;
    const HYBRID: u8 = 4;

    fn put(&self, out: &mut Vec<u8>) {
        out.put_u16(count(self.roots.len()));
        for root in &self.roots {
            out.put_slice(&root.unwrap_or(Sha256([0; 32])).0);
        }
        let names = [
            (self.v1.is_some(), Self::V1),
            (self.v2.is_some(), Self::V2),
            (self.hybrid.is_some(), Self::HYBRID),
        ];
        out.put_u8(
            names
                .iter()
                .map(|&(on, bit)| if on { bit } else { 0 })
                .sum(),
        );
        if let Some(v1) = self.v1 {
            out.put_slice(&v1.0);
        }
        if let Some(v2) = self.v2 {
            out.put_slice(&v2.0);
        }
        if let Some((v1, v2)) = self.hybrid {
            out.put_slice(&v1.0);
            out.put_slice(&v2.0);
        }
        out.put_u8(self.origin_digest as u8);
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, RecordError> {
        let count = fields.u16("nroots")?;
        let roots = fields.arrays("roots", count, |root| {
            (root != [0; 32]).then_some(Sha256(root))
        })?;
        let names = fields.u8("names")?;
        if names & !(Self::V1 | Self::V2 | Self::HYBRID) != 0 {
            return Err(fields.error("names", Problem::Unknown));
        }
        let v1 = (names & Self::V1 != 0)
            .then(|| fields.array("v1").map(InfoHash))
            .transpose()?;
        let v2 = (names & Self::V2 != 0)
            .then(|| fields.array("v2").map(Sha256))
            .transpose()?;
        let hybrid = if names & Self::HYBRID == 0 {
            None
        } else {
            let v1 = InfoHash(fields.array("hybrid v1")?);
            Some((v1, Sha256(fields.array("hybrid v2")?)))
        };
        let origin_digest = match fields.u8("origin digest")? {
            0 => OriginDigest::Absent,
            1 => OriginDigest::Matched,
            _ => return Err(fields.error("origin digest", Problem::Unknown)),
        };
        Ok(Self {
            roots,
            v1,
            v2,
            hybrid,
            origin_digest,
        })
    }
}

impl Checkpoint {
    const SNAPSHOT: u8 = 1;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.facts.len() * Fact::LENGTH);
        out.put_u64(self.length.unwrap_or(UNKNOWN));
        out.put_u32(self.sealed);
        out.put_u8(self.state.rank());
        out.put_u8(if self.snapshot.is_some() {
            Self::SNAPSHOT
        } else {
            0
        });
        out.put_u16(count(self.facts.len()));
        out.put_u64(self.time_unix_ms);
        out.put_u64(self.lease_floor.0);
        out.put_u16(count(self.revoked.len()));
        self.revoked.iter().for_each(|lease| out.put_u64(lease.0));
        if let Some(part) = self.snapshot {
            out.put_u16(part.index);
            out.put_u16(part.of);
        }
        self.facts.iter().for_each(|fact| fact.put(&mut out));
        self.state.put(&mut out);
        out
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::new(Kind::Checkpoint, body);
        let length = Some(fields.u64("length")?).filter(|&length| length != UNKNOWN);
        let sealed = fields.u32("sealed")?;
        let rank = fields.u8("state")?;
        let flags = fields.u8("flags")?;
        if flags & !Self::SNAPSHOT != 0 {
            return Err(fields.error("flags", Problem::Unknown));
        }
        let facts = fields.u16("nfacts")?;
        let time_unix_ms = fields.u64("time")?;
        let lease_floor = LeaseId(fields.u64("lease floor")?);
        let revoked = fields.u16("nrevoked")?;
        let revoked = fields.arrays("revoked", revoked, |lease| {
            LeaseId(u64::from_be_bytes(lease))
        })?;
        if !revoked.is_sorted_by(|a, b| a < b) {
            return Err(fields.error("revoked", Problem::Order));
        }
        let snapshot = (flags & Self::SNAPSHOT != 0)
            .then(|| Part::read(&mut fields))
            .transpose()?;
        let facts = fields.arrays("facts", facts, Fact::read)?;
        let state = State::read(rank, &mut fields)?;
        fields.end("state")?;
        if length.is_none() && matches!(state, State::Complete | State::Final(_)) {
            return Err(fields.error("length", Problem::Contradiction));
        }
        Ok(Self {
            length,
            sealed,
            state,
            snapshot,
            time_unix_ms,
            lease_floor,
            revoked,
            facts,
        })
    }
}

impl Part {
    fn read(fields: &mut Fields<'_>) -> Result<Self, RecordError> {
        let (index, of) = (fields.u16("part")?, fields.u16("parts")?);
        if index >= of {
            return Err(fields.error("part", Problem::Contradiction));
        }
        Ok(Self { index, of })
    }
}
