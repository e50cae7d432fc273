//! The demo's live table: what the origin has sent, and how far every agent is.

use std::io::IsTerminal;

use floodway_api::rest::{Task, TaskAgent};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::human;
use crate::progress::Progress;

pub(crate) enum Table {
    Live {
        bars: MultiProgress,
        origin: ProgressBar,
        agents: Vec<ProgressBar>,
        length: u64,
    },
    Plain {
        line: Progress,
        length: u64,
    },
}

impl Table {
    /// Live on a terminal, plain lines otherwise; `silent`: nothing.
    pub(crate) fn new(silent: bool, length: u64) -> Self {
        if silent || !std::io::stderr().is_terminal() {
            return Self::Plain {
                line: Progress::new(silent),
                length,
            };
        }
        let bars = MultiProgress::new();
        let origin = bars.add(bar(length));
        origin.set_prefix("origin sent");
        Self::Live {
            bars,
            origin,
            agents: Vec::new(),
            length,
        }
    }

    /// Shows the task as it is now, and the bytes that the origin has sent.
    pub(crate) fn show(&mut self, task: &Task, sent: u64) {
        match self {
            Self::Live {
                bars,
                origin,
                agents,
                length,
            } => {
                origin.set_position(sent.min(*length));
                #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
                let copies = sent as f64 / (*length as f64).max(1.0);
                origin.set_message(format!("{} ({copies:.2} copies)", human::bytes(sent)));
                while agents.len() < task.agents.len() {
                    agents.push(bars.add(bar(*length)));
                }
                for (agent, bar) in task.agents.iter().zip(agents) {
                    bar.set_prefix(agent.name.clone());
                    bar.set_position(agent.bytes);
                    bar.set_message(format!("{}  {}", human::word(agent.state), sources(agent)));
                }
            }
            Self::Plain { line, length } => {
                let held: u64 = task.agents.iter().map(|agent| agent.bytes).sum();
                let total = *length * task.agents.len() as u64;
                line.show(held, Some(total.max(1)), || {
                    format!(
                        "of all agents' bytes held; the origin sent {}",
                        human::bytes(sent)
                    )
                });
            }
        }
    }

    /// Takes the table away.
    pub(crate) fn clear(&self) {
        match self {
            // An error means that the terminal is gone.
            Self::Live { bars, .. } => drop(bars.clear()),
            Self::Plain { line, .. } => line.clear(),
        }
    }
}

fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:12} {bar:24} {percent:>3}%  {wide_msg}");
    ProgressBar::new(length).with_style(style.expect("a constant template"))
}

fn sources(agent: &TaskAgent) -> String {
    human::sources(
        agent.sources.peer,
        agent.sources.relay,
        agent.sources.origin,
    )
}
