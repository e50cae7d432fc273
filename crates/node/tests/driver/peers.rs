//! Nodes among themselves.

use std::time::Duration;

use floodway_node::{AddError, ContentError, ContentSpec, PeerAt, State, Target};
use floodway_proto::{ByteRate, InfoHash};
use floodway_swarm::Limits;
use tokio::time::{Instant, timeout};

use crate::kit::{Kit, PATIENCE, session, session_with, until};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_leech_completes_from_a_seed() {
    let kit = Kit::new(64 * MIB + 12_345);
    let (seeder, leecher) = (session(1).await, session(2).await);
    let seed = seeder
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    seed.done().await.unwrap();
    let peers = vec![seeder.peer_addr()];
    let leech = leecher
        .add(ContentSpec {
            peers,
            ..kit.leech("leech")
        })
        .await
        .unwrap();
    let finished = kit.completes(&leech).await;
    assert_eq!(finished.path, kit.path("leech"));
    assert_eq!(finished.counters.peer, finished.bytes);
    assert!(leecher.metrics().peer_received.get() >= finished.bytes);
    assert!(seeder.metrics().peer_sent.get() >= finished.bytes);
    leecher.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leeches_pass_pieces_on() {
    let kit = Kit::new(32 * MIB);
    let seeder = session(1).await;
    let limits = Limits {
        up: ByteRate::mib(24),
        ..Limits::default()
    };
    let seed = kit.seed(kit.write("seed", |_| ()));
    seeder.add(ContentSpec { limits, ..seed }).await.unwrap();
    let (a, b) = (session(2).await, session(3).await);
    let peers = vec![seeder.peer_addr(), a.peer_addr(), b.peer_addr()];
    let add = |name| ContentSpec {
        peers: peers.clone(),
        ..kit.leech(name)
    };
    let first = a.add(add("a")).await.unwrap();
    let second = b.add(add("b")).await.unwrap();
    kit.completes(&first).await;
    kit.completes(&second).await;
    let passed_on = a.metrics().peer_sent.get() + b.metrics().peer_sent.get();
    assert!(
        passed_on > 4 << 20,
        "the leeches exchanged only {passed_on} bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_content_is_done_at_once() {
    let kit = Kit::new(0);
    let session = session(1).await;
    let content = session.add(kit.leech("empty")).await.unwrap();
    kit.completes(&content).await;
    until(&content, "done", |progress| progress.state == State::Done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_is_a_content() {
    let kit = Kit::new(1);
    let (seeder, leecher) = (session(1).await, session(2).await);
    seeder
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    let leech = leecher.add(kit.leech("leech")).await.unwrap();
    leech.add_peers(vec![seeder.peer_addr(), leecher.peer_addr()]);
    kit.completes(&leech).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_is_dialled_by_the_one_name_that_it_knows() {
    let kit = Kit::new(MIB);
    let (v1, v2) = (Kit::name(), InfoHash([0xa2; 20]));
    let (stock, leecher) = (session(1).await, session(2).await);
    let seed = ContentSpec {
        names: vec![v2],
        ..kit.seed(kit.write("seed", |_| ()))
    };
    stock.add(seed).await.unwrap();
    let spec = ContentSpec {
        names: vec![InfoHash([0x51; 20]), v1],
        ..kit.leech("leech")
    };
    let leech = leecher.add(spec).await.unwrap();
    let at = PeerAt {
        addr: stock.peer_addr(),
        name: Some(v2),
    };
    // While the name is not known here the address is of no use.
    leech.add_peers([at]);
    leech.add_name(v2).unwrap();
    leech.add_peers([at]);
    kit.completes(&leech).await;
    let refused = "floodway_inbound_refused_total 0\n";
    assert!(
        stock.metrics().render().contains(refused),
        "no other name was tried"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_leech_resumes() {
    let kit = Kit::new(16 * MIB);
    let seeder = session(1).await;
    let limits = Limits {
        up: ByteRate::mib(8),
        ..Limits::default()
    };
    let seed = kit.seed(kit.write("seed", |_| ()));
    seeder.add(ContentSpec { limits, ..seed }).await.unwrap();
    let peers = vec![seeder.peer_addr()];
    let spec = ContentSpec {
        peers,
        ..kit.leech("leech")
    };
    let leecher = session(2).await;
    let leech = leecher.add(spec.clone()).await.unwrap();
    until(&leech, "half", |progress| progress.have_bytes > 6 << 20).await;
    assert!(matches!(
        leecher.add(spec.clone()).await,
        Err(AddError::NameTaken(_))
    ));
    leecher.shutdown().await;
    assert!(matches!(leech.done().await, Err(ContentError::Stopped)));
    assert!(!kit.path("leech").exists(), "no final name before the end");

    let leecher = session(2).await;
    let leech = leecher.add(spec).await.unwrap();
    let finished = kit.completes(&leech).await;
    assert!(
        finished.counters.resumed > 5 << 20,
        "{:?}",
        finished.counters
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_with_deletion_leaves_nothing() {
    let kit = Kit::new(16 * MIB);
    let seeder = session(1).await;
    let limits = Limits {
        up: ByteRate::mib(4),
        ..Limits::default()
    };
    let seed = kit.seed(kit.write("seed", |_| ()));
    seeder.add(ContentSpec { limits, ..seed }).await.unwrap();
    let leecher = session(2).await;
    let leech = leecher.add(kit.leech("leech")).await.unwrap();
    leech.add_peers(vec![seeder.peer_addr()]);
    until(&leech, "begun", |progress| progress.have_bytes > 0).await;
    timeout(PATIENCE, leech.stop(true)).await.unwrap();
    let left = std::fs::read_dir(kit.folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["seed"]);
    let received = leecher.metrics().peer_received.get();
    // The name is free again.
    leecher.add(kit.leech("leech")).await.unwrap();
    assert_eq!(
        leecher.metrics().peer_received.get(),
        received,
        "bytes stop at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_answers_to_all_its_names() {
    let kit = Kit::new(MIB);
    let other = InfoHash([0xee; 20]);
    let (seeder, leecher) = (session(1).await, session(2).await);
    let seed = seeder
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    seed.add_name(other).unwrap();
    // The seed does not know the first name: the leech tries the next.
    let names = vec![InfoHash([1; 20]), other];
    let leech = leecher
        .add(ContentSpec {
            names,
            ..kit.leech("leech")
        })
        .await
        .unwrap();
    leech.add_peers(vec![seeder.peer_addr()]);
    kit.completes(&leech).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_wide_limit_holds() {
    let kit = Kit::new(6 * MIB);
    let seeder = session(1).await;
    seeder
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    let down = ByteRate::mib(4);
    let leecher = session_with(2, |config| config.limits.down = down).await;
    let start = Instant::now();
    let peers = vec![seeder.peer_addr()];
    let leech = leecher
        .add(ContentSpec {
            peers,
            ..kit.leech("leech")
        })
        .await
        .unwrap();
    kit.completes(&leech).await;
    // What fits into the sockets' buffers may come early.
    let least = Duration::from_secs(1);
    assert!(
        start.elapsed() > least,
        "6 MiB at 4 MiB/s took {:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_differs_is_not_seeded() {
    let kit = Kit::new(MIB);
    let session = session(1).await;
    let path = kit.write("seed", |bytes| bytes[300_000] ^= 1);
    let error = session.add(kit.seed(path)).await.unwrap_err();
    assert!(
        matches!(
            error,
            AddError::NotThisContent {
                wrong: 1,
                pieces: 4,
                ..
            }
        ),
        "{error}"
    );
    let missing = Target::Seed {
        path: kit.path("none"),
        known: None,
    };
    let spec = ContentSpec {
        target: missing,
        ..kit.leech("x")
    };
    assert!(matches!(session.add(spec).await, Err(AddError::Open(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn held_bytes_can_be_read_and_others_not() {
    let kit = Kit::new(2 * MIB);
    let session = session(1).await;
    let seed = session
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    let length = seed.length().unwrap();
    assert!(seed.has(0..length) && !seed.has(0..length + 1));
    assert_eq!(
        seed.read(300_000..300_010).await.unwrap(),
        kit.bytes[300_000..300_010]
    );
    let leech = ContentSpec {
        names: vec![InfoHash([3; 20])],
        ..kit.leech("leech")
    };
    let leech = session.add(leech).await.unwrap();
    assert!(!leech.has(0..1) && leech.has(5..5));
    assert!(leech.read(0..1).await.is_err());
    seed.stop(false).await;
    assert!(seed.read(0..1).await.is_err());
}
