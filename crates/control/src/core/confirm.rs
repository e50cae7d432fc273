//! A second relay confirms SHA-1s before a content is final.
//!
//! Nodes verify pieces by the SHA-256 tree; a false SHA-1 beside a true node would be noticed by nobody but the stock clients of
//! the v1 torrent. Relays compute both digests of what they get from each other, so it costs no byte of the origin to compare them.

use std::collections::BTreeMap;
use std::time::Duration;

use floodway_api::sync::{PIECES_PER_SYNC, PieceReport, RelayReport};
use floodway_proto::{NodeId, Sid, Time};

use super::Core;
use super::audit::DISPUTES_MAX;
use crate::db::{Change, ConfirmedRow};
use crate::tasks::audit::Outcome;

/// However well confirmations come, the rest of a complete content is waited for at most so many times the setting
/// `confirm_wait`.
const WAITS_MAX: u32 = 2;

/// What relays say of pieces that nobody has reported, by piece: no more than one word of each relay for every piece. They are lost with
/// the process; contents that are complete after a start wait no longer than others.
pub(super) type EarlyWords = BTreeMap<u32, BTreeMap<NodeId, PieceReport>>;

/// How long a complete content waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Unless a relay confirms something before.
    until: Time,
    /// In any case.
    at_most: Time,
}

impl Wait {
    fn new(now: Time, patience: Duration) -> Self {
        Self {
            until: now + patience,
            at_most: now + patience.saturating_mul(WAITS_MAX),
        }
    }

    fn extended(self, now: Time, patience: Duration) -> Self {
        let until = (now + patience).min(self.at_most);
        Self { until, ..self }
    }
}

impl Core {
    /// Takes in what a relay computed of pieces that it got from others.
    pub(super) fn held_reported(&mut self, node: NodeId, report: &RelayReport) {
        let Some(sid) = report.sid else {
            return;
        };
        // Who feeds from others has no say: it could not be told apart from a liar by reading the origin.
        if !self.audits(node) {
            return;
        }
        self.compare(node, sid, report.held.iter().take(PIECES_PER_SYNC).copied());
        self.finish_if_complete(sid);
    }

    /// What a relay says of pieces that it got from others, beside what these reported.
    fn compare(&mut self, node: NodeId, sid: Sid, said: impl Iterator<Item = PieceReport>) {
        let (mut equal, mut impossible) = (Vec::new(), Vec::new());
        for found in said {
            let Some(table) = self.model.pieces.get(&sid) else {
                return;
            };
            let Some((reporter, reported)) = table.reading(found.piece) else {
                // Pieces pass from relay to relay faster than their reports reach control.
                if found.piece < table.count() {
                    let words = self.early_words.entry(sid).or_default();
                    words.entry(found.piece).or_default().insert(node, found);
                }
                continue;
            };
            if reporter == node {
                continue;
            }
            if reported == (found.node, found.sha1) {
                equal.push(found.piece);
            } else if reported.0 == found.node {
                self.differs(sid, node, &found);
            } else {
                impossible.push(found);
            }
        }
        self.confirm(sid, &equal);
        let message = "a piece that others gave is held only when it has the signed SHA-256, and this is another";
        self.refuse(node, Some(sid), "not_signed", message, &impossible);
    }

    /// These pieces were reported: others may have spoken of them before.
    pub(super) fn compare_early(&mut self, sid: Sid, reported: &[PieceReport]) {
        let Some(words) = self.early_words.get_mut(&sid) else {
            return;
        };
        let mut said: BTreeMap<NodeId, Vec<PieceReport>> = BTreeMap::new();
        for (node, found) in reported
            .iter()
            .filter_map(|piece| words.remove(&piece.piece))
            .flatten()
        {
            said.entry(node).or_default().push(found);
        }
        for (node, found) in said {
            if self.audits(node) {
                self.compare(node, sid, found.into_iter());
            }
        }
    }

    /// A second relay has the same SHA-1 of these pieces.
    pub(super) fn confirm(&mut self, sid: Sid, pieces: &[u32]) {
        let confirmed = self.model.confirmed.get(&sid);
        let is_new = |piece: &u32| confirmed.is_none_or(|confirmed| !confirmed.contains(piece));
        let mut news: Vec<u32> = pieces.iter().copied().filter(is_new).collect();
        news.sort_unstable();
        news.dedup();
        if news.is_empty() || !self.model.pieces.contains_key(&sid) {
            return;
        }
        for run in news.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            self.change(Change::Confirmed(ConfirmedRow {
                sid,
                first: run[0],
                count: u32::try_from(run.len()).unwrap_or(u32::MAX),
            }));
        }
        let (now, patience) = (self.now.time, self.advanced().confirm_wait.0);
        if let Some(wait) = self.confirm_waits.get_mut(&sid) {
            *wait = wait.extended(now, patience);
        }
    }

    /// A relay that has verified the piece's SHA-256 finds another SHA-1.
    fn differs(&mut self, sid: Sid, node: NodeId, found: &PieceReport) {
        let audits = self.model.audits.get(&sid);
        if audits.is_some_and(|audits| audits.disputes_of(node).len() >= DISPUTES_MAX) {
            return;
        }
        let before = audits.and_then(|audits| audits.get(found.piece, node));
        if before.is_none_or(|before| before.outcome == Outcome::Open) {
            self.audited(sid, found.piece, node, Outcome::Different, Some(found));
            self.judge(sid, found.piece);
        }
    }

    /// A content became complete: from now on it waits, whatever else it waits for.
    pub(super) fn begin_wait(&mut self, sid: Sid) {
        let wait = Wait::new(self.now.time, self.advanced().confirm_wait.0);
        self.confirm_waits.entry(sid).or_insert(wait);
    }

    /// True while a complete content waits for a relay that can still confirm some SHA-1s.
    pub(super) fn awaits_confirmation(&self, sid: Sid) -> bool {
        if self.config.settings.audit_share <= 0.0 || !self.is_unconfirmed(sid) {
            return false;
        }
        let wait = self.confirm_waits.get(&sid);
        let waits = wait.is_some_and(|wait| self.now.time < wait.until);
        if !waits {
            tracing::warn!(%sid, "not waited any longer for a second relay's word for every SHA-1");
        }
        waits
    }

    /// A relay is there that can confirm what none has confirmed.
    fn is_unconfirmed(&self, sid: Sid) -> bool {
        let Some(table) = self.model.pieces.get(&sid) else {
            return false;
        };
        let confirmed = self.model.confirmed.get(&sid);
        let witnesses: Vec<NodeId> = self
            .live_relays()
            .filter(|node| self.can_confirm(*node, sid))
            .collect();
        (0..table.count()).any(|piece| {
            let unconfirmed = confirmed.is_none_or(|pieces| !pieces.contains(&piece));
            let reporter = table.reading(piece).map(|(reporter, _)| reporter);
            unconfirmed && witnesses.iter().any(|node| Some(*node) != reporter)
        })
    }

    /// The relay gets pieces of the content from others and says what they hash to.
    fn can_confirm(&self, node: NodeId, sid: Sid) -> bool {
        let Some(live) = self.live.get(&node).filter(|_| self.audits(node)) else {
            return false;
        };
        let row = self.model.contents.get(&sid);
        let works = row.is_some_and(|row| !self.has_failed(node, &row.relay_task));
        let report = live.said.contents.iter().find(|report| report.sid == sid);
        let takes_part = report.is_some_and(|report| {
            report.serving && report.manifest.is_some() && report.paused.is_none()
        });
        works && takes_part
    }

    /// After a start contents that are complete wait once more for what is not confirmed yet: relays come back one by one.
    pub(super) fn resume_confirmations(&mut self) {
        let wait = Wait::new(self.now.time, self.advanced().confirm_wait.0);
        let tables = self.model.pieces.iter();
        let complete = tables.filter(|(_, table)| table.is_complete());
        self.confirm_waits = complete.map(|(sid, _)| (*sid, wait)).collect();
    }

    /// Contents that waited long enough become final.
    pub(super) fn end_confirmations(&mut self) {
        let now = self.now.time;
        let pieces = &self.model.pieces;
        self.confirm_waits.retain(|sid, _| pieces.contains_key(sid));
        self.early_words.retain(|sid, _| pieces.contains_key(sid));
        self.unaudited.retain(|sid, _| pieces.contains_key(sid));
        let late = self.confirm_waits.iter();
        let late = late.filter(|(_, wait)| wait.until <= now);
        for sid in late.map(|(sid, _)| *sid).collect::<Vec<_>>() {
            self.finish_if_complete(sid);
        }
    }
}
