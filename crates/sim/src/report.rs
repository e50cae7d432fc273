//! What came of a run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use floodway_proto::Time;
use floodway_swarm::{Event, Progress, SourceClass};

use crate::bound::must_finish;
use crate::plan::Plan;

/// Runs with more nodes than this keep no trace: it would outgrow the state.
const TRACED_NODES: usize = 64;
/// Time between two points of a curve.
const CURVE_STEP_MILLIS: u128 = 50;

/// Bytes that have come to nodes so far, by who sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Nodes that were complete from the start.
    pub seeds: u64,
    /// Nodes that were not.
    pub peers: u64,
    /// Relays, over HTTP.
    pub relays: u64,
    /// Origins and web seeds.
    pub origins: u64,
}

/// Bytes that have come into a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteBytes {
    /// From seeds and servers, wherever they are.
    pub injected: u64,
    /// From other nodes of other sites.
    pub crossing: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The scenario's name.
    pub name: &'static str,
    /// The seed that replays it.
    pub seed: u64,
    /// When each node was complete; seeds stay `None`.
    pub done: Vec<Option<Time>>,
    /// Bytes of payload that left each host: nodes first, then the servers that have a host of their own.
    pub host_sent: Vec<u64>,
    /// Requests that each server got.
    pub http_requests: Vec<u64>,
    /// Each node's own account at the end.
    pub progress: Vec<Progress>,
    /// Peers banned, as (by whom, whom).
    pub bans: BTreeSet<(usize, usize)>,
    /// Bytes that had come to nodes, by time: for curves.
    pub curve: Vec<(Time, Shares)>,
    /// What came into each site.
    pub sites: Vec<SiteBytes>,
    /// Packets that found a buffer full.
    pub dropped: u64,
    /// Events of the simulation itself.
    pub events: u64,
    /// When the run ended.
    pub end: Time,
    /// What the nodes reported, one line each; small runs only.
    pub trace: String,
    length: u64,
    bound: f64,
    must_finish: Vec<usize>,
    /// Hosts of seeds and servers.
    sources: Vec<usize>,
    /// Site of each node, and whether it is a seed.
    nodes: Vec<(u32, bool)>,
    server_class: Vec<Option<SourceClass>>,
    traced: bool,
}

impl Report {
    pub(crate) fn new(plan: &Plan, seed: u64) -> Self {
        let nodes = plan.nodes.iter().enumerate();
        let seeds = nodes.clone().filter(|(_, node)| node.seed);
        let own_host = |server: &&crate::plan::ServerPlan| server.with_node.is_none();
        let servers = plan.servers.iter().filter(own_host).count();
        Self {
            name: plan.name,
            seed,
            done: vec![None; plan.nodes.len()],
            http_requests: vec![0; plan.servers.len()],
            sites: vec![SiteBytes::default(); plan.sites()],
            length: plan.layout.length().unwrap_or(0),
            bound: plan.bound_seconds(),
            must_finish: nodes
                .filter(|(_, node)| must_finish(node))
                .map(|(at, _)| at)
                .collect(),
            sources: seeds
                .map(|(at, _)| at)
                .chain(plan.nodes.len()..plan.nodes.len() + servers)
                .collect(),
            nodes: plan
                .nodes
                .iter()
                .map(|node| (node.site, node.seed))
                .collect(),
            server_class: plan
                .servers
                .iter()
                .map(|server| Some(server.class))
                .collect(),
            traced: plan.nodes.len() <= TRACED_NODES,
            ..Self::default()
        }
    }

    pub(crate) fn ended(
        mut self,
        end: Time,
        host_sent: Vec<u64>,
        progress: Vec<Progress>,
        dropped: u64,
    ) -> Self {
        self.end = end;
        self.host_sent = host_sent;
        self.progress = progress;
        self.dropped = dropped;
        self
    }

    pub(crate) fn note(&mut self, now: Time, at: usize, event: &Event) {
        if self.traced {
            let _ = writeln!(self.trace, "{now} {at} {event:?}");
        }
    }

    /// A block came from a node.
    pub(crate) fn peer_bytes(&mut self, now: Time, from: usize, to: usize, bytes: u64) {
        let ((from_site, seed), (site, _)) = (self.nodes[from], self.nodes[to]);
        let site = &mut self.sites[site as usize];
        if seed {
            site.injected += bytes;
            self.shares(now).seeds += bytes;
        } else {
            site.crossing += if from_site == self.nodes[to].0 {
                0
            } else {
                bytes
            };
            self.shares(now).peers += bytes;
        }
    }

    /// A block came from a server.
    pub(crate) fn server_bytes(&mut self, now: Time, server: usize, to: usize, bytes: u64) {
        self.sites[self.nodes[to].0 as usize].injected += bytes;
        let class = self.server_class[server];
        let shares = self.shares(now);
        match class {
            Some(SourceClass::Relay) => shares.relays += bytes,
            _ => shares.origins += bytes,
        }
    }

    fn shares(&mut self, now: Time) -> &mut Shares {
        let last = self.curve.last().copied();
        let fresh = last.is_none_or(|(at, _)| now.since(at).as_millis() >= CURVE_STEP_MILLIS);
        if fresh {
            let so_far = last.map(|(_, shares)| shares).unwrap_or_default();
            self.curve.push((now, so_far));
        }
        let at = self.curve.len() - 1;
        &mut self.curve[at].1
    }

    /// What to run to see this again.
    pub fn replay(&self) -> String {
        format!(
            "scenario {}, seed {} (FLOODWAY_SIM_SEED={} runs a test with this seed only)",
            self.name, self.seed, self.seed
        )
    }

    /// Something went wrong: what, where, with which seed.
    pub fn complain(&self, at: usize, what: &str) -> String {
        format!("node {at} {what}\n{}\n{}", self.replay(), self.trace)
    }

    /// Nodes that should have finished and did not.
    pub fn stuck(&self) -> Vec<usize> {
        let unfinished = |at: &usize| self.done[*at].is_none();
        self.must_finish
            .iter()
            .copied()
            .filter(unfinished)
            .collect()
    }

    /// Panics, with the seed, unless every node that stays is complete.
    ///
    /// # Panics
    /// As said.
    pub fn expect_finished(&self) -> &Self {
        let stuck = self.stuck();
        assert!(
            stuck.is_empty(),
            "nodes {stuck:?} are stuck\n{}\n{}",
            self.replay(),
            self.trace
        );
        self
    }

    /// The times at which nodes that a run is there for were complete, in seconds, ascending.
    pub fn finish_seconds(&self) -> Vec<f64> {
        let times = self.must_finish.iter().filter_map(|&at| self.done[at]);
        let mut times: Vec<_> = times.map(Time::as_secs_f64).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// When the last node was complete, in seconds; infinite when one was not.
    pub fn makespan_seconds(&self) -> f64 {
        let times = self.finish_seconds();
        let all = times.len() == self.must_finish.len();
        times
            .last()
            .copied()
            .filter(|_| all)
            .unwrap_or(f64::INFINITY)
    }

    /// The median of the nodes' times, in seconds.
    pub fn median_seconds(&self) -> f64 {
        let times = self.finish_seconds();
        times.get(times.len() / 2).copied().unwrap_or(f64::INFINITY)
    }

    /// The least makespan possible, in seconds.
    pub fn bound_seconds(&self) -> f64 {
        self.bound
    }

    /// The bound over the makespan: 1 is perfect.
    pub fn efficiency(&self) -> f64 {
        self.bound / self.makespan_seconds()
    }

    /// Bytes that left the seeds and servers, in copies of the content.
    pub fn source_copies(&self) -> f64 {
        let sent = self.sources.iter().map(|&host| self.host_sent[host]);
        self.copies(sent.sum())
    }

    /// What came into each site from outside, in copies: from seeds, servers and nodes of other sites. Ascending; sites into which
    /// nothing came are left out.
    pub fn site_copies(&self) -> Vec<f64> {
        let mut bytes: Vec<_> = (self.sites.iter())
            .map(|site| site.injected + site.crossing)
            .filter(|&bytes| bytes > 0)
            .collect();
        bytes.sort_unstable();
        bytes.into_iter().map(|bytes| self.copies(bytes)).collect()
    }

    /// Bytes received and thrown away, in copies.
    pub fn wasted_copies(&self) -> f64 {
        let wasted = self.progress.iter().map(|node| node.counters.wasted);
        self.copies(wasted.sum())
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn copies(&self, bytes: u64) -> f64 {
        bytes as f64 / self.length.max(1) as f64
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let mut line = format!(
            "{} seed {}: makespan {:.2} s, median {:.2} s, bound {:.2} s, efficiency {:.3}, source copies {:.3}, wasted {:.3}",
            self.name,
            self.seed,
            self.makespan_seconds(),
            self.median_seconds(),
            self.bound,
            self.efficiency(),
            self.source_copies(),
            self.wasted_copies(),
        );
        if self.sites.len() > 1 {
            let copies = self.site_copies();
            let median = copies.get(copies.len() / 2).copied().unwrap_or_default();
            let most = copies.last().copied().unwrap_or_default();
            let _ = write!(
                line,
                ", copies into a site: median {median:.3}, most {most:.3}"
            );
        }
        let _ = write!(line, ", {} events", self.events);
        line
    }
}
