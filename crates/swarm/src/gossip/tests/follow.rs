//! A node without neighbours that follows a content over HTTP to its end, by whatever order records, answers and the word
//! that it is final arrive in.

use std::collections::{BTreeMap, VecDeque};

use floodway_proto::record::{FinalNames, OriginDigest};
use floodway_proto::torrents::Contents;

use super::*;

/// So long after the relay the node knows at the latest what a piece hashes to, in milliseconds: a few answers, or the pause
/// after somebody who was asked did not know.
const BEHIND: u64 = 1500;

/// Something that happens at some time.
#[derive(Debug)]
enum Event {
    /// The node begins.
    Join,
    /// The next pieces are signed.
    Sign,
    /// The relay hears of records.
    Relay(Vec<Signed>),
    /// The node hears of the end from control.
    Told(Signed),
    /// An answer to the node's question.
    Answer(HttpAnswer),
}

/// Control, one relay, and a node that reaches the relay by HTTP only.
struct World {
    random: fastrand::Rng,
    pieces: u32,
    control: Control,
    signed: u32,
    relay: Manifest,
    node: Gossip,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    /// The node's question for records, which the relay holds open.
    waiting: Option<Head>,
    /// The next question goes to control.
    at_control: bool,
    joined: bool,
    /// How many hashes the relay knew when.
    known: VecDeque<(u64, u32)>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let pieces = random.u32(20..1100);
        let node = agent(pieces);
        let joins = random.u64(0..6000);
        let mut world = Self {
            random,
            pieces,
            control: Control::new(pieces),
            signed: 0,
            relay: manifest(pieces),
            node,
            events: BTreeMap::new(),
            count: 0,
            waiting: None,
            at_control: false,
            joined: false,
            known: VecDeque::new(),
            log: Vec::new(),
        };
        world.after(0, 0, Event::Sign);
        world.after(joins, 0, Event::Join);
        world
    }

    fn after(&mut self, now: u64, most: u64, event: Event) {
        let at = now + self.random.u64(0..=most);
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn sign(&mut self, now: u64) {
        let left = self.pieces - self.signed;
        let count = self.random.u32(1..60).min(left);
        let fresh = self.signed..self.signed + count;
        self.signed += count;
        if self.signed < self.pieces {
            let records = self.control.seal(fresh);
            self.after(now, 200, Event::Relay(records));
            self.after(now + 50, 600, Event::Sign);
            return;
        }
        let records = self.control.finish(fresh);
        let end = records.iter().min_by_key(|signed| signed.bytes().len());
        self.after(now, 300, Event::Told(end.unwrap().clone()));
        self.after(now, 300, Event::Relay(records));
    }

    /// What the relay knows after `have`, if it knows more.
    fn news(&self, have: Head) -> Option<Vec<Signed>> {
        let records: Vec<Signed> = self.relay.records_after(have).cloned().collect();
        (!records.is_empty()).then_some(records)
    }

    fn asked(&mut self, now: u64, question: HttpQuestion) {
        self.log.push(format!(
            "{now}: {question:?}, at control: {}",
            self.at_control
        ));
        match question {
            HttpQuestion::Records { have, wait } => {
                self.at_control = false;
                match self.news(have) {
                    Some(records) => self.answer(now, HttpAnswer::Records(records)),
                    None if wait => self.waiting = Some(have),
                    None => self.answer(now, HttpAnswer::Records(Vec::new())),
                }
            }
            HttpQuestion::Hashes { pieces } => {
                assert!(pieces.len() <= 512, "{pieces:?}");
                let facts = self.relay.facts();
                let is_known = if self.at_control {
                    self.signed >= pieces.end
                } else {
                    pieces.clone().all(|piece| facts.is_proven(piece))
                };
                let first = pieces.start;
                let hashes = pieces.map(|piece| fact(piece).hash).collect();
                if is_known {
                    self.at_control = false;
                    self.answer(now, HttpAnswer::Hashes { first, hashes });
                } else {
                    self.at_control = !self.at_control;
                    self.answer(now, HttpAnswer::Failed);
                }
            }
        }
    }

    fn answer(&mut self, now: u64, answer: HttpAnswer) {
        self.after(now + 1, 100, Event::Answer(answer));
    }

    fn input(&mut self, now: u64, input: GossipInput) {
        let outputs = feed(&mut self.node, now, input);
        for output in outputs {
            match output {
                GossipOutput::AskHttp(question) => self.asked(now, question),
                GossipOutput::HttpFault | GossipOutput::Refused(_) => panic!("{output:?}"),
                _ => {}
            }
        }
    }

    fn happens(&mut self, now: u64, event: Event) {
        match event {
            Event::Sign => self.sign(now),
            Event::Join => {
                let known = self.relay.facts().proven_pieces();
                self.joined = true;
                self.known.push_back((now, known));
                self.input(now, GossipInput::Help(true));
            }
            Event::Relay(records) => {
                for record in records {
                    self.relay.apply(&record).unwrap();
                }
                if let Some(have) = self.waiting.take() {
                    match self.news(have) {
                        Some(records) => self.answer(now, HttpAnswer::Records(records)),
                        None => self.waiting = Some(have),
                    }
                }
                if self.joined {
                    let known = self.relay.facts().proven_pieces();
                    self.known.push_back((now, known));
                }
            }
            Event::Told(record) => {
                self.log
                    .push(format!("{now}: told {}", record.record().head));
                self.input(now, GossipInput::Record(record));
            }
            Event::Answer(answer) => {
                self.log.push(match &answer {
                    HttpAnswer::Records(records) => format!("{now}: {} records", records.len()),
                    HttpAnswer::Hashes { first, .. } => format!("{now}: hashes {first}"),
                    HttpAnswer::Failed => format!("{now}: failed"),
                });
                self.input(now, GossipInput::Answered(answer));
            }
        }
    }

    /// The node is not far behind the relay.
    fn check(&mut self, now: u64, seed: u64) {
        let own = self.node.manifest().facts().proven_pieces();
        while let Some(&(then, known)) = self.known.front()
            && then + BEHIND < now
        {
            let log = self.log[self.log.len().saturating_sub(12)..].join("\n");
            assert!(
                own >= known,
                "seed {seed}, {now}: {own} of {known} pieces\n{log}"
            );
            self.known.pop_front();
        }
    }

    fn run(&mut self, seed: u64) {
        let mut now = 0;
        while self.signed < self.pieces || !self.known.is_empty() {
            let next = self.events.first_key_value().map(|(&(at, _), _)| at);
            let wake = self
                .node
                .wake_at
                .map(|at| at.as_nanos().div_ceil(1_000_000));
            let end = self.known.back().map(|(then, _)| then + BEHIND + 1);
            let at = [next, wake, end].into_iter().flatten().min().unwrap();
            now = now.max(at);
            if next == Some(at) {
                let (_, event) = self.events.pop_first().unwrap();
                self.happens(now, event);
            } else if wake == Some(at) {
                self.input(now, GossipInput::Tick);
            }
            self.check(now, seed);
        }
    }
}

impl Control {
    /// Seals the last pieces and says the final names.
    fn finish(&mut self, pieces: Range<u32>) -> Vec<Signed> {
        let fresh: Vec<Fact> = pieces.map(fact).collect();
        for fact in &fresh {
            self.facts.seal(fact).unwrap();
        }
        let roots = vec![self.facts.pieces_root(0)];
        let contents = Contents::of(self.manifest.genesis(), &self.facts).unwrap();
        let v2 = contents.v2_info(&roots).unwrap();
        self.status.state = State::Final(Box::new(FinalNames {
            roots,
            v1: None,
            v2: Some(digest::sha256(&v2)),
            hybrid: None,
            origin_digest: OriginDigest::Absent,
        }));
        let sealer = &mut self.sealer;
        sealer
            .last_checkpoint(&self.facts, &fresh, &self.status)
            .unwrap()
    }
}

#[test]
fn who_follows_alone_is_never_far_behind() {
    for seed in 0..100 {
        World::new(seed).run(seed);
    }
}
