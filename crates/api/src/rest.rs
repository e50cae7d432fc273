//! The REST API of control: tasks, nodes, tokens, contents.

use std::collections::BTreeMap;

use floodway_proto::record::Head;
use floodway_proto::{NodeId, Sid};
use serde::{Deserialize, Serialize};

use crate::manifest::Phase;
use crate::sync::AgentState;

/// The body of every reply that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable word for programs, such as `not_allowed`.
    pub code: String,
    /// What happened, whose fault it was, what to do next.
    pub message: String,
    /// The field of the request that is at fault, when one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// `POST /api/v1/tasks`: bring a content to all enrolled relays and, with `to`, onto agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTask {
    /// The origin object: `http(s)://…`, or `file:///…` on the relays. One that ends in `/` is a folder, whose files are one
    /// content.
    pub url: String,
    /// The files of a folder, as paths relative to `url` (not percent-encoded). Without it a folder of relays (`file:///…/`)
    /// is walked; others need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// `K=V[,K=V…]` (all must match) or `all`. Absent: only the relay task is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// No relay has begun.
    Pending,
    /// A relay is asking the origin what the object is.
    Probing,
    /// Relays are fetching the object.
    Relaying,
    /// Relay task: the content is complete and published as a torrent.
    Final,
    /// Distribution task: agents are fetching the content.
    Running,
    /// Distribution task: every targeted agent holds the verified content.
    Done,
    /// It cannot be completed; the reason is beside it.
    Failed,
    /// An operator stopped it.
    Cancelled,
}

/// A task as `POST` and `GET /api/v1/tasks[/ID]`, `publish --json` and `task show --json` give it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The distribution task; absent when only a relay task was made.
    pub task: Option<String>,
    /// The relay task that brings the content to relays.
    pub relay_task: String,
    /// The swarm, known once a relay has probed the origin.
    pub sid: Option<Sid>,
    /// Where the standard torrent can be fetched, once final.
    pub torrent: Option<String>,
    /// The distribution task's state, or the relay task's when there is no other.
    pub state: TaskState,
    /// Why it failed, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The origin object.
    pub url: String,
    /// The targets as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The content's length in bytes, once known; of a folder that of all its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// How many files a folder has, once known; absent for a single file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// How far the content is and who reported what, from the probe on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
    /// Every targeted agent.
    pub agents: Vec<TaskAgent>,
}

/// The signed side of a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// How far it is.
    pub phase: Phase,
    /// The newest signed record.
    pub head: Head,
    /// How many pieces there are; absent as long as the length is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<u32>,
    /// How many of them are signed.
    pub sealed: u32,
    /// The relays that reported some of them, and those that take part now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayShare>,
    /// How many pieces were read from the origin again by another relay, and what came of it; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audits: Option<AuditCounts>,
}

/// Audits by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditCounts {
    /// The other relay has not answered yet.
    pub open: u32,
    /// It read the same bytes.
    pub equal: u32,
    /// It read other bytes.
    pub different: u32,
    /// It could not read them, or went away.
    pub unread: u32,
}

/// One relay's part in a content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayShare {
    /// The relay.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// How many pieces it reported first.
    pub pieces: u32,
    /// How many pieces it holds range leases of and has not reported yet.
    #[serde(default)]
    pub leased: u32,
    /// Verified bytes it holds, while it is live.
    #[serde(default)]
    pub have: u64,
    /// Why it fetches nothing for the moment, when it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// It proved wrong: what it reports does not count any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub distrusted: bool,
}

/// One targeted agent of a distribution task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskAgent {
    /// The agent.
    pub node: NodeId,
    /// The agent's own name, for people.
    pub name: String,
    /// How far it is.
    pub state: AgentState,
    /// Why it failed, or how the content was verified.
    #[serde(default)]
    pub reason: Option<String>,
    /// Verified bytes it holds.
    pub bytes: u64,
    /// Of these, bytes that came from peers, relays and the origin, and bytes that were there before.
    #[serde(default)]
    pub sources: SourceBytes,
}

/// Kept bytes by where they came from; together they are what a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBytes {
    /// From BitTorrent peers.
    pub peer: u64,
    /// From relays over HTTP.
    pub relay: u64,
    /// From the origin over HTTP.
    pub origin: u64,
    /// There before this run.
    pub resumed: u64,
}

/// A page of tasks, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    /// The tasks; `agents` is left empty in a list.
    pub tasks: Vec<Task>,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fetches from origins, serves the swarm.
    Relay,
    /// Fetches for its own machine.
    Agent,
}

/// `POST /api/v1/enrol`, with a join token: become a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrol {
    /// What the node will do; a join token may be for one role only.
    pub role: Role,
    /// A name for people, usually the host's.
    pub name: String,
    /// A one-shot download rather than a daemon: forgotten when it stops syncing, never a target of tasks.
    #[serde(default)]
    pub short_lived: bool,
}

/// The answer to [`Enrol`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The node's name for its whole life.
    pub node: NodeId,
    /// The node's bearer token; control keeps only its hash.
    pub token: String,
}

/// A node as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub node: NodeId,
    /// Its name for people.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Labels fixed by its join token.
    pub labels: BTreeMap<String, String>,
    /// Synced recently.
    pub live: bool,
    /// Where its peers reach it, when known.
    pub peer: Option<String>,
    /// Its HTTP address (relays), when known.
    pub http: Option<String>,
    /// When it last synced, in microseconds since 1970; 0 never.
    pub seen_us: i64,
    /// Relays: why nothing that it reports counts any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrusted: Option<String>,
    /// Since when, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distrusted_us: Option<i64>,
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes.
    pub nodes: Vec<NodeView>,
}

/// `POST /api/v1/tokens`: make a join token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateJoinToken {
    /// The only role it admits; absent: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Labels that its nodes get.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A join token as listed; the text itself is shown once, when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Names it in `node token revoke ID`.
    pub id: String,
    /// The token itself; only in the reply to its making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The only role it admits; absent: both.
    pub role: Option<Role>,
    /// Labels that its nodes get.
    pub labels: BTreeMap<String, String>,
    /// It admits nobody any more.
    pub revoked: bool,
    /// When it was made, in microseconds since 1970.
    pub created_us: i64,
}

/// All join tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenList {
    /// The tokens.
    pub tokens: Vec<JoinToken>,
}

/// `POST /api/v1/s/SID/capability`: ask for URLs that anyone may read for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCapability {
    /// How long the URLs are good for.
    pub seconds: u64,
}

/// The answer to [`CreateCapability`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// One URL per live relay.
    pub urls: Vec<String>,
}
