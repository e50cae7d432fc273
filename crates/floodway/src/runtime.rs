//! The asynchronous runtime a command runs on.

use tokio::runtime::{Builder, Runtime};

use crate::exit::Failure;

/// For roles and transfers: as many threads as cores.
///
/// # Errors
/// When the system refuses threads or sockets.
pub(crate) fn full() -> Result<Runtime, Failure> {
    Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(refused)
}

/// For commands that mostly wait: the calling thread only.
///
/// # Errors
/// When the system refuses sockets.
pub(crate) fn small() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(error: std::io::Error) -> Failure {
    Failure::failed(format_args!(
        "this process cannot start its runtime: {error}"
    ))
}
