//! `get --control`, `serve` and `demo`: the same machinery, for one download and for one machine.

use std::fs;

use floodway_testkit::{Nginx, Program, Signal, Site, TestDir, random_file, sha256_file};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn site(limit_kib_per_second: Option<u64>) -> Option<Site> {
    Site::start(env!("CARGO_BIN_EXE_floodway"), limit_kib_per_second)
}

#[test]
fn get_with_control_makes_a_relay_task_on_the_spot() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 32 * MIB);
    let _relays = site.fleet.relays(2);
    let token = site.fleet.join_token();
    let get = |source: &str, output: &str| {
        let args = [
            "get",
            source,
            "--json",
            "--listen",
            "127.0.0.1:0",
            "-o",
            output,
        ];
        site.fleet
            .cli_with(&token)
            .args(args)
            .patience(Site::PATIENCE)
            .run()
            .expect_code(0)
            .last_json()
    };
    let done = get(&url, "one.img");
    assert_eq!(done["origin_bytes"], 0, "{done}");
    // By facts if it began while the relays fetched, by the torrent if they were done before.
    let by = done["verified_by"].as_str().unwrap();
    assert!(matches!(by, "facts" | "torrent"), "{by}");
    assert_eq!(done["sha256"], *sha256);
    let sent = site.nginx.body_bytes("/disk.img");
    assert!(sent <= 35 * MIB, "{sent} bytes for one copy of 32 MiB");
    let tasks = site
        .fleet
        .api()
        .get("/api/v1/tasks")
        .expect_status(200)
        .json();
    let sid = tasks["tasks"][0]["sid"]
        .as_str()
        .expect("the relay task names a sid")
        .to_owned();
    let by_sid = get(&format!("floodway:{sid}"), "two.img");
    assert_eq!(by_sid["sha256"], *sha256);
    assert_eq!(
        site.nginx.body_bytes("/disk.img"),
        sent,
        "the second cost the origin nothing"
    );
    explains(&site, &token, &sid);
    let unknown = format!("floodway:{}", "ab".repeat(32));
    site.fleet
        .cli_with(&token)
        .args(["get", &unknown])
        .run()
        .expect_code(4);
}

/// `get --explain` says where every byte came from and who reported the pieces, some of which the other relay has read again.
fn explains(site: &Site, token: &str, sid: &str) {
    let source = format!("floodway:{sid}");
    let get = |output: &str, more: &[&str]| {
        let args = ["get", &source, "--explain", "--listen", "127.0.0.1:0", "-o"];
        let program = site.fleet.cli_with(token).args(args).args([output]);
        program
            .args(more)
            .patience(Site::PATIENCE)
            .run()
            .expect_code(0)
    };
    let output = get("three.img", &["--json"]);
    let lines: Vec<Value> = (output.stdout.lines())
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let [.., explain, done] = &lines[..] else {
        panic!("{lines:#?}");
    };
    assert_eq!(
        (&explain["event"], &done["event"]),
        (&"explain".into(), &"done".into())
    );
    let sum = |values: &Value, field: &str| -> u64 {
        let values = values.as_array().expect("a list").iter();
        values.filter_map(|value| value[field].as_u64()).sum()
    };
    let came = sum(&explain["sources"], "bytes");
    let kept = ["peer_bytes", "relay_bytes", "origin_bytes"].map(|field| done[field].as_u64());
    let kept: u64 = kept.into_iter().flatten().sum();
    assert!(kept == 32 * MIB && came >= kept, "{explain:#} {done:#}");
    let pieces = explain["pieces"].as_u64().unwrap();
    assert_eq!(
        sum(&explain["reported_by"], "pieces"),
        pieces,
        "{explain:#}"
    );
    let audits = &explain["audits"];
    assert!(audits["equal"].as_u64() > Some(0), "{explain:#}");
    assert_eq!(
        (&audits["open"], &audits["different"]),
        (&0.into(), &0.into())
    );
    let shown = get("four.img", &[]).stderr;
    for what in [
        "where the bytes came from:",
        "who reported what",
        "verified by torrent",
    ] {
        assert!(shown.contains(what), "{what}: {shown}");
    }
}

#[test]
fn get_with_an_agents_token_is_a_node_beside_it() {
    let Some(mut site) = site(None) else { return };
    let (url, sha256) = site.file("disk.img", 8 * MIB);
    let agent = site.fleet.agents(1).remove(0);
    let identity = fs::read(agent.data.join("node.json")).expect("the agent's identity");
    let identity: Value = serde_json::from_slice(&identity).unwrap();
    let token = identity["token"].as_str().unwrap();
    let node = || {
        let nodes = site.fleet.api().get("/api/v1/nodes").json();
        let mut nodes = nodes["nodes"].as_array().unwrap().clone();
        nodes.retain(|node| node["peer"] == agent.ready.peer());
        nodes
    };
    site.fleet.await_live_nodes(1);
    let before = node();
    assert_eq!(before.len(), 1, "the agent, with its address");
    let done = site
        .fleet
        .cli_with(token)
        .args(["get", &url, "--json", "--listen", "127.0.0.1:0"])
        .run()
        .expect_code(0)
        .last_json();
    assert_eq!(done["sha256"], *sha256);
    let after = node();
    assert_eq!(after.len(), 1, "the agent still has its address: {after:?}");
    assert_eq!(after[0]["node"], before[0]["node"]);
    assert_eq!(after[0]["live"], true, "{after:?}");
}

#[test]
fn get_with_control_but_without_relays_reads_the_origin_on_a_ticket() {
    let Some(site) = site(None) else { return };
    let (url, sha256) = site.file("disk.img", 16 * MIB);
    let done = site
        .fleet
        .cli_with(&site.fleet.join_token())
        .args(["get", &url, "--json", "--listen", "127.0.0.1:0"])
        .run()
        .expect_code(0)
        .last_json();
    assert_eq!(done["origin_bytes"], 16 * MIB, "{done}");
    assert_eq!(done["sha256"], *sha256);
    assert!(
        !done["reasons"].as_array().unwrap().is_empty(),
        "why the origin was read: {done}"
    );
    let fleet = site.dir.join("fleet").join("disk.img");
    assert_eq!(sha256_file(fleet), sha256);
}

#[test]
fn get_falls_back_when_control_is_away_and_says_why() {
    let Some(mut site) = site(None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 16 * MIB);
    let token = site.fleet.join_token();
    site.fleet.control.kill9();
    let output = site
        .fleet
        .cli_with(&token)
        .args(["get", &url, "--json", "--listen", "127.0.0.1:0"])
        .run()
        .expect_code(0);
    let done = output.last_json();
    assert_eq!(done["sha256"], *sha256);
    assert_eq!(done["verified_by"], "transport");
    let lines = output.stdout.lines();
    let waiting: Vec<_> = lines.filter(|line| line.contains("\"waiting\"")).collect();
    assert!(
        !waiting.is_empty() && waiting.windows(2).all(|two| two[0] != two[1]),
        "what is waited for is said when it changes: {waiting:#?}"
    );
    assert!(done["reasons"].to_string().contains("control"), "{done}");
    assert!(
        output.seconds >= 4.0,
        "control gets five seconds, not {}",
        output.seconds
    );
    let refused = site
        .fleet
        .cli_with(&token)
        .args(["get", &url, "--json", "--no-origin", "-o", "other.img"])
        .run();
    assert_eq!(refused.code, 5, "{}", refused.stderr);
}

#[test]
fn serve_is_control_and_a_relay_in_one() {
    let dir = TestDir::new();
    let sha256 = random_file(dir.folder("origin").join("disk.img"), 16 * MIB, 4);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let data = dir.join("serve");
    let program = Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args(["serve", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0"])
        .args(["--allow-origin", &nginx.url("/"), "--data"])
        .arg(&data);
    let mut serve = program.start();
    let ready = serve.ready();
    assert!(ready.peer.is_some(), "the relay's peer side");
    let token = fs::read_to_string(data.join("join.token")).unwrap();
    let done = Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args([
            "get",
            &nginx.url("/disk.img"),
            "--json",
            "--control",
            ready.http(),
        ])
        .args(["--listen", "127.0.0.1:0"])
        .env("FLOODWAY_TOKEN", token.trim())
        .folder(dir.folder("down"))
        .run()
        .expect_code(0)
        .last_json();
    assert_eq!(done["sha256"], *sha256);
    assert_eq!(done["origin_bytes"], 0);
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), 0, "{}", serve.stderr());
}

#[test]
fn a_demo_runs_and_reports() {
    let dir = TestDir::new();
    let sha256 = random_file(dir.join("disk.img"), 16 * MIB, 4);
    let output = Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args([
            "demo", "--file", "disk.img", "--agents", "3", "--relays", "2", "--json",
        ])
        .args(["--origin-limit", "16MiB/s"])
        .folder(&*dir)
        .patience(Site::PATIENCE)
        .run()
        .expect_code(0);
    let report = output.last_json();
    assert_eq!(
        (&report["file_bytes"], &report["sha256"]),
        (&(16 * MIB).into(), &sha256.into())
    );
    let agents = report["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 3);
    for agent in agents {
        assert_eq!(agent["verified"], true);
        let sum: u64 = ["peer_bytes", "relay_bytes", "origin_bytes"]
            .iter()
            .map(|key| agent[*key].as_u64().unwrap())
            .sum();
        assert_eq!(sum, 16 * MIB, "{agent}");
    }
    let copies = report["origin"]["copies"].as_f64().unwrap();
    assert!((1.0..=1.1).contains(&copies), "copies: {copies}");
    assert!(
        report["plain_http"]["bytes_sent"].as_u64().unwrap() >= 48 * MIB,
        "{report}"
    );
    let left: Vec<_> = fs::read_dir(&*dir)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["disk.img"], "work files are removed");
}

#[test]
fn a_demo_without_json_prints_its_report_and_nothing_else() {
    let dir = TestDir::new();
    random_file(dir.join("disk.img"), MIB, 5);
    let output = Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args(["demo", "--file", "disk.img", "--agents", "1"])
        .folder(&*dir)
        .patience(Site::PATIENCE)
        .run()
        .expect_code(0);
    assert!(output.stderr.contains("preparing"), "{}", output.stderr);
    assert!(
        !output.stdout.contains(" …") && !output.stdout.trim().is_empty(),
        "{}",
        output.stdout
    );
}
