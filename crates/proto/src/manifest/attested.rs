//! What relays attest, as far as it is not sealed yet.

use std::collections::BTreeSet;

use super::{Applied, Manifest, Refusal, forged};
use crate::record::{Attest, Body, Fact, LeaseId, Signed};

impl Manifest {
    pub(super) fn apply_attest(
        &mut self,
        signed: &Signed,
        attest: &Attest,
    ) -> Result<Applied, Refusal> {
        let lease_id = attest.lease;
        let key = (lease_id, signed.record().head.seq);
        let known = self.attests.get(&key);
        if known == Some(signed) || self.is_proven(attest) {
            return Ok(Applied::default());
        }
        if self.is_void(lease_id) {
            return Err(Refusal::VoidLease(lease_id));
        }
        let lease = self.lease(lease_id);
        let lease = lease.ok_or(Refusal::UnknownLease(lease_id))?;
        signed.verify(&lease.relay).map_err(forged)?;
        if known.is_some() {
            return Err(Refusal::LeaseEquivocation(lease_id));
        }
        for fact in &attest.facts {
            let at = fact.at();
            let piece = self.facts.attestable(at, attest.end);
            if piece.is_none_or(|piece| !lease.covers(piece)) {
                let lease = lease_id;
                return Err(Refusal::OutOfLease { lease, at });
            }
        }
        // So a holder that signs the same again and again costs nobody memory.
        let is_news = |fact: &Fact| self.facts.is_news(lease_id, fact);
        if attest.end.is_none() && !attest.facts.iter().any(is_news) {
            return Ok(Applied::default());
        }
        let mut applied = Applied {
            is_new: true,
            ..Applied::default()
        };
        for fact in &attest.facts {
            if !self.facts.is_news(lease_id, fact) {
                continue;
            }
            if let Ok(changes) = self.facts.attest(lease_id, fact) {
                applied.changes.merge(changes);
            }
        }
        for piece in self.pieces_of(attest) {
            self.attested.insert((piece, lease_id), key.1);
        }
        self.attests.insert(key, signed.clone());
        // Together with others it may have proven what a sealed node above is made of.
        if self
            .pieces_of(attest)
            .iter()
            .any(|&piece| self.facts.is_proven(piece))
        {
            self.drop_proven_attests();
        }
        Ok(applied)
    }

    fn pieces_of(&self, attest: &Attest) -> Vec<u32> {
        let pieces = attest.facts.iter().filter_map(|fact| {
            let piece = self.facts.attestable(fact.at(), attest.end)?;
            self.facts.space().locate(piece).map(|_| piece)
        });
        pieces.collect()
    }

    /// True when the attestation says only what is sealed anyway, or of what lies beyond the end.
    fn is_proven(&self, attest: &Attest) -> bool {
        let length_known = self.facts.space().piece_count().is_some();
        let is_proven = |fact: &Fact| match self.facts.attestable(fact.at(), attest.end) {
            Some(piece) => self.facts.space().locate(piece).is_none() || self.facts.is_sealed(fact),
            None => false,
        };
        (attest.end.is_none() || length_known) && attest.facts.iter().all(is_proven)
    }

    pub(super) fn drop_proven_attests(&mut self) {
        let facts = &self.facts;
        self.attested
            .retain(|&(piece, _), _| !facts.is_proven(piece));
        let needed: BTreeSet<(LeaseId, u64)> = self
            .attested
            .iter()
            .map(|(&(_, lease), &seq)| (lease, seq))
            .collect();
        let length_known = facts.space().piece_count().is_some();
        self.attests.retain(|key, signed| {
            let Body::Attest(attest) = &signed.record().body else {
                return false;
            };
            needed.contains(key) || (attest.end.is_some() && !length_known)
        });
    }
}
