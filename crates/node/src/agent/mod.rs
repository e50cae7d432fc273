//! The agent daemon: executes distribution tasks, and seeds what it has until the task is over.
//!
//! Entry: [`run`]. One `Job` per content, whatever number of tasks want it. Invariant: a task that is no longer
//! listed stops at once, and leaves either the finished file or nothing.

mod book;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use floodway_api::rest::Role;
use floodway_api::sync::{SyncReply, SyncRequest};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::Session;
use crate::daemon::{Desk, Duty, converse};
use crate::job::Nudge;
use crate::node::{NodeSettings, Ready, RoleError, bind_http, identify, start_session};
use crate::state::{DataDir, StateError};
use book::{Book, Tools};

/// How an agent is to run.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// What every daemon is told.
    pub node: NodeSettings,
    /// Where finished files go; `None`: `files` in the data folder.
    pub dir: Option<PathBuf>,
    /// Where metrics are served.
    pub http: SocketAddr,
}

/// Runs an agent until `shutdown`.
///
/// `ready` is called once, when its listeners are bound and control has accepted it.
///
/// # Errors
/// [`RoleError`], whose [`exit_code`](RoleError::exit_code) classifies it.
pub async fn run(
    settings: AgentSettings,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), RoleError> {
    tokio::pin!(shutdown);
    let data = Arc::new(DataDir::open(&settings.node.data)?);
    let dir = settings
        .dir
        .clone()
        .unwrap_or_else(|| data.root().join("files"));
    std::fs::create_dir_all(&dir).map_err(|source| StateError::Io {
        action: "create",
        path: dir.clone(),
        source,
    })?;
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    let (listener, bound) = bind_http(settings.http).await?;
    let (client, identity) = tokio::select! {
        identified = identify(&settings.node, &data, Role::Agent) => identified?,
        () = &mut shutdown => return Ok(()),
    };
    let session = start_session(&settings.node, &identity).await?;
    let stop = CancellationToken::new();
    let server = axum::serve(listener, router(session.clone()))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let http = tokio::spawn(server.into_future());
    let (client, client_seen) = watch::channel(client);
    let (send_notes, notes) = mpsc::unbounded_channel();
    let tools = Tools {
        data: Arc::clone(&data),
        session: session.clone(),
        client: client_seen,
        dir,
    };
    let mut agent = Agent {
        book: Book::new(tools, send_notes),
    };
    agent.book.restore()?;
    let desk = Desk {
        settings: &settings.node,
        data: &data,
        client,
    };
    let addresses = Ready {
        http: Some(bound),
        peer: Some(session.peer_addr()),
    };
    let result = converse(desk, &mut agent, notes, shutdown, || ready(addresses)).await;
    stop.cancel();
    agent.book.stop().await;
    session.shutdown().await;
    http.abort();
    result
}

/// `/metrics` and `/healthz`.
fn router(session: Session) -> Router {
    let metrics = async move || {
        (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            session.metrics().render(),
        )
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
}

struct Agent {
    book: Book,
}

/// When to ask for a ticket again that was refused without a time.
const TICKET_PAUSE: Duration = Duration::from_secs(2);

impl Duty for Agent {
    type Note = Nudge;
    const ROLE: Role = Role::Agent;

    fn request(&self) -> SyncRequest {
        self.book.request()
    }

    fn note(&mut self, nudge: Nudge) -> Option<Nudge> {
        if nudge == Nudge::Changed {
            self.book.keep();
        }
        Some(nudge)
    }

    fn acknowledged(&mut self, _request: &SyncRequest) -> bool {
        // Whole states are told each time: nothing waits for a receipt.
        false
    }

    fn apply(&mut self, reply: SyncReply) {
        self.book.apply(reply);
    }

    fn away(&mut self, away: bool) {
        self.book.away(away);
    }

    fn alarm(&self) -> Option<Instant> {
        self.book.alarm()
    }
}
