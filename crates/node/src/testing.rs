//! What several unit tests of this crate need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodway_proto::genesis::Genesis;
use floodway_proto::{ByteCount, NodeId};
use floodway_store::{Hashes, Nodes, Spec, Store};
use tokio::sync::{mpsc, watch};

use crate::job::orders::Orders;
use crate::job::{Apart, Board, Job, Rules};
use crate::reasons::Reasons;
use crate::{Session, SessionConfig};

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

/// A job of nobody's, for what is to lie in this folder; and what gives it orders.
pub(crate) async fn job(folder: &Path) -> (Job, watch::Sender<Orders>) {
    let config = SessionConfig::new("127.0.0.1:0".parse().unwrap(), NodeId([1; 16]));
    let (send_orders, orders) = watch::channel(Orders::default());
    let job = Job {
        session: Session::start(config).await.unwrap(),
        link: None,
        url: None,
        rules: Rules::of_agent(folder.to_owned()),
        orders,
        board: Board::new(mpsc::unbounded_channel().0),
        reasons: Reasons::new(|_| ()),
        listener: Arc::new(|_| ()),
        sink: None,
        one_get: false,
        left: None,
        apart: Apart::default(),
    };
    (job, send_orders)
}
