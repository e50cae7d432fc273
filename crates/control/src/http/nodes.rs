//! `/api/v1/nodes` and `/api/v1/tokens`.

use std::sync::Arc;

use axum::Json as JsonReply;
use axum::extract::{Path, State};
use floodway_api::rest::{CreateJoinToken, JoinToken, JoinTokenList, NodeList, NodeView};
use http::StatusCode;

use super::App;
use super::body::Json;
use super::guard::Operator;
use crate::error::ApiError;

pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
) -> Result<JsonReply<NodeList>, ApiError> {
    let nodes = app.handle.call(|core| Ok(core.node_list())).await?;
    Ok(JsonReply(NodeList { nodes }))
}

pub(super) async fn trust(
    State(app): State<Arc<App>>,
    _: Operator,
    Path(node): Path<String>,
) -> Result<JsonReply<NodeView>, ApiError> {
    app.handle
        .call(move |core| core.trust(&node))
        .await
        .map(JsonReply)
}

pub(super) async fn create_token(
    State(app): State<Arc<App>>,
    _: Operator,
    Json(create): Json<CreateJoinToken>,
) -> Result<(StatusCode, JsonReply<JoinToken>), ApiError> {
    let token = app
        .handle
        .call(move |core| core.create_join_token(create))
        .await?;
    Ok((StatusCode::CREATED, JsonReply(token)))
}

pub(super) async fn list_tokens(
    State(app): State<Arc<App>>,
    _: Operator,
) -> Result<JsonReply<JoinTokenList>, ApiError> {
    let tokens = app.handle.call(|core| Ok(core.join_tokens())).await?;
    Ok(JsonReply(JoinTokenList { tokens }))
}

pub(super) async fn revoke_token(
    State(app): State<Arc<App>>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<JsonReply<JoinToken>, ApiError> {
    app.handle
        .call(move |core| core.revoke_join_token(&id))
        .await
        .map(JsonReply)
}
