//! Words for the outside: whole lines, flushed one by one. What nobody reads any more (a closed pipe) is dropped.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

/// A line on stdout.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// A compact JSON object on stdout.
pub(crate) fn json(value: &impl Serialize) {
    line(serde_json::to_string(value).expect("own types have string keys only"));
}

/// A line on stderr.
pub(crate) fn note(text: impl Display) {
    let mut err = io::stderr().lock();
    drop(writeln!(err, "{text}"));
}
