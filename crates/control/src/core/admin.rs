//! What operators ask for: tasks and join tokens.

use std::sync::Arc;

use floodway_api::AllowList;
use floodway_api::rest::{CreateJoinToken, CreateTask, JoinToken, Role, SourceBytes, Task};
use floodway_api::sync::AgentState;
use floodway_proto::record::EndReason;
use http::StatusCode;
use url::Url;

use super::Core;
use crate::db::{Change, JoinTokenRow, RelayState, RelayTaskRow, TaskAgentRow, TaskRow};
use crate::error::ApiError;
use crate::secrets::{self, JoinSecret};
use crate::tasks::folder;
use crate::tasks::targets::{Targets, check_labels};

/// The longest URL in bytes.
const URL_MAX: usize = 8192;
/// A `get` within so long of a failed attempt at the same URL is told of that one: the origin is not asked again.
const FAILURE_KEPT_US: i64 = 5_000_000;

/// Reads a URL and checks it against the allow-list.
pub(super) fn parse_allowed(allow: &AllowList, text: &str) -> Result<Url, ApiError> {
    if text.len() > URL_MAX {
        return Err(ApiError::bad_field(
            "url",
            format!("the URL is longer than {URL_MAX} bytes"),
        ));
    }
    let mut url = Url::parse(text).map_err(|error| {
        ApiError::bad_field(
            "url",
            format!("this is not a URL ({error}); write it like https://host/path"),
        )
    })?;
    url.set_fragment(None);
    allow.check(&url).map_err(|refused| {
        ApiError::new(StatusCode::FORBIDDEN, "not_allowed", refused.to_string())
            .field(floodway_api::NotAllowed::FIELD)
    })?;
    Ok(url)
}

impl Core {
    /// Makes a relay task, or finds the live one of the same URL, and a distribution task when there are targets.
    pub(crate) fn create_task(&mut self, create: &CreateTask) -> Result<Task, ApiError> {
        let url = self.allowed_url(&create.url)?;
        let listed = folder::listed(&self.config.allow, &url, create.files.as_deref());
        let files =
            listed.map_err(|refused| ApiError::bad_field(refused.field, refused.message))?;
        let Some(to) = &create.to else {
            let relay_task = self.relay_task_for(url.as_str(), Some(&files), true);
            return self.relay_task_view(&relay_task);
        };
        let targets =
            Targets::parse(to).map_err(|error| ApiError::bad_field("to", error.to_string()))?;
        let agents: Vec<_> = self
            .model
            .nodes
            .values()
            .filter(|node| node.role == Role::Agent && !node.short_lived)
            .filter(|node| targets.match_labels(&node.labels))
            .map(|node| node.id)
            .collect();
        if agents.is_empty() {
            let message = format!(
                "no enrolled agent matches `{to}`; `floodway node list` shows agents and their labels"
            );
            return Err(
                ApiError::new(StatusCode::NOT_FOUND, "no_agent_matches", message).field("to"),
            );
        }
        let relay_task = self.relay_task_for(url.as_str(), Some(&files), false);
        let id = secrets::random_id("t");
        tracing::info!(
            task = id,
            relay_task,
            url = without_query(url.as_str()),
            to,
            agents = agents.len(),
            "distribution task made"
        );
        self.change(Change::Task(TaskRow {
            id: id.clone(),
            relay_task,
            target: to.clone(),
            cancelled: false,
            created_us: self.now.us,
        }));
        for node in agents {
            self.change(Change::TaskAgent(TaskAgentRow {
                task: id.clone(),
                node,
                state: AgentState::Offered,
                reason: None,
                bytes: 0,
                sources: SourceBytes::default(),
            }));
            self.dirty.insert(node);
        }
        self.task_view(&id)
    }

    /// The live relay task of a URL, and of these files of a folder (`None`: whatever files); made when there is none.
    fn relay_task_for(&mut self, url: &str, files: Option<&[String]>, pinned: bool) -> String {
        let newest = self
            .model
            .by_url
            .get(url)
            .and_then(|id| self.model.relay_tasks.get(id));
        let same = |task: &&RelayTaskRow| files.is_none_or(|files| *task.files == files);
        if let Some(task) = newest.filter(|task| task.is_live()).filter(same).cloned() {
            let id = task.id.clone();
            if pinned && !task.pinned {
                self.change(Change::RelayTask(RelayTaskRow { pinned, ..task }));
            }
            return id;
        }
        // Even when the clock was set back, the newest task of a URL is the one that counts.
        let created_us = newest.map_or(self.now.us, |older| self.now.us.max(older.created_us + 1));
        let id = secrets::random_id("r");
        tracing::info!(relay_task = id, url = without_query(url), "relay task made");
        self.change(Change::RelayTask(RelayTaskRow {
            id: id.clone(),
            url: url.to_owned(),
            files: Arc::new(files.unwrap_or_default().to_vec()),
            state: RelayState::Open,
            reason: None,
            attempt: 0,
            sid: None,
            pinned,
            created_us,
            ended_us: 0,
        }));
        self.wake_relays();
        // Nobody may be there but relays that are not trusted any more.
        self.judge_open_tasks();
        id
    }

    /// The relay task for a node that asks for a URL by itself. `None`: a folder that nobody published, of which nobody says
    /// what files it has.
    pub(super) fn open_for_node(&mut self, url: &Url) -> Option<String> {
        let (is_listed, url) = (
            folder::is_folder(url) && url.scheme() != "file",
            url.as_str(),
        );
        let newest = self
            .model
            .by_url
            .get(url)
            .and_then(|id| self.model.relay_tasks.get(id));
        let just_failed = newest.filter(|task| {
            task.state == RelayState::Failed && self.now.us - task.ended_us < FAILURE_KEPT_US
        });
        match just_failed {
            Some(task) => Some(task.id.clone()),
            None if is_listed && newest.is_none_or(|task| !task.is_live()) => None,
            None => Some(self.relay_task_for(url, None, true)),
        }
    }

    /// Stops a task: agents drop it; a relay task with everything that needs it.
    pub(crate) fn cancel(&mut self, id: &str) -> Result<Task, ApiError> {
        if let Some(task) = self.model.tasks.get(id).cloned() {
            self.cancel_distribution(task);
            return self.task_view(id);
        }
        let task = self
            .model
            .relay_tasks
            .get(id)
            .cloned()
            .ok_or_else(|| no_task(id))?;
        self.cancel_relay_task(task, "an operator cancelled it");
        self.relay_task_view(id)
    }

    fn cancel_distribution(&mut self, task: TaskRow) {
        if task.cancelled {
            return;
        }
        tracing::info!(task = task.id, "distribution task cancelled");
        let agents = self
            .model
            .task_agents
            .get(&task.id)
            .cloned()
            .unwrap_or_default();
        let relay_task = task.relay_task.clone();
        self.change(Change::Task(TaskRow {
            cancelled: true,
            ..task
        }));
        for (node, row) in agents {
            self.dirty.insert(node);
            if matches!(row.state, AgentState::Offered | AgentState::Downloading) {
                self.change(Change::TaskAgent(TaskAgentRow {
                    state: AgentState::Cancelled,
                    ..row
                }));
            }
        }
        // Nobody else waits for it: the origin need not go on sending.
        let relay_task = self.model.relay_tasks.get(&relay_task).cloned();
        if let Some(relay_task) =
            relay_task.filter(|task| task.state == RelayState::Open && !task.pinned)
            && !self.is_needed(&relay_task.id)
        {
            self.cancel_relay_task(relay_task, "its last distribution task was cancelled");
        }
    }

    /// True while a distribution task needs the relay task.
    fn is_needed(&self, relay_task: &str) -> bool {
        let tasks = self
            .model
            .tasks_of_relay_task
            .get(relay_task)
            .into_iter()
            .flatten();
        let mut tasks = tasks.filter_map(|id| self.model.tasks.get(id));
        tasks.any(|task| !task.cancelled)
    }

    fn cancel_relay_task(&mut self, task: RelayTaskRow, why: &str) {
        if !task.is_live() {
            return;
        }
        let id = task.id.clone();
        tracing::info!(relay_task = id, why, "relay task cancelled");
        if let Some(sid) = task.sid {
            self.abort_manifest(sid, EndReason::Operator);
        }
        self.abort_given_up(&id);
        self.end_task(task, RelayState::Cancelled, Some(why.into()));
        let tasks = self
            .model
            .tasks_of_relay_task
            .get(&id)
            .cloned()
            .unwrap_or_default();
        for task in tasks
            .iter()
            .filter_map(|id| self.model.tasks.get(id).cloned())
            .collect::<Vec<_>>()
        {
            self.cancel_distribution(task);
        }
    }

    /// Makes a join token; its text leaves control only now.
    pub(crate) fn create_join_token(
        &mut self,
        create: CreateJoinToken,
    ) -> Result<JoinToken, ApiError> {
        check_labels(&create.labels)
            .map_err(|error| ApiError::bad_field("labels", error.to_string()))?;
        let secret = JoinSecret::new();
        let row = JoinTokenRow {
            id: secret.id().to_owned(),
            hash: secret.hash(),
            role: create.role,
            labels: create.labels,
            revoked: false,
            created_us: self.now.us,
        };
        let mut token = join_token_view(&row);
        token.token = Some(secret.text().to_owned());
        self.change(Change::JoinToken(row));
        Ok(token)
    }

    /// All join tokens, oldest first, without their texts.
    pub(crate) fn join_tokens(&self) -> Vec<JoinToken> {
        let mut tokens: Vec<_> = self
            .model
            .join_tokens
            .values()
            .map(join_token_view)
            .collect();
        tokens.sort_by(|a, b| (a.created_us, &a.id).cmp(&(b.created_us, &b.id)));
        tokens
    }

    /// Nobody can enrol with the token any more; nodes that did stay.
    pub(crate) fn revoke_join_token(&mut self, id: &str) -> Result<JoinToken, ApiError> {
        let row = self.model.join_tokens.get(id).cloned();
        let row = row.ok_or_else(|| {
            ApiError::not_found(format!(
                "there is no join token `{id}`; `floodway node token list` shows them"
            ))
        })?;
        let row = JoinTokenRow {
            revoked: true,
            ..row
        };
        self.change(Change::JoinToken(row.clone()));
        Ok(join_token_view(&row))
    }
}

/// A URL for logs: a query may hold a secret.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

pub(super) fn no_task(id: &str) -> ApiError {
    ApiError::not_found(format!(
        "there is no task `{}`; `floodway task list` shows them",
        id.escape_debug()
    ))
}

fn join_token_view(row: &JoinTokenRow) -> JoinToken {
    JoinToken {
        id: row.id.clone(),
        token: None,
        role: row.role,
        labels: row.labels.clone(),
        revoked: row.revoked,
        created_us: row.created_us,
    }
}
