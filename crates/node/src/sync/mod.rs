//! One node's conversation with control: a parked sync, overtaken by reports.

mod pace;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use floodway_api::sync::{SyncReply, SyncRequest};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use crate::control_client::{ClientError, ControlClient};
use pace::{Kind, PARK, Pace, Step};

/// Requests under way at most: control releases the parked one when a later one comes, so more mean that it does not.
const UNDER_WAY: usize = 3;
/// Bounds of the interval that control may ask for.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// What came of a sync.
#[derive(Debug)]
pub(crate) enum Synced {
    /// Control has made durable what `request` reported.
    Reply {
        /// What was said.
        request: Box<SyncRequest>,
        /// What control answered; `None` when a later answer has come already.
        reply: Option<Box<SyncReply>>,
    },
    /// It failed; it will be tried again unless the error says that it is of no use.
    Failed(ClientError),
}

/// Sends syncs in the right rhythm. The caller fills them from the state of all its contents.
pub(crate) struct Syncer {
    client: ControlClient,
    pace: Pace,
    boot: u64,
    known: u64,
    sequence: u64,
    applied: u64,
    under_way: Vec<UnderWay>,
    answers: mpsc::UnboundedReceiver<Answer>,
    answer: mpsc::UnboundedSender<Answer>,
    down_since: Option<Instant>,
}

struct UnderWay {
    sequence: u64,
    kind: Kind,
    begun: Instant,
    task: AbortHandle,
}

struct Answer {
    sequence: u64,
    request: SyncRequest,
    result: Result<SyncReply, ClientError>,
}

impl Syncer {
    pub(crate) fn new(client: ControlClient) -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        Self {
            client,
            pace: Pace::default(),
            boot: fastrand::u64(1..),
            known: 0,
            sequence: 0,
            applied: 0,
            under_way: Vec::new(),
            answers,
            answer,
            down_since: None,
        }
    }

    /// Something changed that control must know soon, and acknowledge.
    pub(crate) fn changed(&mut self) {
        self.pace.changed(Instant::now());
    }

    /// Some bytes more are held.
    pub(crate) fn progressed(&mut self) {
        self.pace.progressed(Instant::now());
    }

    /// Since when control has not answered; `None` while it does.
    pub(crate) fn down_since(&self) -> Option<Instant> {
        self.down_since
    }

    /// Sends what is due, `fill` giving the state as it is then, until an answer comes. Cancel-safe.
    pub(crate) async fn next(&mut self, mut fill: impl FnMut() -> SyncRequest) -> Synced {
        loop {
            let until = loop {
                match self.pace.next(Instant::now()) {
                    Step::Send(kind) => self.send(kind, fill()),
                    Step::Wait(until) => break until,
                }
            };
            tokio::select! {
                Some(answer) = self.answers.recv() => {
                    if let Some(synced) = self.take(answer) {
                        return synced;
                    }
                }
                () = sleep_until(until) => {}
            }
        }
    }

    /// Says goodbye: control drops this node from its lists. Waits two seconds at most.
    pub(crate) async fn leave(mut self, mut request: SyncRequest) {
        for request in self.under_way.drain(..) {
            request.task.abort();
        }
        request.boot = self.boot;
        request.known = self.known;
        request.wait_ms = 0;
        request.leaving = true;
        // Nothing is lost when it fails: control notices a silent node too.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.client.sync(&request)).await;
    }

    fn send(&mut self, kind: Kind, mut request: SyncRequest) {
        let begun = Instant::now();
        self.pace.sent(begun, kind);
        self.sequence += 1;
        let sequence = self.sequence;
        request.boot = self.boot;
        request.known = self.known;
        request.wait_ms = match kind {
            Kind::Report => 0,
            Kind::Parked => u64::try_from(PARK.as_millis()).unwrap_or(u64::MAX),
        };
        let (client, answer) = (self.client.clone(), self.answer.clone());
        let task: JoinHandle<()> = tokio::spawn(async move {
            let result = client.sync(&request).await;
            // The receiver is gone when the node shuts down.
            let _ = answer.send(Answer {
                sequence,
                request,
                result,
            });
        });
        self.under_way.push(UnderWay {
            sequence,
            kind,
            begun,
            task: task.abort_handle(),
        });
        if self.under_way.len() > UNDER_WAY {
            self.under_way.remove(0).task.abort();
        }
    }

    /// `None` for the late failure of a request that a newer answer has made pointless.
    fn take(&mut self, answer: Answer) -> Option<Synced> {
        let now = Instant::now();
        let index = self
            .under_way
            .iter()
            .position(|request| request.sequence == answer.sequence)?;
        let sent = self.under_way.remove(index);
        let newest = answer.sequence == self.sequence;
        // A newer request of the same kind may still be under way: then this one's end changes nothing for the pace.
        let replaced = self.under_way.iter().any(|other| other.kind == sent.kind);
        match answer.result {
            Ok(reply) => {
                self.down_since = None;
                if !replaced {
                    let interval =
                        Duration::from_millis(reply.interval_ms).clamp(INTERVAL.0, INTERVAL.1);
                    // Without news before its time: control has no room to park.
                    let early = sent.kind == Kind::Parked
                        && newest
                        && now - sent.begun < PARK.min(interval) / 2;
                    let rest = (early && reply.version == answer.request.known).then_some(interval);
                    self.pace.answered(now, sent.kind, rest);
                }
                let fresh = answer.sequence > self.applied;
                if fresh {
                    self.applied = answer.sequence;
                    self.known = reply.version;
                }
                Some(Synced::Reply {
                    request: Box::new(answer.request),
                    reply: fresh.then(|| Box::new(reply)),
                })
            }
            Err(error) => {
                if answer.sequence < self.applied || replaced {
                    if !replaced {
                        self.pace.answered(now, sent.kind, None);
                    }
                    return None;
                }
                self.down_since.get_or_insert(now);
                self.pace.failed(now, sent.kind, fastrand::f64());
                Some(Synced::Failed(error))
            }
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        for request in &self.under_way {
            request.task.abort();
        }
    }
}

/// Sleeps until then; for ever when there is no such time.
pub(crate) async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
