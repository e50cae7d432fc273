//! Signed records: what control and relays vouch for, identical on the wire, over HTTP and on disk.
//!
//! Entry: [`Record::sign`] makes a [`Signed`], [`Signed::decode`] reads one, [`Signed::verify`] checks who signed it.
//! Invariant: one record has one encoding, and only that is accepted; a [`Signed`] keeps the very bytes that were
//! signed, so it can be passed on. Decoding checks the form of every field; whether the signer had the right to say
//! it is for [`Manifest`](crate::manifest::Manifest) to decide.
//!
//! All integers are big-endian:
//!
//! | at | field |
//! |---|---|
//! | 0 | magic `u16` = `FW` |
//! | 2 | version `u8` = 1 |
//! | 3 | kind `u8`: 1 [genesis](Body::Genesis), 2 [lease](Lease), 3 [attest](Attest), 4 [checkpoint](Checkpoint) |
//! | 4 | sid, 32 bytes |
//! | 36 | term `u32` |
//! | 40 | seq `u64` |
//! | 48 | signer `u8`: 0 a control key of the genesis, 1 the key of the lease (kind 3 only) |
//! | 49 | index of the control key `u8`; 0 for kind 3 |
//! | 50 | 6 zero bytes |
//! | 56 | length of the body `u32`, at most 64 KiB |
//! | 60 | body |
//! | 60 + body | ed25519 signature, 64 bytes, over `fw-v1\0` and all that precedes it |
//!
//! A record says its own length, so several of them are simply concatenated.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::genesis::{Genesis, GenesisError};
use crate::{Sid, digest};

mod body;
mod checkpoint;
mod key;

pub use body::{Attest, Fact, Lease, LeaseId};
pub use checkpoint::{Checkpoint, EndReason, FinalNames, OriginDigest, Part, ROOTS_LIMIT, State};
pub use key::{KeyError, PublicKey, SecretKey};

/// `FW`.
const MAGIC: u16 = 0x4657;
/// The only version so far.
const VERSION: u8 = 1;
/// The length of what precedes the body, in bytes.
const HEADER_LENGTH: usize = 60;
/// The length of what follows it.
const SIGNATURE_LENGTH: usize = 64;
/// The longest body in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// The longest record in bytes.
pub const RECORD_LIMIT: usize = HEADER_LENGTH + BODY_LIMIT + SIGNATURE_LENGTH;
/// Keeps these signatures apart from any others that the same key may make.
const CONTEXT: &[u8] = b"fw-v1\0";

/// Where a record stands among those of its signer: later ones are greater.
///
/// Control counts the records of one content from 1 in each term, without gaps; a new term begins with a snapshot. Of
/// an [`Attest`], `term` is its lease's and `seq` counts within the lease from 1.
/// As text, and in JSON, it is `TERM.SEQ`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// Which leadership of control.
    pub term: u32,
    /// Which record of it.
    pub seq: u64,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.seq)
    }
}

/// Why a text is no [`Head`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the place of a record: it must be TERM.SEQ, two decimal numbers")]
pub struct HeadError(String);

impl FromStr for Head {
    type Err = HeadError;

    fn from_str(text: &str) -> Result<Self, HeadError> {
        // One place has one text: no signs, no leading zeros.
        let head = text.split_once('.').and_then(|(term, seq)| {
            Some(Self {
                term: term.parse().ok()?,
                seq: seq.parse().ok()?,
            })
        });
        head.filter(|head| head.to_string() == text)
            .ok_or_else(|| HeadError(text.chars().take(100).collect()))
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a record says, before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The content it is about; a record never counts for another.
    pub sid: Sid,
    /// Its place among the signer's records.
    pub head: Head,
    /// Which of the genesis' keys signs; 0 for an [`Attest`], which its lease's key signs.
    pub key: u8,
    /// What is said.
    pub body: Body,
}

/// The kinds of record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The content's first record, whose hash is the [`Sid`]. Signed by control.
    Genesis(Box<Genesis>),
    /// A relay may fetch and report a range of pieces. Signed by control.
    Lease(Lease),
    /// What a relay read. Signed with its lease's key.
    Attest(Attest),
    /// What control vouches for. Signed by control.
    Checkpoint(Checkpoint),
}

/// The kind of a record, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Body::Genesis`]
    Genesis = 1,
    /// [`Body::Lease`]
    Lease = 2,
    /// [`Body::Attest`]
    Attest = 3,
    /// [`Body::Checkpoint`]
    Checkpoint = 4,
}

/// Why bytes are no record, or one that may not count. All are faults of whoever made or sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the record's own length.
    #[error("the record ends too early: {found} of {expected} bytes")]
    Truncated {
        /// Bytes that came.
        found: usize,
        /// Bytes it must have, or the least it can have.
        expected: usize,
    },
    /// Bytes follow the signature.
    #[error("{0} bytes follow the record")]
    TrailingBytes(usize),
    /// Something else than a record.
    #[error("this is no record: it begins with {0:#06x}")]
    Magic(u16),
    /// Made by a newer Floodway.
    #[error("the record has version {0}; this Floodway knows version {VERSION}")]
    Version(u8),
    /// A kind that does not exist.
    #[error("there is no record of kind {0}")]
    Kind(u8),
    /// A kind that another must sign.
    #[error("a {kind:?} record cannot be signed by signer {signer} with key {key}")]
    Signer {
        /// The record's kind.
        kind: Kind,
        /// 0 control, 1 a lease's key.
        signer: u8,
        /// The key's index.
        key: u8,
    },
    /// Bytes that must be zero are not.
    #[error("the record's reserved bytes are not zero")]
    Reserved,
    /// Above [`BODY_LIMIT`].
    #[error("the record's body of {0} bytes is above the limit of {BODY_LIMIT}")]
    BodyTooLong(usize),
    /// A field of the body that is not what it must be.
    #[error("the {kind:?} record's `{field}` {problem}")]
    Field {
        /// The record's kind.
        kind: Kind,
        /// The field, as the formats' tables name it.
        field: &'static str,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A genesis record whose body is none.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A genesis record about another content than its own.
    #[error("the genesis in the record is that of {0}, not of the record's sid")]
    SidOfGenesis(Sid),
    /// The signature is not the signer's.
    #[error("the record's signature is wrong")]
    Signature,
}

/// What is wrong with a field of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The body ends before it, or within it.
    #[error("is cut off")]
    CutOff,
    /// Bytes follow the last field.
    #[error("is followed by something")]
    Trailing,
    /// A value or a flag that does not exist.
    #[error("has a value that does not exist")]
    Unknown,
    /// It contradicts another field.
    #[error("does not fit the other fields")]
    Contradiction,
    /// It is not in ascending order.
    #[error("is not in ascending order")]
    Order,
    /// It is no key that signatures can be checked with.
    #[error("is not a usable ed25519 key")]
    Key,
}

impl Body {
    /// The kind of the record.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Genesis(_) => Kind::Genesis,
            Self::Lease(_) => Kind::Lease,
            Self::Attest(_) => Kind::Attest,
            Self::Checkpoint(_) => Kind::Checkpoint,
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Genesis(genesis) => genesis.encode(),
            Self::Lease(lease) => lease.encode(),
            Self::Attest(attest) => attest.encode(),
            Self::Checkpoint(checkpoint) => checkpoint.encode(),
        }
    }

    fn decode(kind: Kind, sid: Sid, body: &[u8]) -> Result<Self, RecordError> {
        Ok(match kind {
            Kind::Genesis => {
                let genesis = Genesis::decode(body)?;
                // Only the canonical bytes decode, so this is the genesis' own sid.
                let own = Sid(digest::sha256(body).0);
                if own != sid {
                    return Err(RecordError::SidOfGenesis(own));
                }
                Self::Genesis(Box::new(genesis))
            }
            Kind::Lease => Self::Lease(Lease::decode(body)?),
            Kind::Attest => Self::Attest(Attest::decode(body)?),
            Kind::Checkpoint => Self::Checkpoint(Checkpoint::decode(body)?),
        })
    }
}

impl Kind {
    fn read(raw: u8) -> Result<Self, RecordError> {
        [Self::Genesis, Self::Lease, Self::Attest, Self::Checkpoint]
            .into_iter()
            .find(|&kind| kind as u8 == raw)
            .ok_or(RecordError::Kind(raw))
    }

    /// 0: control; 1: the lease's key.
    fn signer(self) -> u8 {
        u8::from(self == Self::Attest)
    }

    fn error(self, field: &'static str, problem: Problem) -> RecordError {
        RecordError::Field {
            kind: self,
            field,
            problem,
        }
    }
}

impl Record {
    /// Signs the record.
    ///
    /// # Errors
    /// [`RecordError::BodyTooLong`] when it says too much for one record; the other variants when its fields contradict each
    /// other, so that nobody would accept it.
    pub fn sign(&self, key: &SecretKey) -> Result<Signed, RecordError> {
        let body = self.body.encode();
        if body.len() > BODY_LIMIT {
            return Err(RecordError::BodyTooLong(body.len()));
        }
        let kind = self.body.kind();
        let mut out = Vec::with_capacity(HEADER_LENGTH + body.len() + SIGNATURE_LENGTH);
        out.put_u16(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(kind as u8);
        out.put_slice(&self.sid.0);
        out.put_u32(self.head.term);
        out.put_u64(self.head.seq);
        out.put_u8(kind.signer());
        out.put_u8(self.key);
        out.put_slice(&[0; 6]);
        out.put_u32(u32::try_from(body.len()).expect("at most 64 KiB"));
        out.put_slice(&body);
        let signature = key.sign(&message(&out));
        out.put_slice(&signature);
        Signed::decode(out.into())
    }
}

/// What the signature is over.
fn message(signed: &[u8]) -> Vec<u8> {
    [CONTEXT, signed].concat()
}

/// A record and the bytes it came in; a clone shares both. Its form has been checked, its signature only by
/// [`verify`](Self::verify).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    record: Arc<Record>,
    bytes: Bytes,
}

impl Signed {
    /// What the record says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record as it was signed, for passing on.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Reads `bytes`, which must be exactly one record, and checks its form, but not its signature.
    ///
    /// # Errors
    /// [`RecordError`] naming what is wrong.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let mut rest = bytes;
        let signed = Self::take(&mut rest)?;
        if !rest.is_empty() {
            return Err(RecordError::TrailingBytes(rest.len()));
        }
        Ok(signed)
    }

    /// Takes the record at the front off `input`. `input` is of no more use after an error.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn take(input: &mut Bytes) -> Result<Self, RecordError> {
        let truncated = |found, expected| RecordError::Truncated { found, expected };
        let Some(header) = input.first_chunk::<HEADER_LENGTH>() else {
            return Err(truncated(input.len(), HEADER_LENGTH + SIGNATURE_LENGTH));
        };
        let header = Header::decode(header)?;
        let length = HEADER_LENGTH + header.body_length + SIGNATURE_LENGTH;
        if input.len() < length {
            return Err(truncated(input.len(), length));
        }
        let body = &input[HEADER_LENGTH..length - SIGNATURE_LENGTH];
        let record = Record {
            sid: header.sid,
            head: header.head,
            key: header.key,
            body: Body::decode(header.kind, header.sid, body)?,
        };
        let bytes = input.split_to(length);
        Ok(Self {
            record: Arc::new(record),
            bytes,
        })
    }

    /// Checks that `key` signed this record (RFC 8032, strictly: one signature, one meaning).
    ///
    /// # Errors
    /// [`RecordError::Signature`] when it did not.
    pub fn verify(&self, key: &PublicKey) -> Result<(), RecordError> {
        let signed = self.bytes.len().checked_sub(SIGNATURE_LENGTH);
        let (signed, signature) = signed
            .and_then(|length| self.bytes.split_at_checked(length))
            .ok_or(RecordError::Signature)?;
        let signature = signature.first_chunk().ok_or(RecordError::Signature)?;
        if key.verify(&message(signed), signature) {
            Ok(())
        } else {
            Err(RecordError::Signature)
        }
    }
}

struct Header {
    kind: Kind,
    sid: Sid,
    head: Head,
    key: u8,
    body_length: usize,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, RecordError> {
        let mut input = &bytes[..];
        let magic = input.get_u16();
        if magic != MAGIC {
            return Err(RecordError::Magic(magic));
        }
        let version = input.get_u8();
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let kind = Kind::read(input.get_u8())?;
        let mut sid = Sid([0; 32]);
        input.copy_to_slice(&mut sid.0);
        let head = Head {
            term: input.get_u32(),
            seq: input.get_u64(),
        };
        let (signer, key) = (input.get_u8(), input.get_u8());
        if signer != kind.signer() || (signer == 1 && key != 0) {
            return Err(RecordError::Signer { kind, signer, key });
        }
        if input.get_uint(6) != 0 {
            return Err(RecordError::Reserved);
        }
        let body_length = input.get_u32() as usize;
        if body_length > BODY_LIMIT {
            return Err(RecordError::BodyTooLong(body_length));
        }
        Ok(Self {
            kind,
            sid,
            head,
            key,
            body_length,
        })
    }
}

/// Reads a body's fields in order, with errors that name them.
struct Fields<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(kind: Kind, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    fn error(&self, field: &'static str, problem: Problem) -> RecordError {
        self.kind.error(field, problem)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(self.error(field, Problem::CutOff));
        };
        self.rest = rest;
        Ok(*array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, RecordError> {
        self.array(field).map(u8::from_be_bytes)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, RecordError> {
        self.array(field).map(u16::from_be_bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, RecordError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, RecordError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// `count` values of `N` bytes each; nothing is allocated before all are known to be there.
    fn arrays<const N: usize, T>(
        &mut self,
        field: &'static str,
        count: u16,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, RecordError> {
        let Some((values, rest)) = self.rest.split_at_checked(usize::from(count) * N) else {
            return Err(self.error(field, Problem::CutOff));
        };
        self.rest = rest;
        Ok(values
            .as_chunks()
            .0
            .iter()
            .map(|chunk| read(*chunk))
            .collect())
    }

    fn end(&self, last: &'static str) -> Result<(), RecordError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.error(last, Problem::Trailing))
        }
    }
}

/// The count of a list that goes into a body.
///
/// A body that is too long is refused when it is signed, before anybody reads a clipped count.
fn count(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
