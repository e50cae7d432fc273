//! The task of one content: it owns the engine, feeds it what happens, and does what it says.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use floodway_proto::digest::PieceDigest;
use floodway_proto::wire::Limits as WireLimits;
use floodway_proto::{Bitfield, InfoHash, PIECES_WHILE_UNKNOWN, PieceIndex, Sha256, Time};
use floodway_store::{Event as StoreEvent, FileStamp, Hashes, Opened, Store};
use floodway_swarm::answers::{Answer, Answers};
use floodway_swarm::gossip::GossipInput;
use floodway_swarm::{Config, Input, Output, PeerKey, Sender, Start, Swarm};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::addresses::StockNames;
use super::blame::FailedTries;
use super::disk::Trouble;
use super::growing::Growing;
use super::help::Help;
use super::park::Park;
use super::shares::Shares;
use super::sources::Sources;
use super::{
    AddError, Command, Complete, Content, ContentError, ContentEvent, ContentSpec, Events,
    Finished, GrowthSeen, HttpSource, Item, KnownTorrent, Outcome, Packet, PeerAt, PeerOut,
    Progress, Reading, Shared, State, Target, disk,
};
use crate::announce::Announcer;
use crate::peer::site_message;
use crate::session::Session;

/// Packets that may wait for the driver: each has up to 256 KiB of blocks.
const PACKETS_WAITING: usize = 64;
/// Packets handled before the engine's outputs are looked at.
const PACKETS_AT_ONCE: usize = 32;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// How long peers may take to answer before HTTP steps in, when nobody waits.
const GRACE_BACKGROUND: Duration = Duration::from_secs(30);

pub(super) struct Driver {
    pub(super) session: Session,
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<Store>,
    pub(super) swarm: Swarm,
    pub(super) park: Park,
    pub(super) tries: FailedTries,
    /// What is known of hashes that become known while they are fetched.
    pub(super) growing: Option<Growing>,
    pub(super) help: Help,
    answers: Answers,
    pub(super) sources: Sources,
    peers: HashMap<PeerKey, Peer>,
    pub(super) shares: Shares,
    stock: StockNames,
    /// Peers with something in [`Peer::pending`].
    talked_to: Vec<PeerKey>,
    /// Digests of good pieces until the engine has accepted them.
    pub(super) digests: HashMap<PieceIndex, PieceDigest>,
    pub(super) trouble: Option<Trouble>,
    /// When the disk is to be looked at again.
    pub(super) disk_alarm: Option<Time>,
    pub(super) state: State,
    /// The store gives the file its final name when it is complete.
    pub(super) rename: bool,
    pub(super) path: PathBuf,
    /// The file is finished, and the store takes no more blocks.
    pub(super) read_only: bool,
    pub(super) reading: watch::Sender<Reading>,
    progress: watch::Sender<Progress>,
    outcome: watch::Sender<Option<Outcome>>,
    /// When the engine wants to be told the time.
    wake: Option<Time>,
    progress_at: Time,
    /// Something happened since progress was told.
    changed: bool,
    /// Bytes of blocks that came, whatever became of them.
    received: u64,
    /// Received bytes that never reached the engine.
    wasted: u64,
    inbox: Inbox,
    /// Everything that must be over before the content is.
    tasks: TaskTracker,
    announcing: CancellationToken,
    found: mpsc::UnboundedSender<Vec<SocketAddr>>,
}

/// What comes in.
struct Inbox {
    commands: mpsc::UnboundedReceiver<Command>,
    disk: mpsc::UnboundedReceiver<StoreEvent>,
    packets: mpsc::Receiver<Packet>,
    found: mpsc::UnboundedReceiver<Vec<SocketAddr>>,
}

struct Peer {
    out: mpsc::UnboundedSender<Vec<PeerOut>>,
    pending: Vec<PeerOut>,
    /// Ends the connection when the peer is dropped.
    _hang_up: DropGuard,
}

/// The handle asked for the end.
struct Stop {
    delete_unfinished: bool,
    stopped: Option<oneshot::Sender<()>>,
}

/// Opens the store and starts the task.
pub(crate) async fn start(session: &Session, mut spec: ContentSpec) -> Result<Content, AddError> {
    if let Some(taken) = spec
        .names
        .iter()
        .find(|name| session.find(**name).is_some())
    {
        return Err(AddError::NameTaken(*taken));
    }
    let (disk, disk_inbox) = mpsc::unbounded_channel();
    let (store, opened) = disk::open(session, &spec, disk).await?;
    let store = Arc::new(store);
    let (commands, commands_inbox) = mpsc::unbounded_channel();
    let (packets, packets_inbox) = mpsc::channel(PACKETS_WAITING);
    let (found, found_inbox) = mpsc::unbounded_channel();
    let length = spec.layout.length();
    let (progress, progress_seen) = watch::channel(Progress::start(length));
    let (outcome, outcome_seen) = watch::channel(None);
    let (reading, reading_seen) = watch::channel(Reading::ALL);
    // What is known of a growing content's hashes comes later.
    let offered = if spec.verifiable {
        opened.have.clone()
    } else {
        Bitfield::new(spec.layout.piece_count())
    };
    let shared = Arc::new(Shared {
        begun: spec.layout.clone(),
        ended: OnceLock::new(),
        wire_limits: WireLimits::for_pieces(pieces_in_lists(&spec)),
        sid: spec.sid,
        is_final: AtomicBool::new(spec.verifiable),
        growth: spec.growth.as_ref().map(|growth| GrowthSeen {
            is_relay: growth.is_relay,
            head: watch::channel(growth.manifest.complete_to()).0,
            genesis: Arc::default(),
        }),
        names: RwLock::new(spec.names.clone()),
        torrents: RwLock::new(torrents(&spec)),
        offered: watch::channel(offered).0,
        store: RwLock::new(Some(Arc::clone(&store))),
        session: session.downgrade(),
        packets,
        commands,
        reading: reading_seen,
        progress: progress_seen,
        outcome: outcome_seen,
        events: Mutex::new(Events::default()),
    });
    for name in &spec.names {
        if let Err(error) = session.route(*name, &shared) {
            session.forget(&shared);
            disk::close(store, false).await;
            return Err(error);
        }
    }
    let driver = Driver {
        session: session.clone(),
        shared: Arc::clone(&shared),
        swarm: swarm(session, &spec, &opened),
        store,
        park: Park::default(),
        tries: FailedTries::default(),
        growing: growing(session, &mut spec, &opened),
        help: Help::default(),
        answers: Answers::new(&spec.layout),
        sources: Sources::default(),
        peers: HashMap::new(),
        shares: Shares::default(),
        stock: StockNames::default(),
        talked_to: Vec::new(),
        digests: HashMap::new(),
        trouble: None,
        disk_alarm: None,
        state: State::Checking,
        rename: matches!(
            spec.target,
            Target::File {
                rename_when_done: true,
                ..
            }
        ),
        path: spec.target.path().clone(),
        read_only: false,
        reading,
        progress,
        outcome,
        wake: None,
        progress_at: Time::ZERO,
        changed: true,
        received: 0,
        wasted: 0,
        inbox: Inbox {
            commands: commands_inbox,
            disk: disk_inbox,
            packets: packets_inbox,
            found: found_inbox,
        },
        tasks: TaskTracker::new(),
        announcing: CancellationToken::new(),
        found,
    };
    tokio::spawn(driver.supervise(spec, opened));
    Ok(Content { shared })
}

fn swarm(session: &Session, spec: &ContentSpec, opened: &Opened) -> Swarm {
    let mut config = Config::new(session.name());
    config.prefer = spec.prefer;
    config.order = spec.order;
    config.limits = spec.limits;
    if !spec.foreground {
        config.grace = GRACE_BACKGROUND;
    }
    let start = Start {
        have: opened.have.clone(),
        partial: opened.partial.clone(),
        verifiable: spec.verifiable,
        growing: spec.growth.is_some(),
        open_ended: is_open_ended(spec),
    };
    Swarm::new(config, spec.layout.clone(), start, fastrand::u64(..))
}

/// The length was not known when the content began: its nodes learn it one after the other.
fn is_open_ended(spec: &ContentSpec) -> bool {
    let genesis = spec.growth.as_ref().map(|growth| growth.manifest.genesis());
    genesis.is_some_and(|genesis| genesis.length().is_none())
}

/// How many pieces a peer's list may be of: one that does not know the end counts more.
fn pieces_in_lists(spec: &ContentSpec) -> u32 {
    let most = if is_open_ended(spec) {
        PIECES_WHILE_UNKNOWN
    } else {
        0
    };
    spec.layout.piece_count().max(most)
}

/// The torrents whose info dict is known from the start.
fn torrents(spec: &ContentSpec) -> BTreeMap<InfoHash, KnownTorrent> {
    let info = spec.info.iter();
    let torrents = info.map(|(name, info)| {
        let torrent = KnownTorrent {
            info: info.clone(),
            is_v2: false,
        };
        (*name, torrent)
    });
    torrents.collect()
}

/// Takes what is known of a growing content's hashes out of the spec.
fn growing(session: &Session, spec: &mut ContentSpec, opened: &Opened) -> Option<Growing> {
    let growth = spec.growth.take()?;
    let adopts = spec.adopts.is_some();
    let mut growing = Growing::new(session.now(), growth, spec.verifiable, adopts);
    if let Hashes::V1(sha1s) = &spec.hashes {
        growing.has_sha1s(sha1s);
    }
    for (piece, digest) in &opened.digests {
        growing.holds(*piece, digest, &spec.layout);
    }
    Some(growing)
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic".into())
}

impl Driver {
    /// Runs until the end, however it comes, and cleans up.
    async fn supervise(mut self, spec: ContentSpec, opened: Opened) {
        self.session.metrics().contents.add(1);
        let run = AssertUnwindSafe(self.run(spec, opened))
            .catch_unwind()
            .await;
        let stop = run.unwrap_or_else(|panic| {
            let text = panic_text(&*panic);
            tracing::error!(text, "a defect broke this content");
            self.fail(ContentError::Defect(text));
            Stop {
                delete_unfinished: false,
                stopped: None,
            }
        });
        self.end(stop).await;
    }

    async fn run(&mut self, spec: ContentSpec, opened: Opened) -> Stop {
        self.begin(spec, opened);
        loop {
            self.settle();
            let alarm = self.alarm();
            let session = self.session.clone();
            tokio::select! {
                biased;
                Some(command) = self.inbox.commands.recv() => {
                    if let Some(stop) = self.command(command) {
                        return stop;
                    }
                }
                Some(event) = self.inbox.disk.recv() => self.disk_event(event),
                Some(packet) = self.inbox.packets.recv() => self.packet(packet),
                Some(peers) = self.inbox.found.recv() => self.addresses_found(peers),
                () = sleep_until(&session, alarm) => {
                    self.gossip(GossipInput::Tick);
                    self.input(Input::Tick);
                }
            }
            self.take_waiting();
        }
    }

    /// Takes what else has come, so that the engine is asked once for all of it.
    fn take_waiting(&mut self) {
        while let Ok(event) = self.inbox.disk.try_recv() {
            self.disk_event(event);
        }
        for _ in 0..PACKETS_AT_ONCE {
            let Ok(packet) = self.inbox.packets.try_recv() else {
                break;
            };
            self.packet(packet);
        }
    }

    fn begin(&mut self, spec: ContentSpec, opened: Opened) {
        if let Some(note) = opened.note {
            self.tell(ContentEvent::Note(note));
        }
        for (piece, digest) in opened.digests {
            self.tell(ContentEvent::PieceDone { piece, digest });
        }
        // Whoever sees that it is complete sees by which names it answers.
        self.begin_growing();
        if matches!(spec.target, Target::Seed { .. }) {
            // Such a store only reads: it has nothing to tell.
            self.read_only = true;
            self.succeed(self.path.clone(), None, None, true);
        } else if opened.have.is_full() {
            self.set_state(State::Finishing);
        } else {
            self.set_state(State::Fetching);
        }
        if self.rename && !self.growing.as_ref().is_some_and(Growing::is_open) {
            self.store.finish();
        }
        self.set_sources(spec.sources);
        self.addresses_found(spec.peers);
        let Some(&name) = spec.names.first() else {
            return;
        };
        for tracker in spec.trackers {
            let announcer = Announcer {
                session: self.session.clone(),
                tracker,
                name,
                progress: self.shared.progress.clone(),
                packets: self.shared.packets.clone(),
                found: self.found.clone(),
                stop: self.announcing.clone(),
            };
            self.tasks.spawn(announcer.run());
        }
    }

    /// Feeds the engine one thing.
    pub(super) fn input(&mut self, input: Input) {
        self.changed = true;
        self.swarm.handle_input(self.session.now(), input);
    }

    fn packet(&mut self, packet: Packet) {
        match packet {
            Packet::PeerUp {
                peer,
                addr,
                name,
                inbound,
                fast,
                out,
                hang_up,
            } => {
                let hang_up = hang_up.drop_guard();
                self.shares.peer_up(peer, name, addr, inbound);
                self.peers.insert(
                    peer,
                    Peer {
                        out,
                        pending: Vec::new(),
                        _hang_up: hang_up,
                    },
                );
                self.input(Input::PeerUp {
                    peer,
                    addr,
                    name,
                    inbound,
                    fast,
                });
            }
            Packet::DialFailed(addr) => self.input(Input::DialFailed { addr }),
            Packet::PeerDown(peer) => {
                if self.forget_peer(peer) {
                    self.input(Input::PeerDown { peer });
                }
            }
            Packet::Items {
                from,
                source,
                items,
            } => {
                if self.is_heard(from) {
                    self.count_share(from, source.as_deref(), &items);
                    self.items(from, items);
                }
            }
            Packet::BodyEnded {
                request,
                source,
                length,
                tail,
            } => self.body_ended(request, &source, length, tail),
            Packet::HttpEnd {
                request,
                end,
                error,
                broke_off,
            } => self.http_end(request, end, error, broke_off),
            Packet::Unreadable(piece) => self.unreadable(piece),
            Packet::Helped(helped) => self.helped(helped),
            Packet::TrackerFailed { tracker, error } => {
                self.tell(ContentEvent::TrackerFailed { tracker, error });
            }
        }
    }

    /// Drops the connection. False when that has happened before.
    fn forget_peer(&mut self, peer: PeerKey) -> bool {
        self.gossip(GossipInput::NeighbourDown { peer });
        self.answers.forget(peer);
        self.shares.peer_down(peer);
        self.peers.remove(&peer).is_some()
    }

    /// Not a peer whose connection was dropped meanwhile.
    fn is_heard(&self, from: Sender) -> bool {
        !matches!(from, Sender::Peer(peer) if !self.peers.contains_key(&peer))
    }

    pub(super) fn count_share(
        &mut self,
        from: Sender,
        source: Option<&HttpSource>,
        items: &[Item],
    ) {
        let bytes = items.iter().map(|item| match item {
            Item::Block { data, .. } => data.len() as u64,
            _ => 0,
        });
        let bytes: u64 = bytes.sum();
        match (from, source) {
            _ if bytes == 0 => {}
            (_, Some(source)) => self.shares.by_http(&source.url, source.class, bytes),
            (Sender::Peer(peer), None) => self.count_peer(peer, bytes),
            (Sender::Http(_), None) => {}
        }
    }

    pub(super) fn items(&mut self, from: Sender, items: Vec<Item>) {
        let end = match from {
            Sender::Peer(_) => u64::MAX,
            Sender::Http(request) => self.sources.received(request),
        };
        let now = self.session.now();
        self.changed = true;
        for item in items {
            match item {
                Item::Input(input) => {
                    self.look_at(&input);
                    self.swarm.handle_input(now, input);
                }
                Item::Block { block, data }
                    if self.shared.layout().block_bytes(block).end > end =>
                {
                    // Others have it already: the request was shortened while this was on its way.
                    self.wasted += data.len() as u64;
                }
                Item::Block { block, data } if !self.exists(block, data.len()) => {
                    self.wasted += data.len() as u64;
                }
                Item::Neighbour { head, is_relay } => {
                    self.said(from, |peer| GossipInput::NeighbourUp {
                        peer,
                        head,
                        is_relay,
                    });
                }
                Item::Manifest(message) => {
                    self.said(from, |peer| GossipInput::Message { peer, message });
                }
                Item::MetadataRequest { info, piece } => {
                    if let Sender::Peer(peer) = from {
                        let answer = self.answers.metadata(now, peer, info.as_ref(), piece);
                        self.answer(peer, answer, PeerOut::Metadata);
                    }
                }
                Item::HashRequest { is_v2, request } => {
                    if let Sender::Peer(peer) = from {
                        let known = self.growing.as_ref().filter(|_| is_v2);
                        let known = known.map(Growing::manifest);
                        let answer = self.answers.hashes(now, peer, known, &request);
                        self.answer(peer, answer, PeerOut::Hashes);
                    }
                }
                Item::Block { block, data } => {
                    if self.received == 0 {
                        self.tell(ContentEvent::FirstByte);
                    }
                    self.received += data.len() as u64;
                    let buf = self.park.put(data);
                    self.swarm
                        .handle_input(now, Input::Block { from, block, buf });
                }
            }
        }
    }

    fn said(&mut self, from: Sender, input: impl FnOnce(PeerKey) -> GossipInput) {
        if let Sender::Peer(peer) = from {
            self.gossip(input(peer));
        }
    }

    fn answer<T>(&mut self, peer: PeerKey, answer: Answer<T>, out: impl FnOnce(T) -> PeerOut) {
        match answer {
            Answer::Send(answer) => self.order(peer, out(answer)),
            Answer::Flood => {
                tracing::warn!(?peer, "a peer asks for the torrent again and again");
                self.input(Input::Banish { peer });
            }
        }
    }

    fn command(&mut self, command: Command) -> Option<Stop> {
        match command {
            Command::AddPeers(peers) => self.peers_found(peers),
            Command::SetSources(sources) => self.set_sources(sources),
            Command::SetLeases(leases) => self.input(Input::Leases(leases)),
            Command::SetSite(site) => self.set_site(site),
            Command::Records(records) => self.records(records),
            Command::SetHelpers(helpers, newest) => self.set_helpers(helpers, newest),
            Command::Look(look) => look(self.growing.as_ref().map(Growing::known)),
            Command::SetLimits(limits) => self.input(Input::Limits(limits)),
            Command::Finish => {
                self.rename = true;
                if matches!(*self.outcome.borrow(), Some(Err(_))) {
                    // It is tried anew: whoever waits now learns how that ends.
                    self.outcome.send_replace(None);
                    self.set_state(State::Finishing);
                }
                if !self.growing.as_ref().is_some_and(Growing::is_open) {
                    self.store.finish();
                }
            }
            Command::Stop {
                delete_unfinished,
                stopped,
            } => {
                return Some(Stop {
                    delete_unfinished,
                    stopped: Some(stopped),
                });
            }
        }
        None
    }

    fn addresses_found(&mut self, addrs: Vec<SocketAddr>) {
        self.peers_found(addrs.into_iter().map(PeerAt::from).collect());
    }

    fn peers_found(&mut self, peers: Vec<PeerAt>) {
        let names = self.shared.names();
        // Without a name there is nothing to ask peers for.
        if names.is_empty() {
            return;
        }
        let mut peers = self.stock.found(peers, &names);
        peers.retain(|addr| !self.session.is_self(*addr));
        if !peers.is_empty() {
            self.input(Input::PeersFound(peers));
        }
    }

    /// Does everything that the engine wants now.
    fn settle(&mut self) {
        self.look_at_disk();
        self.settle_gossip();
        loop {
            match self.swarm.poll_output() {
                Output::WakeAt(at) => {
                    self.wake = at;
                    break;
                }
                output => self.apply(output),
            }
        }
        for key in std::mem::take(&mut self.talked_to) {
            if let Some(peer) = self.peers.get_mut(&key) {
                // A connection that is ending reports it itself.
                let _ = peer.out.send(std::mem::take(&mut peer.pending));
            }
        }
        let now = self.session.now();
        if self.changed && now >= self.progress_at {
            self.publish(now);
        }
    }

    fn apply(&mut self, output: Output) {
        match output {
            Output::Dial { addr } => {
                let (session, content) = (self.session.clone(), Arc::clone(&self.shared));
                let names = self.stock.get(addr).map(|name| vec![name]);
                let names = names.unwrap_or_else(|| self.shared.names());
                tokio::spawn(crate::peer::dial(session, content, addr, names));
            }
            Output::HangUp { peer, reason } => {
                tracing::debug!(?peer, ?reason, "hanging up");
                self.forget_peer(peer);
            }
            Output::Send { peer, message } => self.order(peer, PeerOut::Message(message)),
            Output::Site { peer, site } => {
                let message = site_message(&self.session, &self.shared, site);
                self.order(peer, PeerOut::Message(message));
            }
            Output::Claims { peer, claims } => self.order(peer, PeerOut::Claims(claims)),
            Output::SendBlock { peer, block, zeros } => {
                self.order(peer, PeerOut::Block { block, zeros });
            }
            Output::Store { block, buf } => {
                if let Some(data) = self.park.take(buf) {
                    self.store.put(block, data);
                }
            }
            Output::Discard { buf } => drop(self.park.take(buf)),
            Output::HttpGet {
                request,
                source,
                bytes,
            } => self.http_get(request, source, bytes),
            Output::HttpShorten { request, end } => self.sources.shorten(request, end),
            Output::HttpCancel { request } => self.sources.cancel(request),
            Output::HttpRate { class, rate } => self.sources.set_rate(class, rate),
            Output::Event(event) => self.engine_event(&event),
            Output::WakeAt(_) => {}
        }
    }

    pub(super) fn order(&mut self, key: PeerKey, order: PeerOut) {
        if let Some(peer) = self.peers.get_mut(&key) {
            if peer.pending.is_empty() {
                self.talked_to.push(key);
            }
            peer.pending.push(order);
        }
    }

    /// When something is to be done although nothing happens.
    fn alarm(&self) -> Option<Time> {
        let progress = self.changed.then_some(self.progress_at);
        let gossip = self.growing.as_ref().and_then(Growing::wake);
        [self.wake, progress, self.disk_alarm, gossip]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn tell(&self, event: ContentEvent) {
        self.shared.tell(event);
    }

    pub(super) fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.publish(self.session.now());
        }
    }

    fn publish(&mut self, now: Time) {
        self.changed = false;
        self.progress_at = now + PROGRESS_EVERY;
        let of = self.swarm.progress();
        let mut counters = of.counters;
        counters.wasted += self.wasted;
        self.progress.send_replace(Progress {
            state: self.state.clone(),
            length: self.shared.layout().length(),
            have_bytes: of.have_bytes,
            received_bytes: self.received,
            pieces_held: of.pieces_held,
            peers: of.peers,
            seeds: of.seeds,
            rate_peer: of.rate_peer,
            rate_relay: of.rate_relay,
            rate_origin: of.rate_origin,
            rate_up: of.rate_up,
            plan: of.plan,
            counters,
        });
    }

    /// The file is complete.
    pub(super) fn succeed(
        &mut self,
        path: PathBuf,
        sha256: Option<Sha256>,
        stamp: Option<FileStamp>,
        named: bool,
    ) {
        self.set_state(State::Done);
        let progress = self.progress.borrow();
        let finished = Finished {
            path,
            bytes: progress.length.unwrap_or(progress.have_bytes),
            sha256,
            stamp,
            counters: progress.counters,
            sources: self.shares.list(),
        };
        drop(progress);
        self.outcome
            .send_replace(Some(Ok(Complete { finished, named })));
    }

    /// It will never be complete.
    pub(super) fn fail(&mut self, error: ContentError) {
        self.state = State::Failed(error.to_string());
        let state = self.state.clone();
        self.progress.send_modify(|progress| progress.state = state);
        self.outcome.send_replace(Some(Err(error)));
    }

    async fn end(mut self, stop: Stop) {
        self.session.forget(&self.shared);
        self.shared.take_store();
        self.announcing.cancel();
        self.peers.clear();
        self.sources.clear();
        self.tasks.close();
        let store = self.store;
        tokio::join!(
            disk::close(store, stop.delete_unfinished),
            self.tasks.wait()
        );
        self.session.metrics().contents.sub(1);
        self.outcome.send_if_modified(|outcome| {
            let open = outcome.is_none();
            if open {
                *outcome = Some(Err(ContentError::Stopped));
            }
            open
        });
        if let Some(stopped) = stop.stopped {
            // Whoever asked may have gone.
            let _ = stopped.send(());
        }
    }
}

async fn sleep_until(session: &Session, at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep_until(session.instant(at)).await,
        None => std::future::pending().await,
    }
}
