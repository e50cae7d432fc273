//! `/api/v1/enrol` and `/api/v1/sync`: what nodes send.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json as JsonReply;
use axum::extract::State;
use floodway_api::rest::{Enrol, Enrolled};
use floodway_api::sync::{SyncReply, SyncRequest};
use http::StatusCode;

use super::App;
use super::body::Json;
use super::guard::{Enroller, Node, Remote};
use crate::error::ApiError;

pub(super) async fn enrol(
    State(app): State<Arc<App>>,
    Enroller(sponsor): Enroller,
    Json(enrol): Json<Enrol>,
) -> Result<(StatusCode, JsonReply<Enrolled>), ApiError> {
    let enrolled = app
        .handle
        .call(move |core| core.enrol(sponsor, &enrol))
        .await?;
    Ok((StatusCode::CREATED, JsonReply(enrolled)))
}

pub(super) async fn sync(
    State(app): State<Arc<App>>,
    Node(node): Node,
    Remote(remote): Remote,
    Json(request): Json<SyncRequest>,
) -> Result<JsonReply<SyncReply>, ApiError> {
    app.metrics.syncs.fetch_add(1, Ordering::Relaxed);
    app.handle.sync(node, remote, request).await.map(JsonReply)
}
