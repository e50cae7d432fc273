//! When to send the next sync, and how long control may park it: decisions without clock or I/O.

use std::time::{Duration, Instant};

/// How long control may park a sync.
pub(crate) const PARK: Duration = Duration::from_secs(25);
/// Under load reports go out so far apart, and what changes meanwhile goes out together.
const GATHER: Duration = Duration::from_millis(50);
/// After a silence so many go out at once: a new content begins with a few that each wait for the answer to the one before.
const BURST: u32 = 8;
/// Progress alone is told no more often than this.
const PROGRESS: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What a sync is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tells something that control must acknowledge: answered at once.
    Report,
    /// Waits for something to do; tells the state as it is now.
    Parked,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a sync.
    Send(Kind),
    /// Nothing until then, or (`None`) until something happens.
    Wait(Option<Instant>),
}

/// Lets a few through at once, and then one every [`GATHER`].
#[derive(Debug, Default)]
struct Gate {
    /// When all that went through would have, one every [`GATHER`].
    paid_until: Option<Instant>,
}

impl Gate {
    /// When the next may go through.
    fn opens(&self, now: Instant) -> Instant {
        let until = self
            .paid_until
            .and_then(|until| until.checked_sub(GATHER * (BURST - 1)));
        until.map_or(now, |until| until.max(now))
    }

    fn passed(&mut self, now: Instant) {
        let begins = self.paid_until.map_or(now, |until| until.max(now));
        self.paid_until = Some(begins + GATHER);
    }
}

/// The rhythm of one node's syncs: one parked, overtaken by reports.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Something control must acknowledge is due then.
    report: Option<Instant>,
    /// Progress is to be told then.
    progress: Option<Instant>,
    last_sent: Option<Instant>,
    reports: Gate,
    /// Parked syncs, which must not be a flood however much changes at control.
    parks: Gate,
    reporting: bool,
    parked: bool,
    /// Control does not park now: nothing is to be parked before then.
    park_after: Option<Instant>,
    /// Failures in a row, and nothing is sent before then.
    failures: u32,
    not_before: Option<Instant>,
}

impl Pace {
    /// Something changed that control must know soon, and acknowledge.
    pub(crate) fn changed(&mut self, now: Instant) {
        let due = self.reports.opens(now);
        self.report.get_or_insert(due);
    }

    /// Some bytes more are held.
    pub(crate) fn progressed(&mut self, now: Instant) {
        let due = self
            .last_sent
            .map_or(now, |sent| (sent + PROGRESS).max(now));
        self.progress.get_or_insert(due);
    }

    pub(crate) fn next(&self, now: Instant) -> Step {
        if let Some(pause) = self.not_before.filter(|&pause| pause > now) {
            return Step::Wait(Some(pause));
        }
        if !self.reporting {
            if let Some(due) = self.report {
                if due <= now {
                    return Step::Send(Kind::Report);
                }
                return Step::Wait(Some(due));
            }
            return match self.park_due(now) {
                Some(due) if due <= now => Step::Send(Kind::Parked),
                due => Step::Wait(due),
            };
        }
        Step::Wait(None)
    }

    /// When the next parked sync is to begin: at once if there is none, else for the sake of progress.
    fn park_due(&self, now: Instant) -> Option<Instant> {
        if self.parked {
            return self.progress;
        }
        let apart = self.parks.opens(now);
        let idle = self.park_after.map_or(apart, |after| after.max(apart));
        Some(self.progress.map_or(idle, |progress| progress.min(idle)))
    }

    pub(crate) fn sent(&mut self, now: Instant, kind: Kind) {
        self.last_sent = Some(now);
        self.progress = None;
        match kind {
            Kind::Report => {
                self.report = None;
                self.reports.passed(now);
                self.reporting = true;
            }
            Kind::Parked => {
                self.parks.passed(now);
                self.parked = true;
            }
        }
    }

    /// `rest`: control answered a parked request early and without news, and wants to be asked again after this.
    pub(crate) fn answered(&mut self, now: Instant, kind: Kind, rest: Option<Duration>) {
        self.over(kind);
        self.failures = 0;
        self.not_before = None;
        self.park_after = rest.map(|rest| now + rest);
    }

    /// `spread` in 0..1 keeps the nodes of a fleet from coming back all at once.
    pub(crate) fn failed(&mut self, now: Instant, kind: Kind, spread: f64) {
        self.over(kind);
        let (first, longest) = BACKOFF;
        let pause = first
            .saturating_mul(1 << self.failures.min(10))
            .min(longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause.mul_f64(0.5 + 0.5 * spread));
        // Whatever was in it is untold; and an answer at once shows that control is back.
        self.report = Some(now);
    }

    fn over(&mut self, kind: Kind) {
        match kind {
            Kind::Report => self.reporting = false,
            Kind::Parked => self.parked = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn one_request_is_parked_and_a_change_overtakes_it() {
        let (mut pace, t0) = (Pace::default(), Instant::now());
        assert_eq!(pace.next(t0), Step::Send(Kind::Parked));
        pace.sent(t0, Kind::Parked);
        assert_eq!(pace.next(t0 + ms(5000)), Step::Wait(None));
        pace.changed(t0 + ms(5000));
        assert_eq!(
            pace.next(t0 + ms(5000)),
            Step::Send(Kind::Report),
            "at once after a silence"
        );
        pace.sent(t0 + ms(5000), Kind::Report);
        pace.changed(t0 + ms(5060));
        assert_eq!(
            pace.next(t0 + ms(9000)),
            Step::Wait(None),
            "one report at a time"
        );
        // Control releases the parked one, then answers the report.
        pace.answered(t0 + ms(9000), Kind::Parked, None);
        assert_eq!(
            pace.next(t0 + ms(9000)),
            Step::Wait(None),
            "nothing is parked while a report is under way"
        );
        pace.answered(t0 + ms(9000), Kind::Report, None);
        assert_eq!(pace.next(t0 + ms(9000)), Step::Send(Kind::Report));
        pace.sent(t0 + ms(9000), Kind::Report);
        pace.answered(t0 + ms(9001), Kind::Report, None);
        assert_eq!(pace.next(t0 + ms(9001)), Step::Send(Kind::Parked));
    }

    #[test]
    fn a_few_go_out_at_once_and_then_they_are_gathered() {
        for kind in [Kind::Report, Kind::Parked] {
            let (mut pace, t0) = (Pace::default(), Instant::now());
            if kind == Kind::Report {
                pace.sent(t0, Kind::Parked);
            }
            let mut sent = Vec::new();
            for millis in 5000..5400 {
                let now = t0 + ms(millis);
                if kind == Kind::Report {
                    pace.changed(now);
                }
                if pace.next(now) == Step::Send(kind) {
                    pace.sent(now, kind);
                    sent.push(millis);
                    // Answered at once.
                    pace.answered(now, kind, None);
                }
            }
            let burst = 5000..5000 + u64::from(BURST);
            let steady = [5050, 5100, 5150, 5200, 5250, 5300, 5350];
            assert_eq!(sent, burst.chain(steady).collect::<Vec<_>>(), "{kind:?}");
        }
    }

    #[test]
    fn a_control_that_does_not_park_is_asked_at_its_interval() {
        let (mut pace, t0) = (Pace::default(), Instant::now());
        pace.sent(t0, Kind::Parked);
        pace.answered(t0, Kind::Parked, Some(ms(15_000)));
        assert_eq!(pace.next(t0 + ms(1)), Step::Wait(Some(t0 + ms(15_000))));
        pace.progressed(t0 + ms(1));
        assert_eq!(
            pace.next(t0 + ms(1)),
            Step::Wait(Some(t0 + ms(1000))),
            "progress is still told"
        );
        assert_eq!(pace.next(t0 + ms(1000)), Step::Send(Kind::Parked));
    }

    #[test]
    fn progress_is_told_once_a_second_by_a_new_parked_request() {
        let (mut pace, t0) = (Pace::default(), Instant::now());
        pace.sent(t0, Kind::Parked);
        pace.progressed(t0 + ms(10));
        pace.progressed(t0 + ms(500));
        assert_eq!(pace.next(t0 + ms(500)), Step::Wait(Some(t0 + ms(1000))));
        assert_eq!(pace.next(t0 + ms(1000)), Step::Send(Kind::Parked));
        pace.sent(t0 + ms(1000), Kind::Parked);
        assert_eq!(pace.next(t0 + ms(9000)), Step::Wait(None));
    }

    #[test]
    fn failures_back_off_and_end_with_a_report() {
        let (mut pace, t0) = (Pace::default(), Instant::now());
        let mut pauses = Vec::new();
        let mut now = t0;
        for _ in 0..9 {
            pace.sent(now, Kind::Report);
            pace.failed(now, Kind::Report, 1.0);
            let Step::Wait(Some(until)) = pace.next(now) else {
                panic!("must pause")
            };
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(pace.next(now), Step::Send(Kind::Report));
        }
        assert_eq!(
            pauses,
            [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]
        );
        pace.sent(now, Kind::Report);
        pace.answered(now, Kind::Report, None);
        assert_eq!(pace.next(now), Step::Send(Kind::Parked));
    }
}
