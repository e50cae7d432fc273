//! Contents, sessions, and waiting for what must happen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use floodway_node::{Content, ContentSpec, Finished, Progress, Session, SessionConfig, Target};
use floodway_proto::digest::{sha1, sha256};
use floodway_proto::{InfoHash, Layout, NodeId, Sha1, Sid};
use floodway_store::Hashes;
use floodway_swarm::{Limits, Order, Prefer};
use tempfile::TempDir;
use tokio::time::timeout;

/// No event in these tests takes longer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Bytes, their hashes, and a folder for files.
pub(crate) struct Kit {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) layout: Layout,
    pub(crate) pieces: Arc<[Sha1]>,
    pub(crate) folder: TempDir,
}

impl Kit {
    pub(crate) fn new(length: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut bytes = vec![0; length];
        rng.fill(&mut bytes);
        let layout = Layout::new(Some(length as u64), 256 * 1024).unwrap();
        let pieces = bytes.chunks(256 * 1024).map(sha1).collect();
        Self {
            bytes: Arc::new(bytes),
            layout,
            pieces,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the bytes, as they are or damaged.
    pub(crate) fn write(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let path = self.path(name);
        let mut bytes = (*self.bytes).clone();
        damage(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn name() -> InfoHash {
        InfoHash([0x5a; 20])
    }

    /// Fetches into a file called `name`.
    pub(crate) fn leech(&self, name: &str) -> ContentSpec {
        ContentSpec {
            names: vec![Self::name()],
            info: None,
            sid: Some(Sid([9; 32])),
            layout: self.layout.clone(),
            hashes: Hashes::V1(Arc::clone(&self.pieces)),
            identity: [1; 32],
            adopts: None,
            target: Target::File {
                path: self.path(name),
                overwrite: false,
                rename_when_done: true,
            },
            prefer: Prefer::Peers,
            order: Order::RarestFirst,
            foreground: true,
            limits: Limits::default(),
            linear_digest: true,
            peers: Vec::new(),
            trackers: Vec::new(),
            sources: Vec::new(),
            verifiable: true,
            growth: None,
        }
    }

    /// Serves the file at `path`.
    pub(crate) fn seed(&self, path: PathBuf) -> ContentSpec {
        ContentSpec {
            target: Target::Seed { path, known: None },
            ..self.leech("unused")
        }
    }

    /// Waits until the content is complete, and checks every byte.
    pub(crate) async fn completes(&self, content: &Content) -> Finished {
        let finished = timeout(PATIENCE, content.done()).await;
        let finished = finished
            .unwrap_or_else(|_| panic!("not complete in time: {:?}", *content.progress().borrow()));
        let finished = finished.expect("the content must become complete");
        self.check_file(&finished.path);
        assert_eq!(finished.bytes, self.bytes.len() as u64);
        assert!(
            finished
                .sha256
                .is_none_or(|digest| digest == sha256(&self.bytes))
        );
        let of = finished.counters;
        assert_eq!(
            of.peer + of.relay + of.origin + of.resumed,
            finished.bytes,
            "each kept byte counts once: {of:?}"
        );
        let shares = finished.sources.iter().map(|share| share.bytes);
        assert!(
            shares.sum::<u64>() >= of.peer + of.relay + of.origin,
            "each kept byte came from somebody: {finished:?}"
        );
        finished
    }

    pub(crate) fn check_file(&self, path: &Path) {
        assert!(
            std::fs::read(path).unwrap() == *self.bytes,
            "the file must have the right bytes"
        );
    }
}

/// A session on a free port of the loopback.
pub(crate) async fn session(node: u8) -> Session {
    session_with(node, |_| ()).await
}

pub(crate) async fn session_with(node: u8, change: impl FnOnce(&mut SessionConfig)) -> Session {
    let mut config = SessionConfig::new("127.0.0.1:0".parse().unwrap(), NodeId([node; 16]));
    config.origin.environment_proxy = false;
    change(&mut config);
    Session::start(config).await.unwrap()
}

/// Waits until progress is as it must be.
pub(crate) async fn until(content: &Content, what: &str, is: impl FnMut(&Progress) -> bool) {
    let mut progress = content.progress();
    let waited = timeout(PATIENCE, progress.wait_for(is)).await;
    let shown = format!("{:?}", *content.progress().borrow());
    waited
        .unwrap_or_else(|_| panic!("{what}: not in time: {shown}"))
        .expect("it must still run");
}
