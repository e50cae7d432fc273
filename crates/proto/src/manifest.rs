//! What one node knows of one content from signed records.
//!
//! Entry: [`Manifest::apply`] takes a record from anybody, decides whether it counts, and says what follows from it;
//! [`Manifest::records_after`] and [`Manifest::proof`] answer others. Invariant: what is kept was signed by a key of the
//! genesis, or by the key of a lease that counts; facts only grow; which records came first makes no difference to what
//! is sealed. [`Sealer`] is control's side: it makes the records.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::facts::{Accept, Changes, FactError, FactStore, NodeAt, PieceSpace, SpaceError};
use crate::genesis::Genesis;
use crate::record::{
    Body, Checkpoint, Fact, FinalNames, Head, Lease, LeaseId, PublicKey, Record, RecordError,
    Signed, State,
};
use crate::torrents::{Contents, NamesError};
use crate::wire::HashRequest;
use crate::{Layout, LayoutError, Sha256, Sid};

mod attested;
mod log;
mod sealer;

use log::Log;
pub use sealer::{Sealer, Status};

/// Why there is no manifest of a genesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Its files cannot be numbered through.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// One of control's keys is none.
    #[error("key {0} of the genesis is not a usable ed25519 key")]
    Key(usize),
}

/// Why a record does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is about another content.
    #[error("the record is about content {0}")]
    OtherSid(Sid),
    /// The genesis has no such key.
    #[error("the record is signed with key {0}, which the genesis does not have")]
    NoSuchKey(u8),
    /// The signature is wrong.
    #[error("the record is forged: its signature is wrong")]
    Forged,
    /// What was attested lies outside the lease, or is no piece's fact.
    #[error("lease {lease} does not allow to attest node {index} in layer {layer} of file {file}", index = at.index, layer = at.layer, file = at.file)]
    OutOfLease {
        /// The lease.
        lease: LeaseId,
        /// What was attested.
        at: NodeAt,
    },
    /// A sequence number that no record can have.
    #[error("the record has sequence number 0")]
    Unnumbered,
    /// It was attested under a lease that is not known here (yet).
    #[error("lease {0} is not known")]
    UnknownLease(LeaseId),
    /// It was attested under a lease that no longer counts.
    #[error("lease {0} no longer counts")]
    VoidLease(LeaseId),
    /// Control signed two records with one number.
    #[error("control signed two different records as {}.{}", .0.term, .0.seq)]
    Equivocation(Head),
    /// A lease's holder signed two records with one number.
    #[error("the holder of lease {0} signed two different records with one number")]
    LeaseEquivocation(LeaseId),
    /// Control contradicts itself: nothing of this content can be relied on any more.
    #[error("control contradicts itself: {0}")]
    Contradiction(Contradiction),
}

/// How control contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// Two sealed facts.
    #[error(transparent)]
    Fact(FactError),
    /// The final names are not those of the sealed facts.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// Two final names, or two ends.
    #[error("the content has two different final names or ends")]
    State,
}

impl Refusal {
    /// True when whoever sent the record broke the protocol: honest nodes pass on only what they have accepted.
    pub fn is_senders_fault(&self) -> bool {
        match self {
            Self::OtherSid(_)
            | Self::NoSuchKey(_)
            | Self::Forged
            | Self::OutOfLease { .. }
            | Self::Unnumbered => true,
            Self::UnknownLease(_)
            | Self::VoidLease(_)
            | Self::Equivocation(_)
            | Self::LeaseEquivocation(_)
            | Self::Contradiction(_) => false,
        }
    }
}

/// What followed from a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// It said something new, so it is worth passing on.
    pub is_new: bool,
    /// What changed about the pieces.
    pub changes: Changes,
    /// The content's [state](Manifest::state) changed, or its [names](Manifest::final_names) became usable.
    pub state_changed: bool,
}

/// What proves the hashes of some pieces, for somebody who asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Sealed nodes with the hashes of all pieces under them.
    pub hashes: Vec<(NodeAt, Vec<Sha256>)>,
    /// Attestations, each after the lease that it needs.
    pub records: Vec<Signed>,
    /// What is not known here.
    pub unknown: Vec<Range<u32>>,
}

/// What one node knows of one content.
#[derive(Clone, Debug)]
pub struct Manifest {
    sid: Sid,
    genesis: Genesis,
    keys: Vec<PublicKey>,
    facts: FactStore,
    log: Log,
    leases: BTreeMap<LeaseId, Signed>,
    lease_floor: LeaseId,
    revoked: BTreeSet<LeaseId>,
    /// Attestations of which something is not proven yet.
    attests: BTreeMap<(LeaseId, u64), Signed>,
    /// Which of them says the hash of a piece.
    attested: BTreeMap<(u32, LeaseId), u64>,
    state: State,
    /// The final names with all roots, once they have been compared with the facts.
    names: Option<Box<FinalNames>>,
    /// The roots that the signed names have of small files are among the facts.
    roots_taken: bool,
    broken: Option<Contradiction>,
}

impl Manifest {
    /// Nothing is known yet but the genesis, which the caller has compared with the content's [`Sid`].
    ///
    /// # Errors
    /// [`ManifestError`] when its files or its keys are unusable.
    pub fn new(genesis: Genesis, accept: Accept) -> Result<Self, ManifestError> {
        let key = |(index, key)| PublicKey::new(key).map_err(|_| ManifestError::Key(index));
        let keys = genesis.keys.iter().enumerate().map(key);
        Ok(Self {
            sid: genesis.sid(),
            keys: keys.collect::<Result<_, _>>()?,
            facts: FactStore::new(PieceSpace::of(&genesis)?, accept),
            genesis,
            log: Log::default(),
            leases: BTreeMap::new(),
            lease_floor: LeaseId(0),
            revoked: BTreeSet::new(),
            attests: BTreeMap::new(),
            attested: BTreeMap::new(),
            state: State::Open,
            names: None,
            roots_taken: false,
            broken: None,
        })
    }

    /// The content.
    pub fn sid(&self) -> Sid {
        self.sid
    }

    /// Its first record.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// What is known of its pieces.
    pub fn facts(&self) -> &FactStore {
        &self.facts
    }

    /// How the content divides into pieces, with its length as soon as it is known here.
    ///
    /// # Errors
    /// As [`Genesis::layout`]: never of a decoded genesis.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let layout = self.genesis.layout()?;
        match self.length().filter(|_| layout.length().is_none()) {
            Some(length) => layout.ended(length),
            None => Ok(layout),
        }
    }

    /// The content's length in bytes, as soon as it is known here.
    pub fn length(&self) -> Option<u64> {
        let space = self.facts.space();
        let files = 0..space.file_count();
        files
            .map(|file| space.file_length(u16::try_from(file).ok()?))
            .sum()
    }

    /// How far the content is, as far as known here.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The newest record of control.
    pub fn head(&self) -> Head {
        self.log.head()
    }

    /// The newest record of control up to which all is known: what to ask others for more from.
    pub fn complete_to(&self) -> Head {
        self.log.complete_to()
    }

    /// The content's standard names, once they are signed and follow from the facts that are known here.
    pub fn final_names(&self) -> Option<&FinalNames> {
        self.names.as_deref()
    }

    /// In which way control contradicted itself, if it did: nothing more is taken then.
    pub fn broken(&self) -> Option<&Contradiction> {
        self.broken.as_ref()
    }

    /// The lease, if it is known and counts.
    pub fn lease(&self, lease: LeaseId) -> Option<&Lease> {
        let signed = self.leases.get(&lease).filter(|_| !self.is_void(lease));
        match &signed?.record().body {
            Body::Lease(lease) => Some(lease),
            _ => None,
        }
    }

    fn is_void(&self, lease: LeaseId) -> bool {
        lease < self.lease_floor || self.revoked.contains(&lease)
    }

    /// Takes a record, from anybody.
    ///
    /// # Errors
    /// [`Refusal`] when it does not count; nothing has changed then, but for [`Refusal::Contradiction`], after which
    /// nothing of this content is taken any more.
    pub fn apply(&mut self, signed: &Signed) -> Result<Applied, Refusal> {
        if let Some(contradiction) = &self.broken {
            return Err(Refusal::Contradiction(contradiction.clone()));
        }
        let record = signed.record();
        if record.sid != self.sid {
            return Err(Refusal::OtherSid(record.sid));
        }
        match &record.body {
            Body::Genesis(_) => {
                // Its hash is the sid, so it is ours; whether it is signed makes no difference.
                Ok(Applied::default())
            }
            Body::Attest(attest) => self.apply_attest(signed, attest),
            Body::Lease(_) | Body::Checkpoint(_) => self.apply_control(signed, record),
        }
    }

    fn apply_control(&mut self, signed: &Signed, record: &Record) -> Result<Applied, Refusal> {
        if record.head.seq == 0 {
            return Err(Refusal::Unnumbered);
        }
        let known = self.log.get(record.head);
        if known == Some(signed) || (self.log.is_superseded(record.head) && self.is_old(record)) {
            return Ok(Applied::default());
        }
        let is_contradicted = known.is_some();
        let key = self.keys.get(usize::from(record.key));
        let key = key.ok_or(Refusal::NoSuchKey(record.key))?;
        signed.verify(key).map_err(forged)?;
        if is_contradicted {
            return Err(Refusal::Equivocation(record.head));
        }
        let mut applied = Applied {
            is_new: true,
            ..Applied::default()
        };
        match &record.body {
            Body::Lease(lease) => {
                if !self.is_void(lease.lease) {
                    self.leases.insert(lease.lease, signed.clone());
                }
                self.log.insert(signed.clone(), None);
            }
            Body::Checkpoint(checkpoint) => {
                if let Err(contradiction) = self.apply_checkpoint(checkpoint, &mut applied) {
                    self.broken = Some(contradiction.clone());
                    return Err(Refusal::Contradiction(contradiction));
                }
                self.log.insert(signed.clone(), checkpoint.snapshot);
            }
            Body::Genesis(_) | Body::Attest(_) => {}
        }
        Ok(applied)
    }

    /// True for a record from before the newest snapshot, which is no longer kept, that says nothing new. The snapshot says
    /// all of it again, but for the hashes of single pieces.
    fn is_old(&self, record: &Record) -> bool {
        match &record.body {
            Body::Checkpoint(checkpoint) => checkpoint
                .facts
                .iter()
                .all(|fact| self.facts.is_sealed(fact)),
            Body::Lease(lease) => {
                self.is_void(lease.lease) || self.leases.contains_key(&lease.lease)
            }
            Body::Genesis(_) | Body::Attest(_) => true,
        }
    }

    fn apply_checkpoint(
        &mut self,
        checkpoint: &Checkpoint,
        applied: &mut Applied,
    ) -> Result<(), Contradiction> {
        if let Some(length) = checkpoint.length {
            let changes = self.facts.set_length(length).map_err(Contradiction::Fact)?;
            applied.changes.merge(changes);
        }
        for fact in &checkpoint.facts {
            let changes = self.facts.seal(fact).map_err(Contradiction::Fact)?;
            applied.changes.merge(changes);
        }
        self.void_leases(checkpoint, applied);
        self.enter(&checkpoint.state, applied)?;
        self.verify_names(applied)?;
        self.drop_proven_attests();
        Ok(())
    }

    fn void_leases(&mut self, checkpoint: &Checkpoint, applied: &mut Applied) {
        let floor = self.lease_floor.max(checkpoint.lease_floor);
        let revoked = checkpoint.revoked.iter().copied();
        let before = (self.lease_floor, self.revoked.len());
        self.lease_floor = floor;
        self.revoked.extend(revoked.filter(|&lease| lease >= floor));
        if (self.lease_floor, self.revoked.len()) == before {
            return;
        }
        // Those below the floor need no mention.
        self.revoked = self.revoked.split_off(&floor);
        let revoked = self.revoked.clone();
        let is_void = move |lease: LeaseId| lease < floor || revoked.contains(&lease);
        applied.changes.merge(self.facts.drop_leases(&is_void));
        self.leases.retain(|&lease, _| !is_void(lease));
        self.attests.retain(|&(lease, _), _| !is_void(lease));
        self.attested.retain(|&(_, lease), _| !is_void(lease));
    }

    /// A state never goes back, whatever the order in which records come.
    fn enter(&mut self, state: &State, applied: &mut Applied) -> Result<(), Contradiction> {
        if state.rank() > self.state.rank() {
            self.state = state.clone();
            self.names = None;
            self.roots_taken = false;
            applied.state_changed = true;
        } else if state.rank() == self.state.rank() && *state != self.state {
            return Err(Contradiction::State);
        }
        Ok(())
    }

    /// Compares the signed names with those that follow from the facts, as soon as they do.
    fn verify_names(&mut self, applied: &mut Applied) -> Result<(), Contradiction> {
        let State::Final(names) = &self.state else {
            return Ok(());
        };
        if self.names.is_some() {
            return Ok(());
        }
        // Of a folder this is much work: not for each record of many that a late joiner reads.
        if self.roots_taken && !self.facts.is_complete() {
            return Ok(());
        }
        let contents = Contents::of(&self.genesis, &self.facts)?;
        if !self.roots_taken {
            self.roots_taken = true;
            // A relay that did not know the length could not know the root of a file shorter than a piece.
            let small = if contents.lacks_roots(names) {
                Vec::new()
            } else {
                contents.small_roots(names)?
            };
            for (file, layer, hash) in small {
                let fact = Fact {
                    file,
                    layer,
                    index: 0,
                    hash,
                };
                let changes = self.facts.seal(&fact).map_err(Contradiction::Fact)?;
                applied.changes.merge(changes);
            }
        }
        if self.facts.is_complete() {
            let mut names = names.clone();
            if contents.lacks_roots(&names) {
                names.roots = contents.roots(&self.facts);
            }
            contents.verify(&self.facts, &names)?;
            self.names = Some(names);
            applied.state_changed = true;
        }
        Ok(())
    }

    /// Takes the hashes of all pieces under a sealed node, from anybody: they prove themselves.
    ///
    /// # Errors
    /// As [`FactStore::expand`].
    pub fn expand(&mut self, node: NodeAt, hashes: &[Sha256]) -> Result<Changes, FactError> {
        let changes = self.facts.expand(node, hashes)?;
        self.drop_proven_attests();
        Ok(changes)
    }

    /// What answers a peer of the final v2 torrent that asks for hashes (BEP 52): see [`FactStore::hashes`]. `None`: not to
    /// be had here.
    pub fn hashes(&self, request: &HashRequest) -> Option<Vec<Sha256>> {
        let roots = self.final_names()?.roots.iter();
        let mut files = (0..=u16::MAX).zip(roots);
        let (file, _) = files.find(|(_, root)| **root == Some(request.pieces_root))?;
        self.facts.hashes(file, request)
    }

    /// What somebody lacks who knows all up to `have`: the records after it, or the newest snapshot and what followed.
    pub fn records_after(&self, have: Head) -> impl Iterator<Item = &Signed> {
        self.log.after(have)
    }

    /// The leases that count.
    pub fn leases(&self) -> impl Iterator<Item = &Signed> {
        self.leases.values()
    }

    /// What proves the hashes of `pieces`.
    pub fn proof(&self, pieces: Range<u32>) -> Proof {
        let mut proof = Proof::default();
        let mut leases = BTreeSet::new();
        let mut attests = BTreeSet::new();
        let mut unknown = Vec::new();
        let mut done = pieces.start;
        for piece in pieces {
            if piece < done {
                continue;
            }
            if let Some((node, hashes)) = self.facts.expandable(piece) {
                done = self.facts.pieces_of(node).end;
                proof.hashes.push((node, hashes));
                continue;
            }
            let said = self
                .attested
                .range((piece, LeaseId(0))..=(piece, LeaseId(u64::MAX)));
            let before = attests.len();
            for (&(_, lease), &seq) in said {
                attests.insert((lease, seq));
                leases.insert(lease);
            }
            if attests.len() == before && !self.is_attested(piece) {
                unknown.push(piece);
            }
        }
        let leases = leases.iter().filter_map(|lease| self.leases.get(lease));
        let attests = attests.iter().filter_map(|key| self.attests.get(key));
        proof.records = leases.chain(attests).cloned().collect();
        proof.unknown = crate::facts::runs(unknown.into_iter());
        proof
    }

    fn is_attested(&self, piece: u32) -> bool {
        let mut said = self
            .attested
            .range((piece, LeaseId(0))..=(piece, LeaseId(u64::MAX)));
        said.next().is_some()
    }
}

fn forged(_: RecordError) -> Refusal {
    Refusal::Forged
}

#[cfg(test)]
mod tests;
