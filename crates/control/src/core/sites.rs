//! Where nodes stand, and what each is to bring there: see `crate::sites`.

use floodway_api::rest::Role;
use floodway_api::sync::ContentReport;
use floodway_proto::{NodeId, PARTS, Sid, Site};

use super::Core;
use crate::db::NodeRow;
use crate::swarm_state::Brings;

impl Core {
    /// The node's `site` label; empty if it has none.
    pub(super) fn site_of(&self, node: NodeId) -> &str {
        self.model.nodes.get(&node).map_or("", NodeRow::site)
    }

    /// Where the node stands and what it is to bring there of a content; `None` where sites play no role for it.
    pub(super) fn stand(&self, node: NodeId, sid: Sid) -> Option<Site> {
        let row = self.model.nodes.get(&node);
        let row = row.filter(|_| self.model.has_sites())?;
        let parts = match row.role {
            Role::Relay => 0..PARTS,
            Role::Agent if row.site().is_empty() => return None,
            Role::Agent => self.swarms.parts(sid, node, row.site()),
        };
        let name = match row.site() {
            "" => node.to_string(),
            label => label.to_owned(),
        };
        Some(Site {
            first: parts.start,
            end: parts.end,
            ..Site::named(&name)
        })
    }

    /// What a node that says this of a content may be asked to bring.
    pub(super) fn brings(&self, row: &NodeRow, report: &ContentReport) -> Brings {
        if row.role == Role::Agent {
            return Brings::Parts;
        }
        let content = self.model.contents.get(&report.sid);
        let goes_on = content.is_some_and(|content| !self.has_failed(row.id, &content.relay_task));
        if report.complete || (goes_on && report.paused.is_none() && self.is_fed(row.id)) {
            Brings::All
        } else {
            Brings::Nothing
        }
    }

    /// Deals parts where that is due, and wakes whom it concerns.
    pub(super) fn deal_parts(&mut self) {
        let has_sites = self.model.has_sites();
        if std::mem::replace(&mut self.had_sites, has_sites) != has_sites {
            self.wake_all();
        }
        if has_sites {
            let pace = self.advanced().peer_news.0;
            self.dirty.extend(self.swarms.deal(self.now.time, pace));
        }
    }
}
