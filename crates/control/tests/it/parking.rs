//! Parked syncs: released at once by what concerns them, and by nothing else.

use std::time::{Duration, Instant};

use floodway_api::rest::Role;
use floodway_proto::units::Span;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{Object, PIECE, Server, hasty, raw, read_answer, relay_all};

#[tokio::test]
async fn a_new_task_releases_the_parked_sync_of_its_agents_at_once() {
    let server = Server::start();
    let mut agent = server.enrol(Role::Agent).await;
    agent.sync(&server).await;
    let publish = async {
        // The sync is parked as soon as the gauge says so.
        while !server
            .get("/metrics", "")
            .await
            .text()
            .contains("floodway_control_parked_syncs 1")
        {}
        let started = Instant::now();
        server.publish("disk.img", Some("all")).await;
        started
    };
    let (reply, started) = tokio::join!(
        async { (agent.wait(&server, 14_000).await, Instant::now()) },
        publish
    );
    let (reply, answered) = reply;
    assert_eq!(reply.tasks.len(), 1);
    let took = answered.saturating_duration_since(started);
    assert!(
        took < Duration::from_secs(7),
        "{took:?} instead of milliseconds: it waited until its time was over"
    );
}

#[tokio::test]
async fn nothing_new_means_parked_until_the_time_is_over() {
    let server = Server::start();
    let mut agent = server.enrol(Role::Agent).await;
    let first = agent.wait(&server, 10_000).await;
    let started = Instant::now();
    let second = agent.wait(&server, 300).await;
    assert!(
        started.elapsed() >= Duration::from_millis(290),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(first.version, second.version);
    assert_eq!(first.interval_ms, 15_000, "idle");
}

#[tokio::test]
async fn a_newer_sync_releases_the_parked_one() {
    let server = Server::start();
    let mut agent = server.enrol(Role::Agent).await;
    agent.sync(&server).await;
    let mut parked = agent.clone();
    let newer = async {
        while !server
            .get("/metrics", "")
            .await
            .text()
            .contains("floodway_control_parked_syncs 1")
        {}
        agent.sync(&server).await
    };
    let released = tokio::time::timeout(Duration::from_secs(5), parked.wait(&server, 14_000));
    let (released, newer) = tokio::join!(released, newer);
    assert_eq!(released.expect("released").version, newer.version);
}

#[tokio::test]
async fn new_peers_are_told_to_whoever_still_wants_the_content() {
    let server = Server::with(|settings| {
        settings.advanced.busy_interval = Span(Duration::from_secs(14));
    });
    let mut relay = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut relay, &task.relay_task, &Object::new(PIECE)).await;
    let (mut wants, mut has, mut comes) = (
        server.enrol(Role::Agent).await,
        server.enrol(Role::Agent).await,
        server.enrol(Role::Agent).await,
    );
    wants.holds(sid, false);
    has.holds(sid, true);
    has.sync(&server).await;
    wants
        .until(&server, |reply| reply.contents[0].peers.len() == 2)
        .await;
    let idle = has.sync(&server).await;
    comes.holds(sid, false);
    let new = comes.id;
    let arrives = async {
        while !server
            .get("/metrics", "")
            .await
            .text()
            .contains("floodway_control_parked_syncs 1")
        {}
        comes.sync(&server).await;
        Instant::now()
    };
    // Late news of those who are there already may come first.
    let waits = async {
        loop {
            let told = wants.wait(&server, 13_000).await;
            let mut peers = told.contents[0].peers.iter();
            if peers.any(|peer| peer.node == Some(new)) {
                return Instant::now();
            }
        }
    };
    let (at, came) = tokio::join!(waits, arrives);
    assert!(at.saturating_duration_since(came) < Duration::from_secs(7));
    assert_eq!(
        has.sync(&server).await.version,
        idle.version,
        "no news for whoever has it all"
    );
}

#[tokio::test]
async fn whoever_hangs_up_or_leaves_is_dropped_from_the_peer_lists() {
    let server = Server::with(|settings| {
        hasty(settings);
        // Without noticing the broken connection, control would wait for three of these.
        settings.advanced.busy_interval = Span(Duration::from_secs(10));
    });
    let mut relay = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut relay, &task.relay_task, &Object::new(PIECE)).await;
    let (mut stays, mut dies, mut leaves) = (
        server.enrol(Role::Agent).await,
        server.enrol(Role::Agent).await,
        server.enrol(Role::Agent).await,
    );
    for agent in [&mut stays, &mut dies, &mut leaves] {
        agent.holds(sid, false);
        agent.sync(&server).await;
    }
    let told = |reply: &floodway_api::sync::SyncReply, node| {
        reply.contents[0]
            .peers
            .iter()
            .any(|peer| peer.node == Some(node))
    };
    stays
        .until(&server, |reply| {
            told(reply, dies.id) && told(reply, leaves.id)
        })
        .await;
    leaves.state.leaving = true;
    leaves.sync(&server).await;
    assert!(!told(&stays.sync(&server).await, leaves.id), "gone at once");
    // A parked sync whose connection breaks, as a killed process leaves it.
    dies.sync(&server).await;
    dies.state.wait_ms = 9000;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let body = serde_json::to_vec(&dies.state).unwrap();
    stream
        .write_all(&raw("POST", "/api/v1/sync", &dies.token, &body))
        .await
        .unwrap();
    while !server
        .get("/metrics", "")
        .await
        .text()
        .contains("floodway_control_parked_syncs 1")
    {}
    drop(stream);
    stays.until(&server, |reply| !told(reply, dies.id)).await;
}

#[tokio::test]
async fn a_full_car_park_and_a_stop_answer_at_once() {
    let mut server = Server::with(|settings| settings.advanced.parked_max = 1);
    let (mut one, mut two) = (
        server.enrol(Role::Agent).await,
        server.enrol(Role::Agent).await,
    );
    one.sync(&server).await;
    two.sync(&server).await;
    one.state.wait_ms = 14_000;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let body = serde_json::to_vec(&one.state).unwrap();
    stream
        .write_all(&raw("POST", "/api/v1/sync", &one.token, &body))
        .await
        .unwrap();
    while !server
        .get("/metrics", "")
        .await
        .text()
        .contains("floodway_control_parked_syncs 1")
    {}
    let started = Instant::now();
    two.wait(&server, 14_000).await;
    assert!(started.elapsed() < Duration::from_secs(7));
    server.stop();
    let answer = tokio::time::timeout(Duration::from_secs(5), read_answer(stream)).await;
    assert_eq!(answer.expect("released by the stop").status, 200);
}
