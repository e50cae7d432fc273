//! One relay task, from probe to seed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_api::sync::{
    ContentInfo, ContentReport, PieceReport, ProbeReport, RelayContent, RelayFailure,
    RelayFailureKind,
};
use floodway_origin::{Access, ErrorKind, OriginError, Probe, SourceUrl, UrlCheck};
use floodway_proto::genesis::Genesis;
use floodway_proto::record::{SecretKey, Signed};
use floodway_proto::{SafeName, Sid};
use floodway_swarm::SourceClass;
use tokio::sync::{mpsc, watch};

use super::audit::Audited;
use super::folder;
use super::held::{Held, OpenFailure, paused_report};
use super::http::Serving;
use super::pending::json_length;
use crate::control_client::ControlClient;
use crate::manifest::records;
use crate::origin_source::{WHOLE_TRIES, etag_of, probe, same_host};
use crate::state::DataDir;
use crate::{ContentEvent, PeerAt, Session};

/// Between tries of what failed for a passing reason.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an origin that is away is probed again.
const PATIENCE: Duration = Duration::from_secs(15);

/// What control wants of this task now.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    pub(super) content: Option<RelayContent>,
    /// The files of a folder that is to be probed, if control named them.
    pub(super) files: Vec<String>,
    pub(super) news: News,
    /// The task is not this relay's any more: stop and delete.
    pub(super) dropped: bool,
}

/// What control says of a content with each sync.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    pub(super) peers: Vec<PeerAt>,
    /// What it says of the content as a whole.
    pub(super) info: Option<ContentInfo>,
    /// Records that this relay did not report to know. Lost ones come again with the next sync.
    pub(super) records: Vec<Signed>,
}

impl News {
    pub(super) fn of(info: &ContentInfo) -> Self {
        Self {
            peers: info.peers.iter().map(PeerAt::from).collect(),
            records: records(info.manifest.as_ref()),
            info: Some(info.clone()),
        }
    }
}

/// What the work tells the relay.
#[derive(Debug)]
pub(super) enum Note {
    /// It begins with a content, or with a probe.
    Begins(Option<Sid>),
    Probed(ProbeReport),
    Piece(PieceReport),
    /// The origin's body ended after so many bytes, which nobody knew before.
    Ended(u64),
    /// A piece was read again for control; `None`: it could not be.
    Audited(u32, Option<PieceReport>),
    Failed(RelayFailure),
    /// How much is held.
    Holds {
        report: ContentReport,
        changed: bool,
    },
}

/// What all works share.
pub(super) struct Tools {
    pub(super) data: Arc<DataDir>,
    pub(super) session: Session,
    pub(super) client: watch::Receiver<ControlClient>,
    pub(super) serving: Serving,
    /// It takes everything from other relays, and reads no origin.
    pub(super) feeds: bool,
    /// What this process signs with that it reads under leases. It is never written down.
    pub(super) signer: Arc<SecretKey>,
    /// See [`RelaySettings`](super::RelaySettings).
    pub(super) serve_after_complete: bool,
}

pub(super) struct Work {
    pub(super) task: String,
    pub(super) url: String,
    pub(super) tools: Arc<Tools>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) notes: mpsc::UnboundedSender<(String, Note)>,
    /// How often the one GET of the whole broke off, in a row.
    pub(super) broken: u32,
}

/// Why the work on a content ended.
pub(super) enum End {
    /// Orders name another content, none, or the end of the task.
    Reordered,
    /// Begin anew with the same content.
    Again,
    /// The same, since the one GET of the whole broke off: why.
    BrokeOff(String),
    /// It is final, and records do not lead there: go on with the same bytes by its torrent.
    ByTorrent,
    /// It cannot go on.
    Failed(RelayFailure),
}

impl Work {
    /// Works until the task is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let order = self.orders.borrow_and_update().clone();
            if order.dropped || self.process_ends() {
                return;
            }
            let sid = order.content.as_ref().map(|content| content.sid);
            self.tell(Note::Begins(sid));
            let result = match self.source_url() {
                Err(failure) => Err(failure),
                Ok(url) => match &order.content {
                    // Control does not ask it to. One that was started with other settings may have.
                    None if self.tools.feeds => Ok(()),
                    None => self.probe(&url).await,
                    Some(content) => match self.content(content, &url).await {
                        End::Failed(failure) => Err(failure),
                        End::BrokeOff(why) => match self.again_after_break(&why).await {
                            Ok(()) => continue,
                            Err(failure) => Err(failure),
                        },
                        End::Again => {
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                        End::Reordered | End::ByTorrent => {
                            self.broken = 0;
                            continue;
                        }
                    },
                },
            };
            if let Err(failure) = result {
                tracing::warn!(
                    task = self.task,
                    message = failure.message,
                    "a relay task failed here"
                );
                self.tell(Note::Failed(failure));
            }
            self.broken = 0;
            // Whatever was reported, control answers with other orders.
            if self.reordered(sid).await.is_err() {
                return;
            }
        }
    }

    /// The one GET of the whole broke off: waits before the next try, longer each time, as long as there is to be one.
    async fn again_after_break(&mut self, why: &str) -> Result<(), RelayFailure> {
        self.broken += 1;
        if self.broken < WHOLE_TRIES {
            tokio::time::sleep(PAUSE * self.broken).await;
            return Ok(());
        }
        let message = format!(
            "the origin's body broke off {WHOLE_TRIES} times before its end, and it cannot be read on from there, since the origin has no ranges or no strong validator: {why}"
        );
        Err(failure(RelayFailureKind::Local, message))
    }

    /// Nobody gives orders any more, although the task was not dropped.
    fn process_ends(&self) -> bool {
        self.orders.has_changed().is_err() && !self.orders.borrow().dropped
    }

    fn tell(&self, note: Note) {
        // The relay is gone only when the process ends.
        let _ = self.notes.send((self.task.clone(), note));
    }

    fn source_url(&self) -> Result<SourceUrl, RelayFailure> {
        self.url
            .parse()
            .map_err(|error| failure(RelayFailureKind::Refused, format!("url: {error}")))
    }

    /// Waits for orders about something else than `sid`.
    async fn reordered(&mut self, sid: Option<Sid>) -> Result<(), watch::error::RecvError> {
        let other = |order: &Order| {
            order.dropped || order.content.as_ref().map(|content| content.sid) != sid
        };
        self.orders.wait_for(other).await.map(drop)
    }

    /// Asks the origin what the object is.
    async fn probe(&mut self, url: &SourceUrl) -> Result<(), RelayFailure> {
        if folder::is_folder(url) {
            return self.probe_folder(url).await;
        }
        let name = SafeName::from_url_path(url.as_str())
            .map_err(|error| failure(RelayFailureKind::Refused, format!("url: {error}")))?;
        let (session, check) = (self.tools.session.clone(), same_host(url));
        let found = tokio::select! {
            found = patient_probe(&session, url, &check) => found.map_err(|error| of_origin(&error))?,
            _ = self.reordered(None) => return Ok(()),
        };
        self.tell(Note::Probed(ProbeReport {
            length: found.length,
            etag: etag_of(&found.validator),
            last_modified: found.last_modified.clone(),
            ranges: found.access() == Access::Ranges,
            name: name.as_str().to_owned(),
            files: Vec::new(),
        }));
        Ok(())
    }

    async fn probe_folder(&mut self, url: &SourceUrl) -> Result<(), RelayFailure> {
        let name = folder::name_of(url)?;
        let (session, check) = (self.tools.session.clone(), same_host(url));
        let listed = self.orders.borrow().files.clone();
        let (files, ranges) = tokio::select! {
            found = folder::probe(&session, url, &listed, &check) => found?,
            _ = self.reordered(None) => return Ok(()),
        };
        let report = ProbeReport {
            length: None,
            etag: None,
            last_modified: None,
            ranges,
            name: name.as_str().to_owned(),
            files,
        };
        folder::check_length(url, report.files.len(), json_length(&report))?;
        self.tell(Note::Probed(report));
        Ok(())
    }

    /// Works on one content until orders change.
    async fn content(&mut self, order: &RelayContent, url: &SourceUrl) -> End {
        let genesis = match self.tools.genesis(order).await {
            Ok(genesis) => genesis,
            Err(OpenFailure::Final(failure)) => return End::Failed(failure),
            Err(OpenFailure::Passing(problem) | OpenFailure::Disk(problem)) => {
                tracing::warn!(problem, "a content's genesis cannot be had yet");
                return End::Again;
            }
        };
        let held = match self.open(order, url, &genesis).await {
            Ok(held) => held,
            Err(end) => return end,
        };
        held.stand(&self.orders.borrow().news);
        held.open_to_others(&self.tools);
        // Control lists it as a source from the first report on.
        self.tell(held.holds(true));
        let end = self.tend(order.sid, held).await;
        if self.process_ends() {
            return end;
        }
        self.tools.serving.remove(order.sid);
        let (data, sid) = (&self.tools.data, order.sid);
        let removed = match &end {
            End::Reordered => data.remove_content(sid),
            // The same content, but perhaps other bytes.
            End::Again | End::BrokeOff(_) if !order.ranges => data.reset_content(sid),
            End::Failed(failure) if failure.kind == RelayFailureKind::Changed => {
                data.remove_content(sid)
            }
            End::Again | End::BrokeOff(_) | End::ByTorrent | End::Failed(_) => Ok(()),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "a dropped content could not be removed");
        }
        end
    }

    /// Opens the content; a full disk is waited for, as long as it takes, and control is told.
    async fn open(
        &mut self,
        order: &RelayContent,
        url: &SourceUrl,
        genesis: &Genesis,
    ) -> Result<Held, End> {
        let mut order = order.clone();
        loop {
            match Held::open(&self.tools, &order, url, genesis.clone()).await {
                Ok(held) => return Ok(held),
                Err(OpenFailure::Final(failure)) => return Err(End::Failed(failure)),
                Err(OpenFailure::Passing(problem)) => {
                    tracing::warn!(problem, "a content cannot be opened yet");
                    return Err(End::Again);
                }
                Err(OpenFailure::Disk(why)) => {
                    tracing::warn!(
                        why,
                        "the disk refused; nothing is fetched until it works again"
                    );
                    let report = paused_report(order.sid, why);
                    self.tell(Note::Holds {
                        report,
                        changed: true,
                    });
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = self.reordered(Some(order.sid)) => return Err(End::Reordered),
            }
            // Leases may have changed meanwhile.
            if let Some(newest) = self.orders.borrow_and_update().content.clone() {
                order = newest;
            }
        }
    }

    /// Keeps a content going: leases, peers, records, events, the final names.
    async fn tend(&mut self, sid: Sid, mut held: Held) -> End {
        let content = held.content.clone();
        let (mut events, mut progress) = (content.events(), content.progress());
        let mut look = tokio::time::interval(PAUSE);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        break End::Reordered;
                    }
                    let order = self.orders.borrow_and_update().clone();
                    match order.content.filter(|content| content.sid == sid && !order.dropped) {
                        Some(ordered) if held.needs_torrent(&ordered) => break End::ByTorrent,
                        Some(ordered) if held.takes_over(&ordered) => break End::Again,
                        Some(ordered) => {
                            if held.ordered(&ordered, order.news) {
                                self.tell(held.holds(false));
                            }
                        }
                        None => break End::Reordered,
                    }
                }
                Some(audited) = held.auditor.next() => {
                    if let Some(end) = self.audited(audited) {
                        break end;
                    }
                }
                Some(event) = events.recv() => {
                    if let Some(end) = self.event(&mut held, &event) {
                        break end;
                    }
                }
                Ok(()) = progress.changed() => self.tell(held.holds(false)),
                _ = look.tick() => {
                    if held.is_stranded() {
                        break End::ByTorrent;
                    }
                    held.look();
                }
                named = content.named(), if held.is_final && !held.complete => match named {
                    Ok(finished) => {
                        held.complete = true;
                        if let Some(stamp) = finished.stamp {
                            self.tools.data.save_stamp(sid, stamp);
                        }
                        self.tell(held.holds(true));
                    }
                    Err(error) => break End::Failed(failure(RelayFailureKind::Local, error.to_string())),
                },
            }
        };
        let keeps = match &end {
            End::ByTorrent => true,
            End::Failed(failure) => failure.kind == RelayFailureKind::Local,
            End::Reordered | End::Again | End::BrokeOff(_) => false,
        };
        let delete = !self.process_ends() && !keeps;
        content.stop(delete).await;
        end
    }

    fn audited(&self, (piece, read): Audited) -> Option<End> {
        let found = match read {
            Ok(found) => found,
            Err(error) if matches!(error.kind(), ErrorKind::Changed) => {
                return Some(End::Failed(of_origin(&error)));
            }
            Err(error) => {
                tracing::warn!(piece, %error, "a piece could not be read again for an audit");
                None
            }
        };
        self.tell(Note::Audited(piece, found));
        None
    }

    fn event(&self, held: &mut Held, event: &ContentEvent) -> Option<End> {
        match event {
            ContentEvent::PieceDone { piece, digest } => {
                held.log_first(*piece);
                if let (Some(node), Some(sha1)) = (digest.node, digest.sha1) {
                    self.tell(Note::Piece(PieceReport {
                        piece: piece.0,
                        node,
                        sha1,
                    }));
                }
                None
            }
            ContentEvent::BodyEnded { length } => {
                self.tell(Note::Ended(*length));
                None
            }
            ContentEvent::Paused(error) => {
                held.paused = Some(error.to_string());
                self.tell(held.holds(true));
                None
            }
            ContentEvent::Resumed => {
                held.paused = None;
                self.tell(held.holds(true));
                None
            }
            ContentEvent::Record(record) => {
                held.keep(&self.tools, record);
                self.tell(held.holds(false));
                None
            }
            ContentEvent::Final { torrent, name } => {
                held.became_final(&self.tools, torrent.as_deref(), *name);
                self.tell(held.holds(true));
                None
            }
            ContentEvent::AllHashes { names, hashes } => {
                held.knows_all_hashes(&self.tools, names, hashes);
                self.tell(held.holds(true));
                None
            }
            // What it sent before is sealed: others have it by now.
            ContentEvent::SourceDropped { piece, .. } => {
                let message = format!(
                    "the origin sends other bytes of piece {} than it did before, under the same validator",
                    piece.0
                );
                Some(End::Failed(failure(RelayFailureKind::Changed, message)))
            }
            ContentEvent::SourceFailed {
                class: SourceClass::Origin,
                error,
                gone,
                ..
            } => {
                tracing::warn!(%error, gone, "the origin failed");
                if *gone {
                    // A final content needs its origin no more; others have it.
                    return (!held.is_final).then(|| End::Failed(held.given_up_by(error)));
                }
                // Without a pinned version the next GET may bring another one: nothing of this one may stay.
                (!held.ranges && !held.is_final).then(|| held.read_again(error))
            }
            ContentEvent::SourceFailed { source, .. } => {
                held.refused_by(source);
                None
            }
            _ => None,
        }
    }
}

/// An origin that is away for a moment does not fail a task.
pub(super) async fn patient_probe(
    session: &Session,
    url: &SourceUrl,
    check: &Arc<dyn UrlCheck>,
) -> Result<Probe, OriginError> {
    let begun = Instant::now();
    loop {
        match probe(session, url, Some(check)).await {
            Err(error) if error.is_transient() && begun.elapsed() < PATIENCE => {
                tracing::warn!(%error, "the origin cannot be probed yet");
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

pub(super) fn failure(kind: RelayFailureKind, message: String) -> RelayFailure {
    RelayFailure { kind, message }
}

/// What an origin's error means for the task.
pub(super) fn of_origin(error: &OriginError) -> RelayFailure {
    let kind = match error.kind() {
        ErrorKind::NotFound => RelayFailureKind::NotFound,
        ErrorKind::Refused | ErrorKind::NotAllowed => RelayFailureKind::Refused,
        ErrorKind::Changed => RelayFailureKind::Changed,
        ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::RangeIgnored | ErrorKind::Faulty => {
            RelayFailureKind::Local
        }
    };
    failure(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_origin_says_decides_what_control_does() {
        let url = String::new;
        let kind = |error: OriginError| of_origin(&error).kind;
        assert_eq!(
            kind(OriginError::NotFound {
                url: url(),
                status: Some(404)
            }),
            RelayFailureKind::NotFound
        );
        assert_eq!(
            kind(OriginError::Refused {
                url: url(),
                status: Some(403)
            }),
            RelayFailureKind::Refused
        );
        assert_eq!(
            kind(OriginError::NotAllowed {
                url: url(),
                reason: url()
            }),
            RelayFailureKind::Refused
        );
        let changed = OriginError::Changed {
            url: url(),
            what: "x",
            expected: url(),
            found: url(),
        };
        assert_eq!(kind(changed), RelayFailureKind::Changed);
        assert_eq!(
            kind(OriginError::Server {
                url: url(),
                status: 500
            }),
            RelayFailureKind::Local
        );
    }
}
