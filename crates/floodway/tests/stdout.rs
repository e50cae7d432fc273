//! `floodway get … -o -`: the file's bytes on stdout, in order, while they come, and nothing else there.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use floodway_testkit::{
    Fleet, Lie, Nginx, Output, Program, ScriptedOrigin, Site, TestDir, random_bytes, random_file,
    sha256_file, task_id,
};

const MIB: u64 = 1 << 20;

/// `get ARGS -o -` with JSON events, as a shell runs it with stdout in a file.
struct Piped {
    dir: TestDir,
}

impl Piped {
    fn new() -> Self {
        Self {
            dir: TestDir::new(),
        }
    }

    /// Where the bytes went.
    fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// For what is on its way.
    fn scratch(&self) -> PathBuf {
        self.dir.folder("scratch")
    }

    /// A shell that runs `script`, in which `"$@"` is the command.
    fn shell(&self, script: &str, args: &[&str]) -> Program {
        Program::new("/bin/sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_floodway")])
            .args(["get", "--json", "--listen", "127.0.0.1:0", "-o", "-"])
            .args(args)
            .env("TMPDIR", self.scratch())
            .folder(&self.dir)
    }

    #[track_caller]
    fn get(&self, args: &[&str]) -> Output {
        self.shell("exec \"$@\" >out", args).run()
    }

    /// Nothing is left of what was on its way.
    #[track_caller]
    fn assert_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.scratch()).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The last event, which goes to stderr.
#[track_caller]
fn last_event(output: &Output) -> serde_json::Value {
    let lines = output.stderr.lines().rev();
    let mut events = lines.filter_map(|line| serde_json::from_str(line).ok());
    let last = events.next();
    last.unwrap_or_else(|| panic!("no events: {}", output.stderr))
}

#[test]
fn a_plain_download_goes_to_stdout_and_events_to_stderr() {
    let piped = Piped::new();
    let origin = piped.dir.folder("origin");
    let sha256 = random_file(origin.join("disk.img"), 5 * MIB + 77, 3);
    random_file(origin.join("empty"), 0, 3);
    let Some(nginx) = Nginx::start(&origin) else {
        return;
    };
    let output = piped.get(&[&nginx.url("/disk.img")]).expect_code(0);
    assert_eq!(sha256_file(piped.out()), sha256);
    let done = last_event(&output);
    assert_eq!(done["event"], "done", "{done}");
    assert_eq!(done["path"], "-", "{done}");
    assert_eq!(done["sha256"], *sha256, "{done}");
    assert_eq!(done["bytes"], 5 * MIB + 77, "{done}");
    assert!(!output.stderr.contains("scratch"), "{}", output.stderr);
    piped.assert_clean();
    piped.get(&[&nginx.url("/empty")]).expect_code(0);
    assert_eq!(fs::read(piped.out()).unwrap(), b"");
    // Without events there is text on stderr, and on stdout still nothing but bytes.
    let output = Program::new("/bin/sh")
        .args([
            "-c",
            "exec \"$@\" >out",
            "sh",
            env!("CARGO_BIN_EXE_floodway"),
        ])
        .args(["get", &nginx.url("/disk.img"), "--output", "-"])
        .env("TMPDIR", piped.scratch())
        .folder(&piped.dir)
        .run()
        .expect_code(0);
    assert_eq!(sha256_file(piped.out()), sha256);
    assert!(
        output.stderr.contains("verified by transport"),
        "{}",
        output.stderr
    );
}

#[test]
fn an_origin_without_ranges_is_written_as_it_comes_even_when_it_breaks_off() {
    let body = random_bytes(2 * MIB, 5);
    let breaks_off = Lie::ShortBody {
        after: 700_000,
        times: 1,
        says_length: true,
    };
    for lie in [Lie::NoRanges, Lie::Chunked, breaks_off] {
        let piped = Piped::new();
        let origin = ScriptedOrigin::start(body.clone(), lie.clone());
        piped.get(&[&origin.url("/f")]).expect_code(0);
        assert!(fs::read(piped.out()).unwrap() == body, "{lie:?}");
        piped.assert_clean();
    }
}

#[test]
fn with_a_digest_nothing_is_written_before_it_was_compared() {
    for lie in [Lie::None, Lie::NoRanges] {
        let piped = Piped::new();
        let body = random_bytes(2 * MIB, 5);
        let origin = ScriptedOrigin::start(body.clone(), lie.clone());
        let url = origin.url("/f");
        let wrong = "0".repeat(64);
        let output = piped.get(&["--sha256", &wrong, &url]).expect_code(3);
        assert_eq!(fs::read(piped.out()).unwrap(), b"", "{lie:?}");
        assert_eq!(last_event(&output)["event"], "failed");
        piped.assert_clean();
        let right = piped.dir.join("right");
        fs::write(&right, &body).unwrap();
        piped
            .get(&["--sha256", &sha256_file(&right), &url])
            .expect_code(0);
        assert!(fs::read(piped.out()).unwrap() == body, "{lie:?}");
    }
}

#[test]
fn a_reader_that_has_enough_ends_it_with_a_reason() {
    let piped = Piped::new();
    let origin = ScriptedOrigin::start(random_bytes(4 * MIB, 5), Lie::None);
    let script = "{ \"$@\"; echo $? >code; } | head -c 1000 >out";
    let output = piped.shell(script, &[&origin.url("/f")]).run();
    assert_eq!(fs::read(piped.out()).unwrap(), origin.body()[..1000]);
    let code = fs::read_to_string(piped.dir.join("code")).unwrap();
    assert_eq!(code.trim(), "1", "{}", output.stderr);
    let failed = last_event(&output);
    assert_eq!(
        (&failed["event"], &failed["exit"]),
        (&"failed".into(), &1.into())
    );
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("closed it before the end"), "{error}");
    piped.assert_clean();
}

#[test]
fn what_goes_wrong_before_leaves_stdout_alone() {
    let piped = Piped::new();
    for (args, code) in [(&["--no-such-option"][..], 2), (&["no-such.torrent"], 4)] {
        let output = piped.get(args).expect_code(code);
        assert_eq!(fs::read(piped.out()).unwrap(), b"");
        assert_eq!(last_event(&output)["event"], "failed");
    }
}

#[test]
fn a_torrent_goes_to_stdout() {
    let piped = Piped::new();
    let (file, torrent) = (piped.dir.join("disk.img"), piped.dir.join("disk.torrent"));
    let sha256 = random_file(&file, 5 * MIB + 77, 4);
    let floodway = || Program::new(env!("CARGO_BIN_EXE_floodway"));
    floodway()
        .args(["torrent", "create"])
        .args([&file, Path::new("-o"), &torrent])
        .run()
        .expect_code(0);
    let mut seed = floodway()
        .args(["seed", "--listen", "127.0.0.1:0"])
        .args([&file, &torrent])
        .start();
    let peer = seed.ready().peer().to_owned();
    let output = piped
        .get(&[torrent.to_str().unwrap(), "--peer", &peer])
        .expect_code(0);
    assert_eq!(sha256_file(piped.out()), sha256);
    assert_eq!(last_event(&output)["verified_by"], "torrent");
    piped.assert_clean();
}

/// A running `get -o -` whose pipe the test holds.
struct Reading(Child);

impl Drop for Reading {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_from(fleet: &Fleet, source: &str, scratch: &Path) -> Reading {
    let child = Command::new(env!("CARGO_BIN_EXE_floodway"))
        .args([
            "get",
            "--quiet",
            "--listen",
            "127.0.0.1:0",
            source,
            "-o",
            "-",
        ])
        .env("FLOODWAY_CONTROL", fleet.url())
        .env("FLOODWAY_TOKEN", fleet.join_token())
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    Reading(child.expect("starting a get"))
}

#[test]
fn a_content_that_grows_is_read_while_the_relay_fetches_the_rest() {
    let dir = TestDir::new();
    let length = 16 * MIB;
    let origin = ScriptedOrigin::start_limited(random_bytes(length, 9), Lie::None, 2 * MIB);
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [origin.url("/")],
    );
    let relays = fleet.relays(1);
    fleet.await_live_nodes(1);
    let url = origin.url("/disk.img");
    let mut reading = read_from(&fleet, &url, &dir.folder("scratch"));
    let mut pipe = reading.0.stdout.take().unwrap();
    let mut bytes = vec![0; 1000];
    pipe.read_exact(&mut bytes).unwrap();
    let by_then = relays[0].metric("floodway_origin_body_bytes_total");
    assert!(by_then < length, "{by_then} bytes had been fetched");
    pipe.read_to_end(&mut bytes).unwrap();
    assert!(bytes == origin.body());
    assert!(reading.0.wait().unwrap().success());
    // And once more by its id, when it is final.
    let task = task_id(&fleet.create_task(&url, None));
    let task = fleet.await_task(&task, &["final"], Site::PATIENCE);
    let source = format!("floodway:{}", task["sid"].as_str().unwrap());
    let mut reading = read_from(&fleet, &source, &dir.folder("scratch"));
    let mut bytes = Vec::new();
    let mut pipe = reading.0.stdout.take().unwrap();
    pipe.read_to_end(&mut bytes).unwrap();
    assert!(bytes == origin.body());
    assert!(reading.0.wait().unwrap().success());
}
