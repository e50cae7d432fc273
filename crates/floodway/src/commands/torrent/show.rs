//! `floodway torrent show`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::{ByteCount, bencode};
use serde_json::json;

use crate::exit::{Exit, Failure, Outcome};
use crate::{human, say};

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// The torrent file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads a torrent file.
///
/// # Errors
/// Exit 4 when there is no such file, 2 when it is no torrent that can be used.
pub(crate) fn read(path: &Path) -> Result<Metainfo, Failure> {
    let at = path.display();
    let unreadable = |error: std::io::Error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(
            exit,
            format_args!("the torrent file {at} cannot be read: {error}"),
        )
    };
    let limit = u64::try_from(bencode::Limits::TORRENT.length).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Metainfo::decode(&bytes).map_err(|error| {
        Failure::usage(format_args!("{at}: {error}")).hint(
            "the fault is in the file: get it again, or make it with `floodway torrent create`",
        )
    })
}

pub(crate) fn run(args: &ShowArgs) -> Outcome {
    let torrent = read(&args.file)?;
    if args.json {
        say::json(&json!({
            "name": torrent.info.name,
            "length": torrent.info.length,
            "piece_length": torrent.info.piece_length,
            "pieces": torrent.info.pieces.len(),
            "info_hash_v1": torrent.info_hash,
            "private": torrent.info.private,
            "trackers": torrent.trackers,
            "web_seeds": torrent.web_seeds,
            "comment": torrent.comment,
            "created_by": torrent.created_by,
            "creation_date": torrent.creation_date,
        }));
        return Ok(Exit::Done);
    }
    let info = &torrent.info;
    row("name", &info.name);
    row(
        "length",
        format_args!("{} ({} bytes)", human::bytes(info.length), info.length),
    );
    row(
        "pieces",
        format_args!(
            "{} of {}",
            info.pieces.len(),
            ByteCount(info.piece_length.into())
        ),
    );
    row("info-hash v1", torrent.info_hash);
    row("private", if info.private { "yes" } else { "no" });
    for tracker in torrent.trackers.iter().flatten() {
        row("tracker", tracker);
    }
    for url in &torrent.web_seeds {
        row("web seed", url);
    }
    if let Some(comment) = &torrent.comment {
        row("comment", comment.escape_debug());
    }
    if let Some(program) = &torrent.created_by {
        row("created by", program.escape_debug());
    }
    Ok(Exit::Done)
}

fn row(name: &str, value: impl std::fmt::Display) {
    say::line(format_args!("{name:<14}{value}"));
}
