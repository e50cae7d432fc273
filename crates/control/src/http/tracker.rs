//! `/announce/KEY` and `/scrape/KEY`: stock clients (BEP 3, 7, 23, 48). They expect 200 and a bencoded reason.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use floodway_proto::tracker::{AnnounceRequest, PeerFormat, ScrapeRequest, encode_failure};
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::App;
use super::guard::Remote;

fn reply(body: Vec<u8>) -> Response {
    let mut response = body.into_response();
    let kind = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn failure(reason: &str) -> Response {
    reply(encode_failure(reason, None))
}

pub(super) async fn announce(
    State(app): State<Arc<App>>,
    Remote(remote): Remote,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    app.metrics.announces.fetch_add(1, Ordering::Relaxed);
    let request = match AnnounceRequest::parse_query(&query.unwrap_or_default()) {
        Ok(request) => request,
        Err(error) => return failure(&error.to_string()),
    };
    let format = match (request.compact, request.no_peer_id) {
        (true, _) => PeerFormat::Compact,
        (false, true) => PeerFormat::DictsWithoutNames,
        (false, false) => PeerFormat::Dicts,
    };
    let announced = app
        .handle
        .call(move |core| Ok(core.announce(&key, remote, &request)))
        .await;
    match announced {
        Ok(Ok(response)) => reply(response.encode(format)),
        Ok(Err(reason)) => failure(&reason),
        Err(error) => failure(error.message()),
    }
}

pub(super) async fn scrape(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    app.metrics.scrapes.fetch_add(1, Ordering::Relaxed);
    let query = query.unwrap_or_default();
    let request = if query.is_empty() {
        ScrapeRequest {
            info_hashes: Vec::new(),
        }
    } else {
        match ScrapeRequest::parse_query(&query) {
            Ok(request) => request,
            Err(error) => return failure(&error.to_string()),
        }
    };
    match app
        .handle
        .call(move |core| Ok(core.scrape(&key, &request)))
        .await
    {
        Ok(Ok(response)) => reply(response.encode()),
        Ok(Err(reason)) => failure(&reason),
        Err(error) => failure(error.message()),
    }
}
