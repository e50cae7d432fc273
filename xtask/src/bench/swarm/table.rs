//! What was measured: JSON of every run, and tables of medians.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::contender::{COLD, COLD_AFTER_COMPLETE};
use super::scenario::Scenario;
use crate::bench::stats::{MIB, machine, median};

/// Goals of cold scenarios: at most this many times one copy of the paced origin, and so many seconds more.
const COLD_COPIES: f64 = 1.05;
const COLD_SECONDS: f64 = 1.0;
/// At least so many times as fast as a relay that serves after it has everything.
const COLD_RATIO: f64 = 1.8;

/// All runs, in the order in which they were made.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What they ran on: names and values.
    machine: Vec<(String, String)>,
    runs: Vec<Record>,
}

/// One program through one scenario, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) program: String,
    pub(crate) version: String,
    pub(crate) command: String,
    pub(crate) scenario: Scenario,
    /// From the first start until all were done, or the run was cut.
    pub(crate) seconds: f64,
    /// Bytes that left the origin's host.
    pub(crate) origin_sent: u64,
    /// The share of all processors that was in use.
    pub(crate) machine_busy: f64,
    pub(crate) clients: Vec<ClientRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientRecord {
    /// When it was started, in seconds from the first start.
    pub(crate) start: f64,
    /// When it said that it has the file, in seconds from the first start.
    pub(crate) done: Option<f64>,
    pub(crate) vanished: bool,
    /// Over its whole life, seeding included.
    pub(crate) cpu_seconds: f64,
    /// The largest anonymous memory seen.
    pub(crate) anon_bytes: u64,
    /// Bytes that left its host.
    pub(crate) sent: u64,
    /// Bytes that came to its host.
    pub(crate) received: u64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

impl Record {
    /// Whether all who stayed have the file.
    pub(crate) fn is_whole(&self) -> bool {
        self.staying().all(|client| client.done.is_some())
    }

    fn staying(&self) -> impl Iterator<Item = &ClientRecord> {
        self.clients.iter().filter(|client| !client.vanished)
    }

    /// From the first start to the last completion.
    fn makespan(&self) -> Option<f64> {
        let ends: Option<Vec<_>> = self.staying().map(|client| client.done).collect();
        ends?.into_iter().reduce(f64::max)
    }

    /// Each client's own time, from its start.
    fn times(&self) -> Vec<f64> {
        let time = |client: &ClientRecord| Some(client.done? - client.start);
        self.staying().filter_map(time).collect()
    }

    fn slowest_to_median(&self) -> Option<f64> {
        let times = self.times();
        let slowest = times.iter().copied().reduce(f64::max)?;
        self.is_whole().then(|| slowest / median(times))
    }

    fn efficiency(&self) -> Option<f64> {
        Some(self.scenario.bound_seconds() / self.makespan()?)
    }

    pub(crate) fn origin_copies(&self) -> f64 {
        float(self.origin_sent) / float(self.scenario.size())
    }

    /// What a client receives on average, in files.
    fn received_copies(&self) -> f64 {
        let received: u64 = self.staying().map(|client| client.received).sum();
        let count = u32::try_from(self.staying().count()).unwrap_or(u32::MAX);
        float(received) / float(self.scenario.size()) / f64::from(count)
    }

    fn cpu_per_gib(&self) -> f64 {
        let gib = float(self.scenario.size()) / f64::from(1 << 30);
        median(self.staying().map(|client| client.cpu_seconds / gib))
    }

    fn memory_mib(&self) -> Vec<f64> {
        let mib = |client: &ClientRecord| float(client.anon_bytes) / MIB;
        self.staying().map(mib).collect()
    }

    /// One line.
    pub(crate) fn summary(&self) -> String {
        let whole = match (self.makespan(), self.efficiency()) {
            (Some(makespan), Some(efficiency)) => {
                format!("{makespan:.1} s, efficiency {efficiency:.3}")
            }
            _ => format!("cut at {:.0} s, {}", self.seconds, self.done_of()),
        };
        format!(
            "{} in {}: {whole}, median {:.1} s, origin copies {:.3}, machine busy {:.2}",
            self.program,
            self.scenario.name,
            median(self.times()),
            self.origin_copies(),
            self.machine_busy
        )
    }

    fn done_of(&self) -> String {
        format!("{} of {} done", self.times().len(), self.staying().count())
    }
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no results of `bench swarm`", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    pub(crate) fn add(&mut self, record: Record) {
        self.machine = machine();
        self.runs.push(record);
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.machine = other.machine;
        self.runs.extend(other.runs);
    }

    pub(crate) fn last(&self) -> Option<&Record> {
        self.runs.last()
    }

    /// One table for each scenario, versions and command lines below.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut names: Vec<_> = self.runs.iter().map(|run| &run.scenario.name).collect();
        unique(&mut names);
        for name in names {
            let runs: Vec<_> = self
                .runs
                .iter()
                .filter(|run| run.scenario.name == *name)
                .collect();
            text.push_str(&of_scenario(&runs));
        }
        let mut lines: Vec<_> = self
            .machine
            .iter()
            .map(|(name, value)| format!("- {name}: {value}"))
            .chain(
                self.runs
                    .iter()
                    .map(|run| format!("- {}: {}: `{}`", run.program, run.version, run.command)),
            )
            .collect();
        // Host addresses differ, command lines are else the same in all runs.
        lines.dedup();
        unique(&mut lines);
        text.push_str(&lines.join("\n"));
        text.push('\n');
        text
    }
}

/// Keeps the first of equals.
fn unique<T: PartialEq>(items: &mut Vec<T>) {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    *items = kept;
}

fn of_scenario(runs: &[&Record]) -> String {
    let scenario = &runs[0].scenario;
    let mut text = format!(
        "### {}: {}\n\n{} MiB; no program can be faster than {:.1} s.\n\n\
         | program | makespan s (each run) | × least | median client s | slowest / median | efficiency | origin copies | received copies | client CPU s/GiB | client memory MiB (median, largest) | machine busy |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
        scenario.name,
        scenario.about,
        scenario.file_mib,
        scenario.bound_seconds(),
    );
    let mut programs: Vec<_> = runs.iter().map(|run| run.program.as_str()).collect();
    unique(&mut programs);
    let mut rows: Vec<_> = programs
        .into_iter()
        .map(|program| Row::of(program, runs.iter().filter(|run| run.program == program)))
        .collect();
    rows.sort_by(|a, b| a.order().total_cmp(&b.order()));
    let least = rows.iter().filter_map(|row| row.makespan).reduce(f64::min);
    for row in &rows {
        row.write(&mut text, least);
    }
    text.push('\n');
    write_cold_goals(&mut text, scenario, &rows);
    text
}

/// What a cold start is to reach beside a paced origin, and what it did.
fn write_cold_goals(text: &mut String, scenario: &Scenario, rows: &[Row<'_>]) {
    let of = |name| rows.iter().find(|row| row.program == name)?.makespan;
    let (Some(copy), Some(cold)) = (scenario.one_copy_seconds(), of(COLD)) else {
        return;
    };
    let goal = COLD_COPIES * copy + COLD_SECONDS;
    let met = |is_met: bool| if is_met { "met" } else { "missed" };
    let reached = met(cold <= goal);
    write!(
        text,
        "One copy takes the origin {copy:.1} s. {COLD}: {cold:.1} s, goal {goal:.1} s ({COLD_COPIES} copies and {COLD_SECONDS} s): {reached}."
    )
    .expect("strings take everything");
    if let Some(after) = of(COLD_AFTER_COMPLETE) {
        let (ratio, reached) = (after / cold, met(after / cold >= COLD_RATIO));
        write!(
            text,
            " {ratio:.2} × as fast as {COLD_AFTER_COMPLETE}, goal {COLD_RATIO} ×: {reached}."
        )
        .expect("strings take everything");
    }
    text.push_str("\n\n");
}

/// Medians of one program in one scenario.
struct Row<'a> {
    program: &'a str,
    each: Vec<String>,
    /// `None` when a run was cut.
    makespan: Option<f64>,
    records: Vec<&'a Record>,
}

impl<'a> Row<'a> {
    fn of<'b>(program: &'a str, runs: impl Iterator<Item = &'b &'a Record>) -> Self
    where
        'a: 'b,
    {
        let records: Vec<_> = runs.copied().collect();
        let each = records.iter().map(|run| {
            run.makespan().map_or_else(
                || format!("> {:.0}: {}", run.seconds, run.done_of()),
                |s| format!("{s:.1}"),
            )
        });
        let spans: Option<Vec<_>> = records.iter().map(|run| run.makespan()).collect();
        Self {
            program,
            each: each.collect(),
            makespan: spans.map(median),
            records,
        }
    }

    /// Those that were cut come last.
    fn order(&self) -> f64 {
        self.makespan.unwrap_or(f64::MAX)
    }

    fn median(&self, of: impl Fn(&Record) -> f64) -> f64 {
        median(self.records.iter().map(|run| of(run)))
    }

    /// Only of runs that were not cut.
    fn whole(&self, of: impl Fn(&Record) -> Option<f64>) -> String {
        let values: Option<Vec<_>> = self.records.iter().map(|run| of(run)).collect();
        values.map_or_else(|| "–".to_owned(), |values| format!("{:.2}", median(values)))
    }

    fn write(&self, text: &mut String, least: Option<f64>) {
        let makespan = self
            .makespan
            .map_or_else(|| "cut".to_owned(), |s| format!("{s:.1}"));
        let ratio = self.makespan.zip(least).map(|(own, least)| own / least);
        let memory: Vec<_> = self
            .records
            .iter()
            .flat_map(|run| run.memory_mib())
            .collect();
        let largest = memory.iter().copied().fold(0.0, f64::max);
        writeln!(
            text,
            "| {} | {makespan} ({}) | {} | {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.0}, {largest:.0} | {:.2} |",
            self.program,
            self.each.join(", "),
            ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            self.whole(|run| run.is_whole().then(|| median(run.times()))),
            self.whole(Record::slowest_to_median),
            self.whole(Record::efficiency),
            self.median(Record::origin_copies),
            self.median(Record::received_copies),
            self.median(Record::cpu_per_gib),
            median(memory),
            self.median(|run| run.machine_busy),
        )
        .expect("strings take everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(program: &str, ends: [Option<f64>; 2]) -> Record {
        let client = |done| ClientRecord {
            start: 0.0,
            done,
            vanished: false,
            cpu_seconds: 0.25,
            anon_bytes: 10 << 20,
            sent: 0,
            received: 67 << 20,
        };
        Record {
            program: program.to_owned(),
            version: "1".to_owned(),
            command: "get".to_owned(),
            scenario: Scenario::load("s1").unwrap(),
            seconds: 125.0,
            origin_sent: 96 << 20,
            machine_busy: 0.5,
            clients: ends.map(client).to_vec(),
        }
    }

    #[test]
    fn the_table_has_medians_ratios_and_cut_runs() {
        let mut results = Results::default();
        for (program, a, b) in [
            ("slow", Some(20.0), Some(40.0)),
            ("cut", Some(30.0), None),
            ("quick", Some(14.0), Some(20.0)),
            ("slow", Some(20.0), Some(50.0)),
            ("slow", Some(20.0), Some(42.0)),
        ] {
            results.add(record(program, [a, b]));
        }
        let text = results.markdown();
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(1)
            .collect();
        assert_eq!(
            rows,
            [
                "| quick | 20.0 (20.0) | 1.00 | 17.00 | 1.18 | 0.70 | 1.50 | 1.05 | 4.0 | 10, 10 | 0.50 |",
                "| slow | 42.0 (40.0, 50.0, 42.0) | 2.10 | 31.00 | 1.35 | 0.33 | 1.50 | 1.05 | 4.0 | 10, 10 | 0.50 |",
                "| cut | cut (> 125: 1 of 2 done) | – | – | – | – | 1.50 | 1.05 | 4.0 | 10, 10 | 0.50 |",
            ]
        );
        assert_eq!(text.matches("- slow: 1: `get`").count(), 1);
    }

    #[test]
    fn cold_runs_beside_a_paced_origin_are_held_against_their_goals() {
        let mut results = Results::default();
        for (program, seconds) in [(COLD, 15.0), (COLD_AFTER_COMPLETE, 30.0)] {
            let scenario = Scenario::load("s1-cold").unwrap();
            results.add(Record {
                scenario,
                ..record(program, [Some(seconds); 2])
            });
        }
        let text = results.markdown();
        let goals = "native-cold: 15.0 s, goal 15.8 s (1.05 copies and 1 s): met. 2.00 × as fast";
        assert!(text.contains(goals), "{text}");
        results.add(Record {
            scenario: Scenario::load("s1-cold").unwrap(),
            ..record(COLD, [Some(30.0); 2])
        });
        assert_eq!(results.markdown().matches("missed").count(), 2);
    }

    #[test]
    fn who_vanishes_is_not_waited_for() {
        let mut record = record("any", [Some(14.0), None]);
        assert!(!record.is_whole());
        record.clients[1].vanished = true;
        assert!(record.is_whole());
        assert_eq!(record.makespan(), Some(14.0));
    }
}
