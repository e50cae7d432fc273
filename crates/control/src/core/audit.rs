//! Audits: other relays read some of the reported pieces again, and relays that proved wrong are trusted no more.
//!
//! Which pieces and what follows is decided in [`tasks::audit`](crate::tasks::audit). A content is not final while an audit
//! of it is open, so that no false hash that an audit finds is ever in a published torrent.

use std::time::Duration;

use floodway_api::rest::AuditCounts;
use floodway_api::sync::{PIECES_PER_SYNC, PieceReport, RelayReport};
use floodway_proto::record::EndReason;
use floodway_proto::{NodeId, Sid};

use super::Core;
use crate::db::{AuditRow, Change, DistrustRow, RelayState};
use crate::tasks::audit::{Audits, Outcome, Verdict, interval, quota};

/// Who has not answered by then is not waited for any longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// At most so many audits of one content are open at once.
const OPEN_MAX: usize = 16;
/// So many disputes of one content may wait that one relay began: the first that ends decides whether it, or who reported, is
/// believed in the others.
pub(super) const DISPUTES_MAX: usize = 4;

impl Core {
    /// Chooses among the pieces that were just reported, for relays other than the one that reported them.
    pub(super) fn choose_audits(&mut self, sid: Sid, news: &[PieceReport]) {
        let Some(each) = interval(self.config.settings.audit_share) else {
            return;
        };
        if !self.model.pieces.contains_key(&sid) {
            return;
        }
        let fresh = self.unaudited.entry(sid).or_default();
        fresh.extend(news.iter().map(|piece| piece.piece));
        while let Some((piece, auditor)) = self.next_audit(sid, each) {
            self.ask_again(sid, piece, auditor);
            // Each choice is among what came since the last one, so that late pieces are as likely as early ones.
            self.unaudited.insert(sid, Vec::new());
        }
    }

    fn next_audit(&mut self, sid: Sid, each: u32) -> Option<(u32, NodeId)> {
        let (row, table) = (self.model.contents.get(&sid)?, self.model.pieces.get(&sid)?);
        let none = Audits::default();
        let audits = self.model.audits.get(&sid).unwrap_or(&none);
        let known = table.known().count();
        let due = audits.chosen() < quota(each, known, table.count());
        if !due || !row.ranges || audits.open().count() >= OPEN_MAX {
            return None;
        }
        let unaudited = |piece: &u32| table.known().get(*piece) && !audits.is_audited(*piece);
        let fresh = self.unaudited.get(&sid).into_iter().flatten().copied();
        let mut pieces: Vec<u32> = fresh.filter(unaudited).collect();
        if pieces.is_empty() {
            pieces = (0..table.count()).filter(unaudited).collect();
        }
        let piece = self.rng.choice(pieces)?;
        let (reporter, _) = table.reading(piece)?;
        Some((piece, self.auditor(sid, piece, &[reporter])?))
    }

    /// Whether a relay that is live reads again what others reported.
    pub(super) fn audits(&self, node: NodeId) -> bool {
        let live = self.live.get(&node);
        live.is_some_and(|live| live.said.audits && live.said.feeds_from.is_empty())
    }

    /// A relay that can read the piece again and is none of these.
    fn auditor(&mut self, sid: Sid, piece: u32, not: &[NodeId]) -> Option<NodeId> {
        let row = self.model.contents.get(&sid).filter(|row| row.ranges)?;
        let task = row.relay_task.clone();
        let audits = self.model.audits.get(&sid);
        let asked = |node| audits.is_some_and(|audits| audits.get(piece, node).is_some());
        let relays = self.live_relays().filter(|node| {
            let works = !self.has_failed(*node, &task) && !self.is_paused(*node, sid);
            self.audits(*node) && works && !not.contains(node) && !asked(*node)
        });
        let relays: Vec<NodeId> = relays.collect();
        self.rng.choice(relays)
    }

    fn ask_again(&mut self, sid: Sid, piece: u32, auditor: NodeId) {
        tracing::debug!(%sid, piece, %auditor, "a piece is to be read again");
        self.audited(sid, piece, auditor, Outcome::Open, None);
        self.dirty.insert(auditor);
    }

    pub(super) fn audited(
        &mut self,
        sid: Sid,
        piece: u32,
        node: NodeId,
        outcome: Outcome,
        found: Option<&PieceReport>,
    ) {
        let key = (sid, piece, node);
        if outcome == Outcome::Open {
            self.audits_end.insert(key, self.now.time + PATIENCE);
        } else {
            self.audits_end.remove(&key);
        }
        self.change(Change::Audit(AuditRow {
            sid,
            piece,
            node,
            outcome,
            digests: found.map(|found| (found.node, found.sha1)),
        }));
    }

    /// The pieces that a relay is to read again.
    pub(super) fn audit_orders(&self, node: NodeId, sid: Sid) -> Vec<u32> {
        if !self.audits(node) {
            return Vec::new();
        }
        let audits = self.model.audits.get(&sid).into_iter();
        let open = audits.flat_map(Audits::open);
        let own = open.filter(|(_, auditor)| *auditor == node);
        own.map(|(piece, _)| piece).collect()
    }

    pub(super) fn has_open_audits(&self, sid: Sid) -> bool {
        let audits = self.model.audits.get(&sid);
        audits.is_some_and(|audits| audits.open().next().is_some())
    }

    /// How the audits of a content went.
    pub(super) fn audit_counts(&self, sid: Sid) -> Option<AuditCounts> {
        let audits = self.model.audits.get(&sid)?;
        let mut counts = AuditCounts::default();
        for (.., reading) in audits.iter() {
            *match reading.outcome {
                Outcome::Open => &mut counts.open,
                Outcome::Equal => &mut counts.equal,
                Outcome::Different => &mut counts.different,
                Outcome::Unread => &mut counts.unread,
            } += 1;
        }
        Some(counts)
    }

    /// Takes in what a relay read again. Nobody is heard who was not asked.
    pub(super) fn audits_reported(&mut self, node: NodeId, report: &RelayReport) {
        let Some(sid) = report.sid else {
            return;
        };
        let asked = |core: &Self, piece| {
            let audits = core.model.audits.get(&sid);
            let reading = audits.and_then(|audits| audits.get(piece, node));
            reading.is_some_and(|reading| reading.outcome == Outcome::Open)
        };
        let open = self.open_audits_of(node, sid);
        for found in report.audited.iter().take(PIECES_PER_SYNC) {
            let table = self.model.pieces.get(&sid);
            let reported = table.and_then(|table| table.reading(found.piece));
            let Some((_, reported)) = reported.filter(|_| asked(self, found.piece)) else {
                continue;
            };
            if reported == (found.node, found.sha1) {
                self.audited(sid, found.piece, node, Outcome::Equal, None);
                self.confirm(sid, &[found.piece]);
            } else {
                self.audited(sid, found.piece, node, Outcome::Different, Some(found));
            }
            self.judge(sid, found.piece);
        }
        for &piece in report.unread.iter().take(PIECES_PER_SYNC) {
            if asked(self, piece) {
                self.audited(sid, piece, node, Outcome::Unread, None);
                self.judge(sid, piece);
            }
        }
        if self.open_audits_of(node, sid) < open {
            // It reads one after the other, and is at work.
            let end = self.now.time + PATIENCE;
            let own = self.audits_end.iter_mut();
            for (_, ends) in own.filter(|((of, _, by), _)| (*of, *by) == (sid, node)) {
                *ends = end;
            }
        }
        // There is room for more now.
        self.choose_audits(sid, &[]);
        self.finish_if_complete(sid);
    }

    fn open_audits_of(&self, node: NodeId, sid: Sid) -> usize {
        let audits = self.model.audits.get(&sid).into_iter();
        let open = audits.flat_map(Audits::open);
        open.filter(|(_, auditor)| *auditor == node).count()
    }

    /// Draws the consequences of what is known of one piece.
    pub(super) fn judge(&mut self, sid: Sid, piece: u32) {
        let (Some(audits), Some(table)) =
            (self.model.audits.get(&sid), self.model.pieces.get(&sid))
        else {
            return;
        };
        let Some((reporter, reported)) = table.reading(piece) else {
            return;
        };
        let trusted = |node| !self.is_distrusted(node);
        match audits.verdict(piece, reporter, reported, trusted) {
            Verdict::Open | Verdict::Agreed => {}
            Verdict::Disputed => self.dispute(sid, piece, reporter),
            Verdict::Against(nodes) => {
                for node in nodes {
                    let why = format!(
                        "it read piece {piece} of content {sid} otherwise than two other relays: it lies, its disk or memory is damaged, or a mirror gives it another version"
                    );
                    self.distrust(node, &why);
                }
            }
            Verdict::Unstable => {
                let why = format!("no two relays read the same bytes of piece {piece}");
                self.unstable(sid, &why);
            }
        }
    }

    /// Two relays differ: a third decides. Without one nobody knows who is right, and the content is given up.
    fn dispute(&mut self, sid: Sid, piece: u32, reporter: NodeId) {
        tracing::warn!(%sid, piece, "two relays differ about a piece");
        if let Some(third) = self.auditor(sid, piece, &[reporter]) {
            return self.ask_again(sid, piece, third);
        }
        let audits = self.model.audits.get(&sid);
        let differs = audits.and_then(|audits| {
            let mut dissenters = audits.dissenters(piece);
            dissenters.find(|node| !self.is_distrusted(*node))
        });
        let relay_task = self
            .model
            .contents
            .get(&sid)
            .map(|row| row.relay_task.clone());
        if let (Some(auditor), Some(relay_task)) = (differs, relay_task) {
            let why = format!(
                "an audit of piece {piece} by relay {} differs from what relay {} reported, and no third relay is there to decide: one of them lies or is damaged, the object changed, or a mirror serves another version",
                self.name_of(auditor),
                self.name_of(reporter),
            );
            self.content_changed(&relay_task, sid, &why);
        }
    }

    /// Nothing that this relay says counts any more, and growing contents with pieces of it are given up: what it reported is
    /// signed, and what is signed cannot be taken back.
    pub(super) fn distrust(&mut self, node: NodeId, reason: &str) {
        if self.is_distrusted(node) {
            return;
        }
        tracing::error!(%node, name = self.name_of(node), reason, "a relay is trusted no more");
        let since_us = self.now.us;
        self.change(Change::Distrust(DistrustRow {
            node,
            reason: reason.to_owned(),
            since_us,
        }));
        let growing: Vec<_> = self.model.pieces.keys().copied().collect();
        for sid in growing {
            self.free_leases(node, sid);
            let table = self.model.pieces.get(&sid);
            let reported = table.is_some_and(|table| table.has_reported(node));
            let row = self.model.contents.get(&sid);
            let task = row.map(|row| row.relay_task.clone());
            if let Some(task) = task.filter(|_| reported) {
                self.replace_content(&task, sid, reason, EndReason::FalseFact);
            } else {
                self.without(node, sid);
                self.finish_if_complete(sid);
            }
        }
        self.judge_open_tasks();
        self.wake_relays();
    }

    /// Goes on with a content without the word of a relay that is trusted no more: what it was asked for is not waited for, nor
    /// what others were asked for only because it differed.
    fn without(&mut self, node: NodeId, sid: Sid) {
        let Some(audits) = self.model.audits.get(&sid) else {
            return;
        };
        let settled = |piece: u32| {
            let mut dissenters = audits.dissenters(piece).peekable();
            dissenters.peek().is_some() && dissenters.all(|node| self.is_distrusted(node))
        };
        let over = |(piece, auditor): &(u32, NodeId)| *auditor == node || settled(*piece);
        let over: Vec<_> = audits.open().filter(over).collect();
        for &(piece, auditor) in &over {
            self.audited(sid, piece, auditor, Outcome::Unread, None);
            self.dirty.insert(auditor);
        }
        for (piece, _) in over {
            self.judge(sid, piece);
        }
    }

    pub(super) fn is_distrusted(&self, node: NodeId) -> bool {
        self.model.distrusted.contains_key(&node)
    }

    /// The content can never be right.
    fn unstable(&mut self, sid: Sid, why: &str) {
        let row = self.model.contents.get(&sid);
        let task = row.and_then(|row| self.model.relay_tasks.get(&row.relay_task));
        let Some(task) = task.filter(|task| task.state == RelayState::Open).cloned() else {
            return;
        };
        self.abort_manifest(sid, EndReason::OriginUnstable);
        let reason = format!("the origin gives different bytes at each read: {why}");
        self.end_task(task, RelayState::Failed, Some(reason));
    }

    /// Does not wait for relays that are gone or take too long.
    pub(super) fn end_late_audits(&mut self) {
        let now = self.now.time;
        let late = self.audits_end.iter().filter(|(_, end)| **end <= now);
        let late: Vec<_> = late.map(|(key, _)| *key).collect();
        for (sid, piece, node) in late {
            if !self.model.pieces.contains_key(&sid) || !self.has_open_audits(sid) {
                self.audits_end.remove(&(sid, piece, node));
                continue;
            }
            tracing::warn!(%sid, piece, %node, "a relay did not read a piece again that it was asked for");
            self.audited(sid, piece, node, Outcome::Unread, None);
            self.judge(sid, piece);
            self.choose_audits(sid, &[]);
            self.finish_if_complete(sid);
        }
    }

    /// A relay that went away does not answer any more.
    pub(super) fn end_audits_of(&mut self, gone: NodeId) {
        let own = self.audits_end.iter_mut();
        for (_, end) in own.filter(|((.., node), _)| *node == gone) {
            *end = self.now.time;
        }
    }

    /// After a start, open audits get their time anew.
    pub(super) fn resume_audits(&mut self) {
        let end = self.now.time + PATIENCE;
        let open = self.model.audits.iter().flat_map(|(sid, audits)| {
            let open = audits.open();
            open.map(|(piece, node)| ((*sid, piece, node), end))
        });
        self.audits_end = open.collect();
        self.resume_confirmations();
    }
}
