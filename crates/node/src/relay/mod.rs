//! The relay: probes origins, fetches under range leases, reports what each piece hashes to, seeds and serves.
//!
//! Entry: [`run`]. One `Work` per relay task does everything about its content; the relay itself only
//! carries its notes to control and control's orders to it. Invariants: an origin is read only for pieces under lease,
//! for probes, for audits that control asks for, and when a final content stands still because nobody has some pieces of it; and
//! never by a relay that feeds from others. A piece is offered, to peers and over HTTP, once control, or a relay under a
//! lease of control, has signed what it must hash to and its hash agrees.

mod alone;
mod audit;
mod folder;
mod held;
mod http;
mod pending;
mod range;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_api::HexBytes;
use floodway_api::rest::Role;
use floodway_api::sync::{RelayOrder, SyncReply, SyncRequest};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::record::SecretKey;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Desk, Duty, converse};
use crate::job::Nudge;
use crate::node::{NodeSettings, Ready, RoleError, bind_http, end_all, identify, start_session};
use crate::state::DataDir;
use pending::Pending;
use work::{News, Note, Order, Tools, Work};

pub use http::{Serving, content_router, router};

/// The file that holds what this relay worked on, for a restart without control.
const ORDERS: &str = "relay.json";
/// How long open HTTP replies may take when the relay stops.
const HTTP_END: Duration = Duration::from_secs(3);

/// How a relay is to run.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// What every daemon is told.
    pub node: NodeSettings,
    /// Its HTTP side.
    pub http: HttpSide,
    /// The relays, by name or id, from which this one takes everything; empty: it reads origins.
    pub feeds_from: Vec<String>,
    /// For measurements only: offers nothing before it has everything, as relays did without streaming start.
    pub serve_after_complete: bool,
}

/// Where a relay serves HTTP.
#[derive(Clone, Debug)]
pub enum HttpSide {
    /// On a port of its own.
    Own(SocketAddr),
    /// On another server of this process, which serves [`content_router`].
    Shared {
        /// The base URL that control is told.
        url: String,
        /// What the router serves.
        serving: Serving,
    },
}

/// What is kept for a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    orders: Vec<RelayOrder>,
    capability_key: Option<HexBytes>,
}

/// Runs a relay until `shutdown`.
///
/// `ready` is called once, when its listeners are bound and control has accepted it.
///
/// # Errors
/// [`RoleError`], whose [`exit_code`](RoleError::exit_code) classifies it.
pub async fn run(
    settings: RelaySettings,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
) -> Result<(), RoleError> {
    tokio::pin!(shutdown);
    let data = Arc::new(DataDir::open(&settings.node.data)?);
    let (serving, own) = match &settings.http {
        HttpSide::Own(addr) => (Serving::default(), Some(bind_http(*addr).await?)),
        HttpSide::Shared { serving, .. } => (serving.clone(), None),
    };
    let (client, identity) = tokio::select! {
        identified = identify(&settings.node, &data, Role::Relay) => identified?,
        () = &mut shutdown => return Ok(()),
    };
    let session = start_session(&settings.node, &identity).await?;
    serving.set_session(session.clone());
    let bound = own.as_ref().map(|(_, addr)| *addr);
    let url = match &settings.http {
        HttpSide::Shared { url, .. } => url.clone(),
        HttpSide::Own(addr) => format!("http://{}", bound.unwrap_or(*addr)),
    };
    let stop = CancellationToken::new();
    let http = own.map(|(listener, _)| {
        let stop = stop.clone().cancelled_owned();
        let server = axum::serve(listener, router(serving.clone())).with_graceful_shutdown(stop);
        tokio::spawn(server.into_future())
    });
    let (client, client_seen) = watch::channel(client);
    let (send_notes, notes) = mpsc::unbounded_channel();
    let tools = Tools {
        data: Arc::clone(&data),
        session: session.clone(),
        client: client_seen,
        serving,
        feeds: !settings.feeds_from.is_empty(),
        signer: Arc::new(signer()),
        serve_after_complete: settings.serve_after_complete,
    };
    let mut relay = Relay {
        tools: Arc::new(tools),
        url,
        works: BTreeMap::new(),
        leaving: Vec::new(),
        notes: send_notes,
        kept: String::new(),
        capability_key: None,
        feeds_from: settings.feeds_from.clone(),
        absent: Vec::new(),
    };
    relay.restore()?;
    let desk = Desk {
        settings: &settings.node,
        data: &data,
        client,
    };
    let addresses = Ready {
        http: bound,
        peer: Some(session.peer_addr()),
    };
    let result = converse(desk, &mut relay, notes, shutdown, || ready(addresses)).await;
    stop.cancel();
    relay.stop().await;
    session.shutdown().await;
    if let Some(http) = http {
        let abort = http.abort_handle();
        if tokio::time::timeout(HTTP_END, http).await.is_err() {
            abort.abort();
        }
    }
    result
}

/// The key of this process. Leases die with it too.
fn signer() -> SecretKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the operating system gives random bytes");
    SecretKey::from_seed(&seed)
}

/// All relay tasks of this relay.
struct Relay {
    tools: Arc<Tools>,
    /// The base URL of its HTTP side.
    url: String,
    works: BTreeMap<String, Tended>,
    /// Works that were dropped and are cleaning up.
    leaving: Vec<JoinHandle<()>>,
    notes: mpsc::UnboundedSender<(String, Note)>,
    /// What was kept last, as text.
    kept: String,
    capability_key: Option<HexBytes>,
    feeds_from: Vec<String>,
    /// Which of these control did not know when it last answered.
    absent: Vec<String>,
}

/// One relay task and the one who works on it.
struct Tended {
    order: RelayOrder,
    orders: watch::Sender<Order>,
    pending: Pending,
    task: JoinHandle<()>,
}

impl Tended {
    fn leased(&mut self, order: &RelayOrder) {
        if let Some(content) = &order.content {
            self.pending.leased(content.sid, &content.leases);
        }
    }
}

impl Relay {
    /// Goes on with what an earlier run worked on, before control is reached.
    fn restore(&mut self) -> Result<(), RoleError> {
        let kept: Kept = self.tools.data.load(ORDERS)?.unwrap_or_default();
        if let Some(key) = kept.capability_key {
            self.set_key(key);
        }
        let contents = kept
            .orders
            .iter()
            .filter_map(|order| order.content.as_ref());
        let sids: BTreeSet<_> = contents.map(|content| content.sid).collect();
        self.tools.data.retain_contents(|sid| sids.contains(&sid));
        for order in kept.orders {
            self.order(order, News::default());
        }
        Ok(())
    }

    fn set_key(&mut self, key: HexBytes) {
        if let Ok(secret) = <[u8; 32]>::try_from(key.0.as_slice()) {
            self.tools.serving.set_key(CapabilityKey::new(secret));
            self.capability_key = Some(key);
        } else {
            tracing::warn!("control sent a capability key of a wrong length");
        }
    }

    /// Begins with a task, or brings it its orders.
    fn order(&mut self, order: RelayOrder, news: News) {
        let now = Order {
            content: order.content.clone(),
            files: order.files.clone(),
            news,
            dropped: false,
        };
        if let Some(tended) = self.works.get_mut(&order.relay_task) {
            tended.leased(&order);
            tended.order = order;
            tended.orders.send_replace(now);
            return;
        }
        let (orders, seen) = watch::channel(now);
        let work = Work {
            task: order.relay_task.clone(),
            url: order.url.clone(),
            tools: Arc::clone(&self.tools),
            orders: seen,
            notes: self.notes.clone(),
            broken: 0,
        };
        let task = tokio::spawn(work.run());
        let mut tended = Tended {
            order: order.clone(),
            orders,
            pending: Pending::default(),
            task,
        };
        tended.leased(&order);
        self.works.insert(tended.order.relay_task.clone(), tended);
    }

    /// Keeps what a restart needs, if it changed.
    fn keep(&mut self) {
        let orders = self
            .works
            .values()
            .map(|tended| without_origin(&tended.order))
            .collect();
        let kept = Kept {
            orders,
            capability_key: self.capability_key.clone(),
        };
        let text = serde_json::to_string(&kept).unwrap_or_default();
        if text == self.kept {
            return;
        }
        match self.tools.data.save(ORDERS, &kept) {
            Ok(()) => self.kept = text,
            // The next reply tries again.
            Err(error) => tracing::warn!(%error, "the orders could not be kept"),
        }
    }

    /// Ends all work; the data stays.
    async fn stop(&mut self) {
        for (_, tended) in std::mem::take(&mut self.works) {
            drop(tended.orders);
            self.leaving.push(tended.task);
        }
        end_all(std::mem::take(&mut self.leaving)).await;
    }
}

/// Says which relays are missing that this one feeds from.
fn log_absent(names: &[String]) {
    if names.is_empty() {
        tracing::info!("all relays that this one feeds from are live");
        return;
    }
    tracing::warn!(
        ?names,
        "no relay of this name is live, and this one feeds from it: start it, or correct `feeds_from`"
    );
}

/// Leases die with the process start that they were given to, and audits wait for control: until then it may be that this relay is
/// to read no origin any more.
fn without_origin(order: &RelayOrder) -> RelayOrder {
    let mut order = order.clone();
    if let Some(content) = &mut order.content {
        content.leases.clear();
        content.audits.clear();
    }
    order
}

impl Duty for Relay {
    type Note = (String, Note);
    const ROLE: Role = Role::Relay;

    fn request(&self) -> SyncRequest {
        SyncRequest {
            peer: Some(self.tools.session.peer_addr()),
            http: Some(self.url.clone()),
            contents: self
                .works
                .values()
                .filter_map(|tended| tended.pending.content.clone())
                .collect(),
            relay_tasks: pending::reports(
                (self.works.iter()).map(|(id, tended)| (id.as_str(), &tended.pending)),
            ),
            streaming: true,
            audits: self.feeds_from.is_empty(),
            feeds_from: self.feeds_from.clone(),
            record_key: Some(HexBytes(self.tools.signer.public().to_bytes().to_vec())),
            ..SyncRequest::default()
        }
    }

    fn note(&mut self, (task, note): (String, Note)) -> Option<Nudge> {
        let pending = &mut self.works.get_mut(&task)?.pending;
        match note {
            Note::Begins(sid) => pending.begin(sid),
            Note::Probed(probe) => pending.probed(probe),
            Note::Piece(piece) => pending.piece(piece),
            Note::Ended(length) => pending.ended(length),
            Note::Audited(piece, found) => pending.audited(piece, found),
            Note::Failed(failure) => pending.failed(failure),
            Note::Holds { report, changed } => {
                pending.content = Some(report);
                return Some(if changed {
                    Nudge::Changed
                } else {
                    Nudge::Progressed
                });
            }
        }
        Some(Nudge::Changed)
    }

    fn acknowledged(&mut self, request: &SyncRequest) -> bool {
        for report in &request.relay_tasks {
            if let Some(tended) = self.works.get_mut(&report.relay_task) {
                tended.pending.acknowledged(report);
            }
        }
        // There may have been no room for some tasks at all.
        self.works.values().any(|tended| tended.pending.has_more())
    }

    fn apply(&mut self, mut reply: SyncReply) {
        if let Some(key) = reply.capability_key.take() {
            self.set_key(key);
        }
        if reply.absent_upstreams != self.absent {
            self.absent = std::mem::take(&mut reply.absent_upstreams);
            log_absent(&self.absent);
        }
        for refused in &reply.refused {
            tracing::warn!(
                ?refused,
                "control did not take what was reported of some pieces"
            );
        }
        self.leaving.retain(|task| !task.is_finished());
        let listed = |id: &String| {
            reply
                .relay_tasks
                .iter()
                .any(|order| order.relay_task == *id)
        };
        let dropped: Vec<String> = self
            .works
            .keys()
            .filter(|id| !listed(id))
            .cloned()
            .collect();
        for id in dropped {
            if let Some(tended) = self.works.remove(&id) {
                tracing::info!(relay_task = id, "a relay task was dropped");
                tended.orders.send_modify(|order| order.dropped = true);
                self.leaving.push(tended.task);
            }
        }
        for order in reply.relay_tasks {
            let sid = order.content.as_ref().map(|content| content.sid);
            let info = reply.contents.iter().find(|info| Some(info.sid) == sid);
            let news = info.map(News::of).unwrap_or_default();
            self.order(order, news);
        }
        self.keep();
    }

    fn away(&mut self, away: bool) {
        // A relay goes on with its leases; control deals them anew when they run out.
        tracing::info!(away, "control's state changed");
    }

    fn alarm(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use floodway_api::sync::{RangeLease, RelayContent};

    use super::*;

    #[test]
    fn nothing_that_reads_an_origin_outlives_the_process() {
        let lease = RangeLease {
            lease: 1,
            first: 0,
            count: 1,
            expires_ms: 1,
        };
        let content = RelayContent {
            sid: floodway_proto::Sid([1; 32]),
            genesis: HexBytes(Vec::new()),
            ranges: true,
            is_final: false,
            leases: vec![lease],
            audits: vec![2],
        };
        let order = RelayOrder {
            relay_task: "t".into(),
            url: "http://origin.example/x".into(),
            files: Vec::new(),
            content: Some(content.clone()),
        };
        let kept = without_origin(&order).content.unwrap();
        let expected = RelayContent {
            leases: Vec::new(),
            audits: Vec::new(),
            ..content
        };
        assert_eq!(kept, expected);
    }
}
