//! Whole swarms under virtual time, by seed. A failure names its seed and replays exactly.

mod faults;
mod golden;
mod named;
mod rules;
mod swarms;

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, Time};
use floodway_sim::plan::{Link, NodePlan, Plan, ServerPlan};
use floodway_sim::{Report, run};
use floodway_swarm::{Config, Prefer};

/// Seeds per scenario, 200 unless `FLOODWAY_SIM_SEEDS` says another number; only one with `FLOODWAY_SIM_SEED`.
fn seeds() -> std::ops::Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")),
        )
    };
    match number("FLOODWAY_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLOODWAY_SIM_SEEDS").unwrap_or(200),
    }
}

const LENGTH: u64 = 4 * 1024 * 1024 - 5000;
const LINK: Link = Link {
    delay: Duration::from_millis(5),
    ..Link::of(ByteRate(5_000_000))
};

fn peers_first(config: &mut Config) {
    config.prefer = Prefer::Peers;
}

/// Large enough that it is not simply fetched over HTTP.
fn never_small(config: &mut Config) {
    config.small = 0;
}

fn plan(nodes: Vec<NodePlan>) -> Plan {
    let layout = Layout::new(Some(LENGTH), 128 * 1024).unwrap();
    Plan {
        servers: vec![ServerPlan::origin(LINK)],
        until: Time::from_millis(300_000),
        ..Plan::new("small", layout, nodes)
    }
}

fn seed_and(leechers: usize, link: Link) -> Vec<NodePlan> {
    let mut nodes = vec![NodePlan::new(link); leechers + 1];
    nodes[0].seed = true;
    nodes
}

/// Every node that stays finishes; the books are checked on the way.
fn finishes(plan: &Plan, seed: u64) -> Report {
    let report = run(plan, seed);
    report.expect_finished();
    report
}

/// What the origin sent: its host comes after those of the nodes.
fn origin_bytes(report: &Report) -> u64 {
    report.host_sent.last().copied().unwrap()
}
