//! What a node keeps on its disk under DATA: who it is, its standing orders, its contents.
//!
//! Every file is replaced whole: written beside, synced, renamed. So a crash leaves the old or the new one. Only the
//! records of a content are appended to; what a crash tears off comes again.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use floodway_api::HexBytes;
use floodway_proto::genesis::Genesis;
use floodway_proto::record::Signed;
use floodway_proto::{NodeId, Sha256, Sid};
use floodway_store::FileStamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Who this node is for control.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Its bearer token.
    pub token: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node)
    }
}

/// A [`FileStamp`] on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    length: u64,
    modified_s: u64,
    modified_ns: u32,
    inode: u64,
}

impl Stamp {
    /// `None` for a time before 1970.
    fn of(stamp: FileStamp) -> Option<Self> {
        let modified = stamp.modified.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            length: stamp.length,
            modified_s: modified.as_secs(),
            modified_ns: modified.subsec_nanos(),
            inode: stamp.inode,
        })
    }

    /// `None` when what stands on the disk is no time.
    fn stamp(self) -> Option<FileStamp> {
        let since = Duration::from_secs(self.modified_s)
            .checked_add(Duration::from_nanos(self.modified_ns.into()))?;
        let modified = UNIX_EPOCH.checked_add(since)?;
        Some(FileStamp {
            length: self.length,
            modified,
            inode: self.inode,
        })
    }
}

/// Why a node's data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error("could not {action} `{path}`: {source}", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("another process uses the data folder `{path}`; stop it or give --data another folder", path = .0.display())]
    Locked(PathBuf),
    /// A file is not what this program wrote.
    #[error("`{path}` is damaged ({problem}); restore it, or remove it to begin anew", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StateError {
    /// True when somebody can make room or give permission.
    pub(crate) fn may_pass(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
        )
    }
}

/// The data folder of one node; holds its lock.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

const IDENTITY: &str = "node.json";

impl DataDir {
    /// Makes the folder if need be and takes its lock.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn open(root: &Path) -> Result<Self, StateError> {
        make_folder(root)?;
        let path = root.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::Locked(root.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }
        // A relative folder would move with the working directory.
        let root = fs::canonicalize(root).map_err(failed("find", root))?;
        Ok(Self { root, _lock: lock })
    }

    /// The folder itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The identity of an earlier run.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn identity(&self) -> Result<Option<Identity>, StateError> {
        self.load(IDENTITY)
    }

    /// Keeps the identity, readable by this user only.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save_identity(&self, identity: &Identity) -> Result<(), StateError> {
        self.save(IDENTITY, identity)
    }

    /// Reads `name`, `None` when there is no such file.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.root.join(name);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StateError::Damaged {
                path,
                problem: error.to_string(),
            })
    }

    /// Replaces `name`; durable when this returns.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.root.join(name);
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| StateError::Damaged {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        replace(&path, &bytes)
    }

    /// The folder of one content, made if need be.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn content_folder(&self, sid: Sid) -> Result<PathBuf, StateError> {
        let folder = self.content_path(sid);
        make_folder(&folder)?;
        Ok(folder)
    }

    /// The torrent of a content, if it was kept.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn torrent(&self, sid: Sid) -> Result<Option<Vec<u8>>, StateError> {
        read(&self.content_path(sid).join("content.torrent"))
    }

    /// Keeps the torrent of a content.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save_torrent(&self, sid: Sid, bytes: &[u8]) -> Result<(), StateError> {
        replace(&self.content_folder(sid)?.join("content.torrent"), bytes)
    }

    /// The key by which control signs: the first that was ever `offered`, which is kept.
    pub(crate) fn control_key(&self, offered: [u8; 32]) -> [u8; 32] {
        let kept = self.load::<HexBytes>(CONTROL_KEY).ok().flatten();
        let kept = kept.and_then(|kept| <[u8; 32]>::try_from(kept.0).ok());
        if let Some(kept) = kept {
            return kept;
        }
        if let Err(error) = self.save(CONTROL_KEY, &HexBytes(offered.to_vec())) {
            tracing::warn!(%error, "control's key could not be kept");
        }
        offered
    }

    /// Whether the genesis of a content was kept.
    pub(crate) fn has_genesis(&self, sid: Sid) -> bool {
        self.content_path(sid).join(GENESIS).exists()
    }

    /// The genesis of a content, if it was kept.
    pub(crate) fn genesis(&self, sid: Sid) -> Option<Genesis> {
        let bytes = read(&self.content_path(sid).join(GENESIS)).ok().flatten()?;
        let genesis = Genesis::decode(&bytes).ok()?;
        (genesis.sid() == sid).then_some(genesis)
    }

    /// Keeps the genesis of a content.
    pub(crate) fn save_genesis(&self, genesis: &Genesis) -> Result<(), StateError> {
        let folder = self.content_folder(genesis.sid())?;
        replace(&folder.join(GENESIS), &genesis.encode())
    }

    /// The records about a content that were kept, up to the first that a crash has torn.
    pub(crate) fn records(&self, sid: Sid) -> Vec<Signed> {
        let bytes = read(&self.content_path(sid).join(RECORDS)).ok().flatten();
        let mut bytes = Bytes::from(bytes.unwrap_or_default());
        std::iter::from_fn(|| Signed::take(&mut bytes).ok()).collect()
    }

    /// Keeps exactly these records about a content, so that [`add_record`](Self::add_record) adds to whole ones.
    pub(crate) fn save_records(&self, sid: Sid, records: &[Signed]) -> Result<(), StateError> {
        let bytes = records.iter().flat_map(|record| record.bytes().iter());
        let bytes: Vec<u8> = bytes.copied().collect();
        replace(&self.content_folder(sid)?.join(RECORDS), &bytes)
    }

    /// Keeps one record more. One that a crash loses comes again, from control or from neighbours.
    pub(crate) fn add_record(&self, sid: Sid, record: &Signed) -> Result<(), StateError> {
        let path = self.content_path(sid).join(RECORDS);
        let append = || -> io::Result<()> {
            let mut file = File::options()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(record.bytes())
        };
        append().map_err(failed("write", &path))
    }

    /// What each piece of a final content hashes to, if it was kept. It proves itself: see [`expand`](crate::manifest::expand).
    pub(crate) fn hashes(&self, sid: Sid) -> Vec<Sha256> {
        let bytes = read(&self.content_path(sid).join(HASHES)).ok().flatten();
        let bytes = bytes.unwrap_or_default();
        bytes.as_chunks().0.iter().copied().map(Sha256).collect()
    }

    /// Keeps what each piece of a final content hashes to. Records leave that out.
    pub(crate) fn save_hashes(&self, sid: Sid, hashes: &[Sha256]) -> Result<(), StateError> {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        replace(&self.content_folder(sid)?.join(HASHES), &bytes)
    }

    /// How the finished file of a content looked when it was known to be good.
    pub(crate) fn stamp(&self, sid: Sid) -> Option<FileStamp> {
        self.load::<Stamp>(&stamp_name(sid)).ok().flatten()?.stamp()
    }

    /// Keeps how a finished file looks. Without it a restart hashes the file.
    pub(crate) fn save_stamp(&self, sid: Sid, stamp: FileStamp) {
        if let Some(stamp) = Stamp::of(stamp)
            && let Err(error) = self.save(&stamp_name(sid), &stamp)
        {
            tracing::warn!(%error, "a finished file's state could not be kept");
        }
    }

    /// Forgets all contents but those that are wanted: what a crash kept from being removed.
    pub(crate) fn retain_contents(&self, is_wanted: impl Fn(Sid) -> bool) {
        let Ok(entries) = fs::read_dir(self.root.join("contents")) else {
            return;
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        for sid in names
            .filter_map(|name| name.parse().ok())
            .filter(|&sid| !is_wanted(sid))
        {
            if let Err(error) = self.remove_content(sid) {
                tracing::warn!(%error, "an unwanted content could not be removed");
            }
        }
    }

    /// Forgets a content: its folder with everything in it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn remove_content(&self, sid: Sid) -> Result<(), StateError> {
        let folder = self.content_path(sid);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &folder)(error))
            }
            _ => Ok(()),
        }
    }

    /// Forgets all of a content but its genesis, which no bytes change.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn reset_content(&self, sid: Sid) -> Result<(), StateError> {
        let folder = self.content_path(sid);
        if !self.has_genesis(sid) {
            return self.remove_content(sid);
        }
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
            let entry = entry.map_err(failed("list", &folder))?;
            if entry.file_name() == GENESIS {
                continue;
            }
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_folder {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(failed("remove", &path))?;
        }
        Ok(())
    }

    fn content_path(&self, sid: Sid) -> PathBuf {
        self.root.join("contents").join(sid.to_string())
    }
}

const CONTROL_KEY: &str = "control-key.json";
const GENESIS: &str = "genesis";
const RECORDS: &str = "records";
const HASHES: &str = "hashes";

fn stamp_name(sid: Sid) -> String {
    format!("contents/{sid}/stamp.json")
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path: path.clone(),
        source,
    }
}

fn make_folder(path: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create", path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        // What a crash left may be readable by others.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&beside, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::genesis;

    #[test]
    fn identity_survives_and_is_for_this_user_only() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let identity = Identity {
            node: NodeId([7; 16]),
            token: "secret".into(),
        };
        let data = DataDir::open(&root).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        data.save_identity(&identity).unwrap();
        drop(data);
        // What a crash in the middle of a write leaves does no harm.
        fs::write(root.join("node.json.new"), b"{\"no").unwrap();
        let data = DataDir::open(&root).unwrap();
        assert_eq!(data.identity().unwrap(), Some(identity.clone()));
        data.save_identity(&identity).unwrap();
        let mode = fs::metadata(root.join("node.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{identity:?}").contains("secret"));
    }

    #[test]
    fn one_process_per_folder_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        assert!(matches!(
            DataDir::open(folder.path()),
            Err(StateError::Locked(_))
        ));
        fs::write(folder.path().join("node.json"), b"{").unwrap();
        let error = data.identity().unwrap_err().to_string();
        assert!(error.contains("node.json` is damaged"), "{error}");
    }

    #[test]
    fn a_stamp_comes_back_as_it_was() {
        let modified = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let stamp = FileStamp {
            length: 5,
            modified,
            inode: 7,
        };
        let text = serde_json::to_string(&Stamp::of(stamp).unwrap()).unwrap();
        assert_eq!(
            serde_json::from_str::<Stamp>(&text).unwrap().stamp(),
            Some(stamp)
        );
    }

    #[test]
    fn a_content_that_begins_anew_keeps_its_genesis_only() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let genesis = genesis("f", Some(1 << 20), 1 << 18, "");
        let sid = genesis.sid();
        data.reset_content(sid).unwrap();
        data.save_genesis(&genesis).unwrap();
        data.save_torrent(sid, b"d4:info").unwrap();
        data.save_hashes(sid, &[Sha256([0; 32])]).unwrap();
        let begun = data.content_folder(sid).unwrap().join("f.floodway");
        fs::create_dir(&begun).unwrap();
        data.reset_content(sid).unwrap();
        assert_eq!(data.genesis(sid), Some(genesis));
        assert!(data.torrent(sid).unwrap().is_none() && data.hashes(sid).is_empty());
        assert!(!begun.exists());
    }

    #[test]
    fn a_content_goes_with_all_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        let sid = Sid([3; 32]);
        assert_eq!(data.torrent(sid).unwrap(), None);
        data.save_torrent(sid, b"d4:info").unwrap();
        assert_eq!(data.torrent(sid).unwrap().as_deref(), Some(&b"d4:info"[..]));
        data.retain_contents(|one| one == sid);
        assert!(data.torrent(sid).unwrap().is_some());
        data.retain_contents(|_| false);
        data.remove_content(sid).unwrap();
        assert_eq!(data.torrent(sid).unwrap(), None);
    }
}
