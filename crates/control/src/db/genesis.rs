//! The genesis of a content as it is kept.

use std::fmt;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use floodway_api::HexBytes;
use floodway_proto::Layout;
use floodway_proto::genesis::{Genesis, RECORD_LIMIT};

/// The bytes of a genesis. That of a folder of many files has megabytes, so clones share them, and how it divides into files and
/// pieces is found out once.
#[derive(Clone)]
pub(crate) struct KeptGenesis(Arc<Kept>);

struct Kept {
    bytes: Bytes,
    folder: OnceLock<Option<Layout>>,
}

impl KeptGenesis {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let folder = OnceLock::new();
        let bytes = bytes.into();
        Self(Arc::new(Kept { bytes, folder }))
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    /// What goes into messages about other things too; `None`: it is too long for that.
    pub(crate) fn for_messages(&self) -> Option<HexBytes> {
        let is_short = self.0.bytes.len() <= RECORD_LIMIT;
        is_short.then(|| HexBytes(self.0.bytes.to_vec()))
    }

    /// How a folder divides into files and pieces; `None` of a single file.
    pub(crate) fn folder(&self) -> Option<&Layout> {
        let read = || {
            let genesis = Genesis::decode(&self.0.bytes).ok();
            let genesis = genesis.filter(Genesis::is_folder)?;
            genesis.layout().ok()
        };
        self.0.folder.get_or_init(read).as_ref()
    }
}

impl PartialEq for KeptGenesis {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for KeptGenesis {}

impl fmt::Debug for KeptGenesis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptGenesis({} bytes)", self.0.bytes.len())
    }
}
