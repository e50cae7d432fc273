//! Sites: each piece of a file is to come to a site about once, and to spread there.

use std::fs;

use floodway_testkit::{Fleet, Lie, Node, ScriptedOrigin, Site, TestDir, random_bytes, task_id};
use serde_json::json;

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 32 * MIB;
const AGENTS: usize = 5;

/// Agents at this site.
fn agents(fleet: &mut Fleet, site: &str) -> Vec<Node> {
    let wanted = json!({ "role": "agent", "labels": { "site": site } });
    let made = fleet.api().post("/api/v1/tokens", &wanted).json();
    let token = made["token"].as_str().expect("a token");
    let mut start = |_| fleet.node("agent", token, &[]);
    (0..AGENTS).map(&mut start).collect()
}

/// Bytes that came to these agents, which are all of one site, from elsewhere.
fn from_elsewhere(agents: &[Node]) -> u64 {
    let counters = [
        "floodway_peer_elsewhere_received_bytes_total",
        "floodway_relay_http_received_bytes_total",
        "floodway_origin_body_bytes_total",
    ];
    let all = agents
        .iter()
        .flat_map(|agent| counters.map(|counter| agent.metric(counter)));
    all.sum()
}

#[test]
fn a_file_comes_to_each_of_two_sites_about_once_and_spreads_there() {
    let dir = TestDir::new();
    let origin = ScriptedOrigin::start(random_bytes(LENGTH, 5), Lie::None);
    let exe = env!("CARGO_BIN_EXE_floodway");
    let mut fleet = Fleet::start(exe, dir.folder("fleet"), [origin.url("/")]);
    let token = fleet.join_token();
    // The relay stands nowhere: everything that it sends crosses a border.
    let relay = fleet.node("relay", &token, &["--max-up", "8MiB"]);
    let sites = ["berlin", "oslo"].map(|site| agents(&mut fleet, site));
    fleet.await_live_nodes(1 + 2 * AGENTS);
    let task = fleet.create_task(&origin.url("/disk.img"), Some("all"));
    let ended = fleet.await_task(&task_id(&task), &["done", "failed"], Site::PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    for agent in sites.iter().flatten() {
        assert!(fs::read(agent.files.join("disk.img")).unwrap() == origin.body());
    }
    let crossed = sites.each_ref().map(|agents| from_elsewhere(agents));
    let sent = relay.metric("floodway_peer_sent_bytes_total");
    for crossed in crossed {
        assert!(crossed >= LENGTH, "all of it came from somewhere");
        assert!(
            crossed < LENGTH * 3 / 2,
            "{crossed} bytes came to one site, of {sent} that the relay sent; one copy is {LENGTH}"
        );
    }
}
