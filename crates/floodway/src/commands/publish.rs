//! `floodway publish`: bring a file to the relays and, with `--to`, onto agents.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use floodway_api::rest::{CreateTask, Task, TaskAgent, TaskState};
use floodway_api::sync::AgentState;
use floodway_node::control_client::ControlClient;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::task;
use crate::client::{ClientArgs, failure};
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::Progress;
use crate::{human, later, runtime, say, signals};

/// How often control is asked while waiting.
const POLL: Duration = Duration::from_millis(250);
/// The longest list of files in bytes.
const LIST_MAX: u64 = 4 << 20;
/// How long control may be away while waiting.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Args, Debug)]
pub(crate) struct PublishArgs {
    /// The origin object: http(s)://…, or file:///… on the relays; with `/` at the end a folder
    #[arg(value_name = "URL")]
    url: String,
    /// The files of a folder: a text file with one path relative to URL a line; `file:///…/` is walked without it
    #[arg(long, value_name = "LIST")]
    files: Option<PathBuf>,
    /// Agents by label, `K=V[,K=V…]` (all must match), or `all`; else only the relays get it
    #[arg(long, value_name = "LABELS")]
    to: Option<String>,
    /// Wait until it is done everywhere, or failed
    #[arg(long)]
    wait: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub(crate) fn run(args: PublishArgs) -> Outcome {
    later::refuse_scheme(&args.url)?;
    check_scheme(&args.url)?;
    let client = args.client.operator()?;
    let files = args.files.as_deref().map(read_list).transpose()?;
    runtime::small()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let create = CreateTask { url: args.url, files, to: args.to };
        let task = client.create_task(&create).await.map_err(failure)?;
        if !args.wait {
            task::print(&task, args.json);
            return Ok(Exit::Done);
        }
        let mut progress = Progress::new(args.json);
        let waited = wait(&client, task, &mut progress, &shutdown).await;
        progress.clear();
        let (task, end) = waited?;
        task::print(&task, args.json);
        match end {
            End::Done => Ok(Exit::Done),
            End::Failed(message) => {
                // The JSON line about the task stands for the failure.
                say::note(format_args!("error: {message}"));
                Ok(Exit::Failed)
            }
            End::Interrupted => {
                say::note("interrupted: the task goes on; `floodway task show` shows it, `floodway task cancel` stops it");
                Ok(Exit::Interrupted)
            }
        }
    })
}

/// Reads a list of files: one path a line; empty lines do not count.
fn read_list(path: &Path) -> Result<Vec<String>, Failure> {
    let unusable =
        |problem: String| Failure::usage(format!("--files `{}`: {problem}", path.display()));
    let length = std::fs::metadata(path)
        .map_err(|error| unusable(error.to_string()))?
        .len();
    if length > LIST_MAX {
        return Err(unusable(format!(
            "{length} bytes are more than the limit of {LIST_MAX}; publish the folder in parts, or packed"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// Refuses what no allow-list could permit. What is no URL at all is control's to refuse.
fn check_scheme(url: &str) -> Result<(), Failure> {
    match Url::parse(url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https" | "file") => Err(Failure::usage(
            format_args!("`{}:` is no scheme that origins are read by", url.scheme()),
        )
        .hint("an origin is http(s)://…, or file:///… on the relays")),
        _ => Ok(()),
    }
}

enum End {
    Done,
    Failed(String),
    Interrupted,
}

async fn wait(
    client: &ControlClient,
    mut task: Task,
    progress: &mut Progress,
    shutdown: &CancellationToken,
) -> Result<(Task, End), Failure> {
    let id = task.task.clone().unwrap_or_else(|| task.relay_task.clone());
    let mut state = None;
    let mut told = Vec::new();
    let mut heard = Instant::now();
    loop {
        if state != Some(task.state) {
            progress.note(&format!("task {id}: {}", human::word(task.state)));
            state = Some(task.state);
        }
        let now = held_up(&task);
        for why in now.iter().filter(|why| !told.contains(*why)) {
            progress.note(why);
        }
        told = now;
        show(&task, progress);
        if let Some(end) = end(&task) {
            return Ok((task, end));
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok((task, End::Interrupted)),
            () = tokio::time::sleep(POLL) => {}
        }
        match client.task(&id).await {
            Ok(newer) => {
                task = newer;
                heard = Instant::now();
            }
            Err(error) if error.is_unreachable() && heard.elapsed() < PATIENCE => {}
            Err(error) => return Err(failure(error)),
        }
    }
}

/// Relays and agents that cannot go on for now, a full disk say, each with its reason.
fn held_up(task: &Task) -> Vec<String> {
    let relays = task.growth.iter().flat_map(|growth| &growth.relays);
    let relays = relays.filter_map(|relay| {
        let why = relay.paused.as_deref()?;
        Some(format!(
            "relay {} ({}): paused: {why}",
            relay.name, relay.node
        ))
    });
    let loading = |agent: &&TaskAgent| agent.state == AgentState::Downloading;
    let agents = task.agents.iter().filter(loading);
    let agents = agents.filter_map(|agent| {
        let reason = agent.reason.as_deref()?;
        Some(format!("agent {} ({}): {reason}", agent.name, agent.node))
    });
    relays.chain(agents).collect()
}

fn show(task: &Task, progress: &mut Progress) {
    let held: u64 = task.agents.iter().map(|agent| agent.bytes).sum();
    let verified = task
        .agents
        .iter()
        .filter(|agent| agent.state == AgentState::Verified)
        .count();
    let total = match (task.length, task.sid) {
        (Some(length), _) => Some(length * task.agents.len() as u64),
        // Of a content whose origin does not say how long it is nobody knows.
        (None, Some(_)) => None,
        (None, None) => Some(0),
    };
    progress.show(held, total.map(|total| total.max(1)), || {
        let sum = |of: fn(&floodway_api::rest::SourceBytes) -> u64| {
            task.agents.iter().map(|agent| of(&agent.sources)).sum()
        };
        let sources = human::sources(sum(|s| s.peer), sum(|s| s.relay), sum(|s| s.origin));
        format!(
            "{}  {verified} of {} agents verified  {sources}",
            human::word(task.state),
            task.agents.len()
        )
    });
}

/// Whether there is nothing more to wait for.
fn end(task: &Task) -> Option<End> {
    let failed = task
        .agents
        .iter()
        .find(|agent| agent.state == AgentState::Failed);
    if let Some(agent) = failed {
        let reason = agent.reason.as_deref().unwrap_or("it gave no reason");
        return Some(End::Failed(format!(
            "agent {} ({}) failed: {reason}",
            agent.name, agent.node
        )));
    }
    match task.state {
        TaskState::Pending | TaskState::Probing | TaskState::Relaying | TaskState::Running => None,
        // Without agents the relay task is all there is.
        TaskState::Final => task.task.is_none().then_some(End::Done),
        TaskState::Done => Some(End::Done),
        TaskState::Failed => {
            let reason = task.reason.as_deref().unwrap_or("control gave no reason");
            Some(End::Failed(format!("the task failed: {reason}")))
        }
        TaskState::Cancelled => Some(End::Failed("the task was cancelled".into())),
    }
}
