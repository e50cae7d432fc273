//! Progress for people, on stderr: one live line on a terminal, plain lines every few seconds when piped.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{human, say};

/// How often a plain line is written.
const PLAIN_PERIOD: Duration = Duration::from_secs(3);

/// One line that shows how far something is.
pub(crate) enum Progress {
    Live(ProgressBar),
    Plain { next: Instant },
    Silent,
}

impl Progress {
    /// Live on a terminal, plain otherwise; `silent`: nothing at all.
    pub(crate) fn new(silent: bool) -> Self {
        if silent {
            return Self::Silent;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Plain {
                next: Instant::now() + PLAIN_PERIOD,
            };
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {percent:>3}%  {wide_msg}");
        bar.set_style(style.expect("a constant template"));
        Self::Live(bar)
    }

    /// Shows `done` of `total` bytes, which may not be known yet, and a text.
    pub(crate) fn show(&mut self, done: u64, total: Option<u64>, text: impl FnOnce() -> String) {
        let text = || match total {
            Some(_) => text(),
            None => format!("{}, size not known yet  {}", human::bytes(done), text()),
        };
        match self {
            Self::Live(bar) => {
                // Of an unknown size nothing of the bar is filled.
                bar.set_length(total.unwrap_or(u64::MAX));
                bar.set_position(done);
                bar.set_message(text());
            }
            Self::Plain { next } if Instant::now() >= *next => {
                *next = Instant::now() + PLAIN_PERIOD;
                let text = text();
                match total {
                    Some(total) => {
                        say::note(format_args!("{:>3}%  {text}", human::percent(done, total)));
                    }
                    None => say::note(text),
                }
            }
            Self::Plain { .. } | Self::Silent => {}
        }
    }

    /// Writes a line that stays.
    pub(crate) fn note(&self, text: &str) {
        match self {
            Self::Live(bar) => bar.suspend(|| say::note(text)),
            Self::Plain { .. } => say::note(text),
            Self::Silent => {}
        }
    }

    /// Takes the live line away.
    pub(crate) fn clear(&self) {
        if let Self::Live(bar) = self {
            bar.finish_and_clear();
        }
    }
}
