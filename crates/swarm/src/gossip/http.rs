//! When to ask a relay, or control, over HTTP: when there is no neighbour, when neighbours bring nothing new, and when none
//! of them brings the hashes under sealed nodes.

use std::ops::Range;
use std::time::Duration;

use floodway_proto::record::{Head, Signed};
use floodway_proto::{Sha256, Time};

use super::pull::Stall;
use super::{Gossip, GossipOutput};

/// Neighbours may still come for so long.
const LONELY: Duration = Duration::from_millis(300);
/// Hashes that neighbours could bring are waited for so long.
const HASHES_WITHIN: Duration = Duration::from_secs(5);
/// Questions are so far apart: what is signed meanwhile comes with one answer.
const APART: Duration = Duration::from_millis(100);
/// Whoever had nothing new is not asked again sooner than this after the last question.
const QUIET: Duration = Duration::from_secs(5);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Pieces in one question.
const HASHES_LIMIT: u32 = 512;
/// A question that the driver has not answered for so long was lost.
const LOST: Duration = Duration::from_mins(2);

/// What to ask over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpQuestion {
    /// For control's records that are newer.
    Records {
        /// All up to here is known.
        have: Head,
        /// The answer may wait until there are some.
        wait: bool,
    },
    /// For the hashes of at most 512 pieces, all of them under sealed nodes.
    Hashes {
        /// Which.
        pieces: Range<u32>,
    },
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum HttpAnswer {
    /// Records, each of them checked by nobody.
    Records(Vec<Signed>),
    /// The hashes of pieces from `first` on.
    Hashes {
        /// The first piece.
        first: u32,
        /// One each.
        hashes: Vec<Sha256>,
    },
    /// Nobody could be asked, or the answer was none.
    Failed,
}

/// When a kind of question may be put again.
#[derive(Debug)]
struct Patience {
    not_before: Time,
    failures: u32,
}

impl Patience {
    fn none(now: Time) -> Self {
        Self {
            not_before: now,
            failures: 0,
        }
    }

    fn failed(&mut self, now: Time) {
        let (first, longest) = BACKOFF;
        let pause = first.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + pause.min(longest);
    }
}

/// The node's questions over HTTP: one at a time.
#[derive(Debug)]
pub(super) struct Helpline {
    /// Somebody can be asked.
    is_there: bool,
    /// When the open question was put.
    open: Option<Time>,
    /// It is for hashes.
    asks_hashes: bool,
    records: Patience,
    /// Whoever is asked may be behind: that holds up no records.
    hashes: Patience,
    /// Nothing is being fetched any more: all hashes are known.
    is_whole: bool,
    /// The last answer brought what no neighbour had: they are behind.
    follows: bool,
    /// Without any neighbour since then.
    lonely_since: Option<Time>,
    /// Some hashes are wanted, and none has come since then.
    lacking_since: Option<Time>,
}

impl Helpline {
    pub(super) fn new(now: Time) -> Self {
        Self {
            is_there: false,
            open: None,
            asks_hashes: false,
            records: Patience::none(now),
            hashes: Patience::none(now),
            is_whole: false,
            follows: false,
            lonely_since: Some(now),
            lacking_since: None,
        }
    }

    /// A neighbour brought something new: it is not behind.
    pub(super) fn neighbours_lead(&mut self) {
        self.follows = false;
    }

    /// Some hashes came.
    pub(super) fn hashes_came(&mut self) {
        self.lacking_since = None;
    }

    fn failed(&mut self, now: Time) {
        if self.asks_hashes {
            let is_first = self.hashes.failures == 0;
            self.hashes.failed(now);
            if is_first {
                // Somebody else has the turn, who may not be behind.
                self.hashes.not_before = now + APART;
            }
        } else {
            self.records.failed(now);
        }
    }
}

/// A question that is due, or when it will be.
enum Due {
    Now(HttpQuestion),
    At(Time),
}

impl Gossip {
    pub(super) fn help_is_there(&mut self, now: Time, is_there: bool) {
        if is_there && !self.helpline.is_there {
            self.helpline.records = Patience::none(now);
            self.helpline.hashes = Patience::none(now);
        }
        self.helpline.is_there = is_there;
    }

    /// Somebody may know more than those who were asked so far: they are not rested for.
    pub(super) fn more_may_be_known(&mut self, now: Time) {
        let records = &mut self.helpline.records;
        if records.failures == 0 {
            records.not_before = records.not_before.min(now + APART);
        }
    }

    pub(super) fn answered_over_http(&mut self, now: Time, answer: HttpAnswer) {
        let Some(asked) = self.helpline.open.take() else {
            return;
        };
        let line = &mut self.helpline;
        line.records.not_before = line.records.not_before.max(now + APART);
        match answer {
            HttpAnswer::Records(records) => self.records_over_http(now, asked, &records),
            HttpAnswer::Hashes { first, hashes } => self.hashes_over_http(now, first, &hashes),
            HttpAnswer::Failed => self.helpline.failed(now),
        }
    }

    fn records_over_http(&mut self, now: Time, asked: Time, records: &[Signed]) {
        let mut brought = false;
        for signed in records {
            match self.take(now, None, signed) {
                Ok(applied) => brought |= applied.is_new,
                Err(refusal) if refusal.is_senders_fault() => {
                    self.outputs.push_back(GossipOutput::HttpFault);
                    return self.helpline.failed(now);
                }
                Err(refusal) => self.outputs.push_back(GossipOutput::Refused(refusal)),
            }
        }
        let line = &mut self.helpline;
        line.follows = brought;
        line.records = Patience::none(now + APART);
        if !brought {
            line.records.not_before = (asked + QUIET).max(now + APART);
        }
    }

    fn hashes_over_http(&mut self, now: Time, first: u32, hashes: &[Sha256]) {
        let end = first.saturating_add(u32::try_from(hashes.len()).unwrap_or(u32::MAX));
        let at = |piece: u32| (piece - first) as usize;
        let mut brought = false;
        let mut piece = first;
        while piece < end {
            let facts = self.manifest.facts();
            let node = facts.sealed_node(piece).filter(|_| !facts.is_proven(piece));
            let Some(node) = node else {
                piece += 1;
                continue;
            };
            let under = facts.pieces_of(node);
            piece = under.end;
            if under.start < first || under.end > end {
                continue;
            }
            let Ok(changes) = self
                .manifest
                .expand(node, &hashes[at(under.start)..at(under.end)])
            else {
                self.outputs.push_back(GossipOutput::HttpFault);
                return self.helpline.failed(now);
            };
            brought = true;
            self.changed(changes);
        }
        if brought {
            self.helpline.hashes = Patience::none(now);
            self.helpline.hashes_came();
        } else {
            self.helpline.failed(now);
        }
    }

    /// Puts a question over HTTP, if one is due.
    pub(super) fn ask_over_http(&mut self, now: Time) {
        if !self.is_moving() && !std::mem::replace(&mut self.helpline.is_whole, true) {
            self.helpline.hashes = Patience::none(now);
        }
        if self.neighbours.is_empty() {
            self.helpline.lonely_since.get_or_insert(now);
        } else {
            self.helpline.lonely_since = None;
        }
        if self.helpline.open.is_some_and(|asked| asked + LOST <= now) {
            self.helpline.open = None;
            self.helpline.failed(now);
        }
        if let Some(Due::Now(question)) = self.due_over_http(now) {
            self.helpline.open = Some(now);
            self.helpline.asks_hashes = matches!(question, HttpQuestion::Hashes { .. });
            self.outputs.push_back(GossipOutput::AskHttp(question));
        }
    }

    /// When the next question over HTTP is due.
    pub(super) fn http_due_at(&mut self, now: Time) -> Option<Time> {
        if let Some(asked) = self.helpline.open {
            return Some(asked + LOST);
        }
        match self.due_over_http(now)? {
            Due::Now(_) => Some(now),
            Due::At(at) => Some(at),
        }
    }

    fn due_over_http(&mut self, now: Time) -> Option<Due> {
        if !self.helpline.is_there || self.helpline.open.is_some() {
            return None;
        }
        let lacking = self.lacking_hashes();
        if lacking.is_none() {
            self.helpline.hashes_came();
        } else {
            self.helpline.lacking_since.get_or_insert(now);
        }
        let line = &self.helpline;
        let lonely = line.lonely_since.map(|since| since + LONELY);
        let hashes = line.lacking_since.map(|since| {
            let patient = since + HASHES_WITHIN;
            lonely.map_or(patient, |lonely| lonely.min(patient))
        });
        let follows = line.follows.then_some(now);
        let stalled = self.stall.due_at();
        let records = self.is_moving().then(|| {
            let sooner = [lonely, follows].into_iter().flatten().min();
            sooner.map_or(stalled, |sooner| sooner.min(stalled))
        });
        let hashes = hashes.map(|at| at.max(line.hashes.not_before));
        let records = records.map(|at| at.max(line.records.not_before));
        if let Some(pieces) = lacking.filter(|_| hashes.is_some_and(|at| at <= now)) {
            return Some(Due::Now(HttpQuestion::Hashes { pieces }));
        }
        if records.is_some_and(|at| at <= now) {
            let is_patient = follows.is_some() || lonely.is_some();
            if stalled <= now {
                self.stall = Stall::after(now, &self.stall);
            }
            return Some(Due::Now(HttpQuestion::Records {
                have: self.manifest.complete_to(),
                wait: is_patient,
            }));
        }
        hashes.into_iter().chain(records).min().map(Due::At)
    }

    /// The first pieces whose hashes are wanted and not known, and what follows as far as it is sealed: who has the records
    /// that seal them knows their hashes.
    fn lacking_hashes(&mut self) -> Option<Range<u32>> {
        let facts = self.manifest.facts();
        while let Some((&first, &end)) = self.wanted.first_key_value() {
            let missing = (first..end).find(|&piece| !facts.is_proven(piece));
            let node = missing.and_then(|piece| facts.sealed_node(piece));
            if let Some(node) = node {
                let mut pieces = facts.pieces_of(node);
                while let Some(node) = facts.sealed_node(pieces.end) {
                    let next = facts.pieces_of(node).end;
                    if next - pieces.start > HASHES_LIMIT {
                        break;
                    }
                    pieces.end = next;
                }
                return Some(pieces);
            }
            self.wanted.pop_first();
        }
        None
    }
}
