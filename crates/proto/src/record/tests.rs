use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{InfoHash, Sha1, Sha256};

fn control() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn relay() -> SecretKey {
    SecretKey::from_seed(&[8; 32])
}

fn genesis() -> Genesis {
    let mut genesis = crate::genesis::tests::genesis();
    genesis.keys = vec![control().public().to_bytes()];
    genesis.origin.last_modified.clear();
    genesis
}

fn record(body: Body) -> Record {
    Record {
        sid: genesis().sid(),
        head: Head { term: 1, seq: 2 },
        key: 0,
        body,
    }
}

fn fact(index: u32, byte: u8) -> Fact {
    Fact {
        file: 0,
        layer: 4,
        index,
        hash: Sha256([byte; 32]),
    }
}

fn lease() -> Lease {
    Lease {
        lease: LeaseId(9),
        relay: relay().public(),
        first: 64,
        count: 64,
        expires_unix_ms: 1_800_000_030_000,
    }
}

fn attest() -> Attest {
    Attest {
        lease: LeaseId(9),
        facts: vec![fact(64, 1), fact(65, 2)],
        sha1s: Some(vec![Sha1([1; 20]), Sha1([2; 20])]),
        end: Some(17_000_000),
    }
}

fn names() -> FinalNames {
    FinalNames {
        roots: vec![Some(Sha256([5; 32])), None],
        v1: Some(InfoHash([1; 20])),
        v2: Some(Sha256([2; 32])),
        hybrid: Some((InfoHash([3; 20]), Sha256([4; 32]))),
        origin_digest: OriginDigest::Matched,
    }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        length: Some(1 << 30),
        sealed: 4096,
        state: State::Final(Box::new(names())),
        snapshot: Some(Part { index: 0, of: 1 }),
        time_unix_ms: 1_800_000_040_000,
        lease_floor: LeaseId(12),
        revoked: vec![LeaseId(13), LeaseId(15)],
        facts: vec![fact(0, 6)],
    }
}

/// One of each kind, with its signer.
fn examples() -> [(Record, SecretKey); 4] {
    let end = State::Superseded {
        reason: EndReason::OriginChanged,
        successor: Sid([4; 32]),
    };
    assert_eq!(end.rank(), 4);
    [
        (record(Body::Genesis(Box::new(genesis()))), control()),
        (record(Body::Lease(lease())), control()),
        (record(Body::Attest(attest())), relay()),
        (record(Body::Checkpoint(checkpoint())), control()),
    ]
}

#[test]
fn the_format_does_not_change() {
    // Nodes of different age read each other's records, and disks keep them.
    let found = examples().map(|(record, key)| {
        let bytes = record.sign(&key).unwrap().bytes().clone();
        (bytes.len(), digest::sha256(&bytes).to_string())
    });
    assert_eq!(
        found,
        GOLDEN.map(|(length, hash)| (length, hash.to_owned()))
    );
    let lease = record(Body::Lease(lease())).sign(&control()).unwrap();
    assert_eq!(hex::encode(lease.bytes()), GOLDEN_LEASE);
}

/// Length and SHA-256 of each example: genesis, lease, attest, checkpoint.
const GOLDEN: [(usize, &str); 4] = [
    (
        482,
        "56e07b62635c774e09583d44fa9704e364e54d5242cd4407079995076c7d8bb5",
    ),
    (
        184,
        "8c9b39dcfb1ac2494538b90b94bf5347e714cdf6859b3bae460de6f0c9987008",
    ),
    (
        264,
        "022dfe97e743e9084ac5e678e2aebbff90ac3e161874b1ba9ae88394f8eec281",
    ),
    (
        389,
        "7d2e1903d4e8ccd9f04cb7e1bb690ac5b235fc0763aabad0d8623a5d3306f866",
    ),
];
/// Its signature is what another implementation of ed25519 makes of the same bytes, too.
const GOLDEN_LEASE: &str = concat!(
    "46570102db1a31292eac3c359772e9e1fbd4099493a75efba2d17bbfae0454e1a9dd6a9100000001000000000000000200000000",
    "000000000000003c00000000000000091398f62c6d1a457c51ba6a4b5f3dbd2f69fca93216218dc8997e416bd17d93ca00000040",
    "00000040000001a3185cc53000000000db41cf86bc2344bfc2770de3c30c0874038ce1ab0f8a8d5cf5eb0196cb88ee748001d5c3",
    "c9fddc8ac206e0d70a6b452e41a6e26e729ca9255faf5c90b94ebb0c",
);

#[test]
fn records_round_trip_alone_and_in_a_row() {
    let mut row = Vec::new();
    let mut all = Vec::new();
    for (record, key) in examples() {
        let signed = record.sign(&key).unwrap();
        assert_eq!(signed.record(), &record);
        assert_eq!(Signed::decode(signed.bytes().clone()), Ok(signed.clone()));
        assert_eq!(signed.verify(&key.public()), Ok(()));
        row.extend_from_slice(signed.bytes());
        all.push(signed);
    }
    let mut row = Bytes::from(row);
    for signed in all {
        assert_eq!(Signed::take(&mut row), Ok(signed));
    }
    assert!(row.is_empty());
}

#[test]
fn only_the_signer_can_have_signed_it() {
    for (record, key) in examples() {
        let signed = record.sign(&key).unwrap();
        let other = SecretKey::from_seed(&[9; 32]).public();
        assert_eq!(signed.verify(&other), Err(RecordError::Signature));
    }
}

/// A record whose bytes at `at` are replaced, read again.
fn edited(body: Body, at: usize, to: &[u8]) -> Result<Signed, RecordError> {
    let key = if body.kind() == Kind::Attest {
        relay()
    } else {
        control()
    };
    let mut bytes = record(body).sign(&key).unwrap().bytes().to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    Signed::decode(bytes.into())
}

#[test]
fn every_field_is_checked() {
    let lease = || Body::Lease(lease());
    let attest = || Body::Attest(attest());
    let checkpoint = || Body::Checkpoint(checkpoint());
    let open = || {
        Body::Checkpoint(Checkpoint {
            state: State::Aborted(EndReason::Operator),
            snapshot: None,
            revoked: Vec::new(),
            facts: Vec::new(),
            ..self::checkpoint()
        })
    };
    for (found, message) in [
        (
            edited(lease(), 0, b"XX"),
            "this is no record: it begins with 0x5858",
        ),
        (
            edited(lease(), 2, &[2]),
            "the record has version 2; this Floodway knows version 1",
        ),
        (edited(lease(), 3, &[9]), "there is no record of kind 9"),
        (
            edited(lease(), 48, &[1]),
            "a Lease record cannot be signed by signer 1 with key 0",
        ),
        (
            edited(attest(), 49, &[1]),
            "a Attest record cannot be signed by signer 1 with key 1",
        ),
        (
            edited(lease(), 55, &[1]),
            "the record's reserved bytes are not zero",
        ),
        (
            edited(lease(), 56, &[0, 1, 0, 1]),
            "the record's body of 65537 bytes is above the limit of 65536",
        ),
        (
            edited(lease(), 59, &[99]),
            "the record ends too early: 184 of 223 bytes",
        ),
        (
            edited(lease(), 59, &[61]),
            "the record ends too early: 184 of 185 bytes",
        ),
        (
            edited(lease(), 60 + 44, &[0; 4]),
            "the Lease record's `count` does not fit the other fields",
        ),
        (
            edited(lease(), 60 + 40, &[255; 8]),
            "the Lease record's `count` does not fit the other fields",
        ),
        (
            edited(lease(), 60 + 8, &[0; 32]),
            "the Lease record's `relay key` is not a usable ed25519 key",
        ),
        (
            edited(lease(), 60 + 56, &[1]),
            "the Lease record's `flags` has a value that does not exist",
        ),
        (
            edited(attest(), 60 + 8, &[4]),
            "the Attest record's `flags` has a value that does not exist",
        ),
        (
            edited(attest(), 60 + 8, &[0]),
            "the Attest record's `length` is followed by something",
        ),
        (
            edited(attest(), 60 + 11, &[4]),
            "the Attest record's `reserved` has a value that does not exist",
        ),
        (
            edited(attest(), 60 + 13, &[9]),
            "the Attest record's `facts` is cut off",
        ),
        (
            edited(attest(), 60 + 14 + 2 * 59, &[255; 8]),
            "the Attest record's `length` does not fit the other fields",
        ),
        (
            edited(checkpoint(), 60 + 12, &[5]),
            "the Checkpoint record's `state` has a value that does not exist",
        ),
        (
            edited(checkpoint(), 60 + 12, &[0]),
            "the Checkpoint record's `state` is followed by something",
        ),
        (
            edited(checkpoint(), 60 + 13, &[2]),
            "the Checkpoint record's `flags` has a value that does not exist",
        ),
        (
            edited(checkpoint(), 60, &[255; 8]),
            "the Checkpoint record's `length` does not fit the other fields",
        ),
        (edited(checkpoint(), 60 + 34, &[0; 8]), "ok"),
        (
            edited(checkpoint(), 60 + 34, &[9; 8]),
            "the Checkpoint record's `revoked` is not in ascending order",
        ),
        (
            edited(checkpoint(), 60 + 50, &[0, 1]),
            "the Checkpoint record's `part` does not fit the other fields",
        ),
        (
            edited(open(), 60 + 34, &[0]),
            "the Checkpoint record's `reason` has a value that does not exist",
        ),
        (
            edited(open(), 60 + 35, &[1]),
            "the Checkpoint record's `successor` does not fit the other fields",
        ),
    ] {
        let found = found.map_or_else(|error| error.to_string(), |_| "ok".into());
        assert_eq!(found, message);
    }
}

#[test]
fn attesting_nothing_is_refused() {
    let nothing = Attest {
        facts: Vec::new(),
        sha1s: None,
        end: None,
        ..attest()
    };
    let error = record(Body::Attest(nothing)).sign(&relay()).unwrap_err();
    assert_eq!(error, Kind::Attest.error("nfacts", Problem::Contradiction));
}

#[test]
fn a_genesis_of_another_content_is_refused() {
    let other = Record {
        sid: Sid([1; 32]),
        ..record(Body::Genesis(Box::new(genesis())))
    };
    assert_eq!(
        other.sign(&control()),
        Err(RecordError::SidOfGenesis(genesis().sid()))
    );
}

#[test]
fn too_much_for_one_record_is_refused() {
    let facts = vec![fact(0, 1); BODY_LIMIT / Fact::LENGTH + 1];
    let body = Body::Checkpoint(Checkpoint {
        facts,
        ..checkpoint()
    });
    assert!(matches!(
        record(body).sign(&control()),
        Err(RecordError::BodyTooLong(_))
    ));
}

#[test]
fn keys_that_fit_any_signature_are_refused() {
    // The identity and other points of small order.
    for weak in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ] {
        let mut bytes = [0; 32];
        hex::decode_to_slice(weak, &mut bytes).unwrap();
        assert_eq!(PublicKey::new(&bytes), Err(KeyError), "{weak}");
    }
    let key = control();
    assert!(!format!("{key:?}").contains(&hex::encode([7; 32])));
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let fact = (any::<u16>(), any::<u8>(), any::<u32>(), any::<[u8; 32]>());
    vec(
        fact.prop_map(|(file, layer, index, hash)| Fact {
            file,
            layer,
            index,
            hash: Sha256(hash),
        }),
        0..8,
    )
}

fn bodies() -> impl Strategy<Value = Body> {
    let lease = (any::<u64>(), any::<u32>(), 1u32..1000, any::<u64>());
    let lease = lease.prop_map(|(lease, first, count, expires_unix_ms)| {
        Body::Lease(Lease {
            lease: LeaseId(lease),
            relay: relay().public(),
            first: first.saturating_sub(1000),
            count,
            expires_unix_ms,
        })
    });
    let attest = (any::<u64>(), facts(), any::<bool>(), any::<Option<u32>>());
    let attest = attest.prop_map(|(lease, facts, sha1s, end)| {
        Body::Attest(Attest {
            lease: LeaseId(lease),
            sha1s: sha1s.then(|| {
                facts
                    .iter()
                    .map(|fact| digest::sha1(&fact.hash.0))
                    .collect()
            }),
            end: end.map(u64::from).or_else(|| facts.is_empty().then_some(3)),
            facts,
        })
    });
    let checkpoint = (
        any::<u32>(),
        states(),
        any::<Option<u8>>(),
        any::<u64>(),
        vec(any::<u64>(), 0..5),
        facts(),
    );
    let checkpoint = checkpoint.prop_map(|(length, state, part, floor, mut revoked, facts)| {
        revoked.sort_unstable();
        revoked.dedup();
        Body::Checkpoint(Checkpoint {
            length: Some(length.into()),
            sealed: length / 2,
            state,
            snapshot: part.map(|index| Part {
                index: index.into(),
                of: u16::from(index) + 1,
            }),
            time_unix_ms: floor / 3,
            lease_floor: LeaseId(floor),
            revoked: revoked.into_iter().map(LeaseId).collect(),
            facts,
        })
    });
    prop_oneof![lease, attest, checkpoint]
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Open),
        Just(State::Complete),
        Just(State::Aborted(EndReason::OriginGone)),
        Just(State::Superseded {
            reason: EndReason::FalseFact,
            successor: Sid([1; 32])
        }),
        (vec(any::<Option<u8>>(), 0..4), any::<[bool; 3]>()).prop_map(
            |(roots, [v1, v2, hybrid])| {
                State::Final(Box::new(FinalNames {
                    roots: roots
                        .into_iter()
                        .map(|byte| byte.map(|byte| Sha256([byte | 1; 32])))
                        .collect(),
                    v1: v1.then_some(InfoHash([1; 20])),
                    v2: v2.then_some(Sha256([2; 32])),
                    hybrid: hybrid.then_some((InfoHash([3; 20]), Sha256([4; 32]))),
                    origin_digest: OriginDigest::Absent,
                }))
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_record_round_trips(body in bodies(), term in any::<u32>(), seq in any::<u64>()) {
        let key = if body.kind() == Kind::Attest { relay() } else { control() };
        let record = Record { head: Head { term, seq }, ..record(body) };
        let signed = record.sign(&key).unwrap();
        prop_assert_eq!(signed.record(), &record);
        prop_assert_eq!(Signed::decode(signed.bytes().clone()), Ok(signed.clone()));
        prop_assert_eq!(signed.verify(&key.public()), Ok(()));
    }

    #[test]
    fn a_flipped_bit_is_noticed(body in bodies(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let key = if body.kind() == Kind::Attest { relay() } else { control() };
        let mut bytes = record(body).sign(&key).unwrap().bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let read = Signed::decode(bytes.into());
        prop_assert!(read.is_err() || read.unwrap().verify(&key.public()).is_err());
    }
}

#[test]
fn the_place_of_a_record_has_one_text() {
    let head = Head { term: 7, seq: 12 };
    assert_eq!(head.to_string(), "7.12");
    assert_eq!("7.12".parse(), Ok(head));
    for bad in [
        "",
        "7",
        "7.",
        ".12",
        "7.012",
        "+7.12",
        "-1.2",
        "7.12.1",
        "4294967296.0",
    ] {
        assert!(bad.parse::<Head>().is_err(), "{bad}");
    }
}
