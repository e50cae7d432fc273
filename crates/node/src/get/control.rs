//! `get` under control: enrols, asks for the content, and brings the job its orders.

use std::time::{Duration, Instant};

use floodway_api::rest::{Enrol, Role};
use floodway_api::sync::{Ask, ContentReport, Grant, SyncReply, SyncRequest};
use floodway_origin::SourceUrl;
use floodway_proto::record::Head;
use floodway_proto::{NodeId, Sid};
use tokio::sync::{mpsc, watch};

use super::{
    ControlAccess, GetError, GetSource, GetSpec, Running, Started, Task, job, random_node,
    session_config,
};
use crate::Session;
use crate::control_client::ControlClient;
use crate::job::orders::{Orders, Refusal, Ticket};
use crate::job::{Board, GetEvent, Link, Listener, Nudge, Status};
use crate::manifest::key;
use crate::sync::{Synced, Syncer, sleep_until};

/// Without an answer for so long, control counts as away.
pub(crate) const AWAY: Duration = Duration::from_secs(5);
/// Between tries to enrol.
const PAUSE: Duration = Duration::from_millis(250);

/// Enrols and sets up the job. With control away it goes on by the offline policy.
pub(super) async fn run(
    spec: &GetSpec,
    access: &ControlAccess,
    listener: &Listener,
) -> Result<Started, GetError> {
    let (url, sid) = match &spec.source {
        GetSource::Url(url) => (Some(url.clone()), None),
        GetSource::Sid(sid) => (None, Some(*sid)),
        GetSource::Torrent(_) => (None, None),
    };
    let client = ControlClient::new(&access.address, Some(&access.token))?;
    let enrolled = enrol(&client, listener).await?;
    let (client, node, away) = match enrolled {
        Some((client, node)) => (client, node, false),
        None => (client, random_node(), true),
    };
    let session = Session::start(session_config(spec, node)).await?;
    let (nudges, nudged) = mpsc::unbounded_channel();
    let board = Board::new(nudges);
    let orders = Orders {
        sid,
        control_down: away,
        ..Orders::default()
    };
    let (send_orders, orders) = watch::channel(orders);
    let mut job = job(
        spec,
        session.clone(),
        url.clone(),
        board.clone(),
        orders,
        listener,
    )?;
    job.link = Some(Link {
        client: client.clone(),
        data: None,
    });
    let mut syncer = Syncer::new(client);
    syncer.changed();
    let subject = Subject {
        url,
        sid,
        is_peer: !spec.no_p2p,
    };
    let talk = Talk {
        syncer,
        subject,
        session: session.clone(),
        board,
        nudged,
        orders: send_orders,
        ask_again: None,
    };
    // An unknown node cannot sync: the job goes on by itself.
    let conversation = if away {
        Conversation::silent(talk.orders)
    } else {
        Conversation {
            talk: Some(talk),
            kept: None,
        }
    };
    Ok(Started {
        running: Running { session, job },
        task: Task::ByOrders,
        conversation,
    })
}

/// Becomes a short-lived node, also by a token of the node that runs on this machine. `None`: control is away.
async fn enrol(
    client: &ControlClient,
    listener: &Listener,
) -> Result<Option<(ControlClient, NodeId)>, GetError> {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let enrol = Enrol {
        role: Role::Agent,
        name,
        short_lived: true,
    };
    let begun = Instant::now();
    loop {
        let left = AWAY.saturating_sub(begun.elapsed());
        let answer = tokio::time::timeout(left, client.enrol(&enrol)).await;
        match answer {
            Ok(Ok(enrolled)) => {
                return Ok(Some((client.with_token(&enrolled.token)?, enrolled.node)));
            }
            Ok(Err(error)) if !error.is_unreachable() => return Err(error.into()),
            Ok(Err(error)) => listener(GetEvent::Waiting(error.to_string())),
            Err(_) => return Ok(None),
        }
        if begun.elapsed() + PAUSE >= AWAY {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What was asked for.
struct Subject {
    url: Option<SourceUrl>,
    sid: Option<Sid>,
    /// Others may dial us.
    is_peer: bool,
}

struct Talk {
    syncer: Syncer,
    subject: Subject,
    session: Session,
    board: Board,
    nudged: mpsc::UnboundedReceiver<Nudge>,
    orders: watch::Sender<Orders>,
    /// A ticket was refused: not to be asked for before then.
    ask_again: Option<Instant>,
}

/// Talks with control as long as it is held.
pub(super) struct Conversation {
    talk: Option<Talk>,
    /// Keeps the orders as they are.
    kept: Option<watch::Sender<Orders>>,
}

impl Conversation {
    /// Without control.
    pub(super) fn none() -> Self {
        Self {
            talk: None,
            kept: None,
        }
    }

    fn silent(orders: watch::Sender<Orders>) -> Self {
        Self {
            talk: None,
            kept: Some(orders),
        }
    }

    /// Syncs until control refuses this node; for ever when all is well. Cancel-safe.
    pub(super) async fn hold(&mut self) -> GetError {
        match &mut self.talk {
            Some(talk) => talk.hold().await,
            None => std::future::pending().await,
        }
    }

    /// Says goodbye.
    pub(super) async fn leave(self) {
        drop(self.kept);
        if let Some(talk) = self.talk {
            talk.syncer.leave(SyncRequest::default()).await;
        }
    }
}

impl Talk {
    async fn hold(&mut self) -> GetError {
        loop {
            let away_at = self.syncer.down_since().map(|since| since + AWAY);
            let timer = away_at
                .into_iter()
                .chain(self.ask_again)
                .filter(|&at| at > Instant::now())
                .min();
            let (subject, orders, board, session) =
                (&self.subject, &self.orders, &self.board, &self.session);
            let may_ask = self.ask_again.is_none_or(|at| at <= Instant::now());
            let fill = || request(subject, &orders.borrow(), &board.get(), session, may_ask);
            tokio::select! {
                synced = self.syncer.next(fill) => match synced {
                    Synced::Reply { reply: Some(reply), .. } => self.apply(*reply),
                    Synced::Reply { reply: None, .. } => {}
                    Synced::Failed(error) if error.is_unreachable() => self.look_away(),
                    Synced::Failed(error) => return error.into(),
                },
                Some(nudge) = self.nudged.recv() => match nudge {
                    Nudge::Changed => self.syncer.changed(),
                    Nudge::Progressed => self.syncer.progressed(),
                },
                () = sleep_until(timer) => {
                    self.look_away();
                    if self.ask_again.is_some_and(|at| at <= Instant::now()) {
                        self.ask_again = None;
                        self.syncer.changed();
                    }
                }
            }
        }
    }

    fn look_away(&self) {
        let down = self
            .syncer
            .down_since()
            .is_some_and(|since| since.elapsed() >= AWAY);
        self.orders
            .send_if_modified(|orders| std::mem::replace(&mut orders.control_down, down) != down);
    }

    fn apply(&mut self, reply: SyncReply) {
        let mut refused_for = None;
        let subject = &self.subject;
        self.orders
            .send_modify(|orders| refused_for = apply(orders, subject, reply));
        if let Some(pause) = refused_for {
            self.ask_again = Some(Instant::now() + pause);
        }
    }
}

fn request(
    subject: &Subject,
    orders: &Orders,
    status: &Status,
    session: &Session,
    may_ask: bool,
) -> SyncRequest {
    let wanted = |sid| ContentReport {
        // Nothing is known yet: control sends the genesis and all records.
        manifest: Some(Head::default()),
        ..ContentReport::nothing(sid)
    };
    SyncRequest {
        peer: subject.is_peer.then(|| session.peer_addr()),
        contents: status
            .content_report()
            .or_else(|| orders.sid.map(wanted))
            .into_iter()
            .collect(),
        asks: asks(subject, orders, status, may_ask),
        streaming: true,
        ..SyncRequest::default()
    }
}

/// The content until it is being fetched, and a ticket when the job wants one.
fn asks(subject: &Subject, orders: &Orders, status: &Status, may_ask: bool) -> Vec<Ask> {
    let mut asks = Vec::new();
    if status.serving.is_none() {
        match (subject.sid, &subject.url) {
            (Some(sid), _) => asks.push(Ask::Join { sid }),
            (None, Some(url)) => asks.push(Ask::Open {
                url: url.as_str().to_owned(),
            }),
            (None, None) => {}
        }
    }
    if status.asks_ticket
        && may_ask
        && let Some(url) = &subject.url
    {
        asks.push(Ask::Ticket {
            sid: orders.sid,
            url: url.as_str().to_owned(),
        });
    }
    asks
}

/// Takes what concerns the job from a reply. `Some`: a ticket was refused for so long.
fn apply(orders: &mut Orders, subject: &Subject, reply: SyncReply) -> Option<Duration> {
    let mut again = None;
    orders.control_down = false;
    orders.policy = reply.policy;
    orders.control_key = orders
        .control_key
        .or_else(|| key(reply.control_key.as_ref()));
    for grant in reply.grants {
        match grant {
            Grant::Content { sid, failed, .. } => {
                orders.sid = sid.or(orders.sid);
                orders.relay_failed = failed;
            }
            Grant::Ticket { etag, .. } => orders.ticket = Some(Ticket { etag }),
            Grant::Refused {
                code,
                retry_ms: Some(millis),
                ..
            } => {
                tracing::debug!(code, "control refused for now");
                again = Some(Duration::from_millis(millis));
            }
            // A live relay is no reason to give up, only to wait for it.
            Grant::Refused { code, .. } if code == "relay_live" => {
                again = Some(Duration::from_secs(2));
            }
            Grant::Refused {
                code,
                message,
                subject: refused,
                ..
            } => {
                let message = match &subject.url {
                    Some(url) if code == "not_allowed" && !message.contains("url") => {
                        format!("url: {url}: {message}")
                    }
                    _ if message.is_empty() => format!("control refused {refused} ({code})"),
                    _ => message,
                };
                orders.refusal = Some(Refusal { code, message });
            }
        }
    }
    orders.info = reply
        .contents
        .into_iter()
        .find(|info| Some(info.sid) == orders.sid);
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Serving;

    const SID: Sid = Sid([1; 32]);

    fn subject() -> Subject {
        Subject {
            url: Some("http://h/f".parse().unwrap()),
            sid: None,
            is_peer: true,
        }
    }

    #[test]
    fn the_content_is_asked_for_until_it_is_fetched_and_the_ticket_when_wanted() {
        let (orders, mut status) = (
            Orders {
                sid: Some(SID),
                ..Orders::default()
            },
            Status::default(),
        );
        let open = Ask::Open {
            url: "http://h/f".into(),
        };
        assert_eq!(
            asks(&subject(), &orders, &status, true),
            std::slice::from_ref(&open)
        );
        status.asks_ticket = true;
        let ticket = Ask::Ticket {
            sid: Some(SID),
            url: "http://h/f".into(),
        };
        assert_eq!(
            asks(&subject(), &orders, &status, true),
            [open.clone(), ticket]
        );
        assert_eq!(asks(&subject(), &orders, &status, false), [open]);
        status.asks_ticket = false;
        status.serving = Some(Serving {
            sid: SID,
            complete: false,
            final_ok: true,
            v2_ok: true,
            manifest: None,
        });
        assert!(asks(&subject(), &orders, &status, true).is_empty());
        let by_sid = Subject {
            url: None,
            sid: Some(SID),
            is_peer: true,
        };
        assert_eq!(
            asks(&by_sid, &orders, &Status::default(), true),
            [Ask::Join { sid: SID }]
        );
    }

    #[test]
    fn replies_become_orders() {
        let mut orders = Orders {
            control_down: true,
            ..Orders::default()
        };
        let refused = |code: &str, retry_ms| Grant::Refused {
            subject: "http://h/f".into(),
            code: code.into(),
            message: "no".into(),
            retry_ms,
        };
        let reply = SyncReply {
            grants: vec![
                Grant::Content {
                    url: "http://h/f".into(),
                    sid: Some(SID),
                    failed: Some("404".into()),
                },
                refused("relay_live", Some(700)),
            ],
            ..SyncReply::default()
        };
        assert_eq!(
            apply(&mut orders, &subject(), reply),
            Some(Duration::from_millis(700))
        );
        assert_eq!(
            (
                orders.sid,
                orders.relay_failed.as_deref(),
                orders.control_down
            ),
            (Some(SID), Some("404"), false)
        );
        assert_eq!(orders.refusal, None);

        let reply = SyncReply {
            grants: vec![refused("not_allowed", None)],
            ..SyncReply::default()
        };
        assert_eq!(apply(&mut orders, &subject(), reply), None);
        assert_eq!(orders.refusal.unwrap().message, "url: http://h/f: no");
    }

    /// Else control would send others to it, and have it bring to its site what it reads over HTTP only.
    #[tokio::test]
    async fn who_takes_no_part_in_the_swarm_says_no_address() {
        let config = crate::SessionConfig::new("127.0.0.1:0".parse().unwrap(), random_node());
        let session = Session::start(config).await.unwrap();
        for is_peer in [true, false] {
            let subject = Subject {
                is_peer,
                ..subject()
            };
            let (orders, status) = (Orders::default(), Status::default());
            let request = request(&subject, &orders, &status, &session, true);
            assert_eq!(request.peer.is_some(), is_peer);
        }
    }
}
