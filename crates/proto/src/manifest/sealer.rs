//! Control's side: making the records of one content.

use crate::Sid;
use crate::facts::FactStore;
use crate::record::{
    BODY_LIMIT, Body, Checkpoint, Fact, Head, Lease, LeaseId, Part, Record, RecordError, SecretKey,
    Signed, State,
};

/// The most facts in one record; leaves room for what else a checkpoint says.
const FACTS_LIMIT: usize = BODY_LIMIT / 2 / Fact::LENGTH;
/// A snapshot follows at the latest after so many bytes of deltas, or so many times its own length if that is more: what
/// a late joiner has to read against what all others read in vain.
const DELTAS_LEAST: usize = 6 * 1024;
const DELTAS_PER_SNAPSHOT: usize = 3;

/// What a checkpoint says beside facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// As [`Checkpoint::length`].
    pub length: Option<u64>,
    /// As [`Checkpoint::sealed`].
    pub sealed: u32,
    /// As [`Checkpoint::state`].
    pub state: State,
    /// As [`Checkpoint::lease_floor`].
    pub lease_floor: LeaseId,
    /// As [`Checkpoint::revoked`].
    pub revoked: Vec<LeaseId>,
    /// As [`Checkpoint::time_unix_ms`].
    pub time_unix_ms: u64,
}

/// Signs the records of one content, numbers them, and decides when a snapshot is due.
#[derive(Clone, Debug)]
pub struct Sealer {
    sid: Sid,
    key: SecretKey,
    key_index: u8,
    head: Head,
    /// Bytes of the newest snapshot, and of what followed it.
    snapshot_bytes: usize,
    delta_bytes: usize,
}

impl Sealer {
    /// Begins `term` with the key that the genesis has at `key_index`. The first checkpoint will be a snapshot.
    pub fn new(sid: Sid, key: SecretKey, key_index: u8, term: u32) -> Self {
        Self {
            sid,
            key,
            key_index,
            head: Head { term, seq: 0 },
            snapshot_bytes: 0,
            delta_bytes: 0,
        }
    }

    /// The newest record.
    pub fn head(&self) -> Head {
        self.head
    }

    fn sign(&mut self, body: Body) -> Result<Signed, RecordError> {
        let head = Head {
            seq: self.head.seq + 1,
            ..self.head
        };
        let record = Record {
            sid: self.sid,
            head,
            key: self.key_index,
            body,
        };
        let signed = record.sign(&self.key)?;
        self.head = head;
        Ok(signed)
    }

    /// Grants a lease.
    ///
    /// # Errors
    /// [`RecordError`] when it is for no pieces; no number is used up then.
    pub fn lease(&mut self, lease: Lease) -> Result<Signed, RecordError> {
        // Snapshots do not say leases again, so one is not due any sooner.
        self.sign(Body::Lease(lease))
    }

    /// Says what is new: `fresh` facts, which `facts` has already, and the content's status. A snapshot follows when
    /// one is due. All records must be kept before the first is sent.
    ///
    /// # Errors
    /// [`RecordError`] when the status contradicts itself or is too long for a record.
    pub fn checkpoint(
        &mut self,
        facts: &FactStore,
        fresh: &[Fact],
        status: &Status,
    ) -> Result<Vec<Signed>, RecordError> {
        let begins = self.head.seq == 0;
        let mut records = Vec::new();
        if begins {
            records = self.snapshot(facts, status)?;
        }
        // Those who follow want the hashes of single pieces, which a snapshot leaves out. Without facts there is at least a
        // status to tell.
        let nothing: &[Fact] = &[];
        let parts = fresh.chunks(FACTS_LIMIT);
        for facts in parts.chain((fresh.is_empty() && !begins).then_some(nothing)) {
            let signed = self.sign(checkpoint(status, facts, None))?;
            self.delta_bytes += signed.bytes().len();
            records.push(signed);
        }
        if self.delta_bytes >= DELTAS_LEAST.max(self.snapshot_bytes * DELTAS_PER_SNAPSHOT) {
            records.extend(self.snapshot(facts, status)?);
        }
        Ok(records)
    }

    /// As [`checkpoint`](Self::checkpoint), with a snapshot after it in any case: nothing more follows, and who comes later is
    /// to read as little as possible.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn last_checkpoint(
        &mut self,
        facts: &FactStore,
        fresh: &[Fact],
        status: &Status,
    ) -> Result<Vec<Signed>, RecordError> {
        let mut records = self.checkpoint(facts, fresh, status)?;
        if self.delta_bytes > 0 {
            records.extend(self.snapshot(facts, status)?);
        }
        Ok(records)
    }

    fn snapshot(&mut self, facts: &FactStore, status: &Status) -> Result<Vec<Signed>, RecordError> {
        let facts = facts.maximal();
        let mut parts: Vec<&[Fact]> = facts.chunks(FACTS_LIMIT).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let of = u16::try_from(parts.len()).expect("2^21 pieces are at most 2500 parts");
        let parts = (0..).zip(parts);
        let records = parts
            .map(|(index, facts)| self.sign(checkpoint(status, facts, Some(Part { index, of }))))
            .collect::<Result<Vec<_>, _>>()?;
        self.snapshot_bytes = records.iter().map(|signed| signed.bytes().len()).sum();
        self.delta_bytes = 0;
        Ok(records)
    }
}

fn checkpoint(status: &Status, facts: &[Fact], snapshot: Option<Part>) -> Body {
    let Status {
        length,
        sealed,
        state,
        lease_floor,
        revoked,
        time_unix_ms,
    } = status.clone();
    Body::Checkpoint(Checkpoint {
        length,
        sealed,
        state,
        snapshot,
        time_unix_ms,
        lease_floor,
        revoked,
        facts: facts.to_vec(),
    })
}
