//! Streaming start: agents have pieces while the relay still fetches the rest, each verified before it is used.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use floodway_testkit::third_party::{Aria2, Libtorrent, Transmission, own_ip};
use floodway_testkit::{
    Fleet, Lie, Node, ScriptedOrigin, Site, TestDir, random_bytes, request, task_id, wait_until,
    without_key,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// The length of these files' pieces.
const PIECE: u64 = 64 << 10;
const PATIENCE: Duration = Site::PATIENCE;

/// A paced origin, and a fleet that may read it.
struct Stage {
    fleet: Fleet,
    origin: ScriptedOrigin,
    url: String,
    length: u64,
    dir: TestDir,
}

impl Stage {
    /// Each connection to the origin gets so many bytes a second.
    fn new(length: u64, rate: u64) -> Self {
        let dir = TestDir::new();
        let origin = ScriptedOrigin::start_limited(random_bytes(length, 9), Lie::None, rate);
        let fleet = Fleet::start(
            env!("CARGO_BIN_EXE_floodway"),
            dir.folder("fleet"),
            [origin.url("/")],
        );
        Self {
            fleet,
            url: origin.url("/disk.img"),
            origin,
            length,
            dir,
        }
    }

    fn begin(&self) -> String {
        task_id(&self.fleet.create_task(&self.url, Some("all")))
    }

    /// Waits for the end of the task, and looks at every byte.
    fn ends(&self, task: &str, agents: &[Node]) -> Value {
        let ended = self.fleet.await_task(task, &["done", "failed"], PATIENCE);
        assert_eq!(ended["state"], "done", "{ended:#}");
        for agent in agents {
            assert!(fs::read(agent.files.join("disk.img")).unwrap() == self.origin.body());
        }
        ended
    }
}

/// Waits until the relay has fetched so many bytes.
fn fetched(relay: &Node, bytes: u64) {
    wait_until("bytes at the relay", PATIENCE, || {
        (of_origin(relay) >= bytes).then_some(())
    });
}

fn of_origin(node: &Node) -> u64 {
    node.metric("floodway_origin_body_bytes_total")
}

/// Waits until every agent has received bytes of peers.
fn all_receive(agents: &[Node]) {
    for agent in agents {
        wait_until("bytes from peers", PATIENCE, || {
            (agent.metric("floodway_peer_received_bytes_total") >= PIECE).then_some(())
        });
    }
}

#[test]
fn agents_have_the_first_pieces_while_the_relay_fetches_the_rest() {
    let mut stage = Stage::new(24 * MIB, 2 * MIB);
    // Before, ..
    let mut agents = stage.fleet.agents(2);
    stage.fleet.await_live_nodes(2);
    let token = stage.fleet.join_token();
    let log = ["--log", "floodway_node=info", "--log-json"];
    let mut relays = [stage.fleet.node("relay", &token, &log)];
    let task = stage.begin();
    let said = relays[0].process.stderr_line("first_complete_piece");
    assert!(said.contains("\"t_unix_us\":"), "{said}");
    all_receive(&agents);
    let early = of_origin(&relays[0]);
    assert!(
        early < stage.length / 2,
        "{early} bytes were fetched by then"
    );
    // .. during, ..
    fetched(&relays[0], stage.length / 2);
    agents.extend(stage.fleet.agents(1));
    let during = stage.begin();
    all_receive(&agents);
    assert!(
        of_origin(&relays[0]) < stage.length,
        "the relay still fetches"
    );
    for task in [&task, &during] {
        let ended = stage.ends(task, &agents[..2]);
        let agents = ended["agents"].as_array().unwrap();
        for agent in agents {
            assert_eq!(agent["reason"], "facts", "{ended:#}");
            assert_eq!(agent["sources"]["origin"], 0, "{ended:#}");
        }
    }
    // .. and after.
    agents.extend(stage.fleet.agents(1));
    let after = stage.begin();
    stage.ends(&after, &agents);
    let sent = stage.origin.body_bytes();
    assert!(sent * 10 <= stage.length * 11, "{sent} bytes of one copy");
}

#[test]
fn two_relays_report_only_what_they_read_themselves() {
    let mut stage = Stage::new(24 * MIB, 4 * MIB);
    let relays = stage.fleet.relays(2);
    let agents = stage.fleet.agents(1);
    stage.fleet.await_live_nodes(3);
    let task = stage.begin();
    let ended = stage.ends(&task, &agents);
    // Both have all of it, half of it from each other.
    for relay in &relays {
        let sid = ended["sid"].as_str().unwrap();
        let path = format!("contents/{sid}/disk.img");
        wait_until("the whole at the relay", PATIENCE, || {
            let bytes = fs::read(relay.data.join(&path)).ok()?;
            (bytes == stage.origin.body()).then_some(())
        });
        let of_peers = relay.metric("floodway_peer_received_bytes_total");
        assert!(of_peers >= PIECE, "{of_peers} bytes from the other relay");
        let said = relay.process.stderr();
        assert!(!said.contains("control did not take"), "{said}");
    }
    let said = stage.fleet.control.stderr();
    assert!(!said.contains("reported pieces do not count"), "{said}");
    let sent = stage.origin.body_bytes();
    assert!(sent * 10 <= stage.length * 11, "{sent} bytes of one copy");
}

#[test]
fn who_reaches_no_peer_reads_hashes_and_pieces_of_a_relay_over_http() {
    let mut stage = Stage::new(24 * MIB, 2 * MIB);
    let relays = stage.fleet.relays(1);
    stage.fleet.await_live_nodes(1);
    let token = stage.fleet.join_token();
    let args = ["get", &stage.url, "--no-p2p", "--json", "-o", "alone.img"];
    let mut get = stage.fleet.cli_with(&token).args(args).start();
    get.event("first_verified_piece");
    let early = of_origin(&relays[0]);
    assert!(early < stage.length, "the relay still fetches: {early}");
    let done = get.finish().expect_code(0).last_json();
    assert_eq!(done["verified_by"], "facts", "{done}");
    let bytes = |field: &str| done[field].as_u64().unwrap();
    let got = (bytes("relay_bytes"), bytes("origin_bytes"));
    assert_eq!(got, (stage.length, 0), "{done}");
    assert_eq!(relays[0].metric("floodway_peer_sent_bytes_total"), 0);
    let sent = stage.origin.body_bytes();
    assert!(sent * 10 <= stage.length * 11, "{sent} bytes of one copy");
}

#[test]
fn a_relay_killed_midway_goes_on_with_what_it_has() {
    let mut stage = Stage::new(16 * MIB, 2 * MIB);
    let agents = stage.fleet.agents(2);
    let mut relays = stage.fleet.relays(1);
    stage.fleet.await_live_nodes(3);
    let task = stage.begin();
    all_receive(&agents);
    fetched(&relays[0], stage.length / 2);
    relays[0].process.kill9();
    relays[0].restart();
    stage.ends(&task, &agents);
    // What was under way on two connections is lost, and blocks of the last two seconds.
    let again = stage.origin.body_bytes() - stage.length;
    assert!(again <= 10 * MIB, "{again} bytes were fetched again");
}

#[test]
fn control_may_be_killed_and_started_again_midway() {
    let mut stage = Stage::new(16 * MIB, 2 * MIB);
    let agents = stage.fleet.agents(2);
    let relays = stage.fleet.relays(1);
    stage.fleet.await_live_nodes(3);
    let task = stage.begin();
    all_receive(&agents);
    fetched(&relays[0], stage.length / 2);
    stage.fleet.control.kill9();
    stage.fleet.control.restart();
    stage.fleet.control.ready();
    stage.ends(&task, &agents);
    let sent = stage.origin.body_bytes();
    assert!(sent * 10 <= stage.length * 11, "{sent} bytes of one copy");
}

#[test]
fn leased_pieces_go_on_to_agents_while_control_is_away() {
    let mut stage = Stage::new(16 * MIB, 2 * MIB);
    let agents = stage.fleet.agents(2);
    let relays = stage.fleet.relays(1);
    stage.fleet.await_live_nodes(3);
    let task = stage.begin();
    all_receive(&agents);
    fetched(&relays[0], stage.length / 4);
    stage.fleet.control.kill9();
    let begun = of_origin(&relays[0]);
    assert!(begun < stage.length, "the relay still fetches: {begun}");
    // Nobody signs any more but the relay, under the lease that it has.
    for agent in &agents {
        wait_until("all bytes from peers", PATIENCE, || {
            let got = agent.metric("floodway_peer_received_bytes_total");
            (got >= stage.length).then_some(())
        });
        assert!(!agent.files.join("disk.img").exists(), "it is not final");
    }
    stage.fleet.control.restart();
    stage.fleet.control.ready();
    let ended = stage.ends(&task, &agents);
    for agent in ended["agents"].as_array().unwrap() {
        assert_eq!(agent["reason"], "facts", "{ended:#}");
        assert_eq!(agent["sources"]["origin"], 0, "{ended:#}");
    }
    let sent = stage.origin.body_bytes();
    assert!(sent * 10 <= stage.length * 11, "{sent} bytes of one copy");
}

#[test]
fn a_plain_http_client_reads_the_file_while_it_grows() {
    let mut stage = Stage::new(8 * MIB, 2 * MIB);
    let relays = stage.fleet.relays(1);
    stage.fleet.await_live_nodes(1);
    let relay_task = task_id(&stage.fleet.create_task(&stage.url, None));
    let sid = wait_until("a content", PATIENCE, || {
        let task = stage.fleet.task(&relay_task);
        task["sid"].as_str().map(ToOwned::to_owned)
    });
    let path = format!("/api/v1/s/{sid}/capability");
    let url = wait_until("a relay that serves it", PATIENCE, || {
        let made = stage.fleet.api();
        let made = made.post(&path, &serde_json::json!({ "seconds": 600 }));
        made.json()["urls"][0].as_str().map(ToOwned::to_owned)
    });
    let read = |range: &str| {
        let reply = request("GET", &url, &[("range", range)], b"");
        reply.expect_status(206).body
    };
    let first = read("bytes=0-9");
    assert_eq!(first, &stage.origin.body()[..10]);
    assert!(
        of_origin(&relays[0]) < stage.length,
        "the relay still fetches"
    );
    // The end is not there yet: the reply waits for it.
    let last = stage.origin.body().len() - 10;
    assert_eq!(read("bytes=-10"), &stage.origin.body()[last..]);
    assert!(read("bytes=0-") == stage.origin.body());
}

/// A content that was streamed to agents, and is final; its relay is gone, so that they alone have it, by the names that they
/// made themselves.
struct Streamed {
    stage: Stage,
    /// They seed.
    agents: Vec<Node>,
    sid: String,
    /// What the origin had sent by then.
    sent: u64,
}

impl Streamed {
    fn new(length: u64, peer_ip: Option<IpAddr>) -> Self {
        let mut stage = Stage::new(length, length / 2);
        if let Some(ip) = peer_ip {
            stage.fleet.listen_for_peers_on(ip);
        }
        let agents = stage.fleet.agents(2);
        let mut relays = stage.fleet.relays(1);
        stage.fleet.await_live_nodes(3);
        let task = stage.begin();
        let ended = stage.ends(&task, &agents);
        relays[0].process.kill9();
        Self {
            sid: ended["sid"].as_str().unwrap().to_owned(),
            sent: stage.origin.body_bytes(),
            agents,
            stage,
        }
    }

    /// Its torrent from control, without the web seeds at the relay that is gone.
    fn torrent(&self) -> PathBuf {
        let path = self.stage.dir.join("disk.torrent");
        let bytes = self.stage.fleet.torrent(&self.sid);
        fs::write(&path, without_key(&bytes, "url-list")).unwrap();
        path
    }

    /// The client has every byte, and the origin has not sent one more.
    fn assert_has(&self, folder: &Path) {
        assert!(fs::read(folder.join("disk.img")).unwrap() == self.stage.origin.body());
        let sent = self.stage.origin.body_bytes();
        assert_eq!(sent, self.sent, "no byte more of the origin");
    }
}

#[test]
fn third_party_libtorrent_joins_when_it_is_final_and_costs_the_origin_nothing() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let streamed = Streamed::new(8 * MIB, None);
    let folder = streamed.stage.dir.folder("lt");
    libtorrent
        .transfer(&streamed.torrent(), &folder, "127.0.0.2")
        .event("done");
    streamed.assert_has(&folder);
}

#[test]
fn third_party_libtorrent_joins_by_a_magnet_link_when_it_is_final() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    // One piece more than a group has: the v2 torrent's hashes come in two requests, with proofs.
    let streamed = Streamed::new(513 * PIECE - 77, None);
    for (format, ip) in [("v1", "127.0.0.2"), ("v2", "127.0.0.3")] {
        let link = streamed.stage.fleet.magnet(&streamed.sid, format);
        let folder = streamed.stage.dir.folder(format);
        let mut client = libtorrent.magnet(&link, &folder, ip);
        let metadata = client.event("metadata");
        assert_eq!(metadata["v2"], format == "v2", "{metadata}");
        client.event("done");
        streamed.assert_has(&folder);
    }
}

#[test]
fn third_party_libtorrent_gets_the_v2_torrent_of_agents_that_were_started_again() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let mut streamed = Streamed::new(8 * MIB, None);
    let agent = &mut streamed.agents[0];
    agent.restart();
    wait_until("its content", PATIENCE, || {
        (agent.metric("floodway_contents") == 1).then_some(())
    });
    let peer = agent.ready.peer().to_owned();
    streamed.agents[1].process.kill9();
    let link = streamed.stage.fleet.magnet(&streamed.sid, "v2");
    let folder = streamed.stage.dir.folder("lt");
    libtorrent
        .magnet(&format!("{link}&x.pe={peer}"), &folder, "127.0.0.2")
        .event("done");
    streamed.assert_has(&folder);
}

#[test]
fn third_party_libtorrent_gets_the_v2_torrent_of_an_agent_that_joined_when_it_was_final() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let mut streamed = Streamed::new(8 * MIB, None);
    let late = streamed.stage.fleet.agents(1).remove(0);
    let task = streamed.stage.begin();
    streamed.stage.ends(&task, std::slice::from_ref(&late));
    let hashes = format!("contents/{}/hashes", streamed.sid);
    wait_until("the hashes of all pieces", PATIENCE, || {
        late.data.join(&hashes).exists().then_some(())
    });
    for agent in &mut streamed.agents {
        agent.process.kill9();
    }
    let link = streamed.stage.fleet.magnet(&streamed.sid, "v2");
    let folder = streamed.stage.dir.folder("lt");
    libtorrent
        .magnet(
            &format!("{link}&x.pe={}", late.ready.peer()),
            &folder,
            "127.0.0.2",
        )
        .event("done");
    streamed.assert_has(&folder);
}

#[test]
fn third_party_aria2_joins_when_it_is_final_and_costs_the_origin_nothing() {
    let Some(aria2) = Aria2::find() else { return };
    let streamed = Streamed::new(8 * MIB, None);
    let folder = streamed.stage.dir.folder("aria2");
    aria2
        .download(&streamed.torrent(), &folder, "127.0.0.3")
        .finish()
        .expect_code(0);
    streamed.assert_has(&folder);
}

#[test]
fn third_party_transmission_joins_when_it_is_final_and_costs_the_origin_nothing() {
    let Some(transmission) = Transmission::find() else {
        return;
    };
    // It drops peers on loopback addresses that a tracker names.
    let Some(ip) = own_ip() else { return };
    let streamed = Streamed::new(8 * MIB, Some(ip));
    let folder = streamed.stage.dir.folder("down");
    let scratch = streamed.stage.dir.folder("transmission");
    let client = transmission.download(&streamed.torrent(), &folder, &scratch);
    let file = folder.join("disk.img");
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < PATIENCE, "in vain: {}", client.stderr());
        thread::sleep(Duration::from_millis(50));
    }
    streamed.assert_has(&folder);
}
