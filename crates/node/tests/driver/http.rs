//! Relays and origins over HTTP: good ones, poor ones and liars.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use floodway_node::{ContentEvent, ContentSpec, HttpSource, Session, State};
use floodway_origin::{Access, Expectation, Validator};
use floodway_proto::ByteRate;
use floodway_store::{Hashes, Nodes};
use floodway_swarm::{Limits, Prefer, SourceClass};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::kit::{Kit, PATIENCE, session, until};

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// How many came before.
    number: usize,
    range: Option<Range<usize>>,
}

/// What to answer.
pub(crate) struct Reply {
    head: String,
    body: Vec<u8>,
    /// Close the connection after the body.
    close: bool,
}

impl Reply {
    /// What an honest server says.
    fn honest(bytes: &[u8], asked: &Asked) -> Self {
        let whole = 0..bytes.len();
        let range = asked.range.clone().unwrap_or(whole);
        let body = bytes[range.clone()].to_vec();
        let status = match asked.range {
            Some(_) => {
                let (first, last, all) = (range.start, range.end - 1, bytes.len());
                format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{all}")
            }
            None => "200 OK".into(),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nETag: \"v1\"\r\nContent-Length: {length}\r\n\r\n");
        Self {
            head,
            body,
            close: false,
        }
    }

    fn status(status: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        Self {
            head,
            body: Vec::new(),
            close: false,
        }
    }
}

pub(crate) struct Server {
    url: String,
    requests: AtomicUsize,
    pub(crate) sent: AtomicU64,
}

impl Server {
    async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let server = Arc::new(Self {
            url,
            requests: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        });
        let (shared, answer) = (Arc::clone(&server), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                tokio::spawn(async move {
                    // A client that hangs up is none of the server's business.
                    let _ = server.talk(stream, &*answer).await;
                });
            }
        });
        server
    }

    async fn talk(
        &self,
        stream: TcpStream,
        answer: &(impl Fn(&Asked) -> Reply + Sync),
    ) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut range = None;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                let line = line.trim().to_ascii_lowercase();
                if let Some(asked) = line.strip_prefix("range: bytes=") {
                    let (first, last) = asked.split_once('-').unwrap();
                    range = Some(first.parse().unwrap()..last.parse::<usize>().unwrap() + 1);
                }
                if line.is_empty() {
                    break;
                }
            }
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let reply = answer(&Asked { number, range });
            stream.write_all(reply.head.as_bytes()).await?;
            for part in reply.body.chunks(64 * 1024) {
                stream.write_all(part).await?;
                self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            stream.flush().await?;
            if reply.close {
                return stream.shutdown().await;
            }
        }
    }

    pub(crate) fn source(&self, kit: &Kit, access: Access) -> HttpSource {
        HttpSource {
            url: self.url.parse().unwrap(),
            class: SourceClass::Origin,
            bearer: None,
            expect: Expectation {
                length: Some(kit.bytes.len() as u64),
                validator: Validator::Strong("\"v1\"".into()),
            },
            access,
            check: None,
            files: None,
        }
    }
}

/// A plain `get`: no peers at all.
fn get(kit: &Kit, sources: Vec<HttpSource>) -> ContentSpec {
    ContentSpec {
        names: Vec::new(),
        prefer: Prefer::Speed,
        sources,
        ..kit.leech("get")
    }
}

pub(crate) async fn honest(kit: &Kit) -> Arc<Server> {
    let bytes = Arc::clone(&kit.bytes);
    Server::start(move |asked| Reply::honest(&bytes, asked)).await
}

fn origin_bytes(session: &Session) -> u64 {
    let text = session.metrics().render();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("floodway_origin_body_bytes_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_get_takes_few_requests_and_every_byte_once() {
    let kit = Kit::new((24 << 20) + 5);
    let server = honest(&kit).await;
    let session = session(1).await;
    let get = get(&kit, vec![server.source(&kit, Access::Ranges)]);
    let content = session.add(get).await.unwrap();
    let finished = kit.completes(&content).await;
    assert_eq!(finished.counters.origin, finished.bytes);
    assert_eq!(
        origin_bytes(&session),
        finished.bytes,
        "counted by the guard"
    );
    assert!(
        server.requests.load(Ordering::Relaxed) <= 4,
        "{:?}",
        server.requests
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_is_read_by_one_get() {
    let kit = Kit::new((3 << 20) + 77);
    let bytes = Arc::clone(&kit.bytes);
    let server = Server::start(move |asked| {
        Reply::honest(
            &bytes,
            &Asked {
                range: None,
                ..asked.clone()
            },
        )
    })
    .await;
    for access in [Access::OneGet, Access::Ranges] {
        let before = server.requests.load(Ordering::Relaxed);
        let session = session(1).await;
        let content = session
            .add(get(&kit, vec![server.source(&kit, access)]))
            .await
            .unwrap();
        kit.completes(&content).await;
        let requests = server.requests.load(Ordering::Relaxed) - before;
        let most = if access == Access::OneGet { 1 } else { 3 };
        assert!(requests <= most, "{access:?}: {requests} requests");
        session.shutdown().await;
        std::fs::remove_file(kit.path("get")).unwrap();
    }
}

/// How often an object that can only be read as a whole is asked for until it is given up: its body breaks off, but for the
/// requests that are refused for now.
async fn requests_until_given_up(refused: &'static [usize]) -> usize {
    let kit = Kit::new(2 << 20);
    let bytes = Arc::clone(&kit.bytes);
    let server = Server::start(move |asked| {
        if refused.contains(&asked.number) {
            return Reply::status("503 Service Unavailable\r\nRetry-After: 1");
        }
        let mut reply = Reply::honest(&bytes, asked);
        reply.body.truncate(700_000);
        reply.close = true;
        reply
    })
    .await;
    let session = session(1).await;
    let get = get(&kit, vec![server.source(&kit, Access::OneGet)]);
    let content = session.add(get).await.unwrap();
    let mut events = content.events();
    let given_up = async {
        loop {
            let event = events.recv().await.expect("it lives");
            if let ContentEvent::SourceFailed { gone: true, .. } = event {
                return;
            }
        }
    };
    timeout(PATIENCE, given_up)
        .await
        .expect("it cannot go on for ever");
    server.requests.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_that_always_breaks_off_is_given_up() {
    assert_eq!(requests_until_given_up(&[]).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_bodies_that_broke_off_count_against_a_whole() {
    assert_eq!(requests_until_given_up(&[1, 3, 4]).await, 4 + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_and_busy_servers_are_asked_again() {
    let kit = Kit::new(6 << 20);
    let bytes = Arc::clone(&kit.bytes);
    let server = Server::start(move |asked| match asked.number {
        0 | 1 => {
            let mut reply = Reply::honest(&bytes, asked);
            reply.body.truncate(700_000);
            reply.close = true;
            reply
        }
        2 => Reply::status("503 Service Unavailable\r\nRetry-After: 1"),
        _ => Reply::honest(&bytes, asked),
    })
    .await;
    let session = session(1).await;
    let get = get(&kit, vec![server.source(&kit, Access::Ranges)]);
    let content = session.add(get).await.unwrap();
    let mut events = content.events();
    kit.completes(&content).await;
    let mut failures = 0;
    while let Ok(event) = events.try_recv() {
        if let ContentEvent::SourceFailed { gone, error, .. } = event {
            failures += 1;
            assert!(!gone, "{error}");
        }
    }
    assert!(failures >= 1);
    // What came before a break is not fetched again.
    assert!(
        origin_bytes(&session) < (6 << 20) + 300_000,
        "{}",
        origin_bytes(&session)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_or_refuses_is_given_up_and_named() {
    let kit = Kit::new(1 << 20);
    let bytes = Arc::clone(&kit.bytes);
    let changed = Server::start(move |asked| {
        let mut reply = Reply::honest(&bytes, asked);
        reply.head = reply.head.replace("v1", "v2");
        reply
    })
    .await;
    let refusing = Server::start(|_| Reply::status("403 Forbidden")).await;
    for (server, word) in [(changed, "changed"), (refusing, "refuses")] {
        let session = session(1).await;
        let sources = vec![server.source(&kit, Access::Ranges)];
        let content = session.add(get(&kit, sources)).await.unwrap();
        let mut events = content.events();
        let failed = async {
            loop {
                let event = events.recv().await.unwrap();
                if let ContentEvent::SourceFailed {
                    gone: true, error, ..
                } = event
                {
                    return error.to_string();
                }
            }
        };
        let error = timeout(PATIENCE, failed).await.unwrap();
        assert!(error.contains(word), "{error}");
        // A better one finishes it.
        let good = honest(&kit).await;
        content.set_sources(vec![good.source(&kit, Access::Ranges)]);
        kit.completes(&content).await;
        session.shutdown().await;
        std::fs::remove_file(kit.path("get")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_wrong_bytes_is_dropped_and_another_finishes() {
    let kit = Kit::new(4 << 20);
    let mut wrong = (*kit.bytes).clone();
    wrong
        .iter_mut()
        .step_by(100_000)
        .for_each(|byte| *byte ^= 1);
    let liar = Server::start(move |asked| Reply::honest(&wrong, asked)).await;
    let good = honest(&kit).await;
    let session = session(1).await;
    let sources = [&liar, &good].map(|server| server.source(&kit, Access::Ranges));
    let content = session.add(get(&kit, sources.to_vec())).await.unwrap();
    kit.completes(&content).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_and_http_share_the_work() {
    let kit = Kit::new(32 << 20);
    let server = honest(&kit).await;
    let seeder = session(1).await;
    let limits = Limits {
        up: ByteRate::mib(16),
        ..Limits::default()
    };
    let seed = kit.seed(kit.write("seed", |_| ()));
    seeder.add(ContentSpec { limits, ..seed }).await.unwrap();
    let leecher = session(2).await;
    let limits = Limits {
        down: ByteRate::mib(32),
        ..Limits::default()
    };
    let spec = ContentSpec {
        prefer: Prefer::Speed,
        peers: vec![seeder.peer_addr()],
        sources: vec![server.source(&kit, Access::Ranges)],
        limits,
        ..kit.leech("leech")
    };
    let leech = leecher.add(spec).await.unwrap();
    let finished = kit.completes(&leech).await;
    let of = finished.counters;
    assert!(of.peer > 0 && of.origin > 0, "{of:?}");
    assert!(of.wasted < 4 << 20, "{of:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_http() {
    let kit = Kit::new(6 << 20);
    let server = honest(&kit).await;
    let session = session(1).await;
    let limits = Limits {
        down: ByteRate::mib(4),
        ..Limits::default()
    };
    let spec = get(&kit, vec![server.source(&kit, Access::Ranges)]);
    let start = Instant::now();
    let content = session.add(ContentSpec { limits, ..spec }).await.unwrap();
    kit.completes(&content).await;
    let least = Duration::from_millis(900);
    assert!(
        start.elapsed() > least,
        "6 MiB at 4 MiB/s took {:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_fetches_what_it_leases_and_tells_the_digests() {
    let kit = Kit::new(4 << 20);
    let server = honest(&kit).await;
    let session = session(1).await;
    let spec = ContentSpec {
        hashes: Hashes::Facts(Nodes::new()),
        verifiable: false,
        growth: None,
        sources: vec![server.source(&kit, Access::Ranges)],
        ..kit.leech("relay")
    };
    let content = session.add(spec).await.unwrap();
    let mut events = content.events();
    content.set_leases(vec![2..5, 8..9]);
    let mut done = Vec::new();
    let collect = async {
        while done.len() < 4 {
            let event = events.recv().await.unwrap();
            if let ContentEvent::PieceDone { piece, digest } = event {
                assert_eq!(digest.sha1, Some(kit.pieces[piece.0 as usize]));
                assert!(digest.node.is_some());
                done.push(piece.0);
            }
        }
    };
    timeout(PATIENCE, collect).await.unwrap();
    done.sort_unstable();
    assert_eq!(done, [2, 3, 4, 8]);
    let progress = content.progress().borrow().clone();
    assert_eq!(server.sent.load(Ordering::Relaxed), 4 * 256 * 1024);
    assert!(progress.state != State::Done, "{progress:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trackers_bring_peers_together_and_rubbish_is_reported() {
    let kit = Kit::new(2 << 20);
    let seeder = session(1).await;
    seeder
        .add(kit.seed(kit.write("seed", |_| ())))
        .await
        .unwrap();
    let port = seeder.peer_addr().port().to_be_bytes();
    let tracker = Server::start(move |_| {
        let mut body = b"d8:intervali1800e5:peers6:\x7f\0\0\x01".to_vec();
        body.extend(port);
        body.extend(b"e");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply {
            head,
            body,
            close: false,
        }
    })
    .await;
    let rubbish = Server::start(|_| {
        let body = b"<html>no tracker here</html>".to_vec();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply {
            head,
            body,
            close: false,
        }
    })
    .await;
    let leecher = session(2).await;
    let trackers = [&rubbish, &tracker]
        .map(|server| server.url.parse().unwrap())
        .to_vec();
    let spec = ContentSpec {
        trackers,
        ..kit.leech("leech")
    };
    let leech = leecher.add(spec).await.unwrap();
    let mut events = leech.events();
    kit.completes(&leech).await;
    let reported = async {
        loop {
            let event = events.recv().await.unwrap();
            if let ContentEvent::TrackerFailed { tracker, error } = event {
                return (tracker, error);
            }
        }
    };
    let (named, error) = timeout(PATIENCE, reported).await.unwrap();
    assert!(
        rubbish.url.starts_with(&named) && error.contains("unreadable"),
        "{named}: {error}"
    );
    // It tells that it is complete, and says goodbye.
    until(&leech, "done", |progress| {
        Some(progress.have_bytes) == progress.length
    })
    .await;
    let told = async {
        while tracker.requests.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told)
        .await
        .expect("the tracker must be told of the completion");
    leecher.shutdown().await;
    assert_eq!(tracker.requests.load(Ordering::Relaxed), 3);
}
