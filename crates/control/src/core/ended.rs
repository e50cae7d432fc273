//! Contents whose length the origin does not say: control's word for their end.

use floodway_api::sync::RelayReport;
use floodway_proto::{NodeId, PieceIndex};

use super::Core;
use crate::db::{Change, ContentRow};
use crate::tasks::pieces::PieceTable;

impl Core {
    /// A relay read an object to the end of its body, which nobody knew before: the content ends there. Only a relay that has or
    /// had the lease of the whole is heard, and only once; another end means that the object changed.
    pub(super) fn end_reported(&mut self, node: NodeId, report: &RelayReport, length: u64) {
        let task = self.model.relay_tasks.get(&report.relay_task);
        let sid = report
            .sid
            .filter(|sid| task.is_some_and(|task| task.sid == Some(*sid)));
        let Some(row) = sid.and_then(|sid| self.model.contents.get(&sid)) else {
            return;
        };
        let (sid, row) = (row.sid, row.clone());
        let Some(table) = self.model.pieces.get(&sid) else {
            return;
        };
        // Without ranges there is one lease, from the first piece on.
        let ended = row.layout().and_then(|layout| layout.ended(length).ok());
        let may_say = self.model.was_leased(sid, node, PieceIndex(0));
        if let Some(known) = row.length.filter(|_| may_say) {
            if known != length {
                let relay = self.name_of(node);
                let why = format!(
                    "relay {relay} read {length} bytes to the end, but there were {known} before: the object changed"
                );
                self.content_changed(&report.relay_task, sid, &why);
            }
            return;
        }
        let count = ended.map(|layout| layout.piece_count());
        let Some(count) = count.filter(|_| may_say) else {
            tracing::warn!(%node, %sid, length, "a relay says the end of a content that it may not read, or that cannot be so long");
            return;
        };
        if beyond(table, count) {
            let relay = self.name_of(node);
            let why = format!(
                "relay {relay} read {length} bytes to the end, but pieces beyond were read before: the object changed"
            );
            return self.content_changed(&report.relay_task, sid, &why);
        }
        tracing::info!(%sid, relay = %node, length, "the content's end is known");
        self.change(Change::Content(ContentRow {
            length: Some(length),
            ..row
        }));
        if let Some(growing) = self.growing.get_mut(&sid)
            && let Err(error) = growing.end(length)
        {
            tracing::error!(%sid, %error, "the end cannot be signed; the content grows unseen");
            self.growing.remove(&sid);
        }
        self.release_known_leases(sid);
        self.finish_if_complete(sid);
    }
}

/// True when a piece from `count` on is known.
fn beyond(table: &PieceTable, count: u32) -> bool {
    table.known().iter_ones().any(|piece| piece >= count)
}
