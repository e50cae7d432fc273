//! Objects whose origin does not say how long they are: streamed like all others, from one chunked body that is read once.

use std::fs;
use std::thread;

use floodway_testkit::{
    Fleet, Lie, Node, Program, ScriptedOrigin, Seen, Site, TestDir, random_bytes, request, task_id,
    wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// The length of pieces while nobody knows that of the object.
const PIECE: u64 = 4 * MIB;

struct Stage {
    fleet: Fleet,
    origin: ScriptedOrigin,
    url: String,
    dir: TestDir,
}

impl Stage {
    fn new(length: u64, lie: Lie) -> Self {
        let dir = TestDir::new();
        let origin = ScriptedOrigin::start(random_bytes(length, 5), lie);
        let fleet = Fleet::start(
            env!("CARGO_BIN_EXE_floodway"),
            dir.folder("fleet"),
            [origin.url("/")],
        );
        Self {
            fleet,
            url: origin.url("/disk.img"),
            origin,
            dir,
        }
    }

    /// What the origin was asked for but for the first byte alone, which it does not know how to give.
    fn reads(&self) -> Vec<Seen> {
        let probes = |seen: &Seen| {
            seen.headers
                .get("range")
                .is_some_and(|range| range == "bytes=0-0")
        };
        let gets = self.origin.seen().into_iter();
        gets.filter(|seen| seen.method == "GET" && !probes(seen))
            .collect()
    }

    fn ends(&self, task: &str, agents: &[Node]) -> Value {
        let ended = self
            .fleet
            .await_task(task, &["done", "failed"], Site::PATIENCE);
        assert_eq!(ended["state"], "done", "{ended:#}");
        for agent in agents {
            assert!(fs::read(agent.files.join("disk.img")).unwrap() == self.origin.body());
        }
        ended
    }
}

#[test]
fn agents_have_pieces_of_a_chunked_body_before_its_end_is_sent() {
    // Two pieces and a short one, of which the origin keeps the most back.
    let length = 2 * PIECE + MIB + 12_345;
    let mut stage = Stage::new(length, Lie::ChunksWait(usize::try_from(MIB).unwrap()));
    let agents = stage.fleet.agents(2);
    let _relays = stage.fleet.relays(2);
    stage.fleet.await_live_nodes(4);
    let task = task_id(&stage.fleet.create_task(&stage.url, Some("all")));
    for agent in &agents {
        wait_until("two pieces at each agent", Site::PATIENCE, || {
            let task = stage.fleet.task(&task);
            let agents = task["agents"].as_array()?;
            let held = agents
                .iter()
                .all(|agent| agent["bytes"].as_u64() >= Some(2 * PIECE));
            held.then_some(())
        });
        assert!(!agent.files.join("disk.img").exists(), "it is not whole");
    }
    let token = stage.fleet.join_token();
    let args = ["get", &stage.url, "--no-p2p", "--json", "-o", "alone.img"];
    let mut alone = stage.fleet.cli_with(&token).args(args).start();
    alone.event("first_verified_piece");
    let growing = stage.fleet.task(&task);
    let sid = growing["sid"].as_str().unwrap().to_owned();
    assert!(growing["length"].is_null(), "{growing:#}");
    assert!(growing["growth"]["pieces"].is_null(), "{growing:#}");
    // A pipe and a plain HTTP client read on as bytes come.
    let piped = [
        "-c",
        "exec \"$@\" >piped.img",
        "sh",
        env!("CARGO_BIN_EXE_floodway"),
    ];
    let source = format!("floodway:{sid}");
    let args = [
        "get",
        &source,
        "--json",
        "--listen",
        "127.0.0.1:0",
        "-o",
        "-",
    ];
    let folder = stage.dir.folder("piped");
    let shell = Program::new("/bin/sh").args(piped).args(args);
    let shell = shell.env("FLOODWAY_CONTROL", stage.fleet.url());
    let shell = shell.env("FLOODWAY_TOKEN", &token);
    let piped = shell.folder(&folder).start();
    let at_pipe = folder.join("piped.img");
    wait_until("two pieces in the pipe", Site::PATIENCE, || {
        let written = fs::metadata(&at_pipe).ok()?.len();
        (written >= 2 * PIECE).then_some(())
    });
    let path = format!("/api/v1/s/{sid}/capability");
    let made = stage
        .fleet
        .api()
        .post(&path, &serde_json::json!({ "seconds": 600 }));
    let url = made.json()["urls"][0].as_str().unwrap().to_owned();
    let first = request("GET", &url, &[("range", "bytes=5-14")], b"").expect_status(206);
    assert_eq!(first.body, &stage.origin.body()[5..15]);
    assert_eq!(first.header("content-range"), Some("bytes 5-14/*"));
    let whole = thread::spawn(move || request("GET", &url, &[], b"").expect_status(200).body);

    wait_until("all but the end to be sent, once", Site::PATIENCE, || {
        let reads = stage.reads();
        matches!(&reads[..], [read] if read.body_bytes == length - MIB).then_some(())
    });
    stage.origin.release();
    let ended = stage.ends(&task, &agents);
    assert_eq!(ended["length"], length, "{ended:#}");
    for agent in ended["agents"].as_array().unwrap() {
        assert_eq!(agent["reason"], "facts", "{ended:#}");
        assert_eq!(agent["sources"]["origin"], 0, "{ended:#}");
    }
    let done = alone.finish().expect_code(0).last_json();
    assert_eq!(
        (&done["verified_by"], &done["bytes"]),
        (&"facts".into(), &length.into())
    );
    piped.finish().expect_code(0);
    assert!(fs::read(at_pipe).unwrap() == stage.origin.body());
    assert!(whole.join().unwrap() == stage.origin.body());
    // .. and after the end.
    let args = [
        "get",
        &source,
        "--json",
        "--listen",
        "127.0.0.1:0",
        "-o",
        "late.img",
    ];
    let late = stage.fleet.cli_with(&token).args(args).run().expect_code(0);
    assert_eq!(late.last_json()["sha256"], done["sha256"]);
    let [read] = &stage.reads()[..] else {
        panic!("one copy for all: {:#?}", stage.reads());
    };
    assert_eq!(read.body_bytes, length);
}

#[test]
fn another_relay_reads_on_from_the_beginning_when_the_first_dies() {
    let length = 2 * PIECE + MIB;
    let mut stage = Stage::new(length, Lie::ChunksWait(usize::try_from(MIB).unwrap()));
    let agents = stage.fleet.agents(1);
    let mut relays = stage.fleet.relays(2);
    stage.fleet.await_live_nodes(3);
    let task = task_id(&stage.fleet.create_task(&stage.url, Some("all")));
    wait_until("two pieces at the agent", Site::PATIENCE, || {
        let task = stage.fleet.task(&task);
        let held = task["agents"][0]["bytes"].as_u64();
        (held >= Some(2 * PIECE)).then_some(())
    });
    let reads = |relay: &Node| relay.metric("floodway_origin_body_bytes_total") > PIECE;
    let reader = relays.iter().position(reads).unwrap();
    relays[reader].process.kill9();
    wait_until("a second reader", Site::PATIENCE, || {
        (stage.reads().len() == 2).then_some(())
    });
    stage.origin.release();
    let ended = stage.ends(&task, &agents);
    assert_eq!(ended["agents"][0]["sources"]["origin"], 0, "{ended:#}");
    assert_eq!(ended["length"], length, "{ended:#}");
}

/// Without ranges, or without a length: read from the first byte on after a break.
fn breaking(times: usize) -> [Lie; 2] {
    let after = usize::try_from(PIECE + MIB).unwrap();
    [
        Lie::ChunksBreak { after, times },
        Lie::NoRangesBreak { after, times },
    ]
}

#[test]
fn a_whole_body_that_breaks_off_is_read_again_and_never_taken_for_the_whole() {
    for lie in breaking(1) {
        let mut stage = Stage::new(2 * PIECE + 7, lie);
        let agents = stage.fleet.agents(1);
        let _relays = stage.fleet.relays(1);
        stage.fleet.await_live_nodes(2);
        let task = task_id(&stage.fleet.create_task(&stage.url, Some("all")));
        let ended = stage.ends(&task, &agents);
        assert_eq!(ended["agents"][0]["sources"]["origin"], 0, "{ended:#}");
        assert_eq!(stage.reads().len(), 2, "{:#?}", stage.reads());
    }
}

#[test]
fn a_whole_body_that_always_breaks_off_is_given_up() {
    for lie in breaking(usize::MAX) {
        let mut stage = Stage::new(2 * PIECE, lie);
        let _relays = stage.fleet.relays(1);
        stage.fleet.await_live_nodes(1);
        let task = task_id(&stage.fleet.create_task(&stage.url, None));
        let ended = stage
            .fleet
            .await_task(&task, &["final", "failed"], Site::PATIENCE);
        assert_eq!(ended["state"], "failed", "{ended:#}");
        let reason = ended["reason"].as_str().unwrap();
        assert!(reason.contains("broke off 4 times"), "{reason}");
        assert_eq!(stage.reads().len(), 4, "{:#?}", stage.reads());
    }
}
