//! Chores: `cargo xtask test`, `demo`, `bench`, `sim`, `deny`. Each is runnable alone.

mod bench;
mod deny;
#[cfg(test)]
mod documented;
mod shell;
mod tools;

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::Parser;

use crate::shell::{cargo, run, say};

/// Chores of the Floodway workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Xtask {
    /// Run all tests, against real servers and clients; installs what is missing (as root), else skips by name
    Test {
        /// Also the long forms of tests
        #[arg(long)]
        full: bool,
        /// Passed to the test runner, such as a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Build with optimisation and show everything on this machine; takes the arguments of `floodway demo`
    Demo {
        /// Passed to `floodway demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Measure, side by side with other programs
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run a scenario under virtual time (`--list` shows all); `sim --help` shows the arguments
    #[command(disable_help_flag = true)]
    Sim {
        /// Passed to the simulator
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<OsString>,
    },
    /// Check licences, banned crates and sources of all dependencies by deny.toml
    Deny,
}

fn main() -> ExitCode {
    let done = match Xtask::parse() {
        Xtask::Test { full, rest } => test(full, &rest),
        Xtask::Demo { rest } => demo(&rest),
        Xtask::Bench(bench) => bench.run(),
        Xtask::Sim { rest } => sim(&rest),
        Xtask::Deny => deny::check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs every test; the runner's own summary comes last.
fn test(full: bool, rest: &[OsString]) -> Result<()> {
    let nextest = tools::nextest()?;
    let environment = tools::for_tests(full)?;
    run(cargo()
        .args(["test", "--workspace", "--doc", "--quiet"])
        .envs(environment.iter().cloned()))?;
    let profile = if std::env::var_os("CI").is_some() {
        "ci"
    } else {
        "default"
    };
    run(Command::new(nextest)
        .current_dir(shell::workspace())
        .args(["nextest", "run", "--workspace", "--profile", profile])
        .args(rest)
        .envs(environment))
}

/// The simulator and what it draws with are built only when asked for.
fn sim(rest: &[OsString]) -> Result<()> {
    run(cargo()
        .args(["run", "--quiet", "--release", "--package", "floodway-sim"])
        .args(["--example", "sim", "--"])
        .args(rest))
}

fn demo(rest: &[OsString]) -> Result<()> {
    let floodway = shell::release_build()?;
    // The demo explains its own failures; its exit code is ours.
    run(Command::new(floodway).arg("demo").args(rest))
}
