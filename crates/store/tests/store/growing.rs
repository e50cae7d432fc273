//! Stores of contents whose hashes become known piece by piece.

use floodway_proto::digest::sha1;
use floodway_proto::{PieceIndex, Sha1};
use floodway_store::{Event, Hashes, Nodes, Note, Verdict};

use crate::common::{PIECE, Rig, content, nodes, spec};

const LENGTH: usize = 5 * PIECE as usize + 77;

fn facts(known: Nodes) -> Hashes {
    Hashes::Facts(known)
}

#[test]
fn what_was_fetched_before_its_hash_was_known_is_compared_when_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (data, wrong) = (content(LENGTH, 1), content(LENGTH, 2));
    let target = folder.path().join("file");
    let rig = Rig::open(spec(&target, &data, facts(nodes(&data, [0]))));
    rig.put_piece(&wrong, 0);
    assert!(matches!(rig.verdict(), (0, Verdict::Bad { blocks }) if blocks.len() == 4));
    for piece in [1, 2, 5] {
        rig.put_piece(if piece == 2 { &wrong } else { &data }, piece);
        assert!(matches!(rig.verdict(), (_, Verdict::Good { .. })));
    }
    rig.put(&wrong, 3, 0);
    rig.store.flush().unwrap();
    assert_eq!(rig.learn(nodes(&data, 1..6)), [2], "only the wrong one");
    assert_eq!(rig.have(), [1, 5]);
    // What was under way is judged by what is known now.
    for index in 1..4 {
        rig.put(&data, 3, index);
    }
    assert!(matches!(rig.verdict(), (3, Verdict::Bad { .. })));
    // A relay's word may turn out to be false, and what was verified by it too.
    assert_eq!(rig.learn(nodes(&wrong, [1])), [1], "the newest word counts");
    assert_eq!(rig.learn(nodes(&data, [1])), [0; 0]);
    for piece in [0, 1, 2, 3, 4] {
        rig.put_piece(&data, piece);
    }
    rig.store.finish();
    rig.finished();
    assert!(std::fs::read(&target).unwrap() == data);
}

#[test]
fn the_torrent_follows_from_what_was_computed_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let data = content(LENGTH, 1);
    let target = folder.path().join("file");
    let begun = spec(&target, &data, facts(Nodes::new()));
    let rig = Rig::open(begun.clone());
    for piece in [4, 0, 5] {
        rig.put_piece(&data, piece);
    }
    rig.store.close().unwrap();
    drop(rig);
    // A later process knows more from the start; what is synced is not read again: damage would be seen otherwise.
    let file = target.with_file_name("file.floodway");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4 * PIECE as usize] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let mut again = begun.clone();
    again.hashes = facts(nodes(&data, [0, 1, 4]));
    let rig = Rig::open(again);
    assert_eq!((rig.have(), rig.opened.note), (vec![0, 4, 5], None));
    let mut sha1s: Vec<(PieceIndex, Sha1)> = Vec::new();
    let resumed = rig.opened.digests.iter();
    sha1s.extend(resumed.map(|(piece, digest)| (*piece, digest.sha1.unwrap())));
    for piece in 1..4 {
        rig.put_piece(&data, piece);
        let (piece, Verdict::Good { digest, .. }) = rig.verdict() else {
            panic!("it is right")
        };
        sha1s.push((PieceIndex(piece), digest.sha1.unwrap()));
    }
    sha1s.sort();
    let sha1s: Vec<Sha1> = sha1s.into_iter().map(|(_, sha1)| sha1).collect();
    assert_eq!(
        sha1s,
        data.chunks(PIECE as usize).map(sha1).collect::<Vec<_>>()
    );
    // As of a torrent: nothing is hashed again, so the damage stays unseen.
    rig.store.set_hashes(Hashes::V1(sha1s.into())).unwrap();
    rig.store.finish();
    rig.finished();
    assert_eq!(rig.have().len(), 6);
}

#[test]
fn facts_that_came_while_nobody_ran_judge_what_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (data, wrong) = (content(LENGTH, 1), content(LENGTH, 2));
    let target = folder.path().join("file");
    let begun = spec(&target, &data, facts(Nodes::new()));
    let rig = Rig::open(begun.clone());
    rig.put_piece(&wrong, 1);
    rig.put_piece(&data, 2);
    rig.store.close().unwrap();
    drop(rig);
    let mut again = begun;
    again.hashes = facts(nodes(&data, 0..6));
    let rig = Rig::open(again);
    assert_eq!(
        (rig.have(), rig.opened.note),
        (vec![2], Some(Note::Untrusted(1)))
    );
}

#[test]
fn a_file_shorter_than_a_piece_has_the_node_of_a_whole_one() {
    for length in [
        1,
        16 << 10,
        (16 << 10) + 1,
        PIECE as usize - 1,
        PIECE as usize,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let data = content(length, 1);
        let rig = Rig::open(spec(
            &folder.path().join("file"),
            &data,
            facts(Nodes::new()),
        ));
        rig.put_piece(&data, 0);
        assert!(matches!(rig.verdict(), (0, Verdict::Good { .. })));
        assert_eq!(rig.learn(nodes(&data, [0])), [0; 0], "{length} bytes");
        assert_eq!(rig.have(), [0]);
        rig.store.finish();
        rig.wait(|event| matches!(event, Event::Finished { .. }).then_some(()));
    }
}
