//! What relays report of relay tasks: probes, pieces, failures; and what follows from it.

use floodway_api::manifest::RefusedPieces;
use floodway_api::sync::{
    PIECES_PER_SYNC, PieceReport, ProbeReport, RelayFailure, RelayFailureKind, RelayReport,
};
use floodway_proto::genesis::Flavors;
use floodway_proto::record::EndReason;
use floodway_proto::{NodeId, PieceIndex, SafeName, Sid};

use super::Core;
use super::sync::clipped;
use crate::db::{
    Change, ContentRow, ContentState, FactRow, KeptGenesis, LeaseRow, RelayFailureRow, RelayState,
    RelayTaskRow,
};
use crate::secrets;
use crate::tasks::lease::{Board, Deal, YOUNG_FOR};
use crate::tasks::pieces::{PieceTable, runs};
use crate::tasks::publish::{self, GenesisTerms};

/// An object may change so often while it is fetched before its relay task fails.
const ATTEMPTS_MAX: u32 = 1;
/// At most so many runs of refused pieces are named in an answer.
const REFUSED_MAX: usize = 32;

impl Core {
    /// Takes in what a relay learnt of one relay task since its last acknowledged sync.
    pub(super) fn relay_report(&mut self, node: NodeId, boot: u64, report: RelayReport) {
        let Some(task) = self.open_task(&report.relay_task) else {
            return;
        };
        if self.is_distrusted(node) {
            let message = "this relay read other bytes than two others: what it reports does not count any more; see `floodway node list` on control";
            return self.refuse(node, report.sid, "distrusted", message, &report.pieces);
        }
        if let Some(probe) = &report.probe
            && task.sid.is_none()
        {
            self.probed(node, task.clone(), probe);
        }
        // First: it says where the last piece ends.
        if let Some(length) = report.end {
            self.end_reported(node, &report, length);
        }
        if !report.pieces.is_empty() {
            self.pieces_reported(node, &report);
        }
        if !report.audited.is_empty() || !report.unread.is_empty() {
            self.audits_reported(node, &report);
        }
        if !report.held.is_empty() {
            self.held_reported(node, &report);
        }
        // The pieces may have ended the task.
        if let (Some(failure), Some(task)) = (report.failure, self.open_task(&report.relay_task)) {
            // What was said of a content that was given up says nothing about its successor.
            if report.sid.is_none() || report.sid == task.sid {
                self.relay_failed(node, boot, &task, &failure);
            }
        }
    }

    fn open_task(&self, id: &str) -> Option<RelayTaskRow> {
        let task = self.model.relay_tasks.get(id);
        task.filter(|task| task.state == RelayState::Open).cloned()
    }

    /// The first probe of an object makes its content.
    fn probed(&mut self, node: NodeId, task: RelayTaskRow, probe: &ProbeReport) {
        let terms = GenesisTerms {
            flavors: Flavors {
                hybrid: self.config.settings.hybrid_torrents,
                ..Flavors::V1_AND_V2
            },
            key: self.config.signing_key.public(),
            nonce: secrets::random(),
            created_unix_s: self.now.us.cast_unsigned() / 1_000_000,
        };
        let genesis = match publish::genesis(&task.url, &task.files, probe, terms) {
            Ok(genesis) => genesis,
            Err(refused) => {
                self.abort_given_up(&task.id);
                return self.end_task(task, RelayState::Failed, Some(refused.to_string()));
            }
        };
        let sid = genesis.sid();
        let length = genesis.length();
        tracing::info!(relay_task = task.id, %sid, relay = %node, ?length, "content begins");
        self.change(Change::Content(ContentRow {
            sid,
            relay_task: task.id.clone(),
            state: ContentState::Relaying,
            false_fact: false,
            length,
            piece_length: genesis.piece_length,
            name: genesis.name.to_string(),
            etag: probe.etag.clone(),
            last_modified: probe.last_modified.clone(),
            // Without a length nobody could share the object out.
            ranges: probe.ranges && genesis.strong && length.is_some(),
            genesis: KeptGenesis::new(genesis.encode()),
            announce_key: secrets::random_hex::<16>(),
            info_hash: None,
            root: None,
            created_us: self.now.us,
        }));
        let id = task.id.clone();
        self.change(Change::RelayTask(RelayTaskRow {
            sid: Some(sid),
            ..task
        }));
        self.begin_manifest(sid);
        self.supersede(&id, sid);
        self.wake_relay_task(&id);
        self.finish_if_complete(sid);
    }

    fn pieces_reported(&mut self, node: NodeId, report: &RelayReport) {
        let Some((sid, leased)) = self.sift(node, report) else {
            return;
        };
        let Some(table) = self.model.pieces.get(&sid) else {
            return;
        };
        let news = match table.news(node, &leased) {
            Ok(news) => news,
            Err(conflict) => {
                let (piece, first) = (conflict.piece, self.name_of(conflict.first));
                let why = format!(
                    "piece {piece} read by relay {} differs from what relay {first} read: the object changed, or a mirror serves another version",
                    self.name_of(node),
                );
                return self.content_changed(&report.relay_task, sid, &why);
            }
        };
        let again = leased.iter().map(|piece| piece.piece).filter(|piece| {
            let reading = table.reading(*piece);
            reading.is_some_and(|(reporter, _)| reporter != node)
        });
        let again: Vec<_> = again.collect();
        self.confirm(sid, &again);
        if let Some(live) = self.live.get_mut(&node) {
            live.recent
                .insert(sid, u32::try_from(news.len()).unwrap_or(u32::MAX));
        }
        self.take_back_known(node, sid, &news);
        for (first, digests) in runs(&news) {
            self.change(Change::Fact(FactRow {
                sid,
                first,
                relay: node,
                digests,
            }));
        }
        self.seal_pieces(sid, &news);
        self.compare_early(sid, &news);
        self.release_known_leases(sid);
        self.choose_audits(sid, &news);
        self.finish_if_complete(sid);
    }

    /// The content and those of the reported pieces that the relay may report. The others are refused, with a reason.
    fn sift(&mut self, node: NodeId, report: &RelayReport) -> Option<(Sid, Vec<PieceReport>)> {
        let task = self.open_task(&report.relay_task);
        let sid = report.sid.filter(|sid| {
            let current = task.and_then(|task| task.sid) == Some(*sid);
            current && self.model.pieces.contains_key(sid)
        });
        let Some(sid) = sid else {
            let message = "the report names no content that is being fetched for this relay task: it was cancelled, replaced or is final";
            self.refuse(node, report.sid, "no_content", message, &report.pieces);
            return None;
        };
        let count = self.model.pieces.get(&sid).map_or(0, PieceTable::count);
        let (within, beyond): (Vec<_>, Vec<_>) = report
            .pieces
            .iter()
            .take(PIECES_PER_SYNC)
            .partition(|piece| piece.piece < count);
        let message = format!("the content has {count} pieces");
        self.refuse(node, Some(sid), "no_such_piece", &message, &beyond);
        let (leased, others): (Vec<_>, Vec<_>) = within
            .into_iter()
            .partition(|piece| self.model.was_leased(sid, node, PieceIndex(piece.piece)));
        let message = "these pieces were never leased to this relay";
        self.refuse(node, Some(sid), "not_leased", message, &others);
        Some((sid, leased))
    }

    pub(super) fn refuse(
        &mut self,
        node: NodeId,
        sid: Option<Sid>,
        code: &str,
        message: &str,
        pieces: &[PieceReport],
    ) {
        let Some(live) = self.live.get_mut(&node).filter(|_| !pieces.is_empty()) else {
            return;
        };
        tracing::warn!(%node, ?sid, count = pieces.len(), code, "reported pieces do not count");
        let mut indices: Vec<u32> = pieces.iter().map(|piece| piece.piece).collect();
        indices.sort_unstable();
        indices.dedup();
        for run in indices.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            if live.refused.len() < REFUSED_MAX {
                live.refused.push(RefusedPieces {
                    sid,
                    first: run[0],
                    count: u32::try_from(run.len()).unwrap_or(u32::MAX),
                    code: code.into(),
                    message: message.into(),
                });
            }
        }
    }

    /// Leases of others that hold pieces which are known now, from a relay that held them before, are dealt anew without
    /// these: the origin need not send them again.
    fn take_back_known(&mut self, reporter: NodeId, sid: Sid, news: &[PieceReport]) {
        if !self.model.contents.get(&sid).is_some_and(|row| row.ranges) {
            return;
        }
        for lease in self
            .held_leases(sid)
            .iter()
            .filter(|lease| lease.node != reporter)
        {
            if news
                .iter()
                .any(|piece| piece.piece.wrapping_sub(lease.first) < lease.count)
            {
                self.held.remove(&lease.id);
                self.dirty.insert(lease.node);
            }
        }
    }

    /// A relay as people know it: its name and id.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        let row = self.model.nodes.get(&node);
        row.map_or_else(
            || node.to_string(),
            |row| format!("`{}` ({node})", row.name),
        )
    }

    /// Leases whose every piece is known are over.
    pub(super) fn release_known_leases(&mut self, sid: Sid) {
        let Some(table) = self.model.pieces.get(&sid) else {
            return;
        };
        for lease in self.held_leases(sid) {
            let mut pieces = lease.first..(lease.first + lease.count).min(table.count());
            if pieces.all(|piece| table.known().get(piece)) {
                self.held.remove(&lease.id);
            }
        }
    }

    /// When all digests are known, and no audit of them is open, the content gets its standard names.
    pub(super) fn finish_if_complete(&mut self, sid: Sid) {
        let row = self.model.contents.get(&sid);
        let is_ended = row.is_some_and(|row| row.length.is_some());
        let table = self.model.pieces.get(&sid).filter(|_| is_ended);
        if !table.is_some_and(PieceTable::is_complete) {
            return;
        }
        self.begin_wait(sid);
        if self.has_open_audits(sid) || self.awaits_confirmation(sid) {
            return;
        }
        let (Some(row), Some(table)) = (self.model.contents.get(&sid), self.model.pieces.get(&sid))
        else {
            return;
        };
        let Some(task) = self.open_task(&row.relay_task) else {
            return;
        };
        let row = row.clone();
        let named = SafeName::new(&row.name).ok().zip(row.layout());
        let published = named.map(|(name, layout)| publish::publish(name, &layout, table));
        match published {
            Some(Ok(published)) => {
                self.sign_final(sid, published.info_hash);
                tracing::info!(%sid, info_hash = %published.info_hash, "content is final");
                self.change(Change::Content(ContentRow {
                    state: ContentState::Final,
                    info_hash: Some(published.info_hash),
                    root: published.root,
                    ..row
                }));
                self.change(Change::Info {
                    sid,
                    info: published.info,
                });
                self.end_task(task, RelayState::Final, None);
            }
            // Both are faults of control or its database, for which there is no other word.
            Some(Err(error)) => {
                self.abort_manifest(sid, EndReason::Operator);
                self.end_task(task, RelayState::Failed, Some(error.to_string()));
            }
            None => {
                self.abort_manifest(sid, EndReason::Operator);
                let reason = "the content's record in the database is damaged".to_owned();
                self.end_task(task, RelayState::Failed, Some(reason));
            }
        }
    }

    fn relay_failed(
        &mut self,
        node: NodeId,
        boot: u64,
        task: &RelayTaskRow,
        failure: &RelayFailure,
    ) {
        let message = clipped(&failure.message);
        tracing::warn!(%node, relay_task = task.id, kind = ?failure.kind, message, "relay cannot go on");
        match (failure.kind, task.sid) {
            (RelayFailureKind::NotFound, sid) => {
                if let Some(sid) = sid {
                    self.abort_manifest(sid, EndReason::OriginGone);
                }
                self.abort_given_up(&task.id);
                self.end_task(task.clone(), RelayState::Failed, Some(message));
            }
            (RelayFailureKind::Changed, Some(sid)) => self.content_changed(&task.id, sid, &message),
            (
                RelayFailureKind::Refused | RelayFailureKind::Local | RelayFailureKind::Changed,
                _,
            ) => {
                self.change(Change::RelayFailure(RelayFailureRow {
                    relay_task: task.id.clone(),
                    node,
                    boot,
                    kind: failure.kind,
                    message,
                }));
                if let Some(sid) = task.sid {
                    self.free_leases(node, sid);
                    // Its site may have been given it alone.
                    self.wake_swarm(sid);
                }
                self.judge_open_tasks();
                self.wake_relays();
            }
        }
    }

    /// Fails the relay tasks that every relay has given up that reads origins and is live, or may come back in a moment.
    pub(super) fn judge_open_tasks(&mut self) {
        let mut relays: Vec<_> = self
            .live_relays()
            .filter(|node| !self.feeds(*node))
            .collect();
        if relays.is_empty() {
            return;
        }
        relays.extend(self.awaited_relays());
        let open = self
            .model
            .relay_tasks
            .values()
            .filter(|task| task.state == RelayState::Open);
        let given_up =
            open.filter(|task| relays.iter().all(|node| self.has_failed(*node, &task.id)));
        let given_up: Vec<_> = given_up.cloned().collect();
        for task in given_up {
            if let Some(sid) = task.sid {
                self.abort_manifest(sid, EndReason::OriginGone);
            }
            self.abort_given_up(&task.id);
            let failures = self.model.failures.get(&task.id).into_iter().flatten();
            let reasons: Vec<_> = failures
                .filter(|(node, _)| relays.contains(node))
                .map(|(node, failure)| {
                    format!("relay {}: {}", self.name_of(*node), failure.message)
                })
                .collect();
            let distrusted = relays.iter().filter(|node| self.is_distrusted(**node));
            let reasons: Vec<_> =
                (reasons.into_iter())
                    .chain(distrusted.map(|node| {
                        format!("relay {} is not trusted any more", self.name_of(*node))
                    }))
                    .collect();
            let reason = clipped(&format!(
                "no live relay can fetch it: {}",
                reasons.join("; ")
            ));
            self.end_task(task, RelayState::Failed, Some(reason));
        }
    }

    /// True when the relay gave up this task since it was started (after a restart it may try again), or is not trusted.
    pub(super) fn has_failed(&self, node: NodeId, relay_task: &str) -> bool {
        if self.is_distrusted(node) {
            return true;
        }
        let failures = self.model.failures.get(relay_task);
        let failure = failures.and_then(|failures| failures.get(&node));
        failure.is_some_and(|failure| {
            self.live
                .get(&node)
                .is_none_or(|live| live.said.boot == failure.boot)
        })
    }

    /// The object is not what it was: all relays begin anew with a successor, or the task fails when that happened before.
    pub(super) fn content_changed(&mut self, relay_task: &str, sid: Sid, why: &str) {
        self.replace_content(relay_task, sid, why, EndReason::OriginChanged);
    }

    /// Gives a content up. A false fact is the fault of a relay that is not asked again, so its content always gets a
    /// successor; an object that changes does so once.
    pub(super) fn replace_content(
        &mut self,
        relay_task: &str,
        sid: Sid,
        why: &str,
        reason: EndReason,
    ) {
        let (Some(task), Some(row)) = (self.open_task(relay_task), self.model.contents.get(&sid))
        else {
            return;
        };
        if task.sid != Some(sid) {
            return;
        }
        tracing::warn!(relay_task, %sid, why, ?reason, "a content is given up");
        let is_false = reason == EndReason::FalseFact;
        let row = ContentRow {
            state: ContentState::Superseded,
            false_fact: is_false,
            ..row.clone()
        };
        self.wake_swarm(sid);
        self.unaudited.remove(&sid);
        self.change(Change::Content(row));
        self.change(Change::EndRelaying {
            sid,
            superseded: true,
        });
        if is_false || task.attempt < ATTEMPTS_MAX {
            let attempt = task.attempt + u32::from(!is_false);
            self.change(Change::RelayTask(RelayTaskRow {
                attempt,
                sid: None,
                ..task
            }));
            self.wake_relay_task(relay_task);
        } else {
            self.abort_given_up(relay_task);
            let reason = format!("the origin's object keeps changing while it is fetched: {why}");
            self.end_task(
                RelayTaskRow { sid: None, ..task },
                RelayState::Failed,
                Some(reason),
            );
        }
    }

    /// Ends the work on a relay task.
    pub(super) fn end_task(
        &mut self,
        task: RelayTaskRow,
        state: RelayState,
        reason: Option<String>,
    ) {
        if state == RelayState::Failed {
            tracing::warn!(relay_task = task.id, reason, "relay task failed");
        }
        let id = task.id.clone();
        if let Some(sid) = task.sid
            && self.model.pieces.contains_key(&sid)
        {
            self.change(Change::EndRelaying {
                sid,
                superseded: false,
            });
        }
        let ended_us = self.now.us;
        self.change(Change::RelayTask(RelayTaskRow {
            state,
            reason,
            ended_us,
            ..task
        }));
        self.wake_relay_task(&id);
    }

    /// Deals leases of all open contents to a relay whose answer is about to be made.
    pub(super) fn deal_to(&mut self, node: NodeId) {
        if self.feeds(node) {
            return;
        }
        let open = self
            .model
            .relay_tasks
            .values()
            .filter(|task| task.state == RelayState::Open);
        let sids = open
            .filter(|task| !self.has_failed(node, &task.id))
            .filter_map(|task| task.sid)
            .filter(|sid| !self.is_paused(node, *sid));
        for sid in sids.collect::<Vec<_>>() {
            while let Some(deal) = self.next_deal(node, sid) {
                let (first, count) = match deal {
                    Deal::Grant { first, count } => (first, count),
                    Deal::Steal {
                        lease,
                        first,
                        count,
                    } => {
                        self.held.remove(&lease);
                        self.wake_relays();
                        (first, count)
                    }
                };
                self.lease(node, sid, first, count);
            }
        }
    }

    fn next_deal(&self, node: NodeId, sid: Sid) -> Option<Deal> {
        let (row, table) = (self.model.contents.get(&sid)?, self.model.pieces.get(&sid)?);
        let live = self.live.get(&node)?;
        let working = self
            .origin_readers()
            .filter(|relay| !self.has_failed(*relay, &row.relay_task));
        let chunk = self.advanced().lease_size.0 / u64::from(row.piece_length.max(1));
        let dealt = self.model.leases.get(&sid).map_or(&[][..], Vec::as_slice);
        // Numbers follow the clock: see `lease`.
        let young_us = u64::try_from(YOUNG_FOR.as_micros()).unwrap_or(u64::MAX);
        let young_from = self.now.us.cast_unsigned().saturating_sub(young_us);
        let board = Board {
            known: table.known(),
            held: &self.held_leases(sid),
            dealt,
            relays: u32::try_from(working.count()).unwrap_or(u32::MAX),
            chunk_max: u32::try_from(chunk).unwrap_or(u32::MAX),
            ranges: row.ranges,
            young_from,
        };
        board.deal(node, live.recent.get(&sid).copied().unwrap_or_default())
    }

    fn lease(&mut self, node: NodeId, sid: Sid, first: u32, count: u32) {
        let Some(boot) = self.live.get(&node).map(|live| live.said.boot) else {
            return;
        };
        // Numbers follow the clock, so that they are not used twice even after the rows of a finished content are gone.
        self.last_lease = (self.last_lease + 1).max(self.now.us.cast_unsigned());
        let id = self.last_lease;
        self.held
            .insert(id, self.now.time + self.advanced().lease.0);
        let row = LeaseRow {
            id,
            sid,
            node,
            boot,
            first,
            count,
        };
        self.change(Change::Lease(row));
        self.sign_lease(row);
    }
}
