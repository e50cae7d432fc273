//! Files of tests: pseudo-random ones by seed, their digests, folders that vanish.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A temporary folder, removed at the end unless `FLOODWAY_TEST_KEEP` is set.
pub struct TestDir(TempDir);

impl TestDir {
    /// Makes an empty folder of its own.
    #[expect(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        let keep = std::env::var_os("FLOODWAY_TEST_KEEP").is_some();
        let mut dir = TempDir::with_prefix("floodway-test-").expect("a temporary folder");
        dir.disable_cleanup(keep);
        Self(dir)
    }

    /// Makes a folder within it and gives its path.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).expect("a folder in a temporary folder");
        path
    }
}

impl Deref for TestDir {
    type Target = Path;
    fn deref(&self) -> &Path {
        self.0.path()
    }
}

impl AsRef<Path> for TestDir {
    fn as_ref(&self) -> &Path {
        self.0.path()
    }
}

const CHUNK: usize = 1 << 20;
const STRIDE: usize = 4096;

/// Calls `sink` with `length` pseudo-random bytes in chunks; every 4 KiB of every seed differ from all others.
fn generate(length: u64, seed: u64, mut sink: impl FnMut(&[u8])) {
    let mut chunk = vec![0; CHUNK];
    fastrand::Rng::with_seed(seed).fill(&mut chunk);
    let mut done = 0_u64;
    while done < length {
        // Filling a whole file from the generator costs seconds in unoptimised builds; numbering the chunk does not.
        for (index, part) in (0_u64..).zip(chunk.chunks_mut(STRIDE)) {
            part[..8].copy_from_slice(&(done + index).to_le_bytes());
            part[8..16].copy_from_slice(&seed.to_le_bytes());
        }
        let take = usize::try_from(length - done).map_or(CHUNK, |rest| rest.min(CHUNK));
        sink(&chunk[..take]);
        done += take as u64;
    }
}

/// Writes `length` pseudo-random bytes to `path` and gives their SHA-256 in hexadecimal.
pub fn random_file(path: impl AsRef<Path>, length: u64, seed: u64) -> String {
    let mut file = File::create(path).expect("a test file");
    let mut hasher = Sha256::new();
    generate(length, seed, |bytes| {
        hasher.update(bytes);
        file.write_all(bytes).expect("writing a test file");
    });
    hex::encode(hasher.finalize())
}

/// The bytes that [`random_file`] writes.
pub fn random_bytes(length: u64, seed: u64) -> Vec<u8> {
    let mut all = Vec::new();
    generate(length, seed, |bytes| all.extend_from_slice(bytes));
    all
}

/// Makes a file of `length` bytes, all zero but for a little at the start and the end, that takes hardly any disk.
pub fn make_sparse(path: impl AsRef<Path>, length: u64) {
    let mut file = File::create(path).expect("a test file");
    file.set_len(length).expect("a sparse file");
    file.write_all(&b"start"[..length.min(5) as usize])
        .expect("writing a test file");
    file.seek(SeekFrom::Start(length.saturating_sub(3)))
        .expect("seeking a test file");
    file.write_all(&b"end"[..length.min(3) as usize])
        .expect("writing a test file");
}

/// Overwrites the bytes at `offset` of a file with others: damage on a disk.
pub fn damage_file(path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("the file to damage");
    file.seek(SeekFrom::Start(offset))
        .expect("seeking the file to damage");
    file.write_all(bytes).expect("damaging a file");
}

/// The SHA-256 of a file in hexadecimal.
#[track_caller]
pub fn sha256_file(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let mut file =
        File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let got = match file.read(&mut buffer) {
            Ok(0) => return hex::encode(hasher.finalize()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => panic!("cannot read {}: {error}", path.display()),
        };
        hasher.update(&buffer[..got]);
    }
}

/// A file's length in bytes, `None` when there is none.
pub fn size_of(path: impl AsRef<Path>) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.len())
}
