//! A content that takes over what the same object's other version has at the same place.

use std::fs;
use std::path::Path;

use floodway_proto::{BlockId, Layout, PieceIndex};
use floodway_store::{Event, Hashes, Nodes, Note, Predecessor, Spec, Verdict};

use crate::common::{PIECE, Rig, content, layout, nodes, spec};

const PIECES: usize = 6;
const LENGTH: usize = (PIECES - 1) * PIECE as usize + 77;
const OLD: [u8; 32] = [1; 32];

/// Another version of the data: some pieces differ.
fn changed(data: &[u8], pieces: &[usize]) -> Vec<u8> {
    let mut other = data.to_vec();
    for piece in pieces {
        other[piece * PIECE as usize + 5] ^= 1;
    }
    other
}

/// Leaves unfinished data of the predecessor: these pieces, and a block of the third.
fn leave(target: &Path, data: &[u8], pieces: &[u32]) {
    let rig = Rig::open(spec(target, data, Hashes::Facts(nodes(data, 0..5))));
    for piece in pieces {
        rig.put_piece(data, *piece);
    }
    rig.put(data, 2, 0);
    rig.store.close().unwrap();
}

/// What takes its place.
fn successor(target: &Path, data: &[u8], hashes: Hashes, only: Option<Nodes>) -> Spec {
    Spec {
        identity: [2; 32],
        adopts: Some(Predecessor {
            identity: OLD,
            folder: None,
            only,
        }),
        ..spec(target, data, hashes)
    }
}

#[test]
fn a_successor_keeps_equal_pieces_and_loses_others_once_it_knows_better() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let old = content(LENGTH, 1);
    let new = changed(&old, &[1, 4]);
    leave(&target, &old, &[0, 1, 3, 4, 5]);
    // One fact is known from the start.
    let known = nodes(&new, [4]);
    let rig = Rig::open(successor(&target, &new, Hashes::Facts(known), None));
    assert_eq!(rig.have(), [0, 1, 3, 5]);
    assert_eq!(rig.opened.partial, [], "of two versions no piece is made");
    assert_eq!(rig.opened.note, Some(Note::Untrusted(1)));
    assert_eq!(rig.learn(nodes(&new, 0..6)), [1], "only what differs");
    for piece in [1, 2, 4] {
        rig.put_piece(&new, piece);
        assert!(matches!(rig.verdict(), (_, Verdict::Good { .. })));
    }
    rig.store.finish();
    rig.finished();
    assert!(fs::read(&target).unwrap() == new);
}

#[test]
fn pieces_at_the_same_place_are_kept_when_the_length_differs() {
    let old = content(LENGTH, 1);
    let piece = PIECE as usize;
    let longer = [&old[..], &content(2 * piece, 2)].concat();
    for (new, kept) in [
        (&longer[..], &[0, 1, 3, 4][..]),
        (&old[..3 * piece + 9], &[0, 1]),
        (&old[..4 * piece], &[0, 1, 3]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        leave(&target, &old, &[0, 1, 3, 4, 5]);
        let rig = Rig::open(successor(&target, new, Hashes::Facts(Nodes::new()), None));
        assert_eq!(rig.have(), kept);
        let all: Vec<u32> = layout(new).pieces().map(|piece| piece.0).collect();
        assert_eq!(rig.learn(nodes(new, all.clone())), [0; 0]);
        for piece in all.iter().filter(|piece| !kept.contains(piece)) {
            rig.put_piece(new, *piece);
        }
        rig.store.finish();
        rig.finished();
        assert!(fs::read(&target).unwrap() == new);
    }
}

#[test]
fn without_hashes_of_its_own_a_content_keeps_only_what_was_proven() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    leave(&target, &data, &[0, 1, 3]);
    // Of piece 1 something else was proven, of piece 3 nothing.
    let mut proven = nodes(&data, [0]);
    proven.extend(nodes(&changed(&data, &[1]), [1]));
    let rig = Rig::open(successor(&target, &data, Hashes::Unknown, Some(proven)));
    assert_eq!(rig.have(), [0]);
    rig.put_piece(&data, 1);
    rig.wait(|event| {
        matches!(
            event,
            Event::Written {
                piece: PieceIndex(1)
            }
        )
        .then_some(())
    });
}

#[test]
fn by_the_hashes_of_a_torrent_only_equal_pieces_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let old = content(LENGTH, 1);
    let new = changed(&old, &[1]);
    leave(&target, &old, &[0, 1, 5]);
    let hashes = crate::common::v1(&new);
    let rig = Rig::open(successor(&target, &new, hashes, None));
    assert_eq!(rig.have(), [0, 5]);
}

#[test]
fn in_folders_files_keep_their_pieces_wherever_they_have_moved() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("set");
    let files = |files: &[(&str, u64)]| {
        let path = |path: &str| floodway_proto::files::parse_path(path).unwrap();
        let files = files.iter().map(|&(name, length)| (path(name), length));
        Layout::folder(files, PIECE).unwrap()
    };
    let piece = u64::from(PIECE);
    let old = files(&[
        ("b", 2 * piece),
        ("c/x", piece + 5),
        ("d", 9),
        ("gone/y", 7),
    ]);
    // One came, one grew, one is a folder now, one is gone.
    let new = files(&[
        ("a", piece),
        ("b", 2 * piece),
        ("c/x", 3 * piece),
        ("d/z", 9),
    ]);
    let of = |layout: &Layout, identity, adopts| Spec {
        layout: layout.clone(),
        identity,
        adopts,
        ..spec(&target, &[], Hashes::Facts(Nodes::new()))
    };
    let rig = Rig::open(of(&old, OLD, None));
    let data = content(usize::try_from(old.length().unwrap()).unwrap(), 3);
    for piece in old.pieces() {
        for index in 0..old.block_count(piece) {
            let block = BlockId { piece, index };
            let bytes = old.block_bytes(block);
            let at = |byte: u64| usize::try_from(byte).unwrap();
            let bytes = data[at(bytes.start)..at(bytes.end)].to_vec();
            rig.store.put(block, bytes.into());
        }
    }
    rig.store.close().unwrap();
    let predecessor = |folder| {
        Some(Predecessor {
            identity: OLD,
            folder,
            only: None,
        })
    };
    assert_eq!(floodway_store::unfinished_identity(&target), Some(OLD));
    let rig = Rig::open(of(&new, [2; 32], predecessor(Some(old))));
    // `a` has piece 0; `b` 1 and 2; `c/x` 3 to 5, of which one is whole in both.
    assert_eq!(rig.have(), [1, 2, 3]);
    let size = PIECE as usize;
    assert_eq!(rig.read(3 * size, size), data[2 * size..3 * size]);
    let unfinished = folder.path().join("set.floodway");
    assert!(unfinished.join("d/z").is_file() && !unfinished.join("gone").exists());
    rig.store.close().unwrap();
    // Without its layout nothing is known of a folder.
    let rig = Rig::open(of(&new, [3; 32], predecessor(None)));
    assert_eq!(rig.have(), [0; 0]);
}

#[test]
fn data_of_any_other_content_is_not_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    leave(&target, &data, &[0]);
    let facts = || Hashes::Facts(Nodes::new());
    let mut other = successor(&target, &data, facts(), None);
    other.adopts = Some(Predecessor {
        identity: [7; 32],
        folder: None,
        only: None,
    });
    let opened = Rig::open(other).opened;
    assert_eq!(
        (opened.have.count(), opened.note),
        (0, Some(Note::OtherContent))
    );
    // Its pieces have another length.
    leave(&target, &data, &[0]);
    let mut other = successor(&target, &data, facts(), None);
    let length = Some(LENGTH as u64);
    other.layout = Layout::new(length, 2 * PIECE).unwrap();
    let opened = Rig::open(other).opened;
    assert_eq!(
        (opened.have.count(), opened.note),
        (0, Some(Note::OtherContent))
    );
}

#[test]
fn whole_pieces_are_kept_of_a_predecessor_whose_length_was_not_known() {
    let piece = PIECE as usize;
    let old = content(3 * piece + 77, 1);
    let longer = [&old[..], &content(2 * piece, 2)].concat();
    for new in [&longer[..], &old[..]] {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let rig = Rig::open(Spec {
            layout: Layout::new(None, PIECE).unwrap(),
            ..spec(&target, &old, Hashes::Facts(Nodes::new()))
        });
        rig.put_piece(&old, 0);
        rig.put_piece(&old, 2);
        rig.store.end(old.len() as u64);
        rig.put_piece(&old, 3);
        rig.store.close().unwrap();
        drop(rig);
        let rig = Rig::open(successor(&target, new, Hashes::Facts(Nodes::new()), None));
        assert_eq!(rig.have(), [0, 2], "the last one was short");
        assert_ne!(rig.opened.note, Some(Note::OtherContent));
    }
}
