//! SIGINT and SIGTERM: the first asks everything to stop in order, a second SIGINT ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Exit, Failure};

/// A token that is cancelled by the first SIGINT or SIGTERM. Call it within the runtime, once.
///
/// # Errors
/// When the system refuses to deliver signals.
pub(crate) fn shutdown() -> Result<CancellationToken, Failure> {
    let refused = |error| Failure::failed(format_args!("signals cannot be received: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refused)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(refused)?;
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
        interrupt.recv().await;
        quit();
    });
    Ok(token)
}

#[expect(clippy::exit, reason = "the user asked twice")]
fn quit() {
    std::process::exit(Exit::Interrupted as i32);
}
