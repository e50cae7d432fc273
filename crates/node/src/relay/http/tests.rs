use std::time::Duration;

use axum::http::header::HeaderName;
use floodway_proto::metainfo::Info;
use floodway_proto::{InfoHash, Layout, NodeId, digest};
use floodway_store::Hashes;
use floodway_swarm::{Limits, Order, Prefer};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;

use super::*;
use crate::{ContentSpec, SessionConfig, Target};

mod signed;

const KEY: CapabilityKey = CapabilityKey::new([7; 32]);
const SID: Sid = Sid([5; 32]);
const LENGTH: usize = 1_500_000;

/// A relay that serves one content, over a real socket.
struct Site {
    base: String,
    bytes: Vec<u8>,
    serving: Serving,
    session: Session,
    folder: tempfile::TempDir,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> String {
        serde_json::from_slice::<ErrorBody>(&self.body)
            .unwrap()
            .error
            .code
    }
}

async fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..LENGTH)
        .map(|n| u8::try_from(n * 31 % 251).unwrap())
        .collect();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, &bytes).unwrap();
    let session = Session::start(SessionConfig::new(
        "127.0.0.1:0".parse().unwrap(),
        NodeId([1; 16]),
    ))
    .await
    .unwrap();
    let layout = Layout::new(Some(LENGTH as u64), 1 << 18).unwrap();
    let content = session
        .add(content(layout, &bytes, Target::Seed { path, known: None }))
        .await
        .unwrap();
    let serving = Serving::default();
    serving.set_session(session.clone());
    serving.set_key(KEY);
    serving.insert(SID, content, SafeName::new("disk ü.img").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let routes = router(serving.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Site {
        base,
        bytes,
        serving,
        session,
        folder,
    }
}

fn content(layout: Layout, bytes: &[u8], target: Target) -> ContentSpec {
    let pieces = bytes.chunks(1 << 18).map(digest::sha1).collect();
    let name = SafeName::new("disk.img").unwrap();
    let info = Info {
        name,
        length: bytes.len() as u64,
        files: Vec::new(),
        piece_length: 1 << 18,
        pieces,
        private: true,
    };
    ContentSpec {
        names: Vec::new(),
        info: None,
        sid: Some(SID),
        layout,
        hashes: Hashes::V1(info.pieces),
        identity: SID.0,
        adopts: None,
        target,
        prefer: Prefer::Peers,
        order: Order::RarestFirst,
        foreground: false,
        limits: Limits::default(),
        linear_digest: false,
        peers: Vec::new(),
        trackers: Vec::new(),
        sources: Vec::new(),
        verifiable: true,
        growth: None,
    }
}

impl Site {
    async fn ask(&self, method: Method, path: &str, headers: &[(HeaderName, &str)]) -> Reply {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        }
    }

    async fn get(&self, headers: &[(HeaderName, &str)]) -> Reply {
        let token = format!("Bearer {}", KEY.issue(SID, None));
        let mut all = vec![(header::AUTHORIZATION, token.as_str())];
        all.extend_from_slice(headers);
        self.ask(Method::GET, &format!("/api/v1/s/{SID}/data"), &all)
            .await
    }
}

#[tokio::test]
async fn other_methods_are_refused_in_the_form_of_all_errors() {
    let site = site().await;
    let data = format!("/api/v1/s/{SID}/data");
    for path in [data.as_str(), "/api/v1/w/x/name", "/metrics", "/healthz"] {
        let reply = site.ask(Method::DELETE, path, &[]).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (405, "method_not_allowed"),
            "{path}"
        );
        assert_eq!(reply.header(header::ALLOW), "GET,HEAD", "{path}");
    }
}

#[tokio::test]
async fn the_whole_is_served_by_header_and_by_path() {
    let site = site().await;
    let reply = site.get(&[]).await;
    assert_eq!((reply.status, &reply.body), (200, &site.bytes));
    assert_eq!(reply.header(header::ETAG), format!("\"{SID}\""));
    assert_eq!(reply.header(header::ACCEPT_RANGES), "bytes");
    assert_eq!(
        reply.header(header::CONTENT_TYPE),
        "application/octet-stream"
    );
    assert!(
        reply
            .header(header::CONTENT_DISPOSITION)
            .contains("filename*=UTF-8''disk%20%C3%BC%2Eimg")
    );
    let path = format!("/api/v1/w/{}/any-name", KEY.issue(SID, None));
    assert_eq!(site.ask(Method::GET, &path, &[]).await.body, site.bytes);
    assert_eq!(
        site.session.metrics().relay_http_sent.get(),
        2 * LENGTH as u64
    );
    let head = site.ask(Method::HEAD, &path, &[]).await;
    assert_eq!(
        (
            head.status,
            head.header(header::CONTENT_LENGTH),
            head.body.len()
        ),
        (200, "1500000", 0)
    );
    let metrics = site.ask(Method::GET, "/metrics", &[]).await.body;
    assert!(
        String::from_utf8(metrics)
            .unwrap()
            .contains("floodway_relay_http_sent_bytes_total 3000000")
    );
    assert_eq!(site.ask(Method::GET, "/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn ranges_are_served_as_the_rfc_says() {
    let site = site().await;
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=-5", LENGTH - 5, LENGTH),
        ("bytes=700000-1400000", 700_000, 1_400_001),
    ] {
        let reply = site.get(&[(header::RANGE, range)]).await;
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (206, &site.bytes[from..to]),
            "{range}"
        );
        assert_eq!(
            reply.header(header::CONTENT_RANGE),
            format!("bytes {from}-{}/{LENGTH}", to - 1)
        );
    }
    let reply = site.get(&[(header::RANGE, "bytes=0-0,1499999-")]).await;
    assert_eq!(reply.status, 206);
    let boundary = reply
        .header(header::CONTENT_TYPE)
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap();
    let part = |at: usize| {
        let head = format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {at}-{at}/{LENGTH}\r\n\r\n"
        );
        [head.as_bytes(), &site.bytes[at..=at], b"\r\n"].concat()
    };
    let expected = [
        part(0),
        part(LENGTH - 1),
        format!("--{boundary}--\r\n").into_bytes(),
    ]
    .concat();
    assert_eq!(reply.body, expected);

    let reply = site.get(&[(header::RANGE, "bytes=1500000-")]).await;
    assert_eq!(
        (reply.status, reply.header(header::CONTENT_RANGE)),
        (416, "bytes */1500000")
    );
}

#[tokio::test]
async fn conditions_are_obeyed() {
    let site = site().await;
    let (tag, range) = (format!("\"{SID}\""), (header::RANGE, "bytes=0-9"));
    let status = |headers: Vec<(HeaderName, String)>| {
        let site = &site;
        async move {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str()))
                .collect();
            site.get(&headers).await.status
        }
    };
    let range = || (range.0.clone(), range.1.to_owned());
    assert_eq!(
        status(vec![range(), (header::IF_RANGE, tag.clone())]).await,
        206
    );
    assert_eq!(
        status(vec![range(), (header::IF_RANGE, "\"other\"".into())]).await,
        200
    );
    assert_eq!(
        status(vec![(header::IF_NONE_MATCH, tag.clone())]).await,
        304
    );
    assert_eq!(status(vec![range(), (header::IF_MATCH, tag)]).await, 206);
    assert_eq!(
        status(vec![(header::IF_MATCH, "\"other\"".into())]).await,
        412
    );
}

#[tokio::test]
async fn only_the_right_capability_opens() {
    let site = site().await;
    let path = format!("/api/v1/s/{SID}/data");
    let bearer = |token: String| format!("Bearer {token}");
    for (authorization, path, status, code) in [
        (None, path.clone(), 401, "no_capability"),
        (
            Some("Basic eA==".into()),
            path.clone(),
            401,
            "no_capability",
        ),
        (
            Some(bearer("nonsense".into())),
            path.clone(),
            401,
            "bad_capability",
        ),
        (
            Some(bearer(CapabilityKey::new([8; 32]).issue(SID, None))),
            path.clone(),
            401,
            "bad_capability",
        ),
        (
            Some(bearer(KEY.issue(SID, Some(1)))),
            path.clone(),
            403,
            "expired",
        ),
        (
            Some(bearer(KEY.issue(Sid([6; 32]), None))),
            path.clone(),
            403,
            "other_content",
        ),
        (
            Some(bearer(KEY.issue(Sid([6; 32]), None))),
            format!("/api/v1/s/{}/data", Sid([6; 32])),
            404,
            "not_found",
        ),
        (
            None,
            format!("/api/v1/w/{}/x", KEY.issue(SID, Some(1))),
            403,
            "expired",
        ),
        (None, "/api/v1/w/nonsense/x".into(), 401, "bad_capability"),
        (None, "/elsewhere".into(), 404, "not_found"),
    ] {
        let headers: Vec<_> = authorization
            .iter()
            .map(|value: &String| (header::AUTHORIZATION, value.as_str()))
            .collect();
        let reply = site.ask(Method::GET, &path, &headers).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{authorization:?} {path}"
        );
        assert_eq!(
            reply.header(header::WWW_AUTHENTICATE) == "Bearer",
            status == 401
        );
    }
    assert_eq!(site.session.metrics().relay_http_sent.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_bytes_that_are_not_there_yet_waits_for_them() {
    let site = site().await;
    let layout = Layout::new(Some(LENGTH as u64), 1 << 18).unwrap();
    let named = |target| ContentSpec {
        names: vec![InfoHash([4; 20])],
        ..content(layout.clone(), &site.bytes, target)
    };
    let target = Target::File {
        path: site.folder.path().join("unfinished"),
        overwrite: false,
        rename_when_done: true,
    };
    let unfinished = site.session.add(named(target)).await.unwrap();
    let name = SafeName::new("x").unwrap();
    site.serving.insert(SID, unfinished.clone(), name);
    let (whole, part) = (site.get(&[]), site.get(&[(header::RANGE, "bytes=-9")]));
    tokio::pin!(whole, part);
    // The head of the reply comes at once, the body when somebody brings it.
    let waiting = tokio::time::timeout(Duration::from_millis(50), &mut whole).await;
    assert!(waiting.is_err());
    let config = SessionConfig::new("127.0.0.1:0".parse().unwrap(), NodeId([2; 16]));
    let seeder = Session::start(config).await.unwrap();
    let path = site.folder.path().join("disk.img");
    let seed = named(Target::Seed { path, known: None });
    seeder.add(seed).await.unwrap();
    unfinished.add_peers(vec![seeder.peer_addr()]);
    let (whole, part) = tokio::join!(whole, part);
    assert_eq!((whole.status, &whole.body), (200, &site.bytes));
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &site.bytes[LENGTH - 9..])
    );
    site.serving.remove(SID);
    assert_eq!(site.get(&[]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_breaks_off_when_the_content_is_given_up() {
    let site = site().await;
    let layout = Layout::new(Some(LENGTH as u64), 1 << 18).unwrap();
    let target = Target::File {
        path: site.folder.path().join("unfinished"),
        overwrite: false,
        rename_when_done: true,
    };
    let spec = content(layout, &site.bytes, target);
    let unfinished = site.session.add(spec).await.unwrap();
    assert!(!unfinished.is_available(0..1));
    let (waited, ()) = tokio::join!(unfinished.available(0..1), unfinished.stop(true));
    assert!(matches!(waited, Err(crate::ReadError::Stopped)));
}
