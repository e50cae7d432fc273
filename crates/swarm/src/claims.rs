//! Own nodes tell each other what they fetch over HTTP, so that a web seed is asked for each byte once.
//!
//! A claim is a hint of an ordinary peer, who is not trusted: it delays what we would ask an HTTP source ourselves,
//! never what we ask peers, and only for [`LEASE`] after the claimant last delivered. Whoever lets a lease run out is
//! not believed again until a piece comes from it. Two who begin at the same place hear of each other within a round
//! trip; the greater name gives way.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use floodway_proto::PieceIndex;
use floodway_proto::wire::HttpClaims;

use crate::io::{HangUp, Output, PeerKey};
use crate::peer::Peer;
use crate::swarm::Swarm;

/// How long a claim holds others up without a piece: this, and the time that a piece takes at [`SLOWEST`].
const LEASE: Duration = Duration::from_secs(10);
/// Bytes a second of the slowest reader whose claims are waited for.
const SLOWEST: u64 = 64 * 1024;
/// A peer is believed for so many times a node's share.
const SHARES: u64 = 2;

/// Who claims what.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    /// By how many peers each piece is claimed.
    count: Vec<u32>,
    /// Peers that claim something that nobody has.
    pub(crate) readers: usize,
    /// What peers were told last.
    told: HttpClaims,
    /// Our extents have changed since.
    pub(crate) changed: bool,
}

impl Claims {
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            count: vec![0; pieces as usize],
            readers: 0,
            told: HttpClaims::default(),
            changed: false,
        }
    }

    /// A peer does not claim the piece any more.
    pub(crate) fn forget(&mut self, piece: u32) {
        self.count[piece as usize] -= 1;
    }

    /// Another node is fetching the piece over HTTP.
    pub(crate) fn is_claimed(&self, piece: u32) -> bool {
        self.count[piece as usize] > 0
    }
}

impl Swarm {
    fn lease(&self) -> Duration {
        LEASE + Duration::from_secs(u64::from(self.layout.piece_length()) / SLOWEST)
    }

    /// The peer says what it fetches over HTTP: the whole list.
    pub(crate) fn peer_claims(&mut self, key: PeerKey, claims: &HttpClaims) {
        let Some(peer) = self.peers.get(&key) else {
            return;
        };
        let beyond = |range: &Range<u32>| range.end > self.layout.piece_count();
        // Who does not know the end yet claims all that may be.
        if !self.open_ended && claims.ranges.iter().any(beyond) {
            let what = "a claim on a piece that this torrent does not have";
            return self.hang_up(key, HangUp::Protocol(what));
        }
        // Whoever claims more than a node's share does not hold the others up for it.
        let most = self.shared_extent() * SHARES / u64::from(self.layout.piece_length());
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let pieces = claims.ranges.iter().cloned().flatten().take(most);
        let claims = |&piece: &u32| self.layout.piece(piece).is_some() && !peer.have.get(piece);
        let pieces: BTreeSet<u32> = pieces.filter(claims).collect();
        let (doubted, greater) = (peer.claims_doubted, peer.name > self.config.name);
        self.drop_claims(key);
        if doubted {
            return;
        }
        if !greater {
            self.give_way(&pieces);
        }
        for &piece in &pieces {
            self.claims.count[piece as usize] += 1;
        }
        let first_copies = pieces
            .iter()
            .any(|&piece| self.picker.availability(piece) == 0);
        self.claims.readers += usize::from(first_copies);
        let until = self.now + self.lease();
        if let Some(peer) = self.peers.get_mut(&key) {
            (peer.claims, peer.claims_until) = (pieces, until);
            peer.claims_first_copies = first_copies;
        }
    }

    /// Ends our requests where a peer reads the same and goes first. A piece of which something came is finished; so is the one
    /// GET of the whole, or it would be asked for from its first byte again when the peer does not deliver.
    fn give_way(&mut self, pieces: &BTreeSet<u32>) {
        for request in self.extents.keys().copied().collect::<Vec<_>>() {
            let extent = &self.extents[&request];
            if self.is_one_get(extent) {
                continue;
            }
            let ours = self.pieces_in(&(extent.next..extent.end));
            let begun = extent.next > self.layout.piece_offset(PieceIndex(ours.start));
            let first = ours.start + u32::from(begun);
            if let Some(&piece) = pieces.range(first..ours.end.max(first)).next() {
                self.shorten(request, self.layout.piece_offset(PieceIndex(piece)));
            }
        }
    }

    /// A piece came from a peer: it keeps what it promises.
    pub(crate) fn claim_kept(&mut self, key: PeerKey, piece: u32) {
        let until = self.now + self.lease();
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.claims_doubted = false;
        if peer.claims.remove(&piece) {
            peer.claims_until = until;
            self.claims.count[piece as usize] -= 1;
        }
    }

    /// Takes back all that the peer claims.
    pub(crate) fn drop_claims(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        for piece in std::mem::take(&mut peer.claims) {
            self.claims.count[piece as usize] -= 1;
        }
        self.claims.readers -= usize::from(std::mem::take(&mut peer.claims_first_copies));
    }

    /// Claims on which nothing has come are void.
    pub(crate) fn expire_claims(&mut self) {
        let late = |peer: &Peer| !peer.claims.is_empty() && peer.claims_until <= self.now;
        let late = self.peers.iter().filter(|(_, peer)| late(peer));
        for key in late.map(|(&key, _)| key).collect::<Vec<_>>() {
            self.drop_claims(key);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.claims_doubted = true;
            }
        }
    }

    /// Tells everybody who wants to know what we fetch over HTTP, when that has changed.
    pub(crate) fn tell_claims(&mut self) {
        if !std::mem::take(&mut self.claims.changed) {
            return;
        }
        let mut ranges: Vec<Range<u32>> = Vec::new();
        let extents = self.extents.values();
        let mut pieces: Vec<_> = extents
            .map(|extent| self.pieces_in(&(extent.next..extent.end)))
            .filter(|pieces| !pieces.is_empty())
            .collect();
        pieces.sort_by_key(|pieces| pieces.start);
        for pieces in pieces {
            match ranges.last_mut() {
                Some(last) if pieces.start <= last.end => last.end = last.end.max(pieces.end),
                _ => ranges.push(pieces),
            }
        }
        if ranges == self.claims.told.ranges {
            return;
        }
        self.claims.told = HttpClaims { ranges };
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_claims_to(key);
        }
    }

    /// Tells one peer what we fetch over HTTP.
    pub(crate) fn tell_claims_to(&mut self, key: PeerKey) {
        if self
            .peers
            .get(&key)
            .is_some_and(|peer| peer.hears_claims && !peer.is_seed())
        {
            let claims = self.claims.told.clone();
            self.out.push_back(Output::Claims { peer: key, claims });
        }
    }
}
