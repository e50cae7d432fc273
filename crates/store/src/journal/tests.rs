use proptest::prelude::*;

use super::*;
use crate::hashing::NOTHING;
use floodway_proto::{Sha1, Sha256};

fn header() -> Header {
    Header {
        identity: [7; 32],
        length: 1 << 40,
        piece_length: 1 << 20,
        block_length: 1 << 14,
        boot: [9; 16],
    }
}

fn recorded() -> Recorded {
    let held = |synced, digest| Held { synced, digest };
    let digest = PieceDigest {
        sha1: Some(Sha1([1; 20])),
        node: Some(Sha256([2; 32])),
    };
    Recorded {
        header: Some(header()),
        pieces: BTreeMap::from([
            (PieceIndex(0), held(true, NOTHING)),
            (PieceIndex(1), held(true, digest)),
            (PieceIndex(5), held(false, digest)),
            (PieceIndex(6), held(true, NOTHING)),
        ]),
        partial: BTreeMap::from([(PieceIndex(9), vec![(0, 3), (7, 1)])]),
        finishing: false,
    }
}

fn record() -> impl Strategy<Value = Record> {
    let piece = || any::<u32>().prop_map(PieceIndex);
    let runs = || prop::collection::vec(any::<(u32, u32)>(), 0..5);
    let digest =
        any::<(Option<[u8; 20]>, Option<[u8; 32]>)>().prop_map(|(sha1, node)| PieceDigest {
            sha1: sha1.map(Sha1),
            node: node.map(Sha256),
        });
    prop_oneof![
        any::<([u8; 32], u64, u32, u32, [u8; 16])>().prop_map(
            |(identity, length, piece_length, block_length, boot)| Record::Header(Header {
                identity,
                length,
                piece_length,
                block_length,
                boot,
            })
        ),
        (piece(), digest).prop_map(|(piece, digest)| Record::Written { piece, digest }),
        runs().prop_map(|runs| Record::Synced { runs }),
        (piece(), runs()).prop_map(|(piece, runs)| Record::Partial { piece, runs }),
        piece().prop_map(|piece| Record::Dropped { piece }),
        Just(Record::Finishing),
    ]
}

proptest! {
    #[test]
    fn records_read_back(records in prop::collection::vec(record(), 0..8)) {
        let mut bytes = Vec::new();
        for record in &records {
            record.encode(&mut bytes);
        }
        let mut rest = &bytes[..];
        for record in records {
            let (read, after) = Record::decode(rest).unwrap();
            prop_assert_eq!(read, record);
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn any_bytes_are_read_or_ignored(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Recorded::read(&bytes), Recorded::default());
    }

    #[test]
    fn a_damaged_byte_ends_the_journal_before_it(at in 0..400_usize, flip in 1..=255_u8) {
        let full = recorded().encode();
        let mut bytes = full.clone();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let read = Recorded::read(&bytes);
        // Whatever is read is a prefix of what was written.
        let prefixes = (0..=full.len()).map(|length| Recorded::read(&full[..length]));
        prop_assert!(prefixes.into_iter().any(|prefix| prefix == read));
    }
}

#[test]
fn a_torn_tail_is_ignored_wherever_it_is_torn() {
    let mut bytes = recorded().encode();
    let whole = bytes.len();
    let piece = PieceIndex(7);
    let digest = NOTHING;
    Record::Written { piece, digest }.encode(&mut bytes);
    for length in whole..bytes.len() {
        assert_eq!(Recorded::read(&bytes[..length]), recorded(), "{length}");
    }
    let synced = false;
    let last = Recorded::read(&bytes);
    assert_eq!(last.pieces[&piece], Held { synced, digest });
    // What a file system may leave behind the last write that reached the disk.
    bytes.truncate(whole);
    bytes.resize(whole + 4096, 0);
    assert_eq!(Recorded::read(&bytes), recorded());
}

#[test]
fn later_records_change_earlier_ones() {
    let mut state = recorded();
    let (piece, digest) = (PieceIndex(9), NOTHING);
    state.apply(Record::Written { piece, digest });
    assert!(state.partial.is_empty(), "a whole piece is no partial one");
    assert!(!state.pieces[&piece].synced);
    let runs = vec![(5, 2), (9, 1), (u32::MAX, u32::MAX)];
    state.apply(Record::Synced { runs });
    assert!(state.pieces[&piece].synced && state.pieces[&PieceIndex(5)].synced);
    state.apply(Record::Dropped { piece });
    assert!(!state.pieces.contains_key(&piece));
    state.apply(Record::Written { piece, digest });
    assert!(
        !state.pieces[&piece].synced,
        "synced does not outlive a drop"
    );
}

#[test]
fn only_one_at_a_time_holds_a_journal_and_rewriting_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.floodway-journal");
    let lock = || Journal::lock(path.clone(), Path::new("x"));
    let (mut journal, empty) = lock().unwrap();
    assert_eq!(empty, Recorded::default());
    assert!(matches!(lock(), Err(OpenError::Locked(target)) if target == Path::new("x")));
    journal.rewrite(&recorded()).unwrap();
    assert!(matches!(lock(), Err(OpenError::Locked(_))));
    let piece = PieceIndex(5);
    journal.append(&Record::Dropped { piece }).unwrap();
    journal.append(&Record::Finishing).unwrap();
    drop(journal);
    let (journal, read) = lock().unwrap();
    assert!(!read.pieces.contains_key(&piece) && read.finishing);
    journal.remove().unwrap();
    assert_eq!(lock().unwrap().1, Recorded::default());
}

#[test]
fn a_record_that_was_not_written_whole_is_overwritten_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = Journal::lock(path.clone(), Path::new("x")).unwrap();
    journal.rewrite(&recorded()).unwrap();
    // As a disk that got full in the middle of an append leaves it.
    journal.file.write_all_at(&[77; 5], journal.end).unwrap();
    let piece = PieceIndex(5);
    journal.append(&Record::Dropped { piece }).unwrap();
    drop(journal);
    let (_, read) = Journal::lock(path, Path::new("x")).unwrap();
    assert!(!read.pieces.contains_key(&piece));
}
