//! `cargo xtask bench`: figures side by side with other programs, in one run on one machine.

mod cost;
mod files;
mod measure;
mod micro;
pub(crate) mod pair;
mod stats;
mod stream;
pub(crate) mod swarm;
mod tracker;

use std::fs;
use std::net::{SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use self::tracker::Tracker;
use crate::shell::{self, say};
use crate::tools;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// One source, one client, over loopback, on tmpfs
    Pair(pair::PairArgs),
    /// Many hosts with shaped links, as network namespaces (needs root)
    Swarm(swarm::SwarmArgs),
    /// The tables of swarms that were measured earlier
    Tables(swarm::TablesArgs),
    /// How soon others have what a relay has fetched, over loopback
    Stream(stream::StreamArgs),
    /// What single operations cost: picks, messages, hashing
    Micro,
    /// What one event costs the engine in small and large swarms, in instructions (needs valgrind)
    Cost(cost::CostArgs),
    /// What the network of `swarm` really gives: rate, round trip, loss
    Net(swarm::net::NetArgs),
    /// Parts of a measurement that run within a host
    #[command(subcommand, hide = true)]
    Helper(Helper),
}

#[derive(Subcommand)]
pub(crate) enum Helper {
    /// Delays and loses packets of a TUN device
    Delay(swarm::delay::DelayArgs),
    /// A tracker for one swarm
    Tracker { at: SocketAddrV4 },
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Pair(args) => pair::pair(args),
            Self::Swarm(args) => swarm::swarm(args),
            Self::Tables(args) => swarm::tables(args),
            Self::Stream(args) => stream::stream(args),
            Self::Micro => micro::micro(),
            Self::Cost(args) => cost::cost(args),
            Self::Net(args) => swarm::net::net(args),
            Self::Helper(Helper::Delay(args)) => swarm::delay::run(args),
            Self::Helper(Helper::Tracker { at }) => {
                let listener = TcpListener::bind(at)?;
                say("ready");
                Tracker::default().serve(&listener, |source| say(format_args!("source {source}")));
                Ok(())
            }
        }
    }
}

/// What every comparison is told.
#[derive(Args)]
pub(crate) struct Common {
    /// Where the figures of all runs go; of swarms, runs that are there already stay and count [default: in target/bench, made anew]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the tables go [default: in target/bench]
    #[arg(long)]
    md: Option<PathBuf>,
    /// Measure this binary instead of building one
    #[arg(long)]
    floodway: Option<PathBuf>,
    /// Build and install rqbit first if it is missing (many minutes, once)
    #[arg(long)]
    with_rqbit: bool,
}

/// Where the programs are that have no fixed place; `None` is not installed.
pub(crate) struct Tools {
    pub(crate) floodway: PathBuf,
    /// A Python that can import libtorrent.
    pub(crate) python: Option<PathBuf>,
    pub(crate) rqbit: Option<PathBuf>,
}

impl Tools {
    /// Measures `floodway` if one is given, else a fresh build.
    fn find(floodway: Option<&Path>, build_rqbit: bool) -> Result<Self> {
        let floodway = match floodway {
            Some(binary) => fs::canonicalize(binary)
                .with_context(|| format!("--floodway {} is not there", binary.display()))?,
            None => shell::release_build()?,
        };
        let python = tools::libtorrent()
            .map_err(|error| say(format_args!("without libtorrent: {error:#}")))
            .ok();
        Ok(Self {
            floodway,
            python,
            rqbit: tools::rqbit(build_rqbit)?,
        })
    }
}
