//! The relay's HTTP side: contents with ranges and conditions, to holders of a capability. Of a content that is still
//! being fetched each byte is sent as soon as control has signed what its piece must hash to; who asks sooner waits.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::response::Builder;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use floodway_api::rest::{ErrorBody, ErrorDetail};
use floodway_proto::capability::{CapabilityError, CapabilityKey};
use floodway_proto::{SafeName, Sid};
use futures_util::stream;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::range::{Condition, Wanted, condition, wanted};
use crate::{Content, Session, State as ContentState};

mod manifest;

/// Bytes read from the store at a time: large enough for few reads, small enough that many clients fit into memory.
const EXTENT: u64 = 512 * 1024;
/// When a client is to try again for a content that is not complete, in seconds.
const RETRY_AFTER: &str = "2";
/// Requests for records that are held open at once.
const WAITING_MAX: usize = 1000;
/// The end of a content whose length is not known.
const OPEN: u64 = u64::MAX;

/// What the HTTP side serves; clones share it.
#[derive(Clone, Default)]
pub struct Serving(Arc<Inner>);

#[derive(Default)]
struct Inner {
    key: RwLock<Option<CapabilityKey>>,
    contents: RwLock<HashMap<Sid, Served>>,
    session: OnceLock<Session>,
    waiting: Waiting,
}

/// Places for those who wait for records.
struct Waiting(Arc<Semaphore>);

impl Default for Waiting {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_MAX)))
    }
}

#[derive(Clone)]
struct Served {
    sid: Sid,
    content: Content,
    name: SafeName,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl Serving {
    /// Whose counters are shown and counted.
    pub(crate) fn set_session(&self, session: Session) {
        // A second call would come from a second relay in this process; the first one's counters stay.
        let _ = self.0.session.set(session);
    }

    /// The secret by which control makes capabilities.
    pub(crate) fn set_key(&self, key: CapabilityKey) {
        *self.0.key.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    pub(crate) fn insert(&self, sid: Sid, content: Content, name: SafeName) {
        let mut contents = self
            .0
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        contents.insert(sid, Served { sid, content, name });
    }

    pub(crate) fn remove(&self, sid: Sid) {
        let mut contents = self
            .0
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        contents.remove(&sid);
    }

    /// The metrics of this relay as Prometheus text.
    pub fn metrics(&self) -> String {
        self.0
            .session
            .get()
            .map(|session| session.metrics().render())
            .unwrap_or_default()
    }

    fn get(&self, sid: Sid) -> Result<Served, Refusal> {
        let contents = self
            .0
            .contents
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        contents.get(&sid).cloned().ok_or(Refusal::NoSuchContent)
    }

    /// The right to be answered late, while it is held; `None` when too many have it.
    fn place_to_wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.waiting.0).try_acquire_owned().ok()
    }

    /// Which content the token opens.
    fn opens(&self, token: &str) -> Result<Sid, Refusal> {
        let key = self.0.key.read().unwrap_or_else(PoisonError::into_inner);
        let key = key.as_ref().ok_or(Refusal::NotReady)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        key.verify(token, now).map_err(|error| match error {
            CapabilityError::Expired => Refusal::Expired,
            CapabilityError::Malformed | CapabilityError::Forged => Refusal::Forged,
        })
    }
}

/// The routes of contents alone, to be merged into another server.
pub fn content_router(serving: Serving) -> Router {
    Router::new()
        .route("/api/v1/s/{sid}/data", get(by_header))
        .route("/api/v1/w/{capability}/{*path}", get(by_path))
        .method_not_allowed_fallback(async || Refusal::OtherMethod)
        .with_state(serving)
}

/// All routes of a relay that has a port of its own: contents and their signed side, `/metrics`, `/healthz`. Beside control the
/// signed side is control's to serve.
pub fn router(serving: Serving) -> Router {
    let metrics = serving.clone();
    let signed = Router::new()
        .route("/api/v1/s/{sid}/genesis", get(manifest::genesis))
        .route("/api/v1/s/{sid}/head", get(manifest::head))
        .route("/api/v1/s/{sid}/hashes/{group}", get(manifest::hashes))
        .with_state(serving.clone());
    content_router(serving)
        .merge(signed)
        .route(
            "/metrics",
            get(async move || {
                (
                    [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
                    metrics.metrics(),
                )
            }),
        )
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || Refusal::NoSuchPath)
        .method_not_allowed_fallback(async || Refusal::OtherMethod)
}

async fn by_header(
    State(serving): State<Serving>,
    Path(sid): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let served = by_capability(&serving, &sid, &headers)?;
    let whole = View::whole(&served);
    serve(&serving, served.content, whole, &method, &headers)
}

/// The content named by its sid, for whoever shows a capability of it.
fn by_capability(serving: &Serving, sid: &str, headers: &HeaderMap) -> Result<Served, Refusal> {
    let token = text(headers, &header::AUTHORIZATION).ok_or(Refusal::NoCapability)?;
    let (scheme, token) = token.trim().split_once(' ').ok_or(Refusal::NoCapability)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refusal::NoCapability);
    }
    let opened = serving.opens(token.trim())?;
    let sid: Sid = sid.parse().map_err(|_| Refusal::NoSuchContent)?;
    if opened != sid {
        return Err(Refusal::OtherContent);
    }
    serving.get(sid)
}

async fn by_path(
    State(serving): State<Serving>,
    Path((token, path)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let served = serving.get(serving.opens(&token)?)?;
    let view = View::of(&served, &path)?;
    serve(&serving, served.content, view, &method, &headers)
}

/// What a URL names of a content: all of it, or one file of a folder.
struct View {
    /// Its bytes within the content.
    bytes: Range<u64>,
    etag: String,
    name: SafeName,
}

impl View {
    fn whole(Served { sid, content, name }: &Served) -> Self {
        // A body without a length goes on to wherever the end turns out to be.
        Self {
            bytes: 0..content.length().unwrap_or(OPEN),
            etag: format!("\"{sid}\""),
            name: name.clone(),
        }
    }

    /// Of a single file the path is of no consequence. That of a file in a folder is the folder's name and the path within
    /// it, as web seeds are asked (BEP 19).
    fn of(served: &Served, path: &str) -> Result<Self, Refusal> {
        let Served { sid, content, name } = served;
        let Some(files) = content.layout().files() else {
            return Ok(Self::whole(served));
        };
        let inner = path.strip_prefix(name.as_str());
        let inner = inner.and_then(|path| path.strip_prefix('/'));
        let at = files
            .iter()
            .position(|file| Some(file.path_text().as_str()) == inner);
        let at = at.ok_or(Refusal::NoSuchFile)?;
        let file = &files[at];
        Ok(Self {
            bytes: file.bytes.clone(),
            etag: format!("\"{sid}.{at}\""),
            name: file.path.last().unwrap_or(name).clone(),
        })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Answers a request that has shown its capability.
fn serve(
    serving: &Serving,
    content: Content,
    view: View,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let View { bytes, etag, name } = view;
    let state = content.progress().borrow().state.clone();
    if matches!(state, ContentState::Checking | ContentState::Failed(_)) {
        return Err(Refusal::NotComplete);
    }
    let decision = condition(
        &etag,
        text(headers, &header::IF_MATCH),
        text(headers, &header::IF_NONE_MATCH),
        text(headers, &header::IF_RANGE),
    );
    let reply = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        // The URL names one version for ever, and only its holder may see it.
        .header(header::CACHE_CONTROL, "private, immutable");
    let ranges = match decision {
        Condition::NotModified => {
            return finish(reply.status(StatusCode::NOT_MODIFIED), Body::empty());
        }
        Condition::Failed => return Err(Refusal::ConditionFailed),
        Condition::Go { ranges } => ranges && *method == Method::GET,
    };
    let reply = reply.header(header::CONTENT_DISPOSITION, disposition(&name));
    let length = bytes.end - bytes.start;
    let header = if ranges {
        text(headers, &header::RANGE)
    } else {
        None
    };
    let wanted = match wanted(header, length) {
        // Of a range that ends with the content nobody can say yet which bytes it has: it is ignored (RFC 9110, section 14.2).
        Wanted::Parts(parts) if parts.iter().any(|part| part.end == OPEN) => Wanted::Whole,
        // Nor is there more of it than there may be.
        Wanted::Parts(parts) if length == OPEN => possible(parts, content.layout().limit()),
        wanted => wanted,
    };
    let (reply, segments) = match wanted {
        Wanted::Nothing => return Err(Refusal::NoSuchRange { length }),
        Wanted::Whole => (
            reply.header(header::CONTENT_TYPE, OCTETS),
            vec![Segment::Content(0..length)],
        ),
        Wanted::Parts(parts) if parts.len() == 1 => {
            let part = parts.into_iter().next().unwrap_or_default();
            let reply = reply
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_TYPE, OCTETS)
                .header(header::CONTENT_RANGE, content_range(&part, length));
            (reply, vec![Segment::Content(part)])
        }
        Wanted::Parts(parts) => {
            let boundary = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            let reply = reply.status(StatusCode::PARTIAL_CONTENT).header(
                header::CONTENT_TYPE,
                format!("multipart/byteranges; boundary={boundary}"),
            );
            (reply, multipart(&parts, length, &boundary))
        }
    };
    let sent = segments.iter().map(Segment::length);
    let sent = sent.fold(0, u64::saturating_add);
    let reply = if sent == OPEN {
        reply
    } else {
        reply.header(header::CONTENT_LENGTH, sent)
    };
    if *method == Method::HEAD {
        return finish(reply, Body::empty());
    }
    let segments = segments.into_iter().map(|segment| match segment {
        Segment::Content(part) => {
            Segment::Content(bytes.start + part.start..bytes.start.saturating_add(part.end))
        }
        text @ Segment::Text(_) => text,
    });
    let segments = segments.collect();
    finish(
        reply,
        stream_of(content, serving.0.session.get().cloned(), segments),
    )
}

/// What of these parts may lie within a content that ends at `limit` or before.
fn possible(parts: Vec<Range<u64>>, limit: u64) -> Wanted {
    let cut = parts
        .into_iter()
        .map(|part| part.start..part.end.min(limit));
    let parts: Vec<Range<u64>> = cut.filter(|part| !part.is_empty()).collect();
    match parts.len() {
        0 => Wanted::Nothing,
        _ => Wanted::Parts(parts),
    }
}

const OCTETS: &str = "application/octet-stream";

fn finish(reply: Builder, body: Body) -> Result<Response, Refusal> {
    reply.body(body).map_err(|_| Refusal::Broken)
}

fn content_range(part: &Range<u64>, length: u64) -> String {
    let (first, last) = (part.start, part.end - 1);
    if length == OPEN {
        return format!("bytes {first}-{last}/*");
    }
    format!("bytes {first}-{last}/{length}")
}

/// `attachment` with the name twice: plain for old clients, and as RFC 8187 has it.
fn disposition(name: &SafeName) -> String {
    let plain: String = name
        .as_str()
        .chars()
        .map(|c| if c.is_ascii() { c } else { '_' })
        .collect();
    let exact =
        percent_encoding::utf8_percent_encode(name.as_str(), percent_encoding::NON_ALPHANUMERIC);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}")
}

/// A piece of a reply's body.
#[derive(Debug)]
enum Segment {
    Text(Bytes),
    Content(Range<u64>),
}

impl Segment {
    fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Content(range) => range.end - range.start,
        }
    }
}

/// RFC 9110 section 14.6.
fn multipart(parts: &[Range<u64>], length: u64, boundary: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let mut head = String::new();
        let line = if index == 0 { "" } else { "\r\n" };
        // Writing to a string cannot fail.
        let _ = write!(
            head,
            "{line}--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
            content_range(part, length)
        );
        segments.push(Segment::Text(head.into()));
        segments.push(Segment::Content(part.clone()));
    }
    segments.push(Segment::Text(format!("\r\n--{boundary}--\r\n").into()));
    segments
}

/// Reads one extent when the client has taken the one before.
fn stream_of(content: Content, session: Option<Session>, segments: Vec<Segment>) -> Body {
    let state = (
        content,
        session,
        segments
            .into_iter()
            .collect::<std::collections::VecDeque<_>>(),
    );
    Body::from_stream(stream::try_unfold(
        state,
        async |(content, session, mut segments)| {
            let bytes = match segments.pop_front() {
                None => return Ok::<_, crate::ReadError>(None),
                Some(Segment::Text(text)) => text,
                Some(Segment::Content(range)) => {
                    let mut end = range.end.min(range.start.saturating_add(EXTENT));
                    if !content.is_available(range.start..end) {
                        end = end.min(piece_end(&content, range.start));
                    }
                    if end < range.end {
                        segments.push_front(Segment::Content(end..range.end));
                    }
                    if range.is_empty() {
                        Bytes::new()
                    } else {
                        content.available(range.start..end).await?;
                        // The end may have become known, and lie before what was waited for.
                        let known = content.length().unwrap_or(OPEN);
                        if range.start >= known {
                            return Ok(None);
                        }
                        let bytes = content.read(range.start..end.min(known)).await?;
                        if let Some(session) = &session {
                            session.metrics().relay_http_sent.add(bytes.len() as u64);
                        }
                        bytes
                    }
                }
            };
            Ok(Some((bytes, (content, session, segments))))
        },
    ))
}

/// Where the piece with this byte ends: what can be sent before the next one comes.
fn piece_end(content: &Content, at: u64) -> u64 {
    let layout = content.layout();
    let piece = layout.piece_at(at);
    piece.map_or(u64::MAX, |piece| layout.piece_bytes(piece).end)
}

/// Why a request gets no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    NoCapability,
    Forged,
    Expired,
    OtherContent,
    NoSuchContent,
    NoSuchFile,
    NoSuchPath,
    OtherMethod,
    NotComplete,
    NotReady,
    ConditionFailed,
    NoSuchRange { length: u64 },
    BadQuery,
    NotSigned,
    NoSuchGroup,
    NotKnown,
    Broken,
}

impl Refusal {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoCapability => (
                StatusCode::UNAUTHORIZED,
                "no_capability",
                "this needs a capability: ask control for one (POST /api/v1/s/SID/capability)",
            ),
            Self::Forged => (
                StatusCode::UNAUTHORIZED,
                "bad_capability",
                "this is no capability that control made for this relay: ask control for one",
            ),
            Self::Expired => (
                StatusCode::FORBIDDEN,
                "expired",
                "the capability has expired: ask control for a new one",
            ),
            Self::OtherContent => (
                StatusCode::FORBIDDEN,
                "other_content",
                "the capability is for another content: ask control for one for this content",
            ),
            Self::NoSuchContent => (
                StatusCode::NOT_FOUND,
                "not_found",
                "this relay does not have that content; ask control which relays do",
            ),
            Self::NoSuchFile => (
                StatusCode::NOT_FOUND,
                "not_found",
                "the folder has no such file: ask for FOLDER/PATH, as its torrent names them",
            ),
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                "not_found",
                "a relay serves nothing at this path",
            ),
            Self::OtherMethod => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "a relay is only read from: use GET or HEAD",
            ),
            Self::NotComplete => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_complete",
                "this relay is still looking at what it has of the content; try again soon, or another relay",
            ),
            Self::NotReady => (
                StatusCode::SERVICE_UNAVAILABLE,
                "not_ready",
                "this relay has not reached control yet; try again soon",
            ),
            Self::ConditionFailed => (
                StatusCode::PRECONDITION_FAILED,
                "condition_failed",
                "If-Match names another version; this URL has only the one that its ETag names",
            ),
            Self::NoSuchRange { .. } => (
                StatusCode::RANGE_NOT_SATISFIABLE,
                "no_such_range",
                "none of the ranges lies within the content; Content-Range gives its length, if that is known",
            ),
            Self::BadQuery => (
                StatusCode::BAD_REQUEST,
                "bad_request",
                "`after` is TERM.SEQ, `wait` seconds, the group of pieces a number, `alg` sha256 or sha1",
            ),
            Self::NotSigned => (
                StatusCode::NOT_FOUND,
                "not_signed",
                "nothing was signed of this content, as far as this relay knows; it is verified by its torrent",
            ),
            Self::NoSuchGroup => (
                StatusCode::NOT_FOUND,
                "not_found",
                "the content has no such group of pieces",
            ),
            Self::NotKnown => (
                StatusCode::NOT_FOUND,
                "not_known",
                "not all pieces of this group are known here yet; try again soon, or ask another relay or control",
            ),
            Self::Broken => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the relay could not form a reply; this is a defect, please report it",
            ),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, message) = self.parts();
        let error = ErrorDetail {
            code: code.into(),
            message: message.into(),
            field: None,
        };
        let mut reply = (status, axum::Json(ErrorBody { error })).into_response();
        let headers = reply.headers_mut();
        match self {
            Self::NoCapability | Self::Forged => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    header::HeaderValue::from_static("Bearer"),
                );
            }
            Self::NotComplete | Self::NotReady | Self::NotKnown => {
                headers.insert(
                    header::RETRY_AFTER,
                    header::HeaderValue::from_static(RETRY_AFTER),
                );
            }
            // There is no way to say that the length is unknown.
            Self::NoSuchRange { length } if length != OPEN => {
                if let Ok(value) = header::HeaderValue::try_from(format!("bytes */{length}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            _ => {}
        }
        reply
    }
}

#[cfg(test)]
mod tests;
