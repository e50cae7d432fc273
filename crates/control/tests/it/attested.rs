//! Leases that control signs, so that relays may attest what they read under them.

use floodway_api::HexBytes;
use floodway_api::rest::Role;
use floodway_proto::Sid;
use floodway_proto::record::{Body, Lease, LeaseId, SecretKey};

use crate::client::{Object, PIECE, Server, content, leased, probe};
use crate::growing::Follower;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

async fn relay(server: &Server, seed: u8) -> Follower {
    let mut relay = Follower::enrol(server, Role::Relay).await;
    relay.node.state.boot = seed.into();
    relay.node.state.record_key = Some(HexBytes(key(seed).public().to_bytes().to_vec()));
    relay.node.sync(server).await;
    relay
}

/// The leases that count as far as a node knows.
fn leases(node: &Follower) -> Vec<Lease> {
    let leases = node.manifest.as_ref().unwrap().leases();
    let leases = leases.filter_map(|signed| match &signed.record().body {
        Body::Lease(lease) => Some(lease.clone()),
        _ => None,
    });
    leases.collect()
}

async fn begun(server: &Server, relay: &mut Follower, pieces: u64) -> (String, Sid) {
    let task = server.publish("disk.img", None).await.relay_task;
    let reply = relay
        .node
        .probed(server, &task, probe(pieces * PIECE))
        .await;
    let sid = content(&reply).sid;
    relay.take(&reply, sid);
    let mut pieces: Vec<u32> = Vec::new();
    for lease in leases(relay) {
        assert_eq!(lease.relay, key(1).public());
        pieces.extend(lease.first..lease.first + lease.count);
    }
    pieces.sort_unstable();
    assert_eq!(pieces, leased(&content(&reply)), "those that it holds");
    (task, sid)
}

#[tokio::test]
async fn leases_are_signed_for_relays_that_have_a_key_and_end_with_them() {
    let server = Server::start();
    let mut first = relay(&server, 1).await;
    let (task, sid) = begun(&server, &mut first, 8).await;
    let object = Object::new(8 * PIECE);
    let old: Vec<LeaseId> = leases(&first).iter().map(|lease| lease.lease).collect();
    assert!(!old.is_empty());
    first.report(&server, &task, sid, &object, &[0]).await;
    // Another one takes over when it goes.
    let mut other = relay(&server, 2).await;
    first.node.state.leaving = true;
    first.node.sync(&server).await;
    let reply = other
        .node
        .until(&server, |reply| {
            let orders = reply.relay_tasks.iter();
            let mut contents = orders.filter_map(|order| order.content.as_ref());
            contents.any(|content| leased(content).len() == 7)
        })
        .await;
    other.take(&reply, sid);
    let order = content(&reply);
    let piece = leased(&order)[0];
    other.report(&server, &task, sid, &object, &[piece]).await;
    // With the next record, which may wait for more.
    for lease in old {
        let counts = |other: &Follower| other.manifest.as_ref().unwrap().lease(lease).is_some();
        for _ in 0..200 {
            if counts(&other) {
                let reply = other.node.wait(&server, 100).await;
                other.take(&reply, sid);
            }
        }
        assert!(!counts(&other), "what comes under it now is void");
    }
    let signed = leases(&other);
    assert!(!signed.is_empty());
    assert!(signed.iter().all(|lease| lease.relay == key(2).public()));
}

#[tokio::test]
async fn who_has_no_key_or_none_that_is_one_gets_no_signed_lease() {
    let server = Server::start();
    let weak = Some(HexBytes(vec![0; 32]));
    let short = Some(HexBytes(vec![7; 31]));
    for (number, record_key) in [None, weak, short].into_iter().enumerate() {
        let mut relay = Follower::enrol(&server, Role::Relay).await;
        relay.node.state.record_key = record_key;
        relay.node.sync(&server).await;
        let name = format!("{number}.img");
        let task = server.publish(&name, None).await.relay_task;
        let reply = relay.node.probed(&server, &task, probe(8 * PIECE)).await;
        let order = reply
            .relay_tasks
            .iter()
            .find(|order| order.relay_task == task);
        let order = order.unwrap().content.clone().unwrap();
        assert!(!order.leases.is_empty());
        relay.take(&reply, order.sid);
        assert!(leases(&relay).is_empty());
    }
}
