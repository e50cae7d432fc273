//! When the relays are gone for good, a node may read the origin itself. It goes on with what it has.

use std::fs;

use floodway_testkit::{
    Fleet, Lie, ScriptedOrigin, Site, TestDir, random_bytes, task_id, wait_until,
};

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 16 * MIB;

#[test]
fn who_reads_the_origin_instead_of_a_dead_relay_keeps_what_was_verified() {
    let dir = TestDir::new();
    let origin = ScriptedOrigin::start_limited(random_bytes(LENGTH, 6), Lie::None, MIB / 2);
    let config = dir.join("control.toml");
    // A dead relay is given up sooner than by default, for the test's sake.
    fs::write(&config, "[advanced]\nnode_timeout = \"6s\"\n").unwrap();
    let more = ["--config", config.to_str().unwrap()];
    let exe = env!("CARGO_BIN_EXE_floodway");
    let mut fleet = Fleet::start_with(&more, exe, dir.folder("fleet"), [origin.url("/")]);
    let agents = fleet.agents(1);
    let mut relays = fleet.relays(1);
    let task = task_id(&fleet.create_task(&origin.url("/disk.img"), Some("all")));
    wait_until("half of it from the relay", Site::PATIENCE, || {
        let got = agents[0].metric("floodway_peer_received_bytes_total");
        (got >= LENGTH / 2).then_some(())
    });
    relays[0].process.kill9();
    let ended = fleet.await_task(&task, &["done", "failed"], Site::PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(fs::read(agents[0].files.join("disk.img")).unwrap() == origin.body());
    let agent = &ended["agents"][0];
    let (resumed, read) = (&agent["sources"]["resumed"], &agent["sources"]["origin"]);
    let (resumed, read) = (resumed.as_u64().unwrap(), read.as_u64().unwrap());
    assert!(resumed >= LENGTH / 4, "{ended:#}");
    assert_eq!(resumed + read, LENGTH, "{ended:#}");
    let reason = agent["reason"].as_str().unwrap();
    assert!(reason.starts_with("transport"), "{reason}");
}
