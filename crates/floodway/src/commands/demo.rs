//! `floodway demo`: everything on this machine by one command, then the same files by plain HTTP, then a report.

mod children;
mod input;
mod origin;
mod report;
mod table;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use floodway_api::rest::{CreateTask, Task, TaskState};
use floodway_api::sync::AgentState;
use floodway_node::control_client::ControlClient;
use floodway_proto::{ByteRate, NodeId};
use tokio_util::sync::CancellationToken;

use self::children::Crew;
use self::input::{Folder, Input};
use self::report::{Agent, Report, Run};
use self::table::Table;
use super::get::positive_rate;
use crate::client::failure;
use crate::exit::{Exit, Failure, Outcome};
use crate::{human, runtime, say, signals};

pub(crate) use children::die_with_parent;
pub(crate) use origin::OriginArgs;

/// How often control is asked how far the agents are.
const POLL: Duration = Duration::from_millis(50);

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The file to distribute [default: one of 256MiB is made]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    agents: u32,
    /// How many relays
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    relays: u32,
    /// What the origin sends, over all connections together
    #[arg(long, value_name = "RATE", default_value_t = ByteRate::mib(64), value_parser = positive_rate)]
    origin_limit: ByteRate,
    /// Go on serving after the report, until interrupted
    #[arg(long)]
    keep: bool,
    /// End with one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Outcome {
    // One thread: the children are told to die with the thread that started them.
    runtime::small()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let folder = Folder::create()?;
        let mut crew = Crew::new(folder.path())?;
        let outcome = tokio::select! {
            outcome = demo(args, &folder, &mut crew) => outcome,
            () = shutdown.cancelled() => Ok(Exit::Interrupted),
        };
        let outcome = match outcome {
            Ok(Exit::Done) if args.keep => {
                shutdown.cancelled().await;
                Ok(Exit::Done)
            }
            outcome => outcome,
        };
        crew.stop().await;
        outcome
    })
}

/// The hidden subcommand that the demo runs as its origin.
pub(crate) fn origin(args: OriginArgs) -> Outcome {
    runtime::full()?.block_on(async {
        let shutdown: CancellationToken = signals::shutdown()?;
        origin::serve(args, shutdown).await?;
        Ok(Exit::Done)
    })
}

async fn demo(args: &DemoArgs, folder: &Folder, crew: &mut Crew) -> Outcome {
    let note = |text: &str| {
        if !args.json {
            say::note(text);
        }
    };
    note("preparing the file …");
    let input = Input::prepare(folder.path(), args.file.clone()).await?;
    note(&format!(
        "starting an origin limited to {}, control, {} and {} …",
        args.origin_limit,
        count(args.relays, "relay"),
        count(args.agents, "agent"),
    ));
    let fleet = Fleet::start(args, &input, crew).await?;
    note(&format!(
        "distributing {} ({}) …",
        input.name,
        human::bytes(input.length)
    ));
    let (floodway, agents) = fleet.distribute(args, &input, crew).await?;
    note(&format!(
        "the same by plain HTTP, {} at once …",
        count(args.agents, "download")
    ));
    let plain_http = fleet.plain_http(args, &input, crew).await?;
    let report = Report {
        input,
        floodway,
        plain_http,
        agents,
    };
    if !args.json {
        say::line(format_args!("\n{}", report.text()));
    }
    if args.keep && !args.json {
        say::line(fleet.addresses(&report, crew.exe()));
    }
    if args.json {
        say::json(&report.json());
    }
    if report.agents.iter().all(|agent| agent.verified) {
        Ok(Exit::Done)
    } else {
        Err(Failure::new(
            Exit::Mismatch,
            "an agent's file is not the origin's file",
        ))
    }
}

fn count(number: u32, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// The running fleet, seen from the operator's side.
struct Fleet {
    origin: String,
    control: String,
    admin_token: PathBuf,
    client: ControlClient,
}

impl Fleet {
    async fn start(args: &DemoArgs, input: &Input, crew: &mut Crew) -> Result<Self, Failure> {
        let limit = args.origin_limit.to_string();
        let origin = crew
            .start(
                "origin",
                &[&"demo-origin", &input.folder, &"--limit", &limit],
            )
            .await?
            .http()?;
        let (any, data) = ("127.0.0.1:0", crew.data("control"));
        let allowed = format!("{origin}/files/");
        let control = crew
            .start(
                "control",
                &[
                    &"control",
                    &"--http",
                    &any,
                    &"--data",
                    &data,
                    &"--allow-origin",
                    &allowed,
                ],
            )
            .await?
            .http()?;
        let join_token = data.join("join.token");
        let relays = (1..=args.relays).map(|number| ("relay", number));
        let agents = (1..=args.agents).map(|number| ("agent", number));
        for (role, number) in relays.chain(agents) {
            let name = format!("{role}-{number}");
            let data = crew.data(&name);
            let to_control: [&dyn AsRef<OsStr>; 4] =
                [&"--control", &control, &"--token-file", &join_token];
            let own: [&dyn AsRef<OsStr>; 9] = [
                &role,
                &"--name",
                &name,
                &"--data",
                &data,
                &"--http",
                &any,
                &"--listen",
                &any,
            ];
            crew.start(&name, &[own.as_slice(), to_control.as_slice()].concat())
                .await?;
        }
        let admin_token = data.join("admin.token");
        let token = crate::client::token(Some(&admin_token))?;
        let client = ControlClient::new(&control, token.as_deref()).map_err(failure)?;
        Ok(Self {
            origin,
            control,
            admin_token,
            client,
        })
    }

    fn url(&self, input: &Input) -> String {
        format!("{}/files/{}", self.origin, input.encoded_name())
    }

    /// Body bytes that the origin has sent so far.
    async fn sent(&self) -> Result<u64, Failure> {
        origin::ask_sent(&self.origin).await.map_err(|error| {
            Failure::failed(format_args!("the demo's origin does not answer: {error}"))
        })
    }

    /// Gets the file onto all agents by a distribution task.
    async fn distribute(
        &self,
        args: &DemoArgs,
        input: &Input,
        crew: &mut Crew,
    ) -> Result<(Run, Vec<Agent>), Failure> {
        let before = self.sent().await?;
        let start = Instant::now();
        let create = CreateTask {
            url: self.url(input),
            files: None,
            to: Some("all".into()),
        };
        let created = self.client.create_task(&create).await.map_err(failure)?;
        let id = created.task.unwrap_or(created.relay_task);
        let mut table = Table::new(args.json, input.length);
        let mut finished: Vec<(NodeId, f64)> = Vec::new();
        let mut patience = 6;
        let task = loop {
            let task = match self.client.task(&id).await {
                Ok(task) => task,
                // A busy machine may keep it waiting.
                Err(error) if error.is_unreachable() && patience > 0 => {
                    patience -= 1;
                    crew.check()?;
                    continue;
                }
                Err(error) => return Err(failure(error)),
            };
            table.show(&task, self.sent().await? - before);
            for agent in task
                .agents
                .iter()
                .filter(|agent| agent.state == AgentState::Verified)
            {
                if finished.iter().all(|(node, _)| *node != agent.node) {
                    finished.push((agent.node, start.elapsed().as_secs_f64()));
                }
            }
            match trouble(&task) {
                Some(reason) => return Err(Failure::failed(reason)),
                None if finished.len() == args.agents as usize => break task,
                None => {}
            }
            crew.check()?;
            tokio::time::sleep(POLL).await;
        };
        table.clear();
        let run = Run {
            seconds: finished
                .iter()
                .map(|(_, seconds)| *seconds)
                .fold(0.0, f64::max),
            bytes_sent: self.sent().await? - before,
        };
        let mut agents = Vec::new();
        for agent in task.agents {
            let seconds = finished
                .iter()
                .find(|(node, _)| *node == agent.node)
                .map(|(_, s)| *s);
            let file = crew.data(&agent.name).join("files").join(&input.name);
            agents.push(Agent {
                seconds: seconds.unwrap_or(run.seconds),
                verified: input::sha256(file).await? == input.sha256,
                sources: agent.sources,
                name: agent.name,
            });
        }
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((run, agents))
    }

    /// Lets as many plain downloads as there are agents read the origin at once.
    async fn plain_http(
        &self,
        args: &DemoArgs,
        input: &Input,
        crew: &Crew,
    ) -> Result<Run, Failure> {
        let before = self.sent().await?;
        let start = Instant::now();
        let url = self.url(input);
        let downloads = (1..=args.agents).map(|number| {
            let folder = crew.data(&format!("plain-{number}"));
            crew.download(&url, folder)
        });
        for download in downloads.collect::<Result<Vec<_>, _>>()? {
            download.finished().await?;
        }
        let seconds = start.elapsed().as_secs_f64();
        Ok(Run {
            seconds,
            bytes_sent: self.sent().await? - before,
        })
    }

    /// What `--keep` tells to try next.
    fn addresses(&self, report: &Report, exe: &Path) -> String {
        let (control, token) = (&self.control, self.admin_token.display());
        let join = self.admin_token.with_file_name("join.token");
        format!(
            "still running (Ctrl-C stops everything):\n  \
             origin   {url}\n  control  {control}\n\n\
             try, from another terminal:\n  \
             {exe} get {url} --control {control} --token-file {join}\n  \
             {exe} task list --control {control} --token-file {token}\n  \
             {exe} node list --control {control} --token-file {token}",
            url = self.url(&report.input),
            join = join.display(),
            exe = exe.display(),
        )
    }
}

/// Why the task will not be done.
fn trouble(task: &Task) -> Option<String> {
    let failed = task
        .agents
        .iter()
        .find(|agent| agent.state == AgentState::Failed);
    if let Some(agent) = failed {
        let reason = agent.reason.as_deref().unwrap_or("it gave no reason");
        return Some(format!("{} failed: {reason}", agent.name));
    }
    matches!(task.state, TaskState::Failed | TaskState::Cancelled).then(|| {
        let reason = task.reason.as_deref().unwrap_or("control gave no reason");
        format!("the task failed: {reason}")
    })
}
