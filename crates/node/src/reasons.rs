//! Why a transfer went the way it went, for reports and `--explain`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use floodway_swarm::{HttpPlan, PlanReason};

use crate::ContentEvent;

/// More reasons than this are not kept: the first ones tell the story.
const MOST: usize = 64;

type Listener = Arc<dyn Fn(String) + Send + Sync>;

/// A list of reasons, each once, in the order in which they came up. Clones share it.
#[derive(Clone)]
pub(crate) struct Reasons {
    told: Arc<Mutex<Told>>,
    listener: Listener,
}

#[derive(Default)]
struct Told {
    list: Vec<String>,
    /// Why the file is fetched in the way in which it is.
    decisive: Option<String>,
}

impl Reasons {
    /// `listener` gets each reason when it first comes up.
    pub(crate) fn new(listener: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self {
            told: Arc::default(),
            listener: Arc::new(listener),
        }
    }

    pub(crate) fn add(&self, reason: impl Into<String>) {
        let reason = reason.into();
        {
            let list = &mut self.told().list;
            if list.len() >= MOST || list.contains(&reason) {
                return;
            }
            list.push(reason.clone());
        }
        (self.listener)(reason);
    }

    /// Adds the reason why the file is fetched in another way from now on.
    pub(crate) fn decide(&self, reason: String) {
        self.told().decisive = Some(reason.clone());
        self.add(reason);
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.told().list.clone()
    }

    /// The last one that [decided](Self::decide) how the file was fetched.
    pub(crate) fn decisive(&self) -> Option<String> {
        self.told().decisive.clone()
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event says about the way of the transfer; `None` for what is not worth keeping.
pub(crate) fn of_event(event: &ContentEvent) -> Option<String> {
    Some(match event {
        ContentEvent::Plan(plan) => of_plan(*plan)?.to_owned(),
        ContentEvent::Banned { addr, piece } => {
            format!(
                "peer {addr} was banned: it sent wrong bytes of piece {}",
                piece.0
            )
        }
        ContentEvent::SourceDropped { source, piece } => {
            format!(
                "{source} was dropped: it sent wrong bytes of piece {}",
                piece.0
            )
        }
        ContentEvent::SourceFailed { error, gone, .. } => {
            let then = if *gone {
                "; it is not used any more"
            } else {
                ""
            };
            format!("{error}{then}")
        }
        ContentEvent::TrackerFailed { tracker, error } => format!("tracker {tracker}: {error}"),
        ContentEvent::PieceFailed(piece) => {
            format!("piece {} came damaged and was fetched again", piece.0)
        }
        ContentEvent::PieceLost(piece) => format!(
            "piece {} on this disk had gone bad and was fetched again",
            piece.0
        ),
        ContentEvent::Paused(error) => format!("paused: {error}"),
        ContentEvent::Note(note) => note.to_string(),
        ContentEvent::PieceDone { .. }
        | ContentEvent::Resumed
        | ContentEvent::FirstByte
        | ContentEvent::Complete
        | ContentEvent::Record(_)
        | ContentEvent::BodyEnded { .. }
        | ContentEvent::Facts { .. }
        | ContentEvent::Final { .. }
        | ContentEvent::AllHashes { .. } => return None,
    })
}

/// What the decision about HTTP means, in words.
fn of_plan(plan: HttpPlan) -> Option<&'static str> {
    Some(match plan.reason {
        PlanReason::NoSource | PlanReason::NothingLeft => return None,
        PlanReason::Grace => "peers get a short time to answer before HTTP is used",
        PlanReason::NoPeers => "HTTP: no peers are known",
        PlanReason::Small => "HTTP: the file is small",
        PlanReason::Speed => "HTTP beside the peers: speed is preferred",
        PlanReason::FirstCopies => "HTTP: no connected peer has the missing pieces",
        PlanReason::PeersStalled => "HTTP: the connected peers deliver nothing",
        PlanReason::PeersServe => "HTTP rests: peers deliver",
        PlanReason::Leased => "HTTP: this node fetches its leased pieces for everybody",
    })
}

#[cfg(test)]
mod tests {
    use floodway_proto::digest::PieceDigest;
    use floodway_proto::{ByteRate, PieceIndex};

    use super::*;

    #[test]
    fn each_reason_comes_once_and_the_list_has_an_end() {
        let heard = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&heard);
        let reasons = Reasons::new(move |_| *counter.lock().unwrap() += 1);
        reasons.add("a");
        reasons.clone().add("a");
        for n in 0..100 {
            reasons.add(format!("{n}"));
        }
        assert_eq!(reasons.list().len(), MOST);
        assert_eq!(*heard.lock().unwrap(), MOST);
    }

    #[test]
    fn what_decided_last_is_kept_whatever_else_is_told() {
        let reasons = Reasons::new(|_| ());
        reasons.add("a peer was banned");
        assert_eq!(reasons.decisive(), None);
        reasons.decide("no relay is live".into());
        for n in 0..MOST {
            reasons.add(format!("{n}"));
        }
        assert_eq!(reasons.decisive().as_deref(), Some("no relay is live"));
        reasons.decide("control is away".into());
        assert_eq!(reasons.decisive().as_deref(), Some("control is away"));
    }

    #[test]
    fn plans_and_faults_are_told_in_words_and_routine_is_not() {
        let plan = |reason| {
            ContentEvent::Plan(HttpPlan {
                relay: ByteRate::MAX,
                origin: ByteRate::ZERO,
                reason,
            })
        };
        assert_eq!(
            of_event(&plan(PlanReason::NoPeers)).as_deref(),
            Some("HTTP: no peers are known")
        );
        assert_eq!(of_event(&plan(PlanReason::NothingLeft)), None);
        assert_eq!(
            of_event(&ContentEvent::PieceDone {
                piece: PieceIndex(1),
                digest: PieceDigest {
                    sha1: None,
                    node: None
                }
            }),
            None
        );
        let banned = ContentEvent::Banned {
            addr: "127.0.0.1:1".parse().unwrap(),
            piece: PieceIndex(7),
        };
        assert!(of_event(&banned).unwrap().contains("127.0.0.1:1"));
    }
}
