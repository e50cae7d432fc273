//! What a relay signs itself of the pieces that it reads under leases: when, and in how many records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use floodway_proto::Time;
use floodway_proto::manifest::Manifest;
use floodway_proto::record::{Attest, Body, Fact, Head, LeaseId, Record, SecretKey, Signed};

use super::{Gossip, GossipOutput};

/// Control signs what it is told within so long, unless it is away: what it would have signed is not said twice.
const LATE: Duration = Duration::from_secs(1);
/// So many records are signed without waiting for control, by all relays together: the first pieces of a content are what others
/// wait for.
const BURST: u32 = 16;
/// Each of these gives them one more. 100 GB at 1 Gbit/s, 800 s, may have 56 records of about 300 bytes so.
const ANOTHER_AFTER: Duration = Duration::from_secs(20);
/// The most facts in one record: it stays below 3 KiB.
const FACTS_LIMIT: usize = 64;

/// A relay's signatures.
#[derive(Debug)]
pub(super) struct Attestor {
    key: Arc<SecretKey>,
    /// The last number that was used.
    seq: u64,
    /// Records that may be signed at once.
    credit: u32,
    /// Until when the passing time was paid out.
    paid: Time,
    /// Pieces that were read and that nobody can verify yet, and when they are due.
    waiting: BTreeMap<u32, (Time, Fact)>,
}

impl Attestor {
    pub(super) fn new(now: Time, key: Arc<SecretKey>) -> Self {
        Self {
            key,
            seq: 0,
            credit: BURST,
            paid: now,
            waiting: BTreeMap::new(),
        }
    }

    /// `relays`: so many have leases.
    fn read(&mut self, now: Time, piece: u32, fact: Fact, relays: u32) {
        while self.paid + ANOTHER_AFTER * relays <= now {
            self.paid += ANOTHER_AFTER * relays;
            self.credit = self.credit.saturating_add(1);
        }
        self.credit = self.credit.min((BURST / relays).max(1));
        let due = if self.credit > 0 { now } else { now + LATE };
        self.waiting.insert(piece, (due, fact));
    }

    pub(super) fn due_at(&self) -> Option<Time> {
        self.waiting.values().map(|(due, _)| *due).min()
    }

    /// Signs all that waits, when some of it is due, as far as it lies within leases of this relay.
    fn sign_due(&mut self, now: Time, manifest: &Manifest) -> Vec<Signed> {
        let facts = manifest.facts();
        self.waiting.retain(|&piece, _| !facts.is_verifiable(piece));
        if self.due_at().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let own = self.key.public();
        let leases = manifest
            .leases()
            .filter_map(|signed| match &signed.record().body {
                Body::Lease(lease) if lease.relay == own => Some(lease),
                _ => None,
            });
        let leases: Vec<_> = leases.collect();
        let mut by_lease: BTreeMap<LeaseId, Vec<Fact>> = BTreeMap::new();
        for (&piece, (due, fact)) in &mut self.waiting {
            // The newest lease is the last to lose its force. What lies in none may yet get one, or is control's to sign.
            if let Some(lease) = leases.iter().rev().find(|lease| lease.covers(piece)) {
                by_lease.entry(lease.lease).or_default().push(*fact);
            }
            *due = now + LATE;
        }
        let mut records = Vec::new();
        for (lease, facts) in by_lease {
            for facts in facts.chunks(FACTS_LIMIT) {
                records.extend(self.sign(manifest, lease, facts));
            }
        }
        records
    }

    fn sign(&mut self, manifest: &Manifest, lease: LeaseId, facts: &[Fact]) -> Option<Signed> {
        self.seq += 1;
        self.credit = self.credit.saturating_sub(1);
        let head = Head {
            term: manifest.head().term,
            seq: self.seq,
        };
        let record = Record {
            sid: manifest.sid(),
            head,
            key: 0,
            body: Body::Attest(Attest {
                lease,
                facts: facts.to_vec(),
                sha1s: None,
                end: None,
            }),
        };
        // It is short enough for a record.
        record.sign(&self.key).ok()
    }
}

/// How many relays have leases, and so sign what they read; at least one.
fn readers(manifest: &Manifest) -> u32 {
    let leases = manifest
        .leases()
        .filter_map(|signed| match &signed.record().body {
            Body::Lease(lease) => Some(lease.relay.to_bytes()),
            _ => None,
        });
    let relays: BTreeSet<[u8; 32]> = leases.collect();
    u32::try_from(relays.len()).unwrap_or(u32::MAX).max(1)
}

impl Gossip {
    /// This node has read a piece from the origin.
    pub(super) fn has_read(&mut self, now: Time, piece: u32, fact: Fact) {
        let relays = readers(&self.manifest);
        if let Some(attestor) = &mut self.attestor {
            attestor.read(now, piece, fact, relays);
        }
    }

    /// Signs what is due of what this node has read, and tells others.
    pub(super) fn attest(&mut self, now: Time) {
        let Some(attestor) = &mut self.attestor else {
            return;
        };
        for signed in attestor.sign_due(now, &self.manifest) {
            if let Err(refusal) = self.take(now, None, &signed) {
                self.outputs.push_back(GossipOutput::Refused(refusal));
            }
        }
    }
}
