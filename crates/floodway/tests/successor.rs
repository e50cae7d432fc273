//! An object that changes while it is fetched, and an agent that is killed meanwhile: what both versions have is not fetched again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use floodway_testkit::{Fleet, Node, Site, TestDir, random_bytes, task_id, wait_until};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Site::PATIENCE;

/// Replaces a file by another version, so that its date tells.
fn replace(path: &Path, bytes: &[u8]) {
    let next = path.with_extension("next");
    fs::write(&next, bytes).unwrap();
    let later = SystemTime::now() + Duration::from_secs(100);
    let file = fs::File::options().write(true).open(&next).unwrap();
    file.set_modified(later).unwrap();
    fs::rename(next, path).unwrap();
}

/// A relay that reads its own files at a limited rate, and an agent.
struct Stage {
    fleet: Fleet,
    _relay: Node,
    agent: Node,
    origin: PathBuf,
    _dir: TestDir,
}

impl Stage {
    fn new(rate: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = TestDir::new();
        let origin = dir.folder("origin");
        prepare(&origin);
        let allowed = format!("file://{}", origin.display());
        let mut fleet = Fleet::start(
            env!("CARGO_BIN_EXE_floodway"),
            dir.folder("fleet"),
            [allowed],
        );
        let token = fleet.join_token();
        let relay = fleet.node("relay", &token, &["--max-down", rate]);
        let agent = fleet.agents(1).remove(0);
        fleet.await_live_nodes(2);
        Self {
            fleet,
            _relay: relay,
            agent,
            origin,
            _dir: dir,
        }
    }

    /// Distributes `name`; when the agent has `enough` bytes it is killed, the origin changes, and it starts again once control
    /// knows of the change. Gives the task as it ended.
    fn change_midway(&mut self, name: &str, enough: u64, change: impl FnOnce(&Path)) -> Value {
        let url = format!("file://{}/{name}", self.origin.display());
        let task = task_id(&self.fleet.create_task(&url, Some("all")));
        wait_until("bytes at the agent", PATIENCE, || {
            (self.agent.metric("floodway_peer_received_bytes_total") >= enough).then_some(())
        });
        self.agent.process.kill9();
        let first = self.fleet.task(&task)["sid"].clone();
        change(&self.origin);
        wait_until("another content", PATIENCE, || {
            let now = self.fleet.task(&task)["sid"].clone();
            (now.is_string() && now != first).then_some(())
        });
        self.agent.restart();
        let ended = self.fleet.await_task(&task, &["done", "failed"], PATIENCE);
        assert_eq!(ended["state"], "done", "{ended:#}");
        ended
    }
}

fn resumed(ended: &Value) -> u64 {
    ended["agents"][0]["sources"]["resumed"].as_u64().unwrap()
}

#[test]
fn a_successor_keeps_what_an_agent_had_before_it_was_killed() {
    // A relay looks at the file again every 64 MiB: after 8 s here. Before that the change must be made, also on a busy machine.
    let mut bytes = random_bytes(80 * MIB, 1);
    let mut stage = Stage::new("8MiB/s", |origin| {
        fs::write(origin.join("disk.img"), &bytes).unwrap();
    });
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let ended = stage.change_midway("disk.img", 12 * MIB, |origin| {
        replace(&origin.join("disk.img"), &bytes);
    });
    assert!(resumed(&ended) >= 10 * MIB, "{ended:#}");
    assert!(fs::read(stage.agent.files.join("disk.img")).unwrap() == bytes);
}

#[test]
fn a_folder_that_changes_keeps_its_equal_files_across_a_restart_of_the_agent() {
    let path = |file: u64| format!("set/part {file:02}.bin");
    let old: Vec<Vec<u8>> = (0..12)
        .map(|file| random_bytes(2 * MIB + file, file))
        .collect();
    let mut stage = Stage::new("4MiB/s", |origin| {
        fs::create_dir(origin.join("set")).unwrap();
        for (file, bytes) in (0..).zip(&old) {
            fs::write(origin.join(path(file)), bytes).unwrap();
        }
    });
    let grown = random_bytes(3 * MIB, 77);
    let ended = stage.change_midway("set/", 6 * MIB, |origin| {
        // All that follow get other numbers for their pieces.
        fs::write(origin.join("set/a new one"), b"new").unwrap();
        fs::remove_file(origin.join(path(0))).unwrap();
        replace(&origin.join(path(11)), &grown);
    });
    assert!(resumed(&ended) >= 3 * MIB, "{ended:#}");
    let set = stage.agent.files.join("set");
    assert_eq!(fs::read_dir(&set).unwrap().count(), 12);
    assert_eq!(fs::read(set.join("a new one")).unwrap(), b"new");
    for (file, bytes) in (0..).zip(&old).filter(|(file, _)| ![0, 11].contains(file)) {
        let found = stage.agent.files.join(path(file));
        assert!(fs::read(found).unwrap() == *bytes, "{file}");
    }
    assert!(fs::read(stage.agent.files.join(path(11))).unwrap() == grown);
}
