//! Contents that are offered while they grow: signed records from the first piece to the last.

use std::collections::BTreeSet;
use std::time::Duration;

use floodway_api::manifest::{ManifestInfo, Phase};
use floodway_api::rest::Role;
use floodway_api::sync::{Ask, ContentReport, Grant, SyncReply, SyncRequest};
use floodway_proto::Sid;
use floodway_proto::facts::Accept;
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::Manifest;
use floodway_proto::record::{EndReason, FinalNames, Head, Signed, State};
use floodway_proto::units::Span;
use tokio::task::JoinHandle;

use crate::client::{
    Node, ORIGIN, Object, PIECE, Server, content, hasty, leased, lie, probe, request,
};

/// A node that verifies by signed records.
pub(crate) struct Follower {
    pub(crate) node: Node,
    pub(crate) manifest: Option<Manifest>,
    /// Records that came with the last answer.
    came: usize,
}

impl Follower {
    pub(crate) async fn enrol(server: &Server, role: Role) -> Self {
        let mut node = server.enrol(role).await;
        node.state.streaming = true;
        Self {
            node,
            manifest: None,
            came: 0,
        }
    }

    fn info(reply: &SyncReply, sid: Sid) -> Option<&ManifestInfo> {
        let contents = reply.contents.iter();
        let info = contents.clone().find(|content| content.sid == sid)?;
        info.manifest.as_ref()
    }

    /// Takes what control said of a content, as an honest node does, and reports it from now on.
    pub(crate) fn take(&mut self, reply: &SyncReply, sid: Sid) {
        self.came = 0;
        let Some(info) = Self::info(reply, sid) else {
            return;
        };
        if let Some(genesis) = &info.genesis {
            let genesis = Genesis::decode(&genesis.0).unwrap();
            assert_eq!(genesis.sid(), sid);
            let key = reply.control_key.as_ref().unwrap().0.clone();
            assert_eq!(genesis.keys, [<[u8; 32]>::try_from(key).unwrap()]);
            let fresh = || Manifest::new(genesis.clone(), Accept::Sealed).unwrap();
            self.manifest.get_or_insert_with(fresh);
        }
        let manifest = self.manifest.as_mut().expect("the genesis comes first");
        for record in &info.records {
            let signed = Signed::decode(record.0.clone().into()).unwrap();
            manifest.apply(&signed).unwrap();
        }
        self.came = info.records.len();
        let head = manifest.complete_to();
        let known = self.node.state.contents.iter_mut();
        match known.into_iter().find(|content| content.sid == sid) {
            Some(content) => content.manifest = Some(head),
            None => self.node.state.contents.push(ContentReport {
                sid,
                have: 0,
                complete: false,
                final_ok: false,
                v2_ok: false,
                peer_sent: 0,
                serving: true,
                manifest: Some(head),
                paused: None,
            }),
        }
    }

    async fn sync(&mut self, server: &Server, sid: Sid) -> SyncReply {
        let reply = self.node.sync(server).await;
        self.take(&reply, sid);
        reply
    }

    /// Reports these pieces; the answer has the record of them.
    pub(crate) async fn report(
        &mut self,
        server: &Server,
        task: &str,
        sid: Sid,
        object: &Object,
        pieces: &[u32],
    ) {
        let pieces = object.pieces(pieces);
        let reply = self.node.report(server, task, sid, pieces).await;
        self.take(&reply, sid);
    }

    fn knows(&self, object: &Object, piece: u32) -> bool {
        let facts = self.manifest.as_ref().unwrap().facts();
        facts.piece_hash(piece) == Some(object.pieces(&[piece])[0].node)
    }

    fn names(&self) -> FinalNames {
        self.manifest
            .as_ref()
            .unwrap()
            .final_names()
            .expect("final")
            .clone()
    }
}

/// A relay that has probed an object of so many pieces.
async fn begun(server: &Server, pieces: u64) -> (Follower, String, Sid, Object) {
    let mut relay = Follower::enrol(server, Role::Relay).await;
    relay.node.sync(server).await;
    let task = server.publish("disk.img", None).await.relay_task;
    let reply = relay
        .node
        .probed(server, &task, probe(pieces * PIECE))
        .await;
    let sid = content(&reply).sid;
    relay.take(&reply, sid);
    relay.sync(server, sid).await;
    assert_eq!(relay.came, 0, "nothing new");
    (relay, task, sid, Object::new(pieces * PIECE))
}

async fn open(server: &Server) -> (Follower, SyncReply) {
    let mut agent = Follower::enrol(server, Role::Agent).await;
    let url = format!("{ORIGIN}/disk.img");
    agent.node.state.asks = vec![Ask::Open { url }];
    let reply = agent.node.sync(server).await;
    (agent, reply)
}

#[tokio::test]
async fn a_relay_that_shows_itself_to_nobody_yet_is_no_source() {
    let server = Server::start();
    let (mut relay, _, sid, _) = begun(&server, 8).await;
    for serving in [false, true] {
        relay.node.state.contents[0].serving = serving;
        relay.sync(&server, sid).await;
        let (_, reply) = open(&server).await;
        assert_eq!(reply.contents[0].relays.len(), usize::from(serving));
    }
}

#[tokio::test]
async fn agents_are_offered_a_content_before_its_first_piece_and_learn_its_end() {
    let server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 8).await;

    // Before the first piece: the relay is a peer and a source, although it has nothing yet.
    let (mut before, reply) = open(&server).await;
    before.take(&reply, sid);
    assert!(matches!(&reply.grants[0], Grant::Content { sid: Some(of), .. } if *of == sid));
    let offer = &reply.contents[0];
    let http = relay.node.state.http.as_ref().unwrap();
    assert_eq!(offer.relays[0].url, format!("{http}/api/v1/s/{sid}/data"));
    assert!(offer.relays[0].streaming && !offer.relays[0].capability.is_empty());
    assert!(offer.peers[0].streaming && !offer.peers[0].final_ok);
    assert_eq!(offer.peers[0].node, Some(relay.node.id));
    assert!(!offer.is_final && before.came == 1);

    // The relay's report is answered with the record of it; a late agent gets it too, the early one from its neighbours.
    relay.report(&server, &task, sid, &object, &[0, 1, 2]).await;
    assert!(relay.came >= 1 && relay.knows(&object, 2));
    let (mut during, reply) = open(&server).await;
    during.take(&reply, sid);
    assert!(during.knows(&object, 1) && !during.knows(&object, 3));
    let told = before.sync(&server, sid).await;
    assert_eq!(before.came, 0, "agents learn from their neighbours");
    let info = Follower::info(&told, sid).unwrap();
    assert_eq!((info.phase, info.sealed), (Phase::Growing, 3));
    assert_eq!(
        info.head,
        relay.manifest.as_ref().unwrap().head(),
        "and see that they are behind"
    );

    relay
        .report(&server, &task, sid, &object, &[7, 6, 5, 4, 3])
        .await;
    let names = relay.names();
    assert!(names.v1.is_some() && names.v2.is_some() && names.hybrid.is_none());
    let told = before.sync(&server, sid).await;
    assert_eq!(before.came, 1, "the end concerns everybody");
    assert!(told.contents[0].is_final);
    assert_eq!(Follower::info(&told, sid).unwrap().phase, Phase::Final);
    let state = before.manifest.as_ref().unwrap().state();
    assert_eq!(*state, State::Final(Box::new(names.clone())));
    before.sync(&server, sid).await;
    assert_eq!(before.came, 0, "and is told once");
    let (mut after, reply) = open(&server).await;
    after.take(&reply, sid);
    assert_eq!(after.names(), names, "who comes late reads a snapshot");
    assert_eq!(after.came, 1);
}

#[tokio::test]
async fn another_relay_is_told_at_once_and_older_nodes_are_told_nothing() {
    let server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 8).await;
    let mut other = Follower::enrol(&server, Role::Relay).await;
    let reply = other.node.sync(&server).await;
    other.take(&reply, sid);
    other.sync(&server, sid).await;
    // Other news may release it before.
    let parked = async {
        loop {
            let reply = other.node.wait(&server, 14_000).await;
            if Follower::info(&reply, sid).is_some_and(|info| !info.records.is_empty()) {
                break (reply, std::time::Instant::now());
            }
        }
    };
    let reports = async {
        while !server
            .get("/metrics", "")
            .await
            .text()
            .contains("floodway_control_parked_syncs 1")
        {}
        let started = std::time::Instant::now();
        relay.report(&server, &task, sid, &object, &[0]).await;
        started
    };
    let ((reply, told), reported) = tokio::join!(parked, reports);
    let took = told.saturating_duration_since(reported);
    assert!(
        took.as_millis() < 900,
        "{took:?}: not at the end of its interval"
    );
    other.take(&reply, sid);
    assert!(other.knows(&object, 0));

    let mut old = server.enrol(Role::Agent).await;
    old.state.asks = vec![Ask::Join { sid }];
    let reply = old.sync(&server).await;
    assert_eq!(reply.contents[0].manifest, None);
    assert_eq!(reply.control_key, None);
    let text = serde_json::to_string(&reply).unwrap();
    assert!(
        !text.contains("records") && !text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_relay_that_lags_behind_several_snapshots_learns_every_piece() {
    const PIECES: u32 = 400;
    let server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, u64::from(PIECES)).await;
    let mut other = Follower::enrol(&server, Role::Relay).await;
    let reply = other.node.sync(&server).await;
    other.take(&reply, sid);
    for piece in 0..PIECES {
        relay.report(&server, &task, sid, &object, &[piece]).await;
    }
    other.sync(&server, sid).await;
    let unknown: Vec<u32> = (0..PIECES)
        .filter(|&piece| !other.knows(&object, piece))
        .collect();
    assert!(unknown.is_empty(), "{} unknown: {unknown:?}", unknown.len());
}

#[tokio::test]
async fn a_kill_midway_keeps_the_key_and_everything_that_was_signed() {
    let mut server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 40).await;
    let key = relay.node.sync(&server).await.control_key;
    for piece in 0..10 {
        relay.report(&server, &task, sid, &object, &[piece]).await;
    }
    // The pieces are acknowledged before they are signed: more than may be signed at once.
    let pieces: Vec<u32> = (10..25).collect();
    for piece in &pieces {
        relay
            .node
            .report(&server, &task, sid, object.pieces(&[*piece]))
            .await;
    }
    let before = relay.manifest.as_ref().unwrap().head();
    server.kill_and_restart().await;

    let reply = relay.sync(&server, sid).await;
    assert_eq!(reply.control_key, key);
    let manifest = relay.manifest.as_ref().unwrap();
    assert!(
        manifest.head().term > before.term,
        "{} after {before}",
        manifest.head()
    );
    assert_eq!(Follower::info(&reply, sid).unwrap().sealed, 25);
    let (mut joins, reply) = open(&server).await;
    joins.take(&reply, sid);
    let facts = |of: &Follower| of.manifest.as_ref().unwrap().facts().maximal();
    assert_eq!(facts(&joins), facts(&relay));
    let rest: Vec<u32> = (25..40).collect();
    relay.report(&server, &task, sid, &object, &rest).await;
    let reply = joins.sync(&server, sid).await;
    assert_eq!(Follower::info(&reply, sid).unwrap().phase, Phase::Final);

    // And the end survives another one.
    let names = relay.names();
    server.kill_and_restart().await;
    let mut late = Follower::enrol(&server, Role::Agent).await;
    late.node.state.asks = vec![Ask::Join { sid }];
    let reply = late.node.sync(&server).await;
    late.take(&reply, sid);
    assert_eq!(late.names(), names);
}

#[tokio::test]
async fn reports_in_any_order_by_any_relay_end_in_the_same_names() {
    let mut all = Vec::new();
    for reversed in [false, true] {
        let server = Server::start();
        let (mut one, task, sid, object) = begun(&server, 64).await;
        let mut two = Follower::enrol(&server, Role::Relay).await;
        let reply = two.node.sync(&server).await;
        two.take(&reply, sid);
        let mut turns = 0;
        let mut reported = BTreeSet::new();
        loop {
            let order = content(&one.sync(&server, sid).await);
            if order.is_final {
                break;
            }
            turns += 1;
            assert!(turns <= 64, "{order:?}");
            let other = content(&two.sync(&server, sid).await);
            for (relay, order) in [(&mut one, order), (&mut two, other)] {
                let mut left = leased(&order);
                left.retain(|piece| !reported.contains(piece));
                let next = if reversed { left.last() } else { left.first() };
                if let Some(piece) = next {
                    reported.insert(*piece);
                    relay.report(&server, &task, sid, &object, &[*piece]).await;
                }
            }
        }
        let (mut agent, reply) = open(&server).await;
        agent.take(&reply, sid);
        all.push(agent.names());
    }
    assert_eq!(all[0], all[1]);
}

/// Bytes of all answers to agents from their second sync on, while so many pieces are reported.
async fn egress(agents: usize, pieces: u32) -> Vec<usize> {
    let server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 100).await;
    let mut joined = Vec::new();
    for _ in 0..agents {
        let (mut agent, reply) = open(&server).await;
        agent.take(&reply, sid);
        agent.node.state.asks.clear();
        joined.push(agent);
    }
    // From now on all of them know each other.
    for agent in &mut joined {
        agent.sync(&server, sid).await;
    }
    let mut bytes = Vec::new();
    for piece in 0..pieces {
        relay.report(&server, &task, sid, &object, &[piece]).await;
        let mut sum = 0;
        for agent in &mut joined {
            let answer = server
                .post("/api/v1/sync", &agent.node.token, &agent.node.state)
                .await;
            let reply: SyncReply = serde_json::from_slice(&answer.body).unwrap();
            agent.take(&reply, sid);
            assert_eq!(
                (
                    agent.came,
                    Follower::info(&reply, sid).unwrap().genesis.is_some()
                ),
                (0, false)
            );
            sum += answer.body.len();
        }
        bytes.push(sum / agents);
    }
    bytes
}

#[tokio::test]
async fn what_control_sends_to_an_agent_does_not_grow_with_the_content() {
    for agents in [1, 8] {
        let bytes = egress(agents, 60).await;
        let (least, most) = (bytes.iter().min().unwrap(), bytes.iter().max().unwrap());
        // Only the digits of counters, and of the peers' addresses, differ.
        assert!(
            most - least < 64,
            "{agents} agents: {least} to {most} bytes"
        );
    }
}

#[tokio::test]
async fn news_of_pieces_do_not_release_the_parked_sync_of_an_agent() {
    let server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 8).await;
    let (mut agent, reply) = open(&server).await;
    agent.take(&reply, sid);
    agent.node.state.asks.clear();
    agent
        .node
        .until(&server, |reply| reply.contents[0].peers.len() == 1)
        .await;
    // It is itself news to the swarm; when a whole wait brings none, all have been told.
    let mut settled = agent.node.sync(&server).await;
    loop {
        let next = agent.node.wait(&server, 600).await;
        if next.version == settled.version {
            break;
        }
        settled = next;
    }
    relay.report(&server, &task, sid, &object, &[0, 1]).await;
    let after = agent.node.sync(&server).await;
    assert_eq!(settled.version, after.version);
    relay
        .report(&server, &task, sid, &object, &[2, 3, 4, 5, 6, 7])
        .await;
    assert_ne!(
        agent.node.sync(&server).await.version,
        settled.version,
        "but the end does"
    );
}

#[tokio::test]
async fn what_a_relay_may_not_report_is_refused_with_a_reason() {
    let server = Server::start();
    let (one, task, sid, object) = begun(&server, 8).await;
    let mut two = Follower::enrol(&server, Role::Relay).await;
    two.node.sync(&server).await;
    let refusals = |reply: &SyncReply| -> Vec<(String, u32, u32)> {
        let refused = reply.refused.iter();
        let all = refused.map(|run| (run.code.clone(), run.first, run.count));
        all.collect()
    };
    // All eight are leased to the other one.
    let mut pieces: Vec<_> = [3, 4, 5, 0].map(lie).to_vec();
    pieces.push(lie(8));
    let reply = two.node.report(&server, &task, sid, pieces).await;
    assert_eq!(
        refusals(&reply),
        [
            ("no_such_piece".into(), 8, 1),
            ("not_leased".into(), 0, 1),
            ("not_leased".into(), 3, 3)
        ]
    );
    assert!(reply.refused.iter().all(|run| !run.message.is_empty()));
    let reply = two
        .node
        .report(&server, &task, Sid([3; 32]), vec![lie(0)])
        .await;
    assert_eq!(refusals(&reply), [("no_content".into(), 0, 1)]);
    assert!(two.node.sync(&server).await.refused.is_empty(), "told once");

    let (mut agent, reply) = open(&server).await;
    agent.take(&reply, sid);
    assert_eq!(
        Follower::info(&reply, sid).unwrap().sealed,
        0,
        "nothing of it was signed"
    );
    let mut one = one;
    let all: Vec<u32> = (0..8).collect();
    one.report(&server, &task, sid, &object, &all).await;
    assert!(one.node.sync(&server).await.refused.is_empty());
    one.names();
}

#[tokio::test]
async fn a_changed_object_has_a_signed_successor_also_after_a_restart() {
    let mut server = Server::start();
    let (mut relay, task, sid, object) = begun(&server, 8).await;
    relay.report(&server, &task, sid, &object, &[0, 1]).await;
    let (mut agent, reply) = open(&server).await;
    agent.take(&reply, sid);
    relay.node.report(&server, &task, sid, vec![lie(0)]).await;
    let reply = agent.sync(&server, sid).await;
    let info = Follower::info(&reply, sid).unwrap();
    assert_eq!(
        (info.phase, info.successor),
        (Phase::Superseded, None),
        "not known yet by what"
    );
    server.kill_and_restart().await;

    let reply = relay.node.probed(&server, &task, probe(8 * PIECE)).await;
    let successor = content(&reply).sid;
    relay.take(&reply, sid);
    let superseded = State::Superseded {
        reason: EndReason::OriginChanged,
        successor,
    };
    assert_eq!(*relay.manifest.as_ref().unwrap().state(), superseded);
    let reply = agent.sync(&server, sid).await;
    assert_eq!(*agent.manifest.as_ref().unwrap().state(), superseded);
    assert_eq!(
        Follower::info(&reply, sid).unwrap().successor,
        Some(successor)
    );
    assert!(
        Follower::info(&reply, successor).unwrap().genesis.is_some(),
        "and the successor is offered"
    );
}

#[tokio::test]
async fn a_cancelled_or_failed_content_is_aborted() {
    let server = Server::with(hasty);
    let (mut relay, task, sid, _) = begun(&server, 8).await;
    relay.sync(&server, sid).await;
    let path = format!("/api/v1/tasks/{task}/cancel");
    let cancelled = server.post(&path, &server.admin(), &()).await;
    assert_eq!(cancelled.status, 200);
    relay.sync(&server, sid).await;
    let aborted = State::Aborted(EndReason::Operator);
    assert_eq!(*relay.manifest.as_ref().unwrap().state(), aborted);
    assert!(relay.manifest.as_ref().unwrap().head() > Head::default());
}

/// One round of parked syncs, of all agents at once; gives the answers in their order.
fn park_all(server: &Server, agents: &[Follower], millis: u64) -> Vec<JoinHandle<SyncReply>> {
    let park = |agent: &Follower| {
        let (addr, token) = (server.addr, agent.node.token.clone());
        let state = SyncRequest {
            wait_ms: millis,
            ..agent.node.state.clone()
        };
        tokio::spawn(async move {
            let body = serde_json::to_vec(&state).unwrap();
            request(addr, "POST", "/api/v1/sync", &token, &body)
                .await
                .ok()
        })
    };
    agents.iter().map(park).collect()
}

#[tokio::test]
async fn agents_that_joined_are_sent_one_answer_for_all_pieces_however_many_they_are() {
    let server = Server::with(|settings| {
        // Nothing but news answers a parked sync, on a slow machine too.
        let (advanced, long) = (&mut settings.advanced, Span(Duration::from_mins(10)));
        (advanced.busy_interval, advanced.node_timeout) = (long, long);
        (advanced.idle_interval_min, advanced.idle_interval_max) = (long, long);
    });
    let (mut relay, task, sid, object) = begun(&server, 200).await;
    let mut agents = Vec::new();
    for _ in 0..16 {
        let (mut agent, reply) = open(&server).await;
        agent.take(&reply, sid);
        agent.node.state.asks.clear();
        agents.push(agent);
    }
    // They are themselves news; when a whole round brings none, all have been told of all.
    let mut settled = false;
    while !settled {
        settled = true;
        let round = park_all(&server, &agents, 1000);
        for (agent, reply) in agents.iter_mut().zip(round) {
            let reply = reply.await.unwrap();
            settled &= reply.version == agent.node.state.known;
            agent.node.state.known = reply.version;
        }
    }
    let parked = park_all(&server, &agents, 600_000);
    let mut probe = server.enrol(Role::Agent).await;
    let parked_now = async || {
        let metrics = server.get("/metrics", "").await.text();
        metrics.contains(&format!("floodway_control_parked_syncs {}", agents.len()))
    };
    while !parked_now().await {
        probe.sync(&server).await;
    }
    for first in (0..200).step_by(10) {
        let pieces: Vec<u32> = (first..first + 10).collect();
        relay.report(&server, &task, sid, &object, &pieces).await;
    }
    // Had a piece released one of them, its one answer would say that the content grows.
    for reply in parked {
        let reply = reply.await.unwrap();
        assert_eq!(Follower::info(&reply, sid).unwrap().phase, Phase::Final);
    }
}
