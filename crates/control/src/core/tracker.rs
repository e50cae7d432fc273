//! The tracker for stock clients.

use std::net::{IpAddr, SocketAddr};

use floodway_proto::InfoHash;
use floodway_proto::tracker::{
    AnnounceRequest, AnnounceResponse, Event, ScrapeEntry, ScrapeRequest, ScrapeResponse,
    TrackerPeer,
};

use super::Core;
use crate::db::{ContentRow, ContentState};
use crate::swarm_state::{Asking, Brings, Peer, PeerKey};

/// Peers given to a stock client that does not say how many it wants.
const WANTED_DEFAULT: u32 = 50;
/// Not earlier than this may a stock client announce again, in seconds.
const MIN_INTERVAL_S: u32 = 5;

impl Core {
    fn tracked(&self, key: &str) -> Result<&ContentRow, &'static str> {
        let sid = self.model.by_announce_key.get(key);
        let row = sid.and_then(|sid| self.model.contents.get(sid));
        let task = row.and_then(|row| self.model.relay_tasks.get(&row.relay_task));
        let row = row.filter(|row| row.state == ContentState::Final);
        match (row, task) {
            (Some(row), Some(task)) if task.is_live() => Ok(row),
            _ => Err(
                "unknown announce key: the content was cancelled, or the torrent is not of this tracker",
            ),
        }
    }

    /// The content, and the first name of the torrent that has this one: a hybrid's two names mean the same swarm.
    fn tracked_as(
        &self,
        key: &str,
        hash: InfoHash,
    ) -> Result<(&ContentRow, InfoHash), &'static str> {
        let row = self.tracked(key)?;
        let mut names = self.names(row).into_iter();
        let name = names.find(|names| names.contains(&hash));
        let name = name.and_then(|names| names.first().copied());
        name.map(|name| (row, name))
            .ok_or("the info-hash is not that of this announce key; fetch the torrent again")
    }

    /// A stock client announces from the address `remote`; what it says of its address is ignored.
    pub(crate) fn announce(
        &mut self,
        key: &str,
        remote: IpAddr,
        request: &AnnounceRequest,
    ) -> Result<AnnounceResponse, String> {
        let (row, name) = self.tracked_as(key, request.info_hash)?;
        let (sid, is_v2) = (row.sid, row.info_hash != Some(name));
        if request.port == 0 && request.event != Event::Stopped {
            return Err("`port` is 0: nobody could reach this client".into());
        }
        let addr = SocketAddr::new(remote.to_canonical(), request.port);
        let own_key = PeerKey::Stock(addr, name);
        let interval = self.advanced().announce_interval.0;
        let complete = request.left == 0;
        if request.event == Event::Stopped {
            self.swarms.remove(sid, own_key);
        } else {
            let expires = self.now.time + interval.saturating_mul(3);
            let peer = Peer {
                addr,
                site: String::new(),
                brings: Brings::Nothing,
                complete,
                final_ok: true,
                v2_ok: true,
                streaming: false,
                expires: Some(expires),
            };
            self.swarms.put(sid, own_key, peer);
            if request.event == Event::Completed {
                self.swarms.completed(sid);
            }
        }
        let wanted = if request.event == Event::Stopped {
            0
        } else {
            request.wanted.unwrap_or(WANTED_DEFAULT)
        };
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let asking = Asking {
            addr,
            name,
            is_v2,
            is_seed: complete,
        };
        let peers = self.swarms.for_stock(sid, asking, wanted, &mut self.rng);
        let counts = self.swarms.counts(sid);
        Ok(AnnounceResponse {
            interval_s: u32::try_from(interval.as_secs()).unwrap_or(u32::MAX).max(1),
            min_interval_s: Some(MIN_INTERVAL_S),
            complete: Some(counts.complete),
            incomplete: Some(counts.incomplete),
            warning: None,
            tracker_id: None,
            peers: peers
                .into_iter()
                .map(|address| TrackerPeer {
                    address,
                    name: None,
                })
                .collect(),
        })
    }

    /// Counts of one content; the key names it, so a scrape without info-hashes is answered too.
    pub(crate) fn scrape(
        &self,
        key: &str,
        request: &ScrapeRequest,
    ) -> Result<ScrapeResponse, String> {
        let row = self.tracked(key)?;
        let mut response = ScrapeResponse::default();
        let asked = |hash| request.info_hashes.is_empty() || request.info_hashes.contains(&hash);
        let names = self.names(row).into_iter().flatten();
        for hash in names.filter(|hash| asked(*hash)) {
            let counts = self.swarms.counts(row.sid);
            response.files.insert(
                hash,
                ScrapeEntry {
                    complete: counts.complete,
                    downloaded: counts.downloaded,
                    incomplete: counts.incomplete,
                },
            );
        }
        Ok(response)
    }
}
