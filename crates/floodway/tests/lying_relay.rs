//! A relay that reports what is not in the origin. No relay of ours can lie, so this one is lied to: it reads the origin by a proxy of
//! its own, which changes a byte.

use std::fs;

use bytes::Bytes;
use floodway_proto::record::{Body, EndReason, Signed, State};
use floodway_testkit::{
    Fleet, Lie, Node, ScriptedOrigin, Signal, Site, TestDir, random_bytes, task_id, wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 8 * MIB;
/// Reached by nothing but proxies.
const ORIGIN: &str = "http://origin.invalid/";
/// Of each of two connections: the whole takes the first relay a minute, which is long after the others found it out.
const SLOW: u64 = 64 << 10;
const PIECE: u64 = 64 << 10;

/// A relay that reaches the origin by this proxy.
fn relay(fleet: &mut Fleet, name: &str, proxy: &ScriptedOrigin) -> Node {
    let url = proxy.url("");
    let by = ["http_proxy", "HTTP_PROXY"].map(|variable| (variable, url.as_str()));
    let always = ["no_proxy", "NO_PROXY"].map(|variable| (variable, ""));
    let token = fleet.join_token();
    let variables = [by, always].concat();
    fleet.node_in("relay", &token, &["--name", name], &variables)
}

/// What `node list` says of a relay.
fn listed(fleet: &Fleet, name: &str) -> Value {
    let nodes = fleet.api().get("/api/v1/nodes").expect_status(200).json();
    let mut nodes = nodes["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["name"] == name).unwrap().clone()
}

/// How control says that a content ended.
fn end_of(fleet: &Fleet, sid: &str) -> State {
    let reply = fleet.api().get(&format!("/api/v1/s/{sid}/head"));
    let mut bytes = Bytes::from(reply.expect_status(200).body);
    let mut state = State::Open;
    while !bytes.is_empty() {
        let signed = Signed::take(&mut bytes).unwrap();
        if let Body::Checkpoint(checkpoint) = &signed.record().body {
            state = checkpoint.state.clone();
        }
    }
    state
}

#[test]
fn a_relay_that_reports_false_bytes_is_found_out_and_may_be_trusted_again() {
    let dir = TestDir::new();
    let truth = random_bytes(LENGTH, 4);
    let mut other = truth.clone();
    other[12_345] ^= 1;
    let lies = ScriptedOrigin::start_limited(other, Lie::None, SLOW);
    let honest = ScriptedOrigin::start(truth, Lie::None);
    let config = dir.join("control.toml");
    fs::write(&config, "audit_share = 1.0\n").unwrap();
    let more = ["--config", config.to_str().unwrap()];
    let exe = env!("CARGO_BIN_EXE_floodway");
    let mut fleet = Fleet::start_with(&more, exe, dir.folder("fleet"), [ORIGIN]);
    let _liar = relay(&mut fleet, "liar", &lies);
    let agents = fleet.agents(2);
    let task = task_id(&fleet.create_task(&format!("{ORIGIN}disk.img"), Some("all")));
    // Agents hold some pieces when the others come, the false one among them: control has signed it.
    for agent in &agents {
        wait_until("a piece of the liar", Site::PATIENCE, || {
            let got = agent.metric("floodway_peer_received_bytes_total");
            (got >= 5 * PIECE).then_some(())
        });
    }
    let first = fleet.task(&task)["sid"].as_str().unwrap().to_owned();
    let mut others = ["one", "two"].map(|name| relay(&mut fleet, name, &honest));

    let ended = fleet.await_task(&task, &["done", "failed"], Site::PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    for agent in &agents {
        assert!(fs::read(agent.files.join("disk.img")).unwrap() == honest.body());
        assert_eq!(agent.metric("floodway_origin_body_bytes_total"), 0);
    }
    // What was true is not fetched again.
    for agent in ended["agents"].as_array().unwrap() {
        let kept = agent["sources"]["resumed"].as_u64().unwrap();
        assert!(kept >= 2 * PIECE, "{ended:#}");
        assert_eq!(agent["bytes"], LENGTH, "{ended:#}");
    }
    let successor = ended["sid"].as_str().unwrap();
    assert_ne!(successor, first);
    let State::Superseded {
        reason,
        successor: named,
    } = end_of(&fleet, &first)
    else {
        panic!("the first content is not superseded: {ended:#}");
    };
    assert_eq!(
        (reason, named.to_string()),
        (EndReason::FalseFact, successor.to_owned())
    );
    let why = listed(&fleet, "liar");
    assert!(
        why["distrusted"].as_str().unwrap().contains("piece 0 of"),
        "{why}"
    );
    for relay in ["one", "two"] {
        let trusted = listed(&fleet, relay);
        assert_eq!(trusted["distrusted"], Value::Null, "{trusted}");
    }

    let said = fleet.cli().args(["node", "list"]).run().expect_code(0);
    assert!(
        said.stdout.contains("is not trusted any more, since"),
        "{}",
        said.stdout
    );
    (fleet.cli().args(["node", "trust", "liar"]).run()).expect_code(0);
    assert_eq!(listed(&fleet, "liar")["distrusted"], Value::Null);
    // It alone is there for the next object.
    for relay in &mut others {
        relay.process.signal(Signal::TERM);
        relay.process.wait();
    }
    let again = format!("{ORIGIN}again.img");
    let task = task_id(&fleet.create_task(&again, None));
    wait_until("a piece that it reported", Site::PATIENCE, || {
        let sealed = fleet.task(&task)["growth"]["sealed"].as_u64();
        sealed.is_some_and(|sealed| sealed > 0).then_some(())
    });
}
