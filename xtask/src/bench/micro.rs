//! `cargo xtask bench micro`: what single operations cost, by criterion.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::stats::machine;
use crate::shell::{cargo, print, run, target};

/// Runs the benches and prints a table of all their results.
pub(crate) fn micro() -> Result<()> {
    let results = target().join("criterion");
    // What is there may be of benches that no longer exist.
    if results.exists() {
        fs::remove_dir_all(&results)?;
    }
    run(cargo()
        .args([
            "bench",
            "--package",
            "floodway-proto",
            "--package",
            "floodway-swarm",
        ])
        .args(["--bench", "bytes", "--bench", "events"])
        .env("CRITERION_HOME", &results))?;
    let mut rows = Vec::new();
    collect(&results, &mut rows)?;
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let mut text = String::from("| what | ns |\n|---|---|\n");
    for (name, nanoseconds) in rows {
        writeln!(text, "| {name} | {nanoseconds:.0} |")?;
    }
    for (name, value) in machine() {
        write!(text, "\n- {name}: {value}")?;
    }
    fs::create_dir_all(target().join("bench"))?;
    fs::write(target().join("bench/micro.md"), &text)?;
    print(text);
    Ok(())
}

/// Criterion keeps one folder a bench, with its figures in `new`.
fn collect(folder: &Path, rows: &mut Vec<(String, f64)>) -> Result<()> {
    let new = folder.join("new");
    if new.join("benchmark.json").exists() {
        let read = |name: &str| -> Result<Value> {
            Ok(serde_json::from_slice(&fs::read(new.join(name))?)?)
        };
        let (of, estimates) = (read("benchmark.json")?, read("estimates.json")?);
        let name = of["full_id"].as_str().context("a bench has a name")?;
        let median = estimates["median"]["point_estimate"].as_f64();
        rows.push((name.to_owned(), median.context("a bench has a median")?));
        return Ok(());
    }
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), rows)?;
        }
    }
    Ok(())
}
