//! The main job: an origin, control, relays and agents as real processes.

use std::fs;
use std::time::Duration;

use floodway_testkit::{
    Fleet, Lie, Node, Output, ScriptedOrigin, Seen, Site, TestDir, damage_file, random_bytes,
    request, task_id, wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn site(limit_kib_per_second: Option<u64>) -> Option<Site> {
    Site::start(env!("CARGO_BIN_EXE_floodway"), limit_kib_per_second)
}

#[track_caller]
fn publish(site: &Site, args: &[&str]) -> Output {
    site.fleet
        .cli()
        .arg("publish")
        .args(args)
        .patience(Site::PATIENCE)
        .run()
}

/// One kind of source over all agents of a task.
#[track_caller]
fn source_bytes(task: &Value, source: &str) -> Vec<u64> {
    let agents = task["agents"]
        .as_array()
        .unwrap_or_else(|| panic!("no agents in {task}"));
    agents
        .iter()
        .map(|agent| agent["sources"][source].as_u64().unwrap_or(0))
        .collect()
}

fn sum(nodes: &[Node], metric: &str) -> u64 {
    nodes.iter().map(|node| node.metric(metric)).sum()
}

/// The books of a finished task against those of the origin and the relays.
#[track_caller]
fn assert_books_balance(task: &Value, relays: &[Node], agents: &[Node], sent: u64, length: u64) {
    let [peer, relay, origin, resumed] =
        ["peer", "relay", "origin", "resumed"].map(|source| source_bytes(task, source));
    for index in 0..peer.len() {
        assert_eq!(
            peer[index] + relay[index] + origin[index] + resumed[index],
            length,
            "peer + relay + origin + resumed = bytes: {:#}",
            task["agents"][index]
        );
    }
    assert!(
        sent * 10 <= length * 11,
        "origin copies {sent}/{length} are more than 1.1"
    );
    let read = sum(relays, "floodway_origin_body_bytes_total") + origin.iter().sum::<u64>();
    assert!(
        read <= sent,
        "{read} bytes are said to come from the origin, which sent {sent}"
    );
    assert!(
        read >= length,
        "{read} bytes of {length} are said to come from the origin"
    );
    let with_peers = peer.iter().filter(|&&bytes| bytes > 0).count();
    assert!(
        with_peers + 1 >= peer.len(),
        "only {with_peers} of {} had peer bytes",
        peer.len()
    );
    let relay_sent = sum(relays, "floodway_relay_http_sent_bytes_total");
    assert!(
        relay.iter().sum::<u64>() <= relay_sent,
        "relays sent {relay_sent} over HTTP"
    );
    let peer_sent = sum(relays, "floodway_peer_sent_bytes_total")
        + sum(agents, "floodway_peer_sent_bytes_total");
    assert!(
        peer.iter().sum::<u64>() <= peer_sent,
        "{peer_sent} bytes were sent to peers"
    );
    let received = sum(agents, "floodway_peer_received_bytes_total");
    assert!(
        peer.iter().sum::<u64>() <= received,
        "{received} bytes were received from peers"
    );
}

#[test]
fn a_file_reaches_eight_agents_by_the_api() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 32 * MIB);
    let relays = site.fleet.relays(2);
    let agents = site.fleet.agents(8);
    site.fleet.await_live_nodes(10);
    let task = site.distribute(&url);
    Site::assert_has(&agents, "disk.img", &sha256);
    let states: Vec<_> = task["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["state"])
        .collect();
    assert_eq!(states, vec!["verified"; 8]);
    assert_eq!(task["sid"].as_str().map(str::len), Some(64));
    assert!(task["torrent"].is_string(), "{task:#}");
    let sent = site.nginx.body_bytes("/disk.img");
    assert_books_balance(&task, &relays, &agents, sent, 32 * MIB);
    assert!(
        relays
            .iter()
            .all(|r| r.metric("floodway_origin_body_bytes_total") > 0),
        "both relays shared the work of one copy"
    );
}

#[test]
fn twenty_four_agents_cost_the_origin_one_copy() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 32 * MIB);
    let relays = site.fleet.relays(1);
    let agents = site.fleet.agents(24);
    site.fleet.await_live_nodes(25);
    let task = site.distribute(&url);
    Site::assert_has(&agents, "disk.img", &sha256);
    let sent = site.nginx.body_bytes("/disk.img");
    assert_books_balance(&task, &relays, &agents, sent, 32 * MIB);
}

#[test]
fn a_file_reaches_eight_agents_by_publish_wait_and_a_ninth_without_relays() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 32 * MIB);
    let mut relays = site.fleet.relays(2);
    let mut agents = site.fleet.agents(8);
    site.fleet.await_live_nodes(10);
    let result = publish(&site, &[&url, "--to", "all", "--wait", "--json"])
        .expect_code(0)
        .last_json();
    Site::assert_has(&agents, "disk.img", &sha256);
    assert_eq!(result["state"], "done");
    assert_eq!(result["agents"].as_array().unwrap().len(), 8);
    assert!(
        result["agents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["state"] == "verified")
    );
    let id = task_id(&result);
    let shown = site
        .fleet
        .cli()
        .args(["task", "show", &id, "--json"])
        .run()
        .expect_code(0)
        .json();
    for key in ["task", "relay_task", "sid", "torrent", "state"] {
        assert_eq!(shown[key], result[key], "{key}");
    }
    let sent = site.nginx.body_bytes("/disk.img");
    assert_books_balance(&site.fleet.task(&id), &relays, &agents, sent, 32 * MIB);
    let list = site
        .fleet
        .cli()
        .args(["task", "list", "--json"])
        .run()
        .expect_code(0);
    assert!(list.stdout.contains(&id), "{}", list.stdout);

    for relay in &mut relays {
        relay.process.kill9();
    }
    agents.extend(site.fleet.agents(1));
    let task = site.distribute(&url);
    Site::assert_has(&agents, "disk.img", &sha256);
    assert_eq!(source_bytes(&task, "origin"), vec![0; 9]);
    assert_eq!(
        site.nginx.body_bytes("/disk.img"),
        sent,
        "the ninth had zero origin bytes"
    );
}

#[test]
fn an_agent_completes_from_another_when_relay_and_origin_are_gone() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 32 * MIB);
    let mut relays = site.fleet.relays(1);
    let mut agents = site.fleet.agents(1);
    site.fleet.await_live_nodes(2);
    site.distribute(&url);
    relays[0].process.kill9();
    site.nginx.stop();
    agents.extend(site.fleet.agents(1));
    let task = site.distribute(&url);
    Site::assert_has(&agents, "disk.img", &sha256);
    assert_eq!(source_bytes(&task, "peer").iter().max(), Some(&(32 * MIB)));
}

#[test]
fn three_contents_at_once_on_one_agent() {
    let Some(mut site) = site(Some(16 * 1024)) else {
        return;
    };
    let files: Vec<_> = (0..3)
        .map(|i| {
            (
                format!("{i}.img"),
                site.file(&format!("{i}.img"), (16 + i) * MIB),
            )
        })
        .collect();
    let _relays = site.fleet.relays(2);
    let agents = site.fleet.agents(1);
    site.fleet.await_live_nodes(3);
    let tasks: Vec<_> = files
        .iter()
        .map(|(_, (url, _))| site.fleet.create_task(url, Some("all")))
        .collect();
    for task in tasks {
        site.fleet
            .await_task(&task_id(&task), &["done"], Site::PATIENCE);
    }
    for (name, (_, sha256)) in &files {
        Site::assert_has(&agents, name, sha256);
    }
}

#[test]
fn publish_without_targets_makes_the_relay_task_only() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, _) = site.file("disk.img", 16 * MIB);
    let _relays = site.fleet.relays(1);
    let agents = site.fleet.agents(1);
    let result = publish(&site, &[&url, "--wait", "--json"])
        .expect_code(0)
        .last_json();
    assert_eq!(
        (&result["task"], &result["state"]),
        (&Value::Null, &"final".into())
    );
    assert_eq!(result["agents"], serde_json::json!([]));
    assert!(!agents[0].files.join("disk.img").exists());
    // The published torrent never names the origin.
    let torrent = site.fleet.torrent(result["sid"].as_str().unwrap());
    let torrent = String::from_utf8_lossy(&torrent);
    let origin = site.nginx.url("");
    assert!(
        !torrent.contains(origin.strip_prefix("http://").unwrap()),
        "{origin} is in the torrent"
    );
    let reply = request("GET", result["torrent"].as_str().unwrap(), &[], b"");
    assert!(matches!(reply.status, 200 | 401), "{}", reply.text());
}

#[test]
fn publish_wait_fails_when_an_agent_fails() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 8 * MIB);
    let _relays = site.fleet.relays(1);
    let agents = site.fleet.agents(2);
    site.fleet.await_live_nodes(3);
    fs::create_dir_all(&agents[0].files).unwrap();
    fs::write(agents[0].files.join("disk.img"), "a different file").unwrap();
    let output = publish(&site, &[&url, "--to", "all", "--wait", "--json"]).expect_code(1);
    let result = output.last_json();
    let failed: Vec<_> = result["agents"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|a| a["state"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{result:#}");
    assert!(
        failed[0]["reason"]
            .as_str()
            .is_some_and(|r| r.contains("disk.img")),
        "{result:#}"
    );
    assert_eq!(
        fs::read(agents[0].files.join("disk.img")).unwrap(),
        b"a different file"
    );
    // The other may still be busy when the first failure ends the wait.
    wait_until("the other agent's file", Site::PATIENCE, || {
        agents[1].files.join("disk.img").exists().then_some(())
    });
    Site::assert_has(&agents[1..], "disk.img", &sha256);
}

#[test]
fn publish_wait_fails_when_the_origin_has_no_such_file() {
    let Some(mut site) = site(None) else {
        return;
    };
    let _relays = site.fleet.relays(1);
    let _agents = site.fleet.agents(1);
    site.fleet.await_live_nodes(2);
    let url = site.nginx.url("/missing.img");
    let output = publish(&site, &[&url, "--to", "all", "--wait", "--json"]);
    assert!(
        matches!(output.code, 1 | 4),
        "exit {}: {}",
        output.code,
        output.stderr
    );
    assert_eq!(output.last_json()["state"], "failed");
}

#[test]
fn labels_choose_the_agents_and_nobody_is_exit_4() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 8 * MIB);
    let _relays = site.fleet.relays(1);
    let mut agents = Vec::new();
    for labels in [
        &["site=a", "kind=web"],
        &["site=a", "kind=db"],
        &["site=b", "kind=web"],
    ] {
        let created = site
            .fleet
            .cli()
            .args(["node", "token", "create", "--role", "agent", "--json"])
            .args(["--label", labels[0], "--label", labels[1]])
            .run()
            .expect_code(0);
        let token = created.json()["token"].as_str().unwrap().to_owned();
        agents.push(site.fleet.node("agent", &token, &[]));
    }
    site.fleet.await_live_nodes(4);
    publish(&site, &[&url, "--to", "site=a,kind=web", "--wait"]).expect_code(0);
    let have: Vec<_> = agents
        .iter()
        .map(|agent| agent.files.join("disk.img").exists())
        .collect();
    assert_eq!(have, [true, false, false]);
    Site::assert_has(&agents[..1], "disk.img", &sha256);
    publish(&site, &[&url, "--to", "site=nowhere", "--wait"]).expect_code(4);
    publish(&site, &[&url, "--to", "no-equals-sign"]).expect_code(2);
}

#[test]
fn cancel_stops_the_bytes_and_leaves_no_final_name() {
    // 64 MiB at 2 MiB/s: nothing can be complete before it is cancelled.
    let Some(mut site) = site(Some(1024)) else {
        return;
    };
    let (url, _) = site.file("disk.img", 64 * MIB);
    let relays = site.fleet.relays(1);
    let agents = site.fleet.agents(2);
    site.fleet.await_live_nodes(3);
    let task = site.fleet.create_task(&url, Some("all"));
    let id = task_id(&task);
    let relay_id = task["relay_task"].as_str().unwrap().to_owned();
    wait_until("the relay to fetch", Site::PATIENCE, || {
        (relays[0].metric("floodway_origin_body_bytes_total") > MIB).then_some(())
    });
    for id in [&id, &relay_id] {
        site.fleet
            .cli()
            .args(["task", "cancel", id])
            .run()
            .expect_code(0);
        assert_eq!(site.fleet.task(id)["state"], "cancelled");
    }
    // "Within seconds": nginx then has no request in progress and gets no new one.
    std::thread::sleep(Duration::from_secs(3));
    let sent = site.nginx.body_bytes("/disk.img");
    let received = sum(&agents, "floodway_peer_received_bytes_total");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(site.nginx.body_bytes("/disk.img"), sent);
    assert_eq!(sum(&agents, "floodway_peer_received_bytes_total"), received);
    for agent in &agents {
        assert!(!agent.files.join("disk.img").exists());
    }
    site.fleet
        .cli()
        .args(["task", "cancel", "no-such-task"])
        .run()
        .expect_code(4);
    site.fleet
        .cli()
        .args(["task", "show", "no-such-task"])
        .run()
        .expect_code(4);
}

#[test]
fn cancel_stops_an_agent_in_the_middle_of_its_download() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, _) = site.file("disk.img", 64 * MIB);
    let relays = site.fleet.relays(1);
    let config = site.dir.join("slow.toml");
    fs::write(&config, "max_down = \"2MiB/s\"\n").unwrap();
    let token = site.fleet.join_token();
    let slow = ["--config", config.to_str().unwrap()];
    let agent = site.fleet.node("agent", &token, &slow);
    site.fleet.await_live_nodes(2);
    let id = task_id(&site.fleet.create_task(&url, Some("all")));
    let got = || {
        agent.metric("floodway_peer_received_bytes_total")
            + relays[0].metric("floodway_relay_http_sent_bytes_total")
    };
    wait_until("the agent to download", Site::PATIENCE, || {
        (got() > 2 * MIB).then_some(())
    });
    site.fleet
        .cli()
        .args(["task", "cancel", &id])
        .run()
        .expect_code(0);
    std::thread::sleep(Duration::from_secs(3));
    let after = got();
    assert!(after < 32 * MIB, "{after} bytes: it was nearly done");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(got(), after, "bytes go on after the task is cancelled");
    assert_eq!(site.fleet.task(&id)["agents"][0]["state"], "cancelled");
    assert!(!agent.files.join("disk.img").exists());
}

#[test]
fn cancel_ends_an_agents_download_and_its_seeding() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 16 * MIB);
    let mut relays = site.fleet.relays(1);
    let agents = site.fleet.agents(1);
    site.fleet.await_live_nodes(2);
    let task = site.distribute(&url);
    Site::assert_has(&agents, "disk.img", &sha256);
    site.fleet
        .cli()
        .args(["task", "cancel", &task_id(&task)])
        .run()
        .expect_code(0);
    // What is complete stays; but nobody can have it from this agent any more.
    relays[0].process.kill9();
    site.nginx.stop();
    Site::assert_has(&agents, "disk.img", &sha256);
    let sid = task["sid"].as_str().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let mut get = site
        .fleet
        .cli_with(&site.fleet.join_token())
        .args([
            "get",
            &format!("floodway:{sid}"),
            "--json",
            "--no-origin",
            "-o",
            "copy.img",
        ])
        .args(["--listen", "127.0.0.1:0"])
        .start();
    std::thread::sleep(Duration::from_secs(3));
    get.kill9();
    assert_eq!(
        agents[0].metric("floodway_peer_sent_bytes_total"),
        0,
        "it went on seeding"
    );
}

#[test]
fn a_damaged_file_on_a_seeding_agent_does_no_harm_and_the_agent_is_named() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 16 * MIB);
    let mut relays = site.fleet.relays(1);
    let mut agents = site.fleet.agents(1);
    site.fleet.await_live_nodes(2);
    site.distribute(&url);
    damage_file(
        agents[0].files.join("disk.img"),
        3 * MIB + 77,
        &vec![0; 500_000],
    );
    // Nobody but the agent has it for now, so that the bad pieces are asked for and come from it.
    relays[0].process.kill9();
    site.nginx.stop();
    let mut get = site
        .fleet
        .cli_with(&site.fleet.join_token())
        .args(["get", &url, "--json", "--listen", "127.0.0.1:0"])
        .args(["-o", "copy.img"])
        .patience(Site::PATIENCE)
        .start();
    let reason = get.line("the ban of the agent", |line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let reason = event["reason"].as_str()?;
        reason.contains("banned").then(|| reason.to_owned())
    });
    assert!(
        reason.contains(agents[0].ready.peer()) && reason.contains("wrong bytes of piece"),
        "{reason}"
    );
    site.nginx.restart();
    relays[0].restart();
    let done = get.finish().expect_code(0).last_json();
    assert_eq!(done["sha256"], *sha256, "{done}");
    agents.extend(site.fleet.agents(2));
    site.distribute(&url);
    Site::assert_has(&agents[1..], "disk.img", &sha256);
}

#[test]
fn a_small_file_and_an_empty_one_are_distributed() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (tiny, tiny_sha256) = site.file("tiny.txt", 5);
    let (empty, empty_sha256) = site.file("empty.txt", 0);
    let _relays = site.fleet.relays(2);
    let agents = site.fleet.agents(2);
    site.fleet.await_live_nodes(4);
    site.distribute(&tiny);
    Site::assert_has(&agents, "tiny.txt", &tiny_sha256);
    site.distribute(&empty);
    Site::assert_has(&agents, "empty.txt", &empty_sha256);
}

#[test]
fn origins_without_ranges_are_relayed_by_one_get() {
    one_relay_reads_once(24 * MIB, Lie::NoRanges);
}

#[test]
fn origins_without_a_strong_validator_are_relayed_by_one_get() {
    for lie in [Lie::WeakEtag, Lie::NoValidator] {
        let seen = one_relay_reads_once(3 * MIB, lie);
        let conditional = |seen: &&Seen| seen.headers.contains_key("if-match");
        assert_eq!(seen.iter().filter(conditional).count(), 0, "{seen:#?}");
    }
}

/// Two relays and two agents get the file of this origin, and one of the relays reads it in one go.
fn one_relay_reads_once(length: u64, lie: Lie) -> Vec<Seen> {
    let dir = TestDir::new();
    let origin = ScriptedOrigin::start(random_bytes(length, 9), lie);
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [origin.url("/")],
    );
    let _relays = fleet.relays(2);
    let agents = fleet.agents(2);
    fleet.await_live_nodes(4);
    let task = fleet.create_task(&origin.url("/disk.img"), Some("all"));
    fleet.await_task(&task_id(&task), &["done"], Site::PATIENCE);
    for agent in &agents {
        assert!(fs::read(agent.files.join("disk.img")).unwrap() == origin.body());
    }
    // Each relay may probe for one byte, be answered with everything, and break that off.
    let seen = origin.seen();
    let probe = |seen: &&Seen| seen.headers.get("range").is_some_and(|r| r == "bytes=0-0");
    let gets = seen.iter().filter(|seen| seen.method == "GET");
    assert_eq!(gets.filter(|seen| !probe(seen)).count(), 1, "{seen:#?}");
    seen
}
