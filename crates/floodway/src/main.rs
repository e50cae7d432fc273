//! The command: `main` parses and calls; each module under [`commands`] is one subcommand.

mod cli;
mod client;
mod commands;
mod exit;
mod human;
mod later;
mod logs;
mod progress;
mod ready;
mod runtime;
mod say;
mod settings;
mod signals;

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<_> = std::env::args_os().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let programs = json.then(|| commands::get::out(&arguments));
    let outcome = commands::demo::die_with_parent().and_then(|()| cli::parse(&arguments));
    let outcome = outcome.and_then(|parsed| match parsed {
        cli::Parsed::Run(cli) => cli.run(started),
        cli::Parsed::Shown => Ok(exit::Exit::Done),
    });
    outcome
        .unwrap_or_else(|failure| failure.report(programs))
        .into()
}
