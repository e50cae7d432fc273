//! Audits: relays read again what others reported; those that prove wrong are trusted no more.

use std::time::Duration;

use floodway_api::manifest::Phase;
use floodway_api::rest::{AuditCounts, NodeList, Role, Task, TaskState};
use floodway_api::sync::{PieceReport, RelayReport, SyncReply};
use floodway_control::Settings;
use floodway_proto::record::{Body, EndReason, Head, Signed, State};
use floodway_proto::units::Span;
use floodway_proto::{Sha1, Sid};

use crate::client::{Node, Object, PIECE, Server, content, hasty, leased, lie, probe};

/// Every piece is audited.
pub(crate) fn all(settings: &mut Settings) {
    settings.audit_share = 1.0;
}

/// Nobody is given up while a loaded machine is slow.
fn patient(settings: &mut Settings) {
    settings.advanced.confirm_wait = Span(Duration::from_mins(2));
}

pub(crate) async fn auditor(server: &Server) -> Node {
    let mut relay = server.enrol(Role::Relay).await;
    relay.state.audits = true;
    relay.sync(server).await;
    relay
}

/// What a relay is to read again now.
pub(crate) fn asked(reply: &SyncReply) -> Vec<u32> {
    let orders = reply.relay_tasks.iter();
    let contents = orders.filter_map(|order| order.content.as_ref());
    contents
        .flat_map(|content| content.audits.clone())
        .collect()
}

pub(crate) async fn audited(
    server: &Server,
    relay: &mut Node,
    task: &str,
    sid: Sid,
    audited: Vec<PieceReport>,
    unread: Vec<u32>,
) -> SyncReply {
    relay.state.relay_tasks = vec![RelayReport {
        end: None,
        relay_task: task.into(),
        sid: Some(sid),
        probe: None,
        pieces: Vec::new(),
        audited,
        held: Vec::new(),
        unread,
        failure: None,
    }];
    relay.sync(server).await
}

/// One relay was leased everything of an object of `pieces` pieces before others came, and has not reported it yet.
pub(crate) async fn begun(server: &Server, pieces: u64) -> (Node, String, Sid, Object) {
    let mut relay = auditor(server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let reply = relay.probed(server, &task, probe(pieces * PIECE)).await;
    let order = content(&reply);
    let known: Vec<u32> = (0..u32::try_from(pieces).unwrap()).collect();
    assert_eq!(leased(&order), known);
    (relay, task, order.sid, Object::new(pieces * PIECE))
}

/// Does honestly whatever is asked of these relays until the task ends.
pub(crate) async fn finish(
    server: &Server,
    relays: &mut [Node],
    task: &str,
    object: &Object,
) -> Task {
    for _ in 0..200 {
        for relay in relays.iter_mut() {
            let reply = relay.sync(server).await;
            let Some(order) = reply.relay_tasks.first() else {
                continue;
            };
            let Some(content) = order.content.clone() else {
                let length = u64::from(object.layout.piece_count()) * PIECE;
                relay.probed(server, task, probe(length)).await;
                continue;
            };
            let audits = object.pieces(&content.audits);
            if !audits.is_empty() {
                audited(server, relay, task, content.sid, audits, Vec::new()).await;
            }
            let pieces = object.pieces(&leased(&content));
            if !pieces.is_empty() {
                relay.report(server, task, content.sid, pieces).await;
            }
        }
        let shown = server.task(task).await;
        if matches!(shown.state, TaskState::Final | TaskState::Failed) {
            return shown;
        }
    }
    panic!("no end: {:#?}", server.task(task).await);
}

async fn counts(server: &Server, task: &str) -> AuditCounts {
    let growth = server.task(task).await.growth.unwrap();
    growth.audits.unwrap_or_default()
}

pub(crate) async fn distrusted(server: &Server) -> Vec<floodway_proto::NodeId> {
    let list: NodeList = server.get("/api/v1/nodes", &server.admin()).await.ok();
    let wrong = list.nodes.iter().filter(|node| node.distrusted.is_some());
    wrong.map(|node| node.node).collect()
}

#[tokio::test]
async fn a_small_share_is_read_again_by_another_relay_and_final_waits_for_it() {
    let server = Server::start();
    let (mut one, task, sid, object) = begun(&server, 65).await;
    let mut two = auditor(&server).await;
    let everything: Vec<u32> = (0..65).collect();
    let reply = one
        .report(&server, &task, sid, object.pieces(&everything))
        .await;
    assert!(asked(&reply).is_empty(), "nobody audits himself");
    let chosen = asked(&two.until(&server, |reply| !asked(reply).is_empty()).await);
    assert_eq!(chosen.len(), 2, "one of the first 64, one of the rest");
    let shown = server.task(&task).await;
    assert_eq!(
        shown.state,
        TaskState::Relaying,
        "not before the audits are over"
    );
    let growth = shown.growth.unwrap();
    assert_eq!((growth.sealed, growth.phase), (65, Phase::Growing));
    let reply = audited(
        &server,
        &mut two,
        &task,
        sid,
        object.pieces(&chosen[..1]),
        vec![],
    )
    .await;
    assert_eq!(asked(&reply), chosen[1..]);
    // What could not be read says nothing.
    audited(&server, &mut two, &task, sid, vec![], chosen[1..].to_vec()).await;
    let shown = server.task(&task).await;
    assert_eq!(shown.state, TaskState::Final);
    let growth = shown.growth.unwrap();
    let expected = AuditCounts {
        equal: 1,
        unread: 1,
        ..AuditCounts::default()
    };
    assert_eq!(growth.audits, Some(expected));
    let reporters: Vec<_> = growth
        .relays
        .iter()
        .map(|relay| (relay.node, relay.pieces))
        .collect();
    assert_eq!(reporters, [(one.id, 65)], "also after the end");
    assert!(distrusted(&server).await.is_empty());
    let metrics = server.get("/metrics", "").await.text();
    assert!(
        metrics.contains("floodway_control_audits{outcome=\"equal\"} 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn nobody_is_asked_when_there_is_no_second_relay_or_no_share() {
    let server = Server::with(all);
    let (mut one, task, sid, object) = begun(&server, 8).await;
    // A relay of an older version does not say that it audits.
    let mut old = server.enrol(Role::Relay).await;
    old.sync(&server).await;
    let everything: Vec<u32> = (0..8).collect();
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    assert_eq!(server.task(&task).await.state, TaskState::Final);

    let server = Server::with(|settings| settings.audit_share = 0.0);
    let (mut one, task, sid, object) = begun(&server, 65).await;
    let _two = auditor(&server).await;
    let everything: Vec<u32> = (0..65).collect();
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    assert_eq!(server.task(&task).await.state, TaskState::Final);
}

#[tokio::test]
async fn with_a_share_of_one_every_piece_is_read_again() {
    let server = Server::with(all);
    let (mut one, task, sid, object) = begun(&server, 40).await;
    let two = auditor(&server).await;
    let everything: Vec<u32> = (0..40).collect();
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    let done = finish(&server, &mut [two], &task, &object).await;
    assert_eq!((done.state, done.sid), (TaskState::Final, Some(sid)));
    assert_eq!(done.growth.unwrap().audits.unwrap().equal, 40);
}

/// The liar is named by two others, also when control was killed in between; what it said is given up, and the others begin
/// anew without it.
#[tokio::test]
async fn a_lying_relay_is_caught_and_what_it_said_is_revoked() {
    let mut server = Server::with(all);
    let (mut liar, task, sid, object) = begun(&server, 8).await;
    let mut others = [auditor(&server).await, auditor(&server).await];
    let mut pieces = object.pieces(&[0, 1, 2, 3]);
    pieces[2] = lie(2);
    liar.report(&server, &task, sid, pieces).await;
    // Everybody reads what they are asked for, until one finds the lie and a third is asked.
    let mut accused = false;
    for _ in 0..20 {
        for relay in &mut others {
            let chosen = asked(&relay.sync(&server).await);
            let found = object.pieces(&chosen);
            if accused && chosen.contains(&2) {
                break;
            }
            accused |= chosen.contains(&2);
            audited(&server, relay, &task, sid, found, vec![]).await;
        }
        if accused {
            break;
        }
    }
    assert!(accused, "{:#?}", server.task(&task).await);
    assert_eq!(counts(&server, &task).await.different, 1);
    assert!(
        distrusted(&server).await.is_empty(),
        "one word against another"
    );

    server.kill_and_restart().await;
    let mut reply = SyncReply::default();
    for relay in &mut others {
        reply = relay.sync(&server).await;
        if asked(&reply).contains(&2) {
            audited(&server, relay, &task, sid, object.pieces(&[2]), vec![]).await;
            break;
        }
    }
    assert!(asked(&reply).contains(&2), "asked again after the restart");
    assert_eq!(distrusted(&server).await, [liar.id]);
    assert_eq!(
        server.task(&task).await.sid,
        None,
        "a successor is looked for"
    );

    // Nothing that the liar says counts any more; it is given no work. Control still knows why once it was killed again.
    server.kill_and_restart().await;
    for relay in &mut others {
        relay.sync(&server).await;
    }
    let reply = liar.probed(&server, &task, probe(7 * PIECE)).await;
    assert!(reply.relay_tasks.is_empty(), "{reply:#?}");
    let reply = liar.report(&server, &task, sid, vec![lie(3)]).await;
    assert_eq!(reply.refused[0].code, "distrusted");

    // A follower hears that a fact was false, and what comes instead.
    let mut follower = server.enrol(Role::Agent).await;
    follower.state.streaming = true;
    follower.holds(sid, false);
    follower.state.contents[0].manifest = Some(Head::default());
    let done = finish(&server, &mut others, &task, &object).await;
    assert_eq!(done.state, TaskState::Final, "{done:#?}");
    let successor = done.sid.unwrap();
    let reply = follower.sync(&server).await;
    let info = reply.contents.iter().find(|info| info.sid == sid).unwrap();
    let manifest = info.manifest.as_ref().unwrap();
    assert_eq!(
        (manifest.phase, manifest.successor),
        (Phase::Superseded, Some(successor))
    );
    let last = Signed::decode(manifest.records.last().unwrap().0.clone().into()).unwrap();
    let reason = EndReason::FalseFact;
    let superseded = State::Superseded { reason, successor };
    assert!(
        matches!(&last.record().body, Body::Checkpoint(end) if end.state == superseded),
        "{last:?}"
    );

    server.kill_and_restart().await;
    assert_eq!(distrusted(&server).await, [liar.id], "for good");
    assert_eq!(server.task(&task).await.state, TaskState::Final);
}

#[tokio::test]
async fn whoever_accuses_falsely_is_found_out_by_a_third() {
    let server = Server::with(all);
    let (mut one, task, sid, object) = begun(&server, 8).await;
    let mut accuser = auditor(&server).await;
    one.report(&server, &task, sid, object.pieces(&[0])).await;
    assert_eq!(asked(&accuser.sync(&server).await), [0]);
    let mut third = auditor(&server).await;
    // Only the SHA-1 is wrong: it would spoil the torrent of stock clients.
    let wrong = PieceReport {
        sha1: Sha1([9; 20]),
        ..object.pieces(&[0])[0]
    };
    audited(&server, &mut accuser, &task, sid, vec![wrong], vec![]).await;
    assert_eq!(asked(&third.sync(&server).await), [0]);
    audited(&server, &mut third, &task, sid, object.pieces(&[0]), vec![]).await;
    assert_eq!(distrusted(&server).await, [accuser.id]);
    let mut honest = [one, third];
    let done = finish(&server, &mut honest, &task, &object).await;
    assert_eq!(
        (done.state, done.sid),
        (TaskState::Final, Some(sid)),
        "{done:#?}"
    );
}

#[tokio::test]
async fn two_relays_that_differ_give_the_content_up_and_are_named() {
    let server = Server::with(all);
    let (mut one, task, sid, object) = begun(&server, 8).await;
    let mut two = auditor(&server).await;
    one.report(&server, &task, sid, vec![lie(0)]).await;
    audited(&server, &mut two, &task, sid, object.pieces(&[0]), vec![]).await;
    assert!(distrusted(&server).await.is_empty(), "nobody knows who");
    let order = content(&one.probed(&server, &task, probe(8 * PIECE)).await);
    assert_ne!(order.sid, sid);
    one.report(&server, &task, order.sid, vec![lie(0)]).await;
    let order = content(&two.until(&server, |reply| !asked(reply).is_empty()).await);
    audited(
        &server,
        &mut two,
        &task,
        order.sid,
        object.pieces(&[0]),
        vec![],
    )
    .await;
    let shown = server.task(&task).await;
    assert_eq!(shown.state, TaskState::Failed);
    let reason = shown.reason.unwrap();
    assert!(reason.contains("piece 0"), "{reason}");
    for relay in [one.id, two.id] {
        assert!(reason.contains(&relay.to_string()), "{reason}");
    }
}

#[tokio::test]
async fn an_auditor_that_vanishes_holds_nothing_up() {
    let server = Server::with(|settings| {
        hasty(settings);
        all(settings);
    });
    let (mut one, task, sid, object) = begun(&server, 2).await;
    let mut two = auditor(&server).await;
    one.report(&server, &task, sid, object.pieces(&[0, 1]))
        .await;
    assert_eq!(asked(&two.sync(&server).await).len(), 2);
    drop(two);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while server.task(&task).await.state != TaskState::Final {
        assert!(tokio::time::Instant::now() < deadline);
        one.wait(&server, 100).await;
    }
    assert_eq!(counts(&server, &task).await.unread, 2);
}

/// A relay that takes part in the content as real ones do, and got these pieces from others.
async fn holds(
    server: &Server,
    relay: &mut Node,
    task: &str,
    sid: Sid,
    held: Vec<PieceReport>,
) -> SyncReply {
    relay.holds(sid, false);
    relay.state.contents[0].manifest = Some(Head::default());
    relay.state.relay_tasks = vec![RelayReport {
        end: None,
        relay_task: task.into(),
        sid: Some(sid),
        probe: None,
        pieces: Vec::new(),
        audited: Vec::new(),
        held,
        unread: Vec::new(),
        failure: None,
    }];
    relay.sync(server).await
}

#[tokio::test]
async fn final_waits_for_a_second_relays_sha1s_but_not_for_ever() {
    let server = Server::with(patient);
    let (mut one, task, sid, object) = begun(&server, 8).await;
    let mut two = auditor(&server).await;
    holds(&server, &mut two, &task, sid, Vec::new()).await;
    let everything: Vec<u32> = (0..8).collect();
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    assert_eq!(server.task(&task).await.state, TaskState::Relaying);
    holds(
        &server,
        &mut two,
        &task,
        sid,
        object.pieces(&everything[..7]),
    )
    .await;
    assert_eq!(server.task(&task).await.state, TaskState::Relaying);
    holds(&server, &mut two, &task, sid, object.pieces(&[7])).await;
    assert_eq!(server.task(&task).await.state, TaskState::Final);

    // One that says no more is not waited for, also when control was killed meanwhile.
    let mut server = Server::start();
    let (mut one, task, sid, object) = begun(&server, 8).await;
    let mut two = auditor(&server).await;
    holds(&server, &mut two, &task, sid, Vec::new()).await;
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    server.kill_and_restart().await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    while server.task(&task).await.state != TaskState::Final {
        assert!(tokio::time::Instant::now() < deadline);
        two.wait(&server, 500).await;
    }
}

/// Relays do not say again what control acknowledged: what was confirmed before a kill need not be waited for after it.
#[tokio::test]
async fn confirmations_survive_a_kill() {
    let mut server = Server::with(patient);
    let (mut one, task, sid, object) = begun(&server, 8).await;
    let mut two = auditor(&server).await;
    let everything: Vec<u32> = (0..8).collect();
    holds(&server, &mut two, &task, sid, Vec::new()).await;
    one.report(&server, &task, sid, object.pieces(&everything))
        .await;
    for pieces in [&everything[2..5], &everything[..7]] {
        holds(&server, &mut two, &task, sid, object.pieces(pieces)).await;
    }
    server.kill_and_restart().await;
    one.sync(&server).await;
    two.sync(&server).await;
    assert_eq!(server.task(&task).await.state, TaskState::Relaying);
    holds(&server, &mut two, &task, sid, object.pieces(&[7])).await;
    assert_eq!(server.task(&task).await.state, TaskState::Final);
}

#[tokio::test]
async fn a_false_sha1_is_found_by_who_holds_the_piece() {
    let server = Server::with(patient);
    let (mut liar, task, sid, object) = begun(&server, 8).await;
    let mut two = auditor(&server).await;
    let mut three = auditor(&server).await;
    let everything: Vec<u32> = (0..8).collect();
    let mut pieces = object.pieces(&everything);
    pieces[5].sha1 = Sha1([9; 20]);
    holds(&server, &mut two, &task, sid, Vec::new()).await;
    liar.report(&server, &task, sid, pieces).await;
    holds(&server, &mut two, &task, sid, object.pieces(&everything)).await;
    assert_eq!(asked(&three.sync(&server).await), [5]);
    audited(&server, &mut three, &task, sid, object.pieces(&[5]), vec![]).await;
    assert_eq!(distrusted(&server).await, [liar.id]);
    assert_eq!(
        server.task(&task).await.sid,
        None,
        "the content is given up"
    );
}
