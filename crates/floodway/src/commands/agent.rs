//! `floodway agent`: executes distribution tasks and goes on seeding.

use std::path::PathBuf;

use clap::Args;
use floodway_node::NodeSettings;
use floodway_node::agent::{self, AgentSettings};
use floodway_swarm::Limits;
use serde::Serialize;

use super::relay::{NodeArgs, control, failure, print_ready};
use crate::exit::{Exit, Outcome};
use crate::{client, runtime, settings, signals};

#[derive(Args, Debug, Serialize)]
pub(crate) struct AgentArgs {
    /// Where finished files go [default: `files` in the data folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    node: NodeArgs,
}

pub(crate) fn run(args: &AgentArgs) -> Outcome {
    let settings: settings::Agent = settings::load("agent", args.node.config.as_deref(), args)?;
    let agent = AgentSettings {
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
        dir: settings.dir,
        http: settings.http,
    };
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        agent::run(agent, shutdown.cancelled(), print_ready)
            .await
            .map_err(failure)?;
        Ok(Exit::Done)
    })
}
