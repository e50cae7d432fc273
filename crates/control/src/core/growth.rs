//! Who brings a content, for operators: what each relay reported, holds by lease, and why it waits.

use std::collections::BTreeMap;

use floodway_api::rest::{Growth, RelayShare, Role};
use floodway_api::sync::ContentReport;
use floodway_proto::{NodeId, Sid};

use super::Core;
use super::manifest::phase;
use crate::error::ApiError;
use crate::tasks::pieces::PieceTable;

impl Core {
    /// The signed side of a content, from its probe on.
    pub(super) fn growth(&self, sid: Sid) -> Option<Growth> {
        let row = self.model.contents.get(&sid)?;
        let records = self.model.records.get(&sid)?;
        let (phase, _) = phase(row, records)?;
        Some(Growth {
            phase,
            head: records.head(),
            pieces: row.length.and_then(|_| Some(row.layout()?.piece_count())),
            sealed: records.sealed(),
            relays: self.relay_shares(sid),
            audits: self.audit_counts(sid),
        })
    }

    /// The same for those who ask.
    pub(crate) fn growth_of(&self, sid: Sid) -> Result<Growth, ApiError> {
        self.growth(sid).ok_or_else(|| {
            ApiError::not_found(format!(
                "control signed nothing of a content {sid}; check the sid with `floodway task list`"
            ))
        })
    }

    fn relay_shares(&self, sid: Sid) -> Vec<RelayShare> {
        let mut shares = BTreeMap::new();
        let table = self.model.pieces.get(&sid);
        for (node, pieces) in self.model.reporters.get(&sid).into_iter().flatten() {
            self.share(&mut shares, *node).pieces = *pieces;
        }
        // Without an end nobody knows how many pieces a lease of all that follow is of.
        let row = self.model.contents.get(&sid);
        let end = row.and_then(|row| row.length.and_then(|_| Some(row.layout()?.piece_count())));
        for lease in self.held_leases(sid) {
            let mut unknown = lease.first..(lease.first + lease.count).min(end.unwrap_or(0));
            let unknown = unknown.by_ref().filter(|piece| {
                let known = table.map(PieceTable::known);
                known.is_none_or(|known| !known.get(*piece))
            });
            let unknown = u32::try_from(unknown.count()).unwrap_or(u32::MAX);
            self.share(&mut shares, lease.node).leased += unknown;
        }
        for (node, report) in self.live_reports(sid) {
            let share = self.share(&mut shares, node);
            (share.have, share.paused) = (report.have, report.paused.clone());
        }
        shares.into_values().collect()
    }

    fn share<'a>(
        &self,
        shares: &'a mut BTreeMap<NodeId, RelayShare>,
        node: NodeId,
    ) -> &'a mut RelayShare {
        let row = self.model.nodes.get(&node);
        shares.entry(node).or_insert_with(|| RelayShare {
            node,
            name: row.map(|row| row.name.clone()).unwrap_or_default(),
            pieces: 0,
            leased: 0,
            have: 0,
            paused: None,
            distrusted: self.is_distrusted(node),
        })
    }

    /// What the live relays last said of a content.
    fn live_reports(&self, sid: Sid) -> impl Iterator<Item = (NodeId, &ContentReport)> {
        let relays =
            (self.live.iter()).filter(|(node, _)| self.role_of(**node) == Some(Role::Relay));
        relays.filter_map(move |(node, live)| {
            let report = live.said.contents.iter().find(|report| report.sid == sid)?;
            Some((*node, report))
        })
    }

    /// True when the relay said that its disk refuses the content: others may have its leases.
    pub(super) fn is_paused(&self, node: NodeId, sid: Sid) -> bool {
        let said = self.live.get(&node).map(|live| &live.said.contents);
        said.is_some_and(|all| {
            all.iter()
                .any(|report| report.sid == sid && report.paused.is_some())
        })
    }

    /// Clips what relays say for people, and frees the leases of those that cannot write.
    pub(super) fn note_pauses(&mut self, node: NodeId) {
        let Some(live) = self.live.get_mut(&node) else {
            return;
        };
        let mut paused = Vec::new();
        for report in &mut live.said.contents {
            if let Some(why) = &mut report.paused {
                *why = super::sync::clipped(why);
                paused.push(report.sid);
            }
        }
        for sid in paused {
            self.free_leases(node, sid);
        }
    }

    /// The relay does not go on with a content: others may have its leases.
    pub(super) fn free_leases(&mut self, node: NodeId, sid: Sid) {
        let leases = self.held_leases(sid).into_iter();
        let freed: Vec<_> = leases.filter(|lease| lease.node == node).collect();
        for lease in &freed {
            self.held.remove(&lease.id);
        }
        if !freed.is_empty() {
            tracing::info!(%node, %sid, "a relay does not go on: its leases are free again");
            self.wake_relays();
        }
    }
}
