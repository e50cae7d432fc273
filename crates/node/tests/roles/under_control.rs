//! Relay, agent and `get` under a scripted control: who reads the origin, what is left, what survives a restart.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Origin, loopback, random, spec};
use crate::control::{Control, Script, TASK};
use floodway_api::sync::{AgentState, OfflineOrigin};
use floodway_node::agent::{self, AgentSettings};
use floodway_node::get::{self, ControlAccess, GetSpec};
use floodway_node::relay::{self, HttpSide, RelaySettings};
use floodway_node::{NodeSettings, Ready, RoleError, VerifiedBy};
use floodway_swarm::Limits;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const LENGTH: usize = 5 * 1024 * 1024 + 17;

/// A role that runs in this process.
struct Role {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RoleError>>,
    ready: Ready,
}

impl Role {
    async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.unwrap().unwrap();
    }
}

fn node(control: &Control, data: &Path, token: &str) -> NodeSettings {
    NodeSettings {
        data: data.to_owned(),
        control: control.address.clone(),
        token: Some(token.to_owned()),
        name: None,
        listen: loopback(),
        advertise: None,
        limits: Limits::default(),
        peers_max: 20,
    }
}

async fn relay(control: &Control, data: &Path) -> Role {
    let ((stop, stopped), (ready, is_ready)) = (oneshot::channel::<()>(), oneshot::channel());
    let settings = RelaySettings {
        node: node(control, data, "join"),
        http: HttpSide::Own(loopback()),
        feeds_from: Vec::new(),
        serve_after_complete: false,
    };
    let task = tokio::spawn(relay::run(settings, async { drop(stopped.await) }, |at| {
        ready.send(at).unwrap();
    }));
    Role {
        stop: Some(stop),
        task,
        ready: is_ready.await.unwrap(),
    }
}

async fn agent(control: &Control, data: &Path) -> Role {
    let ((stop, stopped), (ready, is_ready)) = (oneshot::channel::<()>(), oneshot::channel());
    let settings = AgentSettings {
        node: node(control, data, "join"),
        dir: None,
        http: loopback(),
    };
    let task = tokio::spawn(agent::run(settings, async { drop(stopped.await) }, |at| {
        ready.send(at).unwrap();
    }));
    Role {
        stop: Some(stop),
        task,
        ready: is_ready.await.unwrap(),
    }
}

struct Site {
    bytes: Vec<u8>,
    origin: Origin,
    control: Control,
    folder: tempfile::TempDir,
}

async fn site(script: Script) -> Site {
    let bytes = random(LENGTH, 8);
    let origin = Origin::good(&bytes).await;
    let control = Control::start(Script {
        url: origin.url.clone(),
        ..script
    })
    .await;
    Site {
        bytes,
        origin,
        control,
        folder: tempfile::tempdir().unwrap(),
    }
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the relay serves the whole.
    async fn relayed(&self) {
        self.control
            .until("the relay is complete", |said| {
                let contents = &said.relay.as_ref()?.contents;
                contents
                    .iter()
                    .any(|content| content.complete && content.final_ok)
                    .then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_from_origin_to_relay_to_agents_and_a_cancelled_task_ends() {
    let site = site(Script {
        relay_task: true,
        ..Script::default()
    })
    .await;
    let relay = relay(&site.control, &site.path("relay")).await;
    site.relayed().await;
    assert_eq!(
        site.origin.sent(),
        LENGTH as u64,
        "one copy leaves the origin"
    );
    site.control.script(|script| script.agent_task = true);
    let agent = agent(&site.control, &site.path("agent")).await;
    let report = site
        .control
        .report("verified", |report| report.state == AgentState::Verified)
        .await;
    assert_eq!(
        (report.task.as_str(), report.reason.as_deref()),
        (TASK, Some("torrent"))
    );
    assert_eq!(report.sources.peer + report.sources.relay, LENGTH as u64);
    let file = site.path("agent/files/disk.img");
    assert_eq!(std::fs::read(&file).unwrap(), site.bytes);
    assert_eq!(
        site.origin.sent(),
        LENGTH as u64,
        "agents leave the origin alone"
    );

    site.control
        .script(|script| (script.agent_task, script.relay_task) = (false, false));
    site.control
        .until("all dropped", |said| {
            let empty = |request: &floodway_api::sync::SyncRequest| {
                request.contents.is_empty() && request.tasks.is_empty()
            };
            (said.agents.values().all(empty) && said.relay.as_ref().is_some_and(empty))
                .then_some(())
        })
        .await;
    assert!(file.exists(), "a finished file stays");
    relay.stop().await;
    agent.stop().await;
    let left = std::fs::read_dir(site.path("relay/contents")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a dropped content is deleted");
    assert_eq!(site.control.said().left.len(), 2, "both said goodbye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_relay_and_agent_go_on_from_their_disks() {
    let site = site(Script {
        relay_task: true,
        agent_task: true,
        ..Script::default()
    })
    .await;
    let first = (
        relay(&site.control, &site.path("relay")).await,
        agent(&site.control, &site.path("agent")).await,
    );
    site.control
        .report("verified", |report| report.state == AgentState::Verified)
        .await;
    site.relayed().await;
    first.0.stop().await;
    first.1.stop().await;
    let (sent, old) = (site.origin.sent(), site.control.said());
    let second = (
        relay(&site.control, &site.path("relay")).await,
        agent(&site.control, &site.path("agent")).await,
    );
    let boot = |said: &crate::control::Said| said.relay.as_ref().map(|request| request.boot);
    site.control
        .until("the new relay serves", |said| {
            let complete = said
                .relay
                .as_ref()?
                .contents
                .iter()
                .any(|content| content.complete);
            (boot(said) != boot(&old) && complete).then_some(())
        })
        .await;
    site.control
        .report("verified again", |report| {
            report.state == AgentState::Verified && report.sources.resumed == LENGTH as u64
        })
        .await;
    assert_eq!(
        (site.origin.sent(), site.control.said().enrolled),
        (sent, 2),
        "nothing is fetched or enrolled again"
    );
    assert_ne!(second.0.ready.http, None);
    second.0.stop().await;
    second.1.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_touches_the_origin_on_a_ticket_only() {
    let site = site(Script {
        agent_task: true,
        ..Script::default()
    })
    .await;
    let agent = agent(&site.control, &site.path("agent")).await;
    site.control
        .until("two tickets are asked for", |said| {
            (said.tickets_asked >= 2).then_some(())
        })
        .await;
    assert_eq!(site.origin.sent(), 0);
    site.control.script(|script| script.tickets = true);
    let report = site
        .control
        .report("verified", |report| report.state == AgentState::Verified)
        .await;
    let reason = report.reason.unwrap();
    assert!(
        reason.starts_with("transport; origin, on control's ticket"),
        "{reason}"
    );
    assert_eq!(report.sources.origin, LENGTH as u64);
    assert_eq!(
        std::fs::read(site.path("agent/files/disk.img")).unwrap(),
        site.bytes
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_of_that_name_fails_the_task_and_stays() {
    let site = site(Script {
        relay_task: true,
        agent_task: true,
        ..Script::default()
    })
    .await;
    std::fs::create_dir_all(site.path("agent/files")).unwrap();
    std::fs::write(site.path("agent/files/disk.img"), b"mine").unwrap();
    let roles = (
        relay(&site.control, &site.path("relay")).await,
        agent(&site.control, &site.path("agent")).await,
    );
    let report = site
        .control
        .report("failed", |report| report.state == AgentState::Failed)
        .await;
    assert!(
        report.reason.as_ref().unwrap().contains("already exists"),
        "{report:?}"
    );
    assert_eq!(
        std::fs::read(site.path("agent/files/disk.img")).unwrap(),
        b"mine"
    );
    roles.0.stop().await;
    roles.1.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn get_under_control_comes_from_the_swarm() {
    let site = site(Script {
        relay_task: true,
        ..Script::default()
    })
    .await;
    let relay = relay(&site.control, &site.path("relay")).await;
    let access = |token: &str| {
        Some(ControlAccess {
            address: site.control.address.clone(),
            token: token.into(),
        })
    };
    let target = site.path("target");
    std::fs::create_dir(&target).unwrap();
    let spec = GetSpec {
        control: access("join"),
        ..spec(site.origin.url.parse().unwrap(), &target)
    };
    let report = get::run(spec.clone(), pending(), |_| ()).await.unwrap();
    assert_eq!(
        (report.verified_by, report.origin_bytes),
        (VerifiedBy::Torrent, 0)
    );
    assert_eq!(std::fs::read(&report.path).unwrap(), site.bytes);
    assert_eq!(site.origin.sent(), LENGTH as u64, "the relay's copy");

    let wrong = GetSpec {
        control: access("wrong"),
        ..spec
    };
    let error = get::run(wrong, pending(), |_| ()).await.unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_control_get_falls_back_by_policy_and_says_so() {
    let bytes = random(LENGTH, 9);
    let (origin, folder) = (Origin::good(&bytes).await, tempfile::tempdir().unwrap());
    // Nobody listens on this port any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let access = ControlAccess {
        address: format!("http://{closed}"),
        token: "join".into(),
    };
    let spec = GetSpec {
        control: Some(access),
        ..spec(origin.url.parse().unwrap(), folder.path())
    };
    let forbidden = GetSpec {
        no_origin: true,
        ..spec.clone()
    };
    let (done, refused) = tokio::join!(
        get::run(spec, pending(), |_| ()),
        get::run(forbidden, pending(), |_| ()),
    );
    let report = done.unwrap();
    assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
    assert!(
        report
            .reasons
            .iter()
            .any(|reason| reason.contains("offline_origin")),
        "{:?}",
        report.reasons
    );
    assert_eq!(refused.unwrap_err().exit_code(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_keeps_nodes_from_the_origin_is_obeyed_while_control_is_away() {
    for policy in [OfflineOrigin::Deny, OfflineOrigin::Floor] {
        let site = site(Script {
            agent_task: true,
            offline_origin: policy,
            ..Script::default()
        })
        .await;
        // The daemon waits for control, however long; the user is told.
        let agent = agent(&site.control, &site.path("agent")).await;
        let folder = site.path("get");
        std::fs::create_dir(&folder).unwrap();
        let spec = GetSpec {
            control: Some(ControlAccess {
                address: site.control.address.clone(),
                token: "join".into(),
            }),
            ..spec(site.origin.url.parse().unwrap(), &folder)
        };
        let get = tokio::spawn(get::run(spec, pending(), |_| ()));
        site.control
            .until("both ask for the origin", |said| {
                let asking = |request: &floodway_api::sync::SyncRequest| !request.asks.is_empty();
                (said.agents.values().filter(|said| asking(said)).count() == 2).then_some(())
            })
            .await;
        site.control.script(|script| script.away = true);
        let error = get.await.unwrap().unwrap_err();
        assert_eq!(error.exit_code(), 5, "{policy:?}: {error}");
        assert!(error.to_string().contains("offline_origin"), "{error}");
        // As long again as it took `get` to count control as away.
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(site.origin.sent(), 0, "{policy:?}");
        site.control
            .script(|script| (script.away, script.tickets) = (false, true));
        site.control
            .report("verified", |report| report.state == AgentState::Verified)
            .await;
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_ends_a_role() {
    let site = site(Script::default()).await;
    let settings = AgentSettings {
        node: node(&site.control, &site.path("a"), "wrong"),
        dir: None,
        http: loopback(),
    };
    let error = agent::run(settings, pending(), |_| ()).await.unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
}
