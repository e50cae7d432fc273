//! What the smallest swarms do, line by line: a change of behaviour shows in the diff.

use floodway_proto::{ByteRate, Layout};
use floodway_sim::plan::{Conduct, Link, NodePlan, Plan, ServerPlan};

use crate::finishes;

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
