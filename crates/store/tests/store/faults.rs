//! Disks and people that get in the way: each gets a clear message, nothing is lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use floodway_store::{Event, Hashes, OpenError, Spec, StoreError};

use crate::common::{PIECE, Rig, content, skip, spec, v1};

const LENGTH: usize = 8 * PIECE as usize + 1;

fn failed(rig: &Rig) -> (StoreError, bool) {
    rig.wait(|event| match event {
        Event::Failed { error, retryable } => Some((error, retryable)),
        _ => None,
    })
}

fn refused(spec: Spec) -> String {
    match Rig::try_open(spec) {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn one_store_at_a_time_has_a_target() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let open = || Rig::try_open(spec(&target, &data, v1(&data)));
    let first = open().unwrap();
    let Err(error) = open() else {
        panic!("two at once")
    };
    assert!(matches!(error, OpenError::Locked(_)));
    assert!(
        error
            .to_string()
            .contains("another process is already downloading `")
    );
    first.store.close().unwrap();
    let second = open().expect("a closed store holds no lock");
    drop(first);
    second.put_all(&data);
    second.store.finish();
    second.finished();
    assert!(open().unwrap().opened.complete);
}

#[test]
fn a_target_that_cannot_be_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let data = content(LENGTH, 1);
    let refused = |target: &Path| refused(spec(target, &data, Hashes::Unknown));
    let missing = folder.path().join("no/file");
    assert!(refused(&missing).ends_with("/no` does not exist; create it first"));
    assert!(refused(folder.path()).ends_with("` is a folder; give a file name in it"));
    assert!(refused(Path::new("/")).contains("cannot be the name of a file"));
    let long = folder.path().join("x".repeat(300));
    assert!(refused(&long).contains("File name too long"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_is_not_writable_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.path().join("probe"), "").is_ok() {
        skip("this user may write everywhere");
        return;
    }
    let data = content(LENGTH, 1);
    let error = refused(spec(&folder.path().join("file"), &data, Hashes::Unknown));
    assert!(error.starts_with("could not create `"), "{error}");
    assert!(
        error.ends_with("; make it writable for this user"),
        "{error}"
    );
}

#[test]
fn a_file_that_took_the_name_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    fs::write(&target, "precious").unwrap();
    rig.store.finish();
    rig.put_all(&data);
    let (error, retryable) = failed(&rig);
    assert!(error.is_target_taken() && !retryable, "{error}");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(
        rig.read(0, LENGTH),
        data,
        "it can still be read and passed on"
    );
    fs::remove_file(&target).unwrap();
    rig.store.finish();
    rig.finished();
    assert!(fs::read(&target).unwrap() == data);
}

/// A small memory file system, unmounted at the end. `None` where this user may not mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        mount(
            &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"],
            folder.path(),
        )
        .then_some(Self(folder))
    }

    fn resize(&self, size: &str) {
        let is_done = mount(&["-o", &format!("remount,size={size}")], self.0.path());
        assert!(is_done, "what was mounted can be mounted again");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store under test may still have its files open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mount(options: &[&str], folder: &Path) -> bool {
    let status = Command::new("mount").args(options).arg(folder).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_pauses_says_so_and_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::new("256k") else {
        skip("this user may not mount");
        return;
    };
    let target = disk.0.path().join("file");
    let data = content(LENGTH, 1);
    let mut spec = spec(&target, &data, v1(&data));
    spec.linear_digest = true;
    let rig = Rig::open(spec);
    rig.store.finish();
    rig.put_all(&data);
    let (error, retryable) = failed(&rig);
    assert!(error.is_full() && retryable, "{error}");
    assert!(
        error.to_string().starts_with("could not write `"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with("; free some space there, nothing is lost"),
        "{error}"
    );
    rig.store.retry();
    assert!(failed(&rig).0.is_full(), "still full");
    assert!(rig.store.buffered() > 0);
    // The last pieces may still be hashed when the first cannot be written.
    while !rig.have().contains(&7) {
        rig.verdict();
    }
    assert_eq!(
        rig.read(7 * PIECE as usize, 10),
        data[7 * PIECE as usize..][..10]
    );
    disk.resize("2m");
    rig.store.retry();
    rig.finished();
    assert!(fs::read(&target).unwrap() == data);
}

#[test]
fn a_store_on_a_full_disk_can_be_closed_and_dropped_and_resumed() {
    let Some(disk) = SmallDisk::new("256k") else {
        skip("this user may not mount");
        return;
    };
    let target = disk.0.path().join("file");
    let data = content(LENGTH, 1);
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    rig.put_all(&data);
    failed(&rig);
    drop(rig);
    // Not even a journal can be written.
    let error = refused(spec(&target, &data, v1(&data)));
    assert!(
        error.ends_with("; free some space there, nothing is lost"),
        "{error}"
    );
    disk.resize("400k");
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    assert!((1..4).contains(&rig.opened.have.count()));
    rig.put_all(&data);
    failed(&rig);
    assert!(rig.store.close().unwrap_err().is_full());
    drop(rig);
    disk.resize("2m");
    let rig = Rig::open(spec(&target, &data, v1(&data)));
    assert!((3..7).contains(&rig.opened.have.count()));
    rig.put_all(&data);
    rig.store.finish();
    rig.finished();
    assert!(fs::read(&target).unwrap() == data);
}
