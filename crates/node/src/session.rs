//! What all contents of one process share: the peer listener, the origin client, limits and counters.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use floodway_origin::{Guard, Origin, SetupError};
use floodway_proto::{ByteCount, InfoHash, NodeId, PeerName, Time};
use floodway_store::Spec;
use floodway_swarm::{Limits, PeerKey};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::content::{self, AddError, Content, ContentSpec, Shared};
use crate::fetch::Hosts;
use crate::metrics::Metrics;
use crate::peer;

mod pool;
mod rate;

pub(crate) use pool::{Pool, SendPool, Size};
pub(crate) use rate::RateGate;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;
/// Connections being opened at once, over all contents.
const DIALS_MAX: usize = 32;
/// Pause after a failed accept: out of file handles, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a [`Session`] behaves.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// Where peers may connect; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// What others are told instead of the bound address.
    pub advertise: Option<SocketAddr>,
    /// This node.
    pub node: NodeId,
    /// Peers connected at once, over all contents. Default: 200.
    pub peers_max: usize,
    /// Upper bounds for all contents together.
    pub limits: Limits,
    /// Bytes of received blocks kept in memory per content; beyond it sockets are not read. Default: 16 MiB.
    pub buffer_limit: ByteCount,
    /// How origins and relays are read.
    pub origin: floodway_origin::Settings,
}

impl SessionConfig {
    /// The defaults.
    pub fn new(listen: SocketAddr, node: NodeId) -> Self {
        Self {
            listen,
            advertise: None,
            node,
            peers_max: 200,
            limits: Limits::default(),
            buffer_limit: Spec::BUFFER_LIMIT,
            origin: floodway_origin::Settings::default(),
        }
    }
}

/// Why a session could not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer address cannot be used.
    #[error(
        "cannot listen for peers on {addr}: {source}; choose another address or port with --listen"
    )]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The origin client could not be made.
    #[error(transparent)]
    Origin(#[from] SetupError),
}

/// One per process: accepts peers for all its contents. Clones are the same session.
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

/// A [`Session`] that a content refers to without keeping it alive.
#[derive(Clone, Debug)]
pub(crate) struct WeakSession(Weak<Inner>);

#[derive(Debug)]
struct Inner {
    config: SessionConfig,
    started: Instant,
    name: PeerName,
    bound: SocketAddr,
    origin: Origin,
    guards: Guards,
    metrics: Metrics,
    pool: Pool,
    send_pool: SendPool,
    hosts: Hosts,
    down: RateGate,
    up: RateGate,
    routes: Mutex<HashMap<InfoHash, Arc<Shared>>>,
    contents: Mutex<Vec<Content>>,
    /// Addresses at which we found ourselves.
    selves: Mutex<HashSet<SocketAddr>>,
    peers: Arc<Semaphore>,
    dials: Semaphore,
    peer_keys: AtomicU64,
    closing: CancellationToken,
}

/// Permission to read, by what is read.
#[derive(Debug)]
struct Guards {
    origin: Guard,
    relay: Guard,
    tracker: Guard,
    manifest: Guard,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Binds the peer listener and begins to accept.
    ///
    /// # Errors
    /// [`SessionError`] when the address cannot be used, or TLS not be set up.
    #[expect(
        clippy::unused_async,
        reason = "it needs the runtime, and says so by being async"
    )]
    pub async fn start(config: SessionConfig) -> Result<Self, SessionError> {
        let fail = |source| SessionError::Listen {
            addr: config.listen,
            source,
        };
        let listener = listen(config.listen).map_err(fail)?;
        let bound = listener.local_addr().map_err(fail)?;
        let origin = Origin::new(config.origin.clone())?;
        let guards = Guards {
            origin: Guard::unmetered(),
            relay: Guard::unmetered(),
            tracker: Guard::unmetered(),
            manifest: Guard::unmetered(),
        };
        let inner = Inner {
            started: Instant::now(),
            name: peer_name(),
            bound,
            origin,
            metrics: Metrics::new(guards.origin.clone(), guards.relay.clone()),
            guards,
            pool: Pool::default(),
            send_pool: SendPool::default(),
            hosts: Hosts::default(),
            down: RateGate::new(config.limits.down),
            up: RateGate::new(config.limits.up),
            routes: Mutex::default(),
            contents: Mutex::default(),
            selves: Mutex::default(),
            peers: Arc::new(Semaphore::new(config.peers_max)),
            dials: Semaphore::new(DIALS_MAX),
            peer_keys: AtomicU64::new(1),
            closing: CancellationToken::new(),
            config,
        };
        let session = Self {
            inner: Arc::new(inner),
        };
        tokio::spawn(accept(session.clone(), listener));
        Ok(session)
    }

    /// Where others reach this session's listener: the advertised address, or the bound one.
    pub fn peer_addr(&self) -> SocketAddr {
        self.inner.config.advertise.unwrap_or(self.inner.bound)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.config.node
    }

    /// The reader of origins and relays.
    pub fn origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// Permission to read origins, for probes: what it reads is in the metrics.
    pub fn origin_guard(&self) -> &Guard {
        &self.inner.guards.origin
    }

    /// What this process has done.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Begins to fetch or serve a content. What is on disk is examined before this returns, but for files that must
    /// be hashed first: those are in [`State::Checking`](crate::State::Checking) meanwhile.
    ///
    /// # Errors
    /// [`AddError`] when the store cannot be opened, or the content is here already.
    pub async fn add(&self, spec: ContentSpec) -> Result<Content, AddError> {
        if self.inner.closing.is_cancelled() {
            return Err(AddError::Closed);
        }
        let content = content::start(self, spec).await?;
        lock(&self.inner.contents).push(content.clone());
        Ok(content)
    }

    /// New limits for all contents together.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.down.set_rate(limits.down);
        self.inner.up.set_rate(limits.up);
    }

    /// Ends everything: peers are hung up on, trackers told, journals flushed.
    pub async fn shutdown(self) {
        self.inner.closing.cancel();
        let contents = std::mem::take(&mut *lock(&self.inner.contents));
        let stops = contents.iter().map(|content| content.stop(false));
        futures_util::future::join_all(stops).await;
    }

    pub(crate) fn downgrade(&self) -> WeakSession {
        WeakSession(Arc::downgrade(&self.inner))
    }

    /// Time as the engine counts it.
    pub(crate) fn now(&self) -> Time {
        let nanos = self.inner.started.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The instant of an engine time.
    pub(crate) fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.inner.started + Duration::from_nanos(time.as_nanos())).into()
    }

    /// How this process introduces itself to peers.
    pub(crate) fn name(&self) -> PeerName {
        self.inner.name
    }

    pub(crate) fn buffer_limit(&self) -> ByteCount {
        self.inner.config.buffer_limit
    }

    pub(crate) fn relay_guard(&self) -> &Guard {
        &self.inner.guards.relay
    }

    pub(crate) fn tracker_guard(&self) -> &Guard {
        &self.inner.guards.tracker
    }

    pub(crate) fn manifest_guard(&self) -> &Guard {
        &self.inner.guards.manifest
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    pub(crate) fn send_pool(&self) -> &SendPool {
        &self.inner.send_pool
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.inner.hosts
    }

    pub(crate) fn down(&self) -> &RateGate {
        &self.inner.down
    }

    pub(crate) fn up(&self) -> &RateGate {
        &self.inner.up
    }

    pub(crate) fn peers(&self) -> &Arc<Semaphore> {
        &self.inner.peers
    }

    pub(crate) fn dials(&self) -> &Semaphore {
        &self.inner.dials
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.inner.closing
    }

    pub(crate) fn next_peer_key(&self) -> PeerKey {
        PeerKey(self.inner.peer_keys.fetch_add(1, Ordering::Relaxed))
    }

    /// True when connecting there would reach this session.
    pub(crate) fn is_self(&self, addr: SocketAddr) -> bool {
        addr == self.inner.bound
            || Some(addr) == self.inner.config.advertise
            || lock(&self.inner.selves).contains(&addr)
    }

    /// This session answered at `addr`.
    pub(crate) fn found_self(&self, addr: SocketAddr) {
        lock(&self.inner.selves).insert(addr);
    }

    /// The content that a peer names.
    pub(crate) fn find(&self, name: InfoHash) -> Option<Arc<Shared>> {
        lock(&self.inner.routes).get(&name).cloned()
    }

    /// Lets peers ask for `content` by `name`.
    pub(crate) fn route(&self, name: InfoHash, content: &Arc<Shared>) -> Result<(), AddError> {
        let mut routes = lock(&self.inner.routes);
        match routes.get(&name) {
            Some(other) if !Arc::ptr_eq(other, content) => return Err(AddError::NameTaken(name)),
            Some(_) => {}
            None => {
                routes.insert(name, Arc::clone(content));
            }
        }
        Ok(())
    }

    /// Forgets a content that was stopped.
    pub(crate) fn forget(&self, content: &Arc<Shared>) {
        lock(&self.inner.routes).retain(|_, other| !Arc::ptr_eq(other, content));
        lock(&self.inner.contents).retain(|other| !other.is(content));
    }
}

impl WeakSession {
    pub(crate) fn upgrade(&self) -> Option<Session> {
        self.0.upgrade().map(|inner| Session { inner })
    }
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// A new name for this process start, in the style of BEP 20.
fn peer_name() -> PeerName {
    let mut name = *b"-FW0100-............";
    for byte in &mut name[8..] {
        *byte = u8::try_from(fastrand::alphanumeric()).unwrap_or(b'x');
    }
    PeerName(name)
}

async fn accept(session: Session, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = session.closing().cancelled() => return,
        };
        match accepted {
            Ok((stream, addr)) => {
                tokio::spawn(peer::inbound(session.clone(), stream, addr));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
