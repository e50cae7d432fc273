//! Stock clients.

use std::net::SocketAddr;

use floodway_api::rest::Role;
use floodway_proto::bencode::{Limits, decode};
use floodway_proto::metainfo::Metainfo;
use floodway_proto::tracker::{
    AnnounceRequest, AnnounceResponse, Event, ScrapeRequest, ScrapeResponse,
};
use floodway_proto::{InfoHash, PeerName, digest};

use crate::client::{Answer, Object, PIECE, Server, relay_all};

fn announce(hash: InfoHash, port: u16, left: u64, event: Event) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: hash,
        peer: PeerName([port.to_le_bytes()[0]; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left,
        event,
        compact: true,
        no_peer_id: true,
        wanted: None,
        address: Some("8.8.8.8".parse().unwrap()),
        key: None,
        tracker_id: None,
    }
}

async fn send(server: &Server, path: &str, request: &AnnounceRequest) -> Answer {
    server
        .get(&format!("{path}?{}", request.to_query()), "")
        .await
}

#[tokio::test]
async fn stock_clients_meet_own_nodes_that_know_the_names_and_each_other() {
    let server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(
        &server,
        &mut relay,
        &task.relay_task,
        &Object::new(3 * PIECE),
    )
    .await;
    agent.holds(sid, false);
    agent.sync(&server).await;
    let torrent = server
        .get(&format!("/api/v1/s/{sid}/torrent"), &server.admin())
        .await;
    let torrent = Metainfo::decode(&torrent.body).unwrap();
    let (hash, url) = (torrent.info_hash, &torrent.trackers[0][0]);
    let path = url
        .strip_prefix(&format!("http://{}", server.addr))
        .unwrap();

    let first = send(&server, path, &announce(hash, 5001, 10, Event::Started)).await;
    let first = AnnounceResponse::decode(&first.body).unwrap();
    let addresses: Vec<SocketAddr> = first.peers.iter().map(|peer| peer.address).collect();
    assert_eq!(
        addresses,
        [relay.state.peer.unwrap()],
        "the agent does not know the final names"
    );
    assert_eq!(
        (first.interval_s, first.complete, first.incomplete),
        (30, Some(1), Some(2))
    );

    let second = send(&server, path, &announce(hash, 5002, 0, Event::Completed)).await;
    let second = AnnounceResponse::decode(&second.body).unwrap();
    let stock: SocketAddr = "127.0.0.1:5001".parse().unwrap();
    assert_eq!(
        second
            .peers
            .iter()
            .map(|peer| peer.address)
            .collect::<Vec<_>>(),
        [stock],
        "a seed gets no seeds"
    );
    let told = agent.sync(&server).await;
    assert!(
        told.contents[0]
            .peers
            .iter()
            .any(|peer| peer.addr == stock && peer.node.is_none()),
        "{told:?}"
    );

    let scrape = ScrapeRequest {
        info_hashes: vec![hash],
    }
    .to_query();
    let scraped = server
        .get(
            &format!("{}?{scrape}", path.replace("announce", "scrape")),
            "",
        )
        .await;
    let entry = ScrapeResponse::decode(&scraped.body).unwrap().files[&hash];
    assert_eq!(
        (entry.complete, entry.downloaded, entry.incomplete),
        (2, 1, 2)
    );

    send(&server, path, &announce(hash, 5001, 10, Event::Stopped)).await;
    let third = send(&server, path, &announce(hash, 5003, 10, Event::Regular)).await;
    let third = AnnounceResponse::decode(&third.body).unwrap();
    assert!(third.peers.iter().all(|peer| peer.address != stock));
}

#[tokio::test]
async fn wrong_keys_hashes_and_queries_get_a_reason() {
    let server = Server::start();
    let mut relay = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await;
    let sid = relay_all(&server, &mut relay, &task.relay_task, &Object::new(9)).await;
    let torrent = server
        .get(&format!("/api/v1/s/{sid}/torrent"), &server.admin())
        .await;
    let torrent = Metainfo::decode(&torrent.body).unwrap();
    let url = &torrent.trackers[0][0];
    let path = url
        .strip_prefix(&format!("http://{}", server.addr))
        .unwrap();
    let good = announce(torrent.info_hash, 5001, 1, Event::Started);
    let cases = [
        send(&server, "/announce/0123", &good).await,
        send(
            &server,
            path,
            &announce(InfoHash([1; 20]), 5001, 1, Event::Started),
        )
        .await,
        send(
            &server,
            path,
            &announce(torrent.info_hash, 0, 1, Event::Started),
        )
        .await,
        server.get(path, "").await,
        server.get("/scrape/0123", "").await,
    ];
    for answer in cases {
        assert_eq!(answer.status, 200);
        assert!(
            answer.text().starts_with("d14:failure reason"),
            "{}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn the_tracker_knows_every_name_and_keeps_their_stock_clients_apart() {
    let server = Server::with(|settings| settings.hybrid_torrents = true);
    let mut relay = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let object = Object::new(3 * PIECE);
    let sid = relay_all(&server, &mut relay, &task, &object).await;
    // It came when all was over, and knows the v1 torrent only.
    let mut late = server.enrol(Role::Agent).await;
    late.holds(sid, true);
    late.state.contents[0].v2_ok = false;
    late.sync(&server).await;
    let get = async |path: &str| {
        let path = format!("/api/v1/s/{sid}/{path}");
        server.get(&path, &server.admin()).await.body
    };
    let torrent = Metainfo::decode(&get("torrent").await).unwrap();
    let path = torrent.trackers[0][0]
        .split_once("/announce/")
        .unwrap()
        .1
        .to_owned();
    let info_of = |torrent: &[u8]| {
        let value = decode(torrent, &Limits::TORRENT).unwrap();
        let dict = value.as_dict().unwrap();
        dict.get("info").unwrap().raw().to_vec()
    };
    let truncated = |info: &[u8]| InfoHash(digest::sha256(info).0[..20].try_into().unwrap());
    let v2 = truncated(&info_of(&get("torrent?format=v2").await));
    let hybrid = info_of(&get("torrent?format=hybrid").await);
    let hybrids = [InfoHash(digest::sha1(&hybrid).0), truncated(&hybrid)];
    let mut told = Vec::new();
    for (port, hash) in [
        (1001, torrent.info_hash),
        (1002, v2),
        (1003, hybrids[0]),
        (1004, hybrids[1]),
    ] {
        let request = announce(hash, port, 1, Event::Started);
        let answer = send(&server, &format!("/announce/{path}"), &request).await;
        let answer = AnnounceResponse::decode(&answer.body).unwrap();
        let ports = answer.peers.iter().map(|peer| peer.address.port());
        told.push(ports.collect::<std::collections::BTreeSet<u16>>());
    }
    let port = |node: &crate::client::Node| node.state.peer.unwrap().port();
    let (own, late) = (port(&relay), port(&late));
    assert_eq!(told[0], [own, late].into());
    assert_eq!(
        told[1],
        [own].into(),
        "not those that know only the v1 name"
    );
    assert_eq!(told[2], [own].into());
    assert_eq!(
        told[3],
        [own, 1003].into(),
        "a hybrid's two names are one swarm"
    );
    let scrape = server.get(&format!("/scrape/{path}"), "").await;
    let scrape = ScrapeResponse::decode(&scrape.body).unwrap();
    assert_eq!(scrape.files.len(), 4);
    // An own node is told under which name to dial each of them.
    let reply = relay.sync(&server).await;
    let mut names: Vec<_> = reply.contents[0]
        .peers
        .iter()
        .map(|peer| peer.name)
        .collect();
    names.sort();
    let mut all = vec![
        Some(torrent.info_hash),
        Some(v2),
        Some(hybrids[0]),
        Some(hybrids[0]),
    ];
    all.sort();
    assert_eq!(names, all);
}
