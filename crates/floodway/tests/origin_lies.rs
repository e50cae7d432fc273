//! Origins that lie, change, refuse or stall: never a wrong or mixed byte under the final name, a clear message, a
//! bounded cost.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use floodway_testkit::{
    Lie, Nginx, Output, Program, ScriptedOrigin, Seen, Signal, TestDir, random_bytes, random_file,
    sha256_file,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

struct Download {
    dir: TestDir,
    origin: ScriptedOrigin,
}

impl Download {
    fn new(length: u64, lie: Lie) -> Self {
        Self {
            dir: TestDir::new(),
            origin: ScriptedOrigin::start(random_bytes(length, 3), lie),
        }
    }

    fn limited(length: u64, lie: Lie, bytes_per_second: u64) -> Self {
        let body = random_bytes(length, 3);
        Self {
            dir: TestDir::new(),
            origin: ScriptedOrigin::start_limited(body, lie, bytes_per_second),
        }
    }

    fn program(&self) -> Program {
        Program::new(env!("CARGO_BIN_EXE_floodway"))
            .args(["get", "--json", &self.origin.url("/a.bin")])
            .folder(&*self.dir)
    }

    fn path(&self) -> PathBuf {
        self.dir.join("a.bin")
    }

    #[track_caller]
    fn run(&self) -> Output {
        self.program().run()
    }

    /// It must end well, with exactly the origin's body.
    #[track_caller]
    fn succeeds(&self) -> Value {
        let done = self.run().expect_code(0).last_json();
        let file = fs::read(self.path()).unwrap();
        assert!(
            file == self.origin.body(),
            "the file differs from the origin's object"
        );
        done
    }

    /// It must fail with this code, leave no final file and say a word of these.
    #[track_caller]
    fn fails(&self, code: i32, words: &[&str]) -> Output {
        let output = self.run().expect_code(code);
        assert!(!self.path().exists(), "there is a final file");
        let text = output.stderr.to_lowercase();
        assert!(
            words.iter().any(|word| text.contains(word)),
            "none of {words:?} in:\n{}",
            output.stderr
        );
        assert!(!text.contains("panicked"), "{}", output.stderr);
        let last = output.last_json();
        assert_eq!(
            (&last["event"], &last["exit"]),
            (&"failed".into(), &code.into())
        );
        output
    }

    /// It must either fail without a final file, or have one whole version of the object.
    #[track_caller]
    fn never_mixes(&self, output: &Output) {
        assert!(
            matches!(output.code, 0 | 1),
            "exit {}: {}",
            output.code,
            output.stderr
        );
        if output.code == 0 {
            let file = fs::read(self.path()).unwrap();
            assert!(
                file == self.origin.body() || file == self.origin.changed_body(),
                "the file is neither version of the object"
            );
        } else {
            assert!(!self.path().exists(), "failed, but there is a final file");
            let text = output.stderr.to_lowercase();
            assert!(
                text.contains("change"),
                "it says that the object changed: {}",
                output.stderr
            );
        }
    }
}

#[test]
fn the_scripted_origin_can_be_honest() {
    let download = Download::new(8 * MIB, Lie::None);
    assert_eq!(download.succeeds()["verified_by"], "transport");
    let seen = download.origin.seen();
    let data = seen.iter().filter(|seen| seen.body_bytes > 1);
    for request in data {
        let encoding = request.headers.get("accept-encoding").map(String::as_str);
        assert_eq!(encoding, Some("identity"), "{request:?}");
    }
    assert!(download.origin.body_bytes() <= 8 * MIB + 1024);
}

#[test]
fn ranges_after_the_first_reply_are_conditional() {
    let download = Download::new(80 * MIB, Lie::None);
    download.succeeds();
    for request in download
        .origin
        .seen()
        .iter()
        .filter(|seen| seen.body_bytes > 1)
        .skip(1)
    {
        let pinned = |name: &str| request.headers.get(name).is_some_and(|v| v == "\"first\"");
        assert!(
            pinned("if-match") || pinned("if-range"),
            "not pinned: {request:?}"
        );
    }
}

#[test]
fn the_whole_object_for_a_range_is_no_range() {
    let download = Download::new(8 * MIB, Lie::FullFor206);
    download.succeeds();
    assert!(
        download.origin.body_bytes() <= 2 * 8 * MIB + MIB,
        "{} bytes were sent for 8 MiB",
        download.origin.body_bytes()
    );
}

#[test]
fn another_range_than_asked_is_never_written() {
    let download = Download::new(80 * MIB, Lie::OtherRange);
    let output = download.run();
    if output.code == 0 {
        assert!(fs::read(download.path()).unwrap() == download.origin.body());
    } else {
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(!download.path().exists());
    }
}

#[test]
fn a_short_body_is_asked_for_again_or_refused() {
    for says_length in [true, false] {
        let lie = Lie::ShortBody {
            after: 3_000_001,
            times: 2,
            says_length,
        };
        let download = Download::new(8 * MIB, lie);
        let done = download.succeeds();
        assert_eq!(done["bytes"], 8 * MIB);
        assert!(
            download.origin.body_bytes() <= 8 * MIB + 2 * 3_000_001 + MIB,
            "what had come was thrown away: {} bytes sent",
            download.origin.body_bytes()
        );
    }
}

#[test]
fn bodies_that_are_always_short_are_said_and_not_hammered() {
    let lie = Lie::ShortBody {
        after: 0,
        times: usize::MAX,
        says_length: true,
    };
    let download = Download::new(8 * MIB, lie);
    let mut running = download.program().start();
    running.stderr_line("ended");
    thread::sleep(Duration::from_secs(10));
    let requests = download.origin.seen().len();
    assert!(requests < 20, "{requests} requests in ten seconds");
    running.kill9();
    assert!(!download.path().exists());
}

#[test]
fn an_encoded_body_is_refused() {
    let download = Download::new(MIB, Lie::Encodes);
    download.fails(1, &["encod", "gzip"]);
}

#[test]
fn nginx_with_gzip_on_is_read_plain() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    fs::write(origin.join("a.txt"), "line after line\n".repeat(200_000)).unwrap();
    let Some(nginx) = Nginx::builder(&origin).gzip().start() else {
        return;
    };
    Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args(["get", &nginx.url("/a.txt")])
        .folder(dir.folder("down"))
        .run()
        .expect_code(0);
    assert_eq!(
        sha256_file(dir.join("down/a.txt")),
        sha256_file(origin.join("a.txt"))
    );
}

#[test]
fn origins_without_ranges_are_read_by_one_get() {
    for lie in [Lie::NoRanges, Lie::Chunked] {
        let download = Download::new(8 * MIB, lie.clone());
        let done = download.succeeds();
        assert_eq!(done["origin_bytes"], 8 * MIB);
        // A probe for one byte may be answered with everything; that is broken off.
        let seen = download.origin.seen();
        let probe = |seen: &&Seen| seen.headers.get("range").is_some_and(|r| r == "bytes=0-0");
        let gets = seen.iter().filter(|seen| seen.method == "GET");
        assert_eq!(gets.filter(|seen| !probe(seen)).count(), 1, "{seen:#?}");
    }
}

#[test]
fn weak_or_missing_validators_mean_one_get_and_a_reason() {
    for lie in [Lie::WeakEtag, Lie::NoValidator, Lie::OnlyLastModified] {
        let download = Download::new(80 * MIB, lie.clone());
        let done = download.succeeds();
        assert_eq!(done["verified_by"], "transport", "{lie:?}");
        let reasons = done["reasons"].as_array().unwrap();
        assert!(
            !reasons.is_empty(),
            "{lie:?}: `reasons` says that only the length was checked"
        );
        let big = download
            .origin
            .seen()
            .iter()
            .filter(|seen| seen.body_bytes > MIB)
            .count();
        assert_eq!(big, 1, "{lie:?}: ranges of it must not be combined");
    }
}

#[test]
fn a_stopped_download_that_cannot_resume_does_not_promise_it() {
    let download = Download::limited(32 * MIB, Lie::NoValidator, 4 * MIB);
    let mut running = download.program().start();
    running.event("progress");
    running.signal(Signal::INT);
    let stopped = running.finish().expect_code(130);
    let error = stopped.last_json()["error"].to_string();
    assert!(
        error.contains("begins anew") && !stopped.stderr.contains("to resume"),
        "{error}\n{}",
        stopped.stderr
    );
    assert!(!download.path().exists());
}

#[test]
fn an_object_that_changes_between_requests_is_never_mixed() {
    for lie in [Lie::ChangesAt(1), Lie::ChangesAndIgnoresIfMatch(1)] {
        let download = Download::new(160 * MIB, lie);
        download.never_mixes(&download.run());
    }
}

#[test]
fn an_object_that_changes_before_a_resume_is_never_mixed() {
    for lie in [Lie::ChangesAt(2), Lie::ChangesAndIgnoresIfMatch(2)] {
        let download = Download::limited(32 * MIB, lie, 4 * MIB);
        let mut running = download.program().start();
        floodway_testkit::wait_until("some bytes", Duration::from_secs(20), || {
            (download.origin.body_bytes() > 4 * MIB).then_some(())
        });
        running.kill9();
        // Whatever was asked so far was the old object; from the third data request on there is another.
        while floodway_testkit::request(
            "GET",
            &download.origin.url("/x"),
            &[("Range", "bytes=0-9")],
            b"",
        )
        .header("etag")
            == Some("\"first\"")
        {}
        download.never_mixes(&download.run());
    }
}

#[test]
fn a_file_replaced_midway_on_nginx_is_never_mixed() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    let first = random_file(origin.join("a.bin"), 160 * MIB, 1);
    let second = random_file(origin.join("next"), 160 * MIB, 2);
    // Another second, so that nginx makes another ETag.
    let later = SystemTime::now() + Duration::from_secs(100);
    File::options()
        .write(true)
        .open(origin.join("next"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    let Some(nginx) = Nginx::builder(&origin).limit_rate(24 * 1024).start() else {
        return;
    };
    let running = Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args(["get", "--json", &nginx.url("/a.bin")])
        .folder(dir.folder("down"))
        .start();
    floodway_testkit::wait_until("the download to begin", Duration::from_secs(20), || {
        fs::read_dir(dir.join("down")).ok()?.next().map(|_| ())
    });
    fs::rename(origin.join("next"), origin.join("a.bin")).unwrap();
    let output = running.finish();
    assert!(
        matches!(output.code, 0 | 1),
        "exit {}: {}",
        output.code,
        output.stderr
    );
    if output.code == 0 {
        let got = sha256_file(dir.join("down/a.bin"));
        assert!(got == first || got == second, "the file is neither version");
        assert_eq!(output.last_json()["sha256"], *got);
    } else {
        assert!(!dir.join("down/a.bin").exists());
        assert!(output.stderr.contains("change"), "{}", output.stderr);
    }
}

#[test]
fn a_truncated_object_is_never_taken_for_whole() {
    let download = Download::new(160 * MIB, Lie::Truncated(1000));
    let output = download.run();
    if output.code == 0 {
        assert!(fs::read(download.path()).unwrap() == download.origin.body());
    } else {
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(!download.path().exists());
    }
}

#[test]
fn a_missing_object_is_exit_4_and_a_refused_one_not_retried_for_long() {
    for status in [404, 410] {
        let download = Download::new(MIB, Lie::Status(status));
        download.fails(4, &["404", "410", "not found", "no such"]);
        assert!(
            download.origin.seen().len() <= 3,
            "{:?}",
            download.origin.seen()
        );
    }
    for status in [401, 403] {
        let download = Download::new(MIB, Lie::Status(status));
        let output = download.run();
        assert!(
            matches!(output.code, 1 | 5),
            "{}: {}",
            output.code,
            output.stderr
        );
        assert!(
            output.stderr.contains(&status.to_string()),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_busy_origin_is_given_the_time_it_asks_for() {
    for status in [429, 503] {
        let download = Download::new(4 * MIB, Lie::Busy { status, times: 2 });
        download.succeeds();
        let seen = download.origin.seen();
        let refused: Vec<_> = seen.iter().filter(|seen| seen.status == status).collect();
        assert_eq!(refused.len(), 2, "{seen:?}");
        for pair in seen.windows(2).filter(|pair| pair[0].status == status) {
            let pause = pair[1].at.saturating_sub(pair[0].at);
            assert!(
                pause >= Duration::from_millis(1950),
                "asked again after {pause:?}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_stalled_reply_is_given_up_and_asked_for_again() {
    let download = Download::new(8 * MIB, Lie::Stalls(1_000_000));
    let output = download
        .program()
        .patience(Duration::from_mins(2))
        .run()
        .expect_code(0);
    assert!(fs::read(download.path()).unwrap() == download.origin.body());
    assert!(output.seconds < 90.0, "{} s", output.seconds);
    let sent = download.origin.body_bytes();
    assert!(
        sent <= 9 * MIB + 1_000_000,
        "what had come was thrown away: {sent} bytes sent"
    );
}

#[test]
fn redirects_are_followed_and_remembered_but_not_for_ever() {
    let download = Download::new(80 * MIB, Lie::Redirects(2));
    download.succeeds();
    let seen = download.origin.seen();
    let redirects = seen.iter().filter(|seen| seen.status == 302).count();
    let data = seen.iter().filter(|seen| seen.body_bytes > 1).count();
    assert!(
        redirects <= 4,
        "{redirects} redirects for {data} requests: they are remembered"
    );

    let endless = Download::new(MIB, Lie::Redirects(1000));
    endless.fails(1, &["redirect"]);
    assert!(
        endless.origin.seen().len() < 60,
        "{} requests",
        endless.origin.seen().len()
    );

    let elsewhere = Download::new(MIB, Lie::RedirectsTo("ftp://127.0.0.1/x".into()));
    elsewhere.fails(1, &["redirect", "ftp"]);
}
