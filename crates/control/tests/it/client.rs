//! A server that can be killed, and clients that say what they like.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use floodway_api::rest::{Enrolled, Role, Task};
use floodway_api::sync::{
    ContentReport, PieceReport, ProbeReport, RelayContent, RelayReport, SyncReply, SyncRequest,
};
use floodway_control::Settings;
use floodway_proto::units::Span;
use floodway_proto::{Layout, NodeId, Sha1, Sha256, Sid, digest, merkle};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What the tests' origin is called; nobody ever connects to it.
pub(crate) const ORIGIN: &str = "http://origin.example/files";
pub(crate) const PIECE: u64 = 64 * 1024;

/// A control in a runtime of its own, so that it can be dropped as if killed.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) data: TempDir,
    settings: Settings,
    runtime: Option<Runtime>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// With settings changed by `change`.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            data: data.path().join("control"),
            allow_origin: vec![ORIGIN.into()],
            ..Settings::default()
        };
        change(&mut settings);
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            addr,
            data,
            settings,
            runtime: None,
            stop: None,
        };
        server.boot();
        server
    }

    fn boot(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (sender, ready) = mpsc::channel();
        let settings = self.settings.clone();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stopped = async { drop(stopped.await) };
            let up = sender.clone();
            let ran = floodway_control::run(settings, listener, stopped, move |ready| {
                up.send(Ok(ready.http)).unwrap();
            });
            drop(sender.send(Err(ran.await)));
        });
        self.addr = ready.recv().unwrap().expect("control starts");
        self.runtime = Some(runtime);
        self.stop = Some(stop);
    }

    /// Drops everything without a word, as a killed process does.
    pub(crate) async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        let killed = move || runtime.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(killed).await.unwrap();
    }

    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.boot();
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn secret(&self, file: &str) -> String {
        let path: &Path = &self.settings.data;
        std::fs::read_to_string(path.join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(crate) fn admin(&self) -> String {
        self.secret("admin.token")
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        request(self.addr, "GET", path, token, b"").await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        request(self.addr, "POST", path, token, &body).await
    }

    pub(crate) async fn enrol(&self, role: Role) -> Node {
        self.enrol_with(role, &self.secret("join.token")).await
    }

    pub(crate) async fn enrol_with(&self, role: Role, token: &str) -> Node {
        let body = json!({"role": role, "name": "a node"});
        let enrolled: Enrolled = self.post("/api/v1/enrol", token, &body).await.ok();
        Node::new(enrolled)
    }

    pub(crate) async fn publish(&self, name: &str, to: Option<&str>) -> Task {
        let mut body = json!({"url": format!("{ORIGIN}/{name}")});
        if let Some(to) = to {
            body["to"] = to.into();
        }
        self.post("/api/v1/tasks", &self.admin(), &body).await.ok()
    }

    pub(crate) async fn task(&self, id: &str) -> Task {
        self.get(&format!("/api/v1/tasks/{id}"), &self.admin())
            .await
            .ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Settings with short times, for tests in which somebody vanishes.
pub(crate) fn hasty(settings: &mut Settings) {
    let span = |millis| Span(Duration::from_millis(millis));
    settings.advanced.node_timeout = span(400);
    settings.advanced.lease = span(400);
    settings.advanced.busy_interval = span(100);
    settings.advanced.idle_interval_min = span(100);
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body of a success.
    pub(crate) fn ok<T: serde::de::DeserializeOwned>(self) -> T {
        assert!(
            (200..300).contains(&self.status),
            "{} {}",
            self.status,
            self.text()
        );
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status, code and field of a refusal, which always has the one form.
    pub(crate) fn refusal(&self) -> (u16, String, Option<String>) {
        let body: Value = serde_json::from_slice(&self.body).expect("a refusal is JSON");
        let error = &body["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        let field = error["field"].as_str().map(str::to_owned);
        (
            self.status,
            error["code"].as_str().unwrap().to_owned(),
            field,
        )
    }
}

/// Sends one request on a connection of its own.
pub(crate) async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    token: &str,
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(&raw(method, path, token, body))
        .await
        .unwrap();
    read_answer(stream).await
}

/// The bytes of a request.
pub(crate) fn raw(method: &str, path: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let token = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{token}"
    );
    [format!("{head}\r\n").as_bytes(), body].concat()
}

pub(crate) async fn read_answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A server that refuses a long body may reset the connection after its answer.
    drop(stream.read_to_end(&mut bytes).await);
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an HTTP answer");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_lowercase(),
        body: bytes[end + 4..].to_vec(),
    }
}

/// A node that syncs by hand.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) token: String,
    /// Sent with every sync.
    pub(crate) state: SyncRequest,
}

impl Node {
    pub(crate) fn new(enrolled: Enrolled) -> Self {
        let last = enrolled.node.0[15];
        let state = SyncRequest {
            boot: 1,
            peer: Some(SocketAddr::from(([10, 0, 0, last], 7000))),
            http: Some(format!("http://10.0.0.{last}:8000")),
            ..SyncRequest::default()
        };
        Self {
            id: enrolled.node,
            token: enrolled.token,
            state,
        }
    }

    /// One sync; what was only to be said once is forgotten.
    pub(crate) async fn sync(&mut self, server: &Server) -> SyncReply {
        let reply: SyncReply = server
            .post("/api/v1/sync", &self.token, &self.state)
            .await
            .ok();
        self.state.relay_tasks.clear();
        self.state.known = reply.version;
        reply
    }

    /// A sync that may be parked for so long.
    pub(crate) async fn wait(&mut self, server: &Server, millis: u64) -> SyncReply {
        self.state.wait_ms = millis;
        let reply = self.sync(server).await;
        self.state.wait_ms = 0;
        reply
    }

    /// Syncs until the answer is as wanted.
    pub(crate) async fn until(
        &mut self,
        server: &Server,
        wanted: impl Fn(&SyncReply) -> bool,
    ) -> SyncReply {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let reply = self.wait(server, 100).await;
            if wanted(&reply) {
                return reply;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "never so: {reply:#?}"
            );
        }
    }

    pub(crate) async fn probed(
        &mut self,
        server: &Server,
        relay_task: &str,
        probe: ProbeReport,
    ) -> SyncReply {
        self.state.relay_tasks = vec![RelayReport {
            end: None,
            relay_task: relay_task.into(),
            sid: None,
            probe: Some(probe),
            pieces: Vec::new(),
            audited: Vec::new(),
            held: Vec::new(),
            unread: Vec::new(),
            failure: None,
        }];
        self.sync(server).await
    }

    pub(crate) async fn report(
        &mut self,
        server: &Server,
        relay_task: &str,
        sid: Sid,
        pieces: Vec<PieceReport>,
    ) -> SyncReply {
        self.state.relay_tasks = vec![RelayReport {
            end: None,
            relay_task: relay_task.into(),
            sid: Some(sid),
            probe: None,
            pieces,
            audited: Vec::new(),
            held: Vec::new(),
            unread: Vec::new(),
            failure: None,
        }];
        self.sync(server).await
    }

    /// Says how long the content turned out to be, and of these pieces.
    pub(crate) async fn ends(
        &mut self,
        server: &Server,
        relay_task: &str,
        sid: Sid,
        length: u64,
        pieces: Vec<PieceReport>,
    ) -> SyncReply {
        self.state.relay_tasks = vec![RelayReport {
            end: Some(length),
            relay_task: relay_task.into(),
            sid: Some(sid),
            probe: None,
            pieces,
            audited: Vec::new(),
            held: Vec::new(),
            unread: Vec::new(),
            failure: None,
        }];
        self.sync(server).await
    }

    /// Says that it holds the content.
    pub(crate) fn holds(&mut self, sid: Sid, complete: bool) {
        self.state.contents.retain(|content| content.sid != sid);
        self.state.contents.push(ContentReport {
            sid,
            have: 1,
            complete,
            final_ok: complete,
            v2_ok: complete,
            peer_sent: 0,
            serving: true,
            manifest: None,
            paused: None,
        });
    }
}

pub(crate) fn probe(length: u64) -> ProbeReport {
    ProbeReport {
        length: Some(length),
        etag: Some("\"v1\"".into()),
        last_modified: None,
        ranges: true,
        name: "disk.img".into(),
        files: Vec::new(),
    }
}

/// The content of a reply's only relay order.
pub(crate) fn content(reply: &SyncReply) -> RelayContent {
    reply.relay_tasks[0].content.clone().expect("probed")
}

/// Pieces that a relay is to fetch.
pub(crate) fn leased(content: &RelayContent) -> Vec<u32> {
    let leases = content.leases.iter();
    leases
        .flat_map(|lease| lease.first..lease.first + lease.count)
        .collect()
}

/// The object of the tests: its bytes follow from its length.
pub(crate) struct Object {
    pub(crate) layout: Layout,
    bytes: Vec<u8>,
}

impl Object {
    pub(crate) fn new(length: u64) -> Self {
        Self::in_pieces(length, Layout::default_piece_length(Some(length)))
    }

    pub(crate) fn in_pieces(length: u64, piece_length: u32) -> Self {
        let bytes = (0..length)
            .map(|i| (i / 7 % 256).to_le_bytes()[0])
            .collect();
        Self {
            layout: Layout::new(Some(length), piece_length).unwrap(),
            bytes,
        }
    }

    /// What an honest relay reports of these pieces.
    pub(crate) fn pieces(&self, pieces: &[u32]) -> Vec<PieceReport> {
        pieces.iter().map(|piece| self.piece(*piece)).collect()
    }

    fn piece(&self, piece: u32) -> PieceReport {
        let index = self.layout.piece(piece).unwrap();
        let range = self.layout.piece_bytes(index);
        let (start, end) = (
            usize::try_from(range.start).unwrap(),
            usize::try_from(range.end).unwrap(),
        );
        let data = &self.bytes[start..end];
        PieceReport {
            piece,
            node: merkle::piece_node(data, &self.layout, index).unwrap(),
            sha1: digest::sha1(data),
        }
    }
}

/// A report of other bytes.
pub(crate) fn lie(piece: u32) -> PieceReport {
    PieceReport {
        piece,
        node: Sha256([9; 32]),
        sha1: Sha1([9; 20]),
    }
}

/// Has a relay bring an object to its end: gives the sid.
pub(crate) async fn relay_all(
    server: &Server,
    relay: &mut Node,
    relay_task: &str,
    object: &Object,
) -> Sid {
    relay.sync(server).await;
    let length = object.layout.length().unwrap();
    let mut reply = relay.probed(server, relay_task, probe(length)).await;
    loop {
        let order = reply
            .relay_tasks
            .iter()
            .find(|order| order.relay_task == relay_task);
        let content = order.unwrap().content.clone().unwrap();
        let sid = content.sid;
        if content.is_final {
            relay.holds(sid, true);
            relay.sync(server).await;
            return sid;
        }
        relay.holds(sid, false);
        let pieces = object.pieces(&leased(&content));
        assert!(!pieces.is_empty(), "an only relay always gets work");
        reply = relay.report(server, relay_task, sid, pieces).await;
    }
}
