//! Words for the outside: whole lines, flushed one by one. What nobody reads any more (a closed pipe) is dropped.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::exit::Failure;

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

/// Checks a path that is to stand in a JSON line.
///
/// # Errors
/// When it is not UTF-8.
pub(crate) fn fits_json(output: &Path) -> Result<(), Failure> {
    if std::path::absolute(output).is_ok_and(|path| path.to_str().is_none()) {
        return Err(Failure::usage(
            "the output path is not UTF-8 text, and JSON can hold nothing else",
        )
        .hint("leave `--json` away, or choose another path with `-o`"));
    }
    Ok(())
}
