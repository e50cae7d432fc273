//! `get` without control: origins good and poor, torrents, existing files, digests, exit codes.

use std::future::pending;
use std::path::Path;

use crate::common::{Origin, digest_of, loopback, random, spec, torrent};
use floodway_node::get::{self, GetReport, GetSource, GetSpec};
use floodway_node::seed::{self, SeedSpec};
use floodway_node::{GetError, VerifiedBy};
use floodway_proto::Sha256;
use floodway_swarm::Limits;
use tokio::sync::oneshot;

const LENGTH: usize = 3 * 1024 * 1024 + 4321;

async fn fetch(spec: GetSpec) -> Result<GetReport, GetError> {
    get::run(spec, pending(), |_| ()).await
}

fn url(origin: &Origin) -> GetSource {
    origin.url.parse().unwrap()
}

#[track_caller]
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[track_caller]
fn balanced(report: &GetReport) {
    let kept = report.peer_bytes + report.relay_bytes + report.origin_bytes + report.resumed_bytes;
    assert_eq!(kept, report.bytes, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_url_is_fetched_by_ranges() {
    let (bytes, folder) = (random(LENGTH, 1), tempfile::tempdir().unwrap());
    let origin = Origin::good(&bytes).await;
    let report = fetch(spec(url(&origin), folder.path())).await.unwrap();
    assert_eq!(report.path, folder.path().join("disk.img"));
    assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
    assert_eq!(
        (report.sha256, report.verified_by),
        (Some(digest_of(&bytes)), VerifiedBy::Transport)
    );
    assert_eq!(report.origin_bytes, LENGTH as u64);
    balanced(&report);
    assert_eq!(names(folder.path()), ["disk.img"]);

    let again = fetch(spec(url(&origin), folder.path())).await.unwrap_err();
    assert_eq!(again.exit_code(), 2, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poor_origin_is_read_by_one_get() {
    for length in [true, false] {
        let (bytes, folder) = (random(LENGTH, 2), tempfile::tempdir().unwrap());
        let origin = Origin::poor(&bytes, length).await;
        let report = fetch(spec(url(&origin), folder.path())).await.unwrap();
        assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
        assert_eq!(report.sha256, Some(digest_of(&bytes)));
        assert!(
            report
                .reasons
                .iter()
                .any(|reason| reason.contains("no resume")),
            "{:?}",
            report.reasons
        );
        balanced(&report);
        assert_eq!(names(folder.path()), ["disk.img"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::good(&[]).await;
    let report = fetch(spec(url(&origin), folder.path())).await.unwrap();
    assert_eq!(
        (report.bytes, std::fs::read(&report.path).unwrap().len()),
        (0, 0)
    );
    assert_eq!(report.sha256, Some(digest_of(&[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_decides_before_the_file_gets_its_name() {
    let bytes = random(LENGTH, 3);
    for poor in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let origin = if poor {
            Origin::poor(&bytes, true).await
        } else {
            Origin::good(&bytes).await
        };
        let wrong = GetSpec {
            sha256: Some(Sha256([1; 32])),
            ..spec(url(&origin), folder.path())
        };
        let error = fetch(wrong).await.unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(
            names(folder.path()).is_empty(),
            "{:?}",
            names(folder.path())
        );

        let right = GetSpec {
            sha256: Some(digest_of(&bytes)),
            ..spec(url(&origin), folder.path())
        };
        let report = fetch(right.clone()).await.unwrap();
        assert_eq!(report.verified_by, VerifiedBy::Digest);
        // There already, and right: nothing is fetched.
        let before = origin.sent();
        let report = fetch(right).await.unwrap();
        assert_eq!(
            (report.resumed_bytes, origin.sent()),
            (LENGTH as u64, before)
        );
        balanced(&report);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let no_origin = GetSpec {
        no_origin: true,
        ..spec("http://127.0.0.1:9/f".parse().unwrap(), folder.path())
    };
    assert_eq!(fetch(no_origin).await.unwrap_err().exit_code(), 5);
    let nobody = spec("http://127.0.0.1:9/f".parse().unwrap(), folder.path());
    assert_eq!(fetch(nobody).await.unwrap_err().exit_code(), 1);
    let missing = spec(
        format!("file://{}/none", folder.path().display())
            .parse()
            .unwrap(),
        folder.path(),
    );
    assert_eq!(fetch(missing).await.unwrap_err().exit_code(), 4);
    let sid = spec(
        format!("floodway:{}", "ab".repeat(32)).parse().unwrap(),
        folder.path(),
    );
    assert_eq!(fetch(sid).await.unwrap_err().exit_code(), 2);
    assert!(names(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_file_is_an_origin() {
    let (bytes, folder) = (random(LENGTH, 4), tempfile::tempdir().unwrap());
    let path = folder.path().join("original.bin");
    std::fs::write(&path, &bytes).unwrap();
    let mut spec = spec(
        format!("file://{}", path.display()).parse().unwrap(),
        folder.path(),
    );
    spec.output = Some(folder.path().join("copy"));
    let report = fetch(spec).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("copy")).unwrap(), bytes);
    balanced(&report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torrent_comes_from_its_web_seed() {
    let (bytes, folder) = (random(LENGTH, 5), tempfile::tempdir().unwrap());
    let origin = Origin::good(&bytes).await;
    let mut torrent = torrent(&bytes);
    torrent.web_seeds = vec![origin.url.clone()];
    let spec = spec(GetSource::Torrent(Box::new(torrent)), folder.path());
    let report = fetch(spec.clone()).await.unwrap();
    assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
    assert_eq!(
        (report.verified_by, report.origin_bytes),
        (VerifiedBy::Torrent, LENGTH as u64)
    );
    balanced(&report);
    // There already, and right: nothing is fetched.
    let before = origin.sent();
    let report = fetch(spec).await.unwrap();
    assert_eq!(
        (report.resumed_bytes, origin.sent()),
        (LENGTH as u64, before)
    );
    assert_eq!(report.sha256, Some(digest_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_serves_a_peer() {
    let (bytes, folder) = (random(LENGTH, 6), tempfile::tempdir().unwrap());
    let (path, file) = (
        folder.path().join("here.img"),
        folder.path().join("x.torrent"),
    );
    std::fs::write(&path, &bytes).unwrap();
    std::fs::write(&file, torrent(&bytes).encode()).unwrap();
    let seed = SeedSpec {
        path,
        torrent: file,
        listen: loopback(),
        advertise: None,
        peers: Vec::new(),
        limits: Limits::default(),
    };
    let ((ready, is_ready), (stop, stopped)) = (oneshot::channel(), oneshot::channel::<()>());
    let seeding = tokio::spawn(seed::run(
        seed,
        async { drop(stopped.await) },
        |addresses| ready.send(addresses).unwrap(),
        |_| (),
    ));
    let peer = is_ready.await.unwrap().peer.unwrap();
    let target = folder.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mut spec = spec(GetSource::Torrent(Box::new(torrent(&bytes))), &target);
    spec.peers = vec![peer];
    let report = fetch(spec).await.unwrap();
    assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
    assert_eq!(report.peer_bytes, LENGTH as u64);
    balanced(&report);
    drop(stop);
    seeding.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_means_resumable() {
    let (bytes, folder) = (random(LENGTH, 7), tempfile::tempdir().unwrap());
    let origin = Origin::good(&bytes).await;
    let spec = spec(url(&origin), folder.path());
    let slow = GetSpec {
        limits: Limits {
            down: floodway_proto::ByteRate::mib(1),
            ..Limits::default()
        },
        ..spec.clone()
    };
    let (half, is_half) = oneshot::channel();
    let half = std::sync::Mutex::new(Some(half));
    let tell = move |event| {
        if let floodway_node::GetEvent::Progress(progress) = event
            && progress.have_bytes > 1024 * 1024
            && let Some(half) = half.lock().unwrap().take()
        {
            half.send(()).unwrap();
        }
    };
    let error = get::run(slow, async { drop(is_half.await) }, tell)
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 130);
    assert!(!folder.path().join("disk.img").exists());
    let before = origin.sent();
    let report = fetch(spec).await.unwrap();
    assert_eq!(std::fs::read(&report.path).unwrap(), bytes);
    assert!(report.resumed_bytes > 1024 * 1024, "{report:?}");
    assert!(origin.sent() - before < LENGTH as u64);
    balanced(&report);
}
