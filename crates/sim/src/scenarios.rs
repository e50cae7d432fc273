//! Named scenarios, described by their steps.

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, Time};
use floodway_swarm::Prefer;

use crate::plan::{Departure, Link, NodePlan, Plan, ServerPlan};

/// `megabits` Mbit/s.
const fn mbit(megabits: u64) -> ByteRate {
    ByteRate(megabits * 125_000)
}

fn layout(length: u64) -> Layout {
    Layout::new(Some(length), Layout::default_piece_length(Some(length)))
        .expect("the default piece length fits")
}

fn plan(name: &'static str, nodes: Vec<NodePlan>) -> Plan {
    Plan::new(name, layout(64 << 20), nodes)
}

fn own(config: &mut floodway_swarm::Config) {
    config.prefer = Prefer::Peers;
}

/// One relay, complete, with `origin` up, and `count` agents with `up`/`down`: native mode.
fn native(name: &'static str, count: usize, origin: u64, up: u64, down: u64) -> Plan {
    let agent = Link {
        up: mbit(up),
        down: mbit(down),
        ..Link::of(mbit(down))
    };
    let mut nodes = vec![NodePlan::seed(Link::of(mbit(origin)))];
    nodes.extend(vec![
        NodePlan {
            config: own,
            ..NodePlan::new(agent)
        };
        count
    ]);
    plan(name, nodes)
}

/// A web seed with `origin` up and `count` clients with `up`/`down`, no control: stock mode.
fn stock(name: &'static str, count: usize, origin: u64, up: u64, down: u64) -> Plan {
    let client = Link {
        up: mbit(up),
        down: mbit(down),
        ..Link::of(mbit(down))
    };
    let mut plan = plan(
        name,
        vec![
            NodePlan {
                servers: vec![0],
                ..NodePlan::new(client)
            };
            count
        ],
    );
    plan.servers
        .push(ServerPlan::origin(Link::of(mbit(origin))));
    plan.control.every = Duration::from_secs(30);
    plan
}

/// 60 ms of round trip and 0.2 % loss, of which each end of a path gives half.
fn far(plan: Plan, name: &'static str) -> Plan {
    let far = |link: &mut Link| {
        link.delay = Duration::from_millis(15);
        link.loss = 0.001;
    };
    let mut plan = Plan { name, ..plan };
    plan.nodes.iter_mut().for_each(|node| far(&mut node.link));
    plan.servers
        .iter_mut()
        .for_each(|server| far(&mut server.link));
    plan
}

/// Sixteen agents, one more every second.
fn staggered() -> Plan {
    let mut plan = native("staggered", 16, 40, 40, 40);
    for (at, node) in plan.nodes.iter_mut().skip(1).enumerate() {
        node.joins = Time::from_millis(1000 * at as u64);
    }
    plan
}

/// A third leave as soon as they are complete, a tenth vanish midway without a word.
fn churn() -> Plan {
    let mut plan = native("churn", 30, 40, 40, 40);
    for (at, node) in plan.nodes.iter_mut().enumerate().skip(1) {
        node.leaves_when_done = at % 3 == 0;
        if at % 10 == 1 {
            node.leaves = Some(Time::from_millis(5000 + 100 * at as u64));
            node.departure = Departure::Silent;
        }
    }
    plan
}

/// Slow uploads, slow downloads and a fast relay.
fn unequal() -> Plan {
    let mut plan = native("unequal", 16, 200, 40, 40);
    for (at, node) in plan.nodes.iter_mut().enumerate().skip(1) {
        let (up, down) = [(40, 40), (4, 40), (100, 100), (10, 20)][at % 4];
        (node.link.up, node.link.down) = (mbit(up), mbit(down));
    }
    plan
}

/// One fast client among slow uploaders: all depends on what it has to give.
fn one_fast() -> Plan {
    let mut plan = native("one-fast", 13, 40, 8, 40);
    if let Some(fast) = plan.nodes.last_mut() {
        (fast.link.up, fast.link.down) = (mbit(100), mbit(100));
    }
    plan
}

/// Half of the nodes can be dialled by nobody.
fn nat() -> Plan {
    let mut plan = native("nat", 16, 40, 40, 40);
    for (at, node) in plan.nodes.iter_mut().enumerate().skip(1) {
        node.nat = at % 2 == 0;
    }
    plan
}

/// Eight, half of them behind NAT, of which two come a second later: they have nothing that their neighbours lack.
fn nat_late() -> Plan {
    let mut plan = native("nat-late", 8, 40, 40, 40);
    for (at, node) in plan.nodes.iter_mut().enumerate().skip(1) {
        node.nat = at % 2 == 0;
        if node.nat && at <= 4 {
            node.joins = Time::from_millis(1000);
        }
    }
    plan
}

fn few_neighbours(config: &mut floodway_swarm::Config) {
    own(config);
    (config.connections_max, config.inbound_extra) = (20, 0);
}

/// `sites` of a hundred nodes with mixed links, one relay elsewhere; 1024 pieces of one block each.
fn mixed(name: &'static str, sites: u32) -> Plan {
    let links = [
        (10, 50, 20),
        (40, 40, 10),
        (100, 100, 5),
        (40, 40, 10),
        (10, 50, 20),
    ]
    .map(|(up, down, delay)| Link {
        up: mbit(up),
        delay: Duration::from_millis(delay),
        ..Link::of(mbit(down))
    });
    let agents = (0..sites * 100).zip(links.iter().cycle());
    let agents = agents.map(|(at, link)| NodePlan {
        site: at / 100,
        config: few_neighbours,
        ..NodePlan::new(*link)
    });
    let mut nodes = vec![NodePlan {
        site: sites,
        config: few_neighbours,
        ..NodePlan::seed(Link::of(mbit(1000)))
    }];
    nodes.extend(agents);
    let layout = Layout::with_blocks(Some(64 << 20), 64 << 10, 64 << 10)
        .expect("a piece of one block is allowed");
    let mut plan = Plan::new(name, layout, nodes);
    plan.control.peers = 20;
    plan.news_every = Duration::from_millis(100);
    plan
}

/// Every named scenario, and what it is.
pub const ALL: &[(&str, &str)] = &[
    ("s1", "8 agents 40/40 Mbit/s, relay 40"),
    ("s2", "24 agents 40/40 Mbit/s, relay 20"),
    ("s3", "16 agents 8/40 Mbit/s, relay 100"),
    (
        "s1-stock",
        "8 clients 40/40 Mbit/s, web seed 40, no control",
    ),
    (
        "s2-stock",
        "24 clients 40/40 Mbit/s, web seed 20, no control",
    ),
    (
        "s3-stock",
        "16 clients 8/40 Mbit/s, web seed 100, no control",
    ),
    ("rtt60", "s1 with 60 ms of round trip and 0.2 % loss"),
    (
        "rtt60-stock",
        "s1-stock with 60 ms of round trip and 0.2 % loss",
    ),
    ("staggered", "16 agents 40/40 Mbit/s, one more every second"),
    (
        "churn",
        "30 agents, a third leave when complete, a tenth vanish midway",
    ),
    (
        "unequal",
        "16 agents with four kinds of link, relay 200 Mbit/s",
    ),
    (
        "one-fast",
        "12 agents 8/40 Mbit/s and one 100/100, relay 40",
    ),
    ("nat", "16 agents, half of them behind NAT"),
    (
        "nat-late",
        "8 agents, half of them behind NAT, two of these a second late",
    ),
    (
        "mixed-300",
        "300 agents on 3 sites, mixed links, 1024 pieces",
    ),
    (
        "mixed-1k",
        "1 000 agents on 10 sites, mixed links, 1024 pieces",
    ),
    (
        "mixed-10k",
        "10 000 agents on 100 sites, mixed links, 1024 pieces",
    ),
];

/// The scenario with this name.
pub fn named(name: &str) -> Option<Plan> {
    Some(match name {
        "s1" => native("s1", 8, 40, 40, 40),
        "s2" => native("s2", 24, 20, 40, 40),
        "s3" => native("s3", 16, 100, 8, 40),
        "s1-stock" => stock("s1-stock", 8, 40, 40, 40),
        "s2-stock" => stock("s2-stock", 24, 20, 40, 40),
        "s3-stock" => stock("s3-stock", 16, 100, 8, 40),
        "rtt60" => far(native("s1", 8, 40, 40, 40), "rtt60"),
        "rtt60-stock" => far(stock("s1-stock", 8, 40, 40, 40), "rtt60-stock"),
        "staggered" => staggered(),
        "churn" => churn(),
        "unequal" => unequal(),
        "one-fast" => one_fast(),
        "nat" => nat(),
        "nat-late" => nat_late(),
        "mixed-300" => mixed("mixed-300", 3),
        "mixed-1k" => mixed("mixed-1k", 10),
        "mixed-10k" => mixed("mixed-10k", 100),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_name_is_a_scenario() {
        for (name, _) in ALL {
            assert_eq!(named(name).map(|plan| plan.name), Some(*name));
        }
    }
}
