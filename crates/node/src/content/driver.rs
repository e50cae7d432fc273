//! The task of one content: it owns the engine, feeds it what happens, and does what it says.

mod inputs;
mod start;

use std::any::Any;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use floodway_proto::digest::PieceDigest;
use floodway_proto::{PieceIndex, Sha256, Time};
use floodway_store::{Event as StoreEvent, FileStamp, Opened, Store};
use floodway_swarm::answers::Answers;
use floodway_swarm::gossip::GossipInput;
use floodway_swarm::{Input, Output, PeerKey, Swarm};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub(crate) use start::start;

use super::addresses::StockNames;
use super::blame::FailedTries;
use super::disk::Trouble;
use super::growing::Growing;
use super::help::Help;
use super::park::Park;
use super::shares::Shares;
use super::sources::Sources;
use super::{
    Command, Complete, ContentError, ContentEvent, ContentSpec, Finished, Outcome, Packet, PeerOut,
    Progress, Reading, Shared, State, Target, disk,
};
use crate::announce::Announcer;
use crate::peer::site_message;
use crate::session::Session;

/// Packets handled before the engine's outputs are looked at.
const PACKETS_AT_ONCE: usize = 32;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

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
    /// How many orders wait to be sent; the connection counts down, and ends when they are too many.
    waiting: Arc<AtomicUsize>,
    pending: Vec<PeerOut>,
    /// Ends the connection when the peer is dropped.
    _hang_up: DropGuard,
}

/// The handle asked for the end.
struct Stop {
    delete_unfinished: bool,
    stopped: Option<oneshot::Sender<()>>,
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
                (peer.waiting).fetch_add(peer.pending.len(), Ordering::Relaxed);
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
