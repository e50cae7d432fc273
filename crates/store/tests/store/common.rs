//! A store in a folder of its own, its events in a channel.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::digest::sha1;
use floodway_proto::merkle::piece_node;
use floodway_proto::units::ByteCount;
use floodway_proto::{BlockId, Layout, PieceIndex, Sha256};
use floodway_store::{Event, Hashes, Nodes, OpenError, Opened, Spec, Store, Verdict};

pub(crate) const PIECE: u32 = 64 << 10;

/// Bytes that differ from block to block and from seed to seed.
pub(crate) fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

pub(crate) fn layout(data: &[u8]) -> Layout {
    Layout::new(Some(data.len() as u64), PIECE).unwrap()
}

pub(crate) fn v1(data: &[u8]) -> Hashes {
    Hashes::V1(data.chunks(PIECE as usize).map(sha1).collect())
}

/// The nodes of some pieces, as facts say them.
pub(crate) fn nodes(data: &[u8], pieces: impl IntoIterator<Item = u32>) -> Nodes {
    let whole = Layout::new(None, PIECE).unwrap();
    let node = |piece: u32| {
        let piece = PieceIndex(piece);
        let bytes = layout(data).piece_bytes(piece);
        let bytes = usize::try_from(bytes.start).unwrap()..usize::try_from(bytes.end).unwrap();
        (piece, piece_node(&data[bytes], &whole, piece).unwrap())
    };
    pieces.into_iter().map(node).collect()
}

pub(crate) fn spec(target: &Path, data: &[u8], hashes: Hashes) -> Spec {
    Spec {
        target: target.to_owned(),
        layout: layout(data),
        identity: [1; 32],
        hashes,
        linear_digest: false,
        adopts: None,
        overwrite: false,
        buffer_limit: ByteCount::mib(1),
    }
}

pub(crate) struct Rig {
    pub(crate) store: Store,
    pub(crate) opened: Opened,
    pub(crate) events: Receiver<Event>,
}

impl Rig {
    pub(crate) fn try_open(spec: Spec) -> Result<Self, OpenError> {
        let (sender, events) = mpsc::channel();
        let (store, opened) = Store::open(spec, move |event| {
            let _ = sender.send(event);
        })?;
        Ok(Self {
            store,
            opened,
            events,
        })
    }

    pub(crate) fn open(spec: Spec) -> Self {
        Self::try_open(spec).expect("the store opens")
    }

    pub(crate) fn put(&self, data: &[u8], piece: u32, index: u32) {
        let block = BlockId {
            piece: PieceIndex(piece),
            index,
        };
        let range = layout(data).block_bytes(block);
        let (start, end) = (
            usize::try_from(range.start).unwrap(),
            usize::try_from(range.end).unwrap(),
        );
        self.store
            .put(block, Bytes::copy_from_slice(&data[start..end]));
    }

    pub(crate) fn put_piece(&self, data: &[u8], piece: u32) {
        for index in 0..layout(data).block_count(PieceIndex(piece)) {
            self.put(data, piece, index);
        }
    }

    pub(crate) fn put_all(&self, data: &[u8]) {
        for piece in layout(data).pieces() {
            self.put_piece(data, piece.0);
        }
    }

    pub(crate) fn have(&self) -> Vec<u32> {
        self.store.have().iter_ones().collect()
    }

    pub(crate) fn read(&self, start: usize, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        let start = start as u64;
        self.store
            .read(start..start + length as u64, &mut out)
            .expect("held");
        out
    }

    /// The next event that `pick` takes; the others are passed over.
    pub(crate) fn wait<T>(&self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(Duration::from_mins(1));
            let event = event.expect("the event comes");
            if let Some(found) = pick(event) {
                return found;
            }
        }
    }

    pub(crate) fn verdict(&self) -> (u32, Verdict) {
        self.wait(|event| match event {
            Event::Piece { piece, verdict } => Some((piece.0, verdict)),
            _ => None,
        })
    }

    /// Tells nodes, and waits until they hold. The pieces that turned out bad.
    pub(crate) fn learn(&self, nodes: Nodes) -> Vec<u32> {
        let told: Vec<PieceIndex> = nodes.keys().copied().collect();
        self.store.learn(nodes);
        let mut bad = Vec::new();
        self.wait(|event| match event {
            Event::Piece {
                piece,
                verdict: Verdict::Bad { .. },
            } => {
                bad.push(piece.0);
                None
            }
            Event::Learnt { pieces } => {
                assert_eq!(pieces, told);
                Some(())
            }
            _ => None,
        });
        bad
    }

    pub(crate) fn finished(&self) -> (PathBuf, Option<Sha256>) {
        self.wait(|event| match event {
            Event::Finished { path, sha256, .. } => Some((path, sha256)),
            Event::Failed { error, .. } => panic!("{error}"),
            _ => None,
        })
    }
}

/// The folder as `kill -9` would leave it at this moment, under another name.
pub(crate) fn snapshot(target: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let name = target.file_name().unwrap().to_str().unwrap();
    for suffix in [".floodway-journal", ".floodway"] {
        let file = format!("{name}{suffix}");
        std::fs::copy(target.with_file_name(&file), folder.path().join(&file)).unwrap();
    }
    let target = folder.path().join(name);
    (folder, target)
}

/// Says that a test cannot run here.
#[expect(
    clippy::print_stderr,
    reason = "a test that is not run must not look like one that passed"
)]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}
