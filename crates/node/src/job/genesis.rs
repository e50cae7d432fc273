//! The first record of a job's content: from control's orders, from this disk, or from those who serve it.

use std::time::{Duration, Instant};

use floodway_proto::genesis::Genesis;
use floodway_proto::{Sha256, Sid};
use tokio::time::timeout;

use super::sources::{Capabilities, helpers};
use super::{GetError, Job};
use crate::Helper;

/// Who sends a genesis with its list of files more slowly is left for another: 16 MiB at 2 Mbit/s.
const GENESIS_WITHIN: Duration = Duration::from_mins(1);
/// Of a content that relays fetch they alone are asked for its list of files for so long, and then control once in so long: a relay
/// has the list soon after the content began, but control would have to send it to every agent.
const RELAYS_ALONE: Duration = Duration::from_secs(10);

/// A genesis that is too long for orders, and is read by a request of its own.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// The content whose genesis is lacking, and since when, or since when control was asked for it last.
    lacking: Option<(Sid, Instant)>,
    /// One that came and is on no disk.
    known: Option<(Sid, Genesis)>,
}

impl Apart {
    /// Whether control is asked now too, after relays that did not help. `is_final`: they have had it for long.
    fn asks_control(&mut self, sid: Sid, is_final: bool, now: Instant) -> bool {
        match self.lacking {
            _ if is_final => true,
            Some((of, since)) if of == sid => {
                let asks = now.duration_since(since) >= RELAYS_ALONE;
                if asks {
                    self.lacking = Some((sid, now));
                }
                asks
            }
            _ => {
                self.lacking = Some((sid, now));
                false
            }
        }
    }
}

impl Job {
    /// The content's genesis: as [`Job::genesis`], and one with a list of many files from those who serve it.
    pub(super) async fn get_genesis(&mut self, sid: Sid) -> Result<Option<Genesis>, GetError> {
        let known = self.genesis(sid)?;
        let (None, Some(link)) = (&known, &self.link) else {
            return Ok(known);
        };
        let (served_by, is_final) = {
            let orders = self.orders.borrow();
            let info = orders.info.as_ref().filter(|info| info.sid == sid);
            let manifest = info.and_then(|info| info.manifest.as_ref());
            if !manifest.is_some_and(|manifest| manifest.genesis_apart) {
                return Ok(None);
            }
            let is_final = info.is_some_and(|info| info.is_final);
            let helpers = helpers(info, &link.client, &mut Capabilities::default());
            (helpers, is_final)
        };
        for helper in served_by {
            if helper.is_control && !self.apart.asks_control(sid, is_final, Instant::now()) {
                continue;
            }
            let Some(genesis) = self.genesis_of(&helper, sid).await else {
                continue;
            };
            let saved = self.data().map(|data| data.save_genesis(&genesis));
            if let Some(Err(error)) = &saved {
                tracing::warn!(%error, "a content's genesis could not be kept");
            }
            if !matches!(saved, Some(Ok(()))) {
                self.apart.known = Some((sid, genesis.clone()));
            }
            return self.of_control(genesis).map(Some);
        }
        Ok(None)
    }

    /// The content's genesis as this one serves it. `None`: not now.
    async fn genesis_of(&self, helper: &Helper, sid: Sid) -> Option<Genesis> {
        let bytes = match timeout(GENESIS_WITHIN, helper.genesis(&self.session)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                tracing::debug!(%error, at = %helper.base, "no genesis");
                return None;
            }
            Err(_) => {
                tracing::debug!(at = %helper.base, "no genesis within {GENESIS_WITHIN:?}");
                return None;
            }
        };
        let genesis = Genesis::decode_of(sid, &bytes);
        if let Err(error) = &genesis {
            tracing::warn!(at = %helper.base, %error, "it sent no genesis of content {sid}");
        }
        genesis.ok()
    }

    /// The content's genesis, from control's orders or from this disk. `None`: not now.
    pub(super) fn genesis(&self, sid: Sid) -> Result<Option<Genesis>, GetError> {
        let orders = self.orders.borrow();
        let told = orders.info.as_ref().filter(|info| info.sid == sid);
        let told = told.and_then(|info| info.manifest.as_ref()?.genesis.as_ref());
        let told = told.and_then(|bytes| Genesis::decode_of(sid, &bytes.0).ok());
        drop(orders);
        let known = self.apart.known.as_ref().filter(|(of, _)| *of == sid);
        told.or_else(|| self.data()?.genesis(sid))
            .or_else(|| known.map(|(_, genesis)| genesis.clone()))
            .map(|genesis| self.of_control(genesis))
            .transpose()
    }

    /// The genesis, if it is of the control that this node knows.
    fn of_control(&self, genesis: Genesis) -> Result<Genesis, GetError> {
        let orders = self.orders.borrow();
        if let Some(key) = orders.control_key.filter(|key| !genesis.keys.contains(key)) {
            return Err(GetError::Refused(format!(
                "content {} is not signed with the key {} that this node knows as control's; if control was set up anew, remove this node's data folder",
                genesis.sid(),
                Sha256(key)
            )));
        }
        Ok(genesis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn control_is_asked_for_a_list_only_when_relays_have_had_their_time() {
        let (mut apart, start) = (Apart::default(), Instant::now());
        let (one, other) = (Sid([1; 32]), Sid([2; 32]));
        let mut asks = |sid, is_final, after_s| {
            apart.asks_control(sid, is_final, start + Duration::from_secs(after_s))
        };
        assert!(asks(one, true, 0), "it is complete");
        for (after_s, expected) in [(0, false), (9, false), (10, true), (11, false), (20, true)] {
            assert_eq!(asks(one, false, after_s), expected, "after {after_s} s");
        }
        assert!(!asks(other, false, 31), "another content began");
    }

    #[tokio::test]
    async fn a_list_that_no_disk_keeps_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let (mut job, _orders) = testing::job(folder.path()).await;
        let genesis = testing::genesis("f", Some(1 << 20), 1 << 18, "");
        job.apart.known = Some((genesis.sid(), genesis.clone()));
        let found = job.get_genesis(genesis.sid()).await.unwrap();
        assert_eq!(found, Some(genesis));
        assert_eq!(job.get_genesis(Sid([1; 32])).await.unwrap(), None);
    }
}
