//! Control was killed, and an agent is back before the relays are.

use floodway_api::rest::{Role, TaskState};
use floodway_api::sync::{Ask, Grant, RelayFailure, RelayFailureKind, RelayReport, SyncReply};
use floodway_proto::Sid;

use crate::client::{Node, ORIGIN, PIECE, Server, content, hasty, probe};

/// A relay that is fetching an object, and an agent that asks whether it may read it from the origin.
struct Scene {
    server: Server,
    relay: Node,
    agent: Node,
    relay_task: String,
    sid: Sid,
}

impl Scene {
    async fn new(server: Server) -> Self {
        let mut relay = server.enrol(Role::Relay).await;
        let mut agent = server.enrol(Role::Agent).await;
        relay.sync(&server).await;
        let relay_task = server.publish("disk.img", Some("all")).await.relay_task;
        let reply = relay.probed(&server, &relay_task, probe(64 * PIECE)).await;
        let sid = content(&reply).sid;
        relay.holds(sid, false);
        relay.sync(&server).await;
        agent.holds(sid, false);
        let url = |name: &str| format!("{ORIGIN}/{name}");
        agent.state.asks = vec![
            Ask::Ticket {
                sid: Some(sid),
                url: url("disk.img"),
            },
            // One that control has never heard of.
            Ask::Ticket {
                sid: None,
                url: url("other.img"),
            },
        ];
        Self {
            server,
            relay,
            agent,
            relay_task,
            sid,
        }
    }

    /// True when the agent hears that a relay is or may be there, false when that none is, for both of its asks.
    fn may_be_relayed(&self, reply: &SyncReply) -> bool {
        let info = reply.contents.iter().find(|info| info.sid == self.sid);
        let told = info.expect("the content it holds").relay_live;
        for grant in &reply.grants {
            let refused = matches!(grant, Grant::Refused { code, retry_ms: Some(_), .. } if code == "relay_live");
            let granted = matches!(grant, Grant::Ticket { .. });
            assert!(refused || granted, "{reply:#?}");
            assert_eq!(refused, told, "{reply:#?}");
        }
        assert_eq!(reply.grants.len(), 2);
        told
    }

    /// The agent is told that no relay is there any more.
    async fn await_gone(&mut self) {
        let (sid, server) = (self.sid, &self.server);
        let gone = |reply: &SyncReply| {
            let info = reply.contents.iter().find(|info| info.sid == sid);
            info.is_some_and(|info| !info.relay_live)
        };
        let reply = self.agent.until(server, gone).await;
        assert!(!self.may_be_relayed(&reply));
    }

    async fn asks(&mut self) -> bool {
        let reply = self.agent.sync(&self.server).await;
        self.may_be_relayed(&reply)
    }
}

#[tokio::test]
async fn an_agent_that_is_back_before_the_relay_may_not_read_the_origin() {
    let mut scene = Scene::new(Server::start()).await;
    assert!(scene.asks().await, "a relay is live");
    scene.server.kill_and_restart().await;
    assert!(scene.asks().await, "it may come back");
    let order = content(&scene.relay.sync(&scene.server).await);
    assert_eq!(order.sid, scene.sid);
    assert!(scene.asks().await, "it is back");
}

/// The relay alone is restarted, or it stops just before control does.
#[tokio::test]
async fn a_relay_that_stops_in_order_may_come_back_as_one_that_was_killed() {
    let mut scene = Scene::new(Server::start()).await;
    scene.relay.state.leaving = true;
    scene.relay.sync(&scene.server).await;
    assert!(scene.asks().await, "it may come back");
    scene.server.kill_and_restart().await;
    assert!(scene.asks().await, "and still may");
    scene.relay.state.leaving = false;
    let order = content(&scene.relay.sync(&scene.server).await);
    assert_eq!(order.sid, scene.sid);
    assert!(scene.asks().await, "it is back");
}

#[tokio::test]
async fn a_relay_that_stopped_in_order_is_awaited_for_a_while_only() {
    let mut scene = Scene::new(Server::with(hasty)).await;
    scene.relay.state.leaving = true;
    scene.relay.sync(&scene.server).await;
    scene.await_gone().await;
}

#[tokio::test]
async fn a_relay_that_does_not_come_back_is_given_up_and_agents_are_told() {
    let mut scene = Scene::new(Server::with(hasty)).await;
    scene.server.kill_and_restart().await;
    scene.await_gone().await;
}

#[tokio::test]
async fn a_task_does_not_fail_before_other_relays_had_time_to_come_back() {
    let mut scene = Scene::new(Server::start()).await;
    let mut other = scene.server.enrol(Role::Relay).await;
    other.sync(&scene.server).await;
    scene.server.kill_and_restart().await;
    let (relay_task, sid) = (scene.relay_task.clone(), scene.sid);
    let fail = |node: &mut Node| {
        node.state.relay_tasks = vec![RelayReport {
            end: None,
            relay_task: relay_task.clone(),
            sid: Some(sid),
            probe: None,
            pieces: Vec::new(),
            audited: Vec::new(),
            held: Vec::new(),
            unread: Vec::new(),
            failure: Some(RelayFailure {
                kind: RelayFailureKind::Local,
                message: "the disk is full".into(),
            }),
        }];
    };
    fail(&mut other);
    other.sync(&scene.server).await;
    let task = scene.server.task(&scene.relay_task).await;
    assert_eq!(task.state, TaskState::Relaying, "{:?}", task.reason);
    assert!(scene.asks().await, "the one that fetched it may come back");
    fail(&mut scene.relay);
    scene.relay.sync(&scene.server).await;
    let task = scene.server.task(&scene.relay_task).await;
    assert_eq!(task.state, TaskState::Failed);
}
