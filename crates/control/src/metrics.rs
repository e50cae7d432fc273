//! Counters, and the Prometheus text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::Gauges;

/// What control counts since its start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) syncs: AtomicU64,
    pub(crate) announces: AtomicU64,
    pub(crate) scrapes: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) db_errors: AtomicU64,
}

/// Writes one metric family after another in the text format of Prometheus.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a String takes all");
        self.0.push('\n');
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        self.line(format_args!("{name} {value}"));
    }
}

impl Metrics {
    /// The page at `/metrics`.
    pub(crate) fn text(&self, gauges: &Gauges, ready: bool) -> String {
        let mut page = Page(String::new());
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family("floodway_build_info", "gauge", "The running version.");
        let version = env!("CARGO_PKG_VERSION");
        page.line(format_args!(
            "floodway_build_info{{role=\"control\",version=\"{version}\"}} 1"
        ));
        page.single(
            "floodway_control_ready",
            "gauge",
            "1 while the database takes writes.",
            ready.into(),
        );
        page.family(
            "floodway_control_tasks",
            "gauge",
            "Tasks by kind and state.",
        );
        for ((kind, state), tasks) in &gauges.tasks {
            page.line(format_args!(
                "floodway_control_tasks{{kind=\"{kind}\",state=\"{state}\"}} {tasks}"
            ));
        }
        page.family("floodway_control_contents", "gauge", "Contents by state.");
        for (state, contents) in &gauges.contents {
            page.line(format_args!(
                "floodway_control_contents{{state=\"{state}\"}} {contents}"
            ));
        }
        page.family(
            "floodway_control_nodes_live",
            "gauge",
            "Nodes that synced recently.",
        );
        page.line(format_args!(
            "floodway_control_nodes_live{{role=\"relay\"}} {}",
            gauges.live_relays
        ));
        page.line(format_args!(
            "floodway_control_nodes_live{{role=\"agent\"}} {}",
            gauges.live_agents
        ));
        page.single(
            "floodway_control_nodes",
            "gauge",
            "Enrolled nodes.",
            gauges.nodes,
        );
        page.single(
            "floodway_control_parked_syncs",
            "gauge",
            "Syncs held open now.",
            gauges.parked,
        );
        page.single(
            "floodway_control_range_leases",
            "gauge",
            "Range leases held now.",
            gauges.leases,
        );
        page.family(
            "floodway_control_audits",
            "gauge",
            "Pieces that a second relay was asked to read again, by what it found.",
        );
        for (outcome, audits) in [
            ("open", gauges.audits.open),
            ("equal", gauges.audits.equal),
            ("different", gauges.audits.different),
            ("unread", gauges.audits.unread),
        ] {
            page.line(format_args!(
                "floodway_control_audits{{outcome=\"{outcome}\"}} {audits}"
            ));
        }
        page.family(
            "floodway_control_swarm_peers",
            "gauge",
            "Peers in all swarms.",
        );
        page.line(format_args!(
            "floodway_control_swarm_peers{{kind=\"own\"}} {}",
            gauges.own_peers
        ));
        page.line(format_args!(
            "floodway_control_swarm_peers{{kind=\"stock\"}} {}",
            gauges.stock_peers
        ));
        let counters = [
            (
                "floodway_control_syncs_total",
                "Syncs taken in.",
                &self.syncs,
            ),
            (
                "floodway_control_announces_total",
                "Announces of stock clients.",
                &self.announces,
            ),
            (
                "floodway_control_scrapes_total",
                "Scrapes of stock clients.",
                &self.scrapes,
            ),
            (
                "floodway_control_refused_total",
                "Requests without a valid token.",
                &self.refused,
            ),
            (
                "floodway_control_database_errors_total",
                "Failures of the database.",
                &self.db_errors,
            ),
        ];
        for (name, help, counter) in counters {
            page.single(name, "counter", help, count(counter));
        }
        page.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_and_a_number() {
        let mut gauges = Gauges::default();
        gauges.tasks.insert(("relay", "final"), 3);
        gauges.contents.insert("final", 2);
        let text = Metrics::default().text(&gauges, true);
        assert!(text.contains("floodway_control_tasks{kind=\"relay\",state=\"final\"} 3\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(
                name.starts_with("floodway_") && value.parse::<u64>().is_ok(),
                "{line}"
            );
        }
    }
}
