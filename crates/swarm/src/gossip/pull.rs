//! What to ask neighbours for: missing records, hashes under sealed nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use floodway_proto::Time;
use floodway_proto::facts::NodeAt;
use floodway_proto::manifest::Manifest;
use floodway_proto::record::{Body, Head, Signed};
use floodway_proto::wire::ManifestMessage;
use floodway_proto::wire::manifest::HASHES_LIMIT;

use super::{Gossip, count};
use crate::PeerKey;

/// Records that a neighbour has are asked for when they did not come by themselves for so long.
const HEAD_GRACE: Duration = Duration::from_millis(200);
/// The same for a piece that a neighbour has and that cannot be verified here.
const LACK_GRACE: Duration = Duration::from_millis(100);
/// An unanswered question is put to somebody else after so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// What a neighbour says it does not know is believed for so long: records and hashes are on their way to it too.
const REFUSED_FOR: Duration = Duration::from_millis(300);
/// Questions for hashes open at once to one neighbour.
const QUESTIONS: usize = 2;
/// Without anything new for so long, others may withhold it.
const STALL: Duration = Duration::from_secs(5);
/// The longest pause between two questions over HTTP.
const STALL_MAX: Duration = Duration::from_mins(1);

/// What one neighbour was asked for, and will be.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    facts: Vec<(Range<u32>, Time)>,
    /// What it said it does not know, and until when that is believed.
    refused: Vec<(Range<u32>, Time)>,
    /// Pieces that it has and that cannot be verified here.
    lacking: BTreeSet<u32>,
    lacking_due: Option<Time>,
}

impl Outstanding {
    /// True when it was asked for what lies under `node`.
    pub(super) fn expects(&self, manifest: &Manifest, node: NodeAt) -> bool {
        let under = manifest.facts().pieces_of(node);
        self.facts.iter().any(|(asked, _)| overlap(asked, &under))
    }

    pub(super) fn answered(&mut self, manifest: &Manifest, node: NodeAt) {
        let under = manifest.facts().pieces_of(node);
        self.facts.retain(|(asked, _)| !overlap(asked, &under));
    }

    fn has_room(&self) -> bool {
        self.facts.len() < QUESTIONS
    }

    fn forget_before(&mut self, now: Time) {
        // Who does not answer is not asked for the same again at once.
        let (late, open) = std::mem::take(&mut self.facts)
            .into_iter()
            .partition(|(_, due)| *due <= now);
        self.facts = open;
        self.refused.retain(|(_, until)| *until > now);
        let late: Vec<(Range<u32>, Time)> = late;
        let late = late
            .into_iter()
            .map(|(range, _)| (range, now + ANSWER_WITHIN));
        self.refused.extend(late);
    }

    fn may_know(&self, pieces: &Range<u32>) -> bool {
        !self
            .refused
            .iter()
            .any(|(refused, _)| overlap(refused, pieces))
    }

    /// The earliest time at which something of this is due.
    pub(super) fn due_at(&self) -> Option<Time> {
        let times = self.facts.iter().chain(&self.refused).map(|(_, due)| *due);
        times.chain(self.lacking_due).min()
    }
}

fn overlap(a: &Range<u32>, b: &Range<u32>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The question for newer records: one at a time.
#[derive(Debug, Default)]
pub(super) struct HeadQuestion {
    /// Not before this.
    due: Option<Time>,
    /// Open until then.
    open_until: Option<Time>,
    /// Who was asked, and what was known.
    asked: Option<(PeerKey, Head)>,
}

impl HeadQuestion {
    pub(super) fn due_at(&self) -> Option<Time> {
        self.open_until.or(self.due)
    }
}

/// Notices when nothing new comes any more.
#[derive(Debug)]
pub(super) struct Stall {
    since: Time,
    pause: Duration,
}

impl Stall {
    pub(super) fn new(now: Time) -> Self {
        Self {
            since: now,
            pause: STALL,
        }
    }

    /// The next time is later, as long as nothing new comes.
    pub(super) fn after(now: Time, before: &Self) -> Self {
        Self {
            since: now,
            pause: (before.pause * 2).min(STALL_MAX),
        }
    }

    pub(super) fn progress(&mut self, now: Time) {
        *self = Self::new(now);
    }

    pub(super) fn due_at(&self) -> Time {
        self.since + self.pause
    }
}

impl Gossip {
    /// Notes the sealed nodes of a new record whose pieces' hashes are to be fetched.
    pub(super) fn note_nodes(&mut self, signed: &Signed) {
        let Body::Checkpoint(checkpoint) = &signed.record().body else {
            return;
        };
        for fact in &checkpoint.facts {
            let pieces = self.manifest.facts().pieces_of(fact.at());
            self.note_pieces(pieces);
        }
    }

    /// Notes what of `pieces` is sealed, but has hashes that are not known.
    pub(super) fn note_pieces(&mut self, pieces: Range<u32>) {
        let facts = self.manifest.facts();
        let mut piece = pieces.start;
        while piece < pieces.end {
            let node = facts.sealed_node(piece).filter(|_| !facts.is_proven(piece));
            if let Some(node) = node {
                let under = facts.pieces_of(node);
                piece = under.end;
                self.wanted.insert(under.start, under.end);
            } else {
                piece += 1;
            }
        }
    }

    /// A neighbour has pieces that cannot be verified here.
    pub(super) fn lacking(&mut self, now: Time, peer: PeerKey, pieces: Range<u32>) {
        let pieces = self.manifest.facts().missing(pieces);
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            let outstanding = &mut neighbour.outstanding;
            outstanding.lacking.extend(pieces.into_iter().flatten());
            if !outstanding.lacking.is_empty() {
                outstanding.lacking_due.get_or_insert(now + LACK_GRACE);
            }
        }
    }

    /// Asks for what is missing.
    pub(super) fn pull(&mut self, now: Time) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.outstanding.forget_before(now);
        }
        self.pull_head(now);
        self.pull_lacking(now);
        self.pull_hashes(now);
    }

    fn pull_head(&mut self, now: Time) {
        let have = self.manifest.complete_to();
        if self
            .head_question
            .open_until
            .is_some_and(|open| open <= now)
        {
            let asked = self.head_question.asked.take();
            // Who has nothing new to say is not believed to have it until it says so again.
            if let Some((peer, had)) = asked
                && had == have
                && let Some(neighbour) = self.neighbours.get_mut(&peer)
            {
                neighbour.head = neighbour.head.min(have);
            }
            self.head_question.open_until = None;
        }
        let ahead = self.neighbours.iter().filter(|(_, one)| one.head > have);
        let ahead: Vec<PeerKey> = ahead.map(|(&peer, _)| peer).collect();
        if ahead.is_empty() {
            self.head_question.due = None;
            return;
        }
        let nothing_known = have.seq == 0;
        let grace = if nothing_known {
            Duration::ZERO
        } else {
            HEAD_GRACE
        };
        let due = *self.head_question.due.get_or_insert(now + grace);
        if due > now || self.head_question.open_until.is_some() {
            return;
        }
        if let Some(&peer) = self.random.choice(&ahead) {
            self.ask_for_head(now, peer);
        }
    }

    /// A neighbour knows more than we do: it is asked without grace.
    pub(super) fn want_head(&mut self, now: Time, peer: PeerKey) {
        if self.head_question.open_until.is_none_or(|open| open <= now) {
            self.ask_for_head(now, peer);
        }
    }

    fn ask_for_head(&mut self, now: Time, peer: PeerKey) {
        let have = self.manifest.complete_to();
        self.head_question = HeadQuestion {
            due: Some(now + ANSWER_WITHIN),
            open_until: Some(now + ANSWER_WITHIN),
            asked: Some((peer, have)),
        };
        self.send(peer, ManifestMessage::GetHead { have });
    }

    /// Asks neighbours about pieces that they have.
    fn pull_lacking(&mut self, now: Time) {
        let due = self.neighbours.iter().filter(|(_, one)| {
            let due = one.outstanding.lacking_due;
            due.is_some_and(|due| due <= now)
        });
        let due: Vec<PeerKey> = due.map(|(&peer, _)| peer).collect();
        for peer in due {
            let Some(neighbour) = self.neighbours.get_mut(&peer) else {
                continue;
            };
            neighbour.outstanding.lacking_due = None;
            let lacking = std::mem::take(&mut neighbour.outstanding.lacking);
            let facts = self.manifest.facts();
            // Those under sealed nodes are asked for anyway.
            let open =
                |piece: &u32| !facts.is_verifiable(*piece) && facts.sealed_node(*piece).is_none();
            let runs = runs(lacking.into_iter().filter(open));
            for run in runs {
                self.ask_for_facts(now, peer, run);
            }
        }
    }

    fn ask_for_facts(&mut self, now: Time, peer: PeerKey, pieces: Range<u32>) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            let question = (pieces.clone(), now + ANSWER_WITHIN);
            neighbour.outstanding.facts.push(question);
        }
        let (first, count) = (pieces.start, count(&pieces));
        self.send(peer, ManifestMessage::GetFacts { first, count });
    }

    /// Asks for the hashes under sealed nodes, those of the first pieces first.
    fn pull_hashes(&mut self, now: Time) {
        let mut room = self
            .neighbours
            .values()
            .any(|one| one.outstanding.has_room());
        if !room {
            return;
        }
        let mut left = std::mem::take(&mut self.wanted);
        let mut kept = BTreeMap::new();
        while let Some((first, end)) = left.pop_first() {
            let Some(missing) = (first..end).find(|&piece| !self.manifest.facts().is_proven(piece))
            else {
                continue;
            };
            // Nodes may have joined to a larger one.
            let node = self.manifest.facts().sealed_node(missing);
            let under = node.map_or(first..end, |node| self.manifest.facts().pieces_of(node));
            kept.insert(under.start, under.end);
            left = left.split_off(&under.end);
            if !room {
                continue;
            }
            room = self.ask_somebody(now, &under);
        }
        self.wanted = kept;
    }

    /// Asks a random neighbour that may know. False when none has room for a question.
    fn ask_somebody(&mut self, now: Time, pieces: &Range<u32>) -> bool {
        let open = |one: &super::Neighbour| {
            one.outstanding
                .facts
                .iter()
                .any(|(asked, _)| overlap(asked, pieces))
        };
        if self.neighbours.values().any(open) {
            return true;
        }
        let with_room = self
            .neighbours
            .iter()
            .filter(|(_, one)| one.outstanding.has_room());
        let with_room: Vec<_> = with_room.collect();
        let known = self.manifest.complete_to();
        let able = with_room
            .iter()
            .filter(|(_, one)| one.outstanding.may_know(pieces));
        let mut able: Vec<PeerKey> = able.map(|&(&peer, _)| peer).collect();
        // Who is known to be as far as we are goes first. Two who heard the same from control may not know it of each other.
        let is_level = |peer: &PeerKey| {
            let neighbour = self.neighbours.get(peer);
            neighbour.is_some_and(|one| one.head >= known)
        };
        if able.iter().any(is_level) {
            able.retain(is_level);
        }
        let is_room = !with_room.is_empty();
        if let Some(&peer) = self.random.choice(&able) {
            self.ask_for_facts(now, peer, pieces.clone());
        }
        is_room
    }

    /// A neighbour does not know what it was asked for.
    pub(super) fn heard_reject(&mut self, now: Time, peer: PeerKey, pieces: &Range<u32>) {
        if let Some(neighbour) = self.neighbours.get_mut(&peer) {
            let outstanding = &mut neighbour.outstanding;
            let before = outstanding.facts.len();
            outstanding
                .facts
                .retain(|(asked, _)| !overlap(asked, pieces));
            // What was not asked need not be remembered.
            if outstanding.facts.len() < before {
                outstanding
                    .refused
                    .push((pieces.clone(), now + REFUSED_FOR));
            }
        }
    }
}

/// Ascending pieces as runs of at most what one question may ask for.
fn runs(pieces: impl Iterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(last) if last.end == piece && last.len() < HASHES_LIMIT => last.end += 1,
            _ => runs.push(piece..piece + 1),
        }
    }
    runs
}
