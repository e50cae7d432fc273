use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;

use floodway_api::AllowList;
use floodway_api::rest::{CreateTask, Enrol, Role};
use floodway_api::sync::{PieceReport, ProbeReport, RelayReport};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::record::SecretKey;
use floodway_proto::{Sha1, Sha256, Sid};

use super::*;
use crate::core::{Config, Joining, Sponsor};
use crate::db::{Model, Sqlite};
use crate::settings::Settings;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A database whose next commits or loads fail.
#[derive(Clone)]
struct Flaky {
    inner: Sqlite,
    commits_fail: Arc<AtomicUsize>,
    loads_fail: Arc<AtomicUsize>,
}

fn strikes(left: &AtomicUsize) -> Result<(), StoreError> {
    let struck = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    if struck.is_ok() {
        Err(StoreError::Database(sqlx::Error::PoolClosed))
    } else {
        Ok(())
    }
}

impl Store for Flaky {
    async fn load(&self) -> Result<Model, StoreError> {
        strikes(&self.loads_fail)?;
        self.inner.load().await
    }
    async fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        strikes(&self.commits_fail)?;
        self.inner.commit(changes).await
    }
    async fn info(&self, sid: Sid) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.info(sid).await
    }
    async fn digests(
        &self,
        sid: Sid,
        pieces: std::ops::Range<u32>,
    ) -> Result<Vec<(Sha256, Sha1)>, StoreError> {
        self.inner.digests(sid, pieces).await
    }
    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }
}

struct Rig {
    handle: Handle,
    store: Flaky,
    directory: Arc<Directory>,
    _folder: tempfile::TempDir,
}

async fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let inner = Sqlite::open(&folder.path().join("control.db"))
        .await
        .unwrap();
    let store = Flaky {
        inner,
        commits_fail: Arc::default(),
        loads_fail: Arc::default(),
    };
    let config = Config {
        allow: AllowList::parse(&["http://origin.example/"]).unwrap(),
        base_url: "http://control.example".into(),
        settings: Settings::default(),
        capability_key: CapabilityKey::new([1; 32]),
        signing_key: SecretKey::from_seed(&[8; 32]),
    };
    let core = Core::new(Arc::new(config), Model::default(), start_of_time(), 7);
    let directory = Arc::new(Directory::new("the admin token", &Model::default()));
    let (actor, handle) = Actor::new(core, store.clone(), Arc::clone(&directory), Arc::default());
    tokio::spawn(actor.run());
    Rig {
        handle,
        store,
        directory,
        _folder: folder,
    }
}

impl Rig {
    async fn enrol(&self, role: Role) -> Result<NodeId, ApiError> {
        let enrol = Enrol {
            role,
            name: "n".into(),
            short_lived: false,
        };
        self.handle
            .call(move |core| core.enrol(Sponsor::Joining(Joining::default()), &enrol))
            .await
            .map(|enrolled| enrolled.node)
    }

    async fn publish(&self) -> Result<String, ApiError> {
        let create = CreateTask {
            url: "http://origin.example/x".into(),
            files: None,
            to: None,
        };
        self.handle
            .call(move |core| core.create_task(&create))
            .await
            .map(|task| task.relay_task)
    }
}

fn report(relay_task: &str) -> RelayReport {
    RelayReport {
        end: None,
        relay_task: relay_task.into(),
        sid: None,
        probe: None,
        pieces: Vec::new(),
        audited: Vec::new(),
        held: Vec::new(),
        unread: Vec::new(),
        failure: None,
    }
}

#[tokio::test]
async fn what_could_not_be_written_did_not_happen() {
    let rig = rig().await;
    rig.store.commits_fail.store(1, Ordering::SeqCst);
    let refused = rig.publish().await.unwrap_err();
    assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(!rig.handle.is_healthy());
    let tasks = rig
        .handle
        .call(|core| Ok(core.task_list(10)))
        .await
        .unwrap();
    assert_eq!(tasks, [], "the core forgot it too");
    rig.publish().await.unwrap();
    assert!(rig.handle.is_healthy());
    rig.store.commits_fail.store(1, Ordering::SeqCst);
    assert!(rig.enrol(Role::Relay).await.is_err());
    let node = rig.enrol(Role::Relay).await.unwrap();
    let model = rig.store.inner.load().await.unwrap();
    assert_eq!(model.nodes.keys().collect::<Vec<_>>(), [&node]);
    assert!(
        rig.directory
            .authenticate("fwn.00000000000000000000000000000000.x")
            .is_err()
    );
}

#[tokio::test]
async fn a_sync_is_never_acknowledged_when_its_report_was_lost() {
    let rig = rig().await;
    let relay = rig.enrol(Role::Relay).await.unwrap();
    let relay_task = rig.publish().await.unwrap();
    let probe = ProbeReport {
        length: Some(100),
        etag: Some("\"x\"".into()),
        last_modified: None,
        ranges: true,
        name: "x".into(),
        files: Vec::new(),
    };
    let probed = RelayReport {
        end: None,
        probe: Some(probe),
        ..report(&relay_task)
    };
    let sync = SyncRequest {
        boot: 1,
        relay_tasks: vec![probed],
        ..SyncRequest::default()
    };
    let reply = rig.handle.sync(relay, HERE, sync).await.unwrap();
    let sid = reply.relay_tasks[0].content.as_ref().unwrap().sid;
    let piece = PieceReport {
        piece: 0,
        node: Sha256([1; 32]),
        sha1: Sha1([1; 20]),
    };
    let pieces = RelayReport {
        end: None,
        sid: Some(sid),
        pieces: vec![piece],
        ..report(&relay_task)
    };
    // Parked or not, and with a database that cannot even be read for a while.
    for (wait_ms, loads_fail) in [(0, 0), (60_000, 0), (60_000, 2)] {
        rig.store.commits_fail.store(1, Ordering::SeqCst);
        rig.store.loads_fail.store(loads_fail, Ordering::SeqCst);
        let sync = SyncRequest {
            boot: 1,
            wait_ms,
            known: reply.version,
            relay_tasks: vec![pieces.clone()],
            ..SyncRequest::default()
        };
        let refused = rig.handle.sync(relay, HERE, sync).await.unwrap_err();
        assert_eq!(refused.status(), http::StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            rig.store.inner.load().await.unwrap().contents[&sid].state,
            crate::db::ContentState::Relaying
        );
        while rig.handle.call(|_| Ok(())).await.is_err() {}
    }
    let sync = SyncRequest {
        boot: 1,
        relay_tasks: vec![pieces],
        ..SyncRequest::default()
    };
    let reply = rig.handle.sync(relay, HERE, sync).await.unwrap();
    assert!(
        reply.relay_tasks[0].content.as_ref().unwrap().is_final,
        "told again, it counts"
    );
}
