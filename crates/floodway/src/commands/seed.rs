//! `floodway seed`: serve a file that is already here.

use std::cell::RefCell;
use std::path::PathBuf;

use clap::Args;
use floodway_node::seed::{self, SeedSpec};
use floodway_proto::ByteRate;
use floodway_swarm::Limits;

use super::get::{PeerArgs, failure};
use super::relay::print_ready;
use super::torrent;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::Progress;
use crate::{human, runtime, signals};

#[derive(Args, Debug)]
pub(crate) struct SeedArgs {
    /// The file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Its torrent
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    #[command(flatten)]
    peers: PeerArgs,
    /// Show no progress, print failures as JSON too
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: SeedArgs) -> Outcome {
    torrent::read(&args.torrent)?;
    if !args.path.exists() {
        return Err(Failure::new(
            Exit::NotFound,
            format_args!("there is no file {}", args.path.display()),
        )
        .hint("`floodway get` fetches it, and with `--seed-time` goes on seeding"));
    }
    let spec = SeedSpec {
        path: args.path,
        torrent: args.torrent,
        listen: args.peers.listen,
        advertise: args.peers.advertise,
        peers: args.peers.peer,
        limits: Limits {
            down: ByteRate::MAX,
            up: args.peers.max_up.unwrap_or(ByteRate::MAX),
        },
    };
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let line = RefCell::new(Progress::new(args.json));
        let show = |now: &floodway_node::Progress| {
            line.borrow_mut().show(now.have_bytes, now.length, || {
                let sent = human::bytes(now.counters.sent);
                format!(
                    "{} peers  {}  {sent} sent",
                    now.peers,
                    human::rate(now.rate_up.0)
                )
            });
        };
        let seeded = seed::run(spec, shutdown.cancelled(), print_ready, show).await;
        line.borrow().clear();
        seeded.map_err(failure)?;
        Ok(Exit::Done)
    })
}
