//! Stores of contents whose length becomes known while they are fetched.

use std::path::Path;

use bytes::Bytes;
use floodway_proto::digest::sha256;
use floodway_proto::{BlockId, Layout, PieceIndex};
use floodway_store::{Event, Hashes, Nodes, Note, OpenError, ReadError, Spec, Verdict};

use crate::common::{PIECE, Rig, content, layout, nodes, spec};

const BLOCK: usize = 16 << 10;
const P: usize = PIECE as usize;

/// A store that does not know how long `data` is.
fn open_ended(target: &Path, data: &[u8], known: Nodes) -> Spec {
    Spec {
        layout: Layout::new(None, PIECE).unwrap(),
        linear_digest: true,
        ..spec(target, data, Hashes::Facts(known))
    }
}

/// All blocks that are whole, as they come before the end is known.
fn put_whole_blocks(rig: &Rig, data: &[u8]) {
    for block in 0..data.len() / BLOCK {
        let (piece, index) = (block / (P / BLOCK), block % (P / BLOCK));
        rig.put(
            data,
            u32::try_from(piece).unwrap(),
            u32::try_from(index).unwrap(),
        );
    }
}

fn put_tail(rig: &Rig, data: &[u8]) {
    let tail = data.len() % BLOCK;
    if tail > 0 {
        let start = data.len() - tail;
        let piece = PieceIndex(u32::try_from(start / P).unwrap());
        let index = u32::try_from(start % P / BLOCK).unwrap();
        rig.store.put(
            BlockId { piece, index },
            Bytes::copy_from_slice(&data[start..]),
        );
    }
}

#[test]
fn the_end_may_come_after_any_byte() {
    for length in [
        0,
        1,
        BLOCK,
        BLOCK + 1,
        P - 1,
        P,
        P + 1,
        2 * P + BLOCK,
        3 * P,
        3 * P + 70_000,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let data = content(length, 7);
        let rig = Rig::open(open_ended(&target, &data, Nodes::new()));
        put_whole_blocks(&rig, &data);
        for _ in 0..length / P {
            assert!(matches!(rig.verdict(), (_, Verdict::Good { .. })));
        }
        let unfinished = std::fs::metadata(target.with_file_name("file.floodway")).unwrap();
        assert!(unfinished.len() <= length as u64, "it grows as bytes come");
        rig.store.end(length as u64);
        put_tail(&rig, &data);
        if !length.is_multiple_of(P) {
            let (piece, verdict) = rig.verdict();
            let Verdict::Good { digest, .. } = verdict else {
                panic!("{length}: nothing says that it is wrong");
            };
            let piece = PieceIndex(piece);
            assert_eq!(piece.0 as usize, length / P);
            let bytes = layout(&data).piece_bytes(piece);
            let bytes = &data[usize::try_from(bytes.start).unwrap()..];
            let node = floodway_proto::merkle::piece_node(bytes, &layout(&data), piece);
            assert_eq!(digest.node, node, "{length}: of the file as long as it is");
        }
        let digest = rig.wait(|event| match event {
            Event::Complete { sha256 } => Some(sha256),
            _ => None,
        });
        assert_eq!(digest, Some(sha256(&data)), "{length}");
        rig.store.end(length as u64 + 1);
        rig.store.finish();
        rig.finished();
        assert!(std::fs::read(&target).unwrap() == data, "{length}");
    }
}

#[test]
fn what_cannot_be_of_the_content_is_dropped_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(4 * P, 1);
    let rig = Rig::open(open_ended(&target, &data, Nodes::new()));
    rig.put_piece(&data, 0);
    rig.put_piece(&data, 3);
    rig.put(&data, 1, 1);
    rig.put(&data, 2, 0);
    rig.store.flush().unwrap();
    // Shorter than what came of pieces 1 to 3.
    let length = P + BLOCK + 5;
    rig.store.end(length as u64);
    assert_eq!(rig.have(), [0]);
    rig.put(&data, 1, 0);
    put_tail(&rig, &data[..length]);
    rig.store.finish();
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data[..length]);
}

#[test]
fn a_later_run_that_knows_the_length_goes_on_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(3 * P + 100, 1);
    let unknown = open_ended(&target, &data, Nodes::new());
    let rig = Rig::open(unknown.clone());
    rig.put_piece(&data, 0);
    rig.put(&data, 1, 0);
    rig.store.close().unwrap();
    drop(rig);
    let rig = Rig::open(unknown.clone());
    assert_eq!((rig.have(), rig.opened.note), (vec![0], None));
    assert_eq!(rig.opened.partial.len(), 1);
    rig.put_piece(&data, 2);
    rig.store.end(data.len() as u64);
    rig.store.close().unwrap();
    drop(rig);
    let known = spec(&target, &data, Hashes::Facts(nodes(&data, 0..4)));
    let rig = Rig::open(known.clone());
    assert_eq!((rig.have(), rig.opened.note), (vec![0, 2], None));
    rig.put_piece(&data, 3);
    for index in 1..4 {
        rig.put(&data, 1, index);
    }
    rig.store.finish();
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data);
    // Nobody can tell whether that is the whole.
    let again = Rig::try_open(unknown).err();
    assert!(matches!(again, Some(OpenError::TargetExists(_))));
}

#[test]
fn a_later_run_that_does_not_know_the_length_fetches_a_short_last_piece_again() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(2 * P + 100, 1);
    let unknown = open_ended(&target, &data, Nodes::new());
    let rig = Rig::open(unknown.clone());
    rig.put_piece(&data, 0);
    rig.store.end(data.len() as u64);
    rig.put_piece(&data, 2);
    rig.store.close().unwrap();
    drop(rig);
    let rig = Rig::open(unknown);
    assert_eq!(rig.have(), [0]);
    assert_eq!(rig.opened.note, Some(Note::Untrusted(1)));
    rig.store.end(data.len() as u64);
    rig.put_piece(&data, 1);
    rig.put_piece(&data, 2);
    rig.store.finish();
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn a_later_run_that_does_not_know_the_length_any_more_goes_on_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(2 * P + 100, 1);
    let known = Hashes::Facts(nodes(&data, 0..3));
    let rig = Rig::open(spec(&target, &data, known));
    rig.put_piece(&data, 0);
    rig.put(&data, 1, 0);
    rig.put_piece(&data, 2);
    rig.store.close().unwrap();
    drop(rig);
    let rig = Rig::open(open_ended(&target, &data, Nodes::new()));
    assert_eq!(rig.have(), [0]);
    assert_eq!(rig.opened.partial.len(), 1);
    assert_eq!(rig.opened.note, Some(Note::Untrusted(1)), "the short piece");
    rig.store.end(data.len() as u64);
    for index in 1..4 {
        rig.put(&data, 1, index);
    }
    rig.put_piece(&data, 2);
    rig.store.finish();
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn what_was_cut_off_is_fetched_again_when_the_length_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(3 * P, 1);
    let unknown = open_ended(&target, &data, Nodes::new());
    let rig = Rig::open(unknown.clone());
    for piece in 0..3 {
        rig.put_piece(&data, piece);
    }
    rig.store.close().unwrap();
    drop(rig);
    let unfinished = target.with_file_name("file.floodway");
    let unfinished = std::fs::File::options().write(true).open(unfinished);
    unfinished.unwrap().set_len(P as u64 + 5).unwrap();
    let rig = Rig::open(unknown);
    assert_eq!(rig.have(), [0]);
    assert_eq!(rig.opened.note, Some(Note::Untrusted(2)));
}

#[test]
fn nothing_is_read_beyond_where_the_content_may_end() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let rig = Rig::open(open_ended(&target, &[], Nodes::new()));
    let limit = Layout::new(None, PIECE).unwrap().limit();
    for start in [limit, u64::MAX - 1] {
        let read = rig.store.read(start..start + 1, &mut [0]);
        assert!(matches!(read, Err(ReadError::OutOfRange { .. })));
    }
}
