//! A second level: a relay that feeds from another one, for a site that reaches nothing else.

use std::fs;

use floodway_testkit::{
    Fleet, Lie, Node, ScriptedOrigin, Site, TestDir, random_bytes, task_id, wait_until,
};
use serde_json::json;

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 16 * MIB;
/// Of one connection to the origin; a relay has two. The whole takes the first level 16 s, so that it is midway for long.
const ORIGIN_RATE: u64 = MIB / 2;
/// Nobody listens there: who says that peers reach it at such an address is dialled by nobody.
const NOWHERE: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

/// A join token for this role at the second level's site.
fn branch_token(fleet: &Fleet, role: &str) -> String {
    let wanted = json!({ "role": role, "labels": { "site": "branch" } });
    let made = fleet.api().post("/api/v1/tokens", &wanted).json();
    made["token"].as_str().expect("a token").to_owned()
}

fn origin_bytes(node: &Node) -> u64 {
    node.metric("floodway_origin_body_bytes_total")
}

fn await_metric(node: &Node, name: &str, at_least: u64) {
    wait_until(name, Site::PATIENCE, || {
        (node.metric(name) >= at_least).then_some(())
    });
}

#[test]
fn a_second_level_takes_everything_from_its_upstream_which_dies_midway_and_comes_back() {
    let dir = TestDir::new();
    let origin = ScriptedOrigin::start_limited(random_bytes(LENGTH, 5), Lie::None, ORIGIN_RATE);
    let exe = env!("CARGO_BIN_EXE_floodway");
    let mut fleet = Fleet::start(exe, dir.folder("fleet"), [origin.url("/")]);
    let token = branch_token(&fleet, "relay");
    let two = fleet.node("relay", &token, &["--name", "two", "--feeds-from", "one"]);
    let token = branch_token(&fleet, "agent");
    let agent = fleet.node("agent", &token, &["--advertise", NOWHERE[1]]);
    let token = fleet.join_token();
    let args = ["--name", "one", "--advertise", NOWHERE[0]];
    let mut one = fleet.node("relay", &token, &args);
    let task = task_id(&fleet.create_task(&origin.url("/disk.img"), Some("all")));

    // Through both levels while the first still fetches.
    await_metric(&agent, "floodway_peer_received_bytes_total", 64 << 10);
    let early = origin_bytes(&one);
    assert!(early < LENGTH, "the first level still fetches: {early}");
    await_metric(&two, "floodway_peer_received_bytes_total", LENGTH / 4);
    let before = origin_bytes(&one);
    one.restart();
    assert!(before < LENGTH, "it died midway: {before}");

    let ended = fleet.await_task(&task, &["done", "failed"], Site::PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(fs::read(agent.files.join("disk.img")).unwrap() == origin.body());
    assert_eq!(origin_bytes(&two), 0, "a second level reads no origin");
    assert_eq!(origin_bytes(&agent), 0);
    let sent = origin.body_bytes();
    let in_flight = 4 * MIB;
    assert!(sent <= LENGTH + in_flight, "{sent} bytes of one copy");
}

#[test]
fn a_relay_that_would_feed_from_itself_ends_and_says_so() {
    let dir = TestDir::new();
    let exe = env!("CARGO_BIN_EXE_floodway");
    let mut fleet = Fleet::start(exe, dir.folder("fleet"), ["http://127.0.0.1:1/"]);
    let token = fleet.join_token();
    let (program, _) = fleet.node_program("relay", &token);
    let args = ["--name", "one", "--feeds-from", "one"];
    let ended = program.args(args).start().finish().expect_code(2);
    let said = ended.stderr;
    assert!(said.contains("would feed from itself"), "{said}");
    assert!(
        said.contains("name another relay in `feeds_from`"),
        "{said}"
    );
}
