//! Contents whose length becomes known while they are fetched.
//!
//! Until then the engine counts with as many pieces as there may be, which are all whole; at the end it leaves out those that
//! do not exist. Before that nothing depends on how many there are: nobody is complete, no piece beyond the end is ever
//! verifiable, so none is offered or asked for. Between own nodes of which only one knows the end, what each says of its
//! pieces is read by what the other knows.

use floodway_proto::{Bitfield, BitfieldError, PieceIndex};

use crate::peer::Peer;
use crate::swarm::Swarm;

impl Swarm {
    /// The content turned out to end here.
    pub(crate) fn ended(&mut self, length: u64) {
        if self.layout.length().is_some() {
            return;
        }
        let Ok(layout) = self.layout.ended(length) else {
            return;
        };
        self.layout = layout;
        let count = self.layout.piece_count();
        for extent in self.extents.values_mut() {
            extent.end_at(extent.end.min(length));
        }
        self.partials.split_off(&count);
        self.failed.split_off(&count);
        self.waiting.split_off(&count);
        let sets = [&mut self.have, &mut self.verifiable, &mut self.leased];
        for set in sets.into_iter().chain([&mut self.reserved]) {
            set.truncate(count);
        }
        self.fresh.end(count);
        self.picker.end(count);
        self.gap_hint = self.gap_hint.min(count);
        self.leased_gap_hint = self.leased_gap_hint.min(count);
        self.claims.changed = true;
        self.end_last_piece();
        self.end_peers(count);
        let held = self.have.iter_ones().map(PieceIndex);
        self.have_bytes = held
            .map(|piece| u64::from(self.layout.piece_size(piece)))
            .sum();
        self.recount_interest();
        self.all_dirty = true;
        if self.is_complete() {
            self.completed();
        }
    }

    /// The last piece has fewer blocks than it could have had.
    fn end_last_piece(&mut self) {
        let Some(last) = self.layout.pieces().next_back() else {
            return;
        };
        let blocks = self.layout.block_count(last);
        if let Some(partial) = self.partials.get_mut(&last.0) {
            partial.truncate(blocks);
        }
        self.failed.remove(&last.0);
        self.reconsider(last.0);
    }

    fn end_peers(&mut self, count: u32) {
        for peer in self.peers.values_mut() {
            peer.have.truncate(count);
            peer.suggested.retain(|&piece| piece < count);
            for piece in peer.claims.split_off(&count) {
                self.claims.forget(piece);
            }
        }
        self.seeds = self
            .peers
            .values()
            .filter(|peer| Peer::is_seed(peer))
            .count();
    }

    /// Where the last piece ends that there may be.
    pub(crate) fn end_of_content(&self) -> Option<u64> {
        let last = self.layout.pieces().next_back()?;
        Some(self.layout.piece_bytes(last).end)
    }

    /// Which pieces a peer's list says it has.
    pub(crate) fn pieces_said(&self, bytes: &[u8]) -> Result<Bitfield, BitfieldError> {
        let count = self.layout.piece_count();
        if self.open_ended {
            return Bitfield::from_open_ended(bytes, count);
        }
        Bitfield::from_bytes(bytes, count)
    }
}
