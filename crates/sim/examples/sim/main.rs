//! `cargo xtask sim`: runs a named scenario under virtual time, prints what came of it, and draws it.

#![expect(clippy::print_stdout, reason = "a command-line tool")]

mod chart;
mod plot;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use floodway_sim::{Report, run, scenarios};

/// Runs a scenario under virtual time and prints what came of it.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Args {
    /// Which one (see --list)
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// Decides everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run all seeds of a range, as 0..20
    #[arg(long, value_parser = parse_seeds, conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// Draw completion and sources over time, of the first seed, to SVG and PNG
    #[arg(long)]
    plot: bool,
    /// Where drawings go
    #[arg(long, default_value = "target/sim")]
    folder: PathBuf,
    /// Print what every node reported (small scenarios only)
    #[arg(long)]
    trace: bool,
    /// List all scenarios
    #[arg(long)]
    list: bool,
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let numbers = text
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    numbers
        .filter(|(from, to)| from < to)
        .ok_or_else(|| "a range of seeds is written 0..20, without its end".into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for (name, what) in scenarios::ALL {
            println!("{name:12} {what}");
        }
        return ExitCode::SUCCESS;
    }
    let name = args.scenario.as_deref().unwrap_or_default();
    let Some(plan) = scenarios::named(name) else {
        println!("error: there is no scenario `{name}`\nhint: --list shows all");
        return ExitCode::FAILURE;
    };
    let (from, to) = args.seeds.unwrap_or((args.seed, args.seed + 1));
    let mut reports = Vec::new();
    for seed in from..to {
        #[expect(clippy::disallowed_methods, reason = "how long a run takes")]
        let began = Instant::now();
        let mut report = run(&plan, seed);
        println!("{}", report.summary());
        println!("  in {:.1} s", began.elapsed().as_secs_f64());
        if args.trace {
            println!("{}", report.trace);
        }
        report.trace.clear();
        reports.push(report);
    }
    if reports.len() > 1 {
        println!("{}", medians(name, &reports));
    }
    if args.plot
        && let Err(error) = plot::draw(&reports[0], &args.folder)
    {
        println!("error: cannot draw to {}: {error}", args.folder.display());
        return ExitCode::FAILURE;
    }
    if reports.iter().all(|report| report.stuck().is_empty()) {
        ExitCode::SUCCESS
    } else {
        println!("error: not every node finished");
        ExitCode::FAILURE
    }
}

/// What is in the middle, and the worst, of several seeds.
fn medians(name: &str, reports: &[Report]) -> String {
    let spread = |of: fn(&Report) -> f64| {
        let mut values: Vec<_> = reports.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (
            values[0],
            values[values.len() / 2],
            values[values.len() - 1],
        )
    };
    let (worst, middle, _) = spread(Report::efficiency);
    let (_, copies, most) = spread(Report::source_copies);
    let (_, makespan, longest) = spread(Report::makespan_seconds);
    format!(
        "{name}, {} seeds: makespan {makespan:.2} s (longest {longest:.2}), efficiency {middle:.3} (worst {worst:.3}), \
         source copies {copies:.3} (most {most:.3})",
        reports.len()
    )
}
