//! The kit against itself: what it gives to other tests must be true before they can be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodway_testkit::third_party::{Aria2, Libtorrent};
use floodway_testkit::{
    BadPeer, Conduct, Lie, Nginx, PlainTracker, Program, ScriptedOrigin, TestDir, Throttle,
    TorrentFacts, TrackerKind, random_bytes, random_file, request, sha256_file, wait_until,
};
use sha1::{Digest, Sha1};

const MIB: u64 = 1 << 20;
const PIECE: usize = 256 << 10;

/// A v1 torrent (BEP 3) put together by hand, and its info-hash.
fn torrent(body: &[u8], tracker: &str) -> (Vec<u8>, [u8; 20]) {
    let pieces: Vec<u8> = body.chunks(PIECE).flat_map(Sha1::digest).collect();
    let mut info = format!(
        "d6:lengthi{}e4:name8:disk.img12:piece lengthi{PIECE}e6:pieces{}:",
        body.len(),
        pieces.len()
    )
    .into_bytes();
    info.extend_from_slice(&pieces);
    info.push(b'e');
    let mut all = format!("d8:announce{}:{tracker}4:info", tracker.len()).into_bytes();
    all.extend_from_slice(&info);
    all.push(b'e');
    (all, Sha1::digest(&info).into())
}

struct Content {
    dir: TestDir,
    tracker: PlainTracker,
    torrent: PathBuf,
    sha256: String,
    facts: TorrentFacts,
}

impl Content {
    fn new(kind: TrackerKind) -> Self {
        let dir = TestDir::new();
        let sha256 = random_file(dir.folder("source").join("disk.img"), 8 * MIB, 1);
        let tracker = PlainTracker::start(kind);
        let body = random_bytes(8 * MIB, 1);
        let (bytes, info_hash) = torrent(&body, &tracker.url());
        let path = dir.join("disk.torrent");
        fs::write(&path, bytes).unwrap();
        let facts = TorrentFacts {
            info_hash,
            piece_length: PIECE as u64,
            data: std::sync::Arc::new(body),
        };
        Self {
            dir,
            tracker,
            torrent: path,
            sha256,
            facts,
        }
    }

    /// Announces a peer of ours, as it would itself.
    fn announce(&self, peer: &BadPeer) {
        let hash = hex::encode_upper(self.facts.info_hash);
        let hash: String = hash
            .as_bytes()
            .chunks(2)
            .fold(String::new(), |mut text, pair| {
                text.push('%');
                text.extend(pair.iter().map(|&digit| char::from(digit)));
                text
            });
        let url = format!(
            "{}?info_hash={hash}&port={}&left=0",
            self.tracker.url(),
            peer.addr().port()
        );
        request("GET", &url, &[], b"").expect_status(200);
    }
}

#[track_caller]
fn assert_got(folder: &Path, sha256: &str) {
    assert_eq!(sha256_file(folder.join("disk.img")), sha256);
}

#[test]
fn stock_clients_find_each_other_on_the_plain_tracker() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let Some(aria2) = Aria2::find() else { return };
    let content = Content::new(TrackerKind::Plain);
    let mut seed = libtorrent.transfer(&content.torrent, &content.dir.join("source"), "127.0.0.2");
    seed.event("done");
    wait_until("the seed to announce", Duration::from_secs(10), || {
        (!content.tracker.announces().is_empty()).then_some(())
    });
    let folder = content.dir.folder("aria2");
    aria2
        .download(&content.torrent, &folder, "127.0.0.3")
        .finish()
        .expect_code(0);
    assert_got(&folder, &content.sha256);
}

#[test]
fn stock_clients_download_from_the_honest_peer_and_leave_the_liar() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let content = Content::new(TrackerKind::Plain);
    let honest = BadPeer::start("127.0.0.1", content.facts.clone(), Conduct::Honest);
    content.announce(&honest);
    let folder = content.dir.folder("lt");
    libtorrent
        .transfer(&content.torrent, &folder, "127.0.0.2")
        .event("done");
    assert_got(&folder, &content.sha256);
    assert!(honest.right_blocks() >= 512 && honest.wrong_blocks() == 0);

    let content = Content::new(TrackerKind::Plain);
    let liar = BadPeer::start(
        "127.0.0.1",
        content.facts.clone(),
        Conduct::CorruptPieces([3].into()),
    );
    content.announce(&liar);
    let client = libtorrent.transfer(&content.torrent, &content.dir.folder("lt"), "127.0.0.2");
    wait_until(
        "libtorrent to notice the liar",
        Duration::from_secs(30),
        || client.stderr().contains("hash_failed").then_some(()),
    );
    assert!(liar.wrong_blocks() > 0);
}

#[test]
fn nginx_logs_what_it_sent() {
    let dir = TestDir::new();
    random_file(dir.join("a.bin"), MIB, 1);
    let Some(mut nginx) = Nginx::builder(&*dir).limit_rate(100 * 1024).start() else {
        return;
    };
    let url = nginx.url("/a.bin");
    assert_eq!(request("GET", &url, &[], b"").body, random_bytes(MIB, 1));
    request("GET", &url, &[("Range", "bytes=0-99")], b"").expect_status(206);
    assert_eq!(
        (nginx.body_bytes("/a.bin"), nginx.requests("/a.bin")),
        (MIB + 100, 2)
    );
    nginx.restart();
    request("GET", &url, &[], b"").expect_status(200);
    assert_eq!(nginx.body_bytes("/a.bin"), 2 * MIB + 100);
}

#[test]
fn the_scripted_origin_lies_as_told() {
    let body = random_bytes(100_000, 2);
    let range = ("Range", "bytes=10-19");
    let ask = |lie: Lie, headers: &[(&str, &str)]| {
        let origin = ScriptedOrigin::start(body.clone(), lie);
        let replies =
            [(); 2].map(|()| floodway_testkit::try_request("GET", &origin.url("/x"), headers, b""));
        replies.map(|reply| reply.map_err(|error| error.kind()))
    };
    let [first, _] = ask(Lie::None, &[range]);
    let first = first.unwrap();
    assert_eq!((first.status, &first.body[..]), (206, &body[10..20]));
    assert_eq!(first.header("content-range"), Some("bytes 10-19/100000"));
    assert_eq!(
        ask(Lie::FullFor206, &[range])[0].as_ref().unwrap().status,
        200
    );
    let [first, second] = ask(Lie::ChangesAt(1), &[("If-Match", "\"first\"")]);
    assert_eq!((first.unwrap().status, second.unwrap().status), (200, 412));
    let [_, second] = ask(
        Lie::ChangesAndIgnoresIfMatch(1),
        &[("If-Match", "\"first\"")],
    );
    assert_eq!(second.unwrap().header("etag"), Some("\"second\""));
    let [first, second] = ask(
        Lie::ShortBody {
            after: 5,
            times: 1,
            says_length: true,
        },
        &[],
    );
    assert!(first.is_err());
    assert!(second.unwrap().body == body);
    let [first, _] = ask(
        Lie::ShortBody {
            after: 5,
            times: 1,
            says_length: false,
        },
        &[],
    );
    assert_eq!(first.unwrap().body.len(), 5);
    let [first, second] = ask(
        Lie::Busy {
            status: 503,
            times: 1,
        },
        &[],
    );
    assert_eq!(
        (first.unwrap().header("retry-after"), second.unwrap().status),
        (Some("2"), 200)
    );
    assert!(ask(Lie::Chunked, &[range])[0].as_ref().unwrap().body == body);
}

#[test]
fn the_throttle_limits() {
    let dir = TestDir::new();
    random_file(dir.join("a.bin"), 3 * MIB, 1);
    let Some(nginx) = Nginx::start(&*dir) else {
        return;
    };
    let target = nginx.url("").replace("http://", "");
    let throttle = Throttle::start(target, 2 * MIB);
    let start = std::time::Instant::now();
    let reply = request(
        "GET",
        &format!("http://{}/a.bin", throttle.addr()),
        &[],
        b"",
    );
    assert_eq!(reply.body.len() as u64, 3 * MIB);
    assert!(
        start.elapsed() > Duration::from_millis(1400),
        "{:?}",
        start.elapsed()
    );
    assert!(throttle.passed() >= 3 * MIB);
}

#[test]
fn programs_are_heard_killed_and_started_again() {
    let script =
        r#"echo '{"event":"ready","http":null,"peer":"1.2.3.4:5"}'; echo oops >&2; exec sleep 100"#;
    let mut running = Program::new("/bin/sh").args(["-c", script]).start();
    assert_eq!(running.ready().peer(), "1.2.3.4:5");
    running.stderr_line("oops");
    let first = running.pid();
    running.restart();
    running.ready();
    assert_ne!(running.pid(), first);
    assert!(
        !Path::new(&format!("/proc/{first}")).exists(),
        "the first is gone"
    );
    running.signal(floodway_testkit::Signal::TERM);
    assert_eq!(running.wait(), -15);
    Program::new("/bin/sh")
        .args(["-c", "exit 3"])
        .run()
        .expect_code(3);
}
