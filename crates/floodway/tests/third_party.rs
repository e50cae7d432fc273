//! Clients that we did not write, with their default encryption settings: both directions, by trackers alone; and
//! libtorrent as the oracle for info-hashes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodway_testkit::third_party::{Aria2, Libtorrent};
use floodway_testkit::{
    Fleet, Nginx, PlainTracker, Program, Running, TestDir, TrackerKind, make_sparse, random_file,
    sha256_file, task_id, wait_until, without_key,
};

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 64 * MIB;

fn floodway() -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
}

/// A content published by control and one relay, and its torrent without web seeds: what is left is BitTorrent.
struct Published {
    fleet: Fleet,
    relays: Vec<floodway_testkit::Node>,
    torrent: PathBuf,
    sha256: String,
    _nginx: Nginx,
    dir: TestDir,
}

impl Published {
    #[track_caller]
    fn new() -> Option<Self> {
        let dir = TestDir::new();
        let sha256 = random_file(dir.folder("origin").join("disk.img"), LENGTH, 21);
        let nginx = Nginx::start(dir.folder("origin"))?;
        let mut fleet = Fleet::start(
            env!("CARGO_BIN_EXE_floodway"),
            dir.folder("fleet"),
            [nginx.url("/")],
        );
        let relays = fleet.relays(1);
        let task = fleet.create_task(&nginx.url("/disk.img"), None);
        let task = fleet.await_task(&task_id(&task), &["final"], Duration::from_mins(1));
        let torrent = dir.join("disk.torrent");
        let bytes = fleet.torrent(task["sid"].as_str().expect("a sid"));
        fs::write(&torrent, without_key(&bytes, "url-list")).unwrap();
        Some(Self {
            fleet,
            relays,
            torrent,
            sha256,
            _nginx: nginx,
            dir,
        })
    }

    /// A folder that holds the file already, for a client that seeds it.
    fn seed_folder(&self) -> PathBuf {
        self.dir.join("origin")
    }

    /// Floodway downloads with nobody but the stock client there: the relay is gone.
    #[track_caller]
    fn download_from_stock_client(&mut self) {
        self.relays.clear();
        get(&self.torrent, &self.dir.folder("down"))
            .finish()
            .expect_code(0);
        assert_eq!(sha256_file(self.dir.join("down/disk.img")), self.sha256);
        assert!(self.fleet.control.is_running());
    }

    /// The stock client has it all, and got it from the relay over BitTorrent.
    #[track_caller]
    fn assert_downloaded(&self, folder: &Path) {
        assert_eq!(sha256_file(folder.join("disk.img")), self.sha256);
        let sent = self.relays[0].metric("floodway_peer_sent_bytes_total");
        assert!(sent >= LENGTH, "the relay sent {sent} bytes to peers");
        let http = self.relays[0].metric("floodway_relay_http_sent_bytes_total");
        assert!(http < MIB, "the relay sent {http} bytes over HTTP");
    }
}

fn get(torrent: &Path, folder: &Path) -> Running {
    floodway()
        .arg("get")
        .arg(torrent)
        .args(["--listen", "127.0.0.1:0", "--no-dht", "--no-lsd", "--json"])
        .folder(folder)
        .start()
}

fn seed(file: &Path, torrent: &Path) -> Running {
    floodway()
        .arg("seed")
        .arg(file)
        .arg(torrent)
        .args(["--listen", "127.0.0.1:0", "--no-dht", "--no-lsd", "--json"])
        .start()
}

#[test]
fn third_party_libtorrent_downloads_from_a_relay() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let Some(published) = Published::new() else {
        return;
    };
    let folder = published.dir.folder("lt");
    libtorrent
        .transfer(&published.torrent, &folder, "127.0.0.2")
        .event("done");
    published.assert_downloaded(&folder);
}

#[test]
fn third_party_libtorrent_seeds_to_floodway() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let Some(mut published) = Published::new() else {
        return;
    };
    let mut client = libtorrent.transfer(&published.torrent, &published.seed_folder(), "127.0.0.2");
    client.event("done");
    published.download_from_stock_client();
}

#[test]
fn third_party_aria2_downloads_from_a_relay() {
    let Some(aria2) = Aria2::find() else { return };
    let Some(published) = Published::new() else {
        return;
    };
    let folder = published.dir.folder("aria2");
    aria2
        .download(&published.torrent, &folder, "127.0.0.3")
        .finish()
        .expect_code(0);
    published.assert_downloaded(&folder);
}

#[test]
fn third_party_aria2_seeds_to_floodway() {
    let Some(aria2) = Aria2::find() else { return };
    let Some(mut published) = Published::new() else {
        return;
    };
    let _client = aria2.seed(&published.torrent, &published.seed_folder(), "127.0.0.3");
    published.download_from_stock_client();
}

/// A content with a torrent on a plain tracker whose interval is 30 s.
struct OnPlainTracker {
    dir: TestDir,
    tracker: PlainTracker,
    file: PathBuf,
    torrent: PathBuf,
    sha256: String,
}

impl OnPlainTracker {
    fn new() -> Self {
        let dir = TestDir::new();
        let tracker = PlainTracker::start(TrackerKind::Plain);
        let file = dir.folder("source").join("disk.img");
        let sha256 = random_file(&file, LENGTH, 22);
        let torrent = dir.join("disk.torrent");
        floodway()
            .args(["torrent", "create", "--tracker", &tracker.url()])
            .arg(&file)
            .arg("-o")
            .arg(&torrent)
            .run()
            .expect_code(0);
        Self {
            dir,
            tracker,
            file,
            torrent,
            sha256,
        }
    }

    /// Nobody had to wait for the tracker's next interval but perhaps once.
    #[track_caller]
    fn assert_downloaded(&self, folder: &Path) {
        assert_eq!(sha256_file(folder.join("disk.img")), self.sha256);
        let clients: std::collections::BTreeSet<_> = self
            .tracker
            .announces()
            .iter()
            .map(|announce| announce.peer)
            .collect();
        assert!(clients.len() >= 2, "both announced: {clients:?}");
    }
}

#[test]
fn third_party_plain_tracker_libtorrent_downloads_with_simultaneous_start() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let content = OnPlainTracker::new();
    let folder = content.dir.folder("lt");
    let _seed = seed(&content.file, &content.torrent);
    libtorrent
        .transfer(&content.torrent, &folder, "127.0.0.2")
        .event("done");
    content.assert_downloaded(&folder);
}

#[test]
fn third_party_plain_tracker_libtorrent_seeds_with_simultaneous_start() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let content = OnPlainTracker::new();
    let folder = content.dir.folder("down");
    let source = content.dir.join("source");
    let downloading = get(&content.torrent, &folder);
    let _client = libtorrent.transfer(&content.torrent, &source, "127.0.0.2");
    downloading.finish().expect_code(0);
    content.assert_downloaded(&folder);
}

#[test]
fn third_party_plain_tracker_aria2_both_ways() {
    let Some(aria2) = Aria2::find() else { return };
    let content = OnPlainTracker::new();
    let folder = content.dir.folder("aria2");
    let mut seeding = seed(&content.file, &content.torrent);
    aria2
        .download(&content.torrent, &folder, "127.0.0.3")
        .finish()
        .expect_code(0);
    content.assert_downloaded(&folder);
    seeding.kill9();

    let down = content.dir.folder("down");
    let _client = aria2.seed(&content.torrent, &content.dir.join("source"), "127.0.0.4");
    get(&content.torrent, &down).finish().expect_code(0);
    content.assert_downloaded(&down);
}

#[test]
fn third_party_info_hashes_equal_libtorrents() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let dir = TestDir::new();
    let mut cases = Vec::new();
    for piece in [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let mut sizes = vec![0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1];
        sizes.extend([
            piece - 1,
            piece,
            piece + 1,
            2 * piece - 1,
            2 * piece,
            2 * piece + 1,
        ]);
        for power in [20, 21, 22] {
            sizes.extend([(1 << power) - 1, 1 << power, (1 << power) + 1]);
        }
        sizes.push(3 * piece + 12_345);
        sizes.sort_unstable();
        sizes.dedup();
        for size in sizes {
            let path = dir.folder("files").join(format!("file-{size}.bin"));
            if !path.exists() {
                random_file(&path, size, size);
            }
            cases.push((path, size, piece));
        }
    }
    compare(&libtorrent, &dir, &cases);
}

#[test]
fn third_party_info_hash_of_a_sparse_file_above_4_gib_equals_libtorrents() {
    let Some(libtorrent) = Libtorrent::find() else {
        return;
    };
    let dir = TestDir::new();
    let size = (4 << 30) + 65_537;
    let path = dir.join("sparse.img");
    make_sparse(&path, size);
    compare(&libtorrent, &dir, &[(path, size, 16 << 20)]);
}

/// Our `torrent create` and `torrent show` against libtorrent; each case is (path, length, piece length).
#[track_caller]
fn compare(libtorrent: &Libtorrent, dir: &TestDir, cases: &[(PathBuf, u64, u64)]) {
    let theirs = libtorrent.info_hashes(dir, cases);
    let torrent = dir.join("ours.torrent");
    for ((path, size, piece), theirs) in cases.iter().zip(theirs) {
        floodway()
            .args(["torrent", "create", "--piece-length", &piece.to_string()])
            .arg(path)
            .arg("-o")
            .arg(&torrent)
            .run()
            .expect_code(0);
        let shown = floodway()
            .args(["torrent", "show", "--json"])
            .arg(&torrent)
            .run()
            .expect_code(0);
        assert_eq!(
            shown.json()["info_hash_v1"],
            theirs,
            "{size} bytes in pieces of {piece}"
        );
        fs::remove_file(&torrent).unwrap();
    }
}

#[test]
fn third_party_clients_are_offered_by_controls_tracker_only_with_the_key() {
    let Some(published) = Published::new() else {
        return;
    };
    let torrent = String::from_utf8_lossy(&fs::read(&published.torrent).unwrap()).into_owned();
    let at = torrent
        .find("/announce/")
        .expect("the torrent names control's tracker");
    let key: String = torrent[at + 10..]
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect();
    assert!(key.len() >= 16, "a pass-key of some strength: {key}");
    assert!(
        torrent.contains("7:privatei1e"),
        "published torrents are private"
    );
    let query = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&left=1";
    for path in ["/announce", "/announce/", "/announce/0000000000000000"] {
        let url = format!("{}{path}?{query}", published.fleet.url());
        let reply = floodway_testkit::request("GET", &url, &[], b"");
        let text = reply.text();
        assert!(
            reply.status >= 400 || text.contains("failure reason"),
            "{path}: {text}"
        );
        assert!(!text.contains("5:peers"), "{path}: {text}");
    }
    wait_until(
        "control to be well after that",
        Duration::from_secs(30),
        || {
            let url = format!("{}/healthz", published.fleet.url());
            (floodway_testkit::request("GET", &url, &[], b"").status == 200).then_some(())
        },
    );
}
