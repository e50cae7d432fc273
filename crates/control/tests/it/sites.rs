//! Nodes are told where they stand, and what they are to bring there.

use floodway_api::rest::Role;
use floodway_api::sync::SyncReply;
use floodway_proto::{NodeId, Sid, Site};
use serde_json::Value;

use crate::client::{Node, Object, PIECE, Server, relay_all};
use crate::levels::named;

/// What the answer says of the node's site.
fn stand(reply: &SyncReply, sid: Sid) -> Option<Site> {
    let mut infos = reply.contents.iter();
    infos.find(|info| info.sid == sid)?.site
}

fn length(site: Option<Site>) -> Option<u8> {
    site.map(|site| site.end - site.first)
}

fn peers(reply: &SyncReply) -> Vec<NodeId> {
    let peers = reply.contents.iter().flat_map(|info| &info.peers);
    peers.filter_map(|peer| peer.node).collect()
}

/// The node wants the content; waits until it is told to bring so many parts.
async fn brings(node: &mut Node, server: &Server, sid: Sid, parts: Option<u8>) -> SyncReply {
    let is_told = |reply: &SyncReply| length(stand(reply, sid)) == parts;
    node.until(server, is_told).await
}

/// A relay that has a content, and an agent each of these sites that wants it.
async fn start<const N: usize>(sites: [&str; N]) -> (Server, Sid, Node, [Node; N]) {
    let server = Server::start();
    let mut relay = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let sid = relay_all(&server, &mut relay, &task, &Object::new(8 * PIECE)).await;
    let mut agents = Vec::new();
    for (index, site) in sites.iter().enumerate() {
        let name = format!("agent {index}");
        agents.push(match *site {
            "" => server.enrol(Role::Agent).await,
            site => named(&server, Role::Agent, &name, site).await,
        });
    }
    let mut agents: [Node; N] = agents.try_into().ok().expect("one each");
    for agent in &mut agents {
        agent.holds(sid, false);
        agent.sync(&server).await;
    }
    (server, sid, relay, agents)
}

#[tokio::test]
async fn the_parts_are_divided_at_each_site_and_dealt_anew_when_nodes_come_and_go() {
    let (server, sid, mut relay, agents) = start(["a", "a", "b", ""]).await;
    let [mut one, mut two, mut other, mut nowhere] = agents;
    let at_one = stand(&brings(&mut one, &server, sid, Some(8)).await, sid).unwrap();
    let at_two = stand(&brings(&mut two, &server, sid, Some(8)).await, sid).unwrap();
    let at_other = brings(&mut other, &server, sid, Some(16)).await;
    assert_eq!(at_one.tag, at_two.tag);
    assert_eq!(at_one.first + at_two.first, 8, "together they bring all");
    // It hears of the relay, of who brings something elsewhere, and of nobody twice.
    let mut told = peers(&at_other);
    told.sort_unstable();
    let mut all = vec![relay.id, one.id, two.id, nowhere.id];
    all.sort_unstable();
    assert_eq!(told, all);
    let at_other = stand(&at_other, sid).unwrap();
    let at_relay = stand(&brings(&mut relay, &server, sid, Some(16)).await, sid).unwrap();
    assert!(at_other.tag != at_one.tag && at_relay.tag != at_other.tag);
    let told = nowhere.sync(&server).await;
    assert_eq!(peers(&told).len(), 4);
    let told: Value = serde_json::to_value(&told).unwrap();
    assert_eq!(
        told["contents"][0].get("site"),
        None,
        "as if there were no sites"
    );

    // Who stays is told in its parked sync.
    two.state.leaving = true;
    two.sync(&server).await;
    brings(&mut one, &server, sid, Some(16)).await;
    let mut late = named(&server, Role::Agent, "late", "a").await;
    late.holds(sid, false);
    brings(&mut late, &server, sid, Some(8)).await;
    brings(&mut one, &server, sid, Some(8)).await;
    // A relay at the site brings all in their place, unless its disk is full.
    let mut near = named(&server, Role::Relay, "near", "a").await;
    near.holds(sid, false);
    brings(&mut near, &server, sid, Some(16)).await;
    for agent in [&mut one, &mut late] {
        brings(agent, &server, sid, Some(0)).await;
    }
    near.state.contents[0].paused = Some("the disk is full".into());
    near.sync(&server).await;
    for agent in [&mut one, &mut late] {
        brings(agent, &server, sid, Some(8)).await;
    }
}

#[tokio::test]
async fn a_complete_node_keeps_its_parts() {
    let (server, sid, _relay, [mut one, mut two, _other]) = start(["a", "a", "b"]).await;
    let before = stand(&brings(&mut one, &server, sid, Some(8)).await, sid);
    one.holds(sid, true);
    assert_eq!(stand(&one.sync(&server).await, sid), before);
    let mut late = named(&server, Role::Agent, "late", "b").await;
    late.holds(sid, false);
    brings(&mut late, &server, sid, Some(8)).await;
    brings(&mut two, &server, sid, Some(8)).await;
    assert_eq!(stand(&one.sync(&server).await, sid), before);
}

#[tokio::test]
async fn parts_are_dealt_again_after_a_restart() {
    let (mut server, sid, _relay, [mut one, mut two, mut other]) = start(["a", "a", "b"]).await;
    brings(&mut one, &server, sid, Some(8)).await;
    server.kill_and_restart().await;
    // The first that comes back brings all until the second does.
    brings(&mut one, &server, sid, Some(16)).await;
    brings(&mut two, &server, sid, Some(8)).await;
    brings(&mut one, &server, sid, Some(8)).await;
    brings(&mut other, &server, sid, Some(16)).await;
}

#[tokio::test]
async fn nobody_is_told_of_sites_where_all_are_at_the_same_or_none() {
    let (server, sid, mut relay, [mut one, mut two, mut three]) = start(["a", "a", ""]).await;
    for node in [&mut relay, &mut one, &mut two, &mut three] {
        let reply = node.sync(&server).await;
        assert_eq!(stand(&reply, sid), None);
        assert_eq!(peers(&reply).len(), 3, "everybody else");
    }
    // With the first node of another site they play a role; all who are parked are told.
    named(&server, Role::Agent, "another", "b").await;
    for node in [&mut one, &mut two] {
        brings(node, &server, sid, Some(8)).await;
    }
    brings(&mut relay, &server, sid, Some(16)).await;
    assert_eq!(stand(&three.sync(&server).await, sid), None);
}
