use floodway_store::Nodes;
use tokio::sync::watch;

use super::*;
use crate::job::orders::Orders;
use crate::testing::{begun, genesis, job, unfinished};

/// A job that waits for a successor of what it left in its folder.
async fn waiting(folder: &Path) -> (Job, watch::Sender<Orders>) {
    let genesis = genesis("f", Some(1 << 20), 1 << 18, "\"v1\"");
    let path = folder.join("f");
    unfinished(path.clone(), &genesis);
    let (mut job, orders) = job(folder).await;
    job.left = Some(Left {
        path,
        genesis,
        proven: Nodes::new(),
    });
    (job, orders)
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn who_is_stopped_before_a_successor_begins_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    // As an agent stops: nobody gives orders any more, and the job is aborted wherever it is.
    let (mut job, orders) = waiting(folder.path()).await;
    drop(orders);
    let error = job.fetch().await.err().unwrap();
    assert!(matches!(error, GetError::Interrupted), "{error}");
    drop(job);
    assert_eq!(files(folder.path()), 2, "data and journal");

    let (mut job, orders) = waiting(folder.path()).await;
    tokio::select! {
        biased;
        _ = job.fetch() => panic!("there are no orders yet"),
        () = std::future::ready(()) => {}
    }
    drop((job, orders));
    assert_eq!(files(folder.path()), 2, "data and journal");
}

#[tokio::test]
async fn a_task_that_ends_before_a_successor_begins_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, orders) = waiting(folder.path()).await;
    orders.send_modify(|orders| orders.cancelled = true);
    let error = job.fetch().await.err().unwrap();
    assert!(matches!(error, GetError::Cancelled), "{error}");
    assert_eq!(files(folder.path()), 0);
}

#[tokio::test]
async fn what_somebody_took_over_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (mut job, _orders) = waiting(folder.path()).await;
    let genesis = job.left.as_ref().unwrap().genesis.clone();
    let store = begun(folder.path().join("f"), &genesis);
    job.leave(None).await;
    assert_eq!(files(folder.path()), 2, "data and journal");
    store.close().unwrap();
}
