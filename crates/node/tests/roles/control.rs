//! A scripted control: one content, one relay, any number of agents; parks syncs like the real one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use floodway_api::HexBytes;
use floodway_api::rest::{Enrol, Enrolled, ErrorBody, ErrorDetail, Role};
use floodway_api::sync::{
    Ask, ContentInfo, Grant, OfflineOrigin, PeerInfo, PieceReport, Policy, RangeLease,
    RelayContent, RelayOrder, RelaySource, SyncReply, SyncRequest, TaskOrder, TaskReport,
};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::genesis::Genesis;
use floodway_proto::metainfo::{Info, Metainfo};
use floodway_proto::{Layout, NodeId, Sid};
use tokio::net::TcpListener;
use tokio::sync::watch;

const KEY: CapabilityKey = CapabilityKey::new([9; 32]);
pub(crate) const TASK: &str = "t1";

/// What the script decides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) url: String,
    /// The relay is to work on the content.
    pub(crate) relay_task: bool,
    /// Agents are to fetch it.
    pub(crate) agent_task: bool,
    /// Tickets are granted.
    pub(crate) tickets: bool,
    /// What nodes may do while control is away.
    pub(crate) offline_origin: OfflineOrigin,
    /// Control is away: every sync fails.
    pub(crate) away: bool,
}

/// What the nodes have said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) genesis: Option<Genesis>,
    pub(crate) pieces: BTreeMap<u32, PieceReport>,
    pub(crate) torrent: Option<Metainfo>,
    pub(crate) relay: Option<SyncRequest>,
    /// By token.
    pub(crate) agents: BTreeMap<String, SyncRequest>,
    pub(crate) enrolled: usize,
    pub(crate) tickets_asked: usize,
    pub(crate) left: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) address: String,
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<(Script, Said)>,
    changed: watch::Sender<u64>,
}

impl Control {
    pub(crate) async fn start(script: Script) -> Self {
        let inner = Inner {
            state: Mutex::new((script, Said::default())),
            changed: watch::channel(1).0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let control = Self {
            address,
            inner: Arc::new(inner),
        };
        let router = Router::new()
            .route("/api/v1/enrol", post(enrol))
            .route("/api/v1/sync", post(sync))
            .route("/api/v1/s/{sid}/torrent", get(torrent))
            .with_state(control.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        control
    }

    fn state(&self) -> MutexGuard<'_, (Script, Said)> {
        self.inner.state.lock().unwrap()
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state().0);
        self.news();
    }

    pub(crate) fn said(&self) -> Said {
        self.state().1.clone()
    }

    fn news(&self) {
        self.inner.changed.send_modify(|version| *version += 1);
    }

    /// Waits until what was said satisfies `wanted`.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&Said) -> Option<T>,
    ) -> T {
        let mut changed = self.inner.changed.subscribe();
        let seen = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = wanted(&self.said()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        let found = tokio::time::timeout(Duration::from_mins(1), seen).await;
        found.unwrap_or_else(|_| panic!("{what} did not happen: {:?}", self.said()))
    }

    /// The report of an agent's task.
    pub(crate) async fn report(
        &self,
        what: &str,
        mut wanted: impl FnMut(&TaskReport) -> bool,
    ) -> TaskReport {
        self.until(what, |said| {
            let mut reports = said.agents.values().flat_map(|request| &request.tasks);
            reports.rfind(|report| wanted(report)).cloned()
        })
        .await
    }
}

fn refused(status: StatusCode) -> Response {
    let error = ErrorDetail {
        code: "unauthorized".into(),
        message: "no such token".into(),
        field: None,
    };
    (status, Json(ErrorBody { error })).into_response()
}

fn token(headers: &HeaderMap) -> Option<String> {
    Some(
        headers
            .get("authorization")?
            .to_str()
            .ok()?
            .strip_prefix("Bearer ")?
            .to_owned(),
    )
}

async fn enrol(
    State(control): State<Control>,
    headers: HeaderMap,
    Json(enrol): Json<Enrol>,
) -> Response {
    if token(&headers).as_deref() != Some("join") {
        return refused(StatusCode::UNAUTHORIZED);
    }
    let number = {
        let said = &mut control.state().1;
        said.enrolled += 1;
        said.enrolled
    };
    let token = match enrol.role {
        Role::Relay => "relay".to_owned(),
        Role::Agent => format!("agent{number}"),
    };
    let node = NodeId([u8::try_from(number).unwrap(); 16]);
    (StatusCode::CREATED, Json(Enrolled { node, token })).into_response()
}

async fn torrent(State(control): State<Control>, Path(_sid): Path<String>) -> Response {
    match control.said().torrent {
        Some(torrent) => torrent.encode().into_response(),
        None => (StatusCode::NOT_FOUND, [("retry-after", "1")]).into_response(),
    }
}

async fn sync(
    State(control): State<Control>,
    headers: HeaderMap,
    Json(request): Json<SyncRequest>,
) -> Response {
    let Some(token) =
        token(&headers).filter(|token| token == "relay" || token.starts_with("agent"))
    else {
        return refused(StatusCode::UNAUTHORIZED);
    };
    if control.state().0.away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let mut changed = control.inner.changed.subscribe();
    if control.take_in(&token, &request) {
        control.news();
    }
    let deadline = tokio::time::sleep(Duration::from_millis(request.wait_ms));
    tokio::pin!(deadline);
    loop {
        let version = *changed.borrow_and_update();
        if version != request.known || deadline.is_elapsed() {
            return Json(control.reply(&token, &request, version)).into_response();
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = &mut deadline => {}
        }
    }
}

impl Control {
    /// True when it changed something.
    fn take_in(&self, token: &str, request: &SyncRequest) -> bool {
        let said = &mut self.state().1;
        let shown = |request: &SyncRequest| {
            (
                request.contents.clone(),
                request.tasks.clone(),
                request.peer,
                request.asks.clone(),
            )
        };
        if request.leaving {
            said.left.push(token.to_owned());
            return true;
        }
        said.tickets_asked += request
            .asks
            .iter()
            .filter(|ask| matches!(ask, Ask::Ticket { .. }))
            .count();
        if token != "relay" {
            let old = said.agents.insert(token.to_owned(), request.clone());
            return old.is_none_or(|old| shown(&old) != shown(request));
        }
        let mut news = said
            .relay
            .as_ref()
            .is_none_or(|old| shown(old) != shown(request));
        for report in &request.relay_tasks {
            if let (Some(probe), None) = (&report.probe, &said.genesis) {
                said.genesis = Some(genesis(
                    probe.length.unwrap(),
                    probe.etag.as_deref().unwrap(),
                    &probe.name,
                ));
                news = true;
            }
            if report.sid.is_some() && report.sid == said.genesis.as_ref().map(Genesis::sid) {
                said.pieces
                    .extend(report.pieces.iter().map(|piece| (piece.piece, *piece)));
                news |= !report.pieces.is_empty();
            }
        }
        if let (Some(genesis), None) = (&said.genesis, &said.torrent)
            && said.pieces.len() == genesis.layout().unwrap().piece_count() as usize
        {
            said.torrent = Some(torrent_of(genesis, &said.pieces));
            news = true;
        }
        said.relay = Some(request.clone());
        news
    }

    fn reply(&self, token: &str, request: &SyncRequest, version: u64) -> SyncReply {
        let (script, said) = &*self.state();
        let sid = said.genesis.as_ref().map(Genesis::sid);
        let is_final = said.torrent.is_some();
        let mut reply = SyncReply {
            version,
            interval_ms: 15_000,
            policy: Policy {
                offline_origin: script.offline_origin,
            },
            ..SyncReply::default()
        };
        if token == "relay" {
            reply.capability_key = Some(HexBytes(KEY.secret().to_vec()));
            if script.relay_task {
                let content = said
                    .genesis
                    .as_ref()
                    .map(|genesis| content(genesis, is_final));
                reply.relay_tasks.push(RelayOrder {
                    relay_task: "r1".into(),
                    url: script.url.clone(),
                    files: Vec::new(),
                    content,
                });
            }
        } else if script.agent_task {
            reply.tasks.push(TaskOrder {
                task: TASK.into(),
                sid,
                url: script.url.clone(),
            });
        }
        if let Some(sid) = sid {
            reply.contents.push(Self::info(script, said, sid, is_final));
        }
        for ask in &request.asks {
            reply.grants.push(match ask {
                Ask::Open { url } => Grant::Content {
                    url: url.clone(),
                    sid,
                    failed: None,
                },
                Ask::Join { sid } => Grant::Content {
                    url: script.url.clone(),
                    sid: Some(*sid),
                    failed: None,
                },
                Ask::Ticket { url, .. } if script.tickets => Grant::Ticket {
                    url: url.clone(),
                    etag: None,
                },
                Ask::Ticket { url, .. } => Grant::Refused {
                    subject: url.clone(),
                    code: "relay_live".into(),
                    message: "a relay is live".into(),
                    retry_ms: Some(200),
                },
            });
        }
        reply
    }

    fn info(script: &Script, said: &Said, sid: Sid, is_final: bool) -> ContentInfo {
        let relay = said.relay.as_ref().filter(|_| script.relay_task);
        let complete =
            |request: &SyncRequest| request.contents.iter().any(|content| content.complete);
        let serving = |request: &SyncRequest| {
            request
                .contents
                .iter()
                .any(|content| content.serving && content.have > 0)
        };
        let peers = said
            .agents
            .values()
            .chain(relay)
            .filter(|request| serving(request));
        ContentInfo {
            sid,
            is_final,
            peers: peers
                .filter_map(|request| {
                    Some(PeerInfo {
                        addr: request.peer?,
                        node: None,
                        name: None,
                        streaming: false,
                        final_ok: true,
                    })
                })
                .collect(),
            relays: relay
                .filter(|request| complete(request))
                .map(|request| RelaySource {
                    node: NodeId([1; 16]),
                    url: format!("{}/api/v1/s/{sid}/data", request.http.clone().unwrap()),
                    capability: KEY.issue(sid, None),
                    streaming: false,
                })
                .into_iter()
                .collect(),
            relay_live: relay.is_some(),
            manifest: None,
            site: None,
        }
    }
}

fn content(genesis: &Genesis, is_final: bool) -> RelayContent {
    let count = genesis.layout().unwrap().piece_count();
    // Two leases, as two relays would get them.
    let lease = |lease, first, count| RangeLease {
        lease,
        first,
        count,
        expires_ms: 15_000,
    };
    let leases = vec![
        lease(1, 0, count / 2),
        lease(2, count / 2, count - count / 2),
    ];
    RelayContent {
        sid: genesis.sid(),
        genesis: HexBytes(genesis.encode()),
        ranges: true,
        is_final,
        leases: if is_final { Vec::new() } else { leases },
        audits: Vec::new(),
    }
}

/// One without records: nobody signs.
fn genesis(length: u64, etag: &str, name: &str) -> Genesis {
    let length = Some(length);
    let piece_length = Layout::default_piece_length(length);
    Genesis {
        keys: Vec::new(),
        ..crate::genesis::genesis(name, length, piece_length, etag)
    }
}

fn torrent_of(genesis: &Genesis, pieces: &BTreeMap<u32, PieceReport>) -> Metainfo {
    Metainfo::new(Info {
        name: genesis.name.clone(),
        length: genesis.length().unwrap(),
        files: Vec::new(),
        piece_length: genesis.piece_length,
        pieces: pieces.values().map(|piece| piece.sha1).collect(),
        private: true,
    })
    .unwrap()
}
