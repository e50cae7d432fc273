//! HTTP trackers: one task per tracker tells it what we have and learns who else is there.

use std::net::SocketAddr;
use std::time::Duration;

use floodway_origin::{OriginError, ReadRequest, SourceUrl, SourceUrlError};
use floodway_proto::InfoHash;
use floodway_proto::tracker::{AnnounceRequest, AnnounceResponse, Event, TrackerError};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::content::{Packet, Progress, State};
use crate::session::Session;

/// No tracker's interval is taken to be shorter than this.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Nor longer than this.
const INTERVAL_MAX: Duration = Duration::from_hours(1);
/// Pause after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
const BACKOFF_LAST: Duration = Duration::from_mins(5);
/// While nobody was found, asking again begins after this and doubles, if the tracker does not forbid it.
const LONELY_FIRST: Duration = Duration::from_secs(5);
/// The longest reply that is read, in bytes.
const REPLY_MAX: usize = 1 << 20;
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shutdown waits for a tracker.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Peers asked for.
const WANTED: u32 = 100;

/// Why an announce failed.
#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error(transparent)]
    Url(#[from] SourceUrlError),
    #[error(transparent)]
    Http(#[from] OriginError),
    #[error("its reply is longer than {REPLY_MAX} bytes")]
    TooLong,
    #[error("it did not answer within {} s", ANNOUNCE_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Reply(#[from] TrackerError),
}

impl AnnounceError {
    /// When the tracker wants to be asked again, if it said so.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Http(error) => error.retry_after(),
            Self::Reply(TrackerError::Refused { retry_in_s, .. }) => {
                retry_in_s.map(|seconds| Duration::from_secs(seconds.into()))
            }
            Self::Url(_) | Self::TooLong | Self::Timeout | Self::Reply(_) => None,
        }
    }
}

/// One tracker of one content.
pub(crate) struct Announcer {
    pub(crate) session: Session,
    pub(crate) tracker: Url,
    pub(crate) name: InfoHash,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) packets: mpsc::Sender<Packet>,
    /// Found peers go here.
    pub(crate) found: mpsc::UnboundedSender<Vec<SocketAddr>>,
    pub(crate) stop: CancellationToken,
}

/// What decides when to announce again.
#[derive(Default)]
struct Pace {
    failures: u32,
    /// Announces in a row that found nobody.
    lonely: u32,
}

impl Pace {
    fn after_failure(&mut self, asked: Option<Duration>) -> Duration {
        let backoff = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF_LAST);
        self.failures += 1;
        asked.unwrap_or(backoff).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }

    fn after_reply(&mut self, reply: &AnnounceResponse, seeking: bool) -> Duration {
        self.failures = 0;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let interval = seconds(reply.interval_s).clamp(INTERVAL_MIN, INTERVAL_MAX);
        if !reply.peers.is_empty() || !seeking {
            self.lonely = 0;
            return interval;
        }
        let early = LONELY_FIRST.saturating_mul(1 << self.lonely.min(10));
        self.lonely += 1;
        let allowed = reply.min_interval_s.map_or(Duration::ZERO, seconds);
        early
            .max(allowed)
            .clamp(INTERVAL_MIN, INTERVAL_MAX)
            .min(interval)
    }
}

impl Announcer {
    /// Announces until it is stopped, then says goodbye.
    pub(crate) async fn run(mut self) {
        let mut pace = Pace::default();
        let mut event = Event::Started;
        let mut was_complete = self.is_complete();
        let mut tracker_id = None;
        let mut known = false;
        loop {
            let request = self.request(event, tracker_id.clone());
            let result = tokio::select! {
                result = timeout(ANNOUNCE_TIMEOUT, self.announce(&request)) => result,
                () = self.stop.cancelled() => break,
            };
            let wait = match result.unwrap_or(Err(AnnounceError::Timeout)) {
                Ok(reply) => {
                    known = true;
                    event = Event::Regular;
                    self.take(&reply);
                    let wait = pace.after_reply(&reply, !self.is_complete());
                    tracker_id = reply.tracker_id.or(tracker_id);
                    wait
                }
                Err(error) => {
                    self.report(&error).await;
                    if matches!(error, AnnounceError::Url(_)) {
                        // It will never be one that we can ask.
                        return;
                    }
                    pace.after_failure(error.retry_after())
                }
            };
            if !self.pause(wait, &mut was_complete, &mut event).await {
                break;
            }
        }
        if known {
            let request = self.request(Event::Stopped, tracker_id);
            // Politeness, within reason: a tracker forgets us by itself.
            let _ = timeout(GOODBYE_TIMEOUT, self.announce(&request)).await;
        }
    }

    /// Waits for the next announce; becoming complete is told at once. False when it is over.
    async fn pause(&mut self, wait: Duration, was_complete: &mut bool, event: &mut Event) -> bool {
        let until = Instant::now() + wait;
        let became_complete = async {
            // The sender lives as long as the content.
            let done = self
                .progress
                .wait_for(|progress| is_complete(&progress.state));
            if done.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => true,
            () = became_complete, if !*was_complete => {
                *was_complete = true;
                // A tracker that does not know us yet is told of the start first.
                if *event == Event::Regular {
                    *event = Event::Completed;
                }
                true
            }
            () = self.stop.cancelled() => false,
        }
    }

    fn is_complete(&self) -> bool {
        is_complete(&self.progress.borrow().state)
    }

    fn request(&self, event: Event, tracker_id: Option<String>) -> AnnounceRequest {
        let progress = self.progress.borrow();
        let counters = progress.counters;
        AnnounceRequest {
            info_hash: self.name,
            peer: self.session.name(),
            port: self.session.peer_addr().port(),
            uploaded: counters.sent,
            downloaded: counters.peer + counters.relay + counters.origin,
            // Not 0, which would say that all is here.
            left: progress
                .length
                .map_or(1, |length| length.saturating_sub(progress.have_bytes)),
            event,
            compact: true,
            no_peer_id: true,
            // A complete node asks too: whoever began at the same moment may not hear of it for a whole interval.
            wanted: Some(WANTED),
            address: None,
            key: None,
            tracker_id,
        }
    }

    async fn announce(&self, request: &AnnounceRequest) -> Result<AnnounceResponse, AnnounceError> {
        let url: SourceUrl = request.to_url(self.tracker.as_str()).parse()?;
        let read = ReadRequest::whole(url);
        let mut body = self
            .session
            .origin()
            .read(&read, self.session.tracker_guard())
            .await?;
        let mut reply = Vec::new();
        while let Some(chunk) = body.next().await {
            reply.extend_from_slice(&chunk?);
            if reply.len() > REPLY_MAX {
                return Err(AnnounceError::TooLong);
            }
        }
        Ok(AnnounceResponse::decode(&reply)?)
    }

    fn take(&self, reply: &AnnounceResponse) {
        if let Some(warning) = &reply.warning {
            tracing::warn!(tracker = %self.shown(), warning, "the tracker warns");
        }
        let usable = |addr: &SocketAddr| addr.port() != 0 && !addr.ip().is_unspecified();
        let peers = reply.peers.iter().map(|peer| peer.address).filter(usable);
        // A driver that is gone does not care.
        let _ = self.found.send(peers.collect());
    }

    async fn report(&self, error: &AnnounceError) {
        self.session.metrics().announce_failures.add(1);
        let (tracker, error) = (self.shown(), error.to_string());
        tracing::warn!(tracker, error, "cannot announce");
        // A driver that is gone does not care.
        let _ = self
            .packets
            .send(Packet::TrackerFailed { tracker, error })
            .await;
    }

    /// The tracker without its secrets: the path holds the announce key.
    fn shown(&self) -> String {
        self.tracker.origin().ascii_serialization()
    }
}

fn is_complete(state: &State) -> bool {
    matches!(state, State::Finishing | State::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(interval_s: u32, min_interval_s: Option<u32>, peers: usize) -> AnnounceResponse {
        let peer = floodway_proto::tracker::TrackerPeer {
            address: "10.0.0.1:1".parse().unwrap(),
            name: None,
        };
        AnnounceResponse {
            interval_s,
            min_interval_s,
            complete: None,
            incomplete: None,
            warning: None,
            tracker_id: None,
            peers: vec![peer; peers],
        }
    }

    #[test]
    fn a_lonely_node_asks_early_but_never_earlier_than_allowed() {
        let mut pace = Pace::default();
        let mut next = |reply| pace.after_reply(&reply, true).as_secs();
        assert_eq!(next(reply(1800, None, 0)), 5);
        assert_eq!(next(reply(1800, None, 0)), 10);
        assert_eq!(next(reply(1800, Some(60), 0)), 60);
        assert_eq!(
            next(reply(30, None, 0)),
            30,
            "never later than the interval"
        );
        assert_eq!(next(reply(1800, Some(60), 3)), 1800);
        assert_eq!(next(reply(1800, None, 0)), 5);
        assert_eq!(next(reply(0, None, 1)), 5);
        assert_eq!(next(reply(u32::MAX, None, 1)), 3600);
        let seed = pace.after_reply(&reply(1800, None, 0), false);
        assert_eq!(seed.as_secs(), 1800, "a seed waits to be found");
    }

    #[test]
    fn failures_back_off_and_a_tracker_may_say_when() {
        let mut pace = Pace::default();
        let waits: Vec<_> = (0..9).map(|_| pace.after_failure(None).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(
            pace.after_failure(Some(Duration::from_secs(7))).as_secs(),
            7
        );
        pace.after_reply(&reply(60, None, 1), true);
        assert_eq!(pace.after_failure(None).as_secs(), 5);
    }
}
