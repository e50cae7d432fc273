//! `floodway serve`: control and a relay in one process, on one HTTP port.

use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use clap::Args;
use floodway_control::Control;
use floodway_node::NodeSettings;
use floodway_node::relay::{self, HttpSide, RelaySettings, Serving};
use floodway_proto::ByteRate;
use floodway_swarm::Limits;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::get::positive_rate;
use super::{control, relay as relay_command};
use crate::exit::{Exit, Failure, Outcome};
use crate::{ready, runtime, settings, signals};

/// How long a stop waits for open requests.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Args, Debug, Serialize)]
pub(crate) struct ServeArgs {
    /// A configuration file; `floodway config serve` prints a sample
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The folder of database, tokens and contents [default: ./floodway-data/serve]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where API, tracker and relayed contents are served [default: 127.0.0.1:7600]
    #[arg(long, value_name = "ADDR:PORT")]
    http: Option<SocketAddr>,
    /// What nodes and torrents are told as the address [default: the bound address]
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// A prefix of origin URLs that may be fetched; may be given several times
    #[arg(long, value_name = "PREFIX")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_origin: Vec<String>,
    /// Where peers connect [default: a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// What peers are told instead of the listening address
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<SocketAddr>,
    /// From origins and peers together, at most
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

pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let settings = settings::load("serve", args.config.as_deref(), args)?;
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        serve(settings, shutdown).await
    })
}

async fn serve(settings: settings::Serve, shutdown: CancellationToken) -> Outcome {
    let listener = control::bind(settings.http).await?;
    let http = listener.local_addr().map_err(Failure::failed)?;
    let control = Arc::new(start_control(&settings, http).await?);
    let serving = Serving::default();
    let relay = RelaySettings {
        node: NodeSettings {
            data: settings.data.join("relay"),
            control: format!("http://{}", own_address(http)),
            token: Some(control.join_token().to_owned()),
            name: Some("serve".into()),
            listen: settings.listen,
            advertise: settings.advertise,
            limits: Limits {
                down: settings.max_down,
                up: settings.max_up,
            },
            peers_max: settings.advanced.peers_max,
        },
        http: HttpSide::Shared {
            url: control.public_url().to_owned(),
            serving: serving.clone(),
        },
        feeds_from: Vec::new(),
        serve_after_complete: false,
    };
    let stop_http = CancellationToken::new();
    let service = router(&control, serving).into_make_service_with_connect_info::<SocketAddr>();
    let server =
        axum::serve(listener, service).with_graceful_shutdown(stop_http.clone().cancelled_owned());
    let mut server = tokio::spawn(server.into_future());
    let relaying = relay::run(relay, shutdown.cancelled(), |addresses| {
        ready::print(Some(http), addresses.peer);
    });
    // The relay says goodbye to control before the HTTP side stops.
    let outcome = tokio::select! {
        relayed = relaying => relayed.map_err(relay_command::failure),
        served = &mut server => Err(Failure::failed(format_args!("the HTTP side ended: {served:?}"))),
    };
    control.stopper().release().await;
    stop_http.cancel();
    if !server.is_finished() && tokio::time::timeout(GRACE, &mut server).await.is_err() {
        server.abort();
    }
    if let Some(control) = Arc::into_inner(control) {
        control.close().await;
    } else {
        tracing::warn!("requests were still open at the end");
    }
    outcome.map(|()| Exit::Done)
}

async fn start_control(settings: &settings::Serve, http: SocketAddr) -> Result<Control, Failure> {
    let settings = settings::Control {
        data: settings.data.clone(),
        http,
        allow_origin: settings.allow_origin.clone(),
        public_url: settings.public_url.clone(),
        ..settings::Control::default()
    };
    floodway_control::start(settings)
        .await
        .map_err(control::failure)
}

/// The relay's contents and both roles' metrics; everything else is control's.
fn router(control: &Arc<Control>, serving: Serving) -> Router {
    let both = (Arc::clone(control), serving.clone());
    let metrics = async move || {
        let (control, serving) = both;
        let text = format!("{}{}", control.metrics_text().await, serving.metrics());
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text)
    };
    relay::content_router(serving)
        .route("/metrics", get(metrics))
        .fallback_service(control.router())
}

/// Where this process reaches its own listener.
fn own_address(mut bound: SocketAddr) -> SocketAddr {
    if bound.ip().is_unspecified() {
        bound.set_ip(match bound.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    bound
}
