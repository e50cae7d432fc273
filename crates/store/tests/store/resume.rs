//! What survives a close, a kill and a power cut.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{PIECE, Rig, content, layout, snapshot, spec, v1};
use floodway_proto::units::ByteCount;
use floodway_proto::{Bitfield, PieceIndex};
use floodway_store::{Event, Hashes, Nodes, Note, Spec, Verdict};

const LENGTH: usize = 8 * PIECE as usize;

fn all(data: &[u8]) -> [Hashes; 3] {
    [v1(data), Hashes::Facts(Nodes::new()), Hashes::Unknown]
}

fn written(rig: &Rig, count: usize) {
    for _ in 0..count {
        rig.wait(|event| matches!(event, Event::Written { .. }).then_some(()));
    }
}

/// Changes bytes on disk behind the store's back.
fn damage(target: &std::path::Path, offset: usize) {
    let file = OpenOptions::new()
        .write(true)
        .open(target.with_file_name("file.floodway"))
        .unwrap();
    file.write_all_at(&[0; 100], offset as u64).unwrap();
}

/// The journal's first record ends with the boot id: another boot.
fn reboot(target: &std::path::Path) {
    use floodway_proto::digest::sha1;
    let path = target.with_file_name("file.floodway-journal");
    let mut bytes = fs::read(&path).unwrap();
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let body = &mut bytes[8..8 + length];
    body[length - 1] ^= 1;
    let sum = sha1(body);
    bytes[4..8].copy_from_slice(&sum.0[..4]);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_closed_store_opens_with_everything() {
    let data = content(LENGTH, 1);
    for hashes in all(&data) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        assert_eq!(rig.opened.note, None);
        rig.put_piece(&data, 6);
        rig.put_piece(&data, 2);
        rig.put(&data, 4, 3);
        rig.put(&data, 4, 0);
        rig.store.close().unwrap();
        assert_eq!(
            rig.read(6 * PIECE as usize, 100),
            data[6 * PIECE as usize..][..100]
        );
        // Damage that nobody looks for: synced pieces are trusted.
        damage(&target, 2 * PIECE as usize);

        let mut again = spec(&target, &data, hashes.clone());
        again.linear_digest = true;
        let rig = Rig::open(again);
        assert_eq!(rig.opened.have.iter_ones().collect::<Vec<_>>(), [2, 6]);
        let mut blocks = Bitfield::new(4);
        blocks.set(0);
        blocks.set(3);
        assert_eq!(rig.opened.partial, [(PieceIndex(4), blocks)]);
        assert_eq!(rig.opened.resumed_bytes, 2 * u64::from(PIECE) + 2 * 16384);
        assert_eq!(rig.opened.note, None);
        let digests = rig
            .opened
            .digests
            .iter()
            .filter(|(_, digest)| digest.node.is_some());
        assert_eq!(
            digests.count(),
            if matches!(hashes, Hashes::Facts(_)) {
                2
            } else {
                0
            }
        );
        rig.store.finish();
        rig.put(&data, 4, 1);
        rig.put(&data, 4, 2);
        assert!(matches!(rig.verdict(), (4, Verdict::Good { .. })));
        for piece in [0, 1, 3, 5, 7] {
            rig.put_piece(&data, piece);
        }
        rig.finished();
        let mut expected = data.clone();
        expected[2 * PIECE as usize..][..100].fill(0);
        assert!(fs::read(&target).unwrap() == expected);
    }
}

#[test]
fn a_kill_costs_no_more_than_what_was_not_written() {
    let data = content(LENGTH, 1);
    for hashes in all(&data) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        for piece in 0..5 {
            rig.put_piece(&data, piece);
        }
        written(&rig, 5);
        rig.put(&data, 6, 1);
        drop(rig);
        let rig = Rig::open(spec(&target, &data, hashes));
        assert_eq!(
            rig.opened.have.iter_ones().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(rig.read(0, 5 * PIECE as usize), data[..5 * PIECE as usize]);
    }
}

#[test]
fn pieces_only_written_are_hashed_before_they_are_trusted() {
    let data = content(LENGTH, 1);
    for hashes in [v1(&data), Hashes::Facts(Nodes::new())] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        rig.put_piece(&data, 0);
        rig.put_piece(&data, 1);
        written(&rig, 2);
        let (_copy, target) = snapshot(&target);
        damage(&target, PIECE as usize);
        let rig = Rig::open(spec(&target, &data, hashes));
        assert_eq!(rig.opened.have.iter_ones().collect::<Vec<_>>(), [0]);
        assert_eq!(rig.opened.note, Some(Note::Untrusted(1)));
    }
}

#[test]
fn after_a_power_cut_only_what_can_be_verified_or_was_synced_is_kept() {
    let data = content(LENGTH, 1);
    for hashes in all(&data) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        rig.put_piece(&data, 0);
        rig.put(&data, 5, 0);
        rig.store.flush().unwrap();
        rig.put_piece(&data, 1);
        rig.put_piece(&data, 2);
        written(&rig, 3);
        let (_copy, target) = snapshot(&target);
        reboot(&target);
        damage(&target, 2 * PIECE as usize);
        let opened = Rig::open(spec(&target, &data, hashes.clone())).opened;
        let verifies = !matches!(hashes, Hashes::Unknown);
        let have: Vec<u32> = opened.have.iter_ones().collect();
        assert_eq!(have, if verifies { vec![0, 1] } else { vec![0] });
        let partial = opened.partial.iter().map(|(piece, _)| piece.0);
        let is_v1 = matches!(hashes, Hashes::V1(_));
        assert_eq!(
            partial.collect::<Vec<_>>(),
            if is_v1 { vec![5] } else { vec![] }
        );
        assert_eq!(
            opened.note,
            Some(Note::Untrusted(if verifies { 1 } else { 2 }))
        );
    }
}

#[test]
fn blocks_from_disk_that_are_bad_fail_their_piece() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    rig.put(&data, 3, 0);
    rig.store.close().unwrap();
    drop(rig);
    damage(&target, 3 * PIECE as usize);
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    for index in 1..4 {
        rig.put(&data, 3, index);
    }
    assert!(matches!(rig.verdict(), (3, Verdict::Bad { blocks }) if blocks.len() == 4));
    rig.store.close().unwrap();
    drop(rig);
    let opened = Rig::open(spec(&target, &data, v1(&data))).opened;
    assert!(opened.partial.is_empty(), "the journal forgot them");
}

#[test]
fn a_piece_whose_blocks_were_all_written_early_is_judged_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    for index in 0..3 {
        rig.put(&data, 3, index);
    }
    rig.store.flush().unwrap();
    let (_copy, target) = snapshot(&target);
    drop(rig);
    // As if the fourth block had been written early as well: record and bytes.
    let mut bytes = fs::read(target.with_file_name("file.floodway-journal")).unwrap();
    let body = [4_u8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0];
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(&floodway_proto::digest::sha1(&body).0[..4]);
    bytes.extend(body);
    fs::write(target.with_file_name("file.floodway-journal"), bytes).unwrap();
    let start = 3 * PIECE as usize + 3 * 16384;
    let file = OpenOptions::new()
        .write(true)
        .open(target.with_file_name("file.floodway"))
        .unwrap();
    file.write_all_at(&data[start..start + 16384], start as u64)
        .unwrap();
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    assert!(matches!(rig.verdict(), (3, Verdict::Good { .. })));
    written(&rig, 1);
}

#[test]
fn data_of_another_content_or_without_a_record_is_discarded_and_told() {
    let data = content(LENGTH, 1);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let fill = || {
        let rig = Rig::open(spec(&target, &data, v1(&data)));
        rig.put_piece(&data, 0);
        rig.store.close().unwrap();
    };
    let note = |spec: Spec| {
        let opened = Rig::open(spec).opened;
        assert_eq!((opened.have.count(), opened.resumed_bytes), (0, 0));
        opened.note
    };
    fill();
    let mut other = spec(&target, &data, v1(&data));
    other.identity = [2; 32];
    assert_eq!(note(other.clone()), Some(Note::OtherContent));
    assert_eq!(note(other), None);
    fill();
    fs::remove_file(target.with_file_name("file.floodway")).unwrap();
    assert_eq!(note(spec(&target, &data, v1(&data))), Some(Note::NoRecord));
    fill();
    fs::write(target.with_file_name("file.floodway-journal"), "rubbish").unwrap();
    assert_eq!(note(spec(&target, &data, v1(&data))), Some(Note::NoRecord));
}

#[test]
fn a_data_file_that_was_cut_is_hashed_again() {
    let data = content(LENGTH, 1);
    for hashes in all(&data) {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        rig.put_piece(&data, 0);
        rig.put_piece(&data, 7);
        rig.store.close().unwrap();
        drop(rig);
        let file = OpenOptions::new()
            .write(true)
            .open(target.with_file_name("file.floodway"))
            .unwrap();
        file.set_len(u64::from(PIECE)).unwrap();
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        let kept = usize::from(!matches!(hashes, Hashes::Unknown));
        assert_eq!(rig.have(), &[0][..kept]);
    }
}

#[test]
fn a_piece_forgotten_stays_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, Hashes::Unknown));
    rig.put_piece(&data, 0);
    rig.put_piece(&data, 1);
    rig.store.flush().unwrap();
    rig.store.forget(PieceIndex(1));
    rig.store.flush().unwrap();
    drop(rig);
    assert_eq!(Rig::open(spec(&target, &data, Hashes::Unknown)).have(), [0]);
}

#[test]
fn a_discarded_store_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, Hashes::Unknown));
    rig.put_all(&data);
    rig.wait(|event| matches!(event, Event::Complete { .. }).then_some(()));
    rig.store.discard().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(layout(&data).piece_count(), 8);
}

/// Waits until no more than `bytes` are only in memory.
fn drained(rig: &Rig, bytes: u64) {
    let start = Instant::now();
    while rig.store.buffered() > bytes {
        assert!(
            start.elapsed() < Duration::from_mins(1),
            "blocks stay in memory"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn blocks_of_incomplete_pieces_survive_a_kill_when_memory_is_short_or_they_are_old() {
    let data = content(LENGTH, 1);
    let most = 16384 * 8;
    for (limit, remain) in [(ByteCount(most), most / 2), (ByteCount::mib(16), 0)] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let mut spec = spec(&target, &data, v1(&data));
        spec.buffer_limit = limit;
        let rig = Rig::open(spec.clone());
        for piece in 0..8 {
            rig.put(&data, piece, 0);
            rig.put(&data, piece, 2);
        }
        drained(&rig, remain);
        drop(rig);
        let rig = Rig::open(spec);
        assert!(rig.opened.resumed_bytes + remain >= 16 * 16384);
        rig.put_all(&data);
        rig.store.finish();
        rig.finished();
        assert!(fs::read(&target).unwrap() == data);
    }
}
