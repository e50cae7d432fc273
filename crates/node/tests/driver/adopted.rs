//! The successor of a content whose object changed: what both have is not fetched again, and what differs is never used.

use std::sync::Arc;

use floodway_node::{ContentEvent, ContentSpec, Target};
use floodway_proto::digest::sha1;
use floodway_proto::record::{Body, LeaseId, Signed};
use floodway_proto::{ByteRate, PieceIndex};
use floodway_store::Predecessor;
use tokio::time::timeout;

use crate::growing::{Control, Site};
use crate::kit::{Kit, PATIENCE, session, until};

const LENGTH: usize = (5 << 20) + 77;
const FAST: ByteRate = ByteRate::mib(64);
/// Pieces that differ. The last one is short.
const CHANGED: [u32; 2] = [5, 20];

/// Another version of the same object.
fn changed(kit: &Kit) -> Kit {
    let mut bytes = (*kit.bytes).clone();
    for piece in CHANGED {
        let at = kit.layout.piece_bytes(PieceIndex(piece)).start;
        bytes[usize::try_from(at).unwrap() + 9] ^= 1;
    }
    let piece_length = usize::try_from(kit.layout.piece_length()).unwrap();
    Kit {
        pieces: bytes.chunks(piece_length).map(sha1).collect(),
        bytes: Arc::new(bytes),
        layout: kit.layout.clone(),
        folder: tempfile::tempdir().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_fetches_only_what_differs_whether_it_is_joined_early_or_late() {
    for late in [false, true] {
        let mut old = Site::new(LENGTH, FAST).await;
        let agents = session(2).await;
        let spec = ContentSpec {
            peers: vec![old.peer],
            ..old.control.spec(&old.kit, "file", false, &[])
        };
        let before = agents.add(spec).await.unwrap();
        old.lease();
        old.seal_all().await;
        until(&before, "all of it", |progress| {
            Some(progress.have_bytes) == progress.length
        })
        .await;
        before.stop(false).await;

        let kit = changed(&old.kit);
        let control = Control::with_nonce(&kit, [8; 16]);
        let mut new = Site::of(kit, control, FAST).await;
        let spec = ContentSpec {
            peers: vec![new.peer],
            adopts: Some(Predecessor {
                identity: old.control.sid().0,
                folder: None,
                only: None,
            }),
            target: Target::File {
                path: old.kit.path("file"),
                overwrite: false,
                rename_when_done: true,
            },
            ..new.control.spec(&new.kit, "file", false, &[])
        };
        new.lease();
        if late {
            new.seal_all().await;
            let (records, _) = new.control.finalise(&new.kit);
            new.relay.add_records(records);
        }
        let after = agents.add(spec).await.unwrap();
        if !late {
            until(&after, "all that may be the same", |progress| {
                Some(progress.have_bytes) == progress.length
            })
            .await;
            assert!(
                !after.is_available(0..10),
                "and nothing of it is known to be"
            );
            new.seal_all().await;
            let (records, _) = new.control.finalise(&new.kit);
            new.relay.add_records(records);
        }
        let first = timeout(PATIENCE, after.available(0..10)).await;
        first.expect("it becomes known").unwrap();
        new.kit.completes(&after).await;
        let layout = &new.kit.layout;
        let differing = CHANGED.map(|piece| u64::from(layout.piece_size(PieceIndex(piece))));
        assert_eq!(after.counters().peer, differing.iter().sum::<u64>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_over_is_judged_also_after_a_restart() {
    let mut old = Site::new(LENGTH, FAST).await;
    let agents = session(2).await;
    let target = Target::File {
        path: old.kit.path("file"),
        overwrite: false,
        rename_when_done: true,
    };
    let spec = ContentSpec {
        peers: vec![old.peer],
        ..old.control.spec(&old.kit, "file", false, &[])
    };
    let before = agents.add(spec).await.unwrap();
    old.lease();
    old.seal_all().await;
    let has_all = |progress: &floodway_node::Progress| Some(progress.have_bytes) == progress.length;
    until(&before, "all of it", has_all).await;
    before.stop(false).await;

    let kit = changed(&old.kit);
    let control = Control::with_nonce(&kit, [8; 16]);
    let mut new = Site::of(kit, control, FAST).await;
    let spec = ContentSpec {
        adopts: Some(Predecessor {
            identity: old.control.sid().0,
            folder: None,
            only: None,
        }),
        target: target.clone(),
        ..new.control.spec(&new.kit, "file", false, &[])
    };
    let killed = agents.add(spec).await.unwrap();
    until(&killed, "all that may be the same", has_all).await;
    killed.stop(false).await;

    let spec = ContentSpec {
        target,
        // The store need not read the file before it says that every byte is there.
        linear_digest: false,
        ..new.control.spec(&new.kit, "file", false, &[])
    };
    new.lease();
    let mut one_fact = Vec::new();
    while new.missing > 0 {
        let records = new.seal_next().await;
        if one_fact.is_empty() && !facts(&records).any(|piece| CHANGED.contains(&piece)) {
            one_fact = records;
        }
    }
    let mut last = new.control.new_term(LeaseId(0));
    last.extend(new.control.finalise(&new.kit).0);
    let again = agents.add(spec.clone()).await.unwrap();
    let mut events = again.events();
    // The final names come first, as to everybody who comes late. The store answers to the one fact after it has said that
    // every byte is there: so both are known, and what differs is not.
    again.add_records(last.clone());
    again.add_records(one_fact);
    let is_final = |event: &ContentEvent| matches!(event, ContentEvent::Final { .. });
    let answered = async {
        loop {
            let event = events.recv().await.expect("it lives");
            assert!(!is_final(&event), "nothing has judged the bytes yet");
            if matches!(event, ContentEvent::Facts { .. }) {
                return;
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("it learns a fact");
    again.stop(false).await;
    while let Ok(event) = events.try_recv() {
        assert!(!is_final(&event), "nothing has judged the bytes yet");
    }
    let again = agents.add(spec).await.unwrap();
    again.add_records(last.clone());
    new.relay.add_records(last);
    again.add_peers(vec![new.peer]);
    new.kit.completes(&again).await;
}

/// Of which pieces these records tell.
fn facts(records: &[Signed]) -> impl Iterator<Item = u32> {
    let facts = records.iter().map(|record| match &record.record().body {
        Body::Checkpoint(checkpoint) => checkpoint.facts.as_slice(),
        _ => &[],
    });
    facts.flatten().map(|fact| fact.index)
}
