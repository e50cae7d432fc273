//! Waiting for things to happen, and ports for things that must come back at the same address.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take unless a test says otherwise.
pub const DEFAULT_PATIENCE: Duration = Duration::from_mins(1);

/// Asks `check` every few milliseconds until it has an answer.
///
/// Panics after `patience`, naming `what` did not come.
#[track_caller]
pub fn wait_until<T>(what: &str, patience: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain for: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// A TCP port that is free on every loopback address now, below the range from which the system hands out port 0.
///
/// Only for servers that must come back at the same address after a restart; everything else binds port 0.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(12_000..32_000);
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
