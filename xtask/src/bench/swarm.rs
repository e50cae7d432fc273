//! `cargo xtask bench swarm`: many hosts with shaped links on one machine, one program after the other in the same swarm.

mod bound;
mod contender;
pub(super) mod delay;
pub(crate) mod job;
pub(super) mod net;
mod network;
mod round;
mod scenario;
mod table;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use self::contender::Contender;
use self::round::Round;
use self::scenario::Scenario;
use self::table::Results;
use super::{Common, Tools};
use crate::shell::{self, say, target};
use crate::tools;

#[derive(Args)]
pub(crate) struct SwarmArgs {
    /// Scenarios by name (s1, s1-cold, s2, s3, rtt60, staggered, churn, unequal, nat, quick) or TOML files
    #[arg(default_values = ["s1", "s2", "s3"])]
    scenarios: Vec<String>,
    /// Who takes part; NAME+seed has one more of the program seed beside the web seed
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "native,stock,libtorrent,libtorrent-tuned+seed,aria2,transmission,rqbit+seed"
    )]
    programs: Vec<Contender>,
    /// How many times each program goes through each scenario
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Only native mode in the scenario `quick`, once; fails when it misses what every change must hold
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    common: Common,
    /// Keep what the programs print in this folder
    #[arg(long)]
    logs: Option<PathBuf>,
    /// A memory file system with room for one file for each client
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
}

/// Tables of runs that were measured earlier.
#[derive(Args)]
pub(crate) struct TablesArgs {
    /// Files that `bench swarm --json` wrote
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// More than this many copies from the origin's host, and `--quick` fails: agents that read the relay over HTTP side by
/// side would take 8. The links are the limit in this scenario, not the processors: where the clients were short of these, the relay
/// seeded for twice as long, and copies were by chance (1.16 to 2.02 with 24 clients at 40 Mbit/s).
const QUICK_COPIES: f64 = 1.5;

/// Runs every program through every scenario, in turns.
pub(crate) fn swarm(args: &SwarmArgs) -> Result<()> {
    if args.quick && !tools::is_root() {
        say("bench swarm --quick is skipped: network namespaces need root");
        return Ok(());
    }
    tools::install_swarm_programs()?;
    // Tests are built without optimisation too: CI need not build everything twice.
    let debug = match &args.common.floodway {
        None if args.quick => Some(shell::debug_build()?),
        _ => None,
    };
    let tools = Tools::find(
        args.common.floodway.as_deref().or(debug.as_deref()),
        args.common.with_rqbit,
    )?;
    let (scenarios, runs) = if args.quick {
        (vec![Scenario::load("quick")?], 1)
    } else {
        let loaded = args.scenarios.iter().map(|name| Scenario::load(name));
        (loaded.collect::<Result<Vec<_>>>()?, args.runs)
    };
    let contenders = if args.quick {
        vec!["native".parse()?]
    } else {
        present(&args.programs, &tools)
    };
    let stop = interrupted()?;
    let mut results = match &args.common.json {
        Some(path) if path.exists() => Results::read(path)?,
        _ => Results::default(),
    };
    let mut failed = 0_u32;
    for run in 1..=runs {
        for scenario in &scenarios {
            for contender in &contenders {
                let round = Round {
                    scenario,
                    contender: *contender,
                    tools: &tools,
                    within: &args.folder,
                    logs: args.logs.as_deref(),
                    stop: &stop,
                };
                let name = format!("{} in {}", contender.name(), scenario.name);
                match round.run() {
                    Ok(record) => {
                        say(format_args!("run {run} of {runs}: {}", record.summary()));
                        results.add(record);
                    }
                    Err(error) if stop.load(Ordering::Relaxed) => return Err(error),
                    Err(error) => {
                        failed += 1;
                        say(format_args!(
                            "run {run} of {runs}: {name} failed: {error:#}"
                        ));
                    }
                }
                write(args, &results)?;
            }
        }
    }
    say(results.markdown());
    ensure!(failed == 0, "{failed} runs failed");
    if args.quick {
        check_quick(&results)?;
    }
    Ok(())
}

/// Prints the tables of earlier runs.
pub(crate) fn tables(args: &TablesArgs) -> Result<()> {
    let mut results = Results::default();
    for path in &args.files {
        results.append(Results::read(path)?);
    }
    shell::print(results.markdown());
    Ok(())
}

/// Those that are installed; says which are not.
fn present(contenders: &[Contender], tools: &Tools) -> Vec<Contender> {
    let (there, missing): (Vec<_>, Vec<Contender>) = contenders
        .iter()
        .partition(|contender| contender.program.is_there(tools));
    for contender in missing {
        say(format_args!("skipped, not installed: {}", contender.name()));
    }
    there
}

/// Becomes true when somebody wants us to end; everything is then cleaned up first.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// After every run, so that nothing is lost.
fn write(args: &SwarmArgs, results: &Results) -> Result<()> {
    let own = target().join("bench");
    fs::create_dir_all(&own)?;
    let json = args
        .common
        .json
        .clone()
        .unwrap_or_else(|| own.join("swarm.json"));
    let md = args
        .common
        .md
        .clone()
        .unwrap_or_else(|| own.join("swarm.md"));
    results.write(&json)?;
    fs::write(&md, results.markdown())
        .with_context(|| format!("{} cannot be written", md.display()))
}

fn check_quick(results: &Results) -> Result<()> {
    let Some(record) = results.last() else {
        bail!("nothing was measured");
    };
    ensure!(
        record.is_whole(),
        "the swarm did not finish within {} s",
        record.scenario.limit_seconds
    );
    ensure!(
        record.origin_copies() <= QUICK_COPIES,
        "{:.2} copies left the origin, {QUICK_COPIES} are allowed",
        record.origin_copies()
    );
    Ok(())
}
