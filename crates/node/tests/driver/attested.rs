//! What relays attest under leases of control, on real nodes.

use std::sync::atomic::Ordering;

use floodway_node::{ContentEvent, ContentSpec};
use floodway_proto::record::{Attest, Body, Fact, Head, LeaseId, Record};
use floodway_proto::{ByteRate, Sha256};
use tokio::time::timeout;

use crate::growing::{Site, relay_key};
use crate::kit::{PATIENCE, session, until};

#[tokio::test(flavor = "multi_thread")]
async fn leased_pieces_flow_while_control_says_nothing() {
    let mut site = Site::new((6 << 20) + 77, ByteRate::mib(4)).await;
    let (near, far) = (session(2).await, session(3).await);
    let spec = |name, peer| ContentSpec {
        peers: vec![peer],
        ..site.control.spec(&site.kit, name, false, &[])
    };
    let first = near.add(spec("near", site.peer)).await.unwrap();
    let second = far.add(spec("far", near.peer_addr())).await.unwrap();
    // Control signs the lease of all pieces, and is not heard of again.
    let count = site.kit.layout.piece_count();
    let records = site.control.sign_lease(LeaseId(1), 0, count);
    site.relay.add_records(records);
    site.lease();
    let length = site.kit.layout.length().unwrap();
    for agent in [&first, &second] {
        until(agent, "all pieces", |progress| {
            progress.have_bytes == length
        })
        .await;
        assert!(!site.kit.path("near").exists(), "no name before FINAL");
    }
    // It comes back, and confirms it.
    site.seal_all().await;
    let (records, _) = site.control.finalise_all(&site.kit);
    site.relay.add_records(records);
    for content in [&site.relay, &first, &second] {
        site.kit.completes(content).await;
    }
    for agent in [&first, &second] {
        assert_eq!(agent.counters().peer, length);
    }
    assert_eq!(site.sent.sent.load(Ordering::Relaxed), length, "one copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_has_the_last_word_about_what_was_attested_falsely() {
    let mut site = Site::new(2 << 20, ByteRate::MAX).await;
    let agents = session(2).await;
    let spec = site.control.spec(&site.kit, "agent", false, &[]);
    let agent = agents.add(spec).await.unwrap();
    // A relay lies about the first piece.
    let key = relay_key();
    let mut records = site.control.sign_lease(LeaseId(1), 0, 8);
    let lie = Record {
        sid: site.control.sid(),
        head: Head { term: 1, seq: 1 },
        key: 0,
        body: Body::Attest(Attest {
            lease: LeaseId(1),
            facts: vec![Fact {
                hash: Sha256([7; 32]),
                ..site.control.place_of(0)
            }],
            sha1s: None,
            end: None,
        }),
    };
    records.push(lie.sign(&key).unwrap());
    let mut events = agent.events();
    agent.add_records(records);
    let learnt = async {
        while let Some(event) = events.recv().await {
            if matches!(event, ContentEvent::Facts { .. }) {
                return;
            }
        }
    };
    timeout(PATIENCE, learnt).await.expect("the lie is heard");
    site.lease();
    let mut sealed = Vec::new();
    while site.missing > 0 {
        sealed.extend(site.seal_next().await);
    }
    let (end, _) = site.control.finalise_all(&site.kit);
    site.relay.add_records(end.clone());
    agent.add_records([sealed, end].concat());
    agent.add_peers([site.peer]);
    site.kit.completes(&agent).await;
}
