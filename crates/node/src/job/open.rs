//! Opens a content's file, and waits when its disk is full or forbids it.

use std::time::Duration;

use super::{GetError, Job, Nudge};
use crate::node::add_known;
use crate::state::DataDir;
use crate::{Content, ContentSpec};

/// Between tries while the disk refuses.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// Adds the content. A daemon waits for room or permission, however long, and says so; a user is told at once.
pub(super) async fn open(
    job: &mut Job,
    known: Option<&DataDir>,
    spec: ContentSpec,
) -> Result<Content, GetError> {
    loop {
        let error = match add_known(&job.session, known, spec.clone()).await {
            Ok((content, _)) => return Ok(content),
            Err(error) => error,
        };
        if job.rules.foreground || !error.may_pass() {
            return Err(error.into());
        }
        tracing::warn!(%error, "the disk refused; nothing is fetched until it works again");
        let reason = format!("paused: {error}");
        job.reasons.add(reason.clone());
        job.board
            .set(Nudge::Changed, |status| status.reason = Some(reason));
        pause(job).await?;
    }
}

/// Waits for the next try; orders may end the job meanwhile.
async fn pause(job: &mut Job) -> Result<(), GetError> {
    let pause = tokio::time::sleep(RETRY_EVERY);
    tokio::pin!(pause);
    loop {
        if job.orders.borrow_and_update().cancelled {
            return Err(GetError::Cancelled);
        }
        tokio::select! {
            () = &mut pause => return Ok(()),
            changed = job.orders.changed() => changed.map_err(|_| GetError::Interrupted)?,
        }
    }
}
