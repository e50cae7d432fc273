//! Relays that may come back in a moment. Right after a start of control nobody has synced yet, which does not mean that
//! nobody is there; and a relay that says good-bye is often only restarted, or its machine is stopped just before control's.
//!
//! Without this an agent that syncs first after a restart would hear that no relay is live, get a ticket, and read all of
//! the object from its origin, beside the relay that goes on with it.

use std::collections::HashMap;
use std::time::Duration;

use floodway_api::rest::Role;
use floodway_proto::{NodeId, Time};

use super::Core;
use crate::db::Model;

/// Relays are awaited for so many times the time after which a silent node counts as gone: one that could not reach control
/// pauses for up to that time before it tries again.
const NODE_TIMEOUTS: u32 = 2;

/// The relays that control knew before it was started and that have not synced since, and those that left a moment ago.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Whoever has not come by then is gone.
    relays: HashMap<NodeId, Time>,
}

impl Awaited {
    /// All relays of `model`, as control starts at `now`.
    pub(super) fn new(model: &Model, node_timeout: Duration, now: Time) -> Self {
        let relays = model.nodes.values().filter(|row| row.role == Role::Relay);
        let until = now + node_timeout.saturating_mul(NODE_TIMEOUTS);
        Self {
            relays: relays.map(|row| (row.id, until)).collect(),
        }
    }

    /// The relay stops in order, and may be started again.
    fn left(&mut self, node: NodeId, until: Time) {
        self.relays.insert(node, until);
    }

    /// The node has synced: from now on it is live or gone, as any other. True when it was awaited: it may turn out to be no help.
    pub(super) fn came(&mut self, node: NodeId) -> bool {
        self.relays.remove(&node).is_some()
    }
}

impl Core {
    pub(super) fn awaited_relays(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.awaited.relays.keys().copied()
    }

    /// True when a relay that works on the task, or could, is live or may come back in a moment.
    pub(super) fn may_be_relayed(&self, relay_task: &str) -> bool {
        let mut awaited = self.awaited_relays();
        self.has_live_relay(relay_task) || awaited.any(|node| !self.has_failed(node, relay_task))
    }

    /// A node says good-bye. A relay counts as live for as long as if it had been killed, unless it is of no help anyway, as one
    /// that feeds from others.
    pub(super) fn await_return(&mut self, node: NodeId) {
        let is_help = self.role_of(node) == Some(Role::Relay) && !self.feeds(node);
        if is_help && self.is_live(node) {
            let until = self.now.time + self.advanced().node_timeout.0;
            self.awaited.left(node, until);
        }
    }

    /// Gives up the relays that did not come back in time.
    pub(super) fn stop_awaiting(&mut self) {
        let now = self.now.time;
        let late = self.awaited.relays.extract_if(|_, until| *until <= now);
        let late: Vec<NodeId> = late.map(|(node, _)| node).collect();
        if late.is_empty() {
            return;
        }
        for node in late {
            tracing::info!(%node, "a relay did not come back");
        }
        // Agents may have waited for it, and other relays may have given up its tasks.
        self.wake_all();
        self.judge_open_tasks();
    }
}
