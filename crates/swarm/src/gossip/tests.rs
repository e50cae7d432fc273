#![expect(
    clippy::single_range_in_vec_init,
    reason = "runs of pieces are lists of ranges, often of one"
)]

use floodway_proto::digest;
use floodway_proto::facts::{Accept, FactStore};
use floodway_proto::genesis::Genesis;
use floodway_proto::manifest::{Sealer, Status};
use floodway_proto::record::{Attest, Fact, Lease, LeaseId, Record, SecretKey, State};
use floodway_proto::wire::manifest::{RejectReason, sub};

use super::*;

mod attest;
#[path = "../../../proto/tests/common/genesis.rs"]
mod common;
mod follow;
mod http;
mod net;

use common::control_key;
use net::Net;

const PIECE: u32 = 4 << 20;
const PIECE_LAYER: u8 = 8;

fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn relay_key() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

fn genesis(pieces: u32) -> Genesis {
    let length = u64::from(pieces) * u64::from(PIECE);
    common::genesis("disk.img", Some(length), PIECE, "")
}

fn manifest(pieces: u32) -> Manifest {
    Manifest::new(genesis(pieces), Accept::Attested).unwrap()
}

fn fact(index: u32) -> Fact {
    Fact {
        file: 0,
        layer: PIECE_LAYER,
        index,
        hash: digest::sha256(&index.to_be_bytes()),
    }
}

/// Control: seals what relays report.
struct Control {
    sealer: Sealer,
    manifest: Manifest,
    facts: FactStore,
    status: Status,
    /// Everything it ever said.
    bytes: usize,
}

impl Control {
    fn new(pieces: u32) -> Self {
        let manifest = manifest(pieces);
        Self {
            sealer: Sealer::new(manifest.sid(), control_key(), 0, 1),
            status: Status {
                length: manifest.facts().space().file_length(0),
                sealed: 0,
                state: State::Open,
                lease_floor: LeaseId(0),
                revoked: Vec::new(),
                time_unix_ms: 0,
            },
            facts: manifest.facts().clone(),
            manifest,
            bytes: 0,
        }
    }

    fn seal(&mut self, pieces: impl IntoIterator<Item = u32>) -> Vec<Signed> {
        let fresh: Vec<Fact> = pieces.into_iter().map(fact).collect();
        for fact in &fresh {
            self.facts.seal(fact).unwrap();
        }
        let records = self
            .sealer
            .checkpoint(&self.facts, &fresh, &self.status)
            .unwrap();
        for record in &records {
            self.manifest.apply(record).unwrap();
            self.bytes += record.bytes().len();
        }
        records
    }

    fn lease(&mut self, lease: u64, first: u32, count: u32) -> Signed {
        self.lease_of(&relay_key(), lease, first, count)
    }

    fn lease_of(&mut self, relay: &SecretKey, lease: u64, first: u32, count: u32) -> Signed {
        let lease = Lease {
            lease: LeaseId(lease),
            relay: relay.public(),
            first,
            count,
            expires_unix_ms: 0,
        };
        let signed = self.sealer.lease(lease).unwrap();
        self.manifest.apply(&signed).unwrap();
        signed
    }

    fn attest(&self, seq: u64, lease: u64, pieces: Range<u32>) -> Signed {
        let record = Record {
            sid: self.manifest.sid(),
            head: Head { term: 1, seq },
            key: 0,
            body: Body::Attest(Attest {
                lease: LeaseId(lease),
                facts: pieces.map(fact).collect(),
                sha1s: None,
                end: None,
            }),
        };
        record.sign(&relay_key()).unwrap()
    }
}

const A: PeerKey = PeerKey(1);
const B: PeerKey = PeerKey(2);

fn agent(pieces: u32) -> Gossip {
    Gossip::new(ms(0), manifest(pieces), GossipConfig::default(), 1)
}

fn up(peer: PeerKey) -> GossipInput {
    GossipInput::NeighbourUp {
        peer,
        head: Head::default(),
        is_relay: false,
    }
}

fn says(peer: PeerKey, message: ManifestMessage) -> GossipInput {
    GossipInput::Message { peer, message }
}

fn drain(gossip: &mut Gossip) -> Vec<GossipOutput> {
    let mut outputs = Vec::new();
    loop {
        match gossip.poll_output() {
            GossipOutput::WakeAt(_) => return outputs,
            output => outputs.push(output),
        }
    }
}

fn feed(gossip: &mut Gossip, now: u64, input: GossipInput) -> Vec<GossipOutput> {
    gossip.handle_input(ms(now), input);
    drain(gossip)
}

fn sent(outputs: &[GossipOutput], to: PeerKey) -> Vec<&ManifestMessage> {
    let sent = outputs.iter().filter_map(|output| match output {
        GossipOutput::Send { peer, message } if *peer == to => Some(message),
        _ => None,
    });
    sent.collect()
}

#[test]
fn who_comes_ahead_is_asked_at_once() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    for record in control.seal([]) {
        feed(&mut gossip, 0, GossipInput::Record(record));
    }
    let have = gossip.manifest().complete_to();
    control.seal([0]);
    let ahead = |peer| GossipInput::NeighbourUp {
        peer,
        head: control.sealer.head(),
        is_relay: true,
    };
    let outputs = feed(&mut gossip, 10, ahead(A));
    assert_eq!(sent(&outputs, A), [&ManifestMessage::GetHead { have }]);
    // One question at a time.
    assert!(sent(&feed(&mut gossip, 11, ahead(B)), B).is_empty());
}

#[test]
fn what_control_said_sooner_makes_no_neighbour_lazy() {
    let mut control = Control::new(64);
    let mut relay = Gossip::new(ms(0), manifest(64), GossipConfig::relay(), 1);
    let mut gossip = agent(64);
    feed(&mut relay, 0, up(A));
    let here = GossipInput::NeighbourUp {
        peer: B,
        head: Head::default(),
        is_relay: true,
    };
    feed(&mut gossip, 0, here);
    // Both have the first record from control, the node because it joins; what they say of it crosses.
    let first = control.seal([]).remove(0);
    let record = || GossipInput::Record(first.clone());
    let of_node = feed(&mut gossip, 1, record());
    let of_relay = feed(&mut relay, 1, record());
    for message in sent(&of_node, B) {
        feed(&mut relay, 2, says(A, message.clone()));
    }
    for message in sent(&of_relay, A) {
        for answer in sent(&feed(&mut gossip, 2, says(B, message.clone())), B) {
            feed(&mut relay, 3, says(A, answer.clone()));
        }
    }
    for piece in 0..3 {
        let next = control.seal([piece]).remove(0);
        let outputs = feed(&mut relay, 100, GossipInput::Record(next.clone()));
        let expected = ManifestMessage::Record(next.clone());
        assert!(sent(&outputs, A).contains(&&expected), "piece {piece}");
        feed(&mut gossip, 101, says(B, expected));
    }
    // Whoever has all of it from somebody else sooner is not sent it any more.
    let mut pushes = 0;
    for piece in 3..10 {
        let next = control.seal([piece]).remove(0);
        let outputs = feed(&mut relay, 5000, GossipInput::Record(next.clone()));
        let pushed = ManifestMessage::Record(next);
        pushes += usize::from(sent(&outputs, A).contains(&&pushed));
        let state = ManifestMessage::State {
            head: control.sealer.head(),
            sealed: piece,
            capabilities: 0,
        };
        feed(&mut relay, 5001, says(A, state));
    }
    assert!((1..4).contains(&pushes), "{pushes}");
}

/// Two links break and a node joins while facts come.
fn eventful(seed: u64) -> Net {
    let mut net = Net::random(seed, 20, 300);
    for step in 0..30u64 {
        net.run_until(ms(step * 150));
        let first = u32::try_from(step).unwrap() * 10;
        net.control_seals(first..first + 10);
        if step == 12 {
            net.cut_a_link();
            net.cut_a_link();
        }
        if step == 15 {
            net.join(3);
        }
    }
    net.run_until(ms(20_000));
    net
}

#[test]
fn all_nodes_learn_all_facts_whatever_breaks() {
    for seed in 0..10 {
        let net = eventful(seed);
        net.check_all_know(300);
        assert!(net.dropped.is_empty(), "seed {seed}: {:?}", net.dropped);
        if seed < 2 {
            let again = eventful(seed);
            assert_eq!(again.trace, net.trace, "seed {seed} is not deterministic");
        }
    }
}

#[test]
fn a_record_reaches_most_nodes_about_once() {
    let mut net = Net::random(5, 40, 2000);
    // The first records find the links; the others use them.
    for step in 0..20u64 {
        net.run_until(ms(step * 200));
        let first = u32::try_from(step).unwrap() * 10;
        net.control_seals(first..first + 10);
    }
    net.run_until(ms(5000));
    let before = net.records_received;
    for step in 0..20u64 {
        net.run_until(ms(5000 + step * 200));
        let first = 200 + u32::try_from(step).unwrap() * 10;
        let delays = net.control_seals(first..first + 10);
        assert!(delays > 0);
    }
    net.run_until(ms(12_000));
    net.check_all_know(400);
    // 39 nodes hear of each record; less than a third of that is said in vain.
    let heard = net.records_received - before;
    let needed = net.records_sealed_since(20) * 39;
    assert!(
        heard * 10 < needed * 13,
        "{heard} copies where {needed} would do"
    );
}

#[test]
fn a_forger_is_dropped_and_nothing_of_it_is_kept_or_passed_on() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    feed(&mut gossip, 0, up(A));
    feed(&mut gossip, 0, up(B));
    for record in control.seal([]) {
        feed(&mut gossip, 1, says(A, ManifestMessage::Record(record)));
    }
    let good = control.seal([1]).remove(0);
    let mut bytes = good.bytes().to_vec();
    let at = bytes.len() - 80;
    bytes[at] ^= 1;
    let forged = Signed::decode(bytes.into()).unwrap();
    let outputs = feed(&mut gossip, 2, says(A, ManifestMessage::Record(forged)));
    let fault = Fault::Record(Refusal::Forged);
    assert!(outputs.contains(&GossipOutput::Drop { peer: A, fault }));
    assert!(sent(&outputs, B).is_empty());
    assert_eq!(gossip.manifest().facts().missing(0..64), [0..64]);
    // What a dropped neighbour had sent before is not listened to.
    let outputs = feed(&mut gossip, 3, says(A, ManifestMessage::Record(good)));
    assert!(outputs.is_empty());
}

#[test]
fn a_flood_ends_the_connection_after_bounded_work() {
    // T24: 10 000 records a second, none of which is a fault by itself.
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    feed(&mut gossip, 0, up(A));
    let attest = control.attest(1, 7, 0..1);
    for record in control.seal([]) {
        feed(&mut gossip, 0, says(A, ManifestMessage::Record(record)));
    }
    let mut answers = 0;
    for number in 0..10_000u64 {
        let now = Time::from_nanos(number * 100_000);
        gossip.handle_input(now, says(A, ManifestMessage::Record(attest.clone())));
        let outputs = drain(&mut gossip);
        answers += sent(&outputs, A).len();
        let drop = GossipOutput::Drop {
            peer: A,
            fault: Fault::Flood,
        };
        if outputs.contains(&drop) {
            assert!(number < 3000, "{number}");
            assert!(answers < 10, "{answers}");
            return;
        }
    }
    panic!("the flood went on");
}

#[test]
fn questions_are_answered_within_a_budget() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    feed(&mut gossip, 0, up(A));
    for record in control.seal([]).into_iter().chain(control.seal(0..10)) {
        feed(&mut gossip, 1, GossipInput::Record(record));
    }
    let ask = |first, count| says(A, ManifestMessage::GetFacts { first, count });
    let reject = |first, count, reason| ManifestMessage::Reject {
        sub: sub::GET_FACTS,
        first,
        count,
        reason,
    };
    let outputs = feed(&mut gossip, 2, ask(8, 4));
    let answers = sent(&outputs, A);
    assert!(matches!(
        answers[0],
        ManifestMessage::Hashes { index: 4, .. }
    ));
    assert_eq!(answers[1], &reject(10, 2, RejectReason::NotKnown));
    let outputs = feed(&mut gossip, 2, ask(64, 1));
    assert_eq!(
        sent(&outputs, A),
        [&reject(64, 1, RejectReason::OutOfRange)]
    );
    let mut too_often = 0;
    for _ in 0..200 {
        let outputs = feed(&mut gossip, 3, ask(0, 1));
        let refused = reject(0, 1, RejectReason::TooOften);
        too_often += usize::from(sent(&outputs, A) == [&refused]);
    }
    assert!((95..=110).contains(&too_often), "{too_often}");
    // After a while it may ask again.
    let outputs = feed(&mut gossip, 4000, ask(0, 1));
    assert!(matches!(
        sent(&outputs, A)[..],
        [ManifestMessage::Hashes { .. }]
    ));
}

#[test]
fn pieces_that_a_neighbour_has_are_asked_for_when_no_record_came() {
    let mut control = Control::new(64);
    let mut gossip = agent(64);
    let mut neighbour = agent(64);
    let records = control.seal([]);
    let lease = control.lease(1, 0, 64);
    let attest = control.attest(1, 1, 3..5);
    for record in records.iter().chain([&lease]) {
        feed(&mut neighbour, 0, GossipInput::Record(record.clone()));
    }
    feed(&mut neighbour, 0, GossipInput::Record(attest.clone()));
    feed(&mut neighbour, 0, up(B));
    for record in records {
        feed(&mut gossip, 0, GossipInput::Record(record));
    }
    feed(&mut gossip, 0, up(A));
    // HAVE 3 overtakes the record.
    let lacking = GossipInput::Lacking {
        peer: A,
        pieces: 3..4,
    };
    assert!(sent(&feed(&mut gossip, 10, lacking), A).is_empty());
    assert_eq!(gossip.poll_output(), GossipOutput::WakeAt(Some(ms(110))));
    let outputs = feed(&mut gossip, 110, GossipInput::Tick);
    let question = sent(&outputs, A)[0].clone();
    assert_eq!(question, ManifestMessage::GetFacts { first: 3, count: 1 });
    let outputs = feed(&mut neighbour, 120, says(B, question));
    let answers = sent(&outputs, B);
    assert_eq!(
        answers[..2],
        [
            &ManifestMessage::Record(lease),
            &ManifestMessage::Record(attest)
        ]
    );
    let mut verifiable = Vec::new();
    for answer in answers {
        for output in feed(&mut gossip, 130, says(A, answer.clone())) {
            if let GossipOutput::Changed(changes) = output {
                verifiable.extend(changes.verifiable);
            }
        }
    }
    assert_eq!(verifiable, [3..5]);
}

#[test]
fn wrong_hashes_end_the_connection_and_others_are_asked() {
    let mut control = Control::new(600);
    control.seal([]);
    control.seal(0..600);
    let mut known = agent(600);
    let records: Vec<Signed> = control
        .manifest
        .records_after(Head::default())
        .cloned()
        .collect();
    // Only the snapshot: nodes without the hashes below.
    let head = control.sealer.head();
    let mut gossip = agent(600);
    for peer in [A, B] {
        let input = GossipInput::NeighbourUp {
            peer,
            head,
            is_relay: false,
        };
        feed(&mut gossip, 0, input);
    }
    for record in control.manifest.records_after(Head::default()) {
        feed(&mut known, 0, GossipInput::Record(record.clone()));
    }
    let mut asked = Vec::new();
    for record in records {
        let outputs = feed(&mut gossip, 1, GossipInput::Record(record));
        asked.extend(outputs.into_iter().filter_map(|output| match output {
            GossipOutput::Send {
                peer,
                message: ManifestMessage::GetFacts { first, count },
            } => Some((peer, first, count)),
            _ => None,
        }));
    }
    assert_eq!(asked.len(), 2, "two groups");
    let (peer, first, _) = asked[0];
    let node = gossip.manifest().facts().sealed_node(first).unwrap();
    let lie = ManifestMessage::Hashes {
        file: 0,
        layer: node.layer,
        index: node.index,
        hashes: vec![digest::sha256(b"x"); gossip.manifest().facts().pieces_of(node).len()],
    };
    let outputs = feed(&mut gossip, 2, says(peer, lie));
    assert!(matches!(
        outputs[0],
        GossipOutput::Drop {
            fault: Fault::Hashes(_),
            ..
        }
    ));
    let other = if peer == A { B } else { A };
    let asked_again = sent(&outputs, other);
    let count = u16::try_from(gossip.manifest().facts().pieces_of(node).len()).unwrap();
    let question = ManifestMessage::GetFacts { first, count };
    assert!(asked_again.contains(&&question), "{asked_again:?}");
}

/// 100 GB in pieces of 4 MiB.
const HUNDRED_GB: u32 = 23_842;

/// How `relays` in parallel, by stripes of 64, fetch all pieces in order of time.
fn arrival(relays: u32) -> Vec<u32> {
    let stripes = HUNDRED_GB.div_ceil(64);
    let mut order = Vec::new();
    for round in 0..stripes.div_ceil(relays) {
        for within in 0..64 {
            for relay in 0..relays {
                let piece = (round * relays + relay) * 64 + within;
                if piece < HUNDRED_GB {
                    order.push(piece);
                }
            }
        }
    }
    order
}

#[test]
fn a_late_joiner_reads_little() {
    // T8: at half of 100 GB.
    for (relays, limit) in [(1, 10_000), (8, 10_000), (32, 11_000)] {
        let mut net = Net::star(7, 2, HUNDRED_GB);
        let order = arrival(relays);
        for (tick, pieces) in (0u64..).zip(order[..order.len() / 2].chunks(8)) {
            net.run_until(ms(tick * 250));
            net.control_seals(pieces.iter().copied());
        }
        net.run_until(ms(400_000));
        let joiner = net.join(2);
        net.run_until(ms(420_000));
        let known = u32::try_from(order.len() / 2).unwrap();
        net.check_all_know(known);
        let bytes = net.bytes_in(joiner);
        let hashes = u64::from(known) * 32;
        let rest = bytes - hashes;
        show("late joiner", relays, rest);
        assert!(
            rest <= limit,
            "{relays} relays: {rest} bytes beside the hashes"
        );
    }
}

#[test]
fn following_live_costs_little_and_control_sends_the_same_to_few_and_many() {
    // 1 Gbit/s: 800 s. Control waits 250 ms for more while facts come steadily.
    const TICKS: usize = 3200;
    let mut control_bytes = Vec::new();
    for (relays, agents) in [(8, 5), (8, 2), (32, 2)] {
        let order = arrival(relays);
        let mut net = Net::star(7, agents, HUNDRED_GB);
        let per_tick = order.len().div_ceil(TICKS);
        for (tick, pieces) in (0u64..).zip(order.chunks(per_tick)) {
            net.run_until(ms(tick * 250));
            net.control_seals(pieces.iter().copied());
        }
        net.run_until(ms(810_000));
        net.check_all_know(HUNDRED_GB);
        let most = net.most_bytes_in();
        show("live follower", relays, most);
        assert!(most <= 2_000_000, "{most}");
        control_bytes.push(net.control_bytes());
    }
    assert_eq!(control_bytes[0], control_bytes[1]);
}

/// Shown with `--nocapture`.
#[expect(clippy::print_stderr, reason = "figures for people")]
fn show(what: &str, of: u32, bytes: u64) {
    eprintln!("{what} ({of}): {bytes} bytes");
}
