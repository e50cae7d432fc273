//! Relays that feed from other relays.

use std::time::Duration;

use floodway_api::rest::{Enrolled, Role, TaskState};
use floodway_api::sync::{Ask, Grant, RelayFailure, RelayFailureKind, RelayReport, SyncReply};
use floodway_control::Settings;
use floodway_proto::Sid;
use floodway_proto::units::Span;
use serde_json::json;

use crate::client::{Node, ORIGIN, Object, PIECE, Server, content, leased, probe, relay_all};

/// A node with a name of its own, at this site.
pub(crate) async fn named(server: &Server, role: Role, name: &str, site: &str) -> Node {
    let wanted = json!({ "role": role, "labels": { "site": site } });
    let made = server
        .post("/api/v1/tokens", &server.admin(), &wanted)
        .await;
    let made: serde_json::Value = made.ok();
    let body = json!({ "role": role, "name": name });
    let token = made["token"].as_str().unwrap();
    let enrolled: Enrolled = server.post("/api/v1/enrol", token, &body).await.ok();
    Node::new(enrolled)
}

fn feeds_from(node: &mut Node, names: &[&str]) {
    node.state.feeds_from = names.iter().map(ToString::to_string).collect();
}

/// Relay `one` reads the origin, `two` feeds from it at site `b`, and `other` has nothing to do with them.
struct Levels {
    server: Server,
    one: Node,
    two: Node,
    other: Node,
}

impl Levels {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let server = Server::with(change);
        let one = named(&server, Role::Relay, "one", "a").await;
        let mut two = named(&server, Role::Relay, "two", "b").await;
        let other = named(&server, Role::Relay, "other", "c").await;
        feeds_from(&mut two, &["one"]);
        Self {
            server,
            one,
            two,
            other,
        }
    }
}

#[tokio::test]
async fn who_feeds_from_another_relay_gets_no_work_at_the_origin() {
    let Levels {
        server,
        mut one,
        mut two,
        ..
    } = Levels::start().await;
    let task = server.publish("disk.img", None).await;
    let reply = two.sync(&server).await;
    assert_eq!(reply.relay_tasks, [], "nothing to probe");
    assert_eq!(reply.absent_upstreams, ["one"]);
    let order = one.sync(&server).await;
    assert_eq!(order.relay_tasks[0].content, None, "it probes");
    let order = one
        .probed(&server, &task.relay_task, probe(64 * PIECE))
        .await;
    assert_eq!(
        leased(&content(&order)).len(),
        64,
        "nothing is left for a relay that feeds from it"
    );
    one.holds(content(&order).sid, false);
    one.sync(&server).await;
    let reply = two.sync(&server).await;
    assert!(leased(&content(&reply)).is_empty());
    assert!(reply.absent_upstreams.is_empty());
    let pieces = Object::new(64 * PIECE).pieces(&[3]);
    let reply = two
        .report(&server, &task.relay_task, content(&reply).sid, pieces)
        .await;
    assert_eq!(reply.refused[0].code, "not_leased");
    // Nobody else can read what its upstream did.
    one.state.leaving = true;
    one.sync(&server).await;
    let reply = two.sync(&server).await;
    assert!(leased(&content(&reply)).is_empty());
    assert_eq!(reply.absent_upstreams, ["one"]);
}

#[tokio::test]
async fn who_feeds_from_a_relay_is_told_of_that_one_and_of_its_own_site() {
    let Levels {
        server,
        mut one,
        mut two,
        mut other,
    } = Levels::start().await;
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut one, &task.relay_task, &Object::new(8 * PIECE)).await;
    other.holds(sid, true);
    other.sync(&server).await;
    let mut near = named(&server, Role::Agent, "near", "b").await;
    let mut far = named(&server, Role::Agent, "far", "c").await;
    for agent in [&mut near, &mut far] {
        agent.holds(sid, false);
        agent.sync(&server).await;
    }
    two.holds(sid, false);
    let info = two.sync(&server).await.contents.remove(0);
    let peers: Vec<_> = info.peers.iter().map(|peer| peer.node.unwrap()).collect();
    assert_eq!(peers, [one.id, near.id]);
    let relays = |info: &floodway_api::sync::ContentInfo| {
        let mut relays: Vec<_> = info.relays.iter().map(|relay| relay.node).collect();
        relays.sort_unstable();
        relays
    };
    assert_eq!(relays(&info), [one.id]);
    // Its site reads of it and of no other relay; elsewhere all are good.
    assert_eq!(relays(&near.sync(&server).await.contents[0]), [two.id]);
    let mut all = [one.id, two.id, other.id];
    all.sort_unstable();
    assert_eq!(relays(&far.sync(&server).await.contents[0]), all);
    // When its disk is full, it is no help to its site.
    let report = two.state.contents.iter_mut().find(|of| of.sid == sid);
    report.unwrap().paused = Some("the disk is full".into());
    two.sync(&server).await;
    let left = relays(&near.sync(&server).await.contents[0]);
    assert!(left.contains(&one.id), "{left:?}");
    two.holds(sid, false);
    two.sync(&server).await;
    assert_eq!(relays(&near.sync(&server).await.contents[0]), [two.id]);
    // Cut off, it is no help to its site.
    one.state.leaving = true;
    one.sync(&server).await;
    let left = relays(&near.sync(&server).await.contents[0]);
    assert!(left.contains(&other.id), "{left:?}");
    // But not when it has everything, whatever else it waits for.
    two.holds(sid, true);
    two.holds(Sid([7; 32]), false);
    two.sync(&server).await;
    assert_eq!(relays(&near.sync(&server).await.contents[0]), [two.id]);
}

#[tokio::test]
async fn a_relay_that_waits_for_its_upstream_keeps_nobody_from_the_origin() {
    let Levels {
        server,
        mut one,
        mut two,
        ..
    } = Levels::with(|settings| {
        // So that who leaves is not awaited for long.
        settings.advanced.node_timeout = Span(Duration::from_secs(2));
    })
    .await;
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut one, &task.relay_task, &Object::new(8 * PIECE)).await;
    two.holds(sid, false);
    two.sync(&server).await;
    one.state.leaving = true;
    one.sync(&server).await;
    let mut agent = server.enrol(Role::Agent).await;
    let url = format!("{ORIGIN}/disk.img");
    agent.state.asks = vec![Ask::Ticket {
        sid: Some(sid),
        url,
    }];
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    loop {
        two.sync(&server).await;
        let reply = agent.sync(&server).await;
        if matches!(&reply.grants[0], Grant::Ticket { .. }) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{reply:?}");
        agent.wait(&server, 200).await;
    }
    two.holds(sid, true);
    two.sync(&server).await;
    let reply = agent.sync(&server).await;
    assert!(
        matches!(&reply.grants[0], Grant::Refused { code, .. } if code == "relay_live"),
        "{reply:?}"
    );
}

/// The relay gives the content up.
async fn fails(node: &mut Node, server: &Server, relay_task: &str, sid: Sid) {
    let failure = RelayFailure {
        kind: RelayFailureKind::Local,
        message: "the disk is broken".into(),
    };
    node.state.relay_tasks = vec![RelayReport {
        end: None,
        relay_task: relay_task.into(),
        sid: Some(sid),
        probe: None,
        pieces: Vec::new(),
        audited: Vec::new(),
        held: Vec::new(),
        unread: Vec::new(),
        failure: Some(failure),
    }];
    node.sync(server).await;
}

#[tokio::test]
async fn a_relay_that_gave_a_content_up_is_no_help_to_its_site() {
    let Levels {
        server,
        mut one,
        mut two,
        ..
    } = Levels::start().await;
    one.sync(&server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let reply = one.probed(&server, &task, probe(8 * PIECE)).await;
    let sid = content(&reply).sid;
    let mut near = named(&server, Role::Agent, "near", "b").await;
    for node in [&mut one, &mut two, &mut near] {
        node.holds(sid, false);
        node.sync(&server).await;
    }
    let told = |reply: &SyncReply| -> Vec<_> {
        let relays = reply.contents.iter().flat_map(|info| &info.relays);
        relays.map(|relay| relay.node).collect()
    };
    assert_eq!(told(&near.sync(&server).await), [two.id]);
    fails(&mut two, &server, &task, sid).await;
    let reply = near.until(&server, |reply| told(reply).len() == 2).await;
    assert!(told(&reply).contains(&one.id));
}

#[tokio::test]
async fn a_task_fails_when_the_last_that_could_read_the_origin_feeds_from_others() {
    for comes_back in [true, false] {
        // No relay but these two: all that are enrolled are awaited after a start.
        let mut server = Server::start();
        let mut one = named(&server, Role::Relay, "one", "a").await;
        let mut two = named(&server, Role::Relay, "two", "b").await;
        one.sync(&server).await;
        let task = server.publish("disk.img", None).await.relay_task;
        let reply = one.probed(&server, &task, probe(8 * PIECE)).await;
        let sid = content(&reply).sid;
        two.sync(&server).await;
        if comes_back {
            server.kill_and_restart().await;
        }
        fails(&mut one, &server, &task, sid).await;
        assert_eq!(server.task(&task).await.state, TaskState::Relaying);
        feeds_from(&mut two, &["one"]);
        two.sync(&server).await;
        assert_eq!(server.task(&task).await.state, TaskState::Failed);
    }
}

#[tokio::test]
async fn nobody_feeds_from_itself() {
    let Levels {
        server,
        mut one,
        mut two,
        mut other,
    } = Levels::start().await;
    let refused = async |node: &Node| {
        let answer = server.post("/api/v1/sync", &node.token, &node.state).await;
        let (status, _, field) = answer.refusal();
        assert_eq!((status, field.as_deref()), (400, Some("feeds_from")));
        answer.text()
    };
    for own in ["one".to_owned(), one.id.to_string()] {
        feeds_from(&mut one, &[&own]);
        assert!(refused(&one).await.contains("feed from itself"));
    }
    // In a circle of three.
    two.sync(&server).await;
    feeds_from(&mut other, &["two"]);
    other.sync(&server).await;
    feeds_from(&mut one, &["other"]);
    let said = refused(&one).await;
    assert!(
        said.contains("in a circle") && said.contains("`two`"),
        "{said}"
    );
    feeds_from(&mut one, &[]);
    one.sync(&server).await;

    let mut agent = server.enrol(Role::Agent).await;
    feeds_from(&mut agent, &["one"]);
    assert!(refused(&agent).await.contains("only relays"));
    let many: Vec<_> = (0..17).map(|number| number.to_string()).collect();
    feeds_from(
        &mut one,
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert!(refused(&one).await.contains("at most 16"));
}
