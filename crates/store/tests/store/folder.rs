//! Contents of many files: one folder that gets its name at once.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use floodway_proto::digest::{DigestKind, PieceDigester};
use floodway_proto::{BlockId, Layout, PieceIndex, SafeName, Sha1};
use floodway_store::{Event, FileStamp, Hashes, Nodes, OpenError, Spec, Store};

use crate::common::{PIECE, Rig, content};

const P: u64 = PIECE as u64;
/// Path and length of each file.
const FILES: [(&str, u64); 6] = [
    ("a/deep/er/x", 2 * P + 7),
    ("a/empty", 0),
    ("a/one", 1),
    ("b", P),
    ("c", 3 * P - 1),
    ("z", 0),
];

fn layout() -> Layout {
    let files = FILES.map(|(path, length)| {
        let names = path.split('/').map(|name| SafeName::new(name).unwrap());
        (names.collect(), length)
    });
    Layout::folder(files, PIECE).unwrap()
}

fn bytes() -> Vec<u8> {
    content(usize::try_from(layout().length().unwrap()).unwrap(), 7)
}

fn range(bytes: &std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap()
}

fn v1(data: &[u8]) -> Hashes {
    let layout = layout();
    let kind = DigestKind {
        sha1: true,
        tree: false,
    };
    let hash = |piece| -> Sha1 {
        let mut digester = PieceDigester::new(kind, &layout, piece);
        digester.update(&data[range(&layout.piece_bytes(piece))]);
        digester.finish().sha1.unwrap()
    };
    Hashes::V1(layout.pieces().map(hash).collect())
}

fn spec(target: &Path, hashes: Hashes) -> Spec {
    Spec {
        layout: layout(),
        ..crate::common::spec(target, &[], hashes)
    }
}

fn put(rig: &Rig, data: &[u8], piece: u32) {
    let layout = layout();
    let piece = PieceIndex(piece);
    for index in 0..layout.block_count(piece) {
        let block = BlockId { piece, index };
        let bytes = &data[range(&layout.block_bytes(block))];
        rig.store.put(block, Bytes::copy_from_slice(bytes));
    }
}

fn put_all(rig: &Rig, data: &[u8]) {
    layout().pieces().for_each(|piece| put(rig, data, piece.0));
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    target.with_file_name(format!("set{suffix}"))
}

#[track_caller]
fn assert_holds(target: &Path, data: &[u8]) {
    for file in layout().files().unwrap() {
        let found = fs::read(target.join(file.path_text())).unwrap();
        assert!(found == data[range(&file.bytes)], "{}", file.path_text());
    }
}

fn stamp_of_end(rig: &Rig) -> FileStamp {
    rig.wait(|event| match event {
        Event::Finished { stamp, .. } => Some(stamp),
        Event::Failed { error, .. } => panic!("{error}"),
        _ => None,
    })
}

#[test]
fn all_files_get_their_names_at_once_and_nothing_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (target, data) = (folder.path().join("set"), bytes());
    for hashes in [v1(&data), Hashes::Facts(Nodes::new())] {
        let rig = Rig::open(spec(&target, hashes));
        put_all(&rig, &data);
        rig.wait(|event| matches!(event, Event::Complete { .. }).then_some(()));
        assert!(!target.exists(), "not before it is told");
        rig.store.finish();
        let stamp = stamp_of_end(&rig);
        assert_holds(&target, &data);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let mut out = vec![0; data.len()];
        rig.store.read(0..data.len() as u64, &mut out).unwrap();
        assert!(out == data, "it is read across files, under its new name");
        // It is known again, until a file changes.
        let unhashed = |_| panic!("it was not to be hashed");
        let again = Store::seed(&target, layout(), &v1(&data), Some(stamp), unhashed);
        assert!(again.unwrap().1.complete);
        fs::write(target.join("b"), vec![0; PIECE as usize]).unwrap();
        let (_, opened) = Store::seed(&target, layout(), &v1(&data), Some(stamp), |_| ()).unwrap();
        assert_eq!(opened.have.count(), layout().piece_count() - 1);
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn what_was_written_before_a_kill_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let (target, data) = (folder.path().join("set"), bytes());
    let rig = Rig::open(spec(&target, v1(&data)));
    assert!(matches!(
        Rig::try_open(spec(&target, v1(&data))),
        Err(OpenError::Locked(_))
    ));
    for piece in [0, 2, 3, 7] {
        put(&rig, &data, piece);
    }
    for _ in 0..4 {
        rig.wait(|event| matches!(event, Event::Written { .. }).then_some(()));
    }
    drop(rig);
    assert!(!target.exists());
    let rig = Rig::open(spec(&target, v1(&data)));
    assert_eq!(rig.have(), [0, 2, 3, 7]);
    assert_eq!(rig.opened.resumed_bytes, P + 7 + 1 + P - 1);
    drop(rig);
    // One file was cut: it is fetched again, the others are not.
    let one = beside(&target, ".floodway").join("a/one");
    fs::write(&one, "").unwrap();
    let rig = Rig::open(spec(&target, v1(&data)));
    assert_eq!(rig.have(), [0, 2, 7]);
    put_all(&rig, &data);
    rig.store.finish();
    stamp_of_end(&rig);
    assert_holds(&target, &data);
}

#[test]
fn a_kill_after_the_folder_got_its_name_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let (target, data) = (folder.path().join("set"), bytes());
    let rig = Rig::open(spec(&target, Hashes::Facts(Nodes::new())));
    put_all(&rig, &data);
    rig.wait(|event| matches!(event, Event::Complete { .. }).then_some(()));
    rig.store.close().unwrap();
    // Killed before the name was given: everything is there still.
    let journal = fs::read(beside(&target, ".floodway-journal")).unwrap();
    let rig = Rig::open(spec(&target, Hashes::Facts(Nodes::new())));
    assert!(rig.opened.have.is_full());
    rig.store.finish();
    stamp_of_end(&rig);
    drop(rig);
    // Killed between the name and the end of the journal: the folder is taken for what it is by its hashes.
    fs::write(beside(&target, ".floodway-journal"), journal).unwrap();
    let rig = Rig::open(spec(&target, v1(&data)));
    assert!(rig.opened.complete);
    assert!(!beside(&target, ".floodway-journal").exists());
    assert_holds(&target, &data);
}

#[test]
fn a_folder_that_is_there_is_compared_and_never_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let (target, data) = (folder.path().join("set"), bytes());
    let rig = Rig::open(spec(&target, v1(&data)));
    put_all(&rig, &data);
    rig.store.finish();
    stamp_of_end(&rig);
    drop(rig);
    let rig = Rig::open(spec(&target, v1(&data)));
    assert!(rig.opened.complete, "the same folder");
    drop(rig);
    let refused = |hashes| Rig::try_open(spec(&target, hashes)).err().unwrap();
    let unknown = Hashes::Facts(Nodes::new());
    assert!(matches!(refused(unknown), OpenError::FolderExists(_)));
    for damage in ["c", "a/one"] {
        fs::write(target.join(damage), "other").unwrap();
        assert!(matches!(refused(v1(&data)), OpenError::FolderExists(_)));
    }
    // A relay may replace it.
    let overwriting = Spec {
        overwrite: true,
        ..spec(&target, v1(&data))
    };
    let rig = Rig::open(overwriting);
    put_all(&rig, &data);
    assert!(target.join("c").exists(), "until then it stays");
    rig.store.finish();
    stamp_of_end(&rig);
    assert_holds(&target, &data);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn unfinished_folders_are_discarded_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (target, data) = (folder.path().join("set"), bytes());
    let rig = Rig::open(spec(&target, v1(&data)));
    put(&rig, &data, 0);
    rig.store.discard().unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // Another content had the name: nothing of it stays in the folder.
    let rig = Rig::open(spec(&target, v1(&data)));
    put(&rig, &data, 0);
    rig.store.close().unwrap();
    drop(rig);
    fs::write(beside(&target, ".floodway").join("stranger"), "x").unwrap();
    let other = Spec {
        identity: [2; 32],
        ..spec(&target, v1(&data))
    };
    let rig = Rig::open(other);
    assert_eq!(rig.have(), []);
    assert!(!beside(&target, ".floodway").join("stranger").exists());
}
