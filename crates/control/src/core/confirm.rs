//! A second relay confirms SHA-1s before a content is final.
//!
//! Nodes verify pieces by the SHA-256 tree; a false SHA-1 beside a true node would be noticed by nobody but the stock clients of
//! the v1 torrent. Relays compute both digests of what they get from each other, so it costs no byte of the origin to compare them.

use std::time::Duration;

use floodway_api::sync::{PIECES_PER_SYNC, RelayReport};
use floodway_proto::{Bitfield, NodeId, Sid, Time};

use super::Core;
use crate::tasks::audit::Outcome;
use crate::tasks::pieces::PieceTable;

/// When everything is known and no relay has confirmed anything for so long, the rest is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Confirmed {
    pieces: Bitfield,
    until: Option<Time>,
}

impl Core {
    /// Takes in what a relay computed of pieces that it got from others.
    pub(super) fn held_reported(&mut self, node: NodeId, report: &RelayReport) {
        let Some(sid) = report.sid else {
            return;
        };
        for found in report.held.iter().take(PIECES_PER_SYNC) {
            let table = self.model.pieces.get(&sid);
            let Some((reporter, reported)) = table.and_then(|table| table.reading(found.piece))
            else {
                continue;
            };
            if reporter == node {
                continue;
            }
            if reported == (found.node, found.sha1) {
                self.confirm(sid, found.piece);
            } else {
                self.differs(sid, node, found);
            }
        }
        self.finish_if_complete(sid);
    }

    /// A second relay has the same SHA-1.
    pub(super) fn confirm(&mut self, sid: Sid, piece: u32) {
        let Some(count) = self.model.pieces.get(&sid).map(PieceTable::count) else {
            return;
        };
        let now = self.now.time;
        let confirmed = self.confirmed.entry(sid).or_insert_with(|| Confirmed {
            pieces: Bitfield::new(count),
            until: None,
        });
        if !confirmed.pieces.get(piece) {
            confirmed.pieces.set(piece);
            confirmed.until = confirmed.until.map(|_| now + PATIENCE);
        }
    }

    fn differs(&mut self, sid: Sid, node: NodeId, found: &floodway_api::sync::PieceReport) {
        let audits = self.model.audits.get(&sid);
        let before = audits.and_then(|audits| audits.get(found.piece, node));
        if before.is_none_or(|before| before.outcome == Outcome::Open) {
            self.audited(sid, found.piece, node, Outcome::Different, Some(found));
            self.judge(sid, found.piece);
        }
    }

    /// True while a complete content waits for a relay that can still confirm some SHA-1s.
    pub(super) fn awaits_confirmation(&mut self, sid: Sid) -> bool {
        let Some(table) = self.model.pieces.get(&sid) else {
            return false;
        };
        if self.config.settings.audit_share <= 0.0 {
            return false;
        }
        let confirmed = self.confirmed.get(&sid).map(|confirmed| &confirmed.pieces);
        let witnesses: Vec<NodeId> = self
            .live_relays()
            .filter(|node| self.can_confirm(*node, sid))
            .collect();
        let awaited = (0..table.count()).any(|piece| {
            let unconfirmed = confirmed.is_none_or(|pieces| !pieces.get(piece));
            let reporter = table.reading(piece).map(|(reporter, _)| reporter);
            unconfirmed && witnesses.iter().any(|node| Some(*node) != reporter)
        });
        if !awaited {
            return false;
        }
        let (count, now) = (table.count(), self.now.time);
        let confirmed = self.confirmed.entry(sid).or_insert_with(|| Confirmed {
            pieces: Bitfield::new(count),
            until: None,
        });
        let until = *confirmed.until.get_or_insert(now + PATIENCE);
        if now >= until {
            tracing::warn!(%sid, "final without a second relay's word for every SHA-1: nobody confirmed any for 5 s");
        }
        now < until
    }

    /// The relay gets pieces of the content from others and says what they hash to.
    fn can_confirm(&self, node: NodeId, sid: Sid) -> bool {
        let Some(live) = self.live.get(&node).filter(|live| live.said.audits) else {
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

    /// After a start nothing is known of what was confirmed, and relays do not say it again: complete contents wait once more.
    pub(super) fn resume_confirmations(&mut self) {
        let until = self.now.time + PATIENCE;
        let tables = self.model.pieces.iter();
        let complete = tables.filter(|(_, table)| table.is_complete());
        self.confirmed = complete
            .map(|(sid, table)| {
                let pieces = Bitfield::new(table.count());
                let until = Some(until);
                (*sid, Confirmed { pieces, until })
            })
            .collect();
    }

    /// Contents that waited long enough become final.
    pub(super) fn end_confirmations(&mut self) {
        let now = self.now.time;
        let pieces = &self.model.pieces;
        self.confirmed.retain(|sid, _| pieces.contains_key(sid));
        self.unaudited.retain(|sid, _| pieces.contains_key(sid));
        let late = self
            .confirmed
            .iter()
            .filter(|(_, confirmed)| confirmed.until.is_some_and(|until| until <= now));
        for sid in late.map(|(sid, _)| *sid).collect::<Vec<_>>() {
            self.finish_if_complete(sid);
        }
    }
}
