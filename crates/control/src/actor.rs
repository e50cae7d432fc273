//! Runs the [`Core`]: one turn after another, each with one commit.
//!
//! A turn takes whatever is waiting, decides, makes all changes durable in one transaction, and only then answers. So
//! a thousand syncs at once cost one write, and nobody hears of what could still be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use floodway_api::sync::{SyncReply, SyncRequest};
use floodway_proto::{NodeId, Time};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::auth::Directory;
use crate::core::{Core, Now};
use crate::db::{Change, Store, StoreError};
use crate::error::ApiError;
use crate::metrics::Metrics;

/// Requests that wait for their turn; more wait at their connection.
const QUEUE: usize = 4096;
/// At most so many requests in one turn.
const TURN_MAX: usize = 1024;
/// How often a broken database is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Sends a result once the turn is committed, or says that it could not be.
type Deliver = Box<dyn FnOnce(Result<(), &ApiError>) + Send>;
/// One request: decides at once, and says how to answer.
type Request = Box<dyn FnOnce(&mut Core) -> Deliver + Send>;

/// The way to the core for everybody else.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    healthy: Arc<AtomicBool>,
    signed: watch::Receiver<()>,
}

fn stopping() -> ApiError {
    ApiError::unavailable("control is stopping; ask again in a moment")
}

/// Reads the clocks.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn now(self) -> Now {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            time: Time::from_nanos(nanos),
            us: i64::try_from(unix.as_micros()).unwrap_or(i64::MAX),
        }
    }
}

impl Handle {
    /// Has `decide` done in a turn; its result comes back once all it changed is durable.
    ///
    /// # Errors
    /// What `decide` refused, or 503 when the changes could not be made durable: then nothing happened.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&mut Core) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let request: Request = Box::new(move |core| {
            let result = decide(core);
            Box::new(move |committed| {
                let result = committed.map_err(Clone::clone).and(result);
                // Whoever asked may have hung up.
                drop(sender.send(result));
            })
        });
        self.requests.send(request).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    }

    /// Takes in a node's sync; the answer comes at the end of the turn or when there is something to do.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub(crate) async fn sync(
        &self,
        node: NodeId,
        remote: std::net::IpAddr,
        sync: SyncRequest,
    ) -> Result<SyncReply, ApiError> {
        let (sender, receiver) = oneshot::channel();
        let request: Request = Box::new(move |core| {
            core.sync(node, remote, sync, sender);
            Box::new(|_| {})
        });
        self.requests.send(request).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    }

    /// Changes whenever a record of any content was signed; closed when control stops.
    pub(crate) fn signed(&self) -> watch::Receiver<()> {
        self.signed.clone()
    }

    /// False since the last write failed.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

/// What runs the core until every [`Handle`] is gone.
pub(crate) struct Actor<S> {
    core: Core,
    store: S,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    requests: mpsc::Receiver<Request>,
    healthy: Arc<AtomicBool>,
    clock: Clock,
    /// `None` once control has begun to stop.
    signed: Option<watch::Sender<()>>,
    /// The core holds what the database may not: read it again before anything else.
    stale: bool,
}

/// The first moment of this process's clock.
pub(crate) fn start_of_time() -> Now {
    Clock {
        start: Instant::now(),
    }
    .now()
}

impl<S: Store> Actor<S> {
    pub(crate) fn new(
        core: Core,
        store: S,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let healthy = Arc::new(AtomicBool::new(true));
        let (signed, signs) = watch::channel(());
        let handle = Handle {
            requests: sender,
            healthy: Arc::clone(&healthy),
            signed: signs,
        };
        let clock = Clock {
            start: Instant::now(),
        };
        let actor = Self {
            core,
            store,
            directory,
            metrics,
            requests,
            healthy,
            clock,
            signed: Some(signed),
            stale: false,
        };
        (actor, handle)
    }

    /// Runs turns until nobody holds a [`Handle`] any more.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(Core::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            let first = tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                _ = tick.tick() => None,
            };
            let sweep = swept.elapsed() >= Core::SWEEP;
            if sweep {
                swept = Instant::now();
            }
            self.turn(first, sweep).await;
        }
    }

    async fn turn(&mut self, first: Option<Request>, sweep: bool) {
        self.core.set_now(self.clock.now());
        let is_tick = first.is_none();
        let mut delivers = Vec::new();
        if self.stale && !self.reload().await {
            // Whoever waits is told; whatever is parked stays so until the database is back.
            let error = unavailable();
            self.refuse_waiting(first, &error);
            if is_tick {
                tokio::time::sleep(RETRY).await;
            }
            return;
        }
        let mut next = first;
        while let Some(request) = next {
            delivers.push(request(&mut self.core));
            next = if delivers.len() < TURN_MAX {
                self.requests.try_recv().ok()
            } else {
                None
            };
        }
        if is_tick {
            self.core.tick();
        }
        if sweep {
            self.core.sweep();
        }
        self.core.settle();
        let changes = self.core.take_changes();
        let committed = if changes.is_empty() {
            Ok(())
        } else {
            self.store.commit(&changes).await
        };
        match committed {
            Ok(()) => {
                self.directory.note(&changes);
                self.tell_signed(&changes);
                if !changes.is_empty() {
                    self.healthy.store(true, Ordering::Relaxed);
                }
                for deliver in delivers {
                    deliver(Ok(()));
                }
                for (slot, reply) in self.core.take_replies() {
                    // The node may have hung up; it will ask again.
                    drop(slot.send(Ok(reply)));
                }
            }
            Err(error) => self.not_committed(&error, delivers).await,
        }
    }

    fn tell_signed(&mut self, changes: &[Change]) {
        if self.core.is_closing() {
            self.signed = None;
        }
        let news = changes
            .iter()
            .any(|change| matches!(change, Change::Record(_)));
        if let Some(signed) = self.signed.as_ref().filter(|_| news) {
            signed.send_replace(());
        }
    }

    /// The changes of this turn did not happen: nobody is told otherwise.
    async fn not_committed(&mut self, error: &StoreError, delivers: Vec<Deliver>) {
        self.trouble(error);
        let refusal = unavailable();
        for deliver in delivers {
            deliver(Err(&refusal));
        }
        self.refuse_syncs(&refusal);
        self.stale = true;
        self.reload().await;
    }

    fn trouble(&self, error: &StoreError) {
        tracing::error!("{error}; nothing of it was acknowledged");
        self.metrics.db_errors.fetch_add(1, Ordering::Relaxed);
        self.healthy.store(false, Ordering::Relaxed);
    }

    async fn reload(&mut self) -> bool {
        match self.store.load().await {
            Ok(model) => {
                self.core.reload(model);
                self.stale = false;
            }
            Err(error) => self.trouble(&error),
        }
        !self.stale
    }

    fn refuse_waiting(&mut self, first: Option<Request>, error: &ApiError) {
        let mut next = first;
        while let Some(request) = next {
            // It decides on a state that is void; what it changed is thrown away with the rest.
            request(&mut self.core)(Err(error));
            next = self.requests.try_recv().ok();
        }
        drop(self.core.take_changes());
        self.refuse_syncs(error);
    }

    /// Also the parked ones: an answer later would acknowledge what they reported in this turn.
    fn refuse_syncs(&mut self, error: &ApiError) {
        for slot in self.core.take_slots() {
            drop(slot.send(Err(error.clone())));
        }
    }
}

fn unavailable() -> ApiError {
    ApiError::unavailable(
        "control's database takes no writes (disk full?), so this did not happen; the operator finds the cause in control's log and at /readyz",
    )
}

#[cfg(test)]
mod tests;
