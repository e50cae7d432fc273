#![expect(
    clippy::single_range_in_vec_init,
    reason = "runs of pieces are lists of ranges, often of one"
)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::digest::sha256;
use crate::merkle::{LEAF_LENGTH, parent};

/// Pieces of two leaves.
const PIECE: u32 = 2 * LEAF_LENGTH;
const P: u8 = 1;

fn store(lengths: &[Option<u64>], accept: Accept) -> FactStore {
    FactStore::new(PieceSpace::new(PIECE, lengths).unwrap(), accept)
}

fn bytes(count: u32) -> u64 {
    u64::from(count) * u64::from(PIECE)
}

#[expect(clippy::unnecessary_wraps, reason = "lengths may be unknown")]
fn pieces(count: u32) -> Option<u64> {
    Some(bytes(count))
}

fn hash(piece: u32) -> Sha256 {
    sha256(&piece.to_be_bytes())
}

fn fact(index: u32) -> Fact {
    node(P, index, hash(index))
}

fn node(layer: u8, index: u32, hash: Sha256) -> Fact {
    Fact {
        file: 0,
        layer,
        index,
        hash,
    }
}

/// The node over pieces `first..first + 2^below`.
fn over(below: u8, first: u32) -> Sha256 {
    if below == 0 {
        return hash(first);
    }
    let half = 1 << (below - 1);
    parent(over(below - 1, first), over(below - 1, first + half))
}

fn seal_over(store: &mut FactStore, below: u8, index: u32) -> Changes {
    let fact = node(P + below, index, over(below, index << below));
    store.seal(&fact).unwrap()
}

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

#[test]
fn pieces_are_numbered_through_the_files() {
    let space = PieceSpace::new(PIECE, &[Some(0), pieces(2), Some(1), Some(0), None]).unwrap();
    let located: Vec<_> = (0..5).map(|piece| space.locate(piece).unwrap()).collect();
    assert_eq!(located, [(1, 0), (1, 1), (2, 0), (4, 0), (4, 1)]);
    assert_eq!(space.piece_bytes(2), Some((2, 0..1)));
    assert_eq!(space.piece_count(), None);
    assert_eq!(space.file_pieces(1), 0..2);
    assert_eq!(space.file_pieces(9), 0..0);
    let known = PieceSpace::new(PIECE, &[pieces(2), Some(1)]).unwrap();
    assert_eq!((known.piece_count(), known.locate(3)), (Some(3), None));
    let refused = |lengths: &[Option<u64>]| PieceSpace::new(PIECE, lengths).unwrap_err();
    assert_eq!(refused(&[None, Some(1)]), SpaceError::UnknownLength(0));
    assert_eq!(refused(&[]), SpaceError::Files(0));
    assert_eq!(refused(&[Some(u64::MAX)]), SpaceError::TooManyPieces);
    assert_eq!(
        refused(&[pieces(PIECES_LIMIT), Some(1)]),
        SpaceError::TooManyPieces
    );
    assert_eq!(
        PieceSpace::new(3 * LEAF_LENGTH, &[None]),
        Err(SpaceError::PieceLength(3 * LEAF_LENGTH))
    );
}

#[test]
fn what_is_attested_counts_until_it_is_contradicted() {
    let mut store = store(&[pieces(8)], Accept::Attested);
    let changes = store.attest(A, &fact(3)).unwrap();
    assert_eq!(changes.verifiable, [3..4]);
    assert_eq!(store.trust(3), Some(Trust::Attested(A)));
    assert_eq!(store.piece_hash(3), Some(hash(3)));
    // A second relay that says the same changes nothing; one that does not makes it unusable.
    assert!(store.attest(B, &fact(3)).unwrap().is_empty());
    let changes = store.attest(LeaseId(3), &node(P, 3, hash(9))).unwrap();
    assert_eq!(changes.withdrawn, [3..4]);
    let conflict = Conflict {
        piece: 3,
        sealed: None,
        leases: vec![A, B, LeaseId(3)],
    };
    assert_eq!(changes.conflicts, [conflict]);
    assert_eq!(store.missing(2..5), [2..5]);
    // Control decides, or takes the liar's lease away.
    let mut other = store.clone();
    let changes = other.drop_leases(|lease| lease == LeaseId(3));
    assert_eq!(changes.verifiable, [3..4]);
    let changes = store.seal(&fact(3)).unwrap();
    assert_eq!(changes.verifiable, [3..4]);
    assert_eq!(changes.conflicts[0].sealed, Some(hash(3)));
    assert_eq!(changes.conflicts[0].leases, [LeaseId(3)]);
    assert_eq!(store.trust(3), Some(Trust::Sealed));
    let changes = store.drop_leases(|_| true);
    assert!(changes.is_empty(), "what is sealed stays");
}

#[test]
fn control_only_means_control_only() {
    let mut store = store(&[pieces(8)], Accept::Sealed);
    assert!(store.attest(A, &fact(3)).unwrap().is_empty());
    assert!(!store.is_verifiable(3));
    assert_eq!(store.seal(&fact(3)).unwrap().verifiable, [3..4]);
}

#[test]
fn attested_pieces_are_proven_by_the_node_above_them() {
    let mut store = store(&[pieces(16)], Accept::Sealed);
    for piece in 0..4 {
        store.attest(A, &fact(piece)).unwrap();
    }
    // One checkpoint fact for four pieces; their hashes are not sent again.
    assert_eq!(seal_over(&mut store, 2, 0).verifiable, [0..4]);
    // And the other way round.
    assert!(seal_over(&mut store, 2, 1).is_empty());
    for piece in 4..7 {
        assert!(store.attest(A, &fact(piece)).unwrap().is_empty());
    }
    assert_eq!(store.attest(B, &fact(7)).unwrap().verifiable, [4..8]);
    assert_eq!(store.trust(5), Some(Trust::Sealed));
    assert!(store.drop_leases(|_| true).is_empty());
}

#[test]
fn attested_pieces_that_do_not_make_the_sealed_node_are_doubted_together() {
    let mut store = store(&[pieces(16)], Accept::Attested);
    for piece in 0..3 {
        store.attest(A, &fact(piece)).unwrap();
    }
    store.attest(B, &node(P, 3, hash(99))).unwrap();
    let changes = seal_over(&mut store, 2, 0);
    assert_eq!(changes.withdrawn, [0..4]);
    assert_eq!(changes.conflicts[0].leases, [A, B]);
    assert_eq!(store.missing(0..4).len(), 1);
    // The hashes themselves, from anybody, decide.
    let node = NodeAt {
        file: 0,
        layer: P + 2,
        index: 0,
    };
    let right: Vec<_> = (0..4).map(hash).collect();
    let changes = store.expand(node, &right).unwrap();
    assert_eq!(changes.verifiable, [0..4]);
    assert_eq!(
        (changes.conflicts[0].piece, &changes.conflicts[0].leases[..]),
        (3, &[B][..])
    );
}

#[test]
fn hashes_under_a_node_that_is_not_sealed_wait() {
    let mut store = store(&[pieces(600)], Accept::Attested);
    let node = NodeAt {
        file: 0,
        layer: P + 9,
        index: 0,
    };
    let hashes: Vec<_> = (0..512).map(hash).collect();
    assert!(matches!(
        store.expand(node, &hashes),
        Err(FactError::NotSealed { .. })
    ));
    seal_over(&mut store, 9, 0);
    let before = store.clone();
    let mut wrong = hashes.clone();
    wrong[511] = hash(0);
    let empty = Vec::new();
    for wrong in [
        &wrong,
        &hashes[..511].to_vec(),
        &[&hashes[..], &[hash(0)]].concat(),
        &empty,
    ] {
        assert!(matches!(
            store.expand(node, wrong),
            Err(FactError::Hashes { .. })
        ));
    }
    assert_eq!(store, before);
    assert_eq!(store.expand(node, &hashes).unwrap().verifiable, [0..512]);
    assert_eq!(store.expandable(77), Some((node, hashes)));
    assert_eq!(store.sealed_node(599), None);
}

#[test]
fn facts_that_cannot_be_are_refused() {
    let mut store = store(&[pieces(600), Some(0), Some(5)], Accept::Attested);
    for (file, layer, index) in [
        (0, 0, 0),
        (0, P, 600),
        (0, P + 9, 2),
        (0, P + 10, 0),
        (2, P, 1),
        (2, P + 1, 0),
    ] {
        let fact = Fact {
            file,
            layer,
            index,
            hash: hash(0),
        };
        let error = FactError::NoSuchNode { file, layer, index };
        assert_eq!(store.seal(&fact), Err(error), "{fact:?}");
    }
    for file in [1, 3] {
        let fact = Fact { file, ..fact(0) };
        assert_eq!(store.seal(&fact), Err(FactError::NoSuchFile(file)));
        assert_eq!(store.attest(A, &fact), Err(FactError::NoSuchFile(file)));
    }
    // Relays speak of pieces only.
    assert!(store.attest(A, &node(P + 1, 0, hash(0))).is_err());
    assert!(store.attest(A, &node(P, 600, hash(0))).is_err());
    // A file shorter than a piece has its root, from which its piece follows.
    let root = Fact {
        file: 2,
        layer: 0,
        index: 0,
        hash: hash(7),
    };
    assert_eq!(store.attest(A, &root).unwrap().verifiable, [600..601]);
    assert_eq!(store.pieces_root(2), None);
    store.seal(&root).unwrap();
    assert_eq!(store.pieces_root(2), Some(hash(7)));
    assert_eq!(store.piece_hash(600), Some(widened(hash(7), 0, P)));
    assert!(matches!(
        store.seal(&Fact {
            hash: hash(8),
            ..root
        }),
        Err(FactError::Contradiction { .. })
    ));
}

#[test]
fn the_end_may_become_known_late() {
    let mut store = store(&[pieces(3), None], Accept::Attested);
    let second = |index: u32| Fact {
        file: 1,
        ..fact(index)
    };
    for index in 0..5 {
        store.attest(A, &second(index)).unwrap();
    }
    store.seal(&second(0)).unwrap();
    assert!(!store.is_complete());
    let mut shorter = store.clone();
    let changes = shorter.set_length(bytes(3) - 1).unwrap();
    assert_eq!(changes.withdrawn, [6..8]);
    assert_eq!(changes.conflicts.len(), 2);
    assert_eq!(shorter.space().piece_count(), Some(6));
    assert!(shorter.attest(A, &second(3)).is_err());
    assert!(matches!(
        store.set_length(0),
        Err(FactError::Contradiction { .. })
    ));
    let changes = store.set_length(bytes(5)).unwrap();
    assert!(changes.is_empty());
    for fact in (0..3).map(fact).chain((0..5).map(second)) {
        store.seal(&fact).unwrap();
    }
    assert!(store.is_complete());
    assert!(store.set_length(bytes(5)).is_ok());
    assert!(store.set_length(bytes(6)).is_err());
    let mut empty = self::store(&[None], Accept::Attested);
    empty.set_length(0).unwrap();
    assert!(empty.is_complete());
    assert_eq!(empty.pieces_root(0), None);
}

#[test]
fn a_snapshot_says_all_that_is_sealed() {
    let mut store = store(&[pieces(1100), pieces(1)], Accept::Attested);
    for piece in (0..1100).filter(|piece| *piece != 700) {
        store.seal(&fact(piece)).unwrap();
    }
    let facts = store.maximal();
    // Two whole groups, and the one with a hole as a node for each level below.
    assert_eq!(facts.len(), 2 + 9);
    let mut joiner = self::store(&[pieces(1100), pieces(1)], Accept::Attested);
    for fact in &facts {
        joiner.seal(fact).unwrap();
    }
    assert_eq!(joiner.maximal(), facts);
    for piece in 0..1100 {
        let Some(node) = joiner
            .sealed_node(piece)
            .filter(|_| !joiner.is_verifiable(piece))
        else {
            continue;
        };
        let (found, hashes) = store.expandable(piece).unwrap();
        assert_eq!(found, node);
        joiner.expand(node, &hashes).unwrap();
    }
    assert_eq!(joiner, store);
}

/// What a node may be told, in some order.
#[derive(Clone, Debug)]
enum Said {
    Attested(LeaseId, Fact),
    Sealed(Fact),
    Ends(u64),
}

const COUNT: u32 = 24;

/// Attestations, some of them false; seals, all true; the length.
fn said() -> impl Strategy<Value = Said> {
    let attested = (1..4u64, 0..COUNT, any::<u8>()).prop_map(|(lease, piece, lie)| {
        let hash = if lie < 40 {
            hash(1000 + u32::from(lie % 2))
        } else {
            hash(piece)
        };
        Said::Attested(LeaseId(lease), node(P, piece, hash))
    });
    let sealed = (0..5u8, 0..COUNT).prop_map(|(below, piece)| {
        let index = piece >> below;
        Said::Sealed(node(P + below, index, padded_over(below, index << below)))
    });
    prop_oneof![6 => attested, 2 => sealed, 1 => Just(Said::Ends(bytes(COUNT)))]
}

/// As [`over`], with what lies beyond the end.
fn padded_over(below: u8, first: u32) -> Sha256 {
    if first >= COUNT {
        return crate::merkle::zero_node(P + below).unwrap();
    }
    if below == 0 {
        return hash(first);
    }
    let half = 1 << (below - 1);
    parent(
        padded_over(below - 1, first),
        padded_over(below - 1, first + half),
    )
}

fn tell(store: &mut FactStore, said: &Said) -> Changes {
    match said {
        Said::Attested(lease, fact) => store.attest(*lease, fact).unwrap(),
        Said::Sealed(fact) => store.seal(fact).unwrap(),
        Said::Ends(length) => store.set_length(*length).unwrap(),
    }
}

/// Tells everything in another order, some of it twice.
fn tell_shuffled(store: &mut FactStore, said: &[Said], seed: u64) {
    let mut shuffled = [said, &said[..said.len() / 2]].concat();
    fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
    for said in &shuffled {
        tell(store, said);
    }
}

/// Gets the true hashes under every sealed node, as peers send them.
fn expand_all(store: &mut FactStore) {
    for piece in 0..COUNT {
        if let Some(node) = store.sealed_node(piece) {
            let pieces = store.pieces_under(node).unwrap();
            let hashes: Vec<_> = pieces.map(|piece| padded_over(0, piece)).collect();
            store.expand(node, &hashes).unwrap();
        }
    }
}

fn is_lie(said: &Said) -> bool {
    matches!(said, Said::Attested(_, fact) if fact.hash != hash(fact.index))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_order_in_which_true_things_are_said_makes_no_difference(
        mut said in vec(said(), 1..120),
        seed in any::<u64>(),
        knows_length in any::<bool>(),
    ) {
        said.retain(|said| !is_lie(said));
        let length = if knows_length { pieces(COUNT) } else { None };
        let mut first = store(&[length], Accept::Attested);
        let mut second = first.clone();
        for said in &said {
            tell(&mut first, said);
        }
        tell_shuffled(&mut second, &said, seed);
        prop_assert_eq!(second, first);
    }

    #[test]
    fn lies_prove_nothing_and_leave_no_trace_under_a_seal(
        said in vec(said(), 1..120),
        seed in any::<u64>(),
        knows_length in any::<bool>(),
    ) {
        let length = if knows_length { pieces(COUNT) } else { None };
        let mut first = store(&[length], Accept::Attested);
        let mut second = first.clone();
        let mut all = Changes::default();
        for said in &said {
            let before: Vec<_> = (0..COUNT).map(|piece| first.is_verifiable(piece)).collect();
            let changes = tell(&mut first, said);
            // What is said to have changed is what did.
            for piece in 0..COUNT {
                let now = first.is_verifiable(piece);
                let within = |runs: &[Range<u32>]| runs.iter().any(|run| run.contains(&piece));
                let was = before[piece as usize];
                prop_assert_eq!(within(&changes.verifiable), now && !was, "{} {:?}", piece, said);
                prop_assert_eq!(within(&changes.withdrawn), was && !now, "{} {:?}", piece, said);
            }
            all.merge(changes);
        }
        let verifiable = runs((0..COUNT).filter(|&piece| first.is_verifiable(piece)));
        prop_assert_eq!(all.verifiable, verifiable);
        for piece in (0..COUNT).filter(|&piece| first.is_proven(piece)) {
            prop_assert_eq!(first.piece_hash(piece), Some(hash(piece)));
        }
        // Whether attestations prove themselves before a lie disturbs them depends on the order; what is sealed does not,
        // and the hashes under it settle the rest.
        tell_shuffled(&mut second, &said, seed);
        prop_assert_eq!(second.maximal().len(), first.maximal().len());
        expand_all(&mut first);
        expand_all(&mut second);
        prop_assert_eq!(second, first);
    }

    #[test]
    fn a_revoked_lease_leaves_what_the_others_said(said in vec(said(), 1..80), seed in any::<u64>()) {
        let void = |lease| lease == LeaseId(2);
        let mut first = store(&[pieces(COUNT)], Accept::Attested);
        let mut second = first.clone();
        for said in &said {
            tell(&mut first, said);
        }
        first.drop_leases(void);
        let mut others = said;
        others.retain(|said| !matches!(said, Said::Attested(lease, _) if void(*lease)));
        tell_shuffled(&mut second, &others, seed);
        expand_all(&mut first);
        expand_all(&mut second);
        prop_assert_eq!(second, first);
    }
}
