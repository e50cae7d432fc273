//! `cargo xtask bench cost`: instructions that the engine needs for one event, and control for one sync, counted by callgrind, in
//! small swarms and in large ones. They are the same in every run, so a cost that grows with peers or pieces is an error.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::shell::{cargo, print, run, say, target, works};
use crate::tools;

/// Peers and pieces.
type Size = (u32, u32);

/// One event, and the smallest and largest swarm that it is measured in.
type Row = (&'static str, &'static str, [Size; 2]);

const ROWS: &[Row] = &[
    (
        "have",
        "a peer has a piece more",
        [(50, 1 << 10), (50, 1 << 20)],
    ),
    (
        "have",
        "a peer has a piece more",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "block",
        "a block comes, the next is picked",
        [(8, 1 << 10), (8, 1 << 20)],
    ),
    (
        "block",
        "a block comes, the next is picked",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "request",
        "a peer asks, a block is sent",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "serve",
        "a block is sent while all wait for many",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "connect",
        "a peer connects",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "tick",
        "250 ms pass, for each peer",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        SYNC,
        "control answers the sync of an agent",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    // Of an object of 64 GiB: control makes fewer pieces of it, of 2 MiB.
    (
        SYNC,
        "control answers the sync of an agent",
        [(50, 1 << 10), (50, 1 << 20)],
    ),
];

/// Counted in a test of control, as nothing of its insides is public.
const SYNC: &str = "sync";
const SYNC_TEST: &str = "core::tests::cost::of_an_agents_sync";

/// What a hundred times the peers, or a thousand times the pieces, may cost: trees grow by a few levels.
const GROWTH_MAX: f64 = 2.0;

#[derive(Args)]
pub(crate) struct CostArgs {
    /// Only what may grow with the peers, and control as its tests are built: a minute or two, for CI
    #[arg(long)]
    quick: bool,
}

pub(crate) fn cost(args: &CostArgs) -> Result<()> {
    tools::install_valgrind()?;
    if !works("valgrind", &["--version"]) {
        ensure!(
            args.quick,
            "valgrind is not installed (apt-get install valgrind)"
        );
        say("skipped: bench cost --quick, as there is no valgrind (apt-get install valgrind)");
        return Ok(());
    }
    let programs = Programs::build(args.quick)?;
    let grows_with_peers = |row: &&Row| row.2[0].0 < row.2[1].0;
    let rows = ROWS
        .iter()
        .filter(|row| !args.quick || grows_with_peers(row));
    let mut text = String::from(
        "| event | small swarm | large swarm | instructions | growth |\n|---|---|---|---|---|\n",
    );
    print(text.trim_end());
    let mut grown = Vec::new();
    for (event, what, swarms) in rows {
        let [small, large] = [
            programs.instructions(event, swarms[0])?,
            programs.instructions(event, swarms[1])?,
        ];
        let growth = large / small;
        let [from, to] = swarms.map(|(peers, pieces)| format!("{peers} peers, {pieces} pieces"));
        let row = format!("| {what} | {from} | {to} | {small:.0} → {large:.0} | {growth:.2} |\n");
        // Some take minutes.
        print(row.trim_end());
        text.push_str(&row);
        if growth > GROWTH_MAX {
            grown.push(format!("{event}: {growth:.1} times from {from} to {to}"));
        }
    }
    fs::create_dir_all(target().join("bench"))?;
    fs::write(target().join("bench/cost.md"), &text)?;
    ensure!(
        grown.is_empty(),
        "these costs grow with the swarm:\n{}",
        grown.join("\n")
    );
    Ok(())
}

/// What is run under callgrind.
struct Programs {
    engine: PathBuf,
    control: PathBuf,
}

impl Programs {
    /// Control's tests are built with optimisations, or `quick`ly as `cargo test` builds them: how a cost grows is the same. The
    /// engine is always optimised, as else it recounts its own books.
    fn build(quick: bool) -> Result<Self> {
        let release = ["build", "--quiet", "--release"];
        run(cargo()
            .args(release)
            .args(["--package", "floodway-swarm", "--example", "cost"]))?;
        // With the whole workspace, so that nothing is built anew that `xtask test` builds.
        let profile: &[_] = if quick {
            &["--workspace"]
        } else {
            &["--release", "--package", "floodway-control"]
        };
        let tests = cargo()
            .args(["test", "--quiet", "--no-run", "--lib"])
            .args(["--message-format", "json"])
            .args(profile)
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(
            tests.status.success(),
            "the tests of floodway-control cannot be built"
        );
        let messages = String::from_utf8_lossy(&tests.stdout);
        let executable = |line: &str| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_test = message.pointer("/profile/test")?.as_bool()?;
            let is_control = message.pointer("/target/name")?.as_str()? == "floodway_control";
            (is_test && is_control).then_some(())?;
            Some(PathBuf::from(message.get("executable")?.as_str()?))
        };
        Ok(Self {
            engine: target().join("release/examples/cost"),
            control: (messages.lines().find_map(executable))
                .context("cargo names no binary with the tests of floodway-control")?,
        })
    }

    fn command(&self, event: &str, (peers, pieces): Size) -> Command {
        let mut command = Command::new("valgrind");
        command.args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*measured*",
        ]);
        if event == SYNC {
            command
                .arg(&self.control)
                .args(["--exact", SYNC_TEST, "--ignored", "--nocapture"])
                .env("COST_PEERS", peers.to_string())
                .env("COST_PIECES", pieces.to_string());
        } else {
            command
                .arg(&self.engine)
                .args([event, &peers.to_string(), &pieces.to_string()]);
        }
        command
    }

    /// Instructions for one event.
    fn instructions(&self, event: &str, size: Size) -> Result<f64> {
        let output = self.command(event, size).output()?;
        let (said, log) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let collected = log.lines().find_map(|line| line.split_once("Collected : "));
        let count = |text: &str| text.trim().parse::<f64>().ok();
        // Alone on its line: a test's harness says other things too.
        let events = said.lines().find_map(count);
        collected
            .and_then(|(_, collected)| Some(count(collected)? / events?))
            .with_context(|| format!("callgrind counted nothing for {event}:\n{said}{log}"))
    }
}
