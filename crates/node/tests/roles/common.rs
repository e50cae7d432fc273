//! A scripted origin, for tests of this crate alone.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::routing::get;
use floodway_node::get::{GetSource, GetSpec};
use floodway_proto::digest::sha256;
use floodway_proto::metainfo::{Info, Metainfo};
use floodway_proto::{Layout, SafeName, Sha256, digest};
use floodway_swarm::{Limits, Order};
use tokio::net::TcpListener;

/// One object, with or without ranges and validator.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) sent: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Object {
    bytes: Arc<Vec<u8>>,
    sent: Arc<AtomicU64>,
    ranges: bool,
    length: bool,
}

impl Origin {
    /// Ranges, a strong ETag, a length: all that one wants.
    pub(crate) async fn good(bytes: &[u8]) -> Self {
        Self::start(bytes, true, true).await
    }

    /// No ranges, no ETag, and if `length` is false no length.
    pub(crate) async fn poor(bytes: &[u8], length: bool) -> Self {
        Self::start(bytes, false, length).await
    }

    async fn start(bytes: &[u8], ranges: bool, length: bool) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let object = Object {
            bytes: Arc::new(bytes.to_vec()),
            sent: Arc::clone(&sent),
            ranges,
            length,
        };
        let router = Router::new()
            .route("/{*path}", get(answer))
            .with_state(object);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/data/disk.img", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, sent }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

async fn answer(
    State(object): State<Object>,
    headers: HeaderMap,
    method: Method,
) -> Response<Body> {
    let total = object.bytes.len() as u64;
    let mut reply = Response::builder();
    let mut range = 0..total;
    if object.ranges {
        reply = reply
            .header(header::ETAG, "\"v1\"")
            .header(header::ACCEPT_RANGES, "bytes");
        let asked = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
        if let Some((first, last)) = asked.and_then(|asked| asked.split_once('-')) {
            if total == 0 {
                let reply = reply.status(StatusCode::RANGE_NOT_SATISFIABLE);
                return reply
                    .header(header::CONTENT_RANGE, "bytes */0")
                    .body(Body::empty())
                    .unwrap();
            }
            range = first.parse().unwrap()..(last.parse::<u64>().unwrap() + 1).min(total);
            let content_range = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            reply = reply
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, content_range);
        }
    }
    let bytes = object.bytes
        [usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
        .to_vec();
    if method == Method::GET {
        object.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }
    if object.length {
        return reply
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(Body::from(bytes))
            .unwrap();
    }
    let chunks = bytes
        .chunks(10_000)
        .map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec()))
        .collect::<Vec<_>>();
    reply
        .body(Body::from_stream(futures_util::stream::iter(chunks)))
        .unwrap()
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// The torrent of `bytes`.
pub(crate) fn torrent(bytes: &[u8]) -> Metainfo {
    let length = bytes.len() as u64;
    let piece_length = Layout::default_piece_length(Some(length));
    let pieces = bytes
        .chunks(piece_length as usize)
        .map(digest::sha1)
        .collect();
    let name = SafeName::new("disk.img").unwrap();
    Metainfo::new(Info {
        name,
        length,
        files: Vec::new(),
        piece_length,
        pieces,
        private: false,
    })
    .unwrap()
}

/// What the command line would ask for, into `folder`.
pub(crate) fn spec(source: GetSource, folder: &Path) -> GetSpec {
    GetSpec {
        source,
        output: Some(folder.to_owned()),
        overwrite: false,
        control: None,
        prefer: None,
        order: Order::RarestFirst,
        sha256: None,
        digest: true,
        limits: Limits::default(),
        no_origin: false,
        no_p2p: false,
        seed_time: None,
        seed_ratio: None,
        listen: loopback(),
        advertise: None,
        peers: Vec::new(),
        explain: false,
        started: Instant::now(),
    }
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn digest_of(bytes: &[u8]) -> Sha256 {
    sha256(bytes)
}
