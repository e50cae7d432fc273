use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Sid;
use crate::record::{Body, Checkpoint, LeaseId, Record, SecretKey, State};

fn record() -> Signed {
    let checkpoint = Checkpoint {
        length: None,
        sealed: 0,
        state: State::Open,
        snapshot: None,
        time_unix_ms: 1,
        lease_floor: LeaseId(0),
        revoked: Vec::new(),
        facts: Vec::new(),
    };
    let record = Record {
        sid: Sid([1; 32]),
        head: Head { term: 1, seq: 1 },
        key: 0,
        body: Body::Checkpoint(checkpoint),
    };
    record.sign(&SecretKey::from_seed(&[1; 32])).unwrap()
}

fn messages() -> impl Strategy<Value = ManifestMessage> {
    let head = || (any::<u32>(), any::<u64>()).prop_map(|(term, seq)| Head { term, seq });
    let hashes = |limit| vec(any::<u8>().prop_map(|byte| Sha256([byte; 32])), 1..=limit);
    let reasons = prop::sample::select(
        &[
            RejectReason::NotKnown,
            RejectReason::TooOften,
            RejectReason::OutOfRange,
        ][..],
    );
    prop_oneof![
        (head(), any::<u32>(), any::<u8>()).prop_map(|(head, sealed, capabilities)| {
            ManifestMessage::State {
                head,
                sealed,
                capabilities,
            }
        }),
        Just(ManifestMessage::Record(record())),
        head().prop_map(|have| ManifestMessage::GetHead { have }),
        (0..1u32 << 31, 1..=512u16)
            .prop_map(|(first, count)| ManifestMessage::GetFacts { first, count }),
        (
            any::<u16>(),
            any::<u8>(),
            any::<u32>(),
            hashes(HASHES_LIMIT)
        )
            .prop_map(|(file, layer, index, hashes)| ManifestMessage::Hashes {
                file,
                layer,
                index,
                hashes,
            }),
        (any::<u8>(), any::<u32>(), any::<u16>(), reasons).prop_map(
            |(sub, first, count, reason)| {
                ManifestMessage::Reject {
                    sub,
                    first,
                    count,
                    reason,
                }
            }
        ),
        vec((0..1u32 << 31, 1..1000u32), 1..100).prop_map(ManifestMessage::HaveRuns),
        any::<u32>().prop_map(|piece| ManifestMessage::GetLeaves { piece }),
        (any::<u32>(), hashes(64))
            .prop_map(|(piece, leaves)| ManifestMessage::Leaves { piece, leaves }),
        vec(any::<u32>(), 1..=MISSING_LIMIT).prop_map(ManifestMessage::Missing),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_message_round_trips(message in messages()) {
        let bytes = message.encode();
        prop_assert_eq!(bytes.first(), Some(&message.sub()));
        prop_assert_eq!(ManifestMessage::decode(bytes), Ok(message));
    }

    #[test]
    fn a_message_cut_off_or_followed_by_something_is_refused(
        message in messages(),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = message.encode();
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(ManifestMessage::decode(cut).is_err());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(ManifestMessage::decode(longer.into()).is_err());
    }
}

#[test]
fn lists_have_limits() {
    for (sub, before, item, limit) in [
        (sub::HASHES, 7, 32, HASHES_LIMIT),
        (sub::HAVE_RUNS, 0, 8, RUNS_LIMIT),
        (sub::LEAVES, 4, 32, LEAVES_LIMIT),
        (sub::MISSING, 0, 4, MISSING_LIMIT),
    ] {
        for (count, refused) in [(0, true), (limit, false), (limit + 1, true)] {
            let mut bytes = vec![sub];
            bytes.resize(1 + before, 0);
            bytes.put_u16(u16::try_from(count).unwrap());
            bytes.resize(bytes.len() + count * item, 1);
            let read = ManifestMessage::decode(bytes.into());
            let error = ManifestMessageError::Count { sub, count, limit };
            assert_eq!(read.is_err(), refused, "{read:?}");
            if refused {
                assert_eq!(read, Err(error));
            }
        }
    }
}

#[test]
fn impossible_fields_are_refused() {
    let decode = |bytes: &[u8]| ManifestMessage::decode(Bytes::copy_from_slice(bytes));
    assert_eq!(decode(&[]), Err(ManifestMessageError::Empty));
    let get_facts = sub::GET_FACTS;
    assert_eq!(
        decode(&[get_facts, 0, 0, 0, 0, 0, 0])
            .unwrap_err()
            .to_string(),
        "manifest message 0x03 has a list of 0; 1 to 512 are allowed"
    );
    assert_eq!(
        decode(&[get_facts, 255, 255, 255, 255, 0, 1]),
        Err(ManifestMessageError::Run { sub: get_facts })
    );
    let reject = [sub::REJECT, 3, 0, 0, 0, 0, 0, 1, 9];
    assert_eq!(
        decode(&reject).unwrap_err().to_string(),
        "manifest message 0x06 gives reason 9, which does not exist"
    );
    let runs = [sub::HAVE_RUNS, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0];
    assert_eq!(
        decode(&runs),
        Err(ManifestMessageError::Run {
            sub: sub::HAVE_RUNS
        })
    );
    assert!(matches!(
        decode(&[sub::RECORD, 1, 2, 3]),
        Err(ManifestMessageError::Record(RecordError::Truncated { .. }))
    ));
    assert_eq!(decode(&[0x0a, 1, 2]), Ok(ManifestMessage::Unknown(0x0a)));
}
