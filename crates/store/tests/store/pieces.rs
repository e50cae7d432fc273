//! Pieces in and out: verdicts, reading, digests, the finish.

use crate::common::{PIECE, Rig, content, layout, snapshot, spec, v1};
use floodway_proto::digest::{sha1, sha256};
use floodway_proto::units::ByteCount;
use floodway_proto::{Layout, PieceIndex};
use floodway_store::{Event, Hashes, Nodes, OpenError, ReadError, Spec, Store, Verdict};

const LENGTH: usize = 5 * PIECE as usize + 20_001;

#[test]
fn every_order_of_blocks_makes_the_same_file() {
    for seed in 0..20 {
        for hashes in [
            v1(&content(LENGTH, seed)),
            Hashes::Facts(Nodes::new()),
            Hashes::Unknown,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("file");
            let data = content(LENGTH, seed);
            let mut spec = spec(&target, &data, hashes);
            spec.linear_digest = seed % 2 == 0;
            // So little that blocks must be written before their piece is whole.
            spec.buffer_limit = ByteCount::kib(if seed % 3 == 0 { 48 } else { 1024 });
            let rig = Rig::open(spec);
            assert_eq!(
                std::fs::metadata(target.with_file_name("file.floodway"))
                    .unwrap()
                    .len(),
                LENGTH as u64
            );
            rig.store.finish();
            let mut blocks: Vec<(u32, u32)> = layout(&data)
                .pieces()
                .flat_map(|piece| {
                    (0..layout(&data).block_count(piece)).map(move |block| (piece.0, block))
                })
                .collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut blocks);
            let last = blocks.pop().unwrap();
            for (piece, block) in blocks {
                rig.put(&data, piece, block);
            }
            rig.store.flush().unwrap();
            assert!(!target.exists(), "no final name before the last block");
            rig.put(&data, last.0, last.1);
            let (path, digest) = rig.finished();
            assert_eq!(path, target);
            assert_eq!(
                digest,
                (seed % 2 == 0).then(|| sha256(&data)),
                "seed {seed}"
            );
            assert!(std::fs::read(&target).unwrap() == data, "seed {seed}");
            assert_eq!(rig.read(0, LENGTH), data);
            assert_eq!(rig.store.buffered(), 0);
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 1, "nothing is left beside the file");
        }
    }
}

#[test]
fn an_empty_file_is_finished_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("empty");
    for hashes in [v1(&[]), Hashes::Facts(Nodes::new()), Hashes::Unknown] {
        let mut spec = spec(&target, &[], hashes);
        spec.linear_digest = true;
        spec.overwrite = true;
        let rig = Rig::open(spec);
        rig.store.finish();
        assert_eq!(rig.finished(), (target.clone(), Some(sha256(b""))));
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }
}

#[test]
fn a_bad_piece_is_dropped_with_the_digests_of_its_blocks_and_so_is_known_who_lied() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let (data, lie) = (content(LENGTH, 1), content(LENGTH, 2));
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    rig.put(&data, 1, 0);
    rig.put(&lie, 1, 2);
    // Some of the blocks are on disk when the piece is judged.
    rig.store.flush().unwrap();
    rig.put(&data, 1, 1);
    rig.put(&data, 1, 3);
    let (piece, Verdict::Bad { blocks: bad }) = rig.verdict() else {
        panic!("it is bad")
    };
    assert_eq!((piece, bad.len()), (1, 4));
    assert!(matches!(
        rig.store
            .read(u64::from(PIECE)..u64::from(PIECE) + 1, &mut [0]),
        Err(ReadError::NotHeld(PieceIndex(1)))
    ));
    rig.put_piece(&data, 1);
    let (
        _,
        Verdict::Good {
            blocks: good,
            digest,
        },
    ) = rig.verdict()
    else {
        panic!("it is good")
    };
    assert_eq!(
        digest.sha1,
        Some(sha1(&data[PIECE as usize..2 * PIECE as usize]))
    );
    let differs: Vec<usize> = (0..4).filter(|&block| bad[block] != good[block]).collect();
    assert_eq!(differs, [2]);
    assert_eq!(rig.read(PIECE as usize, 100), data[PIECE as usize..][..100]);
    assert_eq!(rig.have(), [1]);
    assert!(matches!(rig.store.flush(), Ok(())));
    assert_eq!(rig.store.buffered(), 0);
}

#[test]
fn blocks_that_come_twice_or_do_not_exist_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let (data, other) = (content(LENGTH, 1), content(LENGTH + 5, 2));
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    rig.put(&data, 0, 0);
    rig.put(&other, 0, 0);
    rig.put(&other, 5, 1); // five bytes longer than the last block is
    for index in 1..4 {
        rig.put(&data, 0, index);
    }
    assert!(matches!(rig.verdict(), (0, Verdict::Good { .. })));
    rig.put_piece(&other, 0);
    rig.store.flush().unwrap();
    assert_eq!(rig.read(0, PIECE as usize), data[..PIECE as usize]);
    assert_eq!(rig.store.buffered(), 0);
}

#[test]
fn reads_are_refused_outside_of_what_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&folder.path().join("file"), &data, v1(&data)));
    rig.put_piece(&data, 5);
    rig.put_piece(&data, 4);
    rig.verdict();
    rig.verdict();
    let end = LENGTH as u64;
    let start = 4 * u64::from(PIECE);
    let read =
        |range: std::ops::Range<u64>, length: usize| rig.store.read(range, &mut vec![0; length]);
    assert!(
        read(start..end, LENGTH - 4 * PIECE as usize).is_ok(),
        "across two pieces"
    );
    assert!(matches!(
        read(start - 1..start + 1, 2),
        Err(ReadError::NotHeld(PieceIndex(3)))
    ));
    assert!(matches!(
        read(end - 1..end + 1, 2),
        Err(ReadError::OutOfRange { .. })
    ));
    assert!(matches!(
        read(start..start + 2, 3),
        Err(ReadError::OutOfRange { .. })
    ));
    rig.store.forget(PieceIndex(4));
    assert!(matches!(
        read(start..start + 1, 1),
        Err(ReadError::NotHeld(PieceIndex(4)))
    ));
}

#[test]
fn a_forgotten_piece_is_fetched_again_and_digested_again() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let (data, wrong) = (content(LENGTH, 1), content(LENGTH, 2));
    let mut spec = spec(&target, &data, Hashes::Unknown);
    spec.linear_digest = true;
    let rig = Rig::open(spec);
    for piece in 0..6 {
        rig.put_piece(if piece == 2 { &wrong } else { &data }, piece);
    }
    let complete = |event| match event {
        Event::Complete { sha256 } => Some(sha256),
        _ => None,
    };
    assert_ne!(rig.wait(complete), Some(sha256(&data)));
    assert!(!target.exists());
    rig.store.forget(PieceIndex(2));
    rig.put_piece(&data, 2);
    assert_eq!(rig.wait(complete), Some(sha256(&data)));
    rig.store.finish();
    assert_eq!(rig.finished().1, Some(sha256(&data)));
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn hashes_learnt_later_judge_what_is_held_and_what_is_under_way() {
    for hashes in [Hashes::Facts(Nodes::new()), Hashes::Unknown] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let (data, wrong) = (content(LENGTH, 1), content(LENGTH, 2));
        let rig = Rig::open(spec(&target, &data, hashes.clone()));
        rig.put_piece(&data, 0);
        rig.put_piece(&wrong, 1);
        rig.put(&wrong, 2, 0);
        rig.put(&data, 3, 0);
        for _ in 0..2 {
            let (_, Verdict::Good { digest, .. }) = rig.verdict() else {
                panic!("all is accepted")
            };
            let collects = matches!(hashes, Hashes::Facts(_));
            assert_eq!(
                (digest.sha1.is_some(), digest.node.is_some()),
                (collects, collects)
            );
        }
        let too_few = Hashes::V1([].into());
        assert!(matches!(
            rig.store.set_hashes(too_few),
            Err(OpenError::HashCount {
                expected: 6,
                found: 0
            })
        ));
        rig.store.set_hashes(v1(&data)).unwrap();
        assert!(matches!(rig.verdict(), (1, Verdict::Bad { blocks }) if blocks.is_empty()));
        for index in 1..4 {
            rig.put(&data, 2, index);
            rig.put(&data, 3, index);
        }
        assert!(matches!(rig.verdict(), (2, Verdict::Bad { .. })));
        assert!(matches!(rig.verdict(), (3, Verdict::Good { .. })));
        rig.store.flush().unwrap();
        assert_eq!(rig.have(), [0, 3]);
    }
}

#[test]
fn a_file_that_is_there_is_verified_and_else_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    std::fs::write(&target, &data).unwrap();
    let mut known = spec(&target, &data, v1(&data));
    known.linear_digest = true;
    let rig = Rig::open(known.clone());
    assert!(rig.opened.complete && rig.opened.resumed_bytes == LENGTH as u64);
    rig.store.finish();
    assert_eq!(rig.finished(), (target.clone(), Some(sha256(&data))));
    assert_eq!(rig.read(70_000, 1000), data[70_000..71_000]);
    assert!(!target.with_file_name("file.floodway-journal").exists());
    drop(rig);

    let open = |spec: &Spec| Rig::try_open(spec.clone());
    let unknown = spec(&target, &data, Hashes::Unknown);
    assert!(matches!(open(&unknown), Err(OpenError::TargetExists(_))));
    std::fs::write(&target, content(LENGTH, 2)).unwrap();
    assert!(matches!(open(&known), Err(OpenError::TargetDiffers(_))));
    known.overwrite = true;
    let rig = open(&known).unwrap();
    assert_eq!(rig.opened.resumed_bytes, 0);
    rig.store.finish();
    rig.put_all(&data);
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn an_earlier_process_killed_after_the_rename_is_cleaned_up_after() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, Hashes::Unknown));
    rig.put_all(&data);
    rig.wait(|event| matches!(event, Event::Complete { .. }).then_some(()));
    rig.store.flush().unwrap();
    let (copy, target) = snapshot(&target);
    drop(rig);
    // Finishing, by hand: the record (kind 6), then the rename; the journal stays.
    let journal = target.with_file_name("file.floodway-journal");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(&sha1(&[6]).0[..4]);
    bytes.push(6);
    std::fs::write(&journal, bytes).unwrap();
    std::fs::rename(target.with_file_name("file.floodway"), &target).unwrap();
    let rig = Rig::open(spec(&target, &data, Hashes::Unknown));
    assert!(rig.opened.complete);
    assert_eq!(std::fs::read_dir(copy.path()).unwrap().count(), 1);
    assert_eq!(rig.read(0, LENGTH), data);
}

#[test]
fn a_seed_reads_what_is_good_and_knows_the_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut data = content(LENGTH, 1);
    let hashes = v1(&data);
    let layout = layout(&data);
    data[3 * PIECE as usize] ^= 1;
    std::fs::write(&path, &data).unwrap();
    let told = std::sync::atomic::AtomicU64::new(0);
    let progress = |bytes| {
        told.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    };
    let (store, opened) = Store::seed(&path, layout.clone(), &hashes, None, progress).unwrap();
    assert_eq!(told.into_inner(), LENGTH as u64);
    assert!(!opened.complete);
    assert_eq!(opened.have.iter_ones().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
    assert!(store.read(0..10, &mut [0; 10]).is_ok());
    let other = Layout::new(Some(LENGTH as u64 - 1), PIECE).unwrap();
    assert!(matches!(
        Store::seed(&path, other, &hashes, None, |_| ()),
        Err(OpenError::WrongLength { .. })
    ));

    let target = folder.path().join("got");
    let rig = Rig::open(spec(&target, &data, Hashes::Facts(Nodes::new())));
    rig.store.finish();
    rig.put_all(&data);
    let stamp = rig.wait(|event| match event {
        Event::Finished { stamp, .. } => Some(stamp),
        _ => None,
    });
    let unhashed = |_| panic!("it was not to be hashed");
    let (_, opened) =
        Store::seed(&target, layout.clone(), &v1(&data), Some(stamp), unhashed).unwrap();
    assert!(opened.complete);
    std::fs::write(&target, vec![0; LENGTH]).unwrap();
    let (_, opened) =
        Store::seed(&target, layout.clone(), &v1(&data), Some(stamp), |_| ()).unwrap();
    assert_eq!(opened.have.count(), 0);
    let (_, opened) =
        Store::seed(&target, layout, &Hashes::Facts(Nodes::new()), None, |_| ()).unwrap();
    assert_eq!(opened.digests.len(), 6);
}
