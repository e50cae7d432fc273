//! The resume journal: what of a content is on disk, in two strengths.
//!
//! *Written* means in the page cache: it survives `kill -9`, and is hashed again before it is trusted. *Synced* means
//! that the data reached the disk before this record did. Records are only appended; each has its length and a
//! checksum, so that a torn tail is noticed and ignored. Opening rewrites the file, locked, with what still holds.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use floodway_proto::PieceIndex;
use floodway_proto::digest::PieceDigest;

use crate::error::{OpenError, StoreError};
use crate::files::{open_or_create, sync_folder};

mod record;
#[cfg(test)]
mod tests;

pub(crate) use record::{Header, Record, runs as block_runs};

/// More than a journal of the largest content grows to in weeks; a longer file is not ours.
const LONGEST: u64 = 1 << 30;

/// What a journal says about one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// True when its bytes reached the disk before the record did.
    pub(crate) synced: bool,
    /// What was computed of it to be collected.
    pub(crate) digest: PieceDigest,
}

/// Everything that the valid records of a journal say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// What the data belongs to. `None`: no journal, or none of ours.
    pub(crate) header: Option<Header>,
    /// Whole pieces.
    pub(crate) pieces: BTreeMap<PieceIndex, Held>,
    /// Blocks of other pieces, as runs of (first block, blocks), in the order in which they were written.
    pub(crate) partial: BTreeMap<PieceIndex, Vec<(u32, u32)>>,
    /// True when the finished file was about to get its final name.
    pub(crate) finishing: bool,
}

impl Recorded {
    /// Reads records up to the first that is torn or not ours.
    pub(crate) fn read(mut bytes: &[u8]) -> Self {
        let mut state = Self::default();
        while let Some((record, rest)) = Record::decode(bytes) {
            bytes = rest;
            match (record, &state.header) {
                (Record::Header(header), None) => state.header = Some(header),
                (Record::Header(_), Some(_)) | (_, None) => break,
                (record, Some(_)) => state.apply(record),
            }
        }
        state
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Header(_) => {}
            Record::Written { piece, digest } => {
                let synced = false;
                self.partial.remove(&piece);
                self.pieces.insert(piece, Held { synced, digest });
            }
            Record::Synced { runs } => {
                for (first, count) in runs {
                    let range = PieceIndex(first)..PieceIndex(first.saturating_add(count));
                    for held in self.pieces.range_mut(range) {
                        held.1.synced = true;
                    }
                }
            }
            Record::Partial { piece, runs } => {
                self.partial.entry(piece).or_default().extend(runs);
            }
            Record::Dropped { piece } => {
                self.pieces.remove(&piece);
                self.partial.remove(&piece);
            }
            Record::Finishing => self.finishing = true,
        }
    }

    /// The shortest journal that says the same.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(header) = self.header {
            Record::Header(header).encode(&mut out);
        }
        for (&piece, held) in &self.pieces {
            let digest = held.digest;
            Record::Written { piece, digest }.encode(&mut out);
        }
        let synced = self.pieces.iter().filter(|(_, held)| held.synced);
        Record::synced(synced.map(|(&piece, _)| piece)).encode(&mut out);
        for (&piece, runs) in &self.partial {
            let runs = runs.clone();
            Record::Partial { piece, runs }.encode(&mut out);
        }
        if self.finishing {
            Record::Finishing.encode(&mut out);
        }
        out
    }
}

/// Opens the file at `path`, creating it if need be, and locks it: whoever holds it works on `target`, which is what an error calls
/// the thing that is locked. What is in the file stays.
///
/// # Errors
/// [`OpenError::Locked`] when another process (or another place in this one) holds it.
pub fn lock_journal(path: &Path, target: &Path) -> Result<File, OpenError> {
    let fail = |action| move |source: io::Error| StoreError::new(path, action, source);
    loop {
        let file = open_or_create(path).map_err(fail("create"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(target.to_owned())),
            Err(TryLockError::Error(error)) => return Err(fail("lock")(error).into()),
        }
        // The former holder may have replaced or removed the file between our open and our lock.
        if is_at(&file, path).map_err(fail("examine"))? {
            return Ok(file);
        }
    }
}

/// An open journal. Its lock is the lock of the target: whoever holds it works on that file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next record goes. A failed append leaves it, so that the next one overwrites the torn record.
    end: u64,
}

impl Journal {
    /// Locks the journal at `path`, creating it if need be, and reads it.
    ///
    /// `target` is what an error calls the thing that is locked.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process (or another store in this one) holds it.
    pub(crate) fn lock(path: PathBuf, target: &Path) -> Result<(Self, Recorded), OpenError> {
        let file = lock_journal(&path, target)?;
        let mut bytes = Vec::new();
        (&file)
            .take(LONGEST)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::new(&path, "read", error))?;
        let recorded = Recorded::read(&bytes);
        let end = bytes.len() as u64;
        Ok((Self { path, file, end }, recorded))
    }

    /// Replaces the file by a short one that says `recorded`; durable when this returns.
    pub(crate) fn rewrite(&mut self, recorded: &Recorded) -> Result<(), StoreError> {
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let bytes = recorded.encode();
        let replace = || -> io::Result<File> {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&new)?;
            // Locked before it has the journal's name: no moment without a holder.
            file.try_lock()?;
            file.write_all_at(&bytes, 0)?;
            file.sync_data()?;
            std::fs::rename(&new, &self.path)?;
            Ok(file)
        };
        self.file = replace().map_err(|error| {
            // Half a new journal is of no use; the old one still holds.
            let _ = std::fs::remove_file(&new);
            StoreError::new(&self.path, "rewrite", error)
        })?;
        self.end = bytes.len() as u64;
        sync_folder(folder_of(&self.path))
    }

    /// Appends one record, to the page cache.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        self.file
            .write_all_at(&bytes, self.end)
            .map_err(|error| StoreError::new(&self.path, "write", error))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// A second handle, to sync without keeping others from appending.
    pub(crate) fn handle(&self) -> Result<SyncHandle, StoreError> {
        let file = self.file.try_clone();
        Ok(SyncHandle {
            path: self.path.clone(),
            file: file.map_err(|error| StoreError::new(&self.path, "open", error))?,
        })
    }

    /// Removes the journal: its content has its final name, or is given up.
    pub(crate) fn remove(self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path)
            .map_err(|error| StoreError::new(&self.path, "remove", error))
    }
}

/// Waits for what was appended, beside the journal's owner.
pub(crate) struct SyncHandle {
    path: PathBuf,
    file: File,
}

impl SyncHandle {
    /// Waits until all records appended so far are on the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|error| StoreError::new(&self.path, "sync", error))
    }
}

/// True when `path` still names the open `file`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
