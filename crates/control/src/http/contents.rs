//! `/api/v1/s/SID/…`: torrents, magnet links and capabilities.

use std::sync::Arc;

use axum::Json as JsonReply;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use floodway_api::rest::{Capabilities, CreateCapability, Growth};
use floodway_proto::genesis::Genesis;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};

use super::App;
use super::body::{Json, query, sid};
use super::guard::Reader;
use super::manifest::stored;
use crate::core::Core;
use crate::db::Store as _;
use crate::error::ApiError;
use crate::tasks::publish::{self, Format};

fn broken(problem: impl std::fmt::Display) -> ApiError {
    let message = format!("the torrent cannot be read from the database: {problem}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

pub(super) async fn torrent(
    State(app): State<Arc<App>>,
    _: Reader,
    Path(path): Path<String>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let sid = sid(&path)?;
    let format: Format = query(raw.as_deref(), "format")?.unwrap_or_default();
    let parts = move |core: &mut Core| core.torrent_parts(sid, format);
    let parts = app.handle.call(parts).await?;
    let torrent = match format {
        Format::V1 => {
            let info = app.store.info(sid).await.map_err(broken)?;
            let info = info.ok_or_else(|| broken("its info dict is missing"))?;
            publish::torrent(&info, parts.tracker, parts.web_seeds).map_err(broken)?
        }
        Format::V2 | Format::Hybrid => {
            let digests = stored(&app, sid, 0..parts.pieces).await?;
            let mut genesis = Genesis::decode(parts.genesis.bytes()).map_err(broken)?;
            if let Some(last) = genesis.files.last_mut() {
                // Only that of a single file may have been unknown.
                last.length.get_or_insert(parts.length);
            }
            let (tracker, seeds) = (&parts.tracker, &parts.web_seeds);
            publish::torrent_with_tree(&genesis, format, &digests, tracker, seeds)
                .map_err(broken)?
        }
    };
    let name: String = parts
        .file_name
        .chars()
        .map(|c| if c.is_ascii() && c != '"' { c } else { '_' })
        .collect();
    let mut response = torrent.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-bittorrent"),
    );
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

pub(super) async fn magnet(
    State(app): State<Arc<App>>,
    _: Reader,
    Path(path): Path<String>,
    RawQuery(raw): RawQuery,
) -> Result<String, ApiError> {
    let sid = sid(&path)?;
    let format: Format = query(raw.as_deref(), "format")?.unwrap_or_default();
    let magnet = move |core: &mut Core| core.magnet(sid, format);
    let magnet = app.handle.call(magnet).await?;
    Ok(magnet + "\n")
}

pub(super) async fn growth(
    State(app): State<Arc<App>>,
    _: Reader,
    Path(path): Path<String>,
) -> Result<JsonReply<Growth>, ApiError> {
    let sid = sid(&path)?;
    let growth = app.handle.call(move |core: &mut Core| core.growth_of(sid));
    growth.await.map(JsonReply)
}

pub(super) async fn capability(
    State(app): State<Arc<App>>,
    Reader(node): Reader,
    Path(path): Path<String>,
    Json(create): Json<CreateCapability>,
) -> Result<JsonReply<Capabilities>, ApiError> {
    let sid = sid(&path)?;
    let capability = move |core: &mut Core| core.capability(sid, create.seconds, node);
    app.handle.call(capability).await.map(JsonReply)
}
