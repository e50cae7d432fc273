//! Peers and trackers that misbehave: the download ends with the right bytes, the culprit is named, nobody else is
//! punished, and the cost is bounded.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use floodway_testkit::{
    BadPeer, Cable, Conduct, Nginx, Output, PlainTracker, Program, Running, TestDir, TorrentFacts,
    TrackerKind, damage_file, random_file, sha256_file, throw_at,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn floodway() -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
}

/// A file with its torrent.
struct Content {
    dir: TestDir,
    file: PathBuf,
    torrent: PathBuf,
    sha256: String,
    facts: TorrentFacts,
}

impl Content {
    #[track_caller]
    fn new(length: u64, piece_length: &str, create_args: &[&str]) -> Self {
        let dir = TestDir::new();
        let file = dir.folder("source").join("disk.img");
        let sha256 = random_file(&file, length, 31);
        let torrent = dir.join("disk.torrent");
        floodway()
            .args(["torrent", "create", "--piece-length", piece_length])
            .args(create_args)
            .arg("-o")
            .arg(&torrent)
            .arg(&file)
            .run()
            .expect_code(0);
        let shown: Value = floodway()
            .args(["torrent", "show", "--json"])
            .arg(&torrent)
            .run()
            .expect_code(0)
            .json();
        let facts = TorrentFacts::new(&shown, fs::read(&file).unwrap());
        Self {
            dir,
            file,
            torrent,
            sha256,
            facts,
        }
    }

    fn peer(&self, ip: &str, conduct: Conduct) -> BadPeer {
        BadPeer::start(ip, self.facts.clone(), conduct)
    }

    fn limited_peer(&self, ip: &str, conduct: Conduct, bytes_per_second: u64) -> BadPeer {
        BadPeer::start_limited(ip, self.facts.clone(), conduct, bytes_per_second)
    }

    fn seed(&self) -> Running {
        floodway()
            .arg("seed")
            .arg(&self.file)
            .arg(&self.torrent)
            .args(["--listen", "127.0.0.1:0", "--no-dht", "--no-lsd"])
            .start()
    }

    fn get(&self, peers: &[String]) -> Program {
        let program = floodway()
            .arg("get")
            .arg(&self.torrent)
            .args(["--listen", "127.0.0.1:0", "--no-dht", "--no-lsd", "--json"])
            .folder(self.dir.folder("down"));
        peers
            .iter()
            .fold(program, |program, peer| program.args(["--peer", peer]))
    }

    /// It ends well, with the right bytes.
    #[track_caller]
    fn succeeds(&self, peers: &[String]) -> Output {
        let output = self.get(peers).run().expect_code(0);
        assert_eq!(sha256_file(self.dir.join("down/disk.img")), self.sha256);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        output
    }
}

fn addr(peer: &BadPeer) -> String {
    peer.addr().to_string()
}

#[test]
fn the_honest_scripted_peer_is_a_source() {
    let content = Content::new(8 * MIB, "256KiB", &[]);
    let honest = content.peer("127.0.0.2", Conduct::Honest);
    let output = content.succeeds(&[addr(&honest)]);
    assert_eq!(output.last_json()["peer_bytes"], 8 * MIB);
    assert_eq!(output.last_json()["wasted_bytes"], 0);
}

#[test]
fn damaged_pieces_on_a_seed_are_never_written_and_their_sender_is_named() {
    let content = Content::new(16 * MIB, "256KiB", &[]);
    let mut damaged = content.seed();
    let damaged_peer = damaged.ready().peer().to_owned();
    // The seed has checked everything; now its disk lets it down: in so many pieces that the other peer cannot be first with all.
    for at in (5 * MIB..11 * MIB).step_by(256 << 10) {
        damage_file(&content.file, at + 1000, &[0x55; 3000]);
    }
    let honest = content.limited_peer("127.0.0.2", Conduct::Honest, 4 * MIB);
    let output = content.succeeds(&[damaged_peer.clone(), addr(&honest)]);
    assert!(
        output.stderr.contains(&damaged_peer),
        "the culprit is named:\n{}",
        output.stderr
    );
    assert!(
        !output.stderr.contains(&addr(&honest)),
        "nobody else is:\n{}",
        output.stderr
    );
}

#[test]
fn with_only_a_damaged_seed_there_is_no_file() {
    let content = Content::new(4 * MIB, "256KiB", &[]);
    let mut damaged = content.seed();
    let peer = damaged.ready().peer().to_owned();
    damage_file(&content.file, MIB + 1000, &[0x55; 3000]);
    let mut running = content.get(std::slice::from_ref(&peer)).start();
    running.stderr_line(&peer);
    running.kill9();
    assert!(!content.dir.join("down/disk.img").exists());
}

#[test]
fn of_two_peers_that_share_a_bad_piece_only_the_liar_is_banned() {
    // Few large pieces, so that every one is made of blocks from both.
    let content = Content::new(16 * MIB, "4MiB", &[]);
    let all: BTreeSet<u32> = (0..4).collect();
    let liar = content.limited_peer("127.0.0.2", Conduct::CorruptPieces(all), 2 * MIB);
    let honest = content.limited_peer("127.0.0.3", Conduct::Honest, 2 * MIB);
    let output = content.succeeds(&[addr(&liar), addr(&honest)]);
    assert!(liar.wrong_blocks() > 0, "the liar had its chance");
    assert!(
        honest.right_blocks() >= 1024,
        "all right bytes are from the honest peer"
    );
    assert!(
        output.stderr.contains(&addr(&liar)),
        "the liar is named:\n{}",
        output.stderr
    );
    assert!(
        !output.stderr.contains(&addr(&honest)),
        "the honest one is not:\n{}",
        output.stderr
    );
    assert!(
        honest.connections() <= 2,
        "{} dials of the honest peer",
        honest.connections()
    );
    assert!(
        liar.connections() <= 2,
        "{} dials of a banned peer",
        liar.connections()
    );
    let wrong = liar.wrong_blocks();
    assert!(
        wrong <= 3 * 256,
        "{wrong} wrong blocks were accepted before the ban"
    );
}

#[test]
fn a_peer_that_corrupts_one_piece_costs_little() {
    let content = Content::new(16 * MIB, "256KiB", &[]);
    let liar = content.peer("127.0.0.2", Conduct::CorruptPieces([7].into()));
    let honest = content.limited_peer("127.0.0.3", Conduct::Honest, 8 * MIB);
    let output = content.succeeds(&[addr(&liar), addr(&honest)]);
    let wasted = output.last_json()["wasted_bytes"].as_u64().unwrap();
    assert!(
        wasted <= 4 * MIB,
        "{wasted} bytes wasted over one bad piece of 256 KiB"
    );
}

#[test]
fn useless_peers_do_not_stop_a_download() {
    let conducts = [
        Conduct::Oversized,
        Conduct::Mute,
        Conduct::NeverAnswers,
        Conduct::Garbage,
        Conduct::Unasked,
    ];
    for conduct in conducts {
        let content = Content::new(8 * MIB, "256KiB", &[]);
        let bad = content.peer("127.0.0.2", conduct.clone());
        let honest = content.limited_peer("127.0.0.3", Conduct::Honest, 8 * MIB);
        let output = content.succeeds(&[addr(&bad), addr(&honest)]);
        assert!(
            output.seconds < 30.0,
            "{conduct:?} held it up for {} s",
            output.seconds
        );
        assert!(
            bad.connections() <= 10,
            "{conduct:?}: dialled {} times",
            bad.connections()
        );
    }
}

#[test]
fn a_web_seed_helps_when_the_only_peer_is_useless() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    let Some(nginx) = Nginx::start(&origin) else {
        return;
    };
    let content = Content::new(8 * MIB, "256KiB", &["--web-seed", &nginx.url("/disk.img")]);
    fs::copy(&content.file, origin.join("disk.img")).unwrap();
    let bad = content.peer("127.0.0.2", Conduct::NeverAnswers);
    let output = content.succeeds(&[addr(&bad)]);
    assert!(output.seconds < 30.0, "it took {} s", output.seconds);
}

#[test]
fn junk_thrown_at_a_seed_closes_that_connection_only() {
    let content = Content::new(4 * MIB, "256KiB", &[]);
    let mut seed = content.seed();
    let peer = seed.ready().peer().to_owned();
    let hash = &content.facts.info_hash;
    let request = |index: u32, begin: u32, length: u32| {
        let mut bytes = vec![0, 0, 0, 1, 2, 0, 0, 0, 13, 6];
        for number in [index, begin, length] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    };
    let junk = [
        ("random bytes", None, floodway_testkit::random_bytes(300, 5)),
        ("an HTTP request", None, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another torrent", Some(&[7; 20]), vec![]),
        ("an oversized message", Some(hash), vec![0x80, 0, 0, 0, 6]),
        ("a short request", Some(hash), vec![0, 0, 0, 2, 6, 0]),
        (
            "a piece that is not there",
            Some(hash),
            request(u32::MAX, 0, 16384),
        ),
        ("a block of 1 GiB", Some(hash), request(0, 0, 1 << 30)),
        (
            "a bitfield of the wrong size",
            Some(hash),
            vec![0, 0, 0, 2, 5, 0xff],
        ),
    ];
    for (what, hash, bytes) in junk {
        assert!(
            throw_at(&peer, hash, &bytes, Duration::from_secs(20)),
            "{what}: the connection stays open\n{}",
            seed.stderr()
        );
        assert!(
            seed.is_running(),
            "{what} ended the seed\n{}",
            seed.stderr()
        );
    }
    content.succeeds(&[peer]);
    assert!(
        seed.rss_anon() < 150 * MIB,
        "{} bytes of memory",
        seed.rss_anon()
    );
}

#[test]
fn a_tracker_that_returns_rubbish_is_named_and_does_no_harm() {
    for kind in [
        TrackerKind::Rubbish,
        TrackerKind::WrongTypes,
        TrackerKind::Endless,
        TrackerKind::Failure,
        TrackerKind::ServerError,
    ] {
        let tracker = PlainTracker::start(kind);
        let content = Content::new(8 * MIB, "256KiB", &["--tracker", &tracker.url()]);
        let honest = content.limited_peer("127.0.0.2", Conduct::Honest, 2 * MIB);
        let mut running = content.get(&[addr(&honest)]).start();
        running.stderr_line("tracker");
        assert!(
            running.rss_anon() < 150 * MIB,
            "{kind:?}: {} bytes",
            running.rss_anon()
        );
        let output = running.finish().expect_code(0);
        assert_eq!(
            sha256_file(content.dir.join("down/disk.img")),
            content.sha256
        );
        assert!(
            !output.stderr.contains("panicked"),
            "{kind:?}: {}",
            output.stderr
        );
        let announces = tracker.announces().len();
        assert!(
            announces <= 5,
            "{kind:?}: {announces} announces in {} s",
            output.seconds
        );
    }
}

/// Its peers know nothing of the change: what they still have of the old connection must not keep the node out for minutes.
#[test]
fn a_node_whose_address_changes_goes_on() {
    let Some(cable) = Cable::lay() else { return };
    let content = Content::new(16 * MIB, "256KiB", &[]);
    let exe = env!("CARGO_BIN_EXE_floodway");
    let options = ["--no-dht", "--no-lsd", "--json"];
    let listen = format!("{}:0", cable.first());
    let mut seed = cable
        .on_first(exe)
        .arg("seed")
        .args([&content.file, &content.torrent])
        .args(["--listen", &listen, "--max-up", "2MiB/s"])
        .args(options)
        .start();
    let mut get = cable
        .on_second(exe)
        .arg("get")
        .arg(&content.torrent)
        .args(["--peer", seed.ready().peer()])
        .args(options)
        .folder(content.dir.folder("down"))
        .patience(Duration::from_mins(2))
        .start();
    get.event("first_verified_piece");
    cable.second_moves();
    assert!(get.is_running(), "it was done before");
    get.finish().expect_code(0);
    assert_eq!(
        sha256_file(content.dir.join("down/disk.img")),
        content.sha256
    );
}
