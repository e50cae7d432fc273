//! Each piece comes to a site once, and spreads there.
//!
//! The pieces are divided among a few nodes of each site ([`Site`]). That is control's to do, as soon as it knows nodes of two sites;
//! before that it tells nobody a site, and this module changes nothing. A node asks peers of other sites only for
//! pieces of its own parts, and only until a peer of its own site has them; all else it has from there. A part of which nothing
//! more comes, because who should bring it is gone or slow, any node brings that sees it at another site, after a time of
//! chance: whoever is first saves the others the trouble. Who hands out first copies deals them by parts (`spread`), and peers of other sites
//! are served first (`upload`): behind each of them a whole site waits.
//!
//! Who says nothing of its site is asked for anything, as is everybody by a node that has no site.

use std::time::Duration;

use fastrand::Rng;
use floodway_proto::{PARTS, Site, Time, part_of};

use crate::config::Rule;
use crate::io::{HangUp, Output, PeerKey};
use crate::peer::Peer;
use crate::swarm::Swarm;

/// A part of which nothing came for so long, and up to as much again by chance, may be brought by anybody.
const PATIENCE: Duration = Duration::from_secs(4);
/// Of the connections of a node that brings pieces, so many of a hundred may be to its own site, and to others. Its part is
/// brought in the first seconds; all the rest comes from its own site, late where it has a few slow neighbours only.
const NEAR_MAX: usize = 80;
const FAR_MAX: usize = 25;

/// What comes to our site, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Border {
    /// What we were told of ourselves.
    told: Option<Site>,
    /// Where we stand, if that is a site, and what we bring.
    own: Option<Site>,
    /// Peers of other sites.
    far: usize,
    /// How many of the other peers have each piece. Empty where there is no site.
    near: Vec<u32>,
    /// For each part since when pieces of it are waited for, that other sites have and nobody here has, or when one came.
    awaited: [Option<Time>; PARTS as usize],
    /// How long each is waited for.
    patience: [Duration; PARTS as usize],
}

impl Border {
    fn new(own: Option<Site>, pieces: u32, rng: &mut Rng) -> Self {
        let mut border = Self {
            own,
            ..Self::default()
        };
        if own.is_some() {
            border.near = vec![0; pieces as usize];
            border.patience = [(); PARTS as usize].map(|()| PATIENCE.mul_f64(1.0 + rng.f64()));
        }
        border
    }

    /// There are peers of other sites.
    pub(crate) fn has_far_peers(&self) -> bool {
        self.far > 0
    }

    /// The piece may be asked of this peer.
    pub(crate) fn lets(&self, now: Time, peer: &Peer, piece: u32) -> bool {
        let is_ours = || self.own.is_some_and(|own| own.brings(piece));
        !peer.is_far || (self.lacks(piece) && (is_ours() || self.is_overdue(now, part_of(piece))))
    }

    /// No other peer at our site has it.
    fn lacks(&self, piece: u32) -> bool {
        self.near.get(piece as usize) == Some(&0)
    }

    fn is_overdue(&self, now: Time, part: u8) -> bool {
        let part = usize::from(part);
        self.awaited[part].is_some_and(|since| since + self.patience[part] <= now)
    }

    /// One peer more has the piece.
    pub(crate) fn gained(&mut self, now: Time, piece: u32, is_away: bool, is_held: bool) {
        let Some(near) = self.near.get_mut(piece as usize) else {
            return;
        };
        *near += u32::from(!is_away);
        if is_held {
            return;
        }
        let awaited = &mut self.awaited[usize::from(part_of(piece))];
        if is_away && *near == 0 {
            awaited.get_or_insert(now);
        } else if !is_away && *near == 1 && awaited.is_some() {
            *awaited = Some(now);
        }
    }

    /// One peer fewer has the piece.
    pub(crate) fn lost(&mut self, now: Time, piece: u32, is_away: bool) {
        let Some(near) = self.near.get_mut(piece as usize) else {
            return;
        };
        *near -= u32::from(!is_away);
        if !is_away && *near == 0 {
            self.awaited[usize::from(part_of(piece))].get_or_insert(now);
        }
    }
}

impl Swarm {
    pub(crate) fn set_site(&mut self, site: Site) {
        if !self.follows(Rule::OncePerSite) || self.border.told == Some(site) {
            return;
        }
        let own = Some(site).filter(|site| site.tag != Site::NOWHERE);
        self.border = Border::new(own, self.layout.piece_count(), &mut self.rng);
        self.border.told = Some(site);
        for peer in self.peers.values_mut() {
            let is_far = |own: Site| peer.site.is_some_and(|site| site.tag != own.tag);
            peer.is_far = own.is_some_and(is_far);
            self.border.far += usize::from(peer.is_far);
            for piece in peer.have.iter_ones() {
                let is_held = self.have.get(piece);
                (self.border).gained(self.now, piece, peer.is_away(), is_held);
            }
        }
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.tell_site_to(key);
        }
        self.all_dirty = true;
    }

    /// Tells an own node where we stand, if we know.
    pub(crate) fn tell_site_to(&mut self, peer: PeerKey) {
        let is_own = self.peers.get(&peer).is_some_and(|peer| peer.own);
        if let Some(site) = self.border.told.filter(|_| is_own) {
            self.out.push_back(Output::Site { peer, site });
        }
    }

    /// The peer says where it stands.
    pub(crate) fn peer_site(&mut self, key: PeerKey, site: Site) {
        let own = self.border.own;
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.site = Some(site);
        let is_far = own.is_some_and(|own| own.tag != site.tag);
        let was_away = peer.is_away();
        let was_far = std::mem::replace(&mut peer.is_far, is_far);
        self.border.far -= usize::from(was_far);
        self.border.far += usize::from(is_far);
        self.moved(key, was_away);
        self.spread.look_at(key);
        self.dirty.insert(key);
        if !self.has_room_for(is_far) {
            self.hang_up(key, HangUp::Full);
        }
    }

    /// A peer stopped answering, or does so again: until its connection ends nobody else might bring what it alone has here.
    pub(crate) fn set_lost(&mut self, key: PeerKey, is_lost: bool) {
        if let Some(peer) = self.peers.get_mut(&key)
            && peer.is_lost != is_lost
        {
            let was_away = peer.is_away();
            peer.is_lost = is_lost;
            self.moved(key, was_away);
        }
    }

    /// Counts anew what the peer has.
    fn moved(&mut self, key: PeerKey, was_away: bool) {
        let Some(peer) = self.peers.get(&key) else {
            return;
        };
        let is_away = peer.is_away();
        if was_away != is_away {
            for piece in peer.have.iter_ones() {
                let is_held = self.have.get(piece);
                self.border.lost(self.now, piece, was_away);
                self.border.gained(self.now, piece, is_away, is_held);
            }
        }
    }

    /// Who brings pieces keeps room for peers of both kinds.
    fn has_room_for(&self, is_far: bool) -> bool {
        // Who brings all is a relay, or its site is small.
        let brings = (self.border.own).is_some_and(|own| own.first < own.end && !own.brings_all());
        let (most, near) = (
            self.config.connections_max,
            self.peers.len() - self.border.far,
        );
        !brings
            || if is_far {
                self.border.far <= most * FAR_MAX / 100
            } else {
                near <= most * NEAR_MAX / 100
            }
    }

    /// A peer is gone.
    pub(crate) fn leaves_border(&mut self, peer: &Peer) {
        self.border.far -= usize::from(peer.is_far);
        for piece in peer.have.iter_ones() {
            self.border.lost(self.now, piece, peer.is_away());
        }
    }

    /// A part is overdue only as long as a piece of it is lacking.
    pub(crate) fn look_at_overdue(&mut self) {
        for part in 0..PARTS {
            if self.border.has_far_peers() && self.border.is_overdue(self.now, part) {
                let is_waited_for = |&piece: &u32| {
                    part_of(piece) == part
                        && self.border.lacks(piece)
                        && self.picker.availability(piece) > 0
                };
                if !self.picker.iter_open().any(|piece| is_waited_for(&piece)) {
                    self.border.awaited[usize::from(part)] = None;
                }
            }
        }
    }
}
