//! The command line as a whole.

use std::ffi::OsString;
use std::time::Instant;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    agent, config, control, demo, get, node, publish, relay, seed, serve, task, torrent,
};
use crate::exit::{Exit, Failure, Outcome};
use crate::{later, logs, say};

/// Distributes large files from an origin to any number of machines: BitTorrent first, HTTP when it must.
#[derive(Debug, Parser)]
#[command(
    name = "floodway",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    logs: logs::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything on this machine: an origin, control, relays and agents, and a report
    Demo(demo::DemoArgs),
    /// Run control and a relay in one process: all that a small fleet needs
    Serve(serve::ServeArgs),
    /// Run the control server
    Control(control::ControlArgs),
    /// Run a relay: fetches from origins, seeds and serves
    Relay(relay::RelayArgs),
    /// Run an agent: executes distribution tasks and goes on seeding
    Agent(agent::AgentArgs),
    /// Download one file
    Get(get::GetArgs),
    /// Seed a file that is already here
    Seed(seed::SeedArgs),
    /// Bring a file to the relays and onto agents
    Publish(publish::PublishArgs),
    /// List, show and cancel tasks
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// List nodes, trust a relay again, make and revoke join tokens
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make and read torrent files
    #[command(subcommand)]
    Torrent(torrent::TorrentCommand),
    /// Print a role's sample configuration
    Config(config::ConfigArgs),
    /// The demo's origin server
    #[command(hide = true)]
    DemoOrigin(demo::OriginArgs),
}

impl Cli {
    /// Runs the command; `started` is when the process did.
    pub(crate) fn run(self, started: Instant) -> Outcome {
        self.logs.start()?;
        match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Serve(args) => serve::run(&args),
            Command::Control(args) => control::run(&args),
            Command::Relay(args) => relay::run(&args),
            Command::Agent(args) => agent::run(&args),
            Command::Get(args) => get::run(args, started),
            Command::Seed(args) => seed::run(args),
            Command::Publish(args) => publish::run(args),
            Command::Task(command) => task::run(command),
            Command::Node(command) => node::run(command),
            Command::Torrent(command) => torrent::run(command),
            Command::Config(args) => {
                config::run(args);
                Ok(Exit::Done)
            }
            Command::DemoOrigin(args) => demo::origin(args),
        }
    }
}

/// What a command line turned out to be.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command to run.
    Run(Box<Cli>),
    /// Help or the version, already printed.
    Shown,
}

/// Reads the command line.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Parsed, Failure> {
    let parsed = later::extend(Cli::command()).try_get_matches_from(arguments);
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) => return shown_or_wrong(&error),
    };
    later::refuse(&matches)?;
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) => shown_or_wrong(&error),
    }
}

fn shown_or_wrong(error: &clap::Error) -> Result<Parsed, Failure> {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            say::line(text.to_string().trim_end());
            Ok(Parsed::Shown)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(Failure::usage("a command is missing").hint("`--help` lists the commands"))
        }
        _ => {
            // clap's own text: `error: …`, perhaps tips and the usage.
            let text = text.to_string();
            let text = text.trim().strip_prefix("error: ").unwrap_or(&text);
            let message = text
                .split("\n\nFor more information")
                .next()
                .unwrap_or(text);
            Err(Failure::usage(message.trim_end()).hint("`--help` shows what can be given here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        later::extend(Cli::command()).debug_assert();
    }

    fn refusal(line: &str) -> String {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        format!("{:?}", parse(&arguments).expect_err(line))
    }

    #[test]
    fn what_comes_later_is_refused_by_name() {
        for (line, what) in [
            ("floodway get http://a/b --min-speed 2MiB/s", "--min-speed"),
            ("floodway publish http://a/b --window 1-2", "--window"),
            ("floodway torrent create f --hybrid", "--hybrid"),
            ("floodway task pause 7", "task pause"),
            ("floodway quota set --x y", "quota"),
            ("floodway completions bash", "completions"),
        ] {
            let text = refusal(line);
            assert!(
                text.contains(what) && text.contains("planned"),
                "{line}: {text}"
            );
        }
        assert!(!refusal("floodway get http://a/b --min-sped 1").contains("planned"));
        assert!(!refusal("floodway publsh").contains("planned"));
    }
}
