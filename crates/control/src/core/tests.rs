//! What control concludes from what relays say, by a clock that the tests turn.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use floodway_api::AllowList;
use floodway_api::rest::{CreateTask, Enrol, Role};
use floodway_api::sync::{
    Ask, ContentReport, Grant, PieceReport, ProbeReport, RelayContent, RelayReport, SyncReply,
    SyncRequest,
};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::record::{Head, SecretKey};
use floodway_proto::{NodeId, Sha1, Sha256, Sid, Time};
use tokio::sync::oneshot;

use super::{Config, Core, Joining, Now, Sponsor};
use crate::db::{Model, RelayState};
use crate::settings::Settings;
use crate::tasks::audit::{Audits, Outcome};

mod cost;

const URL: &str = "http://origin.example/x";
const PIECE: u64 = 64 * 1024;

/// Core, a task, and the content that its first relay began.
struct Rig {
    core: Core,
    task: String,
    sid: Sid,
    /// The first reported everything.
    relays: Vec<Relay>,
}

struct Relay {
    id: NodeId,
    /// Sent with every sync.
    state: SyncRequest,
}

fn said(task: &str, sid: Option<Sid>) -> RelayReport {
    RelayReport {
        end: None,
        relay_task: task.into(),
        sid,
        probe: None,
        pieces: Vec::new(),
        audited: Vec::new(),
        held: Vec::new(),
        unread: Vec::new(),
        failure: None,
    }
}

/// The truth about a piece.
fn piece(piece: u32) -> PieceReport {
    PieceReport {
        piece,
        node: Sha256([1; 32]),
        sha1: Sha1([1; 20]),
    }
}

fn pieces(all: impl IntoIterator<Item = u32>) -> Vec<PieceReport> {
    all.into_iter().map(piece).collect()
}

/// The truth but for the SHA-1.
fn false_sha1(of: u32) -> PieceReport {
    let sha1 = Sha1([9; 20]);
    PieceReport { sha1, ..piece(of) }
}

impl Rig {
    /// An object of `count` pieces is leased to the first of the relays; the others come after.
    fn new(count: u32, relays: usize, change: impl FnOnce(&mut Settings)) -> Self {
        Self::of(count, relays, true, change)
    }

    fn of(count: u32, relays: usize, ranges: bool, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let config = Config {
            allow: AllowList::parse(&["http://origin.example/"]).unwrap(),
            base_url: "http://control.example".into(),
            settings,
            capability_key: CapabilityKey::new([1; 32]),
            signing_key: SecretKey::from_seed(&[8; 32]),
        };
        let now = Now {
            time: Time::from_millis(1000),
            us: 1_700_000_000_000_000,
        };
        let mut core = Core::new(Arc::new(config), Model::default(), now, 7);
        let create = CreateTask {
            url: URL.into(),
            files: None,
            to: None,
        };
        let task = core.create_task(&create).unwrap().relay_task;
        let sid = Sid([0; 32]);
        let none = Vec::new();
        let mut rig = Self {
            core,
            task,
            sid,
            relays: none,
        };
        rig.add();
        let probe = ProbeReport {
            length: Some(u64::from(count) * PIECE),
            etag: ranges.then(|| "\"x\"".into()),
            last_modified: None,
            ranges,
            name: "x".into(),
            files: Vec::new(),
        };
        let probed = RelayReport {
            end: None,
            probe: Some(probe),
            ..said(&rig.task, None)
        };
        let content = rig.say(0, vec![probed]).relay_tasks[0].content.clone();
        let content: RelayContent = content.unwrap();
        // A large object has fewer and longer pieces than asked for, and a lease is not of all of them.
        assert!(content.leases[0].count == count || count > 1024);
        rig.sid = content.sid;
        for _ in 1..relays {
            rig.add();
        }
        rig
    }

    /// One more relay, that audits.
    fn add(&mut self) -> usize {
        let enrol = Enrol {
            role: Role::Relay,
            name: "r".into(),
            short_lived: false,
        };
        let joining = Sponsor::Joining(Joining::default());
        let id = self.core.enrol(joining, &enrol).unwrap().node;
        let state = SyncRequest {
            boot: 1,
            streaming: true,
            audits: true,
            ..SyncRequest::default()
        };
        self.relays.push(Relay { id, state });
        let new = self.relays.len() - 1;
        self.sync(new);
        new
    }

    fn say(&mut self, relay: usize, reports: Vec<RelayReport>) -> SyncReply {
        let relay = &self.relays[relay];
        let request = SyncRequest {
            relay_tasks: reports,
            ..relay.state.clone()
        };
        self.request(relay.id, request)
    }

    fn request(&mut self, node: NodeId, request: SyncRequest) -> SyncReply {
        let (slot, mut answer) = oneshot::channel();
        self.core
            .sync(node, IpAddr::V4(Ipv4Addr::LOCALHOST), request, slot);
        self.core.settle();
        self.core.take_changes();
        for (slot, reply) in self.core.take_replies() {
            drop(slot.send(Ok(reply)));
        }
        answer.try_recv().unwrap().unwrap()
    }

    fn sync(&mut self, relay: usize) -> SyncReply {
        self.say(relay, Vec::new())
    }

    fn says(&self) -> RelayReport {
        said(&self.task, Some(self.sid))
    }

    fn reports(&mut self, relay: usize, pieces: Vec<PieceReport>) -> SyncReply {
        let says = self.says();
        self.say(relay, vec![RelayReport { pieces, ..says }])
    }

    fn audited(&mut self, relay: usize, audited: Vec<PieceReport>) -> SyncReply {
        let says = self.says();
        self.say(relay, vec![RelayReport { audited, ..says }])
    }

    fn holds(&mut self, relay: usize, held: Vec<PieceReport>) -> SyncReply {
        self.takes_part(relay);
        let says = self.says();
        self.say(relay, vec![RelayReport { held, ..says }])
    }

    fn takes_part(&mut self, relay: usize) {
        self.relays[relay].state.contents = vec![ContentReport {
            sid: self.sid,
            have: 1,
            complete: false,
            final_ok: false,
            v2_ok: false,
            peer_sent: 0,
            serving: true,
            manifest: Some(Head::default()),
            paused: None,
        }];
    }

    /// Relays stay live, and time passes.
    fn pass(&mut self, seconds: u64) {
        let all: Vec<usize> = (0..self.relays.len()).collect();
        self.pass_with(&all, seconds);
    }

    /// These relays stay live, and time passes.
    fn pass_with(&mut self, relays: &[usize], seconds: u64) {
        for _ in 0..seconds {
            for &relay in relays {
                self.sync(relay);
            }
            let Now { time, us } = self.core.now;
            self.core.set_now(Now {
                time: time + Duration::from_secs(1),
                us: us + 1_000_000,
            });
            self.core.tick();
            self.core.settle();
            self.core.take_changes();
        }
    }

    fn state(&self) -> (RelayState, Option<Sid>) {
        let task = &self.core.model.relay_tasks[&self.task];
        (task.state, task.sid)
    }

    fn distrusted(&self) -> Vec<usize> {
        let is_distrusted = |relay: &usize| self.core.is_distrusted(self.relays[*relay].id);
        (0..self.relays.len()).filter(is_distrusted).collect()
    }

    /// What a relay is to read again.
    fn asked(&mut self, relay: usize) -> Vec<u32> {
        let reply = self.sync(relay);
        let contents = reply.relay_tasks.iter();
        let contents = contents.filter_map(|order| order.content.as_ref());
        contents
            .flat_map(|content| content.audits.clone())
            .collect()
    }

    fn outcomes(&self, outcome: Outcome) -> usize {
        let audits = self.core.model.audits.values();
        let all = audits.flat_map(Audits::iter);
        all.filter(|(.., reading)| reading.outcome == outcome)
            .count()
    }
}

fn every_piece(settings: &mut Settings) {
    settings.audit_share = 1.0;
}

#[test]
fn final_does_not_wait_for_whoever_confirms_slowly() {
    let mut rig = Rig::new(8, 2, |_| {});
    rig.holds(1, Vec::new());
    rig.reports(0, pieces(0..8));
    let mut waited = 0;
    for piece in 0..8 {
        rig.pass(4);
        waited += 4;
        if rig.state().0 == RelayState::Final {
            break;
        }
        rig.holds(1, pieces([piece]));
    }
    assert!((9..=12).contains(&waited), "{waited} s");
}

#[test]
fn what_is_said_of_a_piece_before_its_reporter_speaks_counts() {
    let mut rig = Rig::new(8, 2, |_| {});
    rig.holds(1, pieces(0..8));
    // A word waits until its own piece is reported, however many others are before.
    rig.reports(0, pieces(0..3));
    rig.reports(0, pieces(3..8));
    let asked = rig.asked(1);
    rig.audited(1, pieces(asked));
    assert_eq!(rig.state(), (RelayState::Final, Some(rig.sid)));

    let mut rig = Rig::new(8, 3, |_| {});
    rig.holds(1, vec![false_sha1(5)]);
    rig.reports(0, pieces(0..8));
    assert_eq!(rig.outcomes(Outcome::Different), 1);
}

#[test]
fn a_flood_of_false_words_costs_a_few_third_readings() {
    let mut rig = Rig::new(200, 3, |_| {});
    rig.reports(0, pieces(0..150));
    rig.holds(1, (0..150).map(false_sha1).collect());
    assert!(
        rig.outcomes(Outcome::Different) <= 4,
        "{}",
        rig.outcomes(Outcome::Different)
    );
    let asked = rig.asked(2);
    // Beside the ordinary audits, one of 64 pieces each.
    assert!((4..=6).contains(&asked.len()), "{asked:?}");
    // The first verdict settles the others: nothing that was asked for because of them is waited for.
    let disputed = asked
        .iter()
        .find(|piece| {
            let audits = &rig.core.model.audits[&rig.sid];
            audits.dissenters(**piece).next().is_some()
        })
        .copied()
        .unwrap();
    rig.audited(2, pieces([disputed]));
    assert_eq!(rig.distrusted(), [1]);
    assert!(rig.asked(2).len() <= 2, "{asked:?}");
    rig.reports(0, pieces(150..200));
    let asked = rig.asked(2);
    rig.audited(2, pieces(asked));
    rig.pass(1);
    assert_eq!(rig.state(), (RelayState::Final, Some(rig.sid)));
}

#[test]
fn who_proved_wrong_is_not_heard_in_its_other_disputes() {
    let mut rig = Rig::new(8, 2, every_piece);
    rig.reports(0, pieces([0, 1]));
    assert_eq!(rig.asked(1).len(), 2);
    rig.add();
    rig.audited(1, vec![false_sha1(0), false_sha1(1)]);
    assert_eq!(rig.asked(2), [0, 1]);
    // The third answers of one, and is silent of the other.
    rig.audited(2, pieces([0]));
    assert_eq!(rig.distrusted(), [1]);
    rig.pass(40);
    assert_eq!(
        rig.state(),
        (RelayState::Open, Some(rig.sid)),
        "the content is not given up"
    );
}

#[test]
fn only_sha1s_of_who_could_be_wrong_honestly_are_disputed() {
    let mut rig = Rig::new(8, 3, |_| {});
    rig.reports(0, pieces(0..4));
    // The tree that it verified the piece by is signed.
    let reply = rig.holds(
        1,
        vec![PieceReport {
            node: Sha256([9; 32]),
            ..piece(0)
        }],
    );
    assert_eq!(reply.refused[0].code, "not_signed");
    assert_eq!(rig.outcomes(Outcome::Different), 0);
    // One that cannot read the origin is not heard.
    rig.relays[1].state.audits = false;
    rig.relays[1].state.feeds_from = vec![rig.relays[0].id.to_string()];
    rig.holds(1, vec![false_sha1(1)]);
    assert_eq!(rig.outcomes(Outcome::Different), 0);
    rig.relays[1].state.audits = true;
    rig.relays[1].state.feeds_from.clear();
    rig.holds(1, vec![false_sha1(2)]);
    assert_eq!(rig.outcomes(Outcome::Different), 1);
    assert_eq!(rig.asked(2), [2]);
}

#[test]
fn a_relay_that_feeds_from_others_now_reads_nothing_again() {
    let mut rig = Rig::new(8, 2, every_piece);
    rig.reports(0, pieces([0, 1]));
    assert_eq!(rig.asked(1).len(), 2);
    rig.relays[1].state.audits = false;
    rig.relays[1].state.feeds_from = vec![rig.relays[0].id.to_string()];
    rig.relays[1].state.boot = 2;
    assert!(rig.asked(1).is_empty());
    rig.pass(1);
    assert_eq!(rig.outcomes(Outcome::Unread), 2);
    assert_eq!(rig.outcomes(Outcome::Open), 0);
}

#[test]
fn a_slow_auditor_that_answers_is_waited_for() {
    let mut rig = Rig::new(8, 2, every_piece);
    rig.reports(0, pieces([0, 1, 2]));
    for piece in 0..3 {
        rig.pass(20);
        rig.audited(1, pieces([piece]));
    }
    assert_eq!(rig.outcomes(Outcome::Equal), 3);
    rig.reports(0, pieces([3]));
    rig.pass(31);
    assert_eq!(rig.outcomes(Outcome::Unread), 1, "but not for ever");
}

#[test]
fn a_relay_that_proved_wrong_is_no_relay_to_wait_for() {
    let mut rig = Rig::new(8, 2, every_piece);
    rig.reports(0, pieces([0]));
    assert_eq!(rig.asked(1), [0]);
    let third = rig.add();
    rig.audited(1, vec![false_sha1(0)]);
    rig.audited(third, pieces([0]));
    assert_eq!(rig.distrusted(), [1]);
    assert_eq!(rig.core.origin_readers().count(), 2);
    for relay in [0, third] {
        let leaves = SyncRequest {
            leaving: true,
            ..rig.relays[relay].state.clone()
        };
        rig.request(rig.relays[relay].id, leaves);
    }
    assert_eq!(rig.state().0, RelayState::Open, "they may come back");
    rig.pass_with(&[1], 16);
    assert_eq!(rig.state().0, RelayState::Failed, "nobody is left");
    assert_eq!(rig.core.origin_readers().count(), 0);
    let enrol = Enrol {
        role: Role::Agent,
        name: "a".into(),
        short_lived: false,
    };
    let joining = Sponsor::Joining(Joining::default());
    let agent = rig.core.enrol(joining, &enrol).unwrap().node;
    let ask = Ask::Ticket {
        sid: None,
        url: "http://origin.example/y".into(),
    };
    let asks = SyncRequest {
        boot: 1,
        asks: vec![ask],
        ..SyncRequest::default()
    };
    let reply = rig.request(agent, asks);
    assert!(
        matches!(reply.grants[..], [Grant::Ticket { .. }]),
        "{:?}",
        reply.grants
    );
}

#[test]
fn audits_of_tasks_that_ended_stay_as_they_were() {
    let mut rig = Rig::new(8, 2, every_piece);
    rig.reports(0, pieces([0]));
    assert_eq!(rig.asked(1), [0]);
    rig.core.cancel(&rig.task.clone()).unwrap();
    assert_eq!(rig.outcomes(Outcome::Open), 1);
    let node = rig.relays[1].id;
    rig.core.distrust(node, "a test says so");
    assert_eq!(rig.outcomes(Outcome::Open), 1);
    rig.pass(40);
    assert_eq!(rig.outcomes(Outcome::Open), 1);
}

#[test]
fn origins_without_ranges_are_not_read_again_for_disputes() {
    let mut rig = Rig::of(8, 3, false, every_piece);
    rig.reports(0, pieces([0]));
    rig.holds(1, vec![false_sha1(0)]);
    assert!(rig.asked(2).is_empty());
    assert_eq!(rig.state().1, None, "the content is given up");
}
