//! `floodway get`: one file, once.

mod control;
mod source;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_origin::SourceUrl;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::{NodeId, Sha256};
use floodway_swarm::{Counters, Limits, Order, Prefer};
use serde::{Serialize, Serializer};
use tokio::sync::{mpsc, watch};
use url::Url;

use crate::job::orders::Orders;
use crate::job::sink::Sink;
use crate::job::{Apart, Board, Fetched, Job, Listener, Place, Rules};
use crate::reasons::Reasons;
use crate::seed::http_trackers;
use crate::{Content, Session, SessionConfig, SourceShare};

pub use crate::job::{GetError, GetEvent, VerifiedBy};
pub use source::GetSource;
pub(crate) use source::read_torrent;

/// What `get` is to do.
#[derive(Clone, Debug)]
pub struct GetSpec {
    /// What to fetch.
    pub source: GetSource,
    /// Where to: a folder (existing, or with a slash at the end), a file, or (`None`) the current folder.
    pub output: Option<PathBuf>,
    /// Replace a different file.
    pub overwrite: bool,
    /// The control to ask, and with which token.
    pub control: Option<ControlAccess>,
    /// `None`: speed without control, peers under control.
    pub prefer: Option<Prefer>,
    /// In which order pieces are fetched.
    pub order: Order,
    /// What the whole file must have.
    pub sha256: Option<Sha256>,
    /// Compute the SHA-256 of the whole file.
    pub digest: bool,
    /// Upper bounds.
    pub limits: Limits,
    /// Never touch the origin (nor a torrent's web seeds).
    pub no_origin: bool,
    /// No peers at all.
    pub no_p2p: bool,
    /// Seed this long after the file is complete.
    pub seed_time: Option<Duration>,
    /// Seed until this many times the file's length was sent.
    pub seed_ratio: Option<f64>,
    /// Where peers may connect.
    pub listen: SocketAddr,
    /// What others are told instead of the bound address.
    pub advertise: Option<SocketAddr>,
    /// Peers named by the user.
    pub peers: Vec<SocketAddr>,
    /// Find out where everything came from, for [`GetReport::explanation`].
    pub explain: bool,
    /// When the process started.
    pub started: Instant,
}

impl GetSpec {
    /// A torrent file has its own trackers and needs no control, even if one is known.
    fn is_controlled(&self) -> bool {
        self.control.is_some() && !matches!(self.source, GetSource::Torrent(_))
    }
}

/// How to reach control.
#[derive(Clone)]
pub struct ControlAccess {
    /// Its base URL.
    pub address: String,
    /// A join, node or admin token.
    pub token: String,
}

impl std::fmt::Debug for ControlAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlAccess({})", self.address)
    }
}

/// How it went: the last line of `get --json`. Each kept byte counts once: peer + relay + origin + resumed = bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GetReport {
    /// The file, absolute.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Since the process started.
    pub seconds: f64,
    /// Of the whole file; `None` when it was not computed.
    #[serde(serialize_with = "hex")]
    pub sha256: Option<Sha256>,
    /// How the file was verified.
    pub verified_by: VerifiedBy,
    /// Why the transfer went the way it went.
    pub reasons: Vec<String>,
    /// Kept, from peers.
    pub peer_bytes: u64,
    /// Kept, from relays.
    pub relay_bytes: u64,
    /// Kept, from the origin or web seeds.
    pub origin_bytes: u64,
    /// Held before this run.
    pub resumed_bytes: u64,
    /// Received and discarded.
    pub wasted_bytes: u64,
    /// Where everything came from, if that was asked for. Not part of the last line.
    #[serde(skip)]
    pub explanation: Option<Box<Explanation>>,
}

/// Where a file came from, and who vouched for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What each peer and HTTP source brought.
    pub sources: Vec<SourceShare>,
    /// Who reported the pieces to control, and how many of them were read again by others; `None` without control.
    pub growth: Option<floodway_api::rest::Growth>,
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn hex<S: Serializer>(digest: &Option<Sha256>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}

/// As [`run`], and writes the file's bytes to `out` in order: each as soon as it is verified, or, when the user gave a SHA-256
/// of the whole, when that was compared. What it returns without an error has been written whole, and flushed.
///
/// # Errors
/// As [`run`]; [`GetError::Output`] when `out` takes no more, [`GetError::OutputDiffers`] when another version of the object
/// took the place of the one whose beginning was written.
pub async fn run_to(
    spec: GetSpec,
    out: impl Write + Send + 'static,
    shutdown: impl Future<Output = ()>,
    events: impl Fn(GetEvent) + Send + Sync + 'static,
) -> Result<GetReport, GetError> {
    let sink = Sink::new(out, spec.sha256.is_some());
    run_with(spec, Some(sink), shutdown, events).await
}

/// Fetches, and seeds if that was asked for.
///
/// `shutdown` ends it early: what is on disk is kept for a resume. Stopped while seeding it has succeeded.
///
/// # Errors
/// [`GetError`], whose [`exit_code`](GetError::exit_code) classifies it; [`GetError::Interrupted`] (or
/// [`GetError::InterruptedAnew`]) after `shutdown`.
pub async fn run(
    spec: GetSpec,
    shutdown: impl Future<Output = ()>,
    events: impl Fn(GetEvent) + Send + Sync + 'static,
) -> Result<GetReport, GetError> {
    run_with(spec, None, shutdown, events).await
}

async fn run_with(
    spec: GetSpec,
    sink: Option<Sink>,
    shutdown: impl Future<Output = ()>,
    events: impl Fn(GetEvent) + Send + Sync + 'static,
) -> Result<GetReport, GetError> {
    let listener: Listener = Arc::new(events);
    let work = async {
        match &spec.control {
            Some(access) if spec.is_controlled() => control::run(&spec, access, &listener).await,
            _ => alone(&spec, &listener).await,
        }
    };
    tokio::pin!(shutdown);
    let started = async {
        let mut started = work.await?;
        started.running.job.sink = sink;
        Ok(started)
    };
    Box::pin(work_until(&spec, started, shutdown.as_mut())).await
}

/// What a run leaves for the one who ends it.
pub(crate) struct Running {
    session: Session,
    job: Job,
}

async fn work_until(
    spec: &GetSpec,
    begin: impl Future<Output = Result<Started, GetError>>,
    mut shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Result<GetReport, GetError> {
    let mut started = tokio::select! {
        started = begin => started?,
        () = shutdown.as_mut() => return Err(GetError::Interrupted),
    };
    let session = started.running.session.clone();
    let result = {
        let Started {
            running,
            task,
            conversation,
        } = &mut started;
        let fetching = async {
            let fetched = match task {
                Task::ByOrders => Box::pin(running.job.fetch()).await,
                Task::Plain => running.job.plain().await,
                Task::Torrent(torrent, trackers) => {
                    running
                        .job
                        .by_torrent(torrent, None, std::mem::take(trackers))
                        .await
                }
            }?;
            if let Some(sink) = running.job.sink.take() {
                sink.end().await?;
            }
            Ok(fetched)
        };
        tokio::select! {
            fetched = fetching => fetched,
            error = conversation.hold() => Err(error),
            () = shutdown.as_mut() => Err(GetError::Interrupted),
        }
    };
    let result = match result {
        Err(GetError::Interrupted) if started.running.job.one_get => Err(GetError::InterruptedAnew),
        result => result,
    };
    let result = match result {
        Ok(fetched) => {
            let mut report = report(spec, &fetched, &started.running.job.reasons);
            if spec.explain {
                let explanation = explain(&started.running.job, &fetched).await;
                report.explanation = Some(Box::new(explanation));
            }
            seed(
                spec,
                fetched.content.as_ref(),
                report,
                &mut started,
                shutdown,
            )
            .await
        }
        Err(error) => Err(error),
    };
    let Started {
        running,
        conversation,
        ..
    } = started;
    conversation.leave().await;
    drop(running);
    session.shutdown().await;
    result
}

/// A job and the one who brings it orders.
struct Started {
    running: Running,
    task: Task,
    conversation: control::Conversation,
}

/// How the job begins.
enum Task {
    ByOrders,
    Plain,
    Torrent(Box<Metainfo>, Vec<Url>),
}

/// Without control.
async fn alone(spec: &GetSpec, listener: &Listener) -> Result<Started, GetError> {
    let (task, url) = match &spec.source {
        GetSource::Url(_) if spec.no_origin => {
            return Err(GetError::Refused(
                "without control only the origin could deliver this URL, and --no-origin forbids it; name a --control, or leave the option away".into(),
            ));
        }
        GetSource::Url(url) => (Task::Plain, Some(url.clone())),
        GetSource::Torrent(torrent) => {
            (Task::Torrent(torrent.clone(), http_trackers(torrent)), None)
        }
        GetSource::Sid(_) => {
            return Err(GetError::Usage(
                "floodway:SID names a content of a control: give its address with --control".into(),
            ));
        }
    };
    let session = Session::start(session_config(spec, random_node())).await?;
    // Its sender is gone: orders never change.
    let (_, orders) = watch::channel(Orders::default());
    let board = Board::new(mpsc::unbounded_channel().0);
    let job = job(spec, session.clone(), url, board, orders, listener)?;
    Ok(Started {
        running: Running { session, job },
        task,
        conversation: control::Conversation::none(),
    })
}

fn job(
    spec: &GetSpec,
    session: Session,
    url: Option<SourceUrl>,
    board: Board,
    orders: watch::Receiver<Orders>,
    listener: &Listener,
) -> Result<Job, GetError> {
    let prefer = if spec.is_controlled() {
        Prefer::Peers
    } else {
        Prefer::Speed
    };
    let tell = Arc::clone(listener);
    Ok(Job {
        session,
        link: None,
        url,
        rules: Rules {
            place: place(spec.output.as_deref())?,
            overwrite: spec.overwrite,
            prefer: spec.prefer.unwrap_or(prefer),
            order: spec.order,
            foreground: true,
            limits: spec.limits,
            linear_digest: spec.digest,
            sha256: spec.sha256,
            no_origin: spec.no_origin,
            no_p2p: spec.no_p2p,
            check: None,
            peers: spec.peers.clone(),
        },
        orders,
        board,
        reasons: Reasons::new(move |reason| tell(GetEvent::Reason(reason))),
        listener: Arc::clone(listener),
        sink: None,
        one_get: false,
        left: None,
        apart: Apart::default(),
    })
}

/// `-o`: an existing folder or a slash at the end means PATH/NAME.
fn place(output: Option<&std::path::Path>) -> Result<Place, GetError> {
    let given = output.unwrap_or_else(|| std::path::Path::new("."));
    let text = given.as_os_str().as_encoded_bytes();
    if text.is_empty() {
        return Err(GetError::Usage(
            "-o: the path is empty; give a file or a folder".into(),
        ));
    }
    let folder = text.ends_with(b"/") || given.is_dir();
    let path = std::path::absolute(given).map_err(|source| GetError::File {
        action: "find",
        path: given.to_owned(),
        source: Arc::new(source),
    })?;
    Ok(if folder {
        Place::Folder(path)
    } else {
        Place::File(path)
    })
}

fn session_config(spec: &GetSpec, node: NodeId) -> SessionConfig {
    let mut config = SessionConfig::new(spec.listen, node);
    config.advertise = spec.advertise;
    config.limits = spec.limits;
    config
}

/// A name for one run, where control gives none.
fn random_node() -> NodeId {
    NodeId(fastrand::u128(..).to_be_bytes())
}

fn report(spec: &GetSpec, fetched: &Fetched, reasons: &Reasons) -> GetReport {
    let finished = &fetched.finished;
    let Counters {
        peer,
        relay,
        origin,
        wasted,
        ..
    } = finished.counters;
    GetReport {
        path: finished.path.clone(),
        bytes: finished.bytes,
        seconds: spec.started.elapsed().as_secs_f64(),
        sha256: finished.sha256.filter(|_| spec.digest),
        verified_by: fetched.verified_by,
        reasons: reasons.list(),
        peer_bytes: peer,
        relay_bytes: relay,
        origin_bytes: origin,
        // What no source brought was here before.
        resumed_bytes: finished.bytes.saturating_sub(peer + relay + origin),
        wasted_bytes: wasted,
        explanation: None,
    }
}

/// Asks control who vouched for the pieces; that it does not answer is no failure.
async fn explain(job: &Job, fetched: &Fetched) -> Explanation {
    let sid = job.orders.borrow().sid;
    let growth = match job.link.as_ref().zip(sid) {
        None => None,
        Some((link, sid)) => match link.client.growth(sid).await {
            Ok(growth) => Some(growth),
            Err(error) => {
                tracing::warn!(%error, "control does not say who reported the pieces");
                None
            }
        },
    };
    Explanation {
        sources: fetched.finished.sources.clone(),
        growth,
    }
}

/// Seeds until time or ratio is reached, or it is stopped.
async fn seed(
    spec: &GetSpec,
    content: Option<&Content>,
    report: GetReport,
    started: &mut Started,
    shutdown: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Result<GetReport, GetError> {
    let Some(content) = content.filter(|_| spec.seed_time.is_some() || spec.seed_ratio.is_some())
    else {
        return Ok(report);
    };
    (started.running.job.listener)(GetEvent::Seeding(Box::new(report.clone())));
    let time = async {
        match spec.seed_time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let Started {
        running,
        conversation,
        ..
    } = started;
    tokio::select! {
        () = time => {}
        () = ratio(spec.seed_ratio, content) => {}
        () = shutdown => {}
        // Orders bring new peers; without control there are none.
        _ = running.job.serve(content), if spec.is_controlled() => {}
        // Control that refuses this node now ends the conversation, not the seeding.
        () = async {
            conversation.hold().await;
            std::future::pending::<()>().await;
        } => {}
    }
    Ok(report)
}

/// Waits until the ratio is reached; for ever when there is none.
async fn ratio(ratio: Option<f64>, content: &Content) {
    let Some(ratio) = ratio else {
        return std::future::pending().await;
    };
    let mut progress = content.progress();
    while !reached(
        ratio,
        progress.borrow_and_update().counters.sent,
        content.length().unwrap_or(0),
    ) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of sizes below 2^53")]
fn reached(ratio: f64, sent: u64, length: u64) -> bool {
    sent as f64 >= ratio * length as f64
}
