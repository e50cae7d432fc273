//! The contract of every [`Store`]: what it loads is the fold of what was committed. Each backend runs all of it.

use std::collections::BTreeMap;

use floodway_api::rest::{Role, SourceBytes};
use floodway_api::sync::{AgentState, RelayFailureKind};
use floodway_proto::facts::{Accept, FactStore, PieceSpace};
use floodway_proto::manifest::{Sealer, Status};
use floodway_proto::record::{LeaseId, SecretKey, Signed, State};
use floodway_proto::{InfoHash, NodeId, Sha1, Sha256, Sid};
use proptest::prelude::*;

use super::*;
use crate::tasks::audit::Outcome;
use crate::tasks::pieces::DIGESTS_LENGTH;

/// Few names, so that changes meet each other's rows.
fn node() -> impl Strategy<Value = NodeId> {
    (0..4_u8).prop_map(|index| NodeId([index; 16]))
}

fn sid() -> impl Strategy<Value = Sid> {
    (0..3_u8).prop_map(|index| Sid([index; 32]))
}

fn name(kind: &'static str) -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(move |index| format!("{kind}{index}"))
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-z]{1,4}", "[ -~äß\"]{0,6}", 0..3)
}

fn accounts() -> impl Strategy<Value = Change> {
    let role = || prop_oneof![Just(Role::Relay), Just(Role::Agent)];
    let join =
        (name("j"), prop::option::of(role()), any::<bool>()).prop_map(|(id, role, revoked)| {
            // Role and labels of a token never change.
            let labels = BTreeMap::from([("id".to_owned(), id.clone())]);
            let role = if id == "j0" {
                None
            } else {
                Some(if id == "j1" {
                    Role::Relay
                } else {
                    role.unwrap_or(Role::Agent)
                })
            };
            let role = role.map(|role| if id == "j2" { Role::Agent } else { role });
            Change::JoinToken(JoinTokenRow {
                id,
                hash: Sha256([4; 32]),
                role,
                labels,
                revoked,
                created_us: 5,
            })
        });
    let join = join.prop_filter("a token's role is fixed", |change| match change {
        Change::JoinToken(row) => row.id != "j3" || row.role == Some(Role::Agent),
        _ => true,
    });
    let enrolled = (node(), "[a-zü ]{0,8}", labels(), any::<u8>(), any::<i64>());
    let enrolled = enrolled.prop_map(|(id, name, labels, hash, seen_us)| {
        let role = if id.0[0] < 2 {
            Role::Relay
        } else {
            Role::Agent
        };
        let token_hash = Sha256([hash; 32]);
        Change::Node(NodeRow {
            id,
            name,
            role,
            labels,
            short_lived: id.0[0] == 3,
            token_hash,
            created_us: 7,
            seen_us,
        })
    });
    prop_oneof![join, enrolled, node().prop_map(Change::ForgetNode)]
}

fn contents() -> impl Strategy<Value = Change> {
    let state = prop_oneof![
        Just(RelayState::Open),
        Just(RelayState::Final),
        Just(RelayState::Failed),
        Just(RelayState::Cancelled)
    ];
    let relay_task = (
        name("r"),
        state,
        prop::option::of("[a-z']{0,5}"),
        0..3_u32,
        prop::option::of(sid()),
        any::<bool>(),
    );
    let relay_task = relay_task.prop_map(|(id, state, reason, attempt, sid, pinned)| {
        let created_us = i64::from(id.as_bytes()[1]);
        let url = format!("http://o/{}", created_us % 2);
        Change::RelayTask(RelayTaskRow {
            id,
            url,
            files: vec!["a/b".into()].into(),
            state,
            reason,
            attempt,
            sid,
            pinned,
            created_us,
            ended_us: 3,
        })
    });
    let failure = (name("r"), node(), any::<u64>()).prop_map(|(relay_task, node, boot)| {
        let kind = RelayFailureKind::Local;
        Change::RelayFailure(RelayFailureRow {
            relay_task,
            node,
            boot,
            kind,
            message: "it's full".into(),
        })
    });
    prop_oneof![relay_task, failure]
}

fn tasks() -> impl Strategy<Value = Change> {
    let task = (name("t"), any::<bool>()).prop_map(|(id, cancelled)| {
        let relay_task = format!("r{}", &id[1..]);
        Change::Task(TaskRow {
            id,
            relay_task,
            target: "all".into(),
            cancelled,
            created_us: 4,
        })
    });
    let state = prop_oneof![
        Just(AgentState::Offered),
        Just(AgentState::Verified),
        Just(AgentState::Failed)
    ];
    let agent = (
        name("t"),
        node(),
        state,
        prop::option::of("[a-z]{0,3}"),
        any::<u64>(),
    );
    let agent = agent.prop_map(|(task, node, state, reason, bytes)| {
        let sources = SourceBytes {
            peer: bytes,
            relay: 1,
            origin: u64::MAX,
            resumed: 0,
        };
        Change::TaskAgent(TaskAgentRow {
            task,
            node,
            state,
            reason,
            bytes,
            sources,
        })
    });
    prop_oneof![task, agent]
}

fn content_row(index: u8, state: ContentState) -> ContentRow {
    ContentRow {
        sid: Sid([index; 32]),
        relay_task: format!("r{index}"),
        state,
        false_fact: state == ContentState::Superseded && index > 0,
        length: Some(10 * 256 * 1024 - 1),
        piece_length: 256 * 1024,
        name: "ü.img".into(),
        etag: (index > 0).then(|| "\"e\"".into()),
        last_modified: None,
        ranges: index > 0,
        genesis: KeptGenesis::new(vec![1, 2, 3]),
        announce_key: format!("key{index}"),
        info_hash: (state == ContentState::Final).then_some(InfoHash([8; 20])),
        root: (state == ContentState::Final).then_some(Sha256([8; 32])),
        created_us: 6,
    }
}

/// Records as control signs them: one a turn.
fn records(sid: Sid, count: usize) -> Vec<Signed> {
    let length = Some(10 * 256 * 1024);
    let facts = FactStore::new(
        PieceSpace::new(256 << 10, &[length]).unwrap(),
        Accept::Sealed,
    );
    let mut sealer = Sealer::new(sid, SecretKey::from_seed(&[1; 32]), 0, u32::MAX);
    let status = Status {
        length,
        sealed: 0,
        state: State::Open,
        lease_floor: LeaseId(0),
        revoked: Vec::new(),
        time_unix_ms: 0,
    };
    (0..count)
        .flat_map(|_| sealer.checkpoint(&facts, &[], &status).unwrap())
        .collect()
}

/// The life of one content: relayed in some order, then final or given up.
fn life(index: u8, order: &[u32], end: u8) -> Vec<Change> {
    let sid = Sid([index; 32]);
    let mut changes = vec![Change::Content(content_row(index, ContentState::Relaying))];
    let records = records(sid, order.len());
    for (count, &first) in order.iter().enumerate() {
        changes.push(Change::Record(records[count].clone()));
        let id = u64::from(index) * 1000 + count as u64;
        let relay = NodeId([count.to_le_bytes()[0] % 3; 16]);
        changes.push(Change::Lease(LeaseRow {
            id,
            sid,
            node: relay,
            boot: u64::MAX - 1,
            first,
            count: 2,
        }));
        let outcomes = [Outcome::Open, Outcome::Different, Outcome::Equal];
        let outcome = outcomes[count % outcomes.len()];
        changes.push(Change::Audit(AuditRow {
            sid,
            piece: first,
            node: NodeId([9; 16]),
            outcome,
            digests: (outcome == Outcome::Different).then_some((Sha256([7; 32]), Sha1([8; 20]))),
        }));
        changes.push(Change::Confirmed(ConfirmedRow {
            sid,
            first,
            count: 1 + u32::from(outcome == Outcome::Equal),
        }));
        let digests = vec![first.to_le_bytes()[0]; DIGESTS_LENGTH * 2];
        changes.push(Change::Fact(FactRow {
            sid,
            first,
            relay,
            digests,
        }));
    }
    match end {
        0 => {}
        1 => {
            changes.push(Change::Content(content_row(
                index,
                ContentState::Superseded,
            )));
            changes.push(Change::EndRelaying {
                sid,
                superseded: true,
            });
        }
        _ => {
            changes.push(Change::Distrust(DistrustRow {
                node: NodeId([index; 16]),
                reason: "it read other bytes".into(),
                since_us: 7,
            }));
            if index > 0 {
                changes.push(Change::Trust(NodeId([index; 16])));
            }
            changes.push(Change::Content(content_row(index, ContentState::Final)));
            let before = records[3].record().head;
            changes.push(Change::DropRecords { sid, before });
            changes.push(Change::Info {
                sid,
                info: vec![index; 1000],
            });
            changes.push(Change::EndRelaying {
                sid,
                superseded: false,
            });
        }
    }
    changes
}

/// Turns of changes, as a core makes them.
fn turns() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let order = || Just(vec![0_u32, 2, 4, 6, 8]).prop_shuffle();
    let lives = (order(), order(), 0..3_u8, 0..3_u8);
    let lives =
        lives.prop_map(|(a, b, end_a, end_b)| [life(0, &a, end_a), life(1, &b, end_b)].concat());
    let others = prop::collection::vec(prop_oneof![accounts(), contents(), tasks()], 0..40);
    (lives, others, 1..9_usize).prop_map(|(lives, others, size)| {
        let mut others = others.into_iter();
        let mixed: Vec<Change> = lives
            .into_iter()
            .flat_map(|life| [Some(life), others.next()])
            .flatten()
            .collect();
        let rest: Vec<Change> = others.collect();
        [mixed, rest]
            .concat()
            .chunks(size)
            .map(<[Change]>::to_vec)
            .collect()
    })
}

async fn loads_the_fold(store: &impl Store, turns: &[Vec<Change>]) {
    let mut model = Model::default();
    for turn in turns {
        store.commit(turn).await.unwrap();
        turn.iter().cloned().for_each(|change| model.apply(change));
    }
    let loaded = store.load().await.unwrap();
    assert_eq!(loaded, model);
    for (sid, row) in &model.contents {
        let info = store.info(*sid).await.unwrap();
        assert_eq!(info.is_some(), row.state == ContentState::Final);
        // Each life reports pieces 0 to 9, two at a time.
        if row.state == ContentState::Final {
            let digests = store.digests(*sid, 3..8).await.unwrap();
            let nodes: Vec<u8> = digests.iter().map(|(node, _)| node.0[0]).collect();
            assert_eq!(nodes, [2, 4, 4, 6, 6]);
        }
    }
    store.probe().await.unwrap();
}

/// A turn with a change that cannot be written leaves nothing behind.
async fn commits_all_or_nothing(store: &impl Store) {
    let before = store.load().await.unwrap();
    let sid = Sid([200; 32]);
    let fact = Change::Fact(FactRow {
        sid,
        first: 0,
        relay: NodeId([1; 16]),
        digests: Vec::new(),
    });
    let turn = [
        Change::Content(content_row(200, ContentState::Relaying)),
        fact.clone(),
        fact,
    ];
    assert!(matches!(
        store.commit(&turn).await,
        Err(StoreError::Database(_))
    ));
    assert_eq!(store.load().await.unwrap(), before);
}

async fn sqlite(folder: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&folder.path().join("control.db"))
        .await
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sqlite_loads_the_fold_of_what_was_committed(turns in turns()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let store = sqlite(&folder).await;
            loads_the_fold(&store, &turns).await;
            let before = store.load().await.unwrap();
            store.close().await;
            assert_eq!(sqlite(&folder).await.load().await.unwrap(), before, "after opening it again");
        });
    }
}

#[tokio::test]
async fn sqlite_commits_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    commits_all_or_nothing(&store).await;
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let node = NodeRow {
        id: NodeId([1; 16]),
        name: "n".into(),
        role: Role::Agent,
        labels: BTreeMap::new(),
        short_lived: false,
        token_hash: Sha256([1; 32]),
        created_us: 1,
        seen_us: 1,
    };
    store.commit(&[Change::Node(node)]).await.unwrap();
    sqlx::query("UPDATE node SET role = 'emperor'")
        .execute(store.pool())
        .await
        .unwrap();
    let error = store.load().await.unwrap_err().to_string();
    assert!(
        error.contains("`node`") && error.contains("`role`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    store.commit(&life(0, &[0, 2], 0)).await.unwrap();
    let before = store.load().await.unwrap();
    // The limit is per connection: set it on all of them.
    let (mut one, mut two) = (
        store.pool().acquire().await.unwrap(),
        store.pool().acquire().await.unwrap(),
    );
    for connection in [&mut one, &mut two] {
        sqlx::query("PRAGMA max_page_count = 1")
            .execute(&mut **connection)
            .await
            .unwrap();
    }
    drop((one, two));
    let large = Change::Info {
        sid: Sid([0; 32]),
        info: vec![7; 1 << 20],
    };
    let error = store.commit(&[large]).await.unwrap_err().to_string();
    assert!(
        error.contains("full") && error.contains("free space"),
        "{error}"
    );
    assert_eq!(store.load().await.unwrap(), before);
}

#[tokio::test]
async fn the_database_is_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("control.db");
    let modes = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
        let modes = entries.map(|entry| entry.metadata().unwrap().permissions().mode() & 0o777);
        modes.collect::<Vec<_>>()
    };
    let store = Sqlite::open(&file).await.unwrap();
    store.probe().await.unwrap();
    // The file, its log and the log's index.
    assert_eq!(modes(), [0o600; 3]);
    store.close().await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = Sqlite::open(&file).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(modes(), [0o600; 3], "as one of an earlier version");
}
