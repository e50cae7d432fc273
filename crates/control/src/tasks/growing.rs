//! What control vouches for of one content that still grows: facts, and when they are signed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use floodway_api::sync::PieceReport;
use floodway_proto::facts::{Accept, FactError, FactStore, PieceSpace};
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::{Sealer, Status};
use floodway_proto::record::{
    Fact, FinalNames, Lease, LeaseId, OriginDigest, ROOTS_LIMIT, RecordError, SecretKey, Signed,
    State,
};
use floodway_proto::torrents::{Contents, NamesError};
use floodway_proto::{InfoHash, Layout, PieceIndex, Sha1, Sha256, Time, digest, merkle};

use super::pieces::PieceTable;
use super::records::is_end;

/// Facts that come closer together than this go into one record.
const SILENCE: Duration = Duration::from_millis(50);

/// When the next record may be signed: at once as long as little is reported, less often under load.
///
/// A record costs about 160 bytes beside its facts, and what is signed goes to every node. So records are paid for: each
/// piece earns 0.08 of one and each second 1.8, up to a burst of 16; a signed lease costs one and a quarter. At 30 pieces of 4 MiB a second (1 Gbit/s) that
/// is 4.2 records a second, which with facts and snapshots stays below 2 MB per 100 GB; 190 pieces of 256 KiB a
/// second may have 17.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Thousandths of a record.
    credit: u64,
    /// Until when the passing time has been paid out.
    paid: Time,
    /// When the last record was signed.
    last: Time,
}

impl Pace {
    const RECORD: u64 = 1000;
    /// 184 bytes.
    const LEASE: u64 = 1250;
    const PER_PIECE: u64 = 80;
    const PER_SECOND: u64 = 1800;
    const MOST: u64 = 16 * Self::RECORD;

    fn new(now: Time) -> Self {
        Self {
            credit: Self::MOST,
            paid: now,
            last: Time::ZERO,
        }
    }

    fn earn(&mut self, now: Time, pieces: usize) {
        let each = Duration::from_secs(1).as_nanos() / u128::from(Self::PER_SECOND);
        let each = u64::try_from(each).unwrap_or(u64::MAX);
        let passed = now.since(self.paid).as_nanos();
        let earned = u64::try_from(passed).unwrap_or(u64::MAX) / each;
        // What is left of the time counts the next time.
        self.paid += Duration::from_nanos(earned * each);
        let pieces = Self::PER_PIECE.saturating_mul(pieces as u64);
        let credit = self.credit.saturating_add(earned).saturating_add(pieces);
        self.credit = credit.min(Self::MOST);
    }

    fn is_due(&self, now: Time) -> bool {
        self.credit >= Self::RECORD && (self.last == Time::ZERO || now >= self.last + SILENCE)
    }

    /// For a lease, which cannot wait.
    fn pay_lease(&mut self) {
        self.credit = self.credit.saturating_sub(Self::LEASE);
    }

    fn spend(&mut self, now: Time) {
        self.credit = self.credit.saturating_sub(Self::RECORD);
        self.last = now;
    }
}

/// One content that control signs records of.
#[derive(Debug)]
pub(crate) struct Growing {
    genesis: Genesis,
    layout: Layout,
    facts: FactStore,
    sealer: Sealer,
    /// Known but not signed yet.
    fresh: Vec<Fact>,
    /// Nothing was signed in this term yet.
    begins: bool,
    /// The length is known since the last record.
    ended: bool,
    /// Leases that hold, and those that were taken back before they were done. All below are of no interest any more.
    leases: Leases,
    pace: Pace,
}

/// Which of a content's leases count.
#[derive(Debug, Default)]
struct Leases {
    /// Those that are held, with their pieces.
    held: BTreeMap<LeaseId, Range<u32>>,
    revoked: BTreeSet<LeaseId>,
    /// All that were ever held are below.
    end: LeaseId,
}

impl Leases {
    fn begin(&mut self, lease: LeaseId, pieces: Range<u32>) {
        self.held.insert(lease, pieces);
        self.end = self.end.max(LeaseId(lease.0.saturating_add(1)));
    }

    /// Only these are held now. Of the others those are revoked of which not all is sealed.
    fn keep(&mut self, is_held: impl Fn(LeaseId) -> bool, facts: &FactStore) {
        let held = std::mem::take(&mut self.held);
        let (held, ended) = held.into_iter().partition(|(lease, _)| is_held(*lease));
        self.held = held;
        let ended: BTreeMap<LeaseId, Range<u32>> = ended;
        let open = ended
            .into_iter()
            .filter(|(_, pieces)| !pieces.clone().all(|piece| facts.is_proven(piece)));
        self.revoked.extend(open.map(|(lease, _)| lease));
        let floor = self.floor();
        self.revoked = self.revoked.split_off(&floor);
    }

    fn floor(&self) -> LeaseId {
        let first = self.held.keys().next();
        first.copied().unwrap_or(self.end)
    }
}

impl Growing {
    /// Begins `term` of a content with what is known of it: `length` in bytes, if that is. `None` when control has no key in its
    /// genesis, so that nobody would take its records.
    pub(crate) fn new(
        genesis: Genesis,
        length: Option<u64>,
        key: &SecretKey,
        term: u32,
        known: Option<&PieceTable>,
        now: Time,
    ) -> Option<Self> {
        let public = key.public().to_bytes();
        let index = genesis.keys.iter().position(|key| *key == public)?;
        let layout = genesis.layout().ok()?;
        let facts = FactStore::new(PieceSpace::of(&genesis).ok()?, Accept::Sealed);
        let sealer = Sealer::new(genesis.sid(), key.clone(), u8::try_from(index).ok()?, term);
        let mut growing = Self {
            genesis,
            layout,
            facts,
            sealer,
            fresh: Vec::new(),
            begins: true,
            ended: false,
            leases: Leases::default(),
            pace: Pace::new(now),
        };
        if let Some(length) = length {
            growing.end(length).ok()?;
        }
        for (piece, node) in known.into_iter().flat_map(PieceTable::known_nodes) {
            growing.seal(piece, node).ok()?;
        }
        Some(growing)
    }

    fn seal(&mut self, piece: u32, hash: Sha256) -> Result<Fact, FactError> {
        let located = self.facts.space().locate(piece);
        let (file, index) = located.unwrap_or((0, piece));
        let layout = self.layout.of_piece(PieceIndex(piece));
        let fact = Fact {
            file,
            layer: merkle::piece_layer(&layout).unwrap_or(u8::MAX),
            index,
            hash,
        };
        self.facts.seal(&fact)?;
        Ok(fact)
    }

    /// The content, whose length was not known, ends here, in bytes.
    ///
    /// # Errors
    /// [`FactError`] when another end is known, or pieces beyond it.
    pub(crate) fn end(&mut self, length: u64) -> Result<(), FactError> {
        if self.layout.length().is_some() {
            return Ok(());
        }
        let ended = self.layout.ended(length);
        let ended = ended.map_err(|error| FactError::Length(error.into()))?;
        self.facts.set_length(length)?;
        (self.layout, self.ended) = (ended, true);
        Ok(())
    }

    /// Takes pieces that were reported and are not known yet.
    ///
    /// # Errors
    /// [`FactError`] when the content cannot have such pieces.
    pub(crate) fn note(&mut self, now: Time, pieces: &[PieceReport]) -> Result<(), FactError> {
        self.pace.earn(now, pieces.len());
        for piece in pieces {
            let fact = self.seal(piece.piece, piece.node)?;
            self.fresh.push(fact);
        }
        Ok(())
    }

    /// True when something is to be signed now. To be asked often while something is fresh.
    pub(crate) fn is_due(&mut self, now: Time) -> bool {
        self.pace.earn(now, 0);
        self.begins || ((self.ended || !self.fresh.is_empty()) && self.pace.is_due(now))
    }

    /// Signs what is fresh. All records must be durable before the first leaves.
    ///
    /// # Errors
    /// [`RecordError`] when it cannot be said in a record: a fault of this program.
    pub(crate) fn sign(
        &mut self,
        now: Time,
        unix_us: i64,
        state: State,
    ) -> Result<Vec<Signed>, RecordError> {
        let ends = is_end(&state);
        let status = Status {
            // Of the last file: only that may be unknown.
            length: self.facts.space().last_length(),
            sealed: self.facts.proven_pieces(),
            state,
            lease_floor: self.leases.floor(),
            revoked: self.leases.revoked.iter().copied().collect(),
            time_unix_ms: unix_us.max(0).cast_unsigned() / 1000,
        };
        let records = if ends {
            let (facts, fresh) = (&self.facts, &self.fresh);
            self.sealer.last_checkpoint(facts, fresh, &status)?
        } else {
            self.sealer.checkpoint(&self.facts, &self.fresh, &status)?
        };
        if self.ended || !self.fresh.is_empty() {
            self.pace.spend(now);
        }
        self.fresh.clear();
        (self.begins, self.ended) = (false, false);
        Ok(records)
    }

    /// This lease was dealt in an earlier term and is held.
    pub(crate) fn resume_lease(&mut self, lease: LeaseId, pieces: Range<u32>) {
        self.leases.begin(lease, pieces);
    }

    /// Only these leases are held now: what was attested under others counts no more, as far as it is not sealed. It is said
    /// with the next record.
    pub(crate) fn keep_leases(&mut self, is_held: impl Fn(LeaseId) -> bool) {
        self.leases.keep(is_held, &self.facts);
    }

    /// Signs a lease, after the snapshot with which a term begins. All records must be durable before the first leaves.
    ///
    /// # Errors
    /// [`RecordError`] when it is for no pieces.
    pub(crate) fn lease(
        &mut self,
        now: Time,
        unix_us: i64,
        lease: Lease,
    ) -> Result<Vec<Signed>, RecordError> {
        let mut records = Vec::new();
        if self.begins {
            records = self.sign(now, unix_us, State::Open)?;
        }
        let (id, pieces) = (lease.lease, lease.first..lease.first + lease.count);
        records.push(self.sealer.lease(lease)?);
        self.leases.begin(id, pieces);
        self.pace.pay_lease();
        Ok(records)
    }

    /// The names that follow from all pieces' hashes; `v1` is the info-hash of the v1 torrent.
    ///
    /// # Errors
    /// [`NamesError`] when a hash is missing, or that is not its info-hash.
    pub(crate) fn names(&self, v1: InfoHash, sha1s: &[Sha1]) -> Result<FinalNames, NamesError> {
        let contents = Contents::of(&self.genesis, &self.facts)?;
        let roots = contents.roots(&self.facts);
        let flavors = self.genesis.final_torrents.flavors;
        let v2 = flavors.v2.then(|| contents.v2_info(&roots)).transpose()?;
        let hybrid = flavors
            .hybrid
            .then(|| contents.hybrid_info(sha1s, &roots))
            .transpose()?;
        let mut names = FinalNames {
            roots,
            v1: Some(v1),
            v2: v2.map(|info| digest::sha256(&info)),
            hybrid: hybrid.map(|info| (InfoHash(digest::sha1(&info).0), digest::sha256(&info))),
            origin_digest: OriginDigest::Absent,
        };
        // What nodes would refuse must not be signed.
        contents.verify(&self.facts, &names)?;
        contents.verify_v1(&names, sha1s)?;
        if names.roots.len() > ROOTS_LIMIT {
            names.roots.clear();
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests;
