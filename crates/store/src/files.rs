//! The linear byte space over a list of files: positioned reads and gathered writes.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use floodway_proto::SafeName;
use floodway_proto::files::FileSpan;
use rustix::fs::{Mode, OFlags, openat};

use crate::error::StoreError;
use crate::many;
use crate::open::remove;

/// Most buffers in one system call: `IOV_MAX` on Linux.
const SLICES_PER_CALL: usize = 1024;
/// Most bytes in one system call: enough to hide its cost, short enough to let readers in between.
const BYTES_PER_CALL: usize = 2 << 20;
/// Files of a folder that are kept open: a node has many contents, and a process has a limit.
const KEPT_OPEN: usize = 16;

#[derive(Debug)]
struct Part {
    /// The path that errors name.
    path: PathBuf,
    /// The file's bytes within the content.
    bytes: Range<u64>,
}

/// Where the open files come from.
#[derive(Debug)]
enum Handles {
    /// All are open.
    Open(Vec<Arc<File>>),
    /// The files of a folder, opened when they are needed. The folder's own handle stays good when it is renamed.
    Folder {
        root: OwnedFd,
        /// Path of each file within the folder.
        places: Vec<PathBuf>,
        is_writable: bool,
        /// Used last comes last.
        recent: Mutex<VecDeque<(usize, Arc<File>)>>,
        /// Written and not synced.
        unsynced: Mutex<BTreeSet<usize>>,
    },
}

/// Files whose bytes, one after the other, are the content: one, or those of a folder.
#[derive(Debug)]
pub(crate) struct FileMap {
    /// The path that errors name.
    path: PathBuf,
    parts: Vec<Part>,
    handles: Handles,
}

/// A file or folder that must exist as it is described has another length or is not there.
pub(crate) enum Missing {
    /// Which, its length (0 if it is not there), and which it should have.
    Length {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    Refused(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path of a folder's file within the folder.
fn place(span: &FileSpan) -> PathBuf {
    span.path.iter().map(SafeName::as_str).collect()
}

impl FileMap {
    /// A map of one open file.
    fn single(path: PathBuf, file: File, length: u64) -> Self {
        let part = Part {
            path: path.clone(),
            bytes: 0..length,
        };
        Self {
            path,
            parts: vec![part],
            handles: Handles::Open(vec![Arc::new(file)]),
        }
    }

    /// A map of the files of the folder at `path`, which errors call `shown`.
    fn folder(
        path: &Path,
        shown: &Path,
        spans: &[FileSpan],
        is_writable: bool,
    ) -> Result<Self, StoreError> {
        let root = File::open(path).map_err(|error| StoreError::new(path, "open", error))?;
        let places: Vec<PathBuf> = spans.iter().map(place).collect();
        let parts = places.iter().zip(spans).map(|(place, span)| Part {
            path: shown.join(place),
            bytes: span.bytes.clone(),
        });
        Ok(Self {
            path: shown.to_owned(),
            parts: parts.collect(),
            handles: Handles::Folder {
                root: root.into(),
                places,
                is_writable,
                recent: Mutex::default(),
                unsynced: Mutex::default(),
            },
        })
    }

    /// Creates what lacks of a folder and its files, each with its length, sparse.
    ///
    /// `shown` is the path that errors name. Also says whether everything was there, with its length.
    pub(crate) fn create_folder(
        path: &Path,
        shown: &Path,
        spans: &[FileSpan],
    ) -> Result<(Self, bool), StoreError> {
        std::fs::create_dir_all(path).map_err(|error| StoreError::new(path, "create", error))?;
        let mut was_there = true;
        for span in spans {
            let file = path.join(place(span));
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|error| StoreError::new(folder, "create", error))?;
            }
            let (_, before) = create_file(&file, Some(span.length()))?;
            was_there &= before == Some(span.length());
        }
        Ok((Self::folder(path, shown, spans, true)?, was_there))
    }

    /// Opens the files of a finished folder for reading, if each has its length.
    pub(crate) fn open_folder(path: &Path, spans: &[FileSpan]) -> Result<Self, Missing> {
        for span in spans {
            let file = path.join(place(span));
            let found = match std::fs::metadata(&file) {
                Ok(data) if data.is_file() => data.len(),
                Ok(_) => 0,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    0
                }
                Err(error) => return Err(StoreError::new(&file, "examine", error).into()),
            };
            let expected = span.length();
            if found != expected || !file.is_file() {
                return Err(Missing::Length {
                    path: file,
                    found,
                    expected,
                });
            }
        }
        Ok(Self::folder(path, path, spans, false)?)
    }

    /// The open file of a part.
    fn file(&self, index: usize) -> io::Result<Arc<File>> {
        let (root, place, is_writable, recent) = match &self.handles {
            Handles::Open(files) => return Ok(Arc::clone(&files[index])),
            Handles::Folder {
                root,
                places,
                is_writable,
                recent,
                ..
            } => (root, &places[index], *is_writable, recent),
        };
        let mut recent = lock(recent);
        if let Some(at) = recent.iter().position(|(open, _)| *open == index) {
            let found = recent.remove(at).expect("it is there");
            let file = Arc::clone(&found.1);
            recent.push_back(found);
            return Ok(file);
        }
        let access = if is_writable {
            OFlags::RDWR
        } else {
            OFlags::RDONLY
        };
        let flags = access | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = Arc::new(File::from(openat(root, place, flags, Mode::empty())?));
        if recent.len() >= KEPT_OPEN {
            recent.pop_front();
        }
        recent.push_back((index, Arc::clone(&file)));
        Ok(file)
    }

    /// Makes the names within a folder durable; those of a single file are its folder's business.
    pub(crate) fn sync_names(&self) -> Result<(), StoreError> {
        let Handles::Folder { root, places, .. } = &self.handles else {
            return Ok(());
        };
        let folders: BTreeSet<&Path> = places
            .iter()
            .flat_map(|place| place.ancestors().skip(1))
            .collect();
        let folders: Vec<&Path> = folders.into_iter().collect();
        let synced = many::for_each(&folders, |folder| {
            let name = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let synced = openat(root, name, flags, Mode::empty())
                .and_then(|handle| rustix::fs::fsync(&handle));
            synced
                .map_err(|error| StoreError::new(&self.path.join(folder), "sync the folder", error))
        });
        synced.map_err(|(error, _)| error)
    }

    /// Creates the file if need be and gives it its length at once, sparse: `fallocate` would fill a memory file system. One
    /// whose length is not known grows as it is written, up to `most` bytes.
    ///
    /// `shown` is the path that errors name. Also returns the length it had: 0 for a new one.
    pub(crate) fn create(
        path: &Path,
        shown: &Path,
        length: Option<u64>,
        most: u64,
    ) -> Result<(Self, u64), StoreError> {
        let (file, before) = create_file(path, length)?;
        let map = Self::single(shown.to_owned(), file, most);
        Ok((map, before.unwrap_or(0)))
    }

    /// Opens a finished file for reading.
    pub(crate) fn open(path: &Path) -> Result<(Self, u64), StoreError> {
        let fail = |action| move |source| StoreError::new(path, action, source);
        let file = File::open(path).map_err(fail("open"))?;
        let length = file.metadata().map_err(fail("examine"))?.len();
        Ok((Self::single(path.to_owned(), file, length), length))
    }

    /// The path that errors name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the byte at `offset`, its number, and the offset within it.
    fn locate(&self, offset: u64) -> io::Result<(usize, &Part, u64)> {
        let index = self.parts.partition_point(|part| part.bytes.end <= offset);
        let part = self
            .parts
            .get(index)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok((index, part, offset - part.bytes.start))
    }

    fn error(&self, offset: u64, action: &'static str, source: io::Error) -> StoreError {
        let path = self
            .locate(offset)
            .map_or_else(|_| self.path(), |(_, part, _)| &part.path);
        StoreError::new(path, action, source)
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let read = || -> io::Result<usize> {
                let (index, part, within) = self.locate(at)?;
                let room = usize::try_from(part.bytes.end - at).unwrap_or(usize::MAX);
                let end = out.len().min(done.saturating_add(room));
                self.file(index)?
                    .read_exact_at(&mut out[done..end], within)?;
                Ok(end)
            }();
            done = read.map_err(|error| self.error(at, "read", error))?;
        }
        Ok(())
    }

    /// Writes `buffers`, one after the other, from `offset` on: one system call for many of them.
    pub(crate) fn write(&self, offset: u64, buffers: &[Bytes]) -> Result<(), StoreError> {
        let (mut at, mut next, mut skip) = (offset, 0, 0);
        while next < buffers.len() {
            let written = self
                .write_some(at, &buffers[next..], skip)
                .map_err(|error| self.error(at, "write", error))?;
            at += written as u64;
            skip += written;
            while next < buffers.len() && skip >= buffers[next].len() {
                skip -= buffers[next].len();
                next += 1;
            }
        }
        Ok(())
    }

    /// One system call: what fits of `buffers`, without the first `skip` bytes, into the file at `at`.
    fn write_some(&self, at: u64, buffers: &[Bytes], mut skip: usize) -> io::Result<usize> {
        let (index, part, within) = self.locate(at)?;
        let room = usize::try_from(part.bytes.end - at).unwrap_or(usize::MAX);
        let mut room = room.min(BYTES_PER_CALL);
        let mut slices = Vec::with_capacity(buffers.len().min(SLICES_PER_CALL));
        for buffer in buffers.iter().take(SLICES_PER_CALL) {
            let slice = &buffer[skip..];
            skip = 0;
            let slice = &slice[..slice.len().min(room)];
            room -= slice.len();
            slices.push(IoSlice::new(slice));
            if room == 0 {
                break;
            }
        }
        let file = self.file(index)?;
        match rustix::io::pwritev(&file, &slices, within) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                // After the write, before anybody calls it written: the sync that calls it synced finds it here.
                if let Handles::Folder { unsynced, .. } = &self.handles {
                    lock(unsynced).insert(index);
                }
                Ok(written)
            }
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a single file the length that turned out to be its own.
    pub(crate) fn end(&self, length: u64) -> Result<(), StoreError> {
        let ended = self.file(0).and_then(|file| file.set_len(length));
        ended.map_err(|error| StoreError::new(&self.path, "set the length of", error))
    }

    /// Waits until everything written so far is on the disk.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        let indices: Vec<usize> = match &self.handles {
            Handles::Open(files) => (0..files.len()).collect(),
            Handles::Folder { unsynced, .. } => {
                let unsynced = std::mem::take(&mut *lock(unsynced));
                unsynced.into_iter().collect()
            }
        };
        let synced = many::for_each(&indices, |index| {
            let synced = self.file(index).and_then(|file| file.sync_data());
            synced.map_err(|error| StoreError::new(&self.parts[index].path, "sync", error))
        });
        synced.map_err(|(error, left)| {
            if let Handles::Folder { unsynced, .. } = &self.handles {
                lock(unsynced).extend(left);
            }
            error
        })
    }
}

/// Removes from the folder at `path` what is none of these files and lies on the way to none.
pub(crate) fn keep_only(path: &Path, spans: &[FileSpan]) -> Result<(), StoreError> {
    let files: BTreeSet<PathBuf> = spans.iter().map(|span| path.join(place(span))).collect();
    let folders: BTreeSet<&Path> = files
        .iter()
        .flat_map(|file| file.ancestors().skip(1))
        .collect();
    let mut open = vec![path.to_owned()];
    while let Some(folder) = open.pop() {
        let fail = |source| StoreError::new(&folder, "list", source);
        for entry in std::fs::read_dir(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let (place, kind) = (entry.path(), entry.file_type().map_err(fail)?);
            let is_kept = if kind.is_dir() {
                folders.contains(&*place)
            } else {
                files.contains(&place)
            };
            if !is_kept {
                remove(&place)?;
            } else if kind.is_dir() {
                open.push(place);
            }
        }
    }
    Ok(())
}

/// Opens the file for reading and writing, with what is in it; creates it if need be.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

/// Creates the file if need be and gives it its length, if that is known. Also returns the length it had, if it was there.
fn create_file(path: &Path, length: Option<u64>) -> Result<(File, Option<u64>), StoreError> {
    let fail = |action| move |source| StoreError::new(path, action, source);
    let was_there = path.symlink_metadata().is_ok();
    let file = open_or_create(path).map_err(fail("create"))?;
    let before = file.metadata().map_err(fail("examine"))?.len();
    if let Some(length) = length.filter(|&length| length != before) {
        file.set_len(length).map_err(fail("set the length of"))?;
    }
    Ok((file, was_there.then_some(before)))
}

/// Makes names created, renamed or removed in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| StoreError::new(folder, "sync the folder", error))
}

#[cfg(test)]
mod tests {
    use floodway_proto::Layout;

    use super::*;

    fn map(lengths: &[u64]) -> (tempfile::TempDir, FileMap) {
        let folder = tempfile::tempdir().unwrap();
        let map = folder_map(folder.path(), lengths).0;
        (folder, map)
    }

    fn spans(lengths: &[u64]) -> Vec<FileSpan> {
        let name = |name: String| SafeName::new(&name).unwrap();
        let path = |file| vec![name(format!("f{file:03}")), name("x".into())];
        let files = lengths.iter().enumerate();
        let files = files.map(|(file, &length)| (path(file), length));
        let layout = Layout::folder(files, 16384).unwrap();
        layout.files().unwrap().to_vec()
    }

    fn folder_map(path: &Path, lengths: &[u64]) -> (FileMap, bool) {
        FileMap::create_folder(path, path, &spans(lengths)).unwrap()
    }

    #[test]
    fn a_folder_is_read_and_written_after_it_was_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("a"), folder.path().join("b"));
        let lengths = vec![3; 3 * KEPT_OPEN];
        let (map, was_there) = folder_map(&before, &lengths);
        assert!(!was_there);
        map.write(0, &[Bytes::from("abcd")]).unwrap();
        std::fs::rename(&before, &after).unwrap();
        let last = 3 * lengths.len() as u64 - 2;
        map.write(last, &[Bytes::from("yz")]).unwrap();
        map.sync().unwrap();
        map.sync_names().unwrap();
        assert_eq!(std::fs::read(after.join("f001/x")).unwrap(), b"d\0\0");
        let (_, was_there) = folder_map(&after, &lengths);
        assert!(was_there);
        let read = FileMap::open_folder(&after, &spans(&lengths)).ok().unwrap();
        let mut out = [0; 2];
        read.read(last, &mut out).unwrap();
        assert_eq!(&out, b"yz");
        assert!(read.write(0, &[Bytes::from("x")]).is_err(), "read only");
        std::fs::remove_file(after.join("f002/x")).unwrap();
        let missing = FileMap::open_folder(&after, &spans(&lengths)).err();
        let Some(Missing::Length { path, .. }) = missing else {
            panic!("a file is missing");
        };
        assert!(path.ends_with("f002/x"));
    }

    #[test]
    fn a_run_may_cross_files_and_empty_ones() {
        let (folder, map) = map(&[5, 0, 3, 10]);
        let buffers: Vec<Bytes> = ["abc", "defg", "hijkl"].map(Bytes::from).to_vec();
        map.write(2, &buffers).unwrap();
        let mut out = [0; 12];
        map.read(2, &mut out).unwrap();
        assert_eq!(&out, b"abcdefghijkl");
        assert_eq!(std::fs::read(folder.path().join("f002/x")).unwrap(), b"def");
        assert!(
            map.read(10, &mut [0; 9]).is_err(),
            "reads beyond the end fail"
        );
        assert!(map.write(17, &[Bytes::from("ab")]).is_err());
    }

    #[test]
    fn more_buffers_than_one_call_takes_are_all_written() {
        let (_folder, map) = map(&[5000]);
        let buffers: Vec<Bytes> = (0..2500_u32)
            .map(|n| Bytes::copy_from_slice(&n.to_le_bytes()[..2]))
            .collect();
        map.write(0, &buffers).unwrap();
        let mut out = [0; 2];
        map.read(4998, &mut out).unwrap();
        assert_eq!(u16::from_le_bytes(out), 2499);
    }
}
