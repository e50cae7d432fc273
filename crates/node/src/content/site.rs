//! Where this node stands, as control says, and what comes from elsewhere.

use floodway_proto::Site;
use floodway_swarm::{Input, PeerKey};

use super::driver::Driver;

impl Driver {
    /// Control says where this node stands and what it brings there. `None`: it says nothing of it, or not any more.
    pub(super) fn set_site(&mut self, site: Option<Site>) {
        if site == self.shares.site() {
            return;
        }
        self.shares.stands_at(site);
        let site = site.unwrap_or_else(|| Site::named(""));
        tracing::debug!(?site, "told where this node stands");
        self.input(Input::Site(site));
    }

    /// Counts bytes that a peer sent.
    pub(super) fn count_peer(&mut self, peer: PeerKey, bytes: u64) {
        self.shares.by_peer(peer, bytes);
        if self.shares.is_from_elsewhere(peer) {
            self.session.metrics().peer_elsewhere.add(bytes);
        }
    }

    /// Notes what a peer says of where it stands.
    pub(super) fn look_at(&mut self, input: &Input) {
        if let Input::PeerSite { peer, site } = *input {
            self.shares.peer_stands_at(peer, site);
        }
    }
}
