//! Contents whose length the origin does not say: control's word for their end.

use floodway_api::manifest::Phase;
use floodway_api::rest::{Role, TaskState};
use floodway_api::sync::ProbeReport;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::{PIECES_WHILE_UNKNOWN, Sid};

use crate::client::{Node, Object, Server, content, leased, probe};
use crate::growing::Follower;

const PIECE: u32 = 4 << 20;

fn chunked() -> ProbeReport {
    ProbeReport {
        etag: None,
        ranges: false,
        ..endless()
    }
}

/// An object that says that it has ranges, and not how long it is.
fn endless() -> ProbeReport {
    ProbeReport {
        length: None,
        ..probe(1)
    }
}

/// A relay that may read all of an object that has no length.
async fn begun(server: &Server) -> (Follower, String, Sid) {
    let mut relay = Follower::enrol(server, Role::Relay).await;
    relay.node.sync(server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let reply = relay.node.probed(server, &task, chunked()).await;
    let content = content(&reply);
    assert!(!content.ranges);
    let all: Vec<u32> = (0..PIECES_WHILE_UNKNOWN).collect();
    assert_eq!(leased(&content), all, "one relay, one GET");
    relay.take(&reply, content.sid);
    (relay, task, content.sid)
}

#[tokio::test]
async fn without_a_length_one_relay_reads_all_whatever_is_said_of_ranges() {
    let server = Server::start();
    let mut first = server.enrol(Role::Relay).await;
    let mut other = server.enrol(Role::Relay).await;
    first.sync(&server).await;
    other.sync(&server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    assert!(endless().ranges && endless().etag.is_some());
    let content_of_first = content(&first.probed(&server, &task, endless()).await);
    assert!(!content_of_first.ranges);
    let content_of_other = content(&other.sync(&server).await);
    let mut leases = [content_of_first, content_of_other].map(|content| leased(&content).len());
    leases.sort_unstable();
    assert_eq!(leases, [0, PIECES_WHILE_UNKNOWN as usize]);
}

#[tokio::test]
async fn a_content_without_a_length_grows_and_ends_where_its_body_does() {
    for tail in [1, 16_384, u64::from(PIECE)] {
        let mut server = Server::start();
        let (mut relay, task, sid) = begun(&server).await;
        let object = Object::in_pieces(2 * u64::from(PIECE) + tail, PIECE);
        relay.report(&server, &task, sid, &object, &[0, 1]).await;
        let manifest = relay.manifest.as_ref().unwrap();
        assert_eq!(
            (manifest.length(), manifest.facts().proven_pieces()),
            (None, 2)
        );
        let seen = server.task(&task).await;
        let growth = seen.growth.unwrap();
        assert_eq!((seen.length, growth.pieces, growth.sealed), (None, None, 2));
        // All of it is durable.
        server.kill_and_restart().await;
        let mut late = Follower::enrol(&server, Role::Relay).await;
        let reply = late.node.sync(&server).await;
        late.take(&reply, sid);
        let known = late.manifest.as_ref().unwrap();
        assert!(known.facts().sealed_node(1).is_some() && known.length().is_none());

        let length = object.layout.length().unwrap();
        let last = object.pieces(&[2]);
        let reply = relay.node.ends(&server, &task, sid, length, last).await;
        relay.take(&reply, sid);
        let manifest = relay.manifest.as_ref().unwrap();
        assert_eq!(manifest.length(), Some(length), "{tail}");
        assert!(manifest.final_names().is_some(), "{tail}");
        let ended = server.task(&task).await;
        assert_eq!(
            (ended.state, ended.length),
            (TaskState::Final, Some(length))
        );
        let growth = ended.growth.unwrap();
        assert_eq!((growth.phase, growth.pieces), (Phase::Final, Some(3)));
        // It is a torrent like any other, after a restart too.
        server.kill_and_restart().await;
        for format in ["v1", "v2"] {
            let path = format!("/api/v1/s/{sid}/torrent?format={format}");
            let torrent = server.get(&path, &server.admin()).await;
            assert_eq!(torrent.status, 200, "{}", torrent.text());
            if format == "v1" {
                let info = Metainfo::decode(&torrent.body).unwrap().info;
                assert_eq!((info.length, info.piece_length), (length, PIECE));
            }
        }
        let mut joins = Follower::enrol(&server, Role::Agent).await;
        joins.node.state.asks = vec![floodway_api::sync::Ask::Join { sid }];
        let reply = joins.node.sync(&server).await;
        joins.take(&reply, sid);
        let late = joins.manifest.as_ref().unwrap();
        assert_eq!(late.layout().unwrap(), object.layout);
        assert!(late.final_names().is_some());
    }
}

#[tokio::test]
async fn the_end_is_known_across_a_restart_before_the_last_piece() {
    let mut server = Server::start();
    let (mut relay, task, sid) = begun(&server).await;
    // Shorter than a piece: its root lies lower than that of a whole one.
    let object = Object::in_pieces(100_000, PIECE);
    let reply = relay
        .node
        .ends(&server, &task, sid, 100_000, Vec::new())
        .await;
    relay.take(&reply, sid);
    assert_eq!(relay.manifest.as_ref().unwrap().length(), Some(100_000));
    server.kill_and_restart().await;
    relay.report(&server, &task, sid, &object, &[0]).await;
    assert!(relay.manifest.as_ref().unwrap().final_names().is_some());
    // Nothing at all is a content too.
    let empty = server.publish("empty", None).await.relay_task;
    let reply = relay.node.probed(&server, &empty, chunked()).await;
    let order = reply
        .relay_tasks
        .iter()
        .find(|order| order.relay_task == empty);
    let sid = order.unwrap().content.as_ref().unwrap().sid;
    relay.node.ends(&server, &empty, sid, 0, Vec::new()).await;
    let ended = server.task(&empty).await;
    assert_eq!((ended.state, ended.length), (TaskState::Final, Some(0)));
}

/// The content that the task has now.
async fn current(server: &Server, relay: &mut Node, task: &str) -> Option<Sid> {
    relay.state.relay_tasks.clear();
    let reply = relay.sync(server).await;
    let order = reply
        .relay_tasks
        .iter()
        .find(|order| order.relay_task == task);
    order.and_then(|order| Some(order.content.as_ref()?.sid))
}

#[tokio::test]
async fn an_end_that_cannot_be_is_not_believed() {
    let server = Server::start();
    let (mut relay, task, sid) = begun(&server).await;
    // Who was never to read it says nothing about it.
    let mut other = server.enrol(Role::Relay).await;
    other.sync(&server).await;
    other.ends(&server, &task, sid, 5, Vec::new()).await;
    assert_eq!(server.task(&task).await.length, None);
    // More than there may be of it.
    let most = u64::from(PIECES_WHILE_UNKNOWN) * u64::from(PIECE);
    relay
        .node
        .ends(&server, &task, sid, most + 1, Vec::new())
        .await;
    assert_eq!(server.task(&task).await.length, None);
    // Pieces were read beyond that end: it is another object now.
    let object = Object::in_pieces(2 * u64::from(PIECE), PIECE);
    relay.report(&server, &task, sid, &object, &[0, 1]).await;
    relay.node.ends(&server, &task, sid, 100, Vec::new()).await;
    assert_eq!(
        current(&server, &mut relay.node, &task).await,
        None,
        "given up"
    );
}

#[tokio::test]
async fn a_second_end_means_that_the_object_changed() {
    let server = Server::start();
    let (mut relay, task, sid) = begun(&server).await;
    relay
        .node
        .ends(&server, &task, sid, 100_000, Vec::new())
        .await;
    relay
        .node
        .ends(&server, &task, sid, 100_000, Vec::new())
        .await;
    let mut other = server.enrol(Role::Relay).await;
    other.sync(&server).await;
    other.ends(&server, &task, sid, 5, Vec::new()).await;
    assert_eq!(
        current(&server, &mut relay.node, &task).await,
        Some(sid),
        "said twice, and by somebody who cannot know"
    );
    relay
        .node
        .ends(&server, &task, sid, 100_001, Vec::new())
        .await;
    assert_eq!(
        current(&server, &mut relay.node, &task).await,
        None,
        "given up"
    );
}
