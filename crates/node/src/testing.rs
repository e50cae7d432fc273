//! What several unit tests of this crate need.

use std::path::PathBuf;

use floodway_proto::ByteCount;
use floodway_proto::genesis::Genesis;
use floodway_store::{Hashes, Nodes, Spec, Store};

#[path = "../../proto/tests/common/genesis.rs"]
mod content;

pub(crate) use content::{control_key, genesis};

/// A content of this genesis that was begun, with nothing of it held yet: data and journal lie beside the target.
pub(crate) fn begun(target: PathBuf, genesis: &Genesis) -> Store {
    let spec = Spec {
        target,
        layout: genesis.layout().unwrap(),
        identity: genesis.sid().0,
        hashes: Hashes::Facts(Nodes::new()),
        linear_digest: false,
        adopts: None,
        overwrite: false,
        buffer_limit: ByteCount::mib(1),
    };
    Store::open(spec, |_| ()).unwrap().0
}

/// One that was begun in an earlier run.
pub(crate) fn unfinished(target: PathBuf, genesis: &Genesis) {
    begun(target, genesis).close().unwrap();
}
