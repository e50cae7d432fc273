//! `floodway task list|show|cancel`.

use clap::{Args, Subcommand};
use floodway_api::rest::{AuditCounts, RelayShare, Task};

use crate::client::{ClientArgs, failure};
use crate::exit::{Exit, Outcome};
use crate::human::{self, Table};
use crate::{runtime, say};

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks, newest first
    List(ListArgs),
    /// Show one task and its agents
    Show(OneArgs),
    /// Stop a task: its bytes stop and no file gets its final name
    Cancel(OneArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
pub(crate) struct OneArgs {
    /// The task's id, or its relay task's
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    list: ListArgs,
}

pub(crate) fn run(command: TaskCommand) -> Outcome {
    runtime::small()?.block_on(async {
        match command {
            TaskCommand::List(args) => {
                let list = args.client.operator()?.tasks().await.map_err(failure)?;
                if args.json {
                    say::json(&list);
                } else {
                    say::line(table(&list.tasks));
                }
            }
            TaskCommand::Show(args) => {
                let task = args
                    .list
                    .client
                    .operator()?
                    .task(&args.id)
                    .await
                    .map_err(failure)?;
                print(&task, args.list.json);
            }
            TaskCommand::Cancel(args) => {
                let client = args.list.client.operator()?;
                let task = client.cancel_task(&args.id).await.map_err(failure)?;
                print(&task, args.list.json);
            }
        }
        Ok(Exit::Done)
    })
}

/// One task for people or for programs.
pub(crate) fn print(task: &Task, json: bool) {
    if json {
        say::json(task);
        return;
    }
    let field = |name: &str, value: &dyn std::fmt::Display| {
        say::line(format_args!("{name:<12}{value}"));
    };
    if let Some(id) = &task.task {
        field("task", id);
    }
    field("relay task", &task.relay_task);
    field("url", &task.url);
    if let Some(to) = &task.to {
        field("to", to);
    }
    field("state", &human::word(task.state));
    if let Some(reason) = &task.reason {
        field("reason", reason);
    }
    if let Some(length) = task.length {
        field(
            "length",
            &format_args!("{} ({length} bytes)", human::bytes(length)),
        );
    } else if task.sid.is_some() {
        field("length", &"not known yet: the origin does not say it");
    }
    if let Some(sid) = &task.sid {
        field("swarm", sid);
    }
    if let Some(torrent) = &task.torrent {
        field("torrent", torrent);
    }
    if let Some(growth) = &task.growth {
        let (sealed, pieces) = (growth.sealed, human::count(growth.pieces));
        let phase = human::word(growth.phase);
        field(
            "pieces",
            &format_args!("{sealed} of {pieces} signed, {phase}"),
        );
    }
    if let Some(audits) = task.growth.as_ref().and_then(|growth| growth.audits) {
        let AuditCounts {
            open,
            equal,
            different,
            unread,
        } = audits;
        field(
            "read again",
            &format_args!(
                "{equal} pieces the same, {different} different, {unread} not readable, {open} under way"
            ),
        );
    }
    let relays = task.growth.as_ref().map(|growth| &growth.relays);
    if let Some(relays) = relays.filter(|relays| !relays.is_empty()) {
        say::line(format_args!("\n{}", relay_table(relays)));
    }
    if task.agents.is_empty() {
        return;
    }
    let mut agents = Table::new(&["agent", "name", "state", "held", "from", "reason"]);
    for agent in &task.agents {
        let sources = agent.sources;
        agents.row(&[
            &agent.node,
            &agent.name,
            &human::word(agent.state),
            &human::bytes(agent.bytes),
            &human::sources(sources.peer, sources.relay, sources.origin),
            &agent.reason.as_deref().unwrap_or_default(),
        ]);
    }
    say::line(format_args!("\n{agents}"));
}

fn relay_table(relays: &[RelayShare]) -> Table {
    let mut table = Table::new(&["relay", "name", "reported", "leased", "held", "reason"]);
    for relay in relays {
        let paused = relay.paused.as_ref().map(|why| format!("paused: {why}"));
        let distrusted = relay.distrusted.then(|| "not trusted any more".to_owned());
        table.row(&[
            &relay.node,
            &relay.name,
            &format_args!("{} pieces", relay.pieces),
            &format_args!("{} pieces", relay.leased),
            &human::bytes(relay.have),
            &distrusted.or(paused).unwrap_or_default(),
        ]);
    }
    table
}

fn table(tasks: &[Task]) -> Table {
    let mut table = Table::new(&["task", "relay task", "state", "length", "to", "url"]);
    for task in tasks {
        table.row(&[
            &task.task.as_deref().unwrap_or("-"),
            &task.relay_task,
            &human::word(task.state),
            &task.length.map_or_else(|| "-".into(), human::bytes),
            &task.to.as_deref().unwrap_or("-"),
            &task.url,
        ]);
    }
    table
}
