//! A relay that an audit found wrong is trusted again by an operator.

use std::time::Duration;

use floodway_api::rest::{NodeList, NodeView, Role, TaskState};
use floodway_api::sync::RelayOrder;
use floodway_control::Settings;
use floodway_proto::Sid;
use floodway_proto::units::Span;
use serde_json::json;

use crate::audits::{all, asked, audited, auditor, begun, distrusted, finish};
use crate::client::{Node, Object, Server, lie};

/// A relay (the second) accused the first of a lie, wrongly, as a third said; the first has pieces to report still.
struct Scene {
    server: Server,
    one: Node,
    accuser: Node,
    third: Node,
    task: String,
    sid: Sid,
    object: Object,
}

impl Scene {
    async fn new() -> Self {
        Self::with(all).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let server = Server::with(change);
        let (mut one, task, sid, object) = begun(&server, 8).await;
        let mut accuser = auditor(&server).await;
        one.report(&server, &task, sid, object.pieces(&[0])).await;
        assert_eq!(asked(&accuser.sync(&server).await), [0]);
        let mut third = auditor(&server).await;
        audited(&server, &mut accuser, &task, sid, vec![lie(0)], vec![]).await;
        assert_eq!(asked(&third.sync(&server).await), [0]);
        audited(&server, &mut third, &task, sid, object.pieces(&[0]), vec![]).await;
        assert_eq!(distrusted(&server).await, [accuser.id]);
        Self {
            server,
            one,
            accuser,
            third,
            task,
            sid,
            object,
        }
    }

    async fn trust(&self, node: &str) -> NodeView {
        let path = format!("/api/v1/nodes/{node}/trust");
        let (admin, nothing) = (self.server.admin(), json!({}));
        self.server.post(&path, &admin, &nothing).await.ok()
    }
}

#[tokio::test]
async fn a_relay_that_is_trusted_again_works_and_is_heard_also_after_a_restart() {
    let mut scene = Scene::new().await;
    let admin = scene.server.admin();
    let list: NodeList = scene.server.get("/api/v1/nodes", &admin).await.ok();
    let listed = list.nodes.iter().find(|node| node.node == scene.accuser.id);
    let listed = listed.unwrap();
    assert!(listed.distrusted.as_ref().unwrap().contains("piece 0"));
    assert!(listed.distrusted_us.unwrap() > 1_700_000_000_000_000);
    let reply = scene.accuser.sync(&scene.server).await;
    assert!(reply.relay_tasks.is_empty(), "no work before: {reply:#?}");

    let id = scene.accuser.id.to_string();
    for _ in 0..2 {
        let view = scene.trust(&id).await;
        assert_eq!((view.distrusted, view.distrusted_us), (None, None));
    }
    scene.server.kill_and_restart().await;
    assert!(distrusted(&scene.server).await.is_empty(), "for good");
    for relay in [&mut scene.one, &mut scene.accuser, &mut scene.third] {
        relay.sync(&scene.server).await;
    }
    let (server, task, object) = (&scene.server, &scene.task, &scene.object);
    (scene
        .one
        .report(server, task, scene.sid, object.pieces(&[1])))
    .await;
    // It is asked again sooner or later, as one of two; and what it found of piece 0 is not held against it once more.
    let mut relays = [scene.one, scene.accuser, scene.third];
    let done = finish(server, &mut relays, task, object).await;
    assert_eq!((done.state, done.sid), (TaskState::Final, Some(scene.sid)));
    assert!(distrusted(server).await.is_empty());
    let growth = done.growth.unwrap();
    assert_eq!(growth.audits.unwrap().different, 0, "{growth:#?}");
    assert!(growth.relays.iter().all(|relay| !relay.distrusted));
}

#[tokio::test]
async fn only_operators_trust_and_only_who_is_known_by_one_name() {
    let scene = Scene::new().await;
    let (server, id) = (&scene.server, scene.accuser.id);
    let path = format!("/api/v1/nodes/{id}/trust");
    let join = server.secret("join.token");
    for (token, status) in [("", 401), (&scene.accuser.token, 403), (&join, 403)] {
        let refused = server.post(&path, token, &json!({})).await.refusal();
        assert_eq!(refused.0, status);
    }
    assert_eq!(distrusted(server).await, [id]);
    let admin = server.admin();
    // All nodes of these tests have one name.
    let nothing = json!({});
    let refused = server.post("/api/v1/nodes/a%20node/trust", &admin, &nothing);
    assert_eq!(
        refused.await.refusal(),
        (400, "bad_request".into(), Some("node".into()))
    );
    let refused = server.post("/api/v1/nodes/nobody/trust", &admin, &nothing);
    assert_eq!(refused.await.refusal().0, 404);
    let named = json!({"role": Role::Relay, "name": "branch"});
    let enrolled = server.post("/api/v1/enrol", &join, &named).await;
    assert_eq!(enrolled.status, 201);
    assert_eq!(scene.trust("branch").await.name, "branch");
    scene.trust(&id.to_string()).await;
    assert!(distrusted(server).await.is_empty());
}

#[tokio::test]
async fn a_task_fails_at_once_when_nobody_is_there_who_is_trusted() {
    let mut scene = Scene::with(|settings| {
        // So that those who leave are not awaited for long.
        settings.advanced.node_timeout = Span(Duration::from_secs(2));
        all(settings);
    })
    .await;
    for relay in [&mut scene.one, &mut scene.third] {
        relay.state.leaving = true;
        relay.sync(&scene.server).await;
    }
    let (server, accuser) = (&scene.server, &mut scene.accuser);
    let task = server.publish("other.img", None).await;
    assert_eq!(task.state, TaskState::Pending, "they may come back");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    let failed = loop {
        let task = server.task(&task.relay_task).await;
        if task.state == TaskState::Failed {
            break task;
        }
        assert!(tokio::time::Instant::now() < deadline, "{task:#?}");
        accuser.wait(server, 200).await;
    };
    let reason = failed.reason.unwrap();
    assert!(reason.contains("is not trusted any more"), "{reason}");
    assert!(accuser.sync(server).await.relay_tasks.is_empty());
    let task = server.publish("other.img", None).await;
    assert_eq!(task.state, TaskState::Failed, "at once: {task:#?}");

    let path = format!("/api/v1/nodes/{}/trust", accuser.id);
    let trusted = server.post(&path, &server.admin(), &json!({})).await;
    assert_eq!(trusted.status, 200);
    let task = server.publish("other.img", None).await;
    assert_ne!(task.state, TaskState::Failed, "{task:#?}");
    let orders = accuser.sync(server).await.relay_tasks;
    let given = |order: &RelayOrder| order.relay_task == task.relay_task;
    assert!(orders.iter().any(given), "{orders:#?}");
}
