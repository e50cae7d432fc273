//! One content of a session: the handle that the roles hold, and what its parts share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use floodway_proto::record::{Head, Signed};
use floodway_proto::wire::Limits as WireLimits;
use floodway_proto::{Bitfield, InfoHash, Layout, PieceIndex, Sid, Site};
use floodway_store::Store;
use floodway_swarm::{Counters, Limits};
use tokio::sync::{mpsc, oneshot, watch};

use crate::session::{Session, WeakSession};

mod addresses;
mod blame;
mod disk;
mod driver;
mod ended;
mod growing;
mod help;
mod packet;
mod park;
mod shares;
mod site;
mod sources;
mod spec;

pub use addresses::PeerAt;
pub(crate) use driver::start;
pub use growing::Growth;
pub(crate) use growing::Known;
pub use help::Helper;
pub(crate) use packet::{Item, Packet, PeerOut, Reading};
pub use spec::{
    AddError, ContentError, ContentEvent, ContentSpec, Finished, HttpSource, Progress, ReadError,
    SourceFile, SourceShare, State, Target,
};

/// A content that a [`Session`](crate::Session) fetches or serves. Clones are the same content; its task runs until
/// [`Content::stop`] or [`Session::shutdown`](crate::Session::shutdown).
#[derive(Clone, Debug)]
pub struct Content {
    shared: Arc<Shared>,
}

/// What the handle, the driver and the connections of one content share.
pub(crate) struct Shared {
    /// Pieces and blocks, as they were known when it was added.
    begun: Layout,
    /// The same since its length is known, if it was not then.
    ended: OnceLock<Layout>,
    pub(crate) wire_limits: WireLimits,
    pub(crate) sid: Option<Sid>,
    /// Handshake names, in the order in which they became known.
    names: RwLock<Vec<InfoHash>>,
    /// The torrents among these names, for peers that know no more than the name.
    torrents: RwLock<BTreeMap<InfoHash, KnownTorrent>>,
    /// The hashes of all pieces are known.
    is_final: AtomicBool,
    /// They become known by records, which own nodes are told and asked for.
    pub(crate) growth: Option<GrowthSeen>,
    /// Pieces that are held and that others can verify.
    offered: watch::Sender<Bitfield>,
    /// `None` once the content was stopped.
    store: RwLock<Option<Arc<Store>>>,
    session: WeakSession,
    /// From connections and fetches to the driver: bounded, so that a busy driver slows them down.
    pub(crate) packets: mpsc::Sender<Packet>,
    commands: mpsc::UnboundedSender<Command>,
    pub(crate) reading: watch::Receiver<Reading>,
    progress: watch::Receiver<Progress>,
    outcome: watch::Receiver<Option<Outcome>>,
    events: Mutex<Events>,
}

/// A torrent whose info dict is given to peers that ask for it (BEP 9).
#[derive(Clone, Debug)]
pub(crate) struct KnownTorrent {
    /// The info dict's own bytes.
    pub(crate) info: Bytes,
    /// Peers may ask for hashes of its pieces (BEP 52).
    pub(crate) is_v2: bool,
}

/// What connections must know of a content that grows.
pub(crate) struct GrowthSeen {
    pub(crate) is_relay: bool,
    /// The newest record of control up to which all is known.
    head: watch::Sender<Head>,
    /// The genesis as it is sent, once somebody has asked for it: that of a folder has megabytes.
    genesis: Arc<OnceLock<Bytes>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("names", &self.names())
            .finish_non_exhaustive()
    }
}

/// How a content ended.
pub(crate) type Outcome = Result<Complete, ContentError>;

/// A content that is complete.
#[derive(Clone)]
pub(crate) struct Complete {
    finished: Finished,
    /// The file has its final name.
    named: bool,
}

/// What the handle asks of the driver.
pub(crate) enum Command {
    AddPeers(Vec<PeerAt>),
    SetSources(Vec<HttpSource>),
    SetLeases(Vec<Range<u32>>),
    SetSite(Option<Site>),
    Records(Vec<Signed>),
    SetHelpers(Vec<Helper>, Head),
    /// Looks at what is known of a growing content.
    Look(Look),
    SetLimits(Limits),
    Finish,
    Stop {
        delete_unfinished: bool,
        stopped: oneshot::Sender<()>,
    },
}

/// Looks at what is known of a content, if it grows.
type Look = Box<dyn FnOnce(Option<Known<'_>>) + Send>;

/// Those who listen, and what happened before the first of them did.
#[derive(Default)]
struct Events {
    listeners: Vec<mpsc::UnboundedSender<ContentEvent>>,
    early: Vec<ContentEvent>,
    /// Somebody has listened: nothing is kept for later any more.
    started: bool,
}

impl Events {
    /// More events than this are not kept for the first listener.
    const EARLY_LIMIT: usize = 70_000;
}

impl Shared {
    pub(crate) fn names(&self) -> Vec<InfoHash> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Peers may ask for it by this name too.
    fn add_name(self: &Arc<Self>, session: &Session, name: InfoHash) -> Result<(), AddError> {
        session.route(name, self)?;
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(&name) {
            names.push(name);
        }
        Ok(())
    }

    /// The torrent of this name, if its info dict is given to others.
    pub(crate) fn torrent(&self, name: InfoHash) -> Option<KnownTorrent> {
        let torrents = self.torrents.read();
        let torrents = torrents.unwrap_or_else(PoisonError::into_inner);
        torrents.get(&name).cloned()
    }

    /// Gives a torrent's info dict to whoever asks by this name.
    fn add_torrent(&self, name: InfoHash, torrent: KnownTorrent) {
        let torrents = self.torrents.write();
        let mut torrents = torrents.unwrap_or_else(PoisonError::into_inner);
        torrents.insert(name, torrent);
    }

    /// The newest record of control up to which all is known, if the content grows.
    pub(crate) fn head(&self) -> Head {
        let head = self.growth.as_ref().map(|growth| *growth.head.borrow());
        head.unwrap_or_default()
    }

    fn set_head(&self, head: Head) {
        if let Some(growth) = &self.growth {
            let is_new = |known: &mut Head| std::mem::replace(known, head) != head;
            growth.head.send_if_modified(is_new);
        }
    }

    /// True once the hashes of all pieces are known.
    pub(crate) fn is_final(&self) -> bool {
        self.is_final.load(Ordering::Relaxed)
    }

    /// The store, unless the content was stopped.
    pub(crate) fn store(&self) -> Option<Arc<Store>> {
        self.store
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Pieces and blocks, as far as known now.
    pub(crate) fn layout(&self) -> &Layout {
        self.ended.get().unwrap_or(&self.begun)
    }

    /// The content turned out to end here. False when that was known, or there cannot be so much of it.
    fn end(&self, length: u64) -> bool {
        if self.layout().length().is_some() {
            return false;
        }
        let is_new = match self.begun.ended(length) {
            Ok(ended) => self.ended.set(ended).is_ok(),
            Err(_) => false,
        };
        let count = self.layout().piece_count();
        // Whoever waits for what lies beyond waits in vain.
        self.offered.send_modify(|offered| offered.truncate(count));
        is_new
    }

    /// True when `pieces` has all that hold these bytes, as far as there are any.
    fn covers(&self, pieces: &Bitfield, range: &Range<u64>) -> bool {
        let layout = self.layout();
        let end = range.end.min(layout.limit());
        let first = layout.piece_at(range.start);
        let last = layout.piece_at(end.saturating_sub(1));
        match (first, last) {
            (Some(first), Some(last)) => (first.0..=last.0).all(|piece| pieces.get(piece)),
            // Beyond the end there is nothing to wait for.
            _ => true,
        }
    }

    /// The pieces are offered to others from now on, or no more.
    fn offer(&self, pieces: impl IntoIterator<Item = PieceIndex>, is_offered: bool) {
        self.offered.send_if_modified(|offered| {
            let mut changed = false;
            for PieceIndex(piece) in pieces {
                changed |= if is_offered {
                    offered.set(piece)
                } else {
                    offered.clear(piece)
                };
            }
            changed
        });
    }

    fn take_store(&self) -> Option<Arc<Store>> {
        let store = self
            .store
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Whoever waits for more pieces waits in vain.
        self.offered.send_modify(|_| ());
        store
    }

    fn tell(&self, event: ContentEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if !events.started {
            if events.early.len() < Events::EARLY_LIMIT {
                events.early.push(event);
            }
            return;
        }
        events
            .listeners
            .retain(|listener| listener.send(event.clone()).is_ok());
    }
}

impl Content {
    /// How far it is: changes a few times a second, and at every change of [`State`].
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.clone()
    }

    /// Waits until the file is complete: finally named, if that was not to wait.
    ///
    /// # Errors
    /// [`ContentError`] when it will never be: stopped, or a disk that refuses for good.
    pub async fn done(&self) -> Result<Finished, ContentError> {
        self.ends(|_| true).await
    }

    /// Waits until the file has its final name, after [`Content::finish`] where that is needed.
    ///
    /// # Errors
    /// As [`Content::done`].
    pub async fn named(&self) -> Result<Finished, ContentError> {
        self.ends(|complete| complete.named).await
    }

    async fn ends(&self, is: impl Fn(&Complete) -> bool) -> Result<Finished, ContentError> {
        let is = |outcome: &Option<Outcome>| match outcome {
            Some(Ok(complete)) => is(complete),
            Some(Err(_)) => true,
            None => false,
        };
        let mut outcome = self.shared.outcome.clone();
        let ended = outcome.wait_for(is).await;
        match ended.as_deref() {
            Ok(Some(outcome)) => outcome.clone().map(|complete| complete.finished),
            Ok(None) | Err(_) => Err(ContentError::Stopped),
        }
    }

    /// What happens from now on; the first listener also gets what happened before.
    pub fn events(&self) -> mpsc::UnboundedReceiver<ContentEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut events = self
            .shared
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        events.started = true;
        for event in std::mem::take(&mut events.early) {
            // The receiver is in our hands.
            let _ = sender.send(event);
        }
        events.listeners.push(sender);
        receiver
    }

    /// Peers may be found at these addresses.
    pub fn add_peers(&self, peers: impl IntoIterator<Item = impl Into<PeerAt>>) {
        let peers = peers.into_iter().map(Into::into).collect();
        self.command(Command::AddPeers(peers));
    }

    /// These are all HTTP sources from now on. Requests to those that stay go on.
    pub fn set_sources(&self, sources: Vec<HttpSource>) {
        self.command(Command::SetSources(sources));
    }

    /// This node is to fetch these pieces from its origin for everybody: the whole list.
    pub fn set_leases(&self, leases: Vec<Range<u32>>) {
        self.command(Command::SetLeases(leases));
    }

    /// Where this node stands, and what it is to bring there from other sites; `None` where sites play no role.
    pub fn set_site(&self, site: Option<Site>) {
        self.command(Command::SetSite(site));
    }

    /// Peers may ask for it by this name too.
    ///
    /// # Errors
    /// [`AddError`] when another content has the name, or the session is shutting down.
    pub fn add_name(&self, name: InfoHash) -> Result<(), AddError> {
        let session = self.shared.session.upgrade().ok_or(AddError::Closed)?;
        self.shared.add_name(&session, name)
    }

    /// True when it answers by the name of a v2 torrent: once it has its final names, and knows all hashes.
    pub fn answers_v2(&self) -> bool {
        let torrents = self.shared.torrents.read();
        let torrents = torrents.unwrap_or_else(PoisonError::into_inner);
        torrents.values().any(|torrent| torrent.is_v2)
    }

    /// The newest record of control up to which all of a growing content is known; `None` for others.
    pub fn head(&self) -> Option<Head> {
        self.shared.growth.as_ref().map(|_| self.shared.head())
    }

    /// Records about a growing content, from control or from disk. Each is verified, and passed on if it is new.
    pub fn add_records(&self, records: Vec<Signed>) {
        self.command(Command::Records(records));
    }

    /// These serve the signed side of a growing content over HTTP, and are asked, the first of them first, for what neighbours
    /// do not bring. The whole list. `newest` is the newest record that there is, as control said.
    pub fn set_helpers(&self, helpers: Vec<Helper>, newest: Head) {
        self.command(Command::SetHelpers(helpers, newest));
    }

    /// Looks at what is known of a growing content; `None` for others, and once it was stopped.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(Known<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (send, seen) = oneshot::channel();
        self.command(Command::Look(Box::new(move |known| {
            // Who asked may have gone.
            let _ = send.send(known.map(look));
        })));
        seen.await.ok().flatten()
    }

    /// The encoded genesis of a growing content; `None` for others, and once it was stopped.
    pub(crate) async fn genesis(&self) -> Option<Bytes> {
        let encoded = Arc::clone(&self.shared.growth.as_ref()?.genesis);
        self.look(move |known| {
            let encode = || known.manifest.genesis().encode().into();
            encoded.get_or_init(encode).clone()
        })
        .await
    }

    /// Changes when more records of a growing content are known; `None` for others.
    pub(crate) fn heads(&self) -> Option<watch::Receiver<Head>> {
        let growth = self.shared.growth.as_ref();
        growth.map(|growth| growth.head.subscribe())
    }

    /// New limits for this content.
    pub fn set_limits(&self, limits: Limits) {
        self.command(Command::SetLimits(limits));
    }

    /// Gives the file its final name as soon as it is complete, where the target was told to wait for this.
    pub fn finish(&self) {
        self.command(Command::Finish);
    }

    /// Reads bytes of held pieces. Waits for nothing but the disk.
    ///
    /// # Errors
    /// [`ReadError`] when not all of them are held, or the disk refused.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, ReadError> {
        disk::read(&self.shared, range).await
    }

    /// Waits until all pieces that hold these bytes are held, and verified by what others verify them by too. Of a content whose
    /// length was not known at first it also returns when the range turns out to lie beyond the end, or some of it.
    ///
    /// # Errors
    /// [`ReadError::Stopped`] when they will never be; [`ReadError::NotHeld`] when the content has no such bytes.
    pub async fn available(&self, range: Range<u64>) -> Result<(), ReadError> {
        let shared = &self.shared;
        if range.start > range.end || range.end > shared.begun.limit() {
            return Err(ReadError::NotHeld(range));
        }
        let mut offered = shared.offered.subscribe();
        let is_there =
            |offered: &Bitfield| shared.store().is_none() || shared.covers(offered, &range);
        // The sender is in our hands.
        let _ = offered.wait_for(is_there).await;
        shared.store().map(drop).ok_or(ReadError::Stopped)
    }

    /// True when [`available`](Self::available) would not wait.
    pub fn is_available(&self, range: Range<u64>) -> bool {
        self.shared.covers(&self.shared.offered.borrow(), &range)
    }

    /// True when all pieces that hold these bytes are held.
    pub fn has(&self, range: Range<u64>) -> bool {
        disk::has(&self.shared, &range)
    }

    /// The content's length in bytes, once known.
    pub fn length(&self) -> Option<u64> {
        self.shared.layout().length()
    }

    /// Pieces and blocks.
    pub fn layout(&self) -> &Layout {
        self.shared.layout()
    }

    /// Bytes by source, as of the last change of [`Content::progress`].
    pub fn counters(&self) -> Counters {
        self.shared.progress.borrow().counters
    }

    /// Ends it: bytes stop at once, and the journal is flushed, or what is unfinished deleted.
    /// A finished file stays in any case.
    pub async fn stop(&self, delete_unfinished: bool) {
        let (stopped, wait) = oneshot::channel();
        self.command(Command::Stop {
            delete_unfinished,
            stopped,
        });
        // An error means that the driver has ended before.
        let _ = wait.await;
    }

    /// True when this is the handle of `shared`.
    pub(crate) fn is(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    fn command(&self, command: Command) {
        // A driver that has ended needs no commands.
        let _ = self.shared.commands.send(command);
    }
}
