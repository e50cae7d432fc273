//! `/api/v1/s/SID/{genesis,head,hashes/G}`: the signed side of a content, for nodes that nobody else helps. Relays mirror
//! these routes.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use floodway_proto::record::Head;
use floodway_proto::{Sha1, Sha256, Sid};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::App;
use super::body::{query, sid};
use super::guard::FactReader;
use crate::core::News;
use crate::db::Store as _;
use crate::error::ApiError;

/// The longest that a `head` is held open.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// What never changes may be kept for a year.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";

fn bytes(body: impl IntoResponse, cache: &'static str) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

pub(super) async fn genesis(
    State(app): State<Arc<App>>,
    reader: FactReader,
    Path(path): Path<String>,
) -> Result<Response, ApiError> {
    let sid = sid(&path)?;
    reader.check(sid)?;
    let genesis = app.handle.call(move |core| core.genesis(sid)).await?;
    Ok(bytes(genesis.bytes().clone(), IMMUTABLE))
}

pub(super) async fn head(
    State(app): State<Arc<App>>,
    reader: FactReader,
    Path(path): Path<String>,
    RawQuery(raw): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let sid = sid(&path)?;
    reader.check(sid)?;
    let after: Head = query(raw.as_deref(), "after")?.unwrap_or_default();
    let wait: u64 = query(raw.as_deref(), "wait")?.unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(wait).min(WAIT_MAX);
    // Subscribed before the first look, so that nothing is missed in between.
    let mut signed = app.handle.signed();
    let news = loop {
        signed.borrow_and_update();
        let news = app
            .handle
            .call(move |core| core.records_after(sid, after))
            .await?;
        if !news.records.is_empty() {
            break news;
        }
        match tokio::time::timeout_at(until, signed.changed()).await {
            Ok(Ok(())) => {}
            // Nothing new in time, or control is stopping.
            Ok(Err(_)) | Err(_) => break news,
        }
    };
    Ok(head_reply(news, wait > 0, &headers))
}

/// Records and an `ETag` that names the newest; 304 for whoever has them, and 204 when waiting was of no use.
fn head_reply(news: News, waited: bool, headers: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", news.head);
    let given = headers.get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
    let mut response = if given == Some(etag.as_str()) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if news.records.is_empty() && waited {
        StatusCode::NO_CONTENT.into_response()
    } else {
        bytes(news.records, "no-cache")
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// Which digests of pieces are asked for.
#[derive(Clone, Copy, Debug, Default)]
enum Algorithm {
    /// Nodes of the BEP 52 tree.
    #[default]
    Sha256,
    /// Entries of a v1 torrent.
    Sha1,
}

impl FromStr for Algorithm {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha1" => Ok(Self::Sha1),
            _ => Err("it must be sha256 or sha1"),
        }
    }
}

pub(super) async fn hashes(
    State(app): State<Arc<App>>,
    reader: FactReader,
    Path((path, group)): Path<(String, String)>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let sid = sid(&path)?;
    reader.check(sid)?;
    let algorithm: Algorithm = query(raw.as_deref(), "alg")?.unwrap_or_default();
    let number = group.parse();
    let group =
        number.map_err(|_| ApiError::bad_field("group", "the group of pieces must be a number"))?;
    let first: u32 = query(raw.as_deref(), "first")?.unwrap_or_default();
    let count: u32 = query(raw.as_deref(), "count")?.unwrap_or(u32::MAX);
    let part = first..first.saturating_add(count);
    let pieces = app.handle.call(move |core| core.group(sid, group, part));
    let pieces = pieces.await?;
    let digests = match pieces.digests {
        Some(digests) => digests,
        None => stored(&app, sid, pieces.pieces).await?,
    };
    let body = digests.iter().flat_map(|(node, sha1)| match algorithm {
        Algorithm::Sha256 => node.0.to_vec(),
        Algorithm::Sha1 => sha1.0.to_vec(),
    });
    Ok(bytes(body.collect::<Vec<u8>>(), IMMUTABLE))
}

/// Digests of a final content, which are in the database only.
pub(super) async fn stored(
    app: &App,
    sid: Sid,
    pieces: Range<u32>,
) -> Result<Vec<(Sha256, Sha1)>, ApiError> {
    let broken = |problem: String| {
        let message = format!("the pieces' hashes cannot be read from the database: {problem}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    };
    let count = pieces.len();
    let digests = app.store.digests(sid, pieces).await;
    let digests = digests.map_err(|error| broken(error.to_string()))?;
    if digests.len() == count {
        Ok(digests)
    } else {
        let missing = count - digests.len().min(count);
        Err(broken(format!("those of {missing} pieces are missing")))
    }
}
