//! Folders: many files as one content, from the origin to agents, `get` and stock clients.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use floodway_testkit::third_party::Libtorrent;
use floodway_testkit::{
    Fleet, Nginx, Node, Site, TestDir, random_bytes, request, task_id, wait_until, without_key,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// Some pieces' length.
const PIECE: u64 = 256 << 10;
const PATIENCE: Duration = Site::PATIENCE;

/// The files of a folder: bytes by path.
type Files = BTreeMap<String, Vec<u8>>;

/// 80 files in some folders: one is empty, one has one byte, some have just a piece or a block.
fn eighty() -> Files {
    let length = |file: u64| match file {
        7 => 0,
        11 => 1,
        23 => PIECE,
        31 => 2 * PIECE + 1,
        42 => 16 << 10,
        79 => 3 * MIB + 77,
        other => other * 4111 % (2 * PIECE) + 2,
    };
    let path = |file: u64| match file % 4 {
        0 => format!("shard-{file:03}.bin"),
        1 => format!("weights/part {file}.safetensors"),
        2 => format!("weights/deep/er/{file}"),
        _ => format!("ü/{file}.txt"),
    };
    (0..80)
        .map(|file| (path(file), random_bytes(length(file), file)))
        .collect()
}

fn write(folder: &Path, files: &Files) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The folder has these files, with these bytes.
#[track_caller]
fn assert_has(folder: &Path, files: &Files) {
    for (path, bytes) in files {
        let place = folder.join(path);
        let found = fs::read(&place);
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", place.display()));
        assert!(found == *bytes, "{} differs", place.display());
    }
}

/// The folder has these files, with these bytes, and no others.
#[track_caller]
fn assert_is(folder: &Path, files: &Files) {
    assert_has(folder, files);
    assert_eq!(count(folder), files.len());
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { count(&path) } else { 1 })
        .sum()
}

fn total(files: &Files) -> u64 {
    files.values().map(|bytes| bytes.len() as u64).sum()
}

#[test]
fn third_party_libtorrent_eighty_files_are_one_swarm_from_the_origin_to_stock_clients() {
    let (Some(libtorrent), dir) = (Libtorrent::find(), TestDir::new()) else {
        return;
    };
    let files = eighty();
    write(&dir.folder("origin").join("model"), &files);
    // Slow enough that agents begin before relays have everything.
    let paced = Nginx::builder(dir.join("origin")).limit_rate(512);
    let Some(nginx) = paced.start() else {
        return;
    };
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [nginx.url("/model")],
    );
    let mut relays = fleet.relays(2);
    let agents = fleet.agents(2);
    fleet.await_live_nodes(4);
    let list = dir.join("list.txt");
    let paths: Vec<&str> = files.keys().rev().map(String::as_str).collect();
    fs::write(&list, paths.join("\n") + "\n\n").unwrap();
    let published = fleet
        .cli()
        .args(["publish", &nginx.url("/model/"), "--files"])
        .arg(&list)
        .args(["--to", "all", "--wait", "--json"])
        .patience(PATIENCE)
        .run()
        .expect_code(0)
        .last_json();
    assert_eq!(published["state"], "done", "{published:#}");
    assert_eq!(published["files"], 80);
    assert_eq!(published["length"], total(&files));
    for agent in &agents {
        assert_is(&agent.files.join("model"), &files);
    }
    let reports = published["agents"].as_array().unwrap();
    for agent in reports {
        assert_eq!(agent["sources"]["origin"], 0, "{published:#}");
    }
    assert!(
        reports.iter().any(|agent| agent["reason"] == "facts"),
        "{published:#}"
    );
    let sent: u64 = relays
        .iter()
        .map(|relay| relay.metric("floodway_origin_body_bytes_total"))
        .sum();
    assert!(
        sent <= total(&files) * 11 / 10,
        "{sent} bytes of one copy of {}",
        total(&files)
    );
    let sid = published["sid"].as_str().unwrap();
    // Each file of it can be read from a relay by its path.
    let urls = fleet
        .api()
        .post(
            &format!("/api/v1/s/{sid}/capability"),
            &json!({ "seconds": 600 }),
        )
        .expect_status(200)
        .json();
    let base = urls["urls"][0].as_str().unwrap().to_owned();
    let one = request(
        "GET",
        &format!("{base}model/weights/part%2029.safetensors"),
        &[("range", "bytes=5-9")],
        b"",
    )
    .expect_status(206);
    assert_eq!(one.body, files["weights/part 29.safetensors"][5..10]);
    request("GET", &format!("{base}model/none"), &[], b"").expect_status(404);
    // Nobody but the agents from here on.
    for relay in &mut relays {
        relay.process.kill9();
    }
    let out = dir.folder("out");
    let got = fleet.late_get(sid, &out);
    assert_eq!(got["bytes"], total(&files));
    assert_eq!(got["sha256"], Value::Null);
    assert_is(&out.join("model"), &files);
    // Stdout is for one file.
    let refused = fleet
        .cli_with(&fleet.join_token())
        .args(["get", &format!("floodway:{sid}"), "-o", "-"])
        .args(["--listen", "127.0.0.1:0"])
        .run()
        .expect_code(2);
    assert!(
        refused.stderr.contains("is a folder of files") && refused.stdout.is_empty(),
        "{}",
        refused.stderr
    );
    // Stock clients of both torrents get it from the agents: v1 with pad files, v2 without.
    for (format, ip) in [("v1", "127.0.0.2"), ("v2", "127.0.0.3")] {
        let torrent = fleet
            .api()
            .get(&format!("/api/v1/s/{sid}/torrent?format={format}"))
            .expect_status(200);
        let file = dir.join(format!("{format}.torrent"));
        fs::write(&file, without_key(&torrent.body, "url-list")).unwrap();
        let folder = dir.folder(format);
        libtorrent.transfer(&file, &folder, ip).event("done");
        assert_has(&folder.join("model"), &files);
    }
    // The same with nothing but links: info dicts and hashes come from the agents too.
    for (format, ip) in [("v1", "127.0.0.4"), ("v2", "127.0.0.5")] {
        let link = fleet.magnet(sid, format);
        let folder = dir.folder(&format!("{format} by link"));
        let mut client = libtorrent.magnet(&link, &folder, ip);
        let metadata = client.event("metadata");
        assert_eq!(metadata["v2"], format == "v2", "{metadata}");
        client.event("done");
        assert_has(&folder.join("model"), &files);
    }
}

#[test]
fn a_folder_of_a_relay_is_walked_and_an_agent_killed_midway_places_all_of_it_together() {
    let dir = TestDir::new();
    let mut files = Files::new();
    for file in 0..12 {
        let bytes = random_bytes(2 * MIB + file * 1000, file);
        files.insert(format!("part {}/{file}", file % 3), bytes);
    }
    let origin = dir.folder("origin").join("set");
    write(&origin, &files);
    std::os::unix::fs::symlink("0", origin.join("part 0/linked")).unwrap();
    files.insert("part 0/linked".into(), files["part 0/0"].clone());
    let url = format!("file://{}/", origin.display());
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [format!("file://{}", dir.join("origin").display())],
    );
    let token = fleet.join_token();
    // So that there is a midway.
    let mut relay = fleet.node("relay", &token, &["--max-up", "2MiB/s"]);
    let mut agent = fleet.agents(1).remove(0);
    fleet.await_live_nodes(2);
    let task = task_id(&fleet.create_task(&url, Some("all")));
    wait_until("bytes at the agent", PATIENCE, || {
        (agent.metric("floodway_peer_received_bytes_total") >= 4 * MIB).then_some(())
    });
    agent.process.kill9();
    assert!(!agent.files.join("set").exists(), "not before all is there");
    assert!(agent.files.join("set.floodway").is_dir());
    relay.restart();
    agent.restart();
    let ended = fleet.await_task(&task, &["done", "failed"], PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(ended["agents"][0]["sources"]["resumed"].as_u64() > Some(0));
    assert_is(&agent.files.join("set"), &files);
    assert_eq!(fs::read_dir(&agent.files).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_a_folder_is_refused_with_a_text() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    let set = dir.folder("origin/set");
    fs::write(set.join("a"), "a").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", set.join("out")).unwrap();
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [
            format!("file://{}", origin.display()),
            "http://127.0.0.1:1/".to_owned(),
        ],
    );
    let _relays = fleet.relays(1);
    fleet.await_live_nodes(1);
    let failed = |url: &str| {
        let task = task_id(&fleet.create_task(url, None));
        let ended = fleet.await_task(&task, &["failed", "final"], PATIENCE);
        ended["reason"].as_str().unwrap_or_default().to_owned()
    };
    let url = format!("file://{}/set/", origin.display());
    let reason = failed(&url);
    assert!(reason.contains("leads out of the folder"), "{reason}");
    let reason = failed(&format!("file://{}/none/", origin.display()));
    assert!(reason.contains("No such file"), "{reason}");
    let list = dir.join("list");
    let publish = |url: &str, files: &str| {
        fs::write(&list, files).unwrap();
        let output = fleet
            .cli()
            .args(["publish", url, "--files"])
            .arg(&list)
            .run();
        (output.code, output.stderr)
    };
    for (url, files, says) in [
        (url.as_str(), "a\n../set/a\n", "`../set/a`"),
        (&url, "a\na/b\n", "cannot lie in one folder"),
        (&url, "", "1 to 32000 files, not 0"),
        ("http://127.0.0.1:1/x", "a\n", "ends in `/`"),
    ] {
        let (code, text) = publish(url, files);
        assert!(code != 0 && text.contains(says), "{code}: {text}");
    }
    let output = fleet.cli().args(["publish", "http://127.0.0.1:1/x/"]).run();
    assert!(output.stderr.contains("--files LIST"), "{}", output.stderr);
    // Only what is named is looked at.
    let task = fleet
        .api()
        .post("/api/v1/tasks", &json!({ "url": url, "files": ["a"] }));
    let ended = fleet.await_task(&task_id(&task.json()), &["failed", "final"], PATIENCE);
    assert_eq!(
        (&ended["state"], &ended["files"]),
        (&json!("final"), &json!(1))
    );
}

/// A folder at an origin that gives dates but no ETags, two relays and two agents.
struct Weak {
    nginx: Nginx,
    origin: PathBuf,
    fleet: Fleet,
    relays: Vec<Node>,
    agents: Vec<Node>,
    _dir: TestDir,
}

impl Weak {
    fn start(files: &Files, kib_per_second: u64) -> Option<Self> {
        let dir = TestDir::new();
        let origin = dir.folder("origin").join("set");
        write(&origin, files);
        let paced = Nginx::builder(dir.join("origin")).limit_rate(kib_per_second);
        let nginx = paced.no_etags().start()?;
        let mut fleet = Fleet::start(
            env!("CARGO_BIN_EXE_floodway"),
            dir.folder("fleet"),
            [nginx.url("/set")],
        );
        let (relays, agents) = (fleet.relays(2), fleet.agents(2));
        fleet.await_live_nodes(4);
        Some(Self {
            nginx,
            origin,
            fleet,
            relays,
            agents,
            _dir: dir,
        })
    }

    fn publish(&self, files: &Files) -> String {
        let paths: Vec<&String> = files.keys().collect();
        let create = json!({ "url": self.nginx.url("/set/"), "files": paths, "to": "all" });
        task_id(&self.fleet.api().post("/api/v1/tasks", &create).json())
    }

    /// What relays read of the files, probes left out.
    fn read(&self) -> u64 {
        let read = self
            .relays
            .iter()
            .map(|relay| relay.metric("floodway_origin_body_bytes_total"));
        read.sum()
    }
}

#[test]
fn files_without_strong_validators_are_read_once_by_one_relay() {
    let mut files = Files::new();
    for (path, length) in [
        ("a", PIECE + 5),
        ("b/empty", 0),
        ("b/one", 1),
        ("c", 3 * MIB),
    ] {
        files.insert(path.into(), random_bytes(length, length));
    }
    let Some(weak) = Weak::start(&files, 4096) else {
        return;
    };
    let task = weak.publish(&files);
    let ended = weak.fleet.await_task(&task, &["done", "failed"], PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    for agent in &weak.agents {
        assert_is(&agent.files.join("set"), &files);
    }
    let (read, total) = (weak.read(), total(&files));
    assert!((total..total + 100).contains(&read), "{read} of {total}");
    assert_eq!(weak.nginx.body_bytes("/set/c"), files["c"].len() as u64);
}

#[test]
fn a_file_that_gets_another_date_midway_makes_another_content() {
    let mut files = Files::new();
    files.insert("a".into(), random_bytes(2 * MIB, 1));
    files.insert("z".into(), random_bytes(PIECE, 2));
    let Some(weak) = Weak::start(&files, 1024) else {
        return;
    };
    let task = weak.publish(&files);
    wait_until("the first file to be read", PATIENCE, || {
        (weak.read() > MIB / 2).then_some(())
    });
    let before = weak.fleet.task(&task)["sid"].clone();
    // As long as it was: only its date tells.
    files.insert("z".into(), random_bytes(PIECE, 3));
    let next = weak.origin.join("next");
    fs::write(&next, &files["z"]).unwrap();
    let later = SystemTime::now() + Duration::from_secs(100);
    let file = fs::File::options().write(true).open(&next).unwrap();
    file.set_modified(later).unwrap();
    fs::rename(&next, weak.origin.join("z")).unwrap();
    let ended = weak.fleet.await_task(&task, &["done", "failed"], PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert_ne!(ended["sid"], before);
    for agent in &weak.agents {
        assert_is(&agent.files.join("set"), &files);
    }
}
