//! The driver's side of the store: verdicts, back-pressure, and a disk that refuses.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::digest::PieceDigest;
use floodway_proto::{PieceIndex, Time};
use floodway_store::{
    Event as StoreEvent, Opened, ReadError as StoreReadError, Spec, Store, StoreError,
    Verdict as StoreVerdict,
};
use floodway_swarm::{Event, Input, Verdict};
use tokio::sync::mpsc;

use super::driver::Driver;
use super::growing::Growing;
use super::{
    AddError, ContentError, ContentEvent, ContentSpec, ReadError, Reading, Shared, State, Target,
};
use crate::session::Session;

/// How often the store's memory is looked at while sockets are not read.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a disk that refused is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(3);
/// How often a store that is to be deleted is looked at until nobody uses it.
const UNUSED_LOOKS: u32 = 1000;
/// A retry that has not failed after this has worked.
const RETRY_JUDGED: Duration = Duration::from_secs(1);

/// The digests of a piece of which none were computed.
const NOTHING: PieceDigest = PieceDigest {
    sha1: None,
    node: None,
};

/// The disk refused.
pub(super) struct Trouble {
    /// When to try again, or, after a try, when to believe that it worked.
    at: Time,
    trying: bool,
}

/// Opens the store of a content; what must be hashed first is hashed.
pub(super) async fn open(
    session: &Session,
    spec: &ContentSpec,
    events: mpsc::UnboundedSender<StoreEvent>,
) -> Result<(Store, Opened), AddError> {
    let (layout, hashes, target) = (
        spec.layout.clone(),
        spec.hashes.clone(),
        spec.target.clone(),
    );
    let (identity, linear_digest) = (spec.identity, spec.linear_digest);
    let adopts = spec.adopts.clone();
    let buffer_limit = session.buffer_limit();
    let opening = tokio::task::spawn_blocking(move || match target {
        Target::File {
            path: target,
            overwrite,
            ..
        } => {
            let spec = Spec {
                target,
                layout,
                identity,
                hashes,
                linear_digest,
                adopts,
                overwrite,
                buffer_limit,
            };
            // The receiver ends with the driver; what the store says after that interests nobody.
            Ok(Store::open(spec, move |event| drop(events.send(event)))?)
        }
        Target::Seed { path, known } => {
            let pieces = layout.piece_count();
            let (store, opened) = Store::seed(&path, layout, &hashes, known, |_| ())?;
            match pieces - opened.have.count() {
                0 => Ok((store, opened)),
                wrong => Err(AddError::NotThisContent {
                    path,
                    wrong,
                    pieces,
                }),
            }
        }
    });
    match opening.await {
        Ok(opened) => opened,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Writes what is in memory, or deletes what is unfinished.
pub(super) async fn close(store: Arc<Store>, delete_unfinished: bool) {
    let closing = async {
        if !delete_unfinished {
            return tokio::task::spawn_blocking(move || store.close()).await;
        }
        match sole(store).await {
            Ok(store) => tokio::task::spawn_blocking(move || store.discard()).await,
            Err(store) => tokio::task::spawn_blocking(move || store.close()).await,
        }
    };
    match closing.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the journal could not be flushed"),
        Err(error) => tracing::error!(%error, "a defect broke the store"),
    }
}

/// The store itself once nobody else uses it: connections and reads that are ending do for a moment.
async fn sole(mut store: Arc<Store>) -> Result<Store, Arc<Store>> {
    for _ in 0..UNUSED_LOOKS {
        match Arc::try_unwrap(store) {
            Ok(store) => return Ok(store),
            Err(shared) => store = shared,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(store)
}

/// True when all pieces that hold these bytes are held.
pub(super) fn has(shared: &Shared, range: &Range<u64>) -> bool {
    let Some(store) = shared.store() else {
        return false;
    };
    if range.end > shared.layout().limit() || range.start > range.end {
        return false;
    }
    range.is_empty() || shared.covers(&store.have(), range)
}

pub(super) async fn read(shared: &Shared, range: Range<u64>) -> Result<Bytes, ReadError> {
    let store = shared.store().ok_or(ReadError::Stopped)?;
    if !has(shared, &range) {
        return Err(ReadError::NotHeld(range));
    }
    let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let reading = tokio::task::spawn_blocking(move || {
        let mut out = vec![0; length];
        match store.read(range.clone(), &mut out) {
            Ok(()) => Ok(Bytes::from(out)),
            Err(StoreReadError::Io(error)) => Err(ReadError::Store(Arc::new(error))),
            Err(StoreReadError::NotHeld(_) | StoreReadError::OutOfRange { .. }) => {
                Err(ReadError::NotHeld(range))
            }
        }
    });
    match reading.await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

impl Driver {
    pub(super) fn disk_event(&mut self, event: StoreEvent) {
        match event {
            StoreEvent::Piece { piece, verdict } => self.judged(piece, verdict),
            StoreEvent::Written { .. } => {}
            StoreEvent::Learnt { pieces } => self.learnt(pieces),
            StoreEvent::Complete { sha256 } => {
                self.recovered();
                if self.growing.as_ref().is_some_and(Growing::is_open) {
                    self.all_held(sha256);
                } else if !self.rename {
                    self.succeed(self.path.clone(), sha256, None, false);
                }
            }
            StoreEvent::Finished {
                path,
                sha256,
                stamp,
            } => {
                self.recovered();
                self.read_only = true;
                self.succeed(path, sha256, Some(stamp), true);
            }
            StoreEvent::Failed { error, retryable } => self.refused(error, retryable),
        }
    }

    fn judged(&mut self, piece: PieceIndex, verdict: StoreVerdict) {
        match verdict {
            StoreVerdict::Good { digest, blocks } => {
                let disproved = self.tries.good(piece, &blocks);
                self.digests.insert(piece, digest);
                if let Some(growing) = &mut self.growing {
                    growing.holds(piece, &digest, self.shared.layout());
                    if let Some(read) = growing.read(piece, &digest, self.shared.layout()) {
                        self.gossip(read);
                    }
                }
                self.input(Input::Hashed {
                    piece,
                    verdict: Verdict::Good { disproved },
                });
                self.show([piece]);
            }
            StoreVerdict::Bad { blocks } if blocks.is_empty() => self.lost(piece),
            StoreVerdict::Bad { blocks } => {
                self.tries.failed(piece, blocks);
                self.input(Input::Hashed {
                    piece,
                    verdict: Verdict::Bad,
                });
            }
        }
    }

    /// Those of the pieces that are offered to peers are to be had over HTTP too.
    pub(super) fn show(&self, pieces: impl IntoIterator<Item = PieceIndex>) {
        let pieces = pieces.into_iter();
        self.shared
            .offer(pieces.filter(|&piece| self.swarm.offers(piece)), true);
    }

    /// A held piece is not what it was.
    fn lost(&mut self, piece: PieceIndex) {
        let (piece_number, path) = (piece.0, self.path.display());
        if self.growing.as_ref().is_some_and(Growing::adopts) {
            tracing::debug!(piece = piece_number, %path, "a piece of the content before is another now");
        } else {
            tracing::warn!(piece = piece_number, %path, "a piece on this disk is damaged");
            self.tell(ContentEvent::PieceLost(piece));
        }
        if let Some(growing) = &mut self.growing {
            growing.lost(piece);
        }
        self.shared.offer([piece], false);
        self.input(Input::PieceLost { piece });
        if self.read_only {
            // What is lost from a finished file cannot be put back: the rest is served.
            self.input(Input::Fetching(false));
        }
    }

    /// A connection could not read a held piece.
    pub(super) fn unreadable(&mut self, piece: PieceIndex) {
        if self.swarm.has(piece) {
            self.store.forget(piece);
            self.lost(piece);
        }
    }

    pub(super) fn engine_event(&mut self, event: &Event) {
        match *event {
            Event::PieceDone(piece) => {
                let digest = self.digests.remove(&piece).unwrap_or(NOTHING);
                self.tell(ContentEvent::PieceDone { piece, digest });
            }
            Event::PieceFailed(piece) => {
                self.session.metrics().pieces_failed.add(1);
                self.tell(ContentEvent::PieceFailed(piece));
            }
            Event::Banned { addr, piece } => {
                tracing::warn!(%addr, piece = piece.0, "banned a peer for wrong blocks");
                self.session.metrics().peers_banned.add(1);
                self.tell(ContentEvent::Banned { addr, piece });
            }
            Event::SourceDropped { source, piece } => {
                if let Some(source) = self.sources.get(source) {
                    let url = source.url.clone();
                    tracing::warn!(source = %url, piece = piece.0, "dropped an HTTP source for wrong bytes");
                    self.tell(ContentEvent::SourceDropped { source: url, piece });
                }
            }
            Event::Plan(plan) => self.tell(ContentEvent::Plan(plan)),
            Event::Complete => {
                if self.state != State::Done {
                    self.set_state(State::Finishing);
                }
                self.tell(ContentEvent::Complete);
            }
        }
    }

    fn refused(&mut self, error: StoreError, retryable: bool) {
        let error = Arc::new(error);
        if !retryable {
            tracing::error!(%error, "the disk refused for good");
            self.input(Input::Fetching(false));
            return self.fail(ContentError::Store(error));
        }
        let at = self.session.now() + RETRY_EVERY;
        if self
            .trouble
            .replace(Trouble { at, trying: false })
            .is_none()
        {
            tracing::warn!(%error, "the disk refused; nothing is fetched until it works again");
            self.input(Input::Fetching(false));
            self.tell(ContentEvent::Paused(Arc::clone(&error)));
        }
        self.set_state(State::Paused(error.to_string()));
    }

    /// The disk works again.
    fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("the disk works again");
            self.set_state(if self.swarm.progress().complete {
                State::Finishing
            } else {
                State::Fetching
            });
            self.input(Input::Fetching(true));
            self.tell(ContentEvent::Resumed);
        }
    }

    /// Retries, and opens or closes the sockets by how much the store holds in memory.
    pub(super) fn look_at_disk(&mut self) {
        let now = self.session.now();
        match &mut self.trouble {
            Some(trouble) if now >= trouble.at && !trouble.trying => {
                *trouble = Trouble {
                    at: now + RETRY_JUDGED,
                    trying: true,
                };
                self.store.retry();
            }
            Some(trouble) if now >= trouble.at => self.recovered(),
            _ => {}
        }
        let (buffered, limit) = (self.store.buffered(), self.session.buffer_limit().0);
        let was = *self.reading.borrow();
        let room = if was.http {
            buffered <= limit
        } else {
            buffered <= limit / 2
        };
        let calm = self.trouble.is_none();
        // While the disk refuses, what was asked for before may come, and peers are served.
        let reading = Reading {
            peers: room || !calm,
            http: room && calm,
        };
        if reading != was {
            self.reading.send_replace(reading);
        }
        self.disk_alarm = match &self.trouble {
            Some(trouble) => Some(trouble.at),
            None if !reading.http => Some(now + LOOK_EVERY),
            None => None,
        };
    }
}
