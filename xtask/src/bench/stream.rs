//! `cargo xtask bench stream`: how soon a piece that a relay has fetched is verified at a client, over loopback.
//!
//! Each round is a fleet of its own: a paced origin, control, a relay, one `get`. Relay and client say when (`first_complete_piece`,
//! `first_verified_piece`, in microseconds of one machine's clock). With a second level there is one more relay, which feeds from
//! the first, and the client reaches only that one.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::files::{self, Folder};
use super::stats::{MIB, machine, median, percentile};
use super::swarm::job::Job;
use super::{Common, Tools};
use crate::shell::{floodway_version, say, target};

#[derive(Args)]
pub(crate) struct StreamArgs {
    /// How many times each case is measured
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Where the files lie meanwhile
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// No step takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is measured.
struct Case {
    name: &'static str,
    /// What the origin sends.
    limit: &'static str,
    size: u64,
    /// The client is behind a relay that feeds from the one at the origin.
    second_level: bool,
    /// How long the whole takes is measured, too.
    to_the_end: bool,
    goal: &'static str,
}

/// How long the whole takes is compared for these.
const COLD: &str = "cold `get`: control, relay and origin hear of the file from it";
const COLD_SECOND_LEVEL: &str = "the same behind a second relay that feeds from the first";
/// What a second level may add, in seconds.
const LEVEL_GOAL: f64 = 0.5;
/// Nobody listens there: who says that peers reach it so is dialled by nobody.
const NOWHERE: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

const CASES: [Case; 3] = [
    // The first piece takes the origin a quarter of a second: by then the client has joined.
    Case {
        name: "client that is connected before the relay has its first piece",
        limit: "1MiB/s",
        size: 8 << 20,
        second_level: false,
        to_the_end: false,
        goal: "median 20 ms, p99 100 ms",
    },
    Case {
        name: COLD,
        limit: "400Mbit/s",
        size: 64 << 20,
        second_level: false,
        to_the_end: true,
        goal: "100 ms",
    },
    Case {
        name: COLD_SECOND_LEVEL,
        limit: "400Mbit/s",
        size: 64 << 20,
        second_level: true,
        to_the_end: true,
        goal: "500 ms more than without",
    },
];

/// How long each round took, in milliseconds from the relay's first complete piece to the client's first verified one.
#[derive(Serialize)]
struct Measured {
    case: &'static str,
    goal: &'static str,
    milliseconds: Vec<f64>,
    /// From the client's start until it has the whole file.
    whole_seconds: Vec<f64>,
}

pub(crate) fn stream(args: &StreamArgs) -> Result<()> {
    let tools = Tools::find(args.common.floodway.as_deref(), false)?;
    let mut measured = Vec::new();
    for case in &CASES {
        let (mut milliseconds, mut whole_seconds) = (Vec::new(), Vec::new());
        for round in 1..=args.rounds {
            let folder = Folder::create(&args.folder)?;
            let (took, whole) = once(&tools.floodway, case, folder.path())
                .with_context(|| format!("round {round}: {}", case.name))?;
            say(format_args!("{}: {round}: {took:.1} ms", case.name));
            milliseconds.push(took);
            whole_seconds.extend(whole);
        }
        measured.push(Measured {
            case: case.name,
            goal: case.goal,
            milliseconds,
            whole_seconds,
        });
    }
    report(args, &tools.floodway, &measured)
}

/// A program of the fleet, and what it prints.
struct Member {
    job: Job,
    log: PathBuf,
}

impl Member {
    fn start(mut command: Command, name: &str, folder: &Path) -> Result<Self> {
        // A kept setting of whoever runs this must not reach the fleet.
        for key in ["FLOODWAY_CONTROL", "FLOODWAY_TOKEN", "RUST_LOG"] {
            command.env_remove(key);
        }
        let log = folder.join(format!("{name}.log"));
        let job = Job::start(command, &log)?;
        Ok(Self { job, log })
    }

    /// The first line with `text`, once it is there.
    fn line(&mut self, text: &'static str) -> Result<String> {
        self.job.wait_line(text, PATIENCE)?;
        let log = fs::read_to_string(&self.log)?;
        let line = log.lines().find(|line| line.contains(text));
        line.map(str::to_owned)
            .with_context(|| format!("`{text}` is in no line"))
    }

    /// The address in its ready line.
    fn http(&mut self) -> Result<String> {
        let line = self.line("\"ready\"")?;
        let ready: Value = serde_json::from_str(&line)?;
        let http = ready["http"].as_str().context("it has no HTTP side")?;
        Ok(http.to_owned())
    }

    /// When it took the step, in microseconds since 1970.
    fn time_of(&mut self, step: &'static str) -> Result<u64> {
        let line = self.line(step)?;
        let after = line.split_once("\"t_unix_us\":").map(|(_, rest)| rest);
        let digits = after.map(|rest| rest.trim_start_matches(['"', ' ']));
        let digits = digits.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let time = digits.and_then(|digits| digits.parse().ok());
        time.with_context(|| format!("no time in {line}"))
    }
}

/// Milliseconds from the relay's first complete piece to the client's first verified one, and seconds until it has the file.
fn once(floodway: &Path, case: &Case, folder: &Path) -> Result<(f64, Option<f64>)> {
    let files = folder.join("files");
    fs::create_dir(&files)?;
    files::random_file(&files.join("file.bin"), case.size)?;
    let program = |args: &[&str]| {
        let mut command = Command::new(floodway);
        command.args(args);
        command
    };
    let mut origin = program(&["demo-origin", "--limit", case.limit]);
    origin.arg(&files);
    let origin = Member::start(origin, "origin", folder)?.ready()?;
    let data = folder.join("control");
    let allowed = format!("{}/files/", origin.1);
    let mut control = program(&[
        "control",
        "--http",
        "127.0.0.1:0",
        "--allow-origin",
        &allowed,
    ]);
    control.arg("--data").arg(&data);
    let control = Member::start(control, "control", folder)?.ready()?;
    let joins = |command: &mut Command, token: &str| {
        command
            .args(["--listen", "127.0.0.1:0", "--control", &control.1])
            .arg("--token-file")
            .arg(data.join(token));
    };
    let branch = |role: &str, token: &str| {
        let mut create = program(&["node", "token", "create", "--label", "site=branch"]);
        create
            .args(["--role", role, "--control", &control.1, "--token-file"])
            .arg(data.join("admin.token"));
        let made = create.output().context("no token can be made")?;
        ensure!(
            made.status.success(),
            "{create:?} ended with {}",
            made.status
        );
        fs::write(data.join(token), made.stdout).context("the token cannot be written")
    };
    let log = ["--log", "floodway_node=info", "--log-json"];
    let relay = |name: &str| {
        let mut relay = program(&["relay", "--name", name, "--http", "127.0.0.1:0", "--data"]);
        relay.arg(folder.join(name)).args(log);
        relay
    };
    let mut first = relay("first");
    if case.second_level {
        first.args(["--advertise", NOWHERE[0]]);
    }
    joins(&mut first, "join.token");
    let mut first = Member::start(first, "relay", folder)?.ready()?;
    let url = format!("{allowed}file.bin");
    let mut get = program(&["get", &url, "--json", "--no-digest", "-o"]);
    get.arg(folder.join("out.bin"));
    let mut second = None;
    if case.second_level {
        branch("relay", "relay.token")?;
        branch("agent", "agent.token")?;
        let mut command = relay("second");
        command.args(["--feeds-from", "first"]);
        joins(&mut command, "relay.token");
        second = Some(Member::start(command, "second", folder)?.ready()?);
        get.args(["--advertise", NOWHERE[1]]);
        joins(&mut get, "agent.token");
    } else {
        joins(&mut get, "join.token");
    }
    let start = Instant::now();
    let mut get = Member::start(get, "get", folder)?;
    let verified = get.time_of("first_verified_piece")?;
    let mut whole = None;
    if case.to_the_end {
        get.job.wait_line("\"event\":\"done\"", PATIENCE)?;
        whole = Some(start.elapsed().as_secs_f64());
    }
    drop(second);
    let complete = first.0.time_of("first_complete_piece")?;
    #[expect(clippy::cast_precision_loss, reason = "a short time")]
    let took = verified.saturating_sub(complete) as f64 / 1000.0;
    Ok((took, whole))
}

impl Member {
    /// Waits until it is ready; its base URL.
    fn ready(mut self) -> Result<(Self, String)> {
        let http = self.http()?;
        let url = if http.starts_with("http") {
            http
        } else {
            format!("http://{http}")
        };
        Ok((self, url))
    }
}

fn report(args: &StreamArgs, floodway: &Path, measured: &[Measured]) -> Result<()> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let table = table(floodway, measured);
    say(&table);
    let own = |chosen: &Option<PathBuf>, name| chosen.clone().unwrap_or_else(|| folder.join(name));
    fs::write(own(&args.common.md, "stream.md"), table)?;
    let machine: serde_json::Map<_, _> = versions(floodway)
        .into_iter()
        .map(|(name, version)| (name, Value::from(version)))
        .collect();
    let json = json!({ "versions": machine, "cases": measured });
    let json = serde_json::to_string_pretty(&json)?;
    fs::write(own(&args.common.json, "stream.json"), json)?;
    Ok(())
}

fn versions(floodway: &Path) -> Vec<(String, String)> {
    let own = floodway_version(floodway);
    let mut versions = vec![("floodway".to_owned(), own)];
    versions.extend(machine());
    versions
}

fn table(floodway: &Path, measured: &[Measured]) -> String {
    let mut text = "From the relay's first complete piece to the client's first verified one, loopback, ms.\n\n\
                    | case | origin, file | rounds | median | p99 | least | most | goal |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for (case, of) in CASES.iter().zip(measured) {
        let all = &of.milliseconds;
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        let most = all.iter().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let mib = case.size as f64 / MIB;
        writeln!(
            text,
            "| {} | {}, {mib} MiB | {} | {:.1} | {:.1} | {least:.1} | {most:.1} | {} |",
            case.name,
            case.limit,
            all.len(),
            median(all.iter().copied()),
            percentile(all.iter().copied(), 0.99),
            case.goal,
        )
        .expect("strings take everything");
    }
    let whole = |name| {
        let of = measured.iter().find(|of| of.case == name)?;
        Some(median(of.whole_seconds.iter().copied()))
    };
    if let (Some(one), Some(two)) = (whole(COLD), whole(COLD_SECOND_LEVEL)) {
        writeln!(
            text,
            "\nThe whole file behind one relay {one:.2} s, behind two {two:.2} s (medians): {:.2} s more, goal {LEVEL_GOAL} s.",
            two - one
        )
        .expect("strings take everything");
    }
    text.push('\n');
    for (name, version) in versions(floodway) {
        writeln!(text, "- {name}: {version}").expect("strings take everything");
    }
    text
}
