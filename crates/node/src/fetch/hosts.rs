//! Connections per HTTP host, over all contents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use floodway_origin::SourceUrl;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests open at once per host.
const PER_HOST: usize = 2;
/// Hosts remembered before those that nobody uses are forgotten.
const REMEMBERED: usize = 256;

/// The budget of every host.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Hosts {
    /// Waits until the host of `url` may be asked. Drop the permit when the reply is read.
    pub(crate) async fn permit(&self, url: &SourceUrl) -> Option<OwnedSemaphorePermit> {
        let host = url.as_url().origin().ascii_serialization();
        let budget = {
            let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() >= REMEMBERED {
                hosts.retain(|_, budget| Arc::strong_count(budget) > 1);
            }
            Arc::clone(
                hosts
                    .entry(host)
                    .or_insert_with(|| Arc::new(Semaphore::new(PER_HOST))),
            )
        };
        // It is never closed.
        budget.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_is_asked_twice_at_once_whatever_the_path() {
        let hosts = Hosts::default();
        let url = |text: &str| text.parse::<SourceUrl>().unwrap();
        let first = hosts.permit(&url("http://h/a")).await;
        let _second = hosts.permit(&url("http://h:80/b")).await;
        let third = url("http://h/c");
        let mut third = std::pin::pin!(hosts.permit(&third));
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        let _other = hosts.permit(&url("http://h:81/a")).await;
        drop(first);
        assert!(third.await.is_some());
    }
}
