//! Several relays, and relays in trouble.

use floodway_api::rest::{Role, TaskState};
use floodway_api::sync::{Ask, Grant, RelayFailure, RelayFailureKind, RelayReport};
use floodway_proto::Sid;

use crate::client::{Node, ORIGIN, Object, PIECE, Server, content, hasty, leased, lie, probe};

async fn fail(
    server: &Server,
    relay: &mut Node,
    relay_task: &str,
    sid: Option<Sid>,
    kind: RelayFailureKind,
) {
    relay.state.relay_tasks = vec![RelayReport {
        end: None,
        relay_task: relay_task.into(),
        sid,
        probe: None,
        pieces: Vec::new(),
        audited: Vec::new(),
        held: Vec::new(),
        unread: Vec::new(),
        failure: Some(RelayFailure {
            kind,
            message: "the disk is full".into(),
        }),
    }];
    relay.sync(server).await;
}

#[tokio::test]
async fn two_relays_fetch_disjoint_halves() {
    let server = Server::start();
    let mut relays = [
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    ];
    for relay in &mut relays {
        relay.sync(&server).await;
    }
    let task = server.publish("disk.img", None).await;
    let object = Object::new(64 * PIECE);
    let sid = content(
        &relays[0]
            .probed(&server, &task.relay_task, probe(64 * PIECE))
            .await,
    )
    .sid;
    let mut fetched: Vec<Vec<u32>> = vec![Vec::new(), Vec::new()];
    while server.task(&task.relay_task).await.state != TaskState::Final {
        for (relay, fetched) in relays.iter_mut().zip(&mut fetched) {
            let order = content(&relay.sync(&server).await);
            let left = leased(&order)
                .into_iter()
                .filter(|piece| !fetched.contains(piece));
            let next: Vec<u32> = left.take(4).collect();
            fetched.extend(&next);
            relay
                .report(&server, &task.relay_task, sid, object.pieces(&next))
                .await;
        }
    }
    let total: usize = fetched.iter().map(Vec::len).sum();
    assert_eq!(total, 64, "every piece was fetched once");
    assert!(
        fetched.iter().all(|pieces| pieces.len() >= 24),
        "{fetched:?}"
    );
}

#[tokio::test]
async fn the_leases_of_a_vanished_relay_move_and_its_late_pieces_count() {
    let server = Server::with(hasty);
    let mut one = server.enrol(Role::Relay).await;
    let task = server.publish("disk.img", None).await;
    one.sync(&server).await;
    let order = content(
        &one.probed(&server, &task.relay_task, probe(8 * PIECE))
            .await,
    );
    let (sid, object) = (order.sid, Object::new(8 * PIECE));
    assert_eq!(
        leased(&order).len(),
        8,
        "an only relay gets all of a small object"
    );

    // It vanishes; another comes. The first is dropped from the relays, and its pieces go to the second.
    let mut two = server.enrol(Role::Relay).await;
    let moved = two
        .until(&server, |reply| leased(&content(reply)).len() == 8)
        .await;
    assert_eq!(content(&moved).sid, sid);
    one.report(&server, &task.relay_task, sid, object.pieces(&[0, 1, 2]))
        .await;
    let left = two
        .until(&server, |reply| !leased(&content(reply)).contains(&0))
        .await;
    let left: Vec<u32> = leased(&content(&left))
        .into_iter()
        .filter(|piece| *piece > 2)
        .collect();
    two.report(&server, &task.relay_task, sid, object.pieces(&left))
        .await;
    // All that is still missing was the first one's again, or is the second one's.
    let missing: Vec<u32> = (3..8).filter(|piece| !left.contains(piece)).collect();
    two.report(&server, &task.relay_task, sid, object.pieces(&missing))
        .await;
    assert_eq!(server.task(&task.relay_task).await.state, TaskState::Final);
}

#[tokio::test]
async fn a_paused_relay_is_shown_and_its_leases_go_to_another() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    let task = server.publish("disk.img", None).await;
    let probed = one
        .probed(&server, &task.relay_task, probe(8 * PIECE))
        .await;
    let sid = content(&probed).sid;
    one.holds(sid, false);
    one.state.contents[0].paused = Some("no\nroom".into());
    let reply = one.sync(&server).await;
    assert!(leased(&content(&reply)).is_empty());
    let shown = server.task(&task.relay_task).await.growth.unwrap().relays;
    assert_eq!(shown.len(), 1);
    assert_eq!(
        (shown[0].node, shown[0].leased, shown[0].have),
        (one.id, 0, 1)
    );
    assert_eq!(shown[0].paused.as_deref(), Some("no room"), "on one line");
    let order = content(
        &two.until(&server, |reply| !leased(&content(reply)).is_empty())
            .await,
    );
    let shown = server.task(&task.relay_task).await.growth.unwrap().relays;
    let share = shown.iter().find(|share| share.node == two.id).unwrap();
    assert_eq!(share.leased as usize, leased(&order).len());
    // It goes on when it can.
    one.state.contents[0].paused = None;
    two.state.leaving = true;
    two.sync(&server).await;
    one.until(&server, |reply| leased(&content(reply)).len() == 8)
        .await;
    let shown = server.task(&task.relay_task).await.growth.unwrap().relays;
    assert_eq!((shown[0].leased, shown[0].paused.clone()), (8, None));
}

#[tokio::test]
async fn a_restarted_relay_is_a_new_holder() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    let task = server.publish("disk.img", None).await;
    let order = content(
        &one.probed(&server, &task.relay_task, probe(8 * PIECE))
            .await,
    );
    assert_eq!(leased(&order).len(), 8);
    one.state.boot = 2;
    let again = content(&one.sync(&server).await);
    let numbers = |order: &floodway_api::sync::RelayContent| -> Vec<u64> {
        order.leases.iter().map(|lease| lease.lease).collect()
    };
    assert!(
        numbers(&again)
            .iter()
            .all(|lease| !numbers(&order).contains(lease)),
        "never used twice"
    );
    one.state.leaving = true;
    one.sync(&server).await;
    let moved = two
        .until(&server, |reply| leased(&content(reply)).len() == 8)
        .await;
    assert_eq!(content(&moved).sid, order.sid);
}

#[tokio::test]
async fn pieces_that_were_never_leased_to_a_relay_are_ignored() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    let task = server.publish("disk.img", None).await;
    let order = content(
        &one.probed(&server, &task.relay_task, probe(8 * PIECE))
            .await,
    );
    let all: Vec<u32> = (0..8).collect();
    let mut lies: Vec<_> = all.iter().map(|piece| lie(*piece)).collect();
    lies.push(lie(4_000_000_000));
    two.report(&server, &task.relay_task, order.sid, lies).await;
    one.report(&server, &task.relay_task, Sid([3; 32]), vec![lie(0)])
        .await;
    one.report(&server, "r0", order.sid, vec![lie(0)]).await;
    one.report(
        &server,
        &task.relay_task,
        order.sid,
        Object::new(8 * PIECE).pieces(&all),
    )
    .await;
    let task = server.task(&task.relay_task).await;
    assert_eq!((task.state, task.sid), (TaskState::Final, Some(order.sid)));
}

#[tokio::test]
async fn relays_that_disagree_begin_anew_once_and_then_fail() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    one.sync(&server).await;
    two.sync(&server).await;
    let task = server.publish("disk.img", None).await;
    let mut sids = Vec::new();
    for attempt in 0..2 {
        let order = content(
            &one.probed(&server, &task.relay_task, probe(64 * PIECE))
                .await,
        );
        let sid = order.sid;
        assert!(!sids.contains(&sid));
        sids.push(sid);
        let mine = leased(&order);
        let object = Object::new(64 * PIECE);
        one.report(&server, &task.relay_task, sid, object.pieces(&mine[..1]))
            .await;
        // The second relay gets the same piece only after the first lost it; so it reports twice, differently.
        let theirs = leased(&content(&two.sync(&server).await))[0];
        two.report(&server, &task.relay_task, sid, object.pieces(&[theirs]))
            .await;
        two.report(&server, &task.relay_task, sid, vec![lie(theirs)])
            .await;
        let seen = server.task(&task.relay_task).await;
        assert_eq!(seen.sid, None, "attempt {attempt}: the content is given up");
        // What is still said of it does no harm.
        one.report(&server, &task.relay_task, sid, object.pieces(&mine[1..2]))
            .await;
        fail(
            &server,
            &mut one,
            &task.relay_task,
            Some(sid),
            RelayFailureKind::Changed,
        )
        .await;
        let state = server.task(&task.relay_task).await.state;
        assert_eq!(
            state,
            if attempt == 0 {
                TaskState::Probing
            } else {
                TaskState::Failed
            }
        );
    }
    let reason = server.task(&task.relay_task).await.reason.unwrap();
    assert!(
        reason.contains("keeps changing") && reason.contains(&two.id.to_string()),
        "{reason}"
    );
    assert_eq!(one.sync(&server).await.relay_tasks, []);
}

#[tokio::test]
async fn a_missing_object_fails_the_task_and_agents_may_ask_for_tickets() {
    let server = Server::start();
    let (mut relay, mut agent) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Agent).await,
    );
    relay.sync(&server).await;
    let task = server.publish("disk.img", Some("all")).await;
    fail(
        &server,
        &mut relay,
        &task.relay_task,
        None,
        RelayFailureKind::NotFound,
    )
    .await;
    let seen = server.task(&task.relay_task).await;
    assert_eq!(
        (seen.state, seen.reason.as_deref()),
        (TaskState::Failed, Some("the disk is full"))
    );
    let url = format!("{ORIGIN}/disk.img");
    agent.state.asks = vec![
        Ask::Ticket {
            sid: None,
            url: url.clone(),
        },
        Ask::Open { url },
    ];
    let reply = agent.sync(&server).await;
    assert_eq!((reply.tasks.len(), reply.tasks[0].sid), (1, None));
    assert!(
        matches!(&reply.grants[0], Grant::Ticket { .. }),
        "{reply:?}"
    );
    assert!(
        matches!(
            &reply.grants[1],
            Grant::Content {
                failed: Some(_),
                ..
            }
        ),
        "{reply:?}"
    );
}

#[tokio::test]
async fn a_task_fails_only_when_every_relay_gave_up_and_a_restart_counts_anew() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    let task = server.publish("disk.img", None).await;
    two.sync(&server).await;
    let sid = content(
        &one.probed(&server, &task.relay_task, probe(8 * PIECE))
            .await,
    )
    .sid;
    fail(
        &server,
        &mut one,
        &task.relay_task,
        Some(sid),
        RelayFailureKind::Local,
    )
    .await;
    assert_eq!(
        one.sync(&server).await.relay_tasks,
        [],
        "it is told to drop it"
    );
    assert_eq!(
        leased(&content(&two.sync(&server).await)).len(),
        8,
        "the other goes on"
    );
    one.state.boot = 9;
    assert_eq!(one.sync(&server).await.relay_tasks.len(), 1);
    fail(
        &server,
        &mut one,
        &task.relay_task,
        Some(sid),
        RelayFailureKind::Local,
    )
    .await;
    fail(
        &server,
        &mut two,
        &task.relay_task,
        Some(sid),
        RelayFailureKind::Refused,
    )
    .await;
    let failed = server.task(&task.relay_task).await;
    assert_eq!(failed.state, TaskState::Failed);
    assert!(failed.reason.unwrap().contains("the disk is full"));
}

#[tokio::test]
async fn without_ranges_one_relay_reads_all() {
    let server = Server::start();
    let (mut one, mut two) = (
        server.enrol(Role::Relay).await,
        server.enrol(Role::Relay).await,
    );
    two.sync(&server).await;
    let task = server.publish("disk.img", None).await;
    let plain = floodway_api::sync::ProbeReport {
        ranges: false,
        etag: None,
        ..probe(1000 * PIECE)
    };
    let order = content(&one.probed(&server, &task.relay_task, plain).await);
    assert_eq!(
        (leased(&order).len(), order.leases.len(), order.ranges),
        (1000, 1, false)
    );
    assert!(leased(&content(&two.sync(&server).await)).is_empty());
}
