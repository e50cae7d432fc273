//! What was measured, as JSON and as a table.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::PairArgs;
use super::programs::Bench;
use crate::bench::measure::Sample;
use crate::bench::stats::{machine, median};
use crate::shell::{say, target};

/// 2^30 bytes in 10^6 bytes.
const GIB_IN_MB: f64 = 1_073.741_824;

/// One case and its runs.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

impl Case {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }
}

/// Prints the table and writes both forms.
pub(crate) fn write(args: &PairArgs, bench: &Bench, cases: &[Case]) -> Result<()> {
    let folder = target().join("bench");
    fs::create_dir_all(&folder)?;
    let table = table(bench, args.runs, cases);
    say(&table);
    let own = |chosen: &Option<PathBuf>, name| chosen.clone().unwrap_or_else(|| folder.join(name));
    fs::write(own(&args.common.md, "pair.md"), table)?;
    let json = serde_json::to_string_pretty(&as_json(bench, cases))?;
    fs::write(own(&args.common.json, "pair.json"), json)?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// What the BitTorrent cases, and the HTTP cases, are compared with.
const YARDSTICKS: [&str; 2] = ["libtorrent → libtorrent", "nginx → curl"];

fn table(bench: &Bench, runs: u32, cases: &[Case]) -> String {
    let size = gib(bench.size);
    let mut text = format!(
        "One source, one client, {size} GiB over loopback, source and target on a memory file system; {runs} interleaved runs, medians. \
         In brackets: compared with {} (BitTorrent) and {} (HTTP) of the same runs.\n\n\
         | source → client | s (each run) | MB/s | CPU s/GiB, both | source | client | client peak anonymous MiB |\n\
         |---|---|---|---|---|---|---|\n",
        YARDSTICKS[0], YARDSTICKS[1]
    );
    for case in cases {
        let each: Vec<_> = case
            .samples
            .iter()
            .map(|sample| format!("{:.2}", sample.seconds))
            .collect();
        let yardstick = YARDSTICKS[usize::from(case.name.starts_with("nginx"))];
        let yardstick = cases.iter().find(|other| other.name == yardstick);
        let compared = |of: &dyn Fn(&Case) -> f64| {
            yardstick.map_or_else(String::new, |other| {
                format!(" ({:.2} ×)", of(case) / of(other))
            })
        };
        let rate = |case: &Case| size * GIB_IN_MB / case.median(|sample| sample.seconds);
        let cpu = |case: &Case| case.median(|sample| sample.client_cpu + sample.source_cpu) / size;
        writeln!(
            text,
            "| {} | {:.2} ({}) | {:.0}{} | {:.2}{} | {:.2} | {:.2} | {:.0} |",
            case.name,
            case.median(|sample| sample.seconds),
            each.join(", "),
            rate(case),
            compared(&rate),
            cpu(case),
            compared(&cpu),
            case.median(|sample| sample.source_cpu) / size,
            case.median(|sample| sample.client_cpu) / size,
            case.median(|sample| gib(sample.anon_bytes) * 1024.0),
        )
        .expect("strings take everything");
    }
    text.push('\n');
    for (name, version) in versions(bench) {
        writeln!(text, "- {name}: {version}").expect("strings take everything");
    }
    for case in cases {
        if let Some(sample) = case.samples.first() {
            writeln!(text, "- {}: `{}`", case.name, sample.command)
                .expect("strings take everything");
        }
    }
    text
}

fn versions(bench: &Bench) -> Vec<(String, String)> {
    let programs = bench.versions().into_iter();
    let programs = programs.map(|(name, version)| (name.to_owned(), version));
    programs.chain(machine()).collect()
}

fn as_json(bench: &Bench, cases: &[Case]) -> Value {
    let cases = cases.iter().map(|case| {
        json!({
            "case": case.name,
            "seconds": case.median(|sample| sample.seconds),
            "client_cpu_seconds": case.median(|sample| sample.client_cpu),
            "source_cpu_seconds": case.median(|sample| sample.source_cpu),
            "client_anon_bytes": case.median(|sample| gib(sample.anon_bytes)) * f64::from(1 << 30),
            "runs": case.samples,
        })
    });
    let versions = versions(bench)
        .into_iter()
        .map(|(name, version)| (name, Value::from(version)));
    json!({
        "bytes": bench.size,
        "versions": versions.collect::<serde_json::Map<_, _>>(),
        "cases": cases.collect::<Vec<_>>(),
    })
}
