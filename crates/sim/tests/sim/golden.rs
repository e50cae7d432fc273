//! What the smallest swarms do, line by line: a change of behaviour shows in the diff.

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, Time};
use floodway_sim::plan::{Conduct, Link, NodePlan, Plan, ServerFault, ServerPlan};
use floodway_swarm::SourceClass;

use crate::{finishes, peers_first};

/// Four pieces of two blocks.
fn tiny(nodes: Vec<NodePlan>) -> Plan {
    let layout = Layout::new(Some(128 * 1024), 32 * 1024).unwrap();
    Plan::new("tiny", layout, nodes)
}

const LINK: Link = Link::of(ByteRate(1_000_000));

#[test]
fn a_seed_and_one_node() {
    let plan = tiny(vec![NodePlan::seed(LINK), NodePlan::new(LINK)]);
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}

#[test]
fn a_lone_node_and_an_origin() {
    let mut plan = tiny(vec![NodePlan {
        servers: vec![0],
        ..NodePlan::new(LINK)
    }]);
    plan.servers.push(ServerPlan::origin(LINK));
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}

#[test]
fn a_liar_a_seed_and_one_node() {
    let mut nodes = vec![NodePlan::seed(LINK); 2];
    nodes[1].conduct = Conduct::Lies { one_in: 2 };
    nodes.push(NodePlan::new(LINK));
    insta::assert_snapshot!(finishes(&tiny(nodes), 1).trace);
}

#[test]
fn an_origin_that_is_busy_and_breaks_off() {
    let mut plan = tiny(vec![NodePlan {
        servers: vec![0],
        ..NodePlan::new(LINK)
    }]);
    let busy = ServerFault::Busy {
        from: Time::ZERO,
        to: Time::from_millis(300),
        retry_after: Duration::from_millis(500),
    };
    plan.servers.push(ServerPlan {
        faults: vec![busy, ServerFault::Breaks { after: 3 }],
        ..ServerPlan::origin(LINK)
    });
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}

/// They tell each other what they read, as soon as they are connected.
#[test]
fn three_own_nodes_without_a_seed() {
    let node = NodePlan {
        servers: vec![0],
        config: peers_first,
        ..NodePlan::new(LINK)
    };
    let mut plan = tiny(vec![node; 3]);
    plan.servers.push(ServerPlan::origin(LINK));
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}

/// A relay goes before the origin; what it says wrongly comes from the origin.
#[test]
fn a_lying_relay_and_an_origin() {
    let mut plan = tiny(vec![NodePlan {
        servers: vec![0, 1],
        ..NodePlan::new(LINK)
    }]);
    plan.servers.push(ServerPlan {
        class: SourceClass::Relay,
        faults: vec![ServerFault::Lies { one_in: 3 }],
        ..ServerPlan::origin(LINK)
    });
    plan.servers.push(ServerPlan::origin(LINK));
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}

/// The seed leaves midway; who is behind NAT has half of it and comes to the other.
#[test]
fn a_seed_that_leaves_and_a_node_behind_nat() {
    let mut nodes = vec![NodePlan::seed(LINK), NodePlan::new(LINK)];
    nodes[0].leaves = Some(Time::from_millis(200));
    nodes[1].nat = true;
    nodes.push(NodePlan {
        servers: vec![0],
        joins: Time::from_millis(100),
        ..NodePlan::new(LINK)
    });
    let mut plan = tiny(nodes);
    plan.servers.push(ServerPlan::origin(LINK));
    insta::assert_snapshot!(finishes(&plan, 1).trace);
}
