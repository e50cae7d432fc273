//! The first record of a job's content: from control's orders, from this disk, or from those who serve it.

use std::time::Duration;

use floodway_proto::genesis::Genesis;
use floodway_proto::{Sha256, Sid};
use tokio::time::timeout;

use super::sources::{Capabilities, helpers};
use super::{GetError, Job};

/// Who sends a genesis with its list of files more slowly is left for another: 16 MiB at 2 Mbit/s.
const GENESIS_WITHIN: Duration = Duration::from_mins(1);

impl Job {
    /// The content's genesis: as [`Job::genesis`], and one with a list of many files from those who serve it.
    pub(super) async fn get_genesis(&self, sid: Sid) -> Result<Option<Genesis>, GetError> {
        let known = self.genesis(sid)?;
        let (None, Some(link)) = (&known, &self.link) else {
            return Ok(known);
        };
        let served_by = {
            let orders = self.orders.borrow();
            let info = orders.info.as_ref().filter(|info| info.sid == sid);
            let manifest = info.and_then(|info| info.manifest.as_ref());
            if !manifest.is_some_and(|manifest| manifest.genesis_apart) {
                return Ok(None);
            }
            helpers(info, &link.client, &mut Capabilities::default())
        };
        for helper in served_by {
            let bytes = match timeout(GENESIS_WITHIN, helper.genesis(&self.session)).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => {
                    tracing::debug!(%error, at = %helper.base, "no genesis");
                    continue;
                }
                Err(_) => {
                    tracing::debug!(at = %helper.base, "no genesis within {GENESIS_WITHIN:?}");
                    continue;
                }
            };
            let genesis = match Genesis::decode_of(sid, &bytes) {
                Ok(genesis) => genesis,
                Err(error) => {
                    tracing::warn!(at = %helper.base, %error, "it sent no genesis of content {sid}");
                    continue;
                }
            };
            if let Some(data) = &link.data
                && let Err(error) = data.save_genesis(&genesis)
            {
                tracing::warn!(%error, "a content's genesis could not be kept");
            }
            return self.of_control(genesis).map(Some);
        }
        Ok(None)
    }

    /// The content's genesis, from control's orders or from this disk. `None`: not now.
    pub(super) fn genesis(&self, sid: Sid) -> Result<Option<Genesis>, GetError> {
        let data = self.link.as_ref().and_then(|link| link.data.as_ref());
        let orders = self.orders.borrow();
        let told = orders.info.as_ref().filter(|info| info.sid == sid);
        let told = told.and_then(|info| info.manifest.as_ref()?.genesis.as_ref());
        let told = told.and_then(|bytes| Genesis::decode_of(sid, &bytes.0).ok());
        drop(orders);
        told.or_else(|| data?.genesis(sid))
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
