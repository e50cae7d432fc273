//! Words for the outside: whole lines, flushed one by one. What nobody reads any more (a closed pipe) is dropped.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// Where results and events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// As usual.
    Stdout,
    /// Stdout is for the bytes of a file.
    Stderr,
}

impl Out {
    /// A line.
    pub(crate) fn line(self, text: impl Display) {
        match self {
            Self::Stdout => line(text),
            Self::Stderr => note(text),
        }
    }

    /// A compact JSON object on a line.
    pub(crate) fn json(self, value: &impl Serialize) {
        self.line(json_text(value));
    }
}

/// A line on stdout.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// A compact JSON object on stdout.
pub(crate) fn json(value: &impl Serialize) {
    line(json_text(value));
}

fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("own types have string keys only")
}

/// A line on stderr.
pub(crate) fn note(text: impl Display) {
    let mut err = io::stderr().lock();
    drop(writeln!(err, "{text}"));
}
