//! `floodway torrent create|show`.

mod create;
mod show;

use clap::Subcommand;

use crate::exit::Outcome;

#[derive(Debug, Subcommand)]
pub(crate) enum TorrentCommand {
    /// Make a torrent of a file
    Create(create::CreateArgs),
    /// Print what a torrent file says
    Show(show::ShowArgs),
}

pub(crate) fn run(command: TorrentCommand) -> Outcome {
    match command {
        TorrentCommand::Create(args) => create::run(args),
        TorrentCommand::Show(args) => show::run(&args),
    }
}

pub(crate) use show::read;
