//! The loop of a daemon: one conversation with control, over restarts of either side.

use std::time::{Duration, Instant};

use floodway_api::rest::Role;
use floodway_api::sync::{SyncReply, SyncRequest};
use tokio::sync::{mpsc, watch};

use crate::control_client::ControlClient;
use crate::job::Nudge;
use crate::node::{NodeSettings, RoleError, enrol};
use crate::state::DataDir;
use crate::sync::{Synced, Syncer, sleep_until};

/// Without an answer for so long, control counts as away.
const AWAY: Duration = Duration::from_secs(5);

/// What a role adds to the loop.
pub(crate) trait Duty {
    /// What its parts tell it.
    type Note;
    /// Which role it enrols as.
    const ROLE: Role;

    /// Everything that control is to know now.
    fn request(&self) -> SyncRequest;
    /// Takes a note; says what it means for the next sync.
    fn note(&mut self, note: Self::Note) -> Option<Nudge>;
    /// Control has made durable what `request` said. True when there is more to say.
    fn acknowledged(&mut self, request: &SyncRequest) -> bool;
    /// Does what control says.
    fn apply(&mut self, reply: SyncReply);
    /// Control is away, or back.
    fn away(&mut self, away: bool);
    /// When something is to be asked again.
    fn alarm(&self) -> Option<Instant>;
}

/// What the loop needs besides the duty.
pub(crate) struct Desk<'a> {
    pub(crate) settings: &'a NodeSettings,
    pub(crate) data: &'a DataDir,
    /// The client in use; a node that enrols anew gets another.
    pub(crate) client: watch::Sender<ControlClient>,
}

/// Talks with control until `shutdown`; calls `ready` once, when control has accepted the node.
///
/// # Errors
/// [`RoleError::Control`] when control refuses the node and there is no join token to enrol anew with.
pub(crate) async fn converse<D: Duty>(
    desk: Desk<'_>,
    duty: &mut D,
    mut notes: mpsc::UnboundedReceiver<D::Note>,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(),
) -> Result<(), RoleError> {
    tokio::pin!(shutdown);
    let client = desk.client.borrow().clone();
    let mut syncer = Syncer::new(client);
    syncer.changed();
    let (mut ready, mut away) = (Some(ready), false);
    loop {
        let down = syncer.down_since();
        let now_away = down.is_some_and(|since| since.elapsed() >= AWAY);
        if std::mem::replace(&mut away, now_away) != now_away {
            duty.away(now_away);
        }
        let away_at = down.filter(|_| !away).map(|since| since + AWAY);
        let alarm = duty.alarm();
        let timer = [away_at, alarm].into_iter().flatten().min();
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(note) = notes.recv() => match duty.note(note) {
                Some(Nudge::Changed) => syncer.changed(),
                Some(Nudge::Progressed) => syncer.progressed(),
                None => {}
            },
            synced = syncer.next(|| duty.request()) => match synced {
                Synced::Reply { request, reply } => {
                    if duty.acknowledged(&request) {
                        syncer.changed();
                    }
                    if let Some(reply) = reply {
                        duty.apply(*reply);
                        if let Some(ready) = ready.take() {
                            ready();
                        }
                    }
                }
                Synced::Failed(error) if error.is_unreachable() => {
                    tracing::warn!(%error, "sync failed; trying again");
                }
                // Control has forgotten this node: it joins again, if it may.
                Synced::Failed(error) if error.is_token_refused() && desk.settings.token.is_some() && ready.is_some() => {
                    tracing::warn!(%error, "control does not know this node any more; enrolling anew");
                    let old = desk.client.borrow().clone();
                    let identity = tokio::select! {
                        identity = enrol(desk.settings, &old, desk.data, D::ROLE) => identity?,
                        () = &mut shutdown => break,
                    };
                    let client = old.with_token(&identity.token)?;
                    desk.client.send_replace(client.clone());
                    syncer = Syncer::new(client);
                    syncer.changed();
                }
                Synced::Failed(error) => return Err(error.into()),
            },
            () = sleep_until(timer) => {
                if alarm.is_some_and(|at| at <= Instant::now()) {
                    syncer.changed();
                }
            }
        }
    }
    syncer.leave(duty.request()).await;
    Ok(())
}
