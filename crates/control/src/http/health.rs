//! `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::App;
use crate::db::Store;
use crate::error::ApiError;

/// The content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl App {
    /// True when the database answers, and takes writes if it lately did not.
    pub(crate) async fn is_ready(&self) -> Result<(), ApiError> {
        // A write tells more than a read, and after trouble only a write can tell that it is over.
        self.store
            .probe()
            .await
            .map_err(|error| ApiError::unavailable(error.to_string()))?;
        self.handle.call(|_| Ok(())).await
    }

    /// The page at `/metrics`.
    pub(crate) async fn metrics_text(&self) -> Result<String, ApiError> {
        let gauges = self.handle.call(|core| Ok(core.gauges())).await?;
        Ok(self.metrics.text(&gauges, self.handle.is_healthy()))
    }
}

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    app.is_ready().await?;
    Ok("ready\n")
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let mut response = app.metrics_text().await?.into_response();
    let kind = HeaderValue::from_static(METRICS_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
