//! A folder of thousands of small files: its genesis has a list beside it that no sync carries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use floodway_testkit::{Fleet, Site, TestDir, random_bytes, request, task_id, wait_until};
use serde_json::json;

const PATIENCE: Duration = Site::PATIENCE;

/// Writes so many small files into some folders, each seventh of them empty; gives bytes by path.
fn write(folder: &Path, count: u64) -> BTreeMap<String, Vec<u8>> {
    let file = |file: u64| {
        let length = if file.is_multiple_of(7) {
            0
        } else {
            1 + file * 37 % 900
        };
        let path = format!("part {:02}/file {file:05}.dat", file / 100);
        (path, random_bytes(length, file))
    };
    let files: BTreeMap<_, _> = (0..count).map(file).collect();
    for (path, bytes) in &files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    files
}

#[track_caller]
fn assert_is(folder: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (path, bytes) in files {
        assert!(fs::read(folder.join(path)).unwrap() == *bytes, "{path}");
    }
    let folders: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let found = folders
        .iter()
        .map(|folder| fs::read_dir(folder).unwrap().count());
    assert_eq!(found.sum::<usize>(), files.len());
}

#[test]
fn three_thousand_files_are_published_walked_and_placed() {
    let dir = TestDir::new();
    let origin = dir.folder("origin").join("set");
    let files = write(&origin, 3000);
    let allowed = format!("file://{}", dir.join("origin").display());
    let mut fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [allowed],
    );
    let mut relays = fleet.relays(1);
    let agents = fleet.agents(1);
    fleet.await_live_nodes(2);
    let task = task_id(&fleet.create_task(&format!("file://{}/", origin.display()), Some("all")));
    let ended = fleet.await_task(&task, &["done", "failed"], PATIENCE);
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert_eq!(ended["files"], files.len());
    assert_is(&agents[0].files.join("set"), &files);
    // Syncs do not carry the list: whoever needs it reads it once.
    let sid = ended["sid"].as_str().unwrap();
    let genesis = fleet.api().get(&format!("/api/v1/s/{sid}/genesis"));
    assert!(genesis.expect_status(200).body.len() > 300_000);
    // Relays go on with what they have after a restart.
    for relay in &mut relays {
        relay.process.kill9();
        relay.restart();
    }
    fleet.await_live_nodes(2);
    wait_until("relays that serve it again", PATIENCE, || {
        let urls = fleet.api().post(
            &format!("/api/v1/s/{sid}/capability"),
            &json!({ "seconds": 600 }),
        );
        let urls = urls.expect_status(200).json();
        let base = urls["urls"][0].as_str()?.to_owned();
        let one = request(
            "GET",
            &format!("{base}set/part%2029/file%2002999.dat"),
            &[],
            b"",
        );
        (one.status == 200 && one.body == files["part 29/file 02999.dat"]).then_some(())
    });
    // Whoever comes when all is final.
    let out = dir.folder("out");
    let got = fleet.late_get(sid, &out);
    assert_eq!(got["bytes"], ended["length"]);
    assert_is(&out.join("set"), &files);
}
