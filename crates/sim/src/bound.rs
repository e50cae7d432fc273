//! The best that any scheduler could do.

use floodway_proto::{ByteRate, Time};

use crate::plan::{NodePlan, Plan};

fn bytes_per_second(rate: ByteRate) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a bound for people")]
    {
        rate.0 as f64
    }
}

impl Plan {
    /// A lower bound on the makespan in seconds, headers not counted. With everybody there from the start it is the
    /// fluid bound `max(F/u_s, F/d_min, N·F/(u_s + Σu_i))`; `u_s` are seeds and servers. Who joins later or leaves
    /// gives and takes only while it is there; what is given to those that leave early is not counted, so with them
    /// the bound is lower than what can be reached.
    #[expect(clippy::cast_precision_loss, reason = "a bound for people")]
    pub fn bound_seconds(&self) -> f64 {
        let length = self.layout.length().unwrap_or(0) as f64;
        let takers = || self.nodes.iter().filter(|node| must_finish(node));
        let each = takers()
            .map(|node| node.joins.as_secs_f64() + length / bytes_per_second(node.link.down))
            .fold(0.0, f64::max);
        let sources = self.time_to_send(length, |node| node.seed);
        let all = self.time_to_send(length * takers().count() as f64, |_| true);
        each.max(sources).max(all)
    }

    /// When the servers and the nodes that `gives` can have sent so many bytes.
    fn time_to_send(&self, bytes: f64, gives: impl Fn(&NodePlan) -> bool) -> f64 {
        let mut changes: Vec<(Time, f64)> = self
            .servers
            .iter()
            .filter(|server| server.with_node.is_none())
            .map(|server| (Time::ZERO, bytes_per_second(server.link.up)))
            .collect();
        for node in self.nodes.iter().filter(|node| gives(node)) {
            let rate = bytes_per_second(node.link.up);
            changes.push((node.joins, rate));
            changes.extend(node.leaves.map(|leaves| (leaves, -rate)));
        }
        changes.sort_by_key(|&(at, _)| at);
        let (mut rate, mut left, mut since) = (0.0, bytes, 0.0);
        for (at, change) in changes {
            let at = at.as_secs_f64();
            if rate > 0.0 && left <= rate * (at - since) {
                return since + left / rate;
            }
            left -= rate * (at - since);
            since = at;
            rate += change;
        }
        since + left / rate
    }
}

/// Nodes that a run is there for: they want the content and stay.
pub(crate) fn must_finish(node: &NodePlan) -> bool {
    !node.seed && node.leaves.is_none()
}

#[cfg(test)]
mod tests {
    use floodway_proto::Layout;

    use super::*;
    use crate::plan::Link;

    const MEGABYTE: ByteRate = ByteRate(1_000_000);

    fn bound(nodes: Vec<NodePlan>) -> f64 {
        let layout = Layout::new(Some(12_000_000), 1 << 18).unwrap();
        Plan::new("bound", layout, nodes).bound_seconds()
    }

    #[test]
    fn source_receivers_or_all_together_are_the_limit() {
        let node = || NodePlan::new(Link::of(MEGABYTE));
        let seed = |up| {
            NodePlan::seed(Link {
                up: ByteRate(up),
                ..Link::of(MEGABYTE)
            })
        };
        assert!((bound(vec![seed(1_000_000), node(), node()]) - 12.0).abs() < 1e-6);
        assert!((bound(vec![seed(500_000), node(), node()]) - 24.0).abs() < 1e-6);
        let mut slow = node();
        slow.link.down = ByteRate(250_000);
        assert!((bound(vec![seed(1_000_000), node(), slow]) - 48.0).abs() < 1e-6);
        let mut mute = node();
        mute.link.up = ByteRate(0);
        assert!((bound(vec![seed(1_000_000), mute.clone(), mute]) - 24.0).abs() < 1e-6);
    }

    #[test]
    fn who_joins_late_or_leaves_counts_while_it_is_there() {
        let mut late = NodePlan::new(Link::of(MEGABYTE));
        late.joins = Time::from_millis(20_000);
        let mut seed = NodePlan::seed(Link::of(MEGABYTE));
        assert!((bound(vec![seed.clone(), late]) - 32.0).abs() < 1e-6);
        seed.leaves = Some(Time::from_millis(6_000));
        let second = NodePlan::seed(Link {
            up: ByteRate(500_000),
            ..Link::of(MEGABYTE)
        });
        let fast = NodePlan::new(Link {
            up: ByteRate(0),
            down: ByteRate(100_000_000),
            ..Link::of(MEGABYTE)
        });
        // 9 MB in the first six seconds, the rest at half a megabyte a second.
        assert!((bound(vec![seed, second, fast]) - 12.0).abs() < 1e-6);
    }
}
