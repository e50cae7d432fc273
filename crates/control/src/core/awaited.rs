//! Relays that may come back in a moment: right after a start of control nobody has synced yet, which does not mean that
//! nobody is there.
//!
//! Without this an agent that syncs first after a restart would hear that no relay is live, get a ticket, and read all of
//! the object from its origin, beside the relay that goes on with it.

use std::collections::HashSet;
use std::time::Duration;

use floodway_api::rest::Role;
use floodway_proto::{NodeId, Time};

use super::Core;
use crate::db::Model;

/// Relays are awaited for so many times the time after which a silent node counts as gone: one that could not reach control
/// pauses for up to that time before it tries again.
const NODE_TIMEOUTS: u32 = 2;

/// The relays that control knew before it was started and that have not synced since.
#[derive(Debug)]
pub(super) struct Awaited {
    relays: HashSet<NodeId>,
    /// Whoever has not come by then is gone.
    until: Time,
}

impl Awaited {
    /// All relays of `model`, as control starts at `now`.
    pub(super) fn new(model: &Model, node_timeout: Duration, now: Time) -> Self {
        let relays = model.nodes.values().filter(|row| row.role == Role::Relay);
        Self {
            relays: relays.map(|row| row.id).collect(),
            until: now + node_timeout.saturating_mul(NODE_TIMEOUTS),
        }
    }

    /// The node has synced: from now on it is live or gone, as any other. True when it was awaited: it may turn out to be no help.
    pub(super) fn came(&mut self, node: NodeId) -> bool {
        self.relays.remove(&node)
    }
}

impl Core {
    pub(super) fn awaited_relays(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.awaited.relays.iter().copied()
    }

    /// True when a relay that works on the task, or could, is live or may come back in a moment.
    pub(super) fn may_be_relayed(&self, relay_task: &str) -> bool {
        let mut awaited = self.awaited_relays();
        self.has_live_relay(relay_task) || awaited.any(|node| !self.has_failed(node, relay_task))
    }

    /// Gives up the relays that did not come back in time.
    pub(super) fn stop_awaiting(&mut self) {
        if self.awaited.relays.is_empty() || self.now.time < self.awaited.until {
            return;
        }
        for node in std::mem::take(&mut self.awaited.relays) {
            tracing::info!(%node, "a relay of the time before the start did not come back");
        }
        // Agents may have waited for it, and other relays may have given up its tasks.
        self.wake_all();
        self.judge_open_tasks();
    }
}
