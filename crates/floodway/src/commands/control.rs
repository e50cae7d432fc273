//! `floodway control`: tasks, tracker, policy.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use floodway_control::ControlError;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::exit::{Exit, Failure, Outcome};
use crate::{ready, runtime, settings, signals};

#[derive(Args, Debug, Serialize)]
pub(crate) struct ControlArgs {
    /// A configuration file; `floodway config control` prints a sample
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The folder of database and tokens [default: ./floodway-data/control]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:7600]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// What nodes and torrents are told as control's address [default: the bound address]
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// A prefix of origin URLs that may be fetched; may be given several times
    #[arg(long, value_name = "PREFIX")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_origin: Vec<String>,
    /// Print failures as JSON too
    #[arg(long)]
    #[serde(skip)]
    json: bool,
}

pub(crate) fn run(args: &ControlArgs) -> Outcome {
    let settings: settings::Control = settings::load("control", args.config.as_deref(), args)?;
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let listener = bind(settings.http).await?;
        floodway_control::run(
            settings,
            listener,
            shutdown.cancelled_owned(),
            |addresses| {
                ready::print(Some(addresses.http), None);
            },
        )
        .await
        .map_err(failure)?;
        Ok(Exit::Done)
    })
}

/// Binds the HTTP side.
///
/// # Errors
/// When the address cannot be used.
pub(crate) async fn bind(addr: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr).await.map_err(|error| {
        Failure::failed(format_args!("cannot listen for HTTP on {addr}: {error}"))
            .hint("choose another address or port with `--http`")
    })
}

pub(crate) fn failure(error: ControlError) -> Failure {
    let exit = if error.is_settings_fault() {
        Exit::Usage
    } else {
        Exit::Failed
    };
    Failure::new(exit, error)
}
