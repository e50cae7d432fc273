//! What the demo found, for people and for programs.

use std::fmt::Write;

use floodway_api::rest::SourceBytes;
use serde_json::{Value, json};

use super::input::Input;
use crate::human::{self, Table};

/// One way of getting the file to everybody.
pub(crate) struct Run {
    /// Until the last one had it.
    pub(crate) seconds: f64,
    /// Body bytes that the origin sent.
    pub(crate) bytes_sent: u64,
}

/// One agent of the Floodway part.
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) seconds: f64,
    pub(crate) sources: SourceBytes,
    /// Its file has the origin file's SHA-256.
    pub(crate) verified: bool,
}

pub(crate) struct Report {
    pub(crate) input: Input,
    pub(crate) floodway: Run,
    pub(crate) plain_http: Run,
    pub(crate) agents: Vec<Agent>,
}

impl Report {
    /// How many times the origin sent the file.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn copies(&self, run: &Run) -> f64 {
        run.bytes_sent as f64 / (self.input.length as f64).max(1.0)
    }

    pub(crate) fn json(&self) -> Value {
        let agents = self.agents.iter().map(|agent| {
            json!({
                "seconds": agent.seconds,
                "peer_bytes": agent.sources.peer,
                "relay_bytes": agent.sources.relay,
                "origin_bytes": agent.sources.origin,
                "verified": agent.verified,
            })
        });
        json!({
            "file_bytes": self.input.length,
            "sha256": self.input.sha256,
            "makespan_seconds": self.floodway.seconds,
            "origin": {
                "bytes_sent": self.floodway.bytes_sent,
                "copies": self.copies(&self.floodway),
            },
            "plain_http": {
                "makespan_seconds": self.plain_http.seconds,
                "bytes_sent": self.plain_http.bytes_sent,
            },
            "agents": agents.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn text(&self) -> String {
        let mut agents = Table::new(&["agent", "seconds", "from", "verified"]);
        for agent in &self.agents {
            let SourceBytes {
                peer,
                relay,
                origin,
                ..
            } = agent.sources;
            agents.row(&[
                &agent.name,
                &format_args!("{:.1}", agent.seconds),
                &human::sources(peer, relay, origin),
                &if agent.verified { "sha256 ok" } else { "WRONG" },
            ]);
        }
        let mut runs = Table::new(&["way", "seconds until all have it", "origin sent"]);
        for (name, run) in [
            ("Floodway", &self.floodway),
            ("plain HTTP", &self.plain_http),
        ] {
            runs.row(&[
                &name,
                &format_args!("{:.1}", run.seconds),
                &format_args!(
                    "{} ({:.2} copies)",
                    human::bytes(run.bytes_sent),
                    self.copies(run)
                ),
            ]);
        }
        let mut text = String::new();
        let name = &self.input.name;
        let length = human::bytes(self.input.length);
        write!(
            text,
            "{name}, {length}, sha256 {}\n\n{agents}\n\n{runs}\n",
            self.input.sha256
        )
        .expect("strings take everything");
        text
    }
}
