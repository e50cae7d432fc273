//! What operators see.

use std::collections::BTreeMap;

use floodway_api::rest::{AuditCounts, NodeView, Task, TaskAgent, TaskState};
use floodway_api::sync::AgentState;

use super::Core;
use super::admin::no_task;
use crate::db::{
    ContentRow, ContentState, NodeRow, RelayState, RelayTaskRow, TaskAgentRow, TaskRow,
};
use crate::error::ApiError;

/// Numbers for `/metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Relay and distribution tasks by kind and state.
    pub(crate) tasks: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) live_relays: u64,
    pub(crate) live_agents: u64,
    pub(crate) nodes: u64,
    pub(crate) contents: BTreeMap<&'static str, u64>,
    pub(crate) parked: u64,
    pub(crate) leases: u64,
    /// Audits of contents that were not given up, by what became of them.
    pub(crate) audits: AuditCounts,
    pub(crate) own_peers: u64,
    pub(crate) stock_peers: u64,
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending => "pending",
        TaskState::Probing => "probing",
        TaskState::Relaying => "relaying",
        TaskState::Final => "final",
        TaskState::Running => "running",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
    }
}

/// Where a distribution task stands, by its agents.
fn distribution_state(
    task: &TaskRow,
    agents: &BTreeMap<floodway_proto::NodeId, TaskAgentRow>,
) -> TaskState {
    let any = |state| agents.values().any(|agent| agent.state == state);
    if task.cancelled {
        TaskState::Cancelled
    } else if any(AgentState::Offered) || any(AgentState::Downloading) {
        TaskState::Running
    } else if any(AgentState::Failed) {
        TaskState::Failed
    } else {
        TaskState::Done
    }
}

impl Core {
    fn relay_task_state(&self, task: &RelayTaskRow) -> TaskState {
        match task.state {
            RelayState::Final => TaskState::Final,
            RelayState::Failed => TaskState::Failed,
            RelayState::Cancelled => TaskState::Cancelled,
            RelayState::Open if task.sid.is_some() => TaskState::Relaying,
            RelayState::Open if self.has_live_relay(&task.id) => TaskState::Probing,
            RelayState::Open => TaskState::Pending,
        }
    }

    fn view(&self, relay_task: &RelayTaskRow) -> Task {
        let sid = relay_task
            .sid
            .filter(|_| relay_task.state != RelayState::Cancelled);
        let is_final = relay_task.state == RelayState::Final;
        let torrent = sid.filter(|_| is_final);
        let base = &self.config.base_url;
        let row = self.model.content_of(relay_task);
        Task {
            task: None,
            relay_task: relay_task.id.clone(),
            sid,
            torrent: torrent.map(|sid| format!("{base}/api/v1/s/{sid}/torrent")),
            state: self.relay_task_state(relay_task),
            reason: relay_task.reason.clone(),
            url: relay_task.url.clone(),
            to: None,
            length: row.and_then(|row| row.length),
            files: row.and_then(ContentRow::file_count),
            growth: sid.and_then(|sid| self.growth(sid)),
            created_us: relay_task.created_us,
            agents: Vec::new(),
        }
    }

    /// A relay task.
    pub(super) fn relay_task_view(&self, id: &str) -> Result<Task, ApiError> {
        let task = self.model.relay_tasks.get(id).ok_or_else(|| no_task(id))?;
        Ok(self.view(task))
    }

    /// A distribution task or a relay task.
    pub(crate) fn task_view(&self, id: &str) -> Result<Task, ApiError> {
        let Some(task) = self.model.tasks.get(id) else {
            return self.relay_task_view(id);
        };
        let mut view = self.distribution_view(task)?;
        let agents = self
            .model
            .task_agents
            .get(id)
            .into_iter()
            .flat_map(BTreeMap::values);
        view.agents = agents.map(|row| self.agent_view(row)).collect();
        if view.state == TaskState::Failed && view.reason.is_none() {
            let failed: Vec<_> = view
                .agents
                .iter()
                .filter(|agent| agent.state == AgentState::Failed)
                .collect();
            let first = failed
                .first()
                .and_then(|agent| agent.reason.clone())
                .unwrap_or_default();
            view.reason = Some(format!(
                "{} of {} agents failed: {first}",
                failed.len(),
                view.agents.len()
            ));
        }
        Ok(view)
    }

    fn distribution_view(&self, task: &TaskRow) -> Result<Task, ApiError> {
        let mut view = self.relay_task_view(&task.relay_task)?;
        let none = BTreeMap::new();
        let agents = self.model.task_agents.get(&task.id).unwrap_or(&none);
        view.task = Some(task.id.clone());
        view.state = distribution_state(task, agents);
        view.to = Some(task.target.clone());
        view.created_us = task.created_us;
        Ok(view)
    }

    fn agent_view(&self, row: &TaskAgentRow) -> TaskAgent {
        // Progress between changes of state is soft.
        let said = self.live.get(&row.node).map(|live| &live.said.tasks);
        let newest = said.and_then(|tasks| tasks.iter().find(|report| report.task == row.task));
        let name = self
            .model
            .nodes
            .get(&row.node)
            .map(|node| node.name.clone());
        TaskAgent {
            node: row.node,
            name: name.unwrap_or_default(),
            state: row.state,
            reason: row.reason.clone(),
            bytes: newest.map_or(row.bytes, |report| report.bytes),
            sources: newest.map_or(row.sources, |report| report.sources),
        }
    }

    /// Distribution tasks, and relay tasks that no distribution task is about, newest first.
    pub(crate) fn task_list(&self, limit: usize) -> Vec<Task> {
        let own = self
            .model
            .tasks
            .values()
            .filter_map(|task| self.distribution_view(task).ok());
        let relay_tasks = self.model.relay_tasks.values();
        let alone =
            relay_tasks.filter(|task| !self.model.tasks_of_relay_task.contains_key(&task.id));
        let mut tasks: Vec<_> = own.chain(alone.map(|task| self.view(task))).collect();
        tasks.sort_by(|a, b| {
            (b.created_us, &b.relay_task, &b.task).cmp(&(a.created_us, &a.relay_task, &a.task))
        });
        tasks.truncate(limit);
        tasks
    }

    /// All nodes.
    pub(crate) fn node_list(&self) -> Vec<NodeView> {
        let nodes = self.model.nodes.values();
        nodes.map(|row| self.node_view(row)).collect()
    }

    pub(super) fn node_view(&self, row: &NodeRow) -> NodeView {
        let live = self.live.get(&row.id);
        let distrust = self.model.distrusted.get(&row.id);
        NodeView {
            node: row.id,
            name: row.name.clone(),
            role: row.role,
            labels: row.labels.clone(),
            live: live.is_some(),
            peer: live.and_then(|live| live.peer).map(|peer| peer.to_string()),
            http: live.and_then(|live| live.http.clone()),
            seen_us: if live.is_some() {
                self.now.us
            } else {
                row.seen_us
            },
            distrusted: distrust.map(|distrust| distrust.reason.clone()),
            distrusted_us: distrust.map(|distrust| distrust.since_us),
        }
    }

    /// Numbers for `/metrics`.
    pub(crate) fn gauges(&self) -> Gauges {
        let (own_peers, stock_peers) = self.swarms.totals();
        let live_relays = count(self.live_relays().count());
        let mut gauges = Gauges {
            live_relays,
            live_agents: count(self.live.len()) - live_relays,
            nodes: count(self.model.nodes.len()),
            parked: count(self.parked.len()),
            leases: count(self.held.len()),
            own_peers: count(own_peers),
            stock_peers: count(stock_peers),
            ..Gauges::default()
        };
        for counts in (self.model.audits.keys()).filter_map(|sid| self.audit_counts(*sid)) {
            gauges.audits.open += counts.open;
            gauges.audits.equal += counts.equal;
            gauges.audits.different += counts.different;
            gauges.audits.unread += counts.unread;
        }
        for task in self.model.relay_tasks.values() {
            let state = state_name(self.relay_task_state(task));
            *gauges.tasks.entry(("relay", state)).or_default() += 1;
        }
        let none = BTreeMap::new();
        for task in self.model.tasks.values() {
            let agents = self.model.task_agents.get(&task.id).unwrap_or(&none);
            let state = state_name(distribution_state(task, agents));
            *gauges.tasks.entry(("distribution", state)).or_default() += 1;
        }
        for row in self.model.contents.values() {
            let state = match row.state {
                ContentState::Relaying => "relaying",
                ContentState::Final => "final",
                ContentState::Superseded => "superseded",
            };
            *gauges.contents.entry(state).or_default() += 1;
        }
        gauges
    }
}
