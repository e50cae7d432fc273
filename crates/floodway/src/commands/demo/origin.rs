//! The demo's origin: a small HTTP/1.1 file server with ranges and strong ETags, one rate limit over all its
//! connections, and a count of the body bytes it sent.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use clap::Args;
use floodway_proto::{ByteRate, SafeName};
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::ready;

/// Body bytes are read, counted and paced in parts of this many bytes.
const PART_LENGTH: u64 = 64 * 1024;
/// How much unused time the limit remembers: enough to make up for late timers.
const BURST: Duration = Duration::from_millis(20);

#[derive(Args, Debug)]
pub(crate) struct OriginArgs {
    /// The folder whose files are served
    folder: PathBuf,
    /// Body bytes of all connections together
    #[arg(long, default_value = "unlimited")]
    limit: ByteRate,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    http: SocketAddr,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(args: OriginArgs, shutdown: CancellationToken) -> Result<(), Failure> {
    let server = Arc::new(Server {
        folder: args.folder,
        limit: Limit::new(args.limit),
        sent: AtomicU64::new(0),
    });
    let router = Router::new()
        .route("/files/{name}", get(file))
        .route("/sent", get(sent))
        .with_state(server);
    let failed = |error| Failure::failed(format_args!("the demo's origin: {error}"));
    let listener = TcpListener::bind(args.http).await.map_err(failed)?;
    ready::print(Some(listener.local_addr().map_err(failed)?), None);
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.map_err(failed),
        // Open downloads are not worth waiting for.
        () = shutdown.cancelled() => Ok(()),
    }
}

/// Asks a running origin, at its base URL, for the body bytes it has sent.
///
/// # Errors
/// When it cannot be reached, or does not answer with a number.
pub(crate) async fn ask_sent(base: &str) -> io::Result<u64> {
    let host = base.trim_start_matches("http://");
    let mut connection = TcpStream::connect(host).await?;
    connection
        .write_all(format!("GET /sent HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())
        .await?;
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await?;
    let body = reply.split_once("\r\n\r\n").map(|(_, body)| body.trim());
    body.and_then(|body| body.parse().ok())
        .ok_or_else(|| io::Error::other("no number came"))
}

struct Server {
    folder: PathBuf,
    limit: Limit,
    sent: AtomicU64,
}

async fn sent(State(server): State<Arc<Server>>) -> Json<u64> {
    Json(server.sent.load(Ordering::Relaxed))
}

async fn file(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Ok(name) = SafeName::new(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let opened = File::open(server.folder.join(name.as_str()))
        .and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let Ok((file, metadata)) = opened else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let length = metadata.len();
    let etag = format!(
        "\"{length:x}-{:x}-{:x}\"",
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let head = [(ETAG, etag.clone()), (ACCEPT_RANGES, "bytes".into())];
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if header(IF_MATCH).is_some_and(|wanted| wanted != "*" && !wanted.contains(&etag)) {
        return (StatusCode::PRECONDITION_FAILED, head).into_response();
    }
    let range = header(RANGE).filter(|_| header(IF_RANGE).is_none_or(|wanted| wanted == etag));
    let (status, bytes) = match range.map_or(Asked::Whole, |range| Asked::read(range, length)) {
        Asked::Whole => (StatusCode::OK, 0..length),
        Asked::Part(bytes) => (StatusCode::PARTIAL_CONTENT, bytes),
        Asked::Nothing => {
            let range = [(CONTENT_RANGE, format!("bytes */{length}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, head, range).into_response();
        }
    };
    let mut response = if method == Method::HEAD {
        Body::empty().into_response()
    } else {
        server.body(file, bytes.clone()).into_response()
    };
    *response.status_mut() = status;
    let out = response.headers_mut();
    out.extend(head.map(|(name, value)| (name, value.parse().expect("hex and quotes"))));
    out.insert(CONTENT_LENGTH, (bytes.end - bytes.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{length}", bytes.start, bytes.end - 1);
        out.insert(CONTENT_RANGE, range.parse().expect("digits"));
    }
    response
}

/// What a `Range` header asks for. Lists of ranges are answered with the whole, as RFC 9110 permits.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Nothing,
}

impl Asked {
    fn read(range: &str, length: u64) -> Self {
        let Some((first, last)) = range
            .strip_prefix("bytes=")
            .and_then(|text| text.split_once('-'))
        else {
            return Self::Whole;
        };
        let bytes = match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
            (Ok(first), Err(_)) if last.is_empty() => first..length,
            (Err(_), Ok(count)) if first.is_empty() => length.saturating_sub(count)..length,
            _ => return Self::Whole,
        };
        if bytes.is_empty() {
            Self::Nothing
        } else {
            Self::Part(bytes)
        }
    }
}

impl Server {
    fn body(self: Arc<Self>, file: File, bytes: Range<u64>) -> Body {
        let file = Arc::new(file);
        Body::from_stream(stream::unfold(bytes, move |bytes| {
            let (server, file) = (Arc::clone(&self), Arc::clone(&file));
            async move {
                let part = bytes.start..bytes.end.min(bytes.start + PART_LENGTH);
                if part.is_empty() {
                    return None;
                }
                let count = part.end - part.start;
                server.limit.pass(count).await;
                server.sent.fetch_add(count, Ordering::Relaxed);
                let rest = part.end..bytes.end;
                Some((read(file, part).await, rest))
            }
        }))
    }
}

async fn read(file: Arc<File>, part: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(part.end - part.start).map_err(io::Error::other)?;
    let read = move || {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, part.start)
            .map(|()| buffer.into())
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

/// One rate for everybody: each part gets its own moment, first come, first served.
struct Limit {
    rate: ByteRate,
    free_at: Mutex<Instant>,
}

impl Limit {
    fn new(rate: ByteRate) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Instant::now()),
        }
    }

    async fn pass(&self, bytes: u64) {
        let moment = self.moment(Instant::now(), bytes);
        sleep_until(moment).await;
    }

    /// When `bytes` asked for at `now` may pass.
    fn moment(&self, now: Instant, bytes: u64) -> Instant {
        if self.rate == ByteRate::MAX {
            return now;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.0.max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().expect("nobody panics with it");
        let start = (*free_at).max(now.checked_sub(BURST).unwrap_or(now));
        *free_at = start + cost;
        // A part passes when it has been paid for: no burst at the start of a quiet limit beyond `BURST`.
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_defines_them() {
        for (text, asked) in [
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=90-", Asked::Part(90..100)),
            ("bytes=90-400", Asked::Part(90..100)),
            ("bytes=-30", Asked::Part(70..100)),
            ("bytes=-300", Asked::Part(0..100)),
            ("bytes=100-", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-2", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("pages=0-1", Asked::Whole),
        ] {
            assert_eq!(Asked::read(text, 100), asked, "{text}");
        }
    }

    #[test]
    fn the_limit_holds_however_late_the_askers_are() {
        let limit = Limit::new(ByteRate::mib(64));
        let start = Instant::now();
        let (mut now, mut sent) = (start, 0);
        while sent < 64 << 20 {
            // Each timer fires a millisecond late, as a real one may.
            now = limit.moment(now, PART_LENGTH).max(now) + Duration::from_millis(1);
            sent += PART_LENGTH;
        }
        let took = (now - start).as_secs_f64();
        assert!(
            (0.97..1.03).contains(&took),
            "64 MiB at 64 MiB/s took {took} s"
        );
    }
}
