//! `floodway get URL` from a real origin, without control and without peers: a plain download that resumes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use floodway_testkit::{
    Nginx, Program, Signal, TestDir, random_file, sha256_file, size_of, wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn floodway() -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
}

/// `get` with JSON events in its own folder.
fn get(dir: &TestDir, args: &[&str]) -> Program {
    floodway()
        .args(["get", "--json", "--no-dht", "--no-lsd"])
        .args(args)
        .folder(dir.folder("down"))
}

/// A folder for an origin with one random file, and its SHA-256.
fn origin_file(dir: &TestDir, name: &str, length: u64) -> String {
    random_file(dir.folder("origin").join(name), length, 7)
}

#[track_caller]
fn number(event: &Value, key: &str) -> u64 {
    event[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no number `{key}` in {event}"))
}

/// Each kept byte counts once.
#[track_caller]
fn assert_books_balance(done: &Value) {
    let sum: u64 = ["peer_bytes", "relay_bytes", "origin_bytes", "resumed_bytes"]
        .iter()
        .map(|key| number(done, key))
        .sum();
    assert_eq!(
        sum,
        number(done, "bytes"),
        "peer + relay + origin + resumed = bytes: {done}"
    );
    assert!(
        done["wasted_bytes"].is_u64() && done["reasons"].is_array(),
        "{done}"
    );
    assert!(
        done["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0),
        "{done}"
    );
}

/// No final file, and nothing but unfinished data beside it.
#[track_caller]
fn assert_no_final_file(path: &Path) {
    assert!(!path.exists(), "{} has the final name", path.display());
}

#[test]
fn a_plain_download_is_whole_and_accounted_for() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "disk.img", 32 * MIB + 12_345);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let output = get(&dir, &[&nginx.url("/disk.img")]).run().expect_code(0);
    let done = output.last_json();
    let path = dir.join("down/disk.img");
    assert_eq!(sha256_file(&path), sha256);
    assert_eq!(done["event"], "done");
    assert_eq!(
        done["path"],
        fs::canonicalize(&path).unwrap().to_str().unwrap()
    );
    assert_eq!(done["sha256"], *sha256);
    assert_eq!(done["verified_by"], "transport");
    assert_eq!(number(&done, "bytes"), 32 * MIB + 12_345);
    assert_eq!(number(&done, "origin_bytes"), 32 * MIB + 12_345);
    assert_books_balance(&done);
    let sent = nginx.body_bytes("/disk.img");
    assert!(
        sent <= 33 * MIB,
        "the origin sent {sent} bytes for one copy"
    );
    let names: Vec<_> = fs::read_dir(dir.join("down")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "nothing is left beside the file: {names:?}");
}

#[test]
fn an_empty_and_a_tiny_file_arrive() {
    let dir = TestDir::new();
    for length in [0, 1, 16_384] {
        origin_file(&dir, &format!("{length}.bin"), length);
    }
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    for length in [0, 1, 16_384] {
        let done = get(&dir, &[&nginx.url(&format!("/{length}.bin"))])
            .run()
            .expect_code(0)
            .last_json();
        assert_eq!(number(&done, "bytes"), length);
        assert_books_balance(&done);
        assert_eq!(
            size_of(dir.join(format!("down/{length}.bin"))),
            Some(length)
        );
    }
}

#[test]
fn output_names_follow_the_rules() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let url = nginx.url("/a.bin");
    dir.folder("down/existing");
    dir.folder("down/second");
    for (option, expected) in [
        ("existing", "existing/a.bin"),
        ("second/", "second/a.bin"),
        ("other.img", "other.img"),
    ] {
        let done = get(&dir, &[&url, "-o", option])
            .run()
            .expect_code(0)
            .last_json();
        let path = dir.join("down").join(expected);
        assert_eq!(sha256_file(&path), sha256, "-o {option}");
        assert_eq!(
            done["path"],
            fs::canonicalize(&path).unwrap().to_str().unwrap()
        );
    }
    // Folders are not made by guess.
    let output = get(&dir, &[&url, "-o", "missing/"]).run().expect_code(2);
    assert!(output.stderr.contains("missing"), "{}", output.stderr);
    // A query is no part of the name.
    get(&dir, &[&format!("{url}?token=x/y")])
        .run()
        .expect_code(0);
    assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
}

#[test]
fn a_hostile_name_stays_in_the_folder() {
    let dir = TestDir::new();
    let origin = floodway_testkit::ScriptedOrigin::start(
        floodway_testkit::random_bytes(1000, 1),
        floodway_testkit::Lie::None,
    );
    let before = fs::read_dir(&*dir).unwrap().count();
    for path in [
        "/..%2Fescaped",
        "/%2Fescaped",
        "/a/..",
        "/.",
        "/..%5Cescaped",
        "/%00",
        "/",
    ] {
        let output = get(&dir, &[&origin.url(path)]).run();
        assert!(
            matches!(output.code, 0 | 2),
            "{path}: exit {}\n{}",
            output.code,
            output.stderr
        );
    }
    // The folder `down` is new, nothing else is.
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), before + 1);
    assert!(!Path::new("/escaped").exists());
}

#[test]
fn an_existing_file_is_not_touched_without_overwrite() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let target = dir.folder("down").join("a.bin");
    fs::write(&target, "precious").unwrap();
    let output = get(&dir, &[&nginx.url("/a.bin")]).run().expect_code(2);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(output.last_json()["event"], "failed");
    assert_eq!(output.last_json()["exit"], 2);
    assert!(
        output.stderr.contains("--overwrite"),
        "the next step is named: {}",
        output.stderr
    );
    assert_eq!(
        nginx.body_bytes("/a.bin"),
        0,
        "nothing is fetched before that is clear"
    );
    get(&dir, &[&nginx.url("/a.bin"), "--overwrite"])
        .run()
        .expect_code(0);
    assert_eq!(sha256_file(&target), sha256);
}

#[test]
fn a_known_digest_makes_an_existing_file_done() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", 4 * MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let args = [&nginx.url("/a.bin"), "--sha256", &sha256];
    let first = get(&dir, &args).run().expect_code(0).last_json();
    assert_eq!(first["verified_by"], "digest");
    let sent = nginx.body_bytes("/a.bin");
    let again = get(&dir, &args).run().expect_code(0).last_json();
    assert_eq!(number(&again, "resumed_bytes"), 4 * MIB);
    assert_eq!(again["verified_by"], "digest");
    assert_books_balance(&again);
    assert!(
        nginx.body_bytes("/a.bin") <= sent + 1,
        "nothing is fetched again"
    );
}

#[test]
fn a_wrong_digest_leaves_no_final_file() {
    let dir = TestDir::new();
    origin_file(&dir, "a.bin", 4 * MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let wrong = "00".repeat(32);
    let output = get(&dir, &[&nginx.url("/a.bin"), "--sha256", &wrong])
        .run()
        .expect_code(3);
    assert_no_final_file(&dir.join("down/a.bin"));
    assert_eq!(output.last_json()["exit"], 3);
    assert!(
        output.stderr.contains(&wrong),
        "the digest that was expected: {}",
        output.stderr
    );
}

#[test]
fn the_digest_can_be_skipped() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", 4 * MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let done = get(&dir, &[&nginx.url("/a.bin"), "--no-digest"])
        .run()
        .expect_code(0)
        .last_json();
    assert_eq!(done["sha256"], Value::Null);
    assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
}

#[test]
fn a_local_file_is_a_source() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", 4 * MIB);
    let url = format!("file://{}", dir.join("origin/a.bin").display());
    let done = get(&dir, &[&url]).run().expect_code(0).last_json();
    assert_eq!(number(&done, "origin_bytes"), 4 * MIB);
    assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
    get(&dir, &[&format!("{url}.missing")]).run().expect_code(4);
}

#[test]
fn failures_have_their_exit_codes() {
    let dir = TestDir::new();
    origin_file(&dir, "a.bin", 1000);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let url = nginx.url("/a.bin");
    fs::write(dir.join("bad.torrent"), "d4:info").unwrap();
    let bad_torrent = dir.join("bad.torrent").display().to_string();
    let cases: &[(&[&str], i32)] = &[
        (&[&nginx.url("/missing")], 4),
        (&["missing.torrent"], 4),
        (&[&bad_torrent], 2),
        (&["http://127.0.0.1:1/a.bin"], 1),
        (&[&url, "--sha256", "xyz"], 2),
        (&[&url, "--max-down", "fast"], 2),
        (&[&url, "--no-such-option"], 2),
        (&["ftp://127.0.0.1/a.bin"], 2),
        (&["http://"], 2),
        (&[&url, "--no-origin"], 5),
    ];
    for (args, code) in cases {
        let output = get(&dir, args).run();
        assert_eq!(
            output.code, *code,
            "{args:?}\n{}\n{}",
            output.stdout, output.stderr
        );
        assert!(!output.stderr.trim().is_empty(), "{args:?} says nothing");
        assert!(
            !output.stderr.contains("panicked"),
            "{args:?}: {}",
            output.stderr
        );
    }
    assert_no_final_file(&dir.join("down/a.bin"));
}

#[test]
fn what_is_piped_has_no_escape_codes() {
    let dir = TestDir::new();
    origin_file(&dir, "a.bin", 16 * MIB);
    let Some(nginx) = Nginx::builder(dir.folder("origin"))
        .limit_rate(8 * 1024)
        .start()
    else {
        return;
    };
    let plain = floodway()
        .arg("get")
        .arg(nginx.url("/a.bin"))
        .folder(dir.folder("down"));
    let done = plain.run().expect_code(0);
    let failed = plain.clone().run().expect_code(2);
    for output in [done, failed] {
        for text in [&output.stdout, &output.stderr] {
            assert!(!text.contains('\x1b'), "an escape code in {text:?}");
            assert!(!text.contains('\r'), "a carriage return in {text:?}");
        }
    }
}

#[test]
fn json_is_one_object_a_line() {
    let dir = TestDir::new();
    origin_file(&dir, "a.bin", MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let output = get(&dir, &[&nginx.url("/a.bin")]).run().expect_code(0);
    for line in output.stdout.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["event"].is_string(), "{line}");
    }
}

/// Waits until unfinished data of some size lies beside the target.
fn await_progress(dir: &TestDir, name: &str) {
    wait_until(
        "unfinished data beside the target",
        Duration::from_secs(20),
        || {
            let folder = fs::read_dir(dir.join("down")).ok()?;
            let mut names = folder.flatten().map(|entry| entry.file_name());
            names
                .any(|found| {
                    found
                        .to_str()
                        .is_some_and(|n| n.starts_with(&format!("{name}.floodway")))
                })
                .then_some(())
        },
    );
}

#[test]
fn interrupted_then_run_again_it_resumes() {
    for signal in [Signal::INT, Signal::TERM] {
        let dir = TestDir::new();
        let sha256 = origin_file(&dir, "a.bin", 48 * MIB);
        // About five seconds.
        let builder = Nginx::builder(dir.folder("origin")).limit_rate(10 * 1024);
        let Some(nginx) = builder.start() else { return };
        let program = get(&dir, &[&nginx.url("/a.bin")]);
        let running = program.start();
        await_progress(&dir, "a.bin");
        // Not luck: the rate is given, and a quarter of the time gives about a quarter of the bytes.
        std::thread::sleep(Duration::from_millis(1500));
        running.signal(signal);
        let stopped = running.finish().expect_code(130);
        assert_no_final_file(&dir.join("down/a.bin"));
        assert_eq!(stopped.last_json()["exit"], 130, "{}", stopped.stdout);
        let first = nginx.body_bytes("/a.bin");
        let done = program.run().expect_code(0).last_json();
        assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
        assert_eq!(done["sha256"], *sha256);
        assert_books_balance(&done);
        let resumed = number(&done, "resumed_bytes");
        assert!(resumed > 4 * MIB, "{resumed} bytes of {first} resumed");
        let sent = nginx.body_bytes("/a.bin");
        assert!(
            sent < 48 * MIB + 8 * MIB,
            "{sent} bytes sent for 48 MiB after a graceful stop"
        );
    }
}

#[test]
fn one_process_a_target() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", 24 * MIB);
    let builder = Nginx::builder(dir.folder("origin")).limit_rate(6 * 1024);
    let Some(nginx) = builder.start() else { return };
    let program = get(&dir, &[&nginx.url("/a.bin")]);
    let first = program.start();
    await_progress(&dir, "a.bin");
    let second = program.run();
    assert!(
        matches!(second.code, 1 | 2 | 5),
        "exit {}: {}",
        second.code,
        second.stderr
    );
    assert!(
        second.seconds < 5.0,
        "it says so at once, not after {} s",
        second.seconds
    );
    first.finish().expect_code(0);
    assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
}

#[test]
fn an_origin_that_comes_back_is_read_on() {
    let dir = TestDir::new();
    let sha256 = origin_file(&dir, "a.bin", 32 * MIB);
    let builder = Nginx::builder(dir.folder("origin")).limit_rate(8 * 1024);
    let Some(mut nginx) = builder.start() else {
        return;
    };
    let running = get(&dir, &[&nginx.url("/a.bin")]).start();
    await_progress(&dir, "a.bin");
    nginx.stop();
    nginx.restart();
    let done = running.finish().expect_code(0).last_json();
    assert_eq!(sha256_file(dir.join("down/a.bin")), sha256);
    assert_books_balance(&done);
}

#[test]
fn timed_max_down_holds() {
    let dir = TestDir::new();
    origin_file(&dir, "a.bin", 24 * MIB);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let running = get(&dir, &[&nginx.url("/a.bin"), "--max-down", "2MiB/s"]).start();
    let done = running.finish().expect_code(0).last_json();
    let seconds = done["seconds"].as_f64().unwrap();
    // Twelve seconds at the rate; a second's worth of burst is fair, more is not.
    assert!(seconds > 10.5, "24 MiB at 2 MiB/s took only {seconds} s");
    assert!(seconds < 24.0, "24 MiB at 2 MiB/s took {seconds} s");
}
