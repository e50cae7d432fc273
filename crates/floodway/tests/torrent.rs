//! `torrent create|show`, `seed` and `get FILE.torrent` among Floodway's own processes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodway_testkit::{
    Nginx, PlainTracker, Program, Running, Signal, TestDir, TrackerKind, damage_file, random_bytes,
    random_file, sha256_file, wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn floodway() -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
}

/// A file, its torrent and a folder to download into.
struct Content {
    dir: TestDir,
    file: PathBuf,
    torrent: PathBuf,
    sha256: String,
}

impl Content {
    #[track_caller]
    fn new(length: u64, create_args: &[&str]) -> Self {
        let dir = TestDir::new();
        let file = dir.folder("source").join("disk.img");
        let sha256 = random_file(&file, length, 11);
        let torrent = dir.join("disk.torrent");
        floodway()
            .args(["torrent", "create"])
            .arg(&file)
            .arg("-o")
            .arg(&torrent)
            .args(create_args)
            .run()
            .expect_code(0);
        Self {
            dir,
            file,
            torrent,
            sha256,
        }
    }

    fn show(&self) -> Value {
        show(&self.torrent)
    }

    fn seed(&self) -> Running {
        self.seed_program().start()
    }

    fn seed_program(&self) -> Program {
        floodway()
            .arg("seed")
            .arg(&self.file)
            .arg(&self.torrent)
            .args(["--listen", "127.0.0.1:0", "--no-dht", "--no-lsd", "--json"])
    }

    fn get(&self, args: &[&str]) -> Program {
        self.get_listening("127.0.0.1:0", args)
    }

    fn get_listening(&self, addr: &str, args: &[&str]) -> Program {
        floodway()
            .arg("get")
            .arg(&self.torrent)
            .args(["--listen", addr, "--no-dht", "--no-lsd", "--json"])
            .args(args)
            .folder(self.dir.folder("down"))
    }

    #[track_caller]
    fn assert_downloaded(&self) {
        assert_eq!(sha256_file(self.dir.join("down/disk.img")), self.sha256);
    }
}

#[track_caller]
fn show(torrent: &Path) -> Value {
    floodway()
        .args(["torrent", "show", "--json"])
        .arg(torrent)
        .run()
        .expect_code(0)
        .json()
}

#[test]
fn what_create_makes_show_prints() {
    let content = Content::new(
        MIB + 1,
        &[
            "--piece-length",
            "64KiB",
            "--tracker",
            "http://127.0.0.1:9/announce",
            "--web-seed",
            "http://127.0.0.1:9/disk.img",
            "--private",
        ],
    );
    let shown = content.show();
    assert_eq!(shown["name"], "disk.img");
    assert_eq!(shown["length"], MIB + 1);
    assert_eq!(shown["piece_length"], 64 * 1024);
    assert_eq!(shown["info_hash_v1"].as_str().unwrap().len(), 40);
    let raw = fs::read(&content.torrent).unwrap();
    let raw = String::from_utf8_lossy(&raw);
    assert!(raw.contains("7:privatei1e"), "BEP 27");
    assert!(raw.contains("8:url-list"), "BEP 19");
    assert!(
        raw.contains("8:announce27:http://127.0.0.1:9/announce"),
        "BEP 3"
    );
    let text = floodway()
        .args(["torrent", "show"])
        .arg(&content.torrent)
        .run()
        .expect_code(0);
    assert!(
        text.stdout
            .contains(shown["info_hash_v1"].as_str().unwrap()),
        "{}",
        text.stdout
    );
}

#[test]
fn the_default_output_lies_beside_the_file() {
    let dir = TestDir::new();
    random_file(dir.join("a.bin"), 1000, 1);
    floodway()
        .args(["torrent", "create", "a.bin"])
        .folder(&*dir)
        .run()
        .expect_code(0);
    assert_eq!(show(&dir.join("a.bin.torrent"))["length"], 1000);
    floodway()
        .args(["torrent", "create", "missing"])
        .folder(&*dir)
        .run()
        .expect_code(4);
}

#[test]
fn paths_that_json_cannot_hold_are_exit_2() {
    let dir = TestDir::new();
    random_file(dir.join("f.bin"), 100_000, 1);
    let folder = dir.join(OsStr::from_bytes(b"\xff\xfe"));
    fs::create_dir(&folder).unwrap();
    fs::copy(dir.join("f.bin"), folder.join("f.bin")).unwrap();
    let create = |file: &Path, more: &[&OsStr]| {
        floodway()
            .args(["torrent", "create"])
            .arg(file)
            .args(more)
            .run()
    };
    let (json, o) = (OsStr::new("--json"), OsStr::new("-o"));
    let output = folder.join("x.torrent");
    for refused in [
        create(&dir.join("f.bin"), &[o, output.as_os_str(), json]),
        // The default lies beside the file.
        create(&folder.join("f.bin"), &[json]),
    ] {
        let refused = refused.expect_code(2);
        assert!(refused.stderr.contains("UTF-8"), "{}", refused.stderr);
    }
    assert!(!output.exists());
    create(&folder.join("f.bin"), &[]).expect_code(0);
    assert!(folder.join("f.bin.torrent").exists());
}

#[test]
fn corrupt_torrents_are_exit_2_and_say_what_is_wrong() {
    let content = Content::new(MIB, &[]);
    let good = fs::read(&content.torrent).unwrap();
    let bad = content.dir.join("bad.torrent");
    let replaced = |from: &str, to: &str| {
        let text: Vec<u8> = good.clone();
        let at = text
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap();
        [&text[..at], to.as_bytes(), &text[at + from.len()..]].concat()
    };
    let cases = [
        Vec::new(),
        b"not a torrent at all".to_vec(),
        good[..good.len() / 2].to_vec(),
        good[..good.len() - 1].to_vec(),
        [&good[..], b"trailing"].concat(),
        replaced("4:name8:disk.img", "4:name11:../disk.img"),
        replaced("4:name8:disk.img", "4:name0:"),
        replaced("4:name8:disk.img", "4:name2:.."),
        replaced("4:name8:disk.img", "4:name5:a/b/c"),
        replaced("6:lengthi1048576e", "6:lengthi-1e"),
        replaced("6:lengthi1048576e", "6:lengthi1048577e"),
        replaced("6:lengthi1048576e", "6:lengthi9223372036854775807e"),
        replaced("12:piece lengthi65536e", "12:piece lengthi0e"),
        replaced(
            "12:piece lengthi65536e",
            "12:piece lengthi99999999999999999999e",
        ),
        b"d4:infod6:lengthi1e4:name1:a12:piece lengthi16384e6:pieces0:ee".to_vec(),
        b"l".repeat(100_000),
    ];
    for (index, case) in cases.iter().enumerate() {
        fs::write(&bad, case).unwrap();
        for program in [
            floodway().args(["torrent", "show"]).arg(&bad),
            floodway()
                .arg("get")
                .arg(&bad)
                .folder(content.dir.folder("down")),
        ] {
            let output = program.run();
            assert_eq!(
                output.code, 2,
                "case {index}: {}{}",
                output.stdout, output.stderr
            );
            assert!(
                !output.stderr.contains("panicked"),
                "case {index}: {}",
                output.stderr
            );
            assert!(
                output.stderr.len() < 4000,
                "case {index}: {} bytes",
                output.stderr.len()
            );
        }
    }
    assert_eq!(
        fs::read_dir(content.dir.join("down")).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn one_seeds_and_one_downloads() {
    let content = Content::new(32 * MIB + 5, &[]);
    let mut seed = content.seed();
    let ready = seed.ready();
    assert_eq!(ready.http, None, "`seed` has no HTTP side");
    let done = content
        .get(&["--peer", ready.peer()])
        .run()
        .expect_code(0)
        .last_json();
    content.assert_downloaded();
    assert_eq!(done["verified_by"], "torrent");
    assert_eq!(done["peer_bytes"], 32 * MIB + 5);
    assert_eq!(done["sha256"], *content.sha256);
    seed.signal(Signal::TERM);
    assert_eq!(
        seed.wait(),
        0,
        "seeding stopped after done: {}",
        seed.stderr()
    );
}

#[test]
fn peers_find_each_other_by_the_torrents_tracker() {
    let tracker = PlainTracker::start(TrackerKind::Plain);
    let content = Content::new(8 * MIB, &["--tracker", &tracker.url()]);
    let mut seed = content.seed();
    let peer = seed.ready().peer().to_owned();
    let port: u16 = peer.rsplit(':').next().unwrap().parse().unwrap();
    wait_until("the seed to announce", Duration::from_secs(20), || {
        tracker
            .announces()
            .iter()
            .any(|a| a.peer.1 == port && a.left == 0)
            .then_some(())
    });
    content.get(&[]).run().expect_code(0);
    content.assert_downloaded();
    seed.signal(Signal::TERM);
    seed.wait();
    let stopped = tracker
        .announces()
        .iter()
        .filter(|a| a.event == "stopped")
        .count();
    assert!(
        stopped >= 1,
        "a graceful stop is announced: {:?}",
        tracker.announces()
    );
}

#[test]
fn many_leechers_pass_pieces_on() {
    let tracker = PlainTracker::start(TrackerKind::Plain);
    let content = Content::new(16 * MIB, &["--tracker", &tracker.url()]);
    let mut seed = content.seed_program().args(["--max-up", "4MiB/s"]).start();
    let peer = seed.ready().peer().to_owned();
    let leechers: Vec<_> = (0..3)
        .map(|index| {
            let output = format!("copy-{index}.img");
            content
                .get(&["--peer", &peer, "-o", &output, "--seed-time", "3s"])
                .start()
        })
        .collect();
    for (index, leecher) in leechers.into_iter().enumerate() {
        leecher.finish().expect_code(0);
        let path = content.dir.join(format!("down/copy-{index}.img"));
        assert_eq!(sha256_file(path), content.sha256);
    }
}

#[test]
fn a_web_seed_alone_is_enough() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    let Some(nginx) = Nginx::start(&origin) else {
        return;
    };
    let content = Content::new(16 * MIB, &["--web-seed", &nginx.url("/disk.img")]);
    fs::copy(&content.file, origin.join("disk.img")).unwrap();
    let done = content.get(&[]).run().expect_code(0).last_json();
    content.assert_downloaded();
    assert_eq!(
        done["origin_bytes"],
        16 * MIB,
        "a web seed counts as origin: {done}"
    );
    assert_eq!(done["verified_by"], "torrent");
    assert!(nginx.body_bytes("/disk.img") <= 17 * MIB);
}

#[test]
fn a_corrupt_web_seed_is_never_written() {
    let dir = TestDir::new();
    let origin = dir.folder("origin");
    let Some(nginx) = Nginx::start(&origin) else {
        return;
    };
    let content = Content::new(16 * MIB, &["--web-seed", &nginx.url("/disk.img")]);
    fs::copy(&content.file, origin.join("disk.img")).unwrap();
    damage_file(
        origin.join("disk.img"),
        5 * MIB,
        b"this is not what was hashed",
    );
    let mut seed = content.seed_program().args(["--max-up", "2MiB/s"]).start();
    let peer = seed.ready().peer().to_owned();
    content.get(&["--peer", &peer]).run().expect_code(0);
    content.assert_downloaded();
    assert!(
        nginx.body_bytes("/disk.img") <= 2 * 16 * MIB,
        "the bad source is not asked for ever"
    );
}

#[test]
fn an_existing_file_is_verified_again_and_done() {
    let content = Content::new(16 * MIB, &[]);
    let target = content.dir.folder("down").join("disk.img");
    fs::copy(&content.file, &target).unwrap();
    let done = content.get(&[]).run().expect_code(0).last_json();
    assert_eq!(done["resumed_bytes"], 16 * MIB, "{done}");
    assert_eq!(done["verified_by"], "torrent");
}

#[test]
fn a_killed_download_resumes_where_it_was() {
    let content = Content::new(96 * MIB, &[]);
    let mut seed = content.seed();
    let peer = seed.ready().peer().to_owned();
    let program = content.get(&["--peer", &peer, "--max-down", "16MiB/s"]);
    let mut running = program.start();
    // Five seconds at the given rate are most of it.
    std::thread::sleep(Duration::from_secs(5));
    running.kill9();
    assert!(
        !content.dir.join("down/disk.img").exists(),
        "96 MiB at 16 MiB/s take six seconds"
    );
    let done = content
        .get(&["--peer", &peer])
        .run()
        .expect_code(0)
        .last_json();
    content.assert_downloaded();
    let resumed = done["resumed_bytes"].as_u64().unwrap();
    assert!(
        resumed >= 16 * MIB,
        "at most 64 MiB of about 80 are lost: only {resumed} resumed"
    );
    assert_eq!(done["bytes"], 96 * MIB);
}

#[test]
fn seeding_ends_by_time_ratio_or_signal() {
    let content = Content::new(8 * MIB, &[]);
    let mut seed = content.seed();
    let peer = seed.ready().peer().to_owned();
    let timed = content
        .get(&["--peer", &peer, "--seed-time", "2s", "-o", "timed.img"])
        .run();
    let done = timed.clone().expect_code(0);
    assert!(done.seconds >= 2.0, "it seeded for {} s", done.seconds);

    // One downloader stays until it has given back as much as it took; another takes that from it alone.
    let giver_peer = format!("127.0.0.1:{}", floodway_testkit::free_port());
    let args = ["--peer", &peer, "--seed-ratio", "1.0", "-o", "giver.img"];
    let mut giver = content.get_listening(&giver_peer, &args).start();
    giver.event("done");
    assert!(giver.is_running(), "it has given nothing back yet");
    content
        .get(&["--peer", &giver_peer, "-o", "taker.img"])
        .run()
        .expect_code(0);
    assert_eq!(giver.wait(), 0, "{}", giver.stderr());

    let mut endless = content
        .get(&["--peer", &peer, "--seed-time", "1h", "-o", "e.img"])
        .start();
    endless.event("done");
    endless.signal(Signal::INT);
    assert_eq!(
        endless.wait(),
        0,
        "stopped while seeding after done: {}",
        endless.stderr()
    );
}

#[test]
fn what_does_not_match_is_not_seeded() {
    let content = Content::new(4 * MIB, &[]);
    damage_file(&content.file, MIB, b"damage");
    let output = content.seed_program().run();
    assert!(
        matches!(output.code, 1 | 3),
        "exit {}: {}",
        output.code,
        output.stderr
    );
    fs::write(&content.file, random_bytes(1000, 1)).unwrap();
    let output = content.seed_program().run();
    assert!(
        matches!(output.code, 1 | 3),
        "exit {}: {}",
        output.code,
        output.stderr
    );
    fs::remove_file(&content.file).unwrap();
    content.seed_program().run().expect_code(4);
}
