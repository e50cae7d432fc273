//! Relays' HTTP while a content grows: a second choice, as it is for contents that are complete.
//!
//! A record that says what a piece must hash to comes before the word of those who have the piece. Until that word can
//! have come, the piece is *fresh*: nobody is asked for it over HTTP.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use floodway_proto::{Bitfield, Time};

use crate::swarm::Swarm;

/// How long a piece is left to peers.
const FRESH: Duration = Duration::from_millis(500);

/// Pieces that have just become verifiable.
#[derive(Clone, Debug)]
pub(crate) struct Fresh {
    pieces: Bitfield,
    /// Since when, oldest first.
    since: VecDeque<(Time, Range<u32>)>,
}

impl Fresh {
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            pieces: Bitfield::new(pieces),
            since: VecDeque::new(),
        }
    }

    pub(crate) fn contains(&self, piece: u32) -> bool {
        self.pieces.get(piece)
    }

    fn add(&mut self, now: Time, piece: u32) {
        self.pieces.set(piece);
        match self.since.back_mut() {
            Some((since, run)) if *since == now && run.end == piece => run.end += 1,
            _ => self.since.push_back((now, piece..piece + 1)),
        }
    }

    /// There are no pieces from `count` on after all.
    pub(crate) fn end(&mut self, count: u32) {
        self.pieces.truncate(count);
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        let pieces = self.since.iter().flat_map(|(_, pieces)| pieces.clone());
        pieces.filter(|&piece| self.pieces.get(piece))
    }
}

impl Swarm {
    /// The hash of this piece has just become known.
    pub(crate) fn note_fresh(&mut self, piece: u32) {
        // Without peers there is nobody to leave it to.
        if self.growing && !self.by_leases && !self.peers.is_empty() {
            self.fresh.add(self.now, piece);
        }
    }

    /// Pieces that nobody turned out to have are to be had over HTTP.
    pub(crate) fn expire_fresh(&mut self) {
        while let Some((since, pieces)) = self.fresh.since.front().cloned()
            && since + FRESH <= self.now
        {
            self.fresh.since.pop_front();
            for piece in pieces {
                if self.fresh.pieces.clear(piece) {
                    self.reconsider(piece);
                }
            }
        }
    }

    /// How many fresh pieces stand among those that no peer has.
    pub(crate) fn fresh_unavailable(&self) -> usize {
        let nobody_has =
            |&piece: &u32| self.picker.is_open(piece) && self.picker.availability(piece) == 0;
        self.fresh.iter().filter(nobody_has).count()
    }

    /// Bytes that may be fetched now and are held by somebody: more become verifiable while these are fetched.
    pub(crate) fn bytes_on_offer(&self) -> u64 {
        let nobody_has = self.picker.unavailable() as u64;
        let piece_length = u64::from(self.layout.piece_length());
        if self.growing {
            let open = u64::from(self.picker.open_count());
            let begun = self.partials.len() as u64 + u64::from(self.reserved.count());
            return (open + begun).saturating_sub(nobody_has) * piece_length;
        }
        self.missing_bytes()
            .saturating_sub(nobody_has * piece_length)
    }
}
