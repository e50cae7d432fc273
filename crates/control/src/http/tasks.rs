//! `/api/v1/tasks`.

use std::sync::Arc;

use axum::Json as JsonReply;
use axum::extract::{Path, RawQuery, State};
use floodway_api::rest::{CreateTask, Task, TaskList};
use http::StatusCode;

use super::App;
use super::body::Json;
use super::guard::Operator;
use crate::error::ApiError;

/// Tasks in a list when the request does not say how many.
const LIMIT_DEFAULT: usize = 1000;

pub(super) async fn create(
    State(app): State<Arc<App>>,
    _: Operator,
    Json(create): Json<CreateTask>,
) -> Result<(StatusCode, JsonReply<Task>), ApiError> {
    let task = app
        .handle
        .call(move |core| core.create_task(&create))
        .await?;
    Ok((StatusCode::CREATED, JsonReply(task)))
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Operator,
    RawQuery(query): RawQuery,
) -> Result<JsonReply<TaskList>, ApiError> {
    let limit = super::body::query(query.as_deref(), "limit")?.unwrap_or(LIMIT_DEFAULT);
    let tasks = app
        .handle
        .call(move |core| Ok(core.task_list(limit)))
        .await?;
    Ok(JsonReply(TaskList { tasks }))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<JsonReply<Task>, ApiError> {
    app.handle
        .call(move |core| core.task_view(&id))
        .await
        .map(JsonReply)
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    _: Operator,
    Path(id): Path<String>,
) -> Result<JsonReply<Task>, ApiError> {
    app.handle
        .call(move |core| core.cancel(&id))
        .await
        .map(JsonReply)
}
