//! `floodway relay`: fetches from origins, seeds and serves. Also what relays and agents have in common.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use floodway_node::relay::{self, HttpSide, RelaySettings};
use floodway_node::{NodeSettings, Ready, RoleError};
use floodway_proto::ByteRate;
use floodway_swarm::Limits;
use serde::Serialize;
use url::Url;

use super::get::positive_rate;
use crate::exit::{Exit, Failure, Outcome};
use crate::{client, ready, runtime, settings, signals};

/// What relays and agents are told alike.
#[derive(Args, Debug, Serialize)]
pub(crate) struct NodeArgs {
    /// A configuration file; `floodway config ROLE` prints a sample
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
    /// The folder of this node's state and token [default: ./floodway-data/ROLE]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Control's address; else `FLOODWAY_CONTROL` is used
    #[arg(long, value_name = "URL")]
    control: Option<Url>,
    /// A file with the join token, needed once; else `FLOODWAY_TOKEN` is used
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A name for people [default: this machine's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The HTTP side [default: a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// Where peers connect [default: a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// What peers are told instead of the listening address
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<SocketAddr>,
    /// From all sources together, at most
    #[arg(long, value_name = "RATE", value_parser = positive_rate)]
    max_down: Option<ByteRate>,
    /// To all peers together, at most
    #[arg(long, value_name = "RATE", value_parser = positive_rate)]
    max_up: Option<ByteRate>,
    /// Print failures as JSON too
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

#[derive(Args, Debug, Serialize)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    #[serde(flatten)]
    node: NodeArgs,
    /// Take everything from this relay, by name or node id, and read no origin; may be given several times
    #[arg(long, value_name = "RELAY")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    feeds_from: Vec<String>,
    /// For measurements: offer nothing before everything is there
    #[arg(long, hide = true)]
    #[serde(skip)]
    bench_serve_after_complete: bool,
}

pub(crate) fn run(args: &RelayArgs) -> Outcome {
    let settings: settings::Relay = settings::load("relay", args.node.config.as_deref(), args)?;
    let relay = RelaySettings {
        node: NodeSettings {
            data: settings.data,
            control: control(settings.control.as_ref())?,
            token: client::join_token(settings.token_file.as_deref())?,
            name: settings.name,
            listen: settings.listen,
            advertise: settings.advertise,
            limits: Limits {
                down: settings.max_down,
                up: settings.max_up,
            },
            peers_max: settings.advanced.peers_max,
        },
        http: HttpSide::Own(settings.http),
        feeds_from: settings.feeds_from,
        serve_after_complete: args.bench_serve_after_complete,
    };
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        relay::run(relay, shutdown.cancelled(), print_ready)
            .await
            .map_err(failure)?;
        Ok(Exit::Done)
    })
}

/// The address of control that every node must have.
///
/// # Errors
/// When there is none.
pub(crate) fn control(address: Option<&Url>) -> Result<String, Failure> {
    address.map(Url::to_string).ok_or_else(|| {
        Failure::usage("a node belongs to a control, and no address of it was given")
            .hint("give `--control URL`, set FLOODWAY_CONTROL, or write `control` into the configuration file")
    })
}

pub(crate) fn print_ready(addresses: Ready) {
    ready::print(addresses.http, addresses.peer);
}

pub(crate) fn failure(error: RoleError) -> Failure {
    let failure = Failure::new(Exit::from_code(error.exit_code()), &error);
    match error {
        RoleError::Control(error) if error.is_token_refused() => {
            failure.hint("make a new join token with `floodway node token create`; a node token lies in the data folder")
        }
        _ => failure,
    }
}
