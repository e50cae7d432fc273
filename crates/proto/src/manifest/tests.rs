#![expect(
    clippy::single_range_in_vec_init,
    reason = "runs of pieces are lists of ranges, often of one"
)]

use proptest::prelude::*;

use super::*;
use crate::digest::sha256;
use crate::merkle::{LEAF_LENGTH, Tree};
use crate::record::{Attest, EndReason, OriginDigest, SecretKey};
use crate::{Layout, PieceIndex};

const PIECE: u32 = 2 * LEAF_LENGTH;
const P: u8 = 1;
const A: LeaseId = LeaseId(1);

fn control() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

fn relay() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

fn genesis(length: Option<u64>) -> Genesis {
    let mut genesis = crate::genesis::tests::genesis();
    genesis.keys = vec![control().public().to_bytes()];
    genesis.files[0].length = length;
    genesis.piece_length = PIECE;
    genesis
}

fn manifest(length: Option<u64>) -> Manifest {
    Manifest::new(genesis(length), Accept::Attested).unwrap()
}

fn pieces(count: u32) -> u64 {
    u64::from(count) * u64::from(PIECE)
}

fn hash(piece: u32) -> Sha256 {
    sha256(&piece.to_be_bytes())
}

fn fact(index: u32) -> Fact {
    Fact {
        file: 0,
        layer: P,
        index,
        hash: hash(index),
    }
}

/// Control with its own manifest.
struct Control {
    sealer: Sealer,
    manifest: Manifest,
    status: Status,
    records: Vec<Signed>,
}

impl Control {
    fn new(length: Option<u64>) -> Self {
        let manifest = manifest(length);
        let mut control = Self {
            sealer: Sealer::new(manifest.sid(), control(), 0, 1),
            status: Status {
                length,
                sealed: 0,
                state: State::Open,
                lease_floor: LeaseId(0),
                revoked: Vec::new(),
                time_unix_ms: 0,
            },
            manifest,
            records: Vec::new(),
        };
        control.seal(&[]);
        control
    }

    fn seal(&mut self, facts: &[Fact]) -> Vec<Signed> {
        let mut known = self.manifest.facts().clone();
        if let Some(length) = self.status.length {
            known.set_length(length).unwrap();
        }
        for fact in facts {
            known.seal(fact).unwrap();
        }
        self.status.sealed = known.proven_pieces();
        let records = self.sealer.checkpoint(&known, facts, &self.status).unwrap();
        self.take(&records);
        records
    }

    fn take(&mut self, records: &[Signed]) {
        for record in records {
            assert!(self.manifest.apply(record).unwrap().is_new);
        }
        self.records.extend_from_slice(records);
    }

    fn lease(&mut self, lease: LeaseId, first: u32, count: u32) -> Signed {
        let lease = Lease {
            lease,
            relay: relay().public(),
            first,
            count,
            expires_unix_ms: 0,
        };
        let signed = self.sealer.lease(lease).unwrap();
        self.take(std::slice::from_ref(&signed));
        signed
    }

    fn names(&self) -> FinalNames {
        let facts = self.manifest.facts();
        let contents = Contents::of(self.manifest.genesis(), facts).unwrap();
        let roots = vec![facts.pieces_root(0)];
        FinalNames {
            v1: None,
            v2: Some(sha256(&contents.v2_info(&roots).unwrap())),
            hybrid: None,
            roots,
            origin_digest: OriginDigest::Absent,
        }
    }
}

fn attest(seq: u64, lease: LeaseId, facts: Vec<Fact>) -> Record {
    Record {
        sid: genesis(Some(pieces(64))).sid(),
        head: Head { term: 1, seq },
        key: 0,
        body: Body::Attest(Attest {
            lease,
            facts,
            sha1s: None,
            end: None,
        }),
    }
}

/// Applies what was refused for what had not come yet again and again.
fn apply_all(manifest: &mut Manifest, records: &[Signed]) {
    let mut left: Vec<_> = records.to_vec();
    loop {
        let before = left.len();
        left.retain(|record| matches!(manifest.apply(record), Err(Refusal::UnknownLease(_))));
        if left.len() == before || left.is_empty() {
            return;
        }
    }
}

#[test]
fn a_node_follows_control_from_the_first_record_to_the_names() {
    let mut control = Control::new(Some(pieces(64)));
    let mut node = manifest(Some(pieces(64)));
    let changes = |records: &[Signed], node: &mut Manifest| {
        let mut changes = Changes::default();
        for record in records {
            changes.merge(node.apply(record).unwrap().changes);
        }
        changes
    };
    changes(&control.records, &mut node);
    assert_eq!(
        changes(&control.seal(&[fact(0)]), &mut node).verifiable,
        [0..1]
    );
    assert_eq!(node.head(), control.sealer.head());
    assert_eq!(node.complete_to(), node.head());
    let rest: Vec<_> = (1..64).map(fact).collect();
    assert_eq!(changes(&control.seal(&rest), &mut node).verifiable, [1..64]);
    assert!(node.facts().is_complete());
    let names = control.names();
    control.status.state = State::Final(Box::new(names.clone()));
    let records = control.seal(&[]);
    let applied = node.apply(&records[0]).unwrap();
    assert!(applied.state_changed);
    assert_eq!(node.final_names(), Some(&names));
    // The same again says nothing new.
    for record in &control.records {
        assert_eq!(node.apply(record), Ok(Applied::default()));
    }
}

#[test]
fn what_a_node_may_not_believe_is_refused() {
    let mut control = Control::new(Some(pieces(64)));
    let mut node = manifest(Some(pieces(64)));
    let lease = control.lease(A, 8, 8);
    apply_all(&mut node, &control.records);
    let good = attest(1, A, vec![fact(8)]).sign(&relay()).unwrap();
    let fact_of = |layer, index| Fact {
        layer,
        index,
        ..fact(0)
    };
    let outside = |fact: Fact| {
        Err(Refusal::OutOfLease {
            lease: A,
            at: fact.at(),
        })
    };
    let mut flipped = good.bytes().to_vec();
    flipped[100] ^= 1;
    let other_sid = Record {
        sid: Sid([1; 32]),
        ..lease.record().clone()
    };
    let other_key = Record {
        key: 1,
        ..lease.record().clone()
    };
    let again = Record {
        head: Head { term: 1, seq: 9 },
        ..lease.record().clone()
    };
    let unnumbered = Record {
        head: Head { term: 1, seq: 0 },
        ..lease.record().clone()
    };
    let forger = SecretKey::from_seed(&[9; 32]);
    let replayed = Record {
        sid: genesis(Some(pieces(65))).sid(),
        ..good.record().clone()
    };
    for (record, refusal) in [
        (Signed::decode(flipped.into()), Err(Refusal::Forged)),
        (
            other_sid.sign(&self::control()),
            Err(Refusal::OtherSid(Sid([1; 32]))),
        ),
        (other_key.sign(&self::control()), Err(Refusal::NoSuchKey(1))),
        (again.sign(&forger), Err(Refusal::Forged)),
        (again.sign(&relay()), Err(Refusal::Forged)),
        (unnumbered.sign(&self::control()), Err(Refusal::Unnumbered)),
        (
            replayed.sign(&relay()),
            Err(Refusal::OtherSid(replayed.sid)),
        ),
        (good.record().sign(&forger), Err(Refusal::Forged)),
        (good.record().sign(&self::control()), Err(Refusal::Forged)),
        (
            attest(1, A, vec![fact(8), fact(7)]).sign(&relay()),
            outside(fact(7)),
        ),
        (
            attest(1, A, vec![fact(16)]).sign(&relay()),
            outside(fact(16)),
        ),
        (
            attest(1, A, vec![fact_of(P + 1, 4)]).sign(&relay()),
            outside(fact_of(P + 1, 4)),
        ),
        (
            attest(1, A, vec![fact_of(0, 16)]).sign(&relay()),
            outside(fact_of(0, 16)),
        ),
        (
            attest(1, LeaseId(2), vec![fact(8)]).sign(&relay()),
            Err(Refusal::UnknownLease(LeaseId(2))),
        ),
    ] {
        let found = node.apply(&record.unwrap());
        assert_eq!(found, refusal);
        let is_ignorance = matches!(refusal, Err(Refusal::UnknownLease(_)));
        assert_eq!(found.unwrap_err().is_senders_fault(), !is_ignorance);
        assert_eq!(node.facts().missing(0..64), [0..64]);
    }
    // Beyond the end there is nothing to say.
    let beyond = attest(1, A, vec![fact(99)]).sign(&relay()).unwrap();
    assert_eq!(node.apply(&beyond), Ok(Applied::default()));
    assert_eq!(node.apply(&good).unwrap().changes.verifiable, [8..9]);
    // Signed with the lease's number twice.
    let twice = attest(1, A, vec![fact(9)]).sign(&relay()).unwrap();
    assert_eq!(node.apply(&twice), Err(Refusal::LeaseEquivocation(A)));
}

#[test]
fn a_zombie_relay_is_ignored() {
    let mut control = Control::new(Some(pieces(64)));
    let mut node = manifest(Some(pieces(64)));
    control.lease(A, 0, 8);
    control.lease(LeaseId(2), 8, 8);
    control.lease(LeaseId(3), 16, 8);
    apply_all(&mut node, &control.records);
    let early = attest(1, A, vec![fact(0)]).sign(&relay()).unwrap();
    let of_second = attest(1, LeaseId(2), vec![fact(8)]).sign(&relay()).unwrap();
    let of_third = attest(1, LeaseId(3), vec![fact(16)])
        .sign(&relay())
        .unwrap();
    for record in [&early, &of_second, &of_third] {
        assert!(node.apply(record).unwrap().is_new);
    }
    // What was read under the first lease is sealed before the floor rises; the third lease is revoked.
    control.status.lease_floor = LeaseId(2);
    control.status.revoked = vec![LeaseId(3)];
    let records = control.seal(&[fact(0)]);
    let applied = node.apply(&records[0]).unwrap();
    assert_eq!(applied.changes.withdrawn, [16..17]);
    assert!(node.facts().is_proven(0));
    assert_eq!(node.leases().count(), 1);
    let late = attest(2, A, vec![fact(1)]).sign(&relay()).unwrap();
    assert_eq!(node.apply(&late), Err(Refusal::VoidLease(A)));
    assert_eq!(node.apply(&of_third), Err(Refusal::VoidLease(LeaseId(3))));
    assert!(!node.apply(&late).unwrap_err().is_senders_fault());
    // A lease record that comes late does not bring it back.
    let mut late_joiner = manifest(Some(pieces(64)));
    let mut records = control.records.clone();
    records.reverse();
    apply_all(&mut late_joiner, &records);
    assert_eq!(late_joiner.leases().count(), 1);
    assert_eq!(
        late_joiner.apply(&of_third),
        Err(Refusal::VoidLease(LeaseId(3)))
    );
    let changes = late_joiner.apply(&of_second).unwrap().changes;
    assert_eq!(changes.verifiable, [8..9]);
}

#[test]
fn control_that_contradicts_itself_is_believed_no_more() {
    let mut control = Control::new(Some(pieces(64)));
    control.seal(&[fact(0)]);
    let checkpoint = |seq, facts, state| Record {
        sid: control.manifest.sid(),
        head: Head { term: 1, seq },
        key: 0,
        body: Body::Checkpoint(Checkpoint {
            length: Some(pieces(64)),
            sealed: 1,
            state,
            snapshot: None,
            time_unix_ms: 0,
            lease_floor: LeaseId(0),
            revoked: Vec::new(),
            facts,
        }),
    };
    let sign = |record: Record| record.sign(&self::control()).unwrap();
    let mut node = manifest(Some(pieces(64)));
    apply_all(&mut node, &control.records);
    // Two records with one number: an alarm, but the node goes on.
    let twin = sign(checkpoint(2, vec![fact(1)], State::Open));
    let error = Refusal::Equivocation(Head { term: 1, seq: 2 });
    assert_eq!(node.apply(&twin), Err(error));
    assert!(node.broken().is_none());
    let mut ended = node.clone();
    let aborted = State::Aborted(EndReason::OriginGone);
    ended
        .apply(&sign(checkpoint(3, Vec::new(), aborted)))
        .unwrap();
    // A state does not go back, and there is one end.
    ended
        .apply(&sign(checkpoint(4, Vec::new(), State::Open)))
        .unwrap();
    assert_eq!(ended.state().rank(), 3);
    let other_end = State::Aborted(EndReason::Operator);
    let error = ended.apply(&sign(checkpoint(5, Vec::new(), other_end)));
    assert_eq!(error, Err(Refusal::Contradiction(Contradiction::State)));
    // Two values for one fact: nothing more is taken.
    let lie = Fact {
        hash: hash(9),
        ..fact(0)
    };
    let error = node.apply(&sign(checkpoint(3, vec![lie], State::Open)));
    assert!(matches!(
        error,
        Err(Refusal::Contradiction(Contradiction::Fact(_)))
    ));
    assert!(node.broken().is_some());
    assert!(node.apply(&control.records[0]).is_err());
}

#[test]
fn false_names_are_not_published() {
    let mut control = Control::new(Some(pieces(5)));
    let facts: Vec<_> = (0..5).map(fact).collect();
    control.seal(&facts);
    let names = FinalNames {
        v2: Some(Sha256([1; 32])),
        ..control.names()
    };
    let mut node = manifest(Some(pieces(5)));
    apply_all(&mut node, &control.records);
    control.status.state = State::Final(Box::new(names));
    let records = control
        .sealer
        .checkpoint(control.manifest.facts(), &[], &control.status)
        .unwrap();
    let error = node.apply(&records[0]).unwrap_err();
    assert!(matches!(
        error,
        Refusal::Contradiction(Contradiction::Names(_))
    ));
    assert_eq!(node.final_names(), None);
}

#[test]
fn the_end_of_a_stream_is_believed_when_control_signs_it() {
    // T2, T22: a length that is a piece and a bit less; and one below a piece.
    for length in [pieces(3) - 100, 20, pieces(1), 0] {
        let data = vec![7; usize::try_from(length).unwrap()];
        let unknown = Layout::new(None, PIECE).unwrap();
        let known = Layout::new(Some(length), PIECE).unwrap();
        let chunks = (0..).zip(data.chunks(PIECE as usize));
        let node_of = |layout, index, bytes| {
            crate::merkle::piece_node(bytes, layout, PieceIndex(index)).unwrap()
        };
        let facts: Vec<_> = chunks
            .map(|(index, bytes)| Fact {
                hash: node_of(&unknown, index, bytes),
                ..fact(index)
            })
            .collect();
        let mut control = Control::new(None);
        let mut node = manifest(None);
        control.lease(A, 0, 1000);
        apply_all(&mut node, &control.records);
        let mut record = attest(1, A, facts.clone());
        record.sid = node.sid();
        if let Body::Attest(attest) = &mut record.body {
            attest.end = Some(length);
        }
        let claimed = record.sign(&relay()).unwrap();
        assert!(node.apply(&claimed).unwrap().is_new);
        assert!(!node.apply(&claimed).unwrap().is_new);
        assert_eq!(
            node.facts().space().piece_count(),
            None,
            "a relay cannot end a file"
        );
        control.status.length = Some(length);
        let end = control.seal(&facts);
        apply_all(&mut node, &end);
        assert_eq!(
            node.facts().space().piece_count(),
            Some(known.piece_count())
        );
        assert!(!node.apply(&claimed).unwrap().is_new);
        let mut names = FinalNames {
            roots: vec![None],
            v1: None,
            v2: None,
            hybrid: None,
            origin_digest: OriginDigest::Absent,
        };
        if length > 0 {
            let mut tree = Tree::new(&known).unwrap();
            for (index, bytes) in (0..).zip(data.chunks(PIECE as usize)) {
                let hash = node_of(&known, index, bytes);
                tree.insert_piece(PieceIndex(index), hash).unwrap();
            }
            names.roots = vec![tree.root()];
        }
        let contents = Contents::of(node.genesis(), node.facts()).unwrap();
        names.v2 = Some(sha256(&contents.v2_info(&names.roots).unwrap()));
        control.status.state = State::Final(Box::new(names.clone()));
        let last = control.seal(&[]);
        apply_all(&mut node, &last);
        assert_eq!(node.final_names(), Some(&names), "{length}");
        assert!(node.facts().is_complete());
    }
}

#[test]
fn a_latecomer_gets_the_snapshot_and_what_followed() {
    let mut control = Control::new(Some(pieces(5000)));
    let mut ask_again = manifest(Some(pieces(5000)));
    let mut snapshots = 0;
    for first in (0..4000).step_by(8) {
        let facts: Vec<_> = (first..first + 8).map(fact).collect();
        let records = control.seal(&facts);
        snapshots += records.len() - 1;
        // A node that asks now and then gets just what it lacks.
        if first % 80 == 0 {
            let have = ask_again.complete_to();
            let lacks: Vec<_> = control.manifest.records_after(have).cloned().collect();
            apply_all(&mut ask_again, &lacks);
            assert_eq!(ask_again.complete_to(), control.sealer.head());
        }
    }
    assert!(snapshots > 5, "{snapshots}");
    let mut late = manifest(Some(pieces(5000)));
    let lacks: Vec<_> = control
        .manifest
        .records_after(late.complete_to())
        .cloned()
        .collect();
    let bytes: usize = lacks.iter().map(|record| record.bytes().len()).sum();
    assert!(bytes < 10_000, "{bytes}");
    apply_all(&mut late, &lacks);
    assert_eq!(late.complete_to(), control.sealer.head());
    assert_eq!(late.facts().maximal(), control.manifest.facts().maximal());
    // The hashes come when they are wanted, and prove themselves.
    let proof = control.manifest.proof(0..5000);
    assert_eq!(proof.unknown, [4000..5000]);
    assert!(proof.records.is_empty());
    for (node, hashes) in proof.hashes {
        late.expand(node, &hashes).unwrap();
    }
    assert_eq!(late.facts(), control.manifest.facts());
}

#[test]
fn a_new_term_begins_with_a_snapshot() {
    let mut control = Control::new(Some(pieces(64)));
    control.seal(&[fact(0)]);
    let mut node = manifest(Some(pieces(64)));
    apply_all(&mut node, &control.records);
    control.sealer = Sealer::new(node.sid(), self::control(), 0, 2);
    let records = control.seal(&[fact(1)]);
    assert_eq!(records.len(), 2);
    apply_all(&mut node, &records);
    assert_eq!(node.complete_to(), Head { term: 2, seq: 2 });
    assert!(node.facts().is_proven(0) && node.facts().is_proven(1));
    assert_eq!(node.records_after(Head::default()).count(), 2);
}

#[test]
fn snapshots_may_have_several_parts() {
    let mut control = Control::new(Some(pieces(1 << 13)));
    // Every second piece: nothing folds, and no record holds them all.
    let facts: Vec<_> = (0..1 << 12).map(|index| fact(2 * index)).collect();
    control.seal(&facts);
    let lacks: Vec<_> = control
        .manifest
        .records_after(Head::default())
        .cloned()
        .collect();
    assert!(lacks.len() > 3);
    let part = |record: &Signed| match &record.record().body {
        Body::Checkpoint(checkpoint) => checkpoint.snapshot,
        _ => None,
    };
    assert!(lacks.iter().all(|record| part(record).is_some()));
    for skipped in 0..lacks.len() {
        let mut node = manifest(Some(pieces(1 << 13)));
        let mut some = lacks.clone();
        let last = some.remove(skipped);
        apply_all(&mut node, &some);
        assert_eq!(node.complete_to(), Head::default());
        apply_all(&mut node, &[last]);
        assert_eq!(node.complete_to(), control.sealer.head());
        assert_eq!(node.facts(), control.manifest.facts());
    }
}

#[test]
fn attested_pieces_are_proven_to_others_by_the_records() {
    let mut control = Control::new(Some(pieces(64)));
    let lease = control.lease(A, 0, 64);
    let mut node = manifest(Some(pieces(64)));
    apply_all(&mut node, &control.records);
    let first = attest(1, A, vec![fact(3), fact(4)]).sign(&relay()).unwrap();
    let second = attest(2, A, vec![fact(5)]).sign(&relay()).unwrap();
    apply_all(&mut node, &[first.clone(), second.clone()]);
    let proof = node.proof(2..5);
    assert_eq!(proof.records, [lease, first.clone()]);
    assert_eq!(proof.unknown, [2..3]);
    let records = control.seal(&[fact(3)]);
    apply_all(&mut node, &records);
    assert_eq!(node.proof(3..4).hashes.len(), 1);
    assert_eq!(node.proof(4..5).records.len(), 2);
    let records = control.seal(&[fact(4)]);
    apply_all(&mut node, &records);
    // The attestation is of no more use, and says nothing new when it comes again.
    assert_eq!(node.attests.len(), 1);
    assert_eq!(node.apply(&first), Ok(Applied::default()));
    assert_eq!(node.proof(5..6).records.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_in_any_order_give_the_same_manifest(seed in any::<u64>(), count in 1u32..80) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut control = Control::new(None);
        let mut records = Vec::new();
        let mut order: Vec<u32> = (0..count).collect();
        random.shuffle(&mut order);
        for (number, pieces) in (1..).zip(order.chunks(5)) {
            let lease = LeaseId(number);
            control.lease(lease, 0, 100);
            let facts: Vec<_> = pieces.iter().map(|&piece| fact(piece)).collect();
            let mut record = attest(1, lease, facts.clone());
            record.sid = control.manifest.sid();
            records.push(record.sign(&relay()).unwrap());
            if random.bool() {
                control.seal(&facts);
            }
        }
        control.status.length = Some(pieces(count));
        control.seal(&[]);
        records.extend_from_slice(&control.records);
        let mut first = manifest(None);
        apply_all(&mut first, &records);
        random.shuffle(&mut records);
        let mut second = manifest(None);
        apply_all(&mut second, &records);
        // Without one of them, and then with it.
        let late = records.pop().unwrap();
        let mut third = manifest(None);
        apply_all(&mut third, &records);
        records.push(late);
        apply_all(&mut third, &records);
        for other in [second, third] {
            prop_assert_eq!(other.facts(), first.facts());
            prop_assert_eq!(other.head(), first.head());
            prop_assert_eq!(other.complete_to(), control.sealer.head());
            prop_assert_eq!(&other.attests, &first.attests);
            prop_assert_eq!(&other.attested, &first.attested);
            let missing = other.facts().missing(0..count);
            prop_assert_eq!(missing, Vec::<Range<u32>>::new());
        }
    }
}

#[test]
fn who_is_hardly_behind_a_snapshot_gets_the_records_before_it() {
    let mut control = Control::new(Some(pieces(600)));
    let mut relay = manifest(Some(pieces(600)));
    apply_all(&mut relay, &control.records);
    let mut follower = relay.clone();
    let mut late = manifest(Some(pieces(600)));
    let mut snapshots = 0;
    for piece in 0..300 {
        let records = control.seal(&[fact(piece)]);
        snapshots += usize::from(records.len() > 1);
        apply_all(&mut relay, &records);
        // It asks now and then, as over HTTP.
        if piece % 7 == 6 {
            let lacks: Vec<_> = relay
                .records_after(follower.complete_to())
                .cloned()
                .collect();
            apply_all(&mut follower, &lacks);
            assert_eq!(follower.facts().proven_pieces(), piece + 1);
            assert_eq!(follower.complete_to(), relay.head());
        }
    }
    assert!(snapshots > 2, "{snapshots}");
    // Who comes late, or has slept, reads the newest snapshot and what followed it.
    let all = relay.records_after(Head::default()).count();
    assert!(all < 300 / snapshots + 2, "{all}");
    let slept = Head {
        term: relay.head().term,
        seq: 3,
    };
    assert_eq!(relay.records_after(slept).count(), all);
    let lacks: Vec<_> = relay.records_after(Head::default()).cloned().collect();
    apply_all(&mut late, &lacks);
    assert_eq!(late.complete_to(), relay.head());
}
