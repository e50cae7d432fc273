//! Hosts that asked to be left alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

/// A server as `Retry-After`, credentials and connections know it: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostKey {
    scheme: String,
    host: String,
    port: u16,
}

impl HostKey {
    pub(crate) fn of(url: &Url) -> Self {
        Self {
            scheme: url.scheme().into(),
            host: url.host_str().unwrap_or_default().into(),
            port: url.port_or_known_default().unwrap_or_default(),
        }
    }
}

/// Until when nobody may ask which host, and the status that said so.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Mutex<HashMap<HostKey, (Instant, u16)>>);

impl Pauses {
    /// More hosts than this are not remembered: an entry lasts an hour at most.
    const MOST: usize = 4096;

    pub(crate) fn pause(&self, host: HostKey, status: u16, wait: Duration) {
        let now = Instant::now();
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pauses.len() >= Self::MOST {
            pauses.retain(|_, (until, _)| *until > now);
        }
        if !wait.is_zero() && (pauses.len() < Self::MOST || pauses.contains_key(&host)) {
            pauses.insert(host, (now + wait, status));
        }
    }

    /// How long the host must still be left alone, and why.
    pub(crate) fn left(&self, host: &HostKey) -> Option<(Duration, u16)> {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let &(until, status) = pauses.get(host)?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            pauses.remove(host);
            return None;
        }
        Some((left, status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> HostKey {
        HostKey::of(&Url::parse(text).unwrap())
    }

    #[test]
    fn a_pause_holds_for_the_whole_host_and_ends() {
        let pauses = Pauses::default();
        pauses.pause(key("http://h/a"), 503, Duration::from_mins(1));
        let (left, status) = pauses.left(&key("http://H:80/b?c")).unwrap();
        assert!(left <= Duration::from_mins(1) && left > Duration::from_secs(50));
        assert_eq!(status, 503);
        assert_eq!(pauses.left(&key("https://h/a")), None);
        assert_eq!(pauses.left(&key("http://h:81/a")), None);
        pauses.pause(key("http://i/"), 429, Duration::ZERO);
        assert_eq!(pauses.left(&key("http://i/")), None);
        pauses.pause(key("http://i/"), 429, Duration::from_nanos(1));
        while pauses.left(&key("http://i/")).is_some() {}
    }
}
