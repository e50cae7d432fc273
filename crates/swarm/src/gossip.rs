//! How the facts of one content spread among own nodes: a sans-IO state machine beside [`Swarm`](crate::Swarm).
//!
//! Entry type: [`Gossip`]. It owns the node's [`Manifest`], is fed with what neighbours say and with records from control,
//! HTTP and disk, and says what to send, what became verifiable, and whom to drop. Invariants: nothing is kept or passed
//! on that was not verified; what one neighbour can make a node do is bounded by budgets; the same inputs at the same
//! times with the same seed give the same outputs.
//!
//! It lives here and not in `proto` because it decides: it has time, budgets, chance and neighbours ([`PeerKey`]s) that
//! it shares with the engine. The engine needs from it only which pieces are verifiable, and the driver joins the two.
//!
//! | module | what it decides |
//! |---|---|
//! | `push` | to whom a new record goes at once, and to whom a word that there is one |
//! | `pull` | what to ask neighbours for: missing records, hashes under sealed nodes |
//! | `http` | when to ask a relay, or control, over HTTP instead |
//! | `answer` | what neighbours that ask get |
//! | `attest` | what a relay signs itself, and when |
//!
//! *Push.* A node sends each new record to its *eager* neighbours, at first all of a relay's and four of any other's. Who gets a record twice says what it has ([`State`](ManifestMessage::State)), and the sender stops being
//! eager towards it; who has to ask for records is served eagerly from then on. So the eager links become a tree. The
//! others are told at most once a second, a few at a time, that there is something new, and ask for it.
//!
//! *HAVE.* Before a neighbour hears that this node has a piece, this node can answer `GET_FACTS` for it, or a sealed node
//! above the piece is known and the hashes beside it are being fetched. A node holds only pieces that it verified, and
//! keeps what it verified them by.

mod answer;
mod attest;
mod http;
mod io;
mod pull;
mod push;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use floodway_proto::facts::{Changes, FactError, NodeAt};
use floodway_proto::manifest::{Applied, Manifest, Refusal};
use floodway_proto::record::{Body, Head, Signed};
use floodway_proto::wire::ManifestMessage;
use floodway_proto::{Sha256, Time};

use self::attest::Attestor;
use self::http::Helpline;
pub use self::http::{HttpAnswer, HttpQuestion};
pub use self::io::{Fault, GossipConfig, GossipInput, GossipOutput};
use self::pull::{HeadQuestion, Outstanding, Stall};
use crate::PeerKey;
use crate::budget::Budget;

/// An own node that this one is connected to.
#[derive(Debug)]
struct Neighbour {
    /// What it is known to have: what it said, sent or was sent.
    head: Head,
    /// New records are sent to it at once.
    is_eager: bool,
    /// The newest record that was sent to it at once, and that it has not said to have had already.
    pushed: Option<Head>,
    /// So often it had what was sent to it at once.
    in_vain: u8,
    /// The newest record it was told of by STATE.
    told: Head,
    /// When it may be told again.
    tell_at: Time,
    records: Budget,
    requests: Budget,
    /// What it was asked for.
    outstanding: Outstanding,
}

/// One node's part in spreading the facts of one content.
#[derive(Debug)]
pub struct Gossip {
    config: GossipConfig,
    manifest: Manifest,
    random: fastrand::Rng,
    neighbours: BTreeMap<PeerKey, Neighbour>,
    stall: Stall,
    head_question: HeadQuestion,
    helpline: Helpline,
    /// Of a relay.
    attestor: Option<Box<Attestor>>,
    /// Runs of pieces under sealed nodes, with some hashes that are not known.
    wanted: BTreeMap<u32, u32>,
    outputs: VecDeque<GossipOutput>,
    wake_at: Option<Time>,
}

impl Gossip {
    /// Begins with what `manifest` knows already.
    pub fn new(now: Time, manifest: Manifest, config: GossipConfig, seed: u64) -> Self {
        let mut gossip = Self {
            stall: Stall::new(now),
            helpline: Helpline::new(now),
            attestor: (config.signer.clone()).map(|key| Box::new(Attestor::new(now, key))),
            config,
            manifest,
            random: fastrand::Rng::with_seed(seed),
            neighbours: BTreeMap::new(),
            head_question: HeadQuestion::default(),
            wanted: BTreeMap::new(),
            outputs: VecDeque::new(),
            wake_at: None,
        };
        for fact in gossip.manifest.facts().maximal() {
            let pieces = gossip.manifest.facts().pieces_of(fact.at());
            gossip.note_pieces(pieces);
        }
        gossip
    }

    /// What is known of the content.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Feeds one thing that happened at `now`; then drain [`poll_output`](Self::poll_output) to
    /// [`WakeAt`](GossipOutput::WakeAt).
    pub fn handle_input(&mut self, now: Time, input: GossipInput) {
        match input {
            GossipInput::NeighbourUp {
                peer,
                head,
                is_relay,
            } => self.neighbour_up(now, peer, head, is_relay),
            GossipInput::NeighbourDown { peer } => {
                self.neighbours.remove(&peer);
            }
            GossipInput::Message { peer, message } => self.message(now, peer, message),
            GossipInput::Record(signed) => {
                // Of control's own making, or checked by nobody: it is verified like any other.
                if let Err(refusal) = self.take(now, None, &signed) {
                    self.outputs.push_back(GossipOutput::Refused(refusal));
                }
            }
            GossipInput::Hashes { node, hashes } => {
                if let Ok(changes) = self.manifest.expand(node, &hashes) {
                    self.changed(changes);
                }
            }
            GossipInput::Read { piece, fact } => self.has_read(now, piece, fact),
            GossipInput::Help(is_there) => self.help_is_there(now, is_there),
            GossipInput::MoreMayBeKnown => self.more_may_be_known(now),
            GossipInput::Answered(answer) => self.answered_over_http(now, answer),
            GossipInput::Lacking { peer, pieces } => self.lacking(now, peer, pieces),
            GossipInput::Tick => {}
        }
        self.attest(now);
        self.pull(now);
        self.tell(now);
        self.ask_over_http(now);
        self.wake_at = self.next_wake(now);
    }

    /// The next thing to do. [`WakeAt`](GossipOutput::WakeAt): nothing is left until then, or (`None`) until an input.
    #[must_use]
    pub fn poll_output(&mut self) -> GossipOutput {
        let next = self.outputs.pop_front();
        next.unwrap_or(GossipOutput::WakeAt(self.wake_at))
    }

    fn neighbour_up(&mut self, now: Time, peer: PeerKey, head: Head, is_relay: bool) {
        // Relays hear of everything by themselves.
        let eager = self.neighbours.values().filter(|one| one.is_eager).count();
        let neighbour = Neighbour {
            head,
            is_eager: !is_relay && eager < self.config.eager,
            pushed: None,
            in_vain: 0,
            told: Head::default(),
            tell_at: now,
            records: Budget::new(self.config.records_per_s),
            requests: Budget::new(self.config.requests_per_s),
            outstanding: Outstanding::default(),
        };
        self.neighbours.insert(peer, neighbour);
        // What it knew before it came nobody sends by itself.
        if head > self.manifest.complete_to() {
            self.want_head(now, peer);
        }
    }

    fn message(&mut self, now: Time, peer: PeerKey, message: ManifestMessage) {
        if !self.neighbours.contains_key(&peer) {
            return;
        }
        match message {
            ManifestMessage::State { head, .. } => self.heard_state(peer, head),
            ManifestMessage::Record(signed) => self.heard_record(now, peer, &signed),
            ManifestMessage::GetHead { have } => self.asked_for_head(now, peer, have),
            ManifestMessage::GetFacts { first, count } => {
                self.asked_for_facts(now, peer, first, count);
            }
            ManifestMessage::Hashes {
                file,
                layer,
                index,
                hashes,
            } => self.heard_hashes(now, peer, NodeAt { file, layer, index }, &hashes),
            ManifestMessage::Reject { first, count, .. } => {
                let pieces = first..first.saturating_add(count.into());
                self.heard_reject(now, peer, &pieces);
            }
            // About pieces and their bytes: for the engine and the driver.
            ManifestMessage::HaveRuns(_)
            | ManifestMessage::GetLeaves { .. }
            | ManifestMessage::Leaves { .. }
            | ManifestMessage::Missing(_)
            | ManifestMessage::Unknown(_) => {}
        }
    }

    fn heard_record(&mut self, now: Time, peer: PeerKey, signed: &Signed) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        // Also of a record that is not looked at now, so that it is asked for later.
        if is_control(signed) {
            neighbour.head = neighbour.head.max(signed.record().head);
        }
        if !neighbour.records.take(now) {
            if neighbour.records.is_flooded() {
                self.drop_neighbour(peer, Fault::Flood);
            }
            return;
        }
        match self.take(now, Some(peer), signed) {
            Ok(applied) if !applied.is_new && is_control(signed) => self.heard_twice(now, peer),
            Ok(_) => {}
            Err(Refusal::UnknownLease(_)) => self.want_head(now, peer),
            Err(refusal) if refusal.is_senders_fault() => {
                self.drop_neighbour(peer, Fault::Record(refusal));
            }
            Err(refusal) => match refusal {
                Refusal::VoidLease(_) => {}
                alarm => self.outputs.push_back(GossipOutput::Refused(alarm)),
            },
        }
    }

    /// Takes a record from `from`, or from outside.
    fn take(
        &mut self,
        now: Time,
        from: Option<PeerKey>,
        signed: &Signed,
    ) -> Result<Applied, Refusal> {
        let before = self.manifest.head();
        let applied = self.manifest.apply(signed)?;
        if self.manifest.head() > before {
            self.stall.progress(now);
            if from.is_some() {
                self.helpline.neighbours_lead();
            }
        }
        if applied.is_new {
            self.outputs
                .push_back(GossipOutput::Accepted(signed.clone()));
            self.changed(applied.changes.clone());
            if applied.state_changed {
                self.outputs.push_back(GossipOutput::StateChanged);
            }
            self.note_nodes(signed);
            self.push(from, signed);
        }
        Ok(applied)
    }

    fn changed(&mut self, changes: Changes) {
        if !changes.is_empty() {
            self.outputs.push_back(GossipOutput::Changed(changes));
        }
    }

    fn heard_hashes(&mut self, now: Time, peer: PeerKey, node: NodeAt, hashes: &[Sha256]) {
        let Some(neighbour) = self.neighbours.get_mut(&peer) else {
            return;
        };
        if !neighbour.outstanding.expects(&self.manifest, node) && !neighbour.records.take(now) {
            if neighbour.records.is_flooded() {
                self.drop_neighbour(peer, Fault::Flood);
            }
            return;
        }
        match self.manifest.expand(node, hashes) {
            Ok(changes) => {
                if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                    neighbour.outstanding.answered(&self.manifest, node);
                }
                self.helpline.hashes_came();
                self.changed(changes);
            }
            // It knows more than we do.
            Err(FactError::NotSealed { .. }) => self.want_head(now, peer),
            Err(error) => self.drop_neighbour(peer, Fault::Hashes(error)),
        }
    }

    fn drop_neighbour(&mut self, peer: PeerKey, fault: Fault) {
        self.neighbours.remove(&peer);
        self.outputs.push_back(GossipOutput::Drop { peer, fault });
    }

    fn send(&mut self, peer: PeerKey, message: ManifestMessage) {
        self.outputs.push_back(GossipOutput::Send { peer, message });
    }

    /// The earliest time at which something is due.
    fn next_wake(&mut self, now: Time) -> Option<Time> {
        let http = self.http_due_at(now);
        let neighbours = self.neighbours.values();
        let asked = neighbours
            .clone()
            .filter_map(|one| one.outstanding.due_at());
        let told = neighbours
            .filter(|one| self.is_behind(one))
            .map(|one| one.tell_at);
        let times = asked
            .chain(told)
            .chain(http)
            .chain(self.attestor.as_ref().and_then(|one| one.due_at()))
            .chain(self.head_question.due_at());
        times.min().map(|at| at.max(now))
    }

    /// True while control may still say something.
    fn is_moving(&self) -> bool {
        self.manifest.final_names().is_none()
            && self.manifest.state().rank() < 3
            && self.manifest.broken().is_none()
    }
}

/// True for records that count in control's sequence.
fn is_control(signed: &Signed) -> bool {
    matches!(signed.record().body, Body::Lease(_) | Body::Checkpoint(_))
}

/// As the count of a message.
fn count(range: &Range<u32>) -> u16 {
    u16::try_from(range.end - range.start).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
