//! How a command ends: exit codes, and errors as people and programs get them.

use std::fmt::Display;
use std::process::ExitCode;

use serde::Serialize;

use crate::say::{self, Out};

/// Every exit code there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; also stopped while seeding after done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Bad usage, malformed configuration or torrent.
    Usage = 2,
    /// Hash or `--sha256` mismatch; no final file was made.
    Mismatch = 3,
    /// Not found: origin 404, unknown task, swarm or file, no agent matches.
    NotFound = 4,
    /// Refused: token, allow-list, policy, or nobody left to ask.
    Refused = 5,
    /// Interrupted before done; the same command resumes.
    Interrupted = 130,
}

impl Exit {
    /// The exit that a library's error names by its code; [`Exit::Failed`] for any other.
    pub(crate) fn from_code(code: u8) -> Self {
        [
            Self::Done,
            Self::Usage,
            Self::Mismatch,
            Self::NotFound,
            Self::Refused,
            Self::Interrupted,
        ]
        .into_iter()
        .find(|exit| *exit as u8 == code)
        .unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed: what happened and whose fault it was, and (as the hint) what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            hint: None,
        }
    }

    pub(crate) fn failed(message: impl Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// A hint for failures that have none yet.
    pub(crate) fn or_hint(self, hint: impl Display) -> Self {
        if self.hint.is_some() {
            self
        } else {
            self.hint(hint)
        }
    }

    /// Tells people on stderr and programs where they listen, if they do.
    pub(crate) fn report(&self, programs: Option<Out>) -> Exit {
        if let Some(out) = programs {
            out.json(&Failed {
                event: "failed",
                exit: self.exit as u8,
                error: &self.message,
            });
        }
        say::note(format_args!("error: {}", self.message));
        if let Some(hint) = &self.hint {
            say::note(format_args!("hint: {hint}"));
        }
        self.exit
    }
}

/// The last line of a failed command, for programs.
#[derive(Serialize)]
struct Failed<'a> {
    event: &'static str,
    exit: u8,
    error: &'a str,
}

/// How a command ended, short of a signal or a panic.
pub(crate) type Outcome = Result<Exit, Failure>;
