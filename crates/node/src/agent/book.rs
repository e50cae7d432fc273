//! The agent's tasks and jobs: what control wants, what is done, what is kept for a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_api::sync::{
    AgentState, Ask, Grant, Policy, SyncReply, SyncRequest, TaskOrder, TaskReport,
};
use floodway_origin::SourceUrl;
use floodway_proto::Sid;
use floodway_store::unfinished_identity;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::TICKET_PAUSE;
use crate::control_client::ControlClient;
use crate::job::orders::{Orders, Refusal, Ticket};
use crate::job::{Apart, Board, Job, Link, Nudge, Place, Rules, Wanted, sweep};
use crate::manifest::key;
use crate::node::{RoleError, end_all};
use crate::origin_source::same_host;
use crate::reasons::Reasons;
use crate::state::DataDir;
use crate::{GetError, Session};

/// The file that holds tasks and policy for a restart.
const TASKS: &str = "tasks.json";

/// What all jobs share.
pub(super) struct Tools {
    pub(super) data: Arc<DataDir>,
    pub(super) session: Session,
    pub(super) client: watch::Receiver<ControlClient>,
    /// Where finished files go.
    pub(super) dir: PathBuf,
}

/// What is kept for a restart.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    policy: Policy,
    tasks: Vec<KeptTask>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptTask {
    order: TaskOrder,
    /// How it ended, if it did.
    #[serde(default)]
    report: Option<TaskReport>,
}

/// All tasks of this agent.
pub(super) struct Book {
    tools: Tools,
    nudges: mpsc::UnboundedSender<Nudge>,
    tasks: BTreeMap<String, Task>,
    jobs: BTreeMap<u64, Running>,
    /// Jobs that were cancelled and are cleaning up.
    leaving: Vec<JoinHandle<()>>,
    /// What no task will take over any more has been removed since the last task ended.
    swept: bool,
    next_job: u64,
    policy: Policy,
    /// The key by which control signs, as this node first saw it.
    control_key: Option<[u8; 32]>,
    away: bool,
    kept: Kept,
}

struct Task {
    order: TaskOrder,
    /// The job that does it; `None` for one that ended in an earlier run and needs nothing more.
    job: Option<u64>,
    ended: Option<TaskReport>,
}

struct Running {
    url: String,
    sid: Option<Sid>,
    orders: watch::Sender<Orders>,
    board: Board,
    /// A ticket was refused: not to be asked for before then.
    ask_again: Option<Instant>,
    task: JoinHandle<()>,
}

impl Book {
    pub(super) fn new(tools: Tools, nudges: mpsc::UnboundedSender<Nudge>) -> Self {
        Self {
            tools,
            nudges,
            tasks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            leaving: Vec::new(),
            swept: false,
            next_job: 0,
            policy: Policy::default(),
            control_key: None,
            away: false,
            kept: Kept::default(),
        }
    }

    /// Goes on with the tasks of an earlier run, before control is reached.
    pub(super) fn restore(&mut self) -> Result<(), RoleError> {
        let kept: Kept = self.tools.data.load(TASKS)?.unwrap_or_default();
        self.policy = kept.policy;
        let sids = kept.tasks.iter().filter_map(|task| task.order.sid);
        let sids: BTreeSet<Sid> = sids.collect();
        let data = &self.tools.data;
        data.retain_contents(|sid| sids.contains(&sid) || self.is_left(sid));
        for task in &kept.tasks {
            self.begin(task.order.clone(), task.report.clone());
        }
        self.kept = kept;
        Ok(())
    }

    /// Unfinished data of the content lies in the agent's folder: what takes its place needs to know what it is.
    fn is_left(&self, sid: Sid) -> bool {
        let Some(genesis) = self.tools.data.genesis(sid) else {
            return false;
        };
        let place = Place::Folder(self.tools.dir.clone());
        unfinished_identity(&place.path(&genesis.name)) == Some(sid.0)
    }

    /// Writes down what a restart needs, if it changed.
    pub(super) fn keep(&mut self) {
        let tasks = self.tasks.values().map(|task| KeptTask {
            order: task.order.clone(),
            report: self.report(task).filter(|report| is_end(report.state)),
        });
        let kept = Kept {
            policy: self.policy,
            tasks: tasks.collect(),
        };
        if kept == self.kept {
            return;
        }
        match self.tools.data.save(TASKS, &kept) {
            Ok(()) => self.kept = kept,
            // The next change tries again.
            Err(error) => tracing::warn!(%error, "the tasks could not be kept"),
        }
    }

    fn report(&self, task: &Task) -> Option<TaskReport> {
        if let Some(ended) = &task.ended {
            return Some(ended.clone());
        }
        let job = self.jobs.get(&task.job?)?;
        Some(job.board.get().task_report(&task.order.task))
    }

    /// Everything that control is to know.
    pub(super) fn request(&self) -> SyncRequest {
        let now = Instant::now();
        let asks = self
            .jobs
            .values()
            .filter(|job| job.ask_again.is_none_or(|at| at <= now));
        let asks = asks.filter(|job| job.board.get().asks_ticket);
        SyncRequest {
            peer: Some(self.tools.session.peer_addr()),
            contents: self
                .jobs
                .values()
                .filter_map(|job| job.board.get().content_report())
                .collect(),
            tasks: self
                .tasks
                .values()
                .filter_map(|task| self.report(task))
                .collect(),
            asks: asks
                .map(|job| Ask::Ticket {
                    sid: job.sid,
                    url: job.url.clone(),
                })
                .collect(),
            streaming: true,
            ..SyncRequest::default()
        }
    }

    /// When a refused ticket may be asked for again.
    pub(super) fn alarm(&self) -> Option<Instant> {
        let now = Instant::now();
        self.jobs
            .values()
            .filter_map(|job| job.ask_again)
            .filter(|&at| at > now)
            .min()
    }

    pub(super) fn away(&mut self, away: bool) {
        tracing::info!(away, "control's state changed");
        self.away = away;
        for job in self.jobs.values() {
            job.orders.send_modify(|orders| orders.control_down = away);
        }
    }

    /// Does what control says: the reply is all that concerns this agent now.
    pub(super) fn apply(&mut self, mut reply: SyncReply) {
        self.policy = reply.policy;
        if let Some(offered) = key(reply.control_key.as_ref()) {
            self.control_key = Some(self.tools.data.control_key(offered));
        }
        let listed: BTreeSet<&str> = reply
            .tasks
            .iter()
            .map(|order| order.task.as_str())
            .collect();
        let over: Vec<String> = self
            .tasks
            .keys()
            .filter(|id| !listed.contains(id.as_str()))
            .cloned()
            .collect();
        for id in over {
            tracing::info!(task = id, "the task is over");
            self.tasks.remove(&id);
            self.swept = false;
        }
        for order in std::mem::take(&mut reply.tasks) {
            match self.tasks.get_mut(&order.task) {
                Some(task) => {
                    if let Some(job) = task.job.and_then(|job| self.jobs.get_mut(&job)) {
                        // The object changed while relays fetched it: another content takes its place.
                        job.sid = order.sid.or(job.sid);
                    }
                    task.order = order;
                }
                None => self.begin(order, None),
            }
        }
        self.end_unwanted();
        self.sweep();
        for job in self.jobs.values_mut() {
            job.instruct(&reply, self.away, self.control_key);
        }
        self.keep();
    }

    /// Ends the jobs that no task wants.
    fn end_unwanted(&mut self) {
        let wanted: BTreeSet<u64> = self.tasks.values().filter_map(|task| task.job).collect();
        self.leaving.retain(|task| !task.is_finished());
        for (_, job) in self.jobs.extract_if(.., |id, _| !wanted.contains(id)) {
            job.orders.send_modify(|orders| orders.cancelled = true);
            self.leaving.push(job.task);
        }
    }

    /// Removes what earlier runs left of contents that no task is for, and that nothing will take the place of: a task may have ended
    /// before its successor began.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.swept, true) {
            return;
        }
        let mut wanted = Wanted::default();
        for task in self.tasks.values() {
            if let Some(sid) = task.order.sid {
                wanted.content(sid);
            }
            if task.job.is_some() {
                wanted.object(&task.order.url);
            }
        }
        for job in self.jobs.values() {
            let serving = job.board.get().serving.map(|serving| serving.sid);
            job.sid
                .into_iter()
                .chain(serving)
                .for_each(|sid| wanted.content(sid));
        }
        let leaving = std::mem::take(&mut self.leaving);
        let (data, folder) = (Arc::clone(&self.tools.data), self.tools.dir.clone());
        self.leaving.push(tokio::spawn(async move {
            end_all(leaving).await;
            let swept = tokio::task::spawn_blocking(move || sweep(&data, &folder, &wanted));
            if let Err(error) = swept.await {
                tracing::error!(%error, "a defect broke the store");
            }
        }));
    }

    /// Takes a task on: by the job that does the same content already, or by a new one.
    fn begin(&mut self, order: TaskOrder, ended: Option<TaskReport>) {
        let needs_job = match &ended {
            None => true,
            // It goes on seeding; what it needs for that is its torrent.
            Some(report) => {
                let kept = order
                    .sid
                    .is_some_and(|sid| matches!(self.tools.data.torrent(sid), Ok(Some(_))));
                report.state == AgentState::Verified && kept
            }
        };
        let same = |job: &Running| match (job.sid, order.sid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => job.url == order.url,
        };
        let job = self
            .jobs
            .iter()
            .find(|(_, job)| same(job))
            .map(|(&id, _)| id);
        let job = if needs_job {
            job.or_else(|| Some(self.start(&order)))
        } else {
            None
        };
        // A running job speaks for itself.
        let ended = ended.filter(|_| job.is_none());
        self.tasks
            .insert(order.task.clone(), Task { order, job, ended });
    }

    fn start(&mut self, order: &TaskOrder) -> u64 {
        let id = self.next_job;
        self.next_job += 1;
        let url: Option<SourceUrl> = order.url.parse().ok();
        let first = Orders {
            sid: order.sid,
            policy: self.policy,
            control_down: self.away,
            ..Orders::default()
        };
        let (orders, seen) = watch::channel(first);
        let board = Board::new(self.nudges.clone());
        let job = Job {
            session: self.tools.session.clone(),
            link: Some(Link {
                client: self.tools.client.borrow().clone(),
                data: Some(Arc::clone(&self.tools.data)),
            }),
            rules: Rules {
                check: url.as_ref().map(same_host),
                ..Rules::of_agent(self.tools.dir.clone())
            },
            url,
            orders: seen,
            board: board.clone(),
            reasons: Reasons::new(|reason| tracing::info!(reason)),
            listener: Arc::new(|_| ()),
            sink: None,
            one_get: false,
            left: None,
            apart: Apart::default(),
        };
        let data = Arc::clone(&self.tools.data);
        let task = tokio::spawn(execute(job, data));
        let running = Running {
            url: order.url.clone(),
            sid: order.sid,
            orders,
            board,
            ask_again: None,
            task,
        };
        self.jobs.insert(id, running);
        id
    }

    /// Ends all jobs; what a later run can go on with stays on disk.
    pub(super) async fn stop(&mut self) {
        self.keep();
        for (_, job) in std::mem::take(&mut self.jobs) {
            drop(job.orders);
            // The session flushes what the job had.
            job.task.abort();
            let _ = job.task.await;
        }
        end_all(std::mem::take(&mut self.leaving)).await;
    }
}

fn is_end(state: AgentState) -> bool {
    matches!(state, AgentState::Verified | AgentState::Failed)
}

impl Running {
    /// Brings the job what concerns it.
    fn instruct(&mut self, reply: &SyncReply, away: bool, control_key: Option<[u8; 32]>) {
        let (sid, url) = (self.sid, self.url.as_str());
        let info = reply
            .contents
            .iter()
            .find(|info| Some(info.sid) == sid)
            .cloned();
        let mut again = None;
        self.orders.send_modify(|orders| {
            orders.sid = sid;
            orders.info = info;
            orders.policy = reply.policy;
            orders.control_down = away;
            orders.control_key = control_key;
            for grant in &reply.grants {
                match grant {
                    Grant::Ticket { url: granted, etag } if granted == url => {
                        orders.ticket = Some(Ticket { etag: etag.clone() });
                    }
                    Grant::Refused {
                        subject,
                        code,
                        message,
                        retry_ms,
                    } if subject == url => match retry_ms {
                        Some(millis) => again = Some(Duration::from_millis(*millis)),
                        None if code == "relay_live" => again = Some(TICKET_PAUSE),
                        None => {
                            orders.refusal = Some(Refusal {
                                code: code.clone(),
                                message: message.clone(),
                            });
                        }
                    },
                    _ => {}
                }
            }
        });
        if let Some(pause) = again {
            self.ask_again = Some(Instant::now() + pause);
        }
    }
}

/// Fetches, tells how it ended, and seeds until the task is over.
async fn execute(mut job: Job, data: Arc<DataDir>) {
    let fetched = match Box::pin(job.fetch()).await {
        Ok(fetched) => fetched,
        Err(GetError::Cancelled | GetError::Interrupted) => return forget(&job, &data).await,
        Err(error) => {
            tracing::warn!(%error, "a task failed");
            job.board.state(AgentState::Failed, Some(error.to_string()));
            return forget_when_over(&mut job, &data).await;
        }
    };
    let verdict = job.verdict(fetched.verified_by);
    job.board.done(&fetched.finished, verdict);
    match fetched.content {
        Some(content) => {
            if job.serve(&content).await {
                content.stop(true).await;
                forget(&job, &data).await;
            }
        }
        None => forget_when_over(&mut job, &data).await,
    }
}

/// Waits for the end of the task.
async fn forget_when_over(job: &mut Job, data: &DataDir) {
    if job.orders.wait_for(|orders| orders.cancelled).await.is_ok() {
        forget(job, data).await;
    }
}

/// What is kept of a task that is over, but for its finished file, is of no use any more.
async fn forget(job: &Job, data: &DataDir) {
    let orders = job.orders.borrow().clone();
    let Some(sid) = orders.sid.filter(|_| orders.cancelled) else {
        return;
    };
    job.discard(sid).await;
    if let Err(error) = data.remove_content(sid) {
        tracing::warn!(%error, "a torrent could not be removed");
    }
}

#[cfg(test)]
mod tests;
