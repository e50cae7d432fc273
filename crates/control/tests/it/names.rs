//! The standard names of a content, and its signed side over HTTP.

use std::time::{Duration, Instant};

use floodway_api::manifest::Phase;
use floodway_api::rest::{Capabilities, Role};
use floodway_proto::bencode::{Dict, Limits, decode};
use floodway_proto::facts::Accept;
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::Manifest;
use floodway_proto::record::{FinalNames, Head, Signed};
use floodway_proto::{InfoHash, Sid, digest, merkle};

use crate::client::{Node, Object, PIECE, Server, content, probe, relay_all};

/// All records in a body, taken by a node that trusts the genesis.
fn take(manifest: &mut Manifest, body: &[u8]) {
    let mut left = body.len();
    let mut rest = body.to_vec().into();
    while left > 0 {
        let signed = Signed::take(&mut rest).unwrap();
        left -= signed.bytes().len();
        manifest.apply(&signed).unwrap();
    }
}

async fn names(server: &Server, sid: Sid) -> FinalNames {
    let get = async |path| {
        server
            .get(&format!("/api/v1/s/{sid}/{path}"), &server.admin())
            .await
    };
    let genesis = Genesis::decode(&get("genesis").await.body).unwrap();
    let mut manifest = Manifest::new(genesis, Accept::Sealed).unwrap();
    take(&mut manifest, &get("head").await.body);
    manifest.final_names().expect("final").clone()
}

/// A relay that probed an object of so many pieces.
async fn begun(server: &Server, length: u64) -> (Node, String, Sid) {
    let mut relay = server.enrol(Role::Relay).await;
    relay.sync(server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let sid = content(&relay.probed(server, &task, probe(length)).await).sid;
    (relay, task, sid)
}

#[tokio::test]
async fn a_final_content_has_torrents_and_magnet_links_of_every_form() {
    let server = Server::with(|settings| settings.hybrid_torrents = true);
    for (name, length) in [("small.img", 1000), ("disk.img", 5 * PIECE + 77)] {
        let mut relay = server.enrol(Role::Relay).await;
        let task = server.publish(name, None).await.relay_task;
        let object = Object::new(length);
        let sid = relay_all(&server, &mut relay, &task, &object).await;
        let signed = names(&server, sid).await;
        let (hybrid_v1, hybrid_v2) = signed.hybrid.unwrap();
        let admin = server.admin();
        for format in ["v1", "v2", "hybrid"] {
            let path = format!("/api/v1/s/{sid}/torrent?format={format}");
            let torrent = server.get(&path, &admin).await;
            assert_eq!(torrent.status, 200, "{}", torrent.text());
            let value = decode(&torrent.body, &Limits::TORRENT).unwrap();
            let torrent = value.as_dict().unwrap();
            let info = torrent.get("info").unwrap().raw();
            let (v1, v2) = (InfoHash(digest::sha1(info).0), digest::sha256(info));
            let path = format!("/api/v1/s/{sid}/magnet?format={format}");
            let magnet = server.get(&path, &admin).await.text();
            let btih = |hash| format!("xt=urn:btih:{hash}");
            let btmh = |hash| format!("xt=urn:btmh:1220{hash}");
            match format {
                "v1" => {
                    assert_eq!(Some(v1), signed.v1);
                    assert!(
                        magnet.starts_with(&format!(
                            "magnet:?{}&dn=disk.img&xl={length}&tr=http%3A%2F%2F",
                            btih(v1)
                        )),
                        "{magnet}"
                    );
                }
                "v2" => {
                    assert_eq!(Some(v2), signed.v2);
                    assert!(
                        magnet.contains(&btmh(v2)) && !magnet.contains("btih"),
                        "{magnet}"
                    );
                }
                _ => {
                    assert_eq!((v1, v2), (hybrid_v1, hybrid_v2));
                    assert!(
                        magnet.contains(&btmh(v2)) && magnet.contains(&btih(v1)),
                        "{magnet}"
                    );
                }
            }
            assert!(magnet.contains("&ws=http"), "{magnet}");
            let layers = torrent
                .get("piece layers")
                .and_then(|layers| layers.as_dict());
            let entries: Vec<_> = layers.into_iter().flat_map(Dict::entries).collect();
            let has_layers = format != "v1" && length > PIECE;
            assert_eq!(entries.len(), usize::from(has_layers), "{format}");
            for (root, layer) in entries {
                assert_eq!(Some(root), signed.roots[0].as_ref().map(|root| &root.0[..]));
                let all: Vec<u32> = (0..object.layout.piece_count()).collect();
                let nodes = object
                    .pieces(&all)
                    .iter()
                    .flat_map(|piece| piece.node.0)
                    .collect::<Vec<u8>>();
                assert_eq!(layer.as_bytes().unwrap(), nodes);
            }
        }
        let bad = server
            .get(&format!("/api/v1/s/{sid}/torrent?format=v3"), &admin)
            .await;
        assert_eq!(
            bad.refusal(),
            (400, "bad_request".into(), Some("format".into()))
        );
    }
}

#[tokio::test]
async fn without_the_setting_there_is_no_hybrid_and_before_final_there_is_nothing() {
    let server = Server::start();
    let (mut relay, task, sid) = begun(&server, 3 * PIECE).await;
    let admin = server.admin();
    for path in ["torrent?format=v2", "magnet"] {
        let early = server.get(&format!("/api/v1/s/{sid}/{path}"), &admin).await;
        assert_eq!(early.refusal(), (404, "not_final".into(), None));
        assert!(early.head.contains("retry-after"), "{}", early.head);
    }
    relay
        .report(
            &server,
            &task,
            sid,
            Object::new(3 * PIECE).pieces(&[0, 1, 2]),
        )
        .await;
    let path = format!("/api/v1/s/{sid}/torrent?format=hybrid");
    let none = server.get(&path, &admin).await;
    assert_eq!(
        none.refusal(),
        (404, "no_such_format".into(), Some("format".into()))
    );
}

#[tokio::test]
async fn the_signed_side_can_be_read_and_waited_for_over_http() {
    let server = Server::start();
    let count = 520;
    let length = u64::from(count) * PIECE;
    let (mut relay, task, sid) = begun(&server, length).await;
    let token = relay.token.clone();
    let path = |rest: &str| format!("/api/v1/s/{sid}/{rest}");
    let genesis = server.get(&path("genesis"), &token).await;
    assert!(genesis.head.contains("immutable"), "{}", genesis.head);
    let genesis = Genesis::decode(&genesis.body).unwrap();
    assert_eq!(genesis.sid(), sid);
    let mut manifest = Manifest::new(genesis, Accept::Sealed).unwrap();
    let first = server.get(&path("head"), &token).await;
    take(&mut manifest, &first.body);
    let head = manifest.complete_to();
    assert!(head > Head::default() && first.head.contains(&format!("etag: \"{head}\"")));
    assert_eq!(
        server
            .get(&path(&format!("head?after={head}&wait=1")), &token)
            .await
            .status,
        204
    );

    // Whoever waits is told as soon as something is signed. The bytes need not be those of an object.
    let waited = path(&format!("head?after={head}&wait=25"));
    let news = async {
        let answer = server.get(&waited, &token).await;
        (answer, Instant::now())
    };
    let report = |piece: u32| floodway_api::sync::PieceReport {
        piece,
        node: digest::sha256(&piece.to_be_bytes()),
        sha1: digest::sha1(&piece.to_be_bytes()),
    };
    let reported = async {
        relay.report(&server, &task, sid, vec![report(0)]).await;
        Instant::now()
    };
    let ((news, told), reported) = tokio::join!(news, reported);
    assert!(told.saturating_duration_since(reported) < Duration::from_secs(5));
    take(&mut manifest, &news.body);
    assert_eq!(manifest.facts().piece_hash(0), Some(report(0).node));

    let early = server.get(&path("hashes/0"), &token).await;
    assert_eq!(early.refusal(), (404, "not_known".into(), None));
    let part = server.get(&path("hashes/0?first=0&count=1"), &token).await;
    assert_eq!((part.status, part.body), (200, report(0).node.0.to_vec()));
    let more = server.get(&path("hashes/0?first=0&count=2"), &token).await;
    assert_eq!(more.refusal(), (404, "not_known".into(), None));
    let shown = server.task(&task).await.growth.unwrap();
    assert_eq!(
        (shown.phase, shown.sealed, shown.pieces),
        (Phase::Growing, 1, Some(count))
    );
    assert_eq!(
        (shown.relays[0].node, shown.relays[0].pieces),
        (relay.id, 1)
    );
    loop {
        let order = content(&relay.sync(&server).await);
        if order.is_final {
            break;
        }
        let pieces = crate::client::leased(&order)
            .into_iter()
            .map(report)
            .collect();
        relay.report(&server, &task, sid, pieces).await;
    }
    // Also when the hashes are in the database only.
    for (group, pieces) in [(0, 0..512), (1, 512..count)] {
        let sha256 = server.get(&path(&format!("hashes/{group}")), &token).await;
        let sha1 = server
            .get(&path(&format!("hashes/{group}?alg=sha1")), &token)
            .await;
        assert!(
            pieces
                .clone()
                .flat_map(|piece| report(piece).node.0)
                .eq(sha256.body)
        );
        assert!(pieces.flat_map(|piece| report(piece).sha1.0).eq(sha1.body));
    }
    assert_eq!(server.get(&path("hashes/2"), &token).await.status, 404);
    let shown = server.task(&task).await.growth.unwrap();
    assert_eq!(
        (shown.phase, shown.sealed, shown.relays.len()),
        (Phase::Final, count, 1)
    );
    let share = &shown.relays[0];
    assert_eq!(
        (share.node, share.pieces, share.leased),
        (relay.id, count, 0),
        "who reported them is not forgotten"
    );
    assert_eq!(merkle::GROUP_PIECES, 512);

    for (rest, field) in [
        ("head?after=x", "after"),
        ("head?wait=x", "wait"),
        ("hashes/x", "group"),
        ("hashes/0?alg=md5", "alg"),
    ] {
        let refused = server.get(&path(rest), &token).await.refusal();
        assert_eq!(
            refused,
            (400, "bad_request".into(), Some(field.into())),
            "{rest}"
        );
    }
    // As at a relay, a capability of this content will do.
    let urls: Capabilities = {
        relay.holds(sid, true);
        relay.sync(&server).await;
        let body = serde_json::json!({"seconds": 60});
        server.post(&path("capability"), &token, &body).await.ok()
    };
    let capability = urls.urls[0].split('/').nth(6).unwrap();
    assert_eq!(server.get(&path("head"), capability).await.status, 200);
    let other = format!("/api/v1/s/{}/head", "cd".repeat(32));
    assert_eq!(server.get(&other, capability).await.status, 403);
    assert_eq!(server.get(&path("torrent"), capability).await.status, 401);
    let join = server.secret("join.token");
    assert_eq!(server.get(&path("head"), &join).await.status, 403);
    let unknown = format!("/api/v1/s/{}/head", "ab".repeat(32));
    assert_eq!(server.get(&unknown, &token).await.status, 404);
}
