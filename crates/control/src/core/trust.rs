//! Relays that an operator trusts again, after an audit said otherwise.

use floodway_api::rest::NodeView;
use floodway_proto::NodeId;

use super::Core;
use crate::db::{AuditRow, Change};
use crate::error::ApiError;
use crate::tasks::audit::Outcome;

impl Core {
    /// What a relay reports counts again, and it gets work again. To trust one that is trusted changes nothing.
    ///
    /// # Errors
    /// `not_found` when no node is meant, `bad_request` when the name is that of several.
    pub(crate) fn trust(&mut self, name: &str) -> Result<NodeView, ApiError> {
        let node = self.node_named(name)?;
        if self.is_distrusted(node) {
            tracing::warn!(%node, name = self.name_of(node), "an operator trusts a relay again");
            self.change(Change::Trust(node));
            self.forget_disputes_of(node);
            // Agents may have tickets because it did not count.
            self.wake_all();
        }
        let view = self.model.nodes.get(&node).map(|row| self.node_view(row));
        view.ok_or_else(|| no_node(name))
    }

    /// What it found otherwise was judged when it was trusted no more. Counted again it would have it distrusted once more,
    /// by the next word of anybody about the piece.
    fn forget_disputes_of(&mut self, node: NodeId) {
        let growing = self.model.pieces.keys();
        let audits = growing.filter_map(|sid| Some((*sid, self.model.audits.get(sid)?)));
        let disputed = audits.flat_map(|(sid, audits)| {
            let readings = audits.iter();
            let own = readings
                .filter(|(_, by, reading)| *by == node && reading.outcome == Outcome::Different);
            own.map(move |(piece, ..)| (sid, piece))
        });
        for (sid, piece) in disputed.collect::<Vec<_>>() {
            self.change(Change::Audit(AuditRow {
                sid,
                piece,
                node,
                outcome: Outcome::Unread,
                digests: None,
            }));
        }
    }

    /// The node of this id, or the only one of this name.
    fn node_named(&self, name: &str) -> Result<NodeId, ApiError> {
        let id = name.parse::<NodeId>().ok();
        if let Some(id) = id.filter(|id| self.model.nodes.contains_key(id)) {
            return Ok(id);
        }
        let mut named = (self.model.nodes.values()).filter(|row| row.name == name);
        match (named.next(), named.next()) {
            (Some(row), None) => Ok(row.id),
            (Some(_), Some(_)) => Err(ApiError::bad_field(
                "node",
                format!(
                    "several nodes are called `{}`; give the id, as `floodway node list` shows it",
                    name.escape_debug()
                ),
            )),
            (None, _) => Err(no_node(name)),
        }
    }
}

fn no_node(name: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no node `{}`; `floodway node list` shows them",
        name.escape_debug()
    ))
}
