//! What `get` shows while it runs and when it is done: for people, for programs, or not at all.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use floodway_node::get::{GetReport, GetSource};
use floodway_node::{GetEvent, Progress, State, Step};
use serde::Serialize;
use serde_json::json;

use super::explain;
use crate::human;
use crate::progress::Progress as Line;
use crate::say::{self, Out};

/// How often progress is told to programs.
const JSON_PERIOD: Duration = Duration::from_secs(1);

/// Shows one transfer; clones show the same.
#[derive(Clone)]
pub(crate) struct View(Arc<Mutex<Inner>>);

struct Inner {
    out: Out,
    json: bool,
    quiet: bool,
    line: Line,
    name: String,
    next_json: Instant,
    /// What was waited for when it was last said.
    waited: Option<String>,
    /// The report has been told: nothing comes after it.
    done: bool,
}

#[derive(Serialize)]
struct Done<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a GetReport,
}

impl View {
    /// `out`: where results and, with `json`, events go. When it is not stdout, that is where the file goes.
    pub(crate) fn new(json: bool, quiet: bool, source: &GetSource, out: Out) -> Self {
        let name = match source {
            GetSource::Torrent(torrent) => torrent.info.name.to_string(),
            GetSource::Url(_) | GetSource::Sid(_) => String::new(),
        };
        Self(Arc::new(Mutex::new(Inner {
            out,
            json,
            quiet,
            line: Line::new(json || quiet),
            name,
            next_json: Instant::now() + JSON_PERIOD,
            waited: None,
            done: false,
        })))
    }

    /// Shows what happened.
    pub(crate) fn event(&self, event: GetEvent) {
        let mut inner = self.lock();
        match event {
            GetEvent::Waiting(what) => inner.waiting(&what),
            GetEvent::Found { path, length } => inner.found(&path, length),
            GetEvent::Progress(progress) => inner.progress(&progress),
            GetEvent::Reason(reason) => inner.reason(&reason),
            GetEvent::Step(step, t_unix_us) => inner.step(step, t_unix_us),
            GetEvent::Seeding(report) => {
                inner.done(&report);
                inner.line.clear();
                inner.say("seeding; Ctrl-C ends it");
            }
        }
    }

    /// Takes the live line away.
    pub(crate) fn clear(&self) {
        self.lock().line.clear();
    }

    /// Shows how it went, once.
    pub(crate) fn done(&self, report: &GetReport) {
        self.lock().done(report);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn say(&self, text: &str) {
        if !self.quiet && !self.json {
            self.line.note(text);
        }
    }

    fn waiting(&mut self, what: &str) {
        if self.waited.as_deref() == Some(what) {
            return;
        }
        self.waited = Some(what.to_owned());
        if self.json {
            self.out.json(&json!({"event": "waiting", "for": what}));
        } else {
            self.say(&format!("waiting: {what}"));
        }
    }

    fn found(&mut self, path: &Path, length: Option<u64>) {
        if self.json {
            let shown = self.shown(path).to_string_lossy();
            self.out
                .json(&json!({"event": "found", "path": shown, "length": length}));
        }
        self.name = name(path);
    }

    /// What the file's path is for others.
    fn shown<'a>(&self, path: &'a Path) -> &'a Path {
        match self.out {
            Out::Stdout => path,
            Out::Stderr => Path::new("-"),
        }
    }

    fn step(&self, step: Step, t_unix_us: u64) {
        if !self.json || self.done {
            return;
        }
        match step {
            Step::FirstByte => self
                .out
                .json(&json!({"event": "first_byte", "t_unix_us": t_unix_us})),
            Step::FirstVerifiedPiece => {
                self.out
                    .json(&json!({"event": "first_verified_piece", "t_unix_us": t_unix_us}));
            }
            Step::Facts { verifiable, pieces } => self.out.json(&json!({
                "event": "facts",
                "t_unix_us": t_unix_us,
                "verifiable": verifiable,
                "pieces": pieces,
            })),
        }
    }

    fn reason(&self, reason: &str) {
        if self.json && !self.done {
            self.out.json(&json!({"event": "reason", "reason": reason}));
        }
    }

    fn progress(&mut self, progress: &Progress) {
        if self.done {
            return;
        }
        let counters = progress.counters;
        if self.json && Instant::now() >= self.next_json {
            self.next_json = Instant::now() + JSON_PERIOD;
            self.out.json(&json!({
                "event": "progress",
                "bytes": progress.have_bytes,
                "length": progress.length,
                "peers": progress.peers,
                "bytes_per_second": rate(progress),
                "peer_bytes": counters.peer,
                "relay_bytes": counters.relay,
                "origin_bytes": counters.origin,
                "resumed_bytes": counters.resumed,
            }));
        }
        let name = &self.name;
        self.line.show(progress.have_bytes, progress.length, || {
            text(name, progress)
        });
    }

    fn done(&mut self, report: &GetReport) {
        if std::mem::replace(&mut self.done, true) || self.quiet {
            return;
        }
        if self.json {
            let report = &GetReport {
                path: self.shown(&report.path).to_owned(),
                ..report.clone()
            };
            if let Some(explanation) = &report.explanation {
                self.out.json(&explain::json(report, explanation));
            }
            let event = "done";
            return self.out.json(&Done { event, report });
        }
        self.line.clear();
        let fetched = report.peer_bytes + report.relay_bytes + report.origin_bytes;
        let sources = human::sources(report.peer_bytes, report.relay_bytes, report.origin_bytes);
        let sources = if sources.is_empty() {
            "nothing had to be fetched".into()
        } else {
            sources
        };
        self.out.line(format_args!(
            "{}  {} in {:.1}s ({})  {sources}",
            self.shown(&report.path).display(),
            human::bytes(report.bytes),
            report.seconds,
            human::rate(per_second(fetched, report.seconds)),
        ));
        match report.sha256 {
            Some(sha256) => self.out.line(format_args!(
                "verified by {}, sha256 {sha256}",
                report.verified_by
            )),
            None => self
                .out
                .line(format_args!("verified by {}", report.verified_by)),
        }
        if let Some(explanation) = &report.explanation {
            for line in explain::lines(report, explanation) {
                say::note(line);
            }
            return;
        }
        for reason in &report.reasons {
            say::note(format_args!("note: {reason}"));
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn rate(progress: &Progress) -> u64 {
    progress
        .rate_peer
        .0
        .saturating_add(progress.rate_relay.0)
        .saturating_add(progress.rate_origin.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate for people"
)]
fn per_second(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

/// One line: what, how fast, how long still, from where.
fn text(name: &str, progress: &Progress) -> String {
    let mut parts = vec![name.to_owned()];
    match &progress.state {
        State::Checking => parts.push("examining what is here".into()),
        State::Paused(why) => parts.push(format!("paused: {why}")),
        State::Failed(why) => parts.push(format!("failed: {why}")),
        State::Finishing | State::Done => parts.push("finishing".into()),
        State::Fetching => {
            let rate = rate(progress);
            parts.push(human::rate(rate));
            let left = progress.length;
            let left = left.map(|length| length.saturating_sub(progress.have_bytes));
            if let Some(seconds) = left.and_then(|left| left.checked_div(rate)) {
                parts.push(format!(
                    "ETA {}",
                    human::duration(Duration::from_secs(seconds))
                ));
            }
            parts.push(format!("{} peers", progress.peers));
        }
    }
    let counters = progress.counters;
    parts.push(human::sources(
        counters.peer,
        counters.relay,
        counters.origin,
    ));
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}
