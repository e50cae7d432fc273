//! `cargo xtask bench cost`: instructions that the engine needs for one event, counted by callgrind, in small swarms
//! and in large ones. They are the same in every run, so a cost that grows with peers or pieces is an error.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell::{cargo, print, run, target, works};

/// Peers and pieces.
type Size = (u32, u32);

/// One event, and the smallest and largest swarm that it is measured in.
const ROWS: &[(&str, &str, [Size; 2])] = &[
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
        "connect",
        "a peer connects",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
    (
        "tick",
        "250 ms pass, for each peer",
        [(50, 1 << 10), (5000, 1 << 10)],
    ),
];

/// What a hundred times the peers, or a thousand times the pieces, may cost: trees grow by a few levels.
const GROWTH_MAX: f64 = 2.0;

pub(crate) fn cost() -> Result<()> {
    ensure!(
        works("valgrind", &["--version"]),
        "valgrind is not installed (apt-get install valgrind)"
    );
    run(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "floodway-swarm",
        "--example",
        "cost",
    ]))?;
    let mut text = String::from(
        "| event | small swarm | large swarm | instructions | growth |\n|---|---|---|---|---|\n",
    );
    let mut grown = Vec::new();
    for (event, what, swarms) in ROWS {
        let [small, large] = [
            instructions(event, swarms[0])?,
            instructions(event, swarms[1])?,
        ];
        let growth = large / small;
        let [from, to] = swarms.map(|(peers, pieces)| format!("{peers} peers, {pieces} pieces"));
        writeln!(
            text,
            "| {what} | {from} | {to} | {small:.0} → {large:.0} | {growth:.2} |"
        )?;
        if growth > GROWTH_MAX {
            grown.push(format!("{event}: {growth:.1} times from {from} to {to}"));
        }
    }
    fs::create_dir_all(target().join("bench"))?;
    fs::write(target().join("bench/cost.md"), &text)?;
    print(text);
    ensure!(
        grown.is_empty(),
        "these costs grow with the swarm:\n{}",
        grown.join("\n")
    );
    Ok(())
}

/// Instructions for one event.
fn instructions(event: &str, (peers, pieces): Size) -> Result<f64> {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*measured*",
        ])
        .arg(target().join("release/examples/cost"))
        .args([event, &peers.to_string(), &pieces.to_string()])
        .output()?;
    let (events, log) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let collected = log.lines().find_map(|line| line.split_once("Collected : "));
    let count = |text: &str| text.trim().parse::<f64>().ok();
    collected
        .and_then(|(_, collected)| Some(count(collected)? / count(&events)?))
        .with_context(|| format!("callgrind counted nothing for {event}:\n{log}"))
}
