use floodway_api::sync::{ContentInfo, OfflineOrigin, PeerInfo};
use floodway_proto::{NodeId, digest};

use super::*;
use crate::SessionConfig;
use crate::testing::{genesis, unfinished};

const SID: Sid = Sid([1; 32]);

struct Site {
    book: Book,
    folder: tempfile::TempDir,
    _nudges: mpsc::UnboundedReceiver<Nudge>,
}

async fn site(folder: tempfile::TempDir) -> Site {
    let data = Arc::new(DataDir::open(&folder.path().join("data")).unwrap());
    let config = SessionConfig::new("127.0.0.1:0".parse().unwrap(), NodeId([1; 16]));
    let session = Session::start(config).await.unwrap();
    // Nobody listens there: what a job asks control for comes to nothing.
    let client = ControlClient::new("http://127.0.0.1:9", None).unwrap();
    let (_, client) = watch::channel(client);
    let dir = folder.path().join("files");
    let (nudges, nudged) = mpsc::unbounded_channel();
    let book = Book::new(
        Tools {
            data,
            session,
            client,
            dir,
        },
        nudges,
    );
    Site {
        book,
        folder,
        _nudges: nudged,
    }
}

fn order(task: &str, sid: Option<Sid>, url: &str) -> TaskOrder {
    TaskOrder {
        task: task.into(),
        sid,
        url: url.into(),
    }
}

fn reply(tasks: Vec<TaskOrder>) -> SyncReply {
    SyncReply {
        tasks,
        ..SyncReply::default()
    }
}

#[tokio::test]
async fn tasks_for_one_content_share_a_job_and_the_last_one_ends_it() {
    let mut site = site(tempfile::tempdir().unwrap()).await;
    let (a, b) = (
        order("a", Some(SID), "http://h/f"),
        order("b", Some(SID), "http://other/f"),
    );
    site.book.apply(reply(vec![
        a.clone(),
        b.clone(),
        order("c", None, "http://h/g"),
    ]));
    assert_eq!(site.book.jobs.len(), 2);
    let job = site.book.tasks["a"].job.unwrap();
    assert_eq!(site.book.tasks["b"].job, Some(job));
    assert_eq!(site.book.request().tasks.len(), 3);
    let orders = site.book.jobs[&job].orders.subscribe();
    site.book.apply(reply(vec![b]));
    assert!(!orders.borrow().cancelled);
    site.book.apply(reply(Vec::new()));
    assert!(orders.borrow().cancelled && site.book.jobs.is_empty());
    assert!(site.book.request().tasks.is_empty());
    site.book.stop().await;
}

#[tokio::test]
async fn tasks_policy_and_ends_survive_a_restart() {
    let mut first = site(tempfile::tempdir().unwrap()).await;
    let mut told = reply(vec![
        order("a", Some(SID), "http://h/f"),
        order("b", None, "http://h/g"),
    ]);
    told.policy = Policy {
        offline_origin: OfflineOrigin::Deny,
    };
    first.book.apply(told);
    let job = first.book.tasks["b"].job.unwrap();
    first.book.jobs[&job]
        .board
        .state(AgentState::Failed, Some("no room".into()));
    first.book.stop().await;
    let Site { book, folder, .. } = first;
    drop(book);

    let mut second = site(folder).await;
    second.book.restore().unwrap();
    assert_eq!(second.book.policy.offline_origin, OfflineOrigin::Deny);
    assert_eq!(second.book.jobs.len(), 1, "what failed is not tried again");
    let request = second.book.request();
    let failed = request
        .tasks
        .iter()
        .find(|report| report.task == "b")
        .unwrap();
    assert_eq!(
        (failed.state, failed.reason.as_deref()),
        (AgentState::Failed, Some("no room"))
    );
    // Control still lists it: nothing changes.
    second.book.apply(reply(vec![
        order("a", Some(SID), "http://h/f"),
        order("b", None, "http://h/g"),
    ]));
    assert_eq!(second.book.jobs.len(), 1);
    second.book.stop().await;
}

#[tokio::test]
async fn grants_and_peers_reach_the_job_they_are_for() {
    let mut site = site(tempfile::tempdir().unwrap()).await;
    site.book.apply(reply(vec![
        order("a", Some(SID), "http://h/f"),
        order("b", None, "http://h/g"),
    ]));
    let info = ContentInfo {
        sid: SID,
        is_final: false,
        peers: vec![PeerInfo {
            addr: "127.0.0.1:1".parse().unwrap(),
            node: None,
            name: None,
            streaming: false,
            final_ok: true,
        }],
        relays: Vec::new(),
        relay_live: true,
        manifest: None,
        site: None,
    };
    let mut told = reply(vec![
        order("a", Some(SID), "http://h/f"),
        order("b", None, "http://h/g"),
    ]);
    told.contents = vec![info.clone()];
    told.grants = vec![
        Grant::Ticket {
            url: "http://h/f".into(),
            etag: Some("\"x\"".into()),
        },
        Grant::Refused {
            subject: "http://h/g".into(),
            code: "relay_live".into(),
            message: "wait".into(),
            retry_ms: Some(60_000),
        },
    ];
    site.book.apply(told);
    let orders = |task: &str| {
        let job = site.book.tasks[task].job.unwrap();
        site.book.jobs[&job].orders.borrow().clone()
    };
    let (a, b) = (orders("a"), orders("b"));
    assert_eq!(
        (a.info, a.ticket),
        (
            Some(info),
            Some(Ticket {
                etag: Some("\"x\"".into())
            })
        )
    );
    assert_eq!((b.info, b.ticket, b.refusal), (None, None, None));
    assert!(
        site.book.alarm().is_some(),
        "the ticket is asked for again later"
    );
    site.book.away(true);
    let job = site.book.tasks["a"].job.unwrap();
    assert!(site.book.jobs[&job].orders.borrow().control_down);
    site.book.stop().await;
}

impl Site {
    /// As after a run that was killed while it fetched version `etag` of `http://h/f`.
    fn leave_unfinished(&self, etag: &str) -> Sid {
        let mut genesis = genesis("f", Some(1 << 20), 1 << 18, etag);
        genesis.origin.url_hash = digest::sha256(b"http://h/f");
        self.book.tools.data.save_genesis(&genesis).unwrap();
        std::fs::create_dir_all(&self.book.tools.dir).unwrap();
        unfinished(self.book.tools.dir.join("f"), &genesis);
        genesis.sid()
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.book.tools.dir).unwrap().count()
    }
}

/// What an earlier run has begun of a content that nobody wants any more.
#[tokio::test]
async fn a_task_that_ended_while_the_agent_was_away_leaves_nothing_unfinished() {
    let mut site = site(tempfile::tempdir().unwrap()).await;
    let sid = site.leave_unfinished("\"v1\"");
    assert_eq!(site.files(), 2, "data and journal");
    // It waits for control's word of the content, and hears that the task is over.
    site.book
        .apply(reply(vec![order("a", Some(sid), "http://h/f")]));
    site.book.apply(reply(Vec::new()));
    site.book.stop().await;
    assert_eq!(site.files(), 0);
}

#[tokio::test]
async fn what_is_left_of_a_predecessor_goes_with_the_last_task_for_its_url() {
    let mut site = site(tempfile::tempdir().unwrap()).await;
    let old = site.leave_unfinished("\"v1\"");
    let kept = |site: &Site| site.book.tools.data.genesis(old).is_some();
    let both = ["a", "b"].map(|task| order(task, Some(SID), "http://h/f"));
    let other = order("c", None, "http://h/g");
    let [first, last] = both.clone();
    site.book
        .apply(reply(vec![first, last.clone(), other.clone()]));
    site.book.apply(reply(vec![last, other.clone()]));
    end_all(std::mem::take(&mut site.book.leaving)).await;
    assert!(site.files() == 2 && kept(&site), "its successor may begin");
    site.book.apply(reply(vec![other]));
    end_all(std::mem::take(&mut site.book.leaving)).await;
    assert!(site.files() == 0 && !kept(&site));
    site.book.stop().await;
}

#[tokio::test]
async fn what_an_earlier_run_left_for_a_task_that_is_over_goes_at_the_first_word_of_control() {
    let mut site = site(tempfile::tempdir().unwrap()).await;
    site.leave_unfinished("\"v1\"");
    site.book.restore().unwrap();
    end_all(std::mem::take(&mut site.book.leaving)).await;
    assert_eq!(site.files(), 2, "nobody knows what control wants");
    site.book.apply(reply(Vec::new()));
    site.book.stop().await;
    assert_eq!(site.files(), 0);
}
