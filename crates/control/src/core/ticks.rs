//! What happens because time passed.

use std::time::Duration;

use floodway_proto::NodeId;

use super::Core;
use crate::db::Change;

impl Core {
    /// Looks at the clock; called several times a second.
    pub(crate) fn tick(&mut self) {
        let now = self.now.time;
        self.drop_hung_up();
        while let Some(&(until, node)) = self.due.first()
            && until <= now
        {
            self.due.remove(&(until, node));
            self.dirty.insert(node);
        }
        let dead = self
            .live
            .iter()
            .filter(|(node, live)| live.dies <= now && !self.parked.contains_key(node));
        for node in dead.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.gone(node);
        }
        self.stop_awaiting();
        let held = self.held.len();
        self.held.retain(|_, end| *end > now);
        if self.held.len() < held {
            self.wake_relays();
        }
        self.end_late_audits();
        self.end_confirmations();
        for sid in self.swarms.take_news(now, self.advanced().peer_news.0) {
            self.wake_swarm(sid);
        }
        self.deal_parts();
    }

    /// Forgets what did not come back; called every few seconds.
    pub(crate) fn sweep(&mut self) {
        self.swarms.expire(self.now.time);
        self.drop_ended_records();
        let patience =
            i64::try_from(self.advanced().forget_after.0.as_micros()).unwrap_or(i64::MAX);
        // Nobody can have synced while control was down.
        let up_for = i64::try_from(self.now.time.as_nanos() / 1000).unwrap_or(i64::MAX);
        let forgotten = self.model.nodes.values().filter(|node| {
            let silent = self
                .now
                .us
                .saturating_sub(node.seen_us.max(node.created_us));
            node.short_lived && !self.is_live(node.id) && silent.min(up_for) >= patience
        });
        for node in forgotten.map(|node| node.id).collect::<Vec<_>>() {
            self.change(Change::ForgetNode(node));
        }
    }

    /// A parked node that hung up has its ordinary time to come back; it may have been killed.
    fn drop_hung_up(&mut self) {
        let hung_up = self
            .parked
            .iter()
            .filter(|(_, parked)| parked.slot.is_closed());
        let hung_up: Vec<NodeId> = hung_up.map(|(node, _)| *node).collect();
        let dies = self.now.time + self.advanced().node_timeout.0;
        for node in hung_up {
            if let Some(parked) = self.parked.remove(&node) {
                self.due.remove(&(parked.until, node));
            }
            if let Some(live) = self.live.get_mut(&node) {
                live.dies = dies;
            }
        }
    }

    /// Control is about to stop: nobody is parked any more.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        self.wake_all();
    }

    /// How often [`tick`](Self::tick) and [`sweep`](Self::sweep) are to be called.
    pub(crate) const TICK: Duration = Duration::from_millis(50);
    /// See [`TICK`](Self::TICK).
    pub(crate) const SWEEP: Duration = Duration::from_secs(5);
}
