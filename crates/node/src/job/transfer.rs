//! Runs one content until its file is complete: sources, reasons, tickets, giving up.

use std::time::{Duration, Instant};

use floodway_api::sync::AgentState;
use floodway_origin::OriginError;
use floodway_proto::Sid;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::Head;
use floodway_store::Hashes;
use tokio::task::JoinHandle;
use url::Url;

use super::growing::{ToldFinal, growth, keep, signed_v2_name};
use super::left::Left;
use super::open::open;
use super::orders::{Orders, asks_ticket, may_add_origin};
use super::sources::{Capabilities, helpers, info_for_peers, names, peers, relays, site, web_seed};
use super::{Fetched, GetError, GetEvent, Job, Nudge, Serving, VerifiedBy, identity_of};
use crate::origin_source::{agrees, probe, source};
use crate::reasons::of_event;
use crate::{Content, ContentEvent, ContentSpec, Finished, HttpSource, Target};

/// How often a transfer is looked at for being stuck.
const LOOK: Duration = Duration::from_millis(500);
/// Without a byte for so long a transfer is stuck: while a user waits, and in the background.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// With nobody left to ask, a user waits this long for somebody to come.
const NOBODY: Duration = Duration::from_secs(30);
/// A source that keeps failing, alone, is given this long.
const FAILING: Duration = Duration::from_mins(1);

/// Fetches by a torrent; `sid` when control knows the content.
pub(super) async fn by_torrent(
    job: &mut Job,
    torrent: &Metainfo,
    sid: Option<Sid>,
    trackers: Vec<Url>,
) -> Result<Fetched, GetError> {
    let info = &torrent.info;
    let layout = info
        .layout()
        .map_err(floodway_proto::metainfo::MetainfoError::PieceLength)?;
    let fixed = match sid {
        // Under control the relays come with each sync.
        Some(_) => Vec::new(),
        None if job.rules.no_origin => Vec::new(),
        // Those of a folder are read file by file, which only relays do.
        None if layout.files().is_some() => Vec::new(),
        None => torrent
            .web_seeds
            .iter()
            .filter_map(|url| web_seed(url, &info.name, info.length))
            .collect(),
    };
    let names = names(torrent.info_hash, sid, job.rules.no_p2p);
    let peers = if job.rules.no_p2p {
        Vec::new()
    } else {
        job.rules.peers.clone()
    };
    let trackers = if job.rules.no_p2p {
        Vec::new()
    } else {
        trackers
    };
    let path = job.rules.place.path(&info.name);
    let digest = job.wants_digest(&layout, &path)?;
    let nobody = peers.is_empty() && trackers.is_empty() && fixed.is_empty();
    // A file that is there already needs nobody: it is verified.
    if sid.is_none() && nobody && !path.exists() {
        let message = "nobody can be asked: the torrent names no tracker or web seed that may be used; name a peer with --peer";
        return Err(GetError::Refused(message.into()));
    }
    (job.listener)(GetEvent::Found {
        path: path.clone(),
        length: Some(info.length),
    });
    // Peers of the v2 torrent ask for hashes that this one does not have: they come by records and from neighbours, and others
    // may learn from what an earlier run learnt.
    let genesis = sid.and_then(|sid| job.genesis(sid).ok().flatten());
    let growth = genesis.and_then(|genesis| growth(job, &genesis).ok());
    let spec = ContentSpec {
        names,
        info: info_for_peers(torrent, sid),
        sid,
        layout,
        hashes: Hashes::V1(info.pieces.clone()),
        identity: sid.map_or_else(
            || identity_of(&[b"torrent", &torrent.info_hash.0]),
            |sid| sid.0,
        ),
        adopts: sid.and_then(|sid| job.adopts(&path, sid)),
        target: Target::File {
            path,
            overwrite: job.rules.overwrite && info.files.is_empty(),
            rename_when_done: job.rules.sha256.is_none(),
        },
        prefer: job.rules.prefer,
        order: job.rules.order,
        foreground: job.rules.foreground,
        limits: job.rules.limits,
        linear_digest: digest,
        peers,
        trackers,
        sources: fixed.clone(),
        verifiable: true,
        growth,
    };
    run(job, spec, fixed, VerifiedBy::Torrent).await
}

/// A content under way.
pub(super) struct Run<'a> {
    pub(super) job: &'a mut Job,
    pub(super) content: Content,
    pub(super) sid: Option<Sid>,
    p2p: bool,
    /// Its hashes become known while it is fetched; and whether it has its final names.
    pub(super) is_growing: bool,
    pub(super) is_final: bool,
    told_final: ToldFinal,
    /// Pieces are verified by hashes; one has been.
    pub(super) verifies: bool,
    pub(super) has_piece: bool,
    /// When it was last told how many can be.
    pub(super) facts_at: Option<Instant>,
    /// Sources that stay: web seeds, or the origin of a plain download.
    fixed: Vec<HttpSource>,
    capabilities: Capabilities,
    /// The origin, once it may be read.
    origin: Option<HttpSource>,
    probing: Option<JoinHandle<Result<HttpSource, OriginError>>>,
    /// The origin turned out to be of no use.
    origin_useless: bool,
    failed: Option<std::sync::Arc<OriginError>>,
    /// Fixed sources that will not be used again.
    gone: usize,
    kept: u64,
    kept_at: Instant,
    /// When a peer was connected last.
    peer_at: Instant,
}

/// Adds the content and runs it; the session flushes it when this future is dropped and the session shut down.
pub(super) async fn run(
    job: &mut Job,
    spec: ContentSpec,
    fixed: Vec<HttpSource>,
    verified_by: VerifiedBy,
) -> Result<Fetched, GetError> {
    let (sid, p2p) = (spec.sid, !spec.names.is_empty());
    let is_growing = spec.growth.is_some() && !spec.verifiable;
    let path = spec.target.path().clone();
    let verifies = !matches!(spec.hashes, Hashes::Unknown);
    job.board.state(AgentState::Downloading, None);
    // Whoever wants a digest of the whole must read the file.
    let data = job.link.as_ref().and_then(|link| link.data.clone());
    let known = data.as_deref().filter(|_| !spec.linear_digest);
    let content = Box::pin(open(job, known, spec)).await?;
    job.board.state(AgentState::Downloading, None);
    if let Some(name) = sid
        .filter(|_| p2p && !is_growing)
        .and_then(|sid| signed_v2_name(job, sid))
    {
        // Another content of the same bytes answers by it.
        let _ = content.add_name(name);
    }
    let now = Instant::now();
    let mut run = Run {
        job,
        content,
        sid,
        p2p,
        is_growing,
        is_final: !is_growing,
        told_final: ToldFinal::default(),
        verifies,
        has_piece: false,
        facts_at: None,
        fixed,
        capabilities: Capabilities::default(),
        origin: None,
        probing: None,
        origin_useless: false,
        failed: None,
        gone: 0,
        kept: 0,
        kept_at: now,
        peer_at: now,
    };
    let (content, mut sink) = (run.content.clone(), run.job.sink.take());
    let result = match &mut sink {
        Some(sink) => sink.along(&content, run.finish()).await,
        None => run.finish().await,
    };
    run.job.sink = sink;
    if let Some(probing) = run.probing.take() {
        probing.abort();
    }
    let Run { job, content, .. } = run;
    match result {
        Ok(finished) => {
            if let (Some(data), Some(sid), Some(stamp)) = (data, sid, finished.stamp) {
                data.save_stamp(sid, stamp);
            }
            job.board.set(Nudge::Changed, |status| {
                status.bytes = finished.bytes;
                status.counters = finished.counters;
                status.asks_ticket = false;
                status.serving = sid.map(|sid| Serving {
                    sid,
                    complete: true,
                    final_ok: true,
                    v2_ok: content.answers_v2(),
                    manifest: content.head(),
                });
            });
            Ok(Fetched {
                content: Some(content),
                finished,
                verified_by,
            })
        }
        Err(error) => {
            // A user may run the same command again; a task that failed or ended leaves nothing behind.
            let useless = matches!(
                error,
                GetError::Cancelled
                    | GetError::Mismatch { .. }
                    | GetError::Replaced
                    | GetError::NoRelay(_)
            );
            let delete = useless || !(job.rules.foreground || matches!(error, GetError::ByTorrent));
            let left = Left::of(&content, &path, &error).await;
            let delete = delete && left.is_none();
            content.stop(delete).await;
            job.leave(left).await;
            job.board
                .set(Nudge::Changed, |status| status.serving = None);
            Err(error)
        }
    }
}

impl Run<'_> {
    async fn finish(&mut self) -> Result<Finished, GetError> {
        let content = self.content.clone();
        let mut progress = content.progress();
        let mut events = content.events();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut orders_open = true;
        self.apply_orders()?;
        let finished = loop {
            tokio::select! {
                biased;
                done = content.done() => break done?,
                changed = self.job.orders.changed(), if orders_open => {
                    orders_open = changed.is_ok();
                    self.apply_orders()?;
                }
                Some(event) = events.recv() => self.event(&event)?,
                Ok(()) = progress.changed() => self.progressed(),
                result = probed(&mut self.probing) => self.probed(result),
                _ = look.tick() => self.look()?,
            }
        };
        while let Ok(event) = events.try_recv() {
            self.event(&event).ok();
        }
        self.progressed();
        self.check_digest(finished).await
    }

    /// Holds the whole against the digest that the user gave; only then the file gets its final name.
    async fn check_digest(&self, finished: Finished) -> Result<Finished, GetError> {
        let Some(expected) = self.job.rules.sha256 else {
            return Ok(finished);
        };
        match finished.sha256 {
            Some(found) if found != expected => Err(GetError::Mismatch { expected, found }),
            Some(_) => {
                self.content.finish();
                Ok(self.content.named().await?)
            }
            None => Err(GetError::Usage(
                "the file's SHA-256 was not computed although one is to be compared".into(),
            )),
        }
    }

    fn orders(&self) -> Orders {
        self.job.orders.borrow().clone()
    }

    fn apply_orders(&mut self) -> Result<(), GetError> {
        let orders = self.job.orders.borrow_and_update().clone();
        if orders.cancelled {
            return Err(GetError::Cancelled);
        }
        self.follow(&orders)?;
        if self.p2p {
            self.content.set_site(site(&orders));
            self.content.add_peers(peers(&orders));
        }
        self.set_sources(&orders);
        Ok(())
    }

    pub(super) fn set_sources(&mut self, orders: &Orders) {
        let mut sources = self.fixed.clone();
        // Control names relays of this very content only.
        let info = orders
            .info
            .as_ref()
            .filter(|info| Some(info.sid) == self.sid);
        sources.extend(relays(
            info,
            self.content.length(),
            self.is_final,
            &mut self.capabilities,
        ));
        if let Some(link) = &self.job.link {
            let helpers = helpers(info, &link.client, &mut self.capabilities);
            let manifest = info.and_then(|info| info.manifest.as_ref());
            let newest = manifest.map_or_else(Head::default, |manifest| manifest.head);
            self.content.set_helpers(helpers, newest);
        }
        sources.extend(self.origin.clone());
        self.content.set_sources(sources);
    }

    fn progressed(&mut self) {
        let progress = self.content.progress().borrow().clone();
        let counters = progress.counters;
        let kept = counters.peer + counters.relay + counters.origin;
        let now = Instant::now();
        if kept != self.kept {
            (self.kept, self.kept_at) = (kept, now);
        }
        if progress.peers > 0 {
            self.peer_at = now;
        }
        let serving = self.sid.map(|sid| Serving {
            sid,
            complete: false,
            final_ok: self.is_final,
            v2_ok: self.content.answers_v2(),
            manifest: self.content.head(),
        });
        let before = self.job.board.get().serving;
        let first = before.map(|before| (before.sid, before.final_ok))
            != serving.map(|serving| (serving.sid, serving.final_ok));
        let nudge = if first {
            Nudge::Changed
        } else {
            Nudge::Progressed
        };
        self.job.board.set(nudge, |status| {
            status.bytes = progress.have_bytes;
            status.counters = counters;
            status.serving = serving;
        });
        (self.job.listener)(GetEvent::Progress(Box::new(progress)));
    }

    fn event(&mut self, event: &ContentEvent) -> Result<(), GetError> {
        if let Some(reason) = of_event(event) {
            self.job.reasons.add(reason);
        }
        // Whoever waits for the task is told why nothing moves.
        match event {
            ContentEvent::Paused(_) => {
                let reason = of_event(event);
                (self.job.board).set(Nudge::Changed, |status| status.reason = reason);
            }
            ContentEvent::Resumed => {
                (self.job.board).set(Nudge::Changed, |status| status.reason = None);
            }
            _ => {}
        }
        self.step(event);
        self.growth_event(event);
        if let ContentEvent::SourceFailed {
            source,
            error,
            gone,
            ..
        } = event
        {
            self.failed = Some(error.clone());
            self.capabilities.forget(source.as_str());
            if *gone
                && self
                    .origin
                    .as_ref()
                    .is_some_and(|origin| origin.url == *source)
            {
                self.origin = None;
                self.origin_useless = true;
            }
            if *gone && self.fixed.iter().any(|fixed| fixed.url == *source) {
                self.gone += 1;
            }
            // Nobody else has it.
            if !self.p2p && self.sid.is_none() && self.gone >= self.fixed.len() {
                return Err(GetError::Origin(error.clone()));
            }
        }
        Ok(())
    }

    /// Looks whether bytes come, and what may be done if not.
    fn look(&mut self) -> Result<(), GetError> {
        let orders = self.orders();
        let situation = self.job.situation(None);
        let (patience_user, patience) = PATIENCE;
        // Without control nobody says what more pieces hash to; it may be back in a moment.
        let is_held_up = self.is_growing && !self.is_final && orders.control_down;
        // With every byte here only the names are missing, which control says once it has heard of the last pieces from relays.
        let have = self.content.progress().borrow().have_bytes;
        let is_whole = self.is_growing && !self.is_final && Some(have) == self.content.length();
        let is_held_up = is_held_up || is_whole;
        let patience = match situation.foreground {
            _ if is_held_up => NOBODY,
            true => patience_user,
            false => patience,
        };
        let quiet = self.kept_at.elapsed();
        let told = orders.info.as_ref().is_some_and(|info| info.is_final);
        let stranded = self.told_final.strands(told, quiet, Instant::now());
        if self.is_growing && !self.is_final && stranded && !self.paused() {
            // Records that say what its last pieces hash to were lost on the way.
            return Err(GetError::ByTorrent);
        }
        let nobody = orders
            .info
            .as_ref()
            .is_none_or(|info| info.peers.is_empty() && info.relays.is_empty());
        let stuck = quiet >= patience || (nobody && self.job.link.is_some() && !is_held_up);
        if self.job.link.is_some() {
            let asks = self.sid.is_some() && asks_ticket(&orders, situation, true, stuck);
            self.job.ask_ticket(asks);
            // A plain download has the origin from the start.
            if self.sid.is_some()
                && self.origin.is_none()
                && self.probing.is_none()
                && !self.origin_useless
                && let Some(why) = may_add_origin(&orders, situation, stuck)
            {
                if self.is_growing && !self.is_final {
                    // Nobody says any more what its pieces hash to.
                    return Err(GetError::NoRelay(why));
                }
                self.job.reasons.add(why);
                self.probe_origin(&orders);
            }
        }
        self.give_up(&orders, quiet)
    }

    /// A user does not wait for ever for nobody.
    fn give_up(&self, orders: &Orders, quiet: Duration) -> Result<(), GetError> {
        if !self.job.rules.foreground || quiet < NOBODY || self.paused() {
            return Ok(());
        }
        let peerless = !self.p2p || self.peer_at.elapsed() >= NOBODY;
        let relays = orders.info.as_ref().map_or(0, |info| info.relays.len());
        if self.job.rules.no_origin && peerless && relays == 0 {
            return Err(GetError::Refused(format!(
                "nobody is left who has the missing bytes (for {} s), and --no-origin forbids the origin; leave the option away, or start a seed",
                NOBODY.as_secs()
            )));
        }
        match &self.failed {
            // An origin that answers nothing but errors, and nobody else.
            Some(error) if !self.p2p && quiet >= FAILING => Err(GetError::Origin(error.clone())),
            _ => Ok(()),
        }
    }

    /// A full disk is waited for, as long as it takes.
    fn paused(&self) -> bool {
        matches!(
            self.content.progress().borrow().state,
            crate::State::Paused(_) | crate::State::Checking
        )
    }

    fn probe_origin(&mut self, orders: &Orders) {
        let Some(url) = self.job.url.clone() else {
            return;
        };
        let (session, check, length) = (
            self.job.session.clone(),
            self.job.rules.check.clone(),
            self.content.length(),
        );
        let etag = orders
            .ticket
            .as_ref()
            .and_then(|ticket| ticket.etag.clone());
        self.probing = Some(tokio::spawn(async move {
            let found = probe(&session, &url, check.as_ref()).await?;
            agrees(&url, &found, length, etag.as_deref())?;
            let mut source = source(&url, &found, check.as_ref());
            source.expect.length = length;
            Ok(source)
        }));
    }

    fn probed(&mut self, result: Result<HttpSource, OriginError>) {
        self.probing = None;
        match result {
            Ok(source) => {
                self.origin = Some(source);
                let orders = self.orders();
                self.set_sources(&orders);
            }
            Err(error) => {
                // A passing trouble is tried again at the next look that finds the transfer stuck.
                self.origin_useless = !error.is_transient();
                self.job
                    .reasons
                    .add(format!("the origin is of no use: {error}"));
            }
        }
    }
}

/// Waits for the probe, if there is one.
async fn probed(
    probing: &mut Option<JoinHandle<Result<HttpSource, OriginError>>>,
) -> Result<HttpSource, OriginError> {
    match probing {
        None => std::future::pending().await,
        Some(task) => match task.await {
            Ok(result) => result,
            // It is aborted only together with this transfer.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Keeps a complete content open to peers until the task is cancelled (`true`) or the process ends (`false`).
pub(super) async fn serve(job: &mut Job, content: &Content) -> bool {
    let (mut progress, mut events) = (content.progress(), content.events());
    loop {
        {
            // Who joined late may learn the last hashes only now.
            let v2_ok = content.answers_v2();
            let serving = job.board.get().serving;
            if let Some(serving) = serving.filter(|serving| serving.v2_ok != v2_ok) {
                let serving = Some(Serving { v2_ok, ..serving });
                (job.board).set(Nudge::Changed, |status| status.serving = serving);
            }
            let orders = job.orders.borrow_and_update().clone();
            if orders.cancelled {
                return true;
            }
            content.set_site(site(&orders));
            content.add_peers(peers(&orders));
        }
        tokio::select! {
            changed = job.orders.changed() => if changed.is_err() { return false },
            changed = progress.changed() => {
                let Ok(()) = changed else { return false };
                let counters = progress.borrow_and_update().counters;
                job.board.set(Nudge::Progressed, |status| status.counters = counters);
                let now = progress.borrow().clone();
                (job.listener)(GetEvent::Progress(Box::new(now)));
            }
            Some(event) = events.recv() => {
                let sid = job.board.get().serving.map(|serving| serving.sid);
                keep(job, sid, &event);
            }
        }
    }
}
