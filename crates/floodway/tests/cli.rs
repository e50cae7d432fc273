//! The command line itself: help, errors with hints, exit codes, sample configurations.

use std::fs;

use floodway_testkit::{Output, Program, TestDir};

fn floodway() -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
}

/// Exit code, stdout and stderr in one text.
fn transcript(output: &Output) -> String {
    format!(
        "exit: {}\n----- stdout -----\n{}\n----- stderr -----\n{}",
        output.code, output.stdout, output.stderr
    )
}

/// Runs in an empty folder.
fn run(args: &[&str]) -> Output {
    let dir = TestDir::new();
    let output = floodway().args(args).folder(&*dir).run();
    assert_eq!(
        fs::read_dir(&*dir).unwrap().count(),
        0,
        "{args:?} left something behind"
    );
    output
}

/// A snapshot of what a command prints, with what differs from machine to machine taken out.
macro_rules! snapshot {
    ($name:literal, $args:expr) => {{
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(r"/tmp/\S*floodway-test-\w+", "[DIR]");
        settings.add_filter(r"127\.0\.0\.1:\d{2,5}", "[ADDR]");
        settings.add_filter(r"floodway \d+\.\d+\.\d+", "floodway [VERSION]");
        settings.add_filter(r"\(\d+\.\d+\.\d+\)", "([VERSION])");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_description(format!("floodway {}", $args.join(" ")));
        settings.bind(|| insta::assert_snapshot!($name, transcript(&run(&$args))));
    }};
}

#[test]
fn help_of_every_command() {
    snapshot!("help", ["--help"]);
    snapshot!("help-get", ["get", "--help"]);
    snapshot!("help-seed", ["seed", "--help"]);
    snapshot!("help-publish", ["publish", "--help"]);
    snapshot!("help-control", ["control", "--help"]);
    snapshot!("help-relay", ["relay", "--help"]);
    snapshot!("help-agent", ["agent", "--help"]);
    snapshot!("help-serve", ["serve", "--help"]);
    snapshot!("help-torrent", ["torrent", "--help"]);
    snapshot!("help-torrent-create", ["torrent", "create", "--help"]);
    snapshot!("help-task", ["task", "--help"]);
    snapshot!("help-node", ["node", "--help"]);
    snapshot!("help-node-token", ["node", "token", "--help"]);
    snapshot!("help-node-trust", ["node", "trust", "--help"]);
    snapshot!("help-demo", ["demo", "--help"]);
    snapshot!("version", ["--version"]);
}

#[test]
fn errors_say_what_whose_fault_and_what_next() {
    snapshot!("error-no-command", [""; 0] as [&str; 0]);
    snapshot!("error-unknown-command", ["fetch"]);
    snapshot!(
        "error-unknown-option",
        ["get", "http://127.0.0.1/x", "--fast"]
    );
    snapshot!(
        "error-bad-size",
        ["torrent", "create", "x", "--piece-length", "big"]
    );
    snapshot!(
        "error-bad-rate",
        ["get", "http://127.0.0.1/x", "--max-down", "fast"]
    );
    snapshot!(
        "error-bad-sha256",
        ["get", "http://127.0.0.1/x", "--sha256", "abc"]
    );
    snapshot!("error-missing-torrent", ["get", "missing.torrent"]);
    snapshot!("error-missing-file", ["torrent", "create", "missing"]);
    snapshot!("error-refused-connection", ["get", "http://127.0.0.1:1/x"]);
    snapshot!("error-no-token", ["task", "list"]);
    snapshot!("error-scheme", ["get", "ftp://127.0.0.1/x"]);
    snapshot!(
        "error-magnet",
        [
            "get",
            "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567"
        ]
    );
    snapshot!("error-s3", ["get", "s3://bucket/key"]);
    snapshot!(
        "error-publish-window",
        ["publish", "http://127.0.0.1/x", "--window", "22:00-06:00"]
    );
}

#[test]
fn what_later_issues_bring_is_refused_and_says_so() {
    let url = "http://127.0.0.1:1/x";
    for args in [
        &["get", "s3://bucket/key"][..],
        &["get", "gs://bucket/key"],
        &["get", "az://container/blob"],
        &[
            "get",
            "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567",
        ],
        &["get", url, "--min-speed", "2MiB/s"],
        &["get", url, "--deadline", "10m"],
        &["torrent", "create", "x", "--v2"],
        &["torrent", "create", "x", "--hybrid"],
        &["publish", url, "--window", "22:00-06:00"],
        &["publish", url, "--deadline", "10m"],
        &["publish", url, "--min-speed", "2MiB/s"],
        &["task", "pause", "1"],
        &["task", "resume", "1"],
        &["task", "explain", "1"],
        &["node", "drain", "1"],
        &["quota", "show"],
        &["origin", "list"],
        &["completions", "bash"],
    ] {
        let output = run(args);
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        let text = output.stderr.to_lowercase();
        assert!(
            text.contains("later") || text.contains("not yet"),
            "{args:?} does not say that it will come:\n{}",
            output.stderr
        );
    }
}

#[test]
fn what_is_accepted_from_the_start_is_accepted() {
    let output = run(&[
        "get",
        "missing.torrent",
        "--no-dht",
        "--no-lsd",
        "--sequential",
    ]);
    assert_eq!(output.code, 4, "{}", output.stderr);
}

#[test]
fn sample_configurations_round_trip() {
    let dir = TestDir::new();
    for role in ["control", "relay", "agent", "serve"] {
        let sample = floodway()
            .args(["config", role])
            .run()
            .expect_code(0)
            .stdout;
        assert!(sample.contains("# "), "{role}: no comments in\n{sample}");
        // Everything is a comment or valid: the sample itself is a configuration.
        let path = dir.join(format!("{role}.toml"));
        fs::write(&path, &sample).unwrap();
        let setting = sample
            .lines()
            .find(|line| line.contains(" = "))
            .unwrap_or_else(|| panic!("{role}: no setting in\n{sample}"));
        let key = setting
            .split(" = ")
            .next()
            .unwrap()
            .trim_start_matches(['#', ' ']);
        let start = |path: &std::path::Path| {
            floodway()
                .args([role, "--http", "127.0.0.1:0", "--data"])
                .arg(dir.join(format!("{role}-data")))
                .arg("--config")
                .arg(path)
                .env("FLOODWAY_CONTROL", "http://127.0.0.1:1")
                .env("FLOODWAY_TOKEN", "some-token")
        };
        let wrong = dir.join("wrong.toml");
        fs::write(&wrong, format!("{key}x = 1\n{sample}")).unwrap();
        let output = start(&wrong).run();
        assert_eq!(output.code, 2, "{role}: {}", output.stderr);
        assert!(
            output.stderr.contains(&format!("{key}x")),
            "the key is named: {}",
            output.stderr
        );
        fs::write(&wrong, "this is not TOML").unwrap();
        assert_eq!(start(&wrong).run().code, 2, "{role}");
        assert_eq!(start(&dir.join("missing.toml")).run().code, 2, "{role}");
    }
    floodway().args(["config", "nonsense"]).run().expect_code(2);
}

#[test]
fn the_sample_of_control_starts_a_control() {
    let dir = TestDir::new();
    let sample = floodway()
        .args(["config", "control"])
        .run()
        .expect_code(0)
        .stdout;
    let path = dir.join("control.toml");
    fs::write(&path, sample).unwrap();
    let mut control = floodway()
        .args(["control", "--http", "127.0.0.1:0", "--data"])
        .arg(dir.join("data"))
        .arg("--config")
        .arg(&path)
        .start();
    let ready = control.ready();
    assert!(ready.http().starts_with("http://127.0.0.1:"));
    control.signal(floodway_testkit::Signal::TERM);
    assert_eq!(control.wait(), 0, "{}", control.stderr());
}

#[test]
fn the_ready_line_is_one_compact_object_on_stdout() {
    let dir = TestDir::new();
    for json in [&[][..], &["--json"]] {
        let mut control = floodway()
            .args(["control", "--http", "127.0.0.1:0", "--data"])
            .arg(dir.join("data"))
            .args(json)
            .start();
        control.ready();
        let line = control.stdout();
        assert!(
            line.starts_with("{\"event\":\"ready\",\"http\":\"http://127.0.0.1:"),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains("\"peer\":null"), "{line}");
    }
}

#[test]
fn limits_of_zero_are_refused_wherever_they_are_given() {
    let dir = TestDir::new();
    for role in ["relay", "agent", "serve"] {
        for limit in ["max-down", "max-up"] {
            let start = || {
                floodway()
                    .args([role, "--http", "127.0.0.1:0", "--data"])
                    .arg(dir.join("data"))
                    .env("FLOODWAY_CONTROL", "http://127.0.0.1:1")
                    .env("FLOODWAY_TOKEN", "some-token")
            };
            let key = limit.replace('-', "_");
            let config = dir.join("zero.toml");
            fs::write(&config, format!("{key} = '0'\n")).unwrap();
            for (program, name) in [
                (start().args([&format!("--{limit}"), "0"]), limit),
                (start().arg("--config").arg(&config), &key),
                (
                    start().env(format!("FLOODWAY_{}", key.to_uppercase()), "0"),
                    &key.to_uppercase(),
                ),
            ] {
                let output = program.run().expect_code(2);
                assert!(output.stderr.contains(name), "{role}: {}", output.stderr);
            }
        }
    }
}

#[test]
fn an_empty_address_of_control_is_none() {
    let dir = TestDir::new();
    let run = |args: &[&str], control: &str| {
        let program = floodway().args(args).folder(&*dir);
        program.env("FLOODWAY_CONTROL", control).run()
    };
    let missing = format!("file://{}", dir.join("missing").display());
    // Without control the file is looked for here; with one it would be on a relay, and need a token.
    run(&["get", &missing], "").expect_code(4);
    for args in [
        &["task", "list"][..],
        &["publish", "http://127.0.0.1:1/x"],
        &["node", "list"],
        &["agent"],
    ] {
        let output = run(args, "").expect_code(2);
        assert!(output.stderr.contains("no address"), "{}", output.stderr);
        let output = run(args, "nonsense").expect_code(2);
        assert!(
            output.stderr.contains("FLOODWAY_CONTROL"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn hints_are_about_what_happened() {
    let dir = TestDir::new();
    let run = |args: &[&str]| floodway().args(args).folder(&*dir).run();
    let refused = run(&["get", "http://127.0.0.1:1/x", "--no-origin"]).expect_code(5);
    assert!(
        refused.stderr.contains("--no-origin") && !refused.stderr.contains("--allow-origin"),
        "{}",
        refused.stderr
    );
    // No operator could allow it.
    let control = ["--control", "http://127.0.0.1:1", "--token-file", "token"];
    fs::write(dir.join("token"), "some-token").unwrap();
    let args = [&["publish", "ftp://a/b"][..], &control].concat();
    let refused = run(&args).expect_code(2);
    assert!(
        refused.stderr.contains("`ftp:`") && !refused.stderr.contains("--allow-origin"),
        "{}",
        refused.stderr
    );
    fs::write(dir.join("f.bin"), "some bytes").unwrap();
    let udp = "udp://tracker.example:6969/announce";
    let create = ["torrent", "create", "f.bin", "--tracker", udp];
    let made = run(&create).expect_code(0);
    assert!(
        made.stderr.contains(udp) && made.stderr.contains("HTTP trackers only"),
        "{}",
        made.stderr
    );
    let create = [
        "torrent",
        "create",
        "f.bin",
        "--tracker",
        "http://t/announce",
    ];
    assert_eq!(run(&create).expect_code(0).stderr, "");
}
