//! From a task to a torrent, and what survives a kill.

use floodway_api::rest::{Capabilities, Role, SourceBytes, Task, TaskList, TaskState};
use floodway_api::sync::{AgentState, Ask, Grant, TaskReport};
use floodway_proto::genesis::Genesis;
use floodway_proto::metainfo::Metainfo;
use serde_json::json;

use crate::client::{ORIGIN, Object, PIECE, Server, content, leased, probe, relay_all};

#[tokio::test]
async fn a_task_becomes_a_torrent() {
    let server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    let task = server.publish("disk.img", Some("all")).await;
    assert_eq!((task.state, task.agents.len()), (TaskState::Running, 1));
    assert_eq!(task.agents[0].state, AgentState::Offered);
    let id = task.task.unwrap();
    let offered = agent.sync(&server).await;
    assert_eq!(
        (offered.tasks[0].task.as_str(), offered.tasks[0].sid),
        (id.as_str(), None)
    );

    assert_eq!(
        relay.sync(&server).await.relay_tasks[0].content,
        None,
        "to be probed"
    );
    let object = Object::new(5 * PIECE + 77);
    let reply = relay
        .probed(&server, &task.relay_task, probe(5 * PIECE + 77))
        .await;
    let order = content(&reply);
    let genesis = Genesis::decode(&order.genesis.0).unwrap();
    assert_eq!(
        (genesis.sid(), genesis.name.as_str()),
        (order.sid, "disk.img")
    );
    assert!(order.ranges && !order.is_final && !leased(&order).is_empty());
    let path = format!("/api/v1/s/{}/torrent", order.sid);
    let early = server.get(&path, &agent.token).await;
    assert_eq!(early.refusal(), (404, "not_final".into(), None));
    assert!(early.head.contains("retry-after: 1"), "{}", early.head);

    let sid = relay_all(&server, &mut relay, &task.relay_task, &object).await;
    let done = agent
        .until(&server, |reply| reply.contents.iter().any(|c| c.is_final))
        .await;
    assert_eq!(done.tasks[0].sid, Some(sid));
    assert_eq!(done.contents[0].peers[0].node, Some(relay.id));
    let source = &done.contents[0].relays[0];
    assert_eq!(
        source.url,
        format!("{}/api/v1/s/{sid}/data", relay.state.http.as_ref().unwrap())
    );
    assert!(done.capability_key.is_none(), "the key is for relays");

    let torrent = server.get(&path, &agent.token).await;
    assert!(
        torrent.head.contains("application/x-bittorrent"),
        "{}",
        torrent.head
    );
    let torrent = Metainfo::decode(&torrent.body).unwrap();
    let all: Vec<u32> = (0..6).collect();
    let sha1s: Vec<_> = object.pieces(&all).iter().map(|piece| piece.sha1).collect();
    assert_eq!(torrent.info.pieces[..], sha1s[..]);
    assert_eq!(
        (torrent.info.length, torrent.info.private),
        (5 * PIECE + 77, true)
    );
    assert!(torrent.trackers[0][0].starts_with(&format!("http://{}/announce/", server.addr)));
    assert_eq!(torrent.web_seeds.len(), 1);
    assert!(
        torrent.web_seeds[0].ends_with("/disk.img") && torrent.web_seeds[0].contains("/api/v1/w/")
    );
    let whole = String::from_utf8_lossy(&torrent.encode()).into_owned();
    assert!(
        !whole.contains("origin.example"),
        "the torrent names the origin"
    );

    agent.holds(sid, true);
    let verified = TaskReport {
        task: id.clone(),
        state: AgentState::Verified,
        reason: Some("torrent".into()),
        bytes: 5 * PIECE + 77,
        sources: SourceBytes::default(),
    };
    agent.state.tasks = vec![verified];
    agent.sync(&server).await;
    let task = server.task(&id).await;
    assert_eq!(
        (task.state, task.agents[0].bytes),
        (TaskState::Done, 5 * PIECE + 77)
    );
    assert_eq!(
        task.torrent.unwrap(),
        format!("http://{}{path}", server.addr)
    );
}

#[tokio::test]
async fn a_capability_is_for_operators_and_for_whoever_wants_the_content() {
    let server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut relay, &task.relay_task, &Object::new(1000)).await;
    let path = format!("/api/v1/s/{sid}/capability");
    let (minute, admin) = (json!({"seconds": 60}), server.admin());
    let urls: Capabilities = server.post(&path, &admin, &minute).await.ok();
    assert!(
        urls.urls[0].starts_with("http://10.0.0.") && urls.urls[0].ends_with("/disk.img"),
        "{urls:?}"
    );
    assert_eq!(server.post(&path, &agent.token, &minute).await.status, 403);
    agent.holds(sid, false);
    agent.sync(&server).await;
    assert_eq!(server.post(&path, &agent.token, &minute).await.status, 200);
    assert_eq!(
        server
            .post(&path, &agent.token, &json!({"seconds": 864_000}))
            .await
            .refusal()
            .2
            .as_deref(),
        Some("seconds")
    );
    assert_eq!(
        server
            .post(&path, &admin, &json!({"seconds": 0}))
            .await
            .status,
        400
    );
    let unknown = format!("/api/v1/s/{}/capability", "ab".repeat(32));
    assert_eq!(server.post(&unknown, &admin, &minute).await.status, 404);
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let mut server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    let first = server.publish("one.img", None).await;
    let finished = relay_all(
        &server,
        &mut relay,
        &first.relay_task,
        &Object::new(3 * PIECE),
    )
    .await;
    let admin = server.admin();
    let torrent = server
        .get(&format!("/api/v1/s/{finished}/torrent"), &admin)
        .await
        .body;

    let task = server.publish("two.img", Some("all")).await;
    let object = Object::new(40 * PIECE);
    let second = |reply: &floodway_api::sync::SyncReply| {
        let order = reply
            .relay_tasks
            .iter()
            .find(|order| order.relay_task == task.relay_task);
        order.unwrap().content.clone()
    };
    relay.sync(&server).await;
    let reply = relay
        .probed(&server, &task.relay_task, probe(40 * PIECE))
        .await;
    let order = second(&reply).unwrap();
    let mut reported = leased(&order);
    let kept = reported.split_off(5);
    relay
        .report(
            &server,
            &task.relay_task,
            order.sid,
            object.pieces(&reported),
        )
        .await;
    agent.state.tasks = vec![TaskReport {
        task: task.task.clone().unwrap(),
        state: AgentState::Downloading,
        reason: None,
        bytes: 1,
        sources: SourceBytes::default(),
    }];
    agent.sync(&server).await;

    server.kill_and_restart().await;
    assert_eq!(server.admin(), admin);
    let after = server
        .get(&format!("/api/v1/s/{finished}/torrent"), &admin)
        .await;
    let (before, after) = (
        Metainfo::decode(&torrent).unwrap(),
        Metainfo::decode(&after.body).unwrap(),
    );
    assert_eq!(before.info_hash, after.info_hash);
    assert_eq!(
        before.trackers[0][0].rsplit('/').next(),
        after.trackers[0][0].rsplit('/').next()
    );
    assert_eq!(
        server.task(task.task.as_ref().unwrap()).await.agents[0].state,
        AgentState::Downloading
    );
    assert_eq!(server.task(&first.relay_task).await.state, TaskState::Final);

    // The relay did not notice; it reports what it was leased before, and goes on with the same content.
    let reply = relay
        .report(&server, &task.relay_task, order.sid, object.pieces(&kept))
        .await;
    let again = second(&reply).unwrap();
    assert_eq!(again.sid, order.sid);
    let left = leased(&again);
    assert!(
        reported
            .iter()
            .chain(&kept)
            .all(|piece| !left.contains(piece)),
        "{left:?}"
    );
    let mut reply = reply;
    while !second(&reply).unwrap().is_final {
        let pieces = object.pieces(&leased(&second(&reply).unwrap()));
        reply = relay
            .report(&server, &task.relay_task, order.sid, pieces)
            .await;
    }
    let list: TaskList = server.get("/api/v1/tasks", &admin).await.ok();
    assert_eq!(list.tasks.len(), 2);
    assert_eq!(list.tasks[0].task, task.task, "newest first");
}

#[tokio::test]
async fn a_live_content_is_used_again_and_a_cancelled_one_is_not() {
    let server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    let one = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut relay, &one.relay_task, &Object::new(10)).await;
    let two = server.publish("disk.img", Some("all")).await;
    assert_eq!((&two.relay_task, two.sid), (&one.relay_task, Some(sid)));
    let id = two.task.unwrap();

    agent.until(&server, |reply| !reply.tasks.is_empty()).await;
    let cancelled: Task = server
        .post(
            &format!("/api/v1/tasks/{id}/cancel"),
            &server.admin(),
            &json!({}),
        )
        .await
        .ok();
    assert_eq!(
        (cancelled.state, cancelled.agents[0].state),
        (TaskState::Cancelled, AgentState::Cancelled)
    );
    agent.until(&server, |reply| reply.tasks.is_empty()).await;
    assert_eq!(
        server.task(&one.relay_task).await.state,
        TaskState::Final,
        "the content stays"
    );

    let path = format!("/api/v1/tasks/{}/cancel", one.relay_task);
    assert_eq!(
        server
            .post(&path, &server.admin(), &json!({}))
            .await
            .ok::<Task>()
            .state,
        TaskState::Cancelled
    );
    let dropped = relay
        .until(&server, |reply| reply.relay_tasks.is_empty())
        .await;
    assert_eq!(dropped.contents, [], "nobody shall hold it any more");
    assert_eq!(
        server
            .get(&format!("/api/v1/s/{sid}/torrent"), &server.admin())
            .await
            .status,
        404
    );
    let three = server.publish("disk.img", None).await;
    assert_ne!(three.relay_task, one.relay_task);
    let again = relay_all(&server, &mut relay, &three.relay_task, &Object::new(10)).await;
    assert_ne!(again, sid, "a new attempt is a new swarm");
}

#[tokio::test]
async fn cancelling_the_last_user_of_an_unfinished_content_stops_the_origin_too() {
    let server = Server::start();
    let mut relay = server.enrol(Role::Relay).await;
    server.enrol(Role::Agent).await;
    let (one, two) = (
        server.publish("disk.img", Some("all")).await,
        server.publish("disk.img", Some("all")).await,
    );
    assert_eq!(one.relay_task, two.relay_task);
    relay
        .probed(&server, &one.relay_task, probe(9 * PIECE))
        .await;
    for (task, orders) in [(&one, 1), (&two, 0)] {
        let path = format!("/api/v1/tasks/{}/cancel", task.task.as_ref().unwrap());
        server
            .post(&path, &server.admin(), &json!({}))
            .await
            .ok::<Task>();
        assert_eq!(relay.sync(&server).await.relay_tasks.len(), orders);
    }
    assert_eq!(
        server
            .post("/api/v1/tasks/t0/cancel", &server.admin(), &json!({}))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn empty_objects_are_final_at_once() {
    let server = Server::start();
    let mut relay = server.enrol(Role::Relay).await;
    let empty = server.publish("empty", None).await;
    let reply = relay.probed(&server, &empty.relay_task, probe(0)).await;
    assert!(content(&reply).is_final);
    let sid = server.task(&empty.relay_task).await.sid.unwrap();
    let torrent = server
        .get(&format!("/api/v1/s/{sid}/torrent"), &server.admin())
        .await;
    assert_eq!(Metainfo::decode(&torrent.body).unwrap().info.length, 0);
}

#[tokio::test]
async fn a_download_by_url_makes_its_own_relay_task() {
    let server = Server::start();
    let mut get = server.enrol(Role::Agent).await;
    let url = format!("{ORIGIN}/disk.img");
    let (open, ticket) = (
        Ask::Open { url: url.clone() },
        Ask::Ticket {
            sid: None,
            url: url.clone(),
        },
    );
    get.state.asks = vec![
        open.clone(),
        ticket.clone(),
        Ask::Open {
            url: "http://evil.example/".into(),
        },
    ];
    let reply = get.sync(&server).await;
    assert!(
        matches!(
            &reply.grants[0],
            Grant::Content {
                sid: None,
                failed: None,
                ..
            }
        ),
        "{reply:?}"
    );
    assert!(
        matches!(&reply.grants[1], Grant::Ticket { .. }),
        "no relay is live: {reply:?}"
    );
    assert!(
        matches!(&reply.grants[2], Grant::Refused { code, retry_ms: None, .. } if code == "not_allowed")
    );

    let mut relay = server.enrol(Role::Relay).await;
    let relay_task = relay.sync(&server).await.relay_tasks[0].relay_task.clone();
    let refused = get.sync(&server).await;
    assert!(
        matches!(&refused.grants[1], Grant::Refused { code, retry_ms: Some(_), .. } if code == "relay_live")
    );
    let sid = relay_all(&server, &mut relay, &relay_task, &Object::new(99)).await;
    get.state.asks = vec![open];
    let reply = get.sync(&server).await;
    assert!(matches!(&reply.grants[0], Grant::Content { sid: Some(known), .. } if *known == sid));
    assert!(reply.contents[0].is_final && reply.contents[0].relay_live);
    get.state.asks = vec![
        Ask::Join { sid },
        Ask::Join {
            sid: floodway_proto::Sid([1; 32]),
        },
    ];
    let reply = get.sync(&server).await;
    assert!(matches!(&reply.grants[0], Grant::Content { url: own, .. } if *own == url));
    assert!(matches!(&reply.grants[1], Grant::Refused { code, .. } if code == "not_found"));
}

#[tokio::test]
async fn metrics_and_health_tell_what_is() {
    let server = Server::start();
    server.enrol(Role::Relay).await.sync(&server).await;
    server.publish("disk.img", None).await;
    let metrics = server.get("/metrics", "").await.text();
    for line in [
        "floodway_control_nodes_live{role=\"relay\"} 1",
        "floodway_control_tasks{kind=\"relay\",state=\"probing\"} 1",
        "floodway_control_syncs_total 1",
        "floodway_control_database_errors_total 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is missing in\n{metrics}"
        );
    }
    assert_eq!(server.get("/healthz", "").await.status, 200);
    assert_eq!(server.get("/readyz", "").await.status, 200);
}
