//! The HTTP side: routes to decisions, thin.

mod body;
mod contents;
mod enrol;
mod guard;
mod health;
mod manifest;
mod nodes;
mod tasks;
mod tracker;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use floodway_api::sync::SYNC_LIMIT;
use http::{Method, StatusCode, Uri};

use crate::actor::Handle;
use crate::auth::Directory;
use crate::core::Config;
use crate::db::Sqlite;
use crate::error::ApiError;
use crate::metrics::Metrics;

/// The longest body of a request: a sync with all the pieces that one may report takes a third of it.
const BODY_MAX: usize = 2 * 1024 * 1024;
/// The same where all files of a folder may be named: 32 000 of them, with what a relay found.
const FILES_BODY_MAX: usize = SYNC_LIMIT;

/// What the routes need.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) handle: Handle,
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) store: Sqlite,
    pub(crate) config: Arc<Config>,
}

/// All routes but `/metrics` and `/healthz`, which a process of several roles answers for all of them.
pub(crate) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/api/v1/tasks",
            post(tasks::create)
                .get(tasks::list)
                .layer(DefaultBodyLimit::max(FILES_BODY_MAX)),
        )
        .route("/api/v1/tasks/{id}", get(tasks::show))
        .route("/api/v1/tasks/{id}/cancel", post(tasks::cancel))
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{node}/trust", post(nodes::trust))
        .route(
            "/api/v1/tokens",
            post(nodes::create_token).get(nodes::list_tokens),
        )
        .route("/api/v1/tokens/{id}/revoke", post(nodes::revoke_token))
        .route("/api/v1/enrol", post(enrol::enrol))
        .route(
            "/api/v1/sync",
            post(enrol::sync).layer(DefaultBodyLimit::max(FILES_BODY_MAX)),
        )
        .route("/api/v1/s/{sid}/torrent", get(contents::torrent))
        .route("/api/v1/s/{sid}/magnet", get(contents::magnet))
        .route("/api/v1/s/{sid}/capability", post(contents::capability))
        .route("/api/v1/s/{sid}/growth", get(contents::growth))
        .route("/api/v1/s/{sid}/genesis", get(manifest::genesis))
        .route("/api/v1/s/{sid}/head", get(manifest::head))
        .route("/api/v1/s/{sid}/hashes/{group}", get(manifest::hashes))
        .route("/announce/{key}", get(tracker::announce))
        .route("/scrape/{key}", get(tracker::scrape))
        .route("/readyz", get(health::readyz))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

/// `/metrics` and `/healthz` of control alone.
pub(crate) fn own_routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .with_state(app)
}

/// Gives a router's 404 and 405 the form of all errors.
pub(crate) fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at {}; see docs/api.md for the routes",
        uri.path()
    ))
}

async fn not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("{} does not take {method}", uri.path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}
