//! Peers come and go: handshakes, what they say of themselves, interest.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::wire::Message;
use floodway_proto::{Bitfield, PeerName};

use crate::blocks::{Block, Giver};
use crate::io::{Event, HangUp, Output, PeerKey};
use crate::peer::Peer;
use crate::swarm::Swarm;

/// Half-open connections at once.
const DIALING_MAX: usize = 16;
/// After this everybody who began at the same time has found peers.
const SETTLED: Duration = Duration::from_secs(1);
/// Who is lost is dialled again after this.
const LOST: Duration = Duration::from_secs(2);
/// Who is connected otherwise, or has nothing to exchange, is dialled again after this.
const PARTED: Duration = Duration::from_mins(10);
/// So many peers that left may still be blamed; beyond it who came first is forgotten.
const DEPARTED_MAX: usize = 1024;

impl Swarm {
    pub(crate) fn peers_found(&mut self, addrs: &[SocketAddr]) {
        for &addr in addrs {
            self.dialer.found(addr);
            if self.is_reached(addr) {
                self.dialer.reached(addr);
            }
        }
        self.plan_dirty = true;
    }

    /// Whoever lacks something dials. A complete node dials too, while it has few peers: somebody who began at the
    /// same time may not hear of it for a whole tracker interval.
    pub(crate) fn wants_peers(&self) -> bool {
        let connected = self.peers.len() + self.dialer.dialing();
        self.fetching
            && if self.is_complete() {
                connected < self.config.connections_max / 4
            } else {
                self.growing || self.verifiable.count() > self.have.count()
            }
    }

    /// It wants more peers and has room to dial one.
    pub(crate) fn may_dial(&self) -> bool {
        self.wants_peers()
            && self.dialer.dialing() < DIALING_MAX
            && self.peers.len() + self.dialer.dialing() < self.connections_wanted()
    }

    /// At first half of the room is left to those that dial us: else the nearest would fill it before the others come, and these
    /// would find nobody but each other.
    fn connections_wanted(&self) -> usize {
        let most = self.config.connections_max;
        let is_new = self.started.is_some_and(|at| self.now < at + SETTLED);
        if is_new { most / 2 } else { most }
    }

    pub(crate) fn dial(&mut self) {
        while self.may_dial() {
            let Some(addr) = self.dialer.next(self.now) else {
                return;
            };
            self.out.push_back(Output::Dial { addr });
        }
    }

    pub(crate) fn peer_up(
        &mut self,
        key: PeerKey,
        addr: SocketAddr,
        name: PeerName,
        inbound: bool,
        fast: bool,
    ) {
        if !inbound {
            self.dialer.connected(addr);
        }
        let mut peer = Peer::new(self.now, addr, name, inbound, fast, &self.layout);
        // BEP 3: what we have goes first, and may be left out when it is nothing.
        let offered = self.offered();
        let is_all = self.layout.length().is_some() && offered.is_full();
        let first = match (offered.count(), is_all) {
            (0, _) if fast => Some(Message::HaveNone),
            (0, _) => None,
            (_, true) if fast => Some(Message::HaveAll),
            _ => Some(Message::Bitfield(Bytes::from(offered.to_bytes()))),
        };
        peer.announced = !fast;
        // True at once for a content without pieces.
        self.seeds += usize::from(peer.is_seed());
        self.peers.insert(key, peer);
        if let Some(refusal) = self.refusal(key, addr, name, inbound) {
            return self.hang_up(key, refusal);
        }
        self.names.insert(name, key);
        if let Some(first) = first {
            self.send(key, first);
        }
        self.plan_dirty = true;
    }

    /// Why a new connection is not kept. A second one to the same name stays only if both ends would keep it.
    fn refusal(
        &mut self,
        key: PeerKey,
        addr: SocketAddr,
        name: PeerName,
        inbound: bool,
    ) -> Option<HangUp> {
        if name == self.config.name {
            return Some(HangUp::Duplicate);
        }
        if self.dialer.is_banned(addr) {
            return Some(HangUp::Banned);
        }
        if let Some(&twin) = self.names.get(&name) {
            let old = &self.peers[&twin];
            let by_smaller = |inbound: bool| inbound == (name < self.config.name);
            let replaces = by_smaller(inbound) && !by_smaller(old.inbound);
            let (kept, dropped) = if replaces { (key, twin) } else { (twin, key) };
            let listens_at = [addr, old.addr][usize::from(replaces)];
            if !self.peers[&dropped].inbound
                && let Some(kept) = self.peers.get_mut(&kept)
            {
                kept.listens_at = Some(listens_at);
            }
            if replaces {
                self.hang_up(twin, HangUp::Duplicate);
                return None;
            }
            return Some(HangUp::Duplicate);
        }
        let most = self.config.connections_max + self.config.inbound_extra;
        (self.peers.len() > most).then_some(HangUp::Full)
    }

    pub(crate) fn peer_extended(
        &mut self,
        key: PeerKey,
        request_queue: Option<u32>,
        own: bool,
        hears_claims: bool,
    ) {
        if let Some(peer) = self.peers.get_mut(&key) {
            if let Some(queue) = request_queue {
                peer.request_queue = usize::try_from(queue).unwrap_or(usize::MAX).max(1);
            }
            let was_own = std::mem::replace(&mut peer.own, own);
            if was_own != own {
                // Slots are for stock peers only.
                if own || peer.is_choked {
                    self.slots_taken.remove(&key);
                } else {
                    self.slots_taken.insert(key);
                }
            }
            let first = hears_claims && !peer.hears_claims;
            peer.hears_claims = hears_claims;
            self.dirty.insert(key);
            if first {
                self.tell_claims_to(key);
            }
            // Once: who is told answers with another handshake.
            if !was_own {
                self.tell_site_to(key);
            }
            self.deal_slot(key);
        }
    }

    /// An own node that dialled us need not be dialled where it listens, as long as this connection lasts: of two that were busy one
    /// would be dropped, and what was under way with it. What it says is believed for that only: it bans nobody, and is not dialled
    /// unless others name it.
    pub(crate) fn peer_listens(&mut self, key: PeerKey, port: Option<u16>) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if let Some(port) = port.filter(|_| peer.own && peer.inbound) {
            let mut addr = peer.addr;
            // A socket of both families has IPv4 addresses in the form of IPv6.
            addr.set_ip(addr.ip().to_canonical());
            addr.set_port(port);
            let addr = *peer.listens_at.get_or_insert(addr);
            self.dialer.reached(addr);
        }
    }

    /// We are connected to who listens there.
    fn is_reached(&self, addr: SocketAddr) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.addr == addr || peer.listens_at == Some(addr))
    }

    pub(crate) fn peer_message(&mut self, key: PeerKey, message: Message) {
        if !self.peers.contains_key(&key) {
            return;
        }
        match message {
            Message::Choke => self.choked(key),
            Message::Unchoke => self.unchoked(key),
            Message::Interested => self.interest_of(key, true),
            Message::NotInterested => self.interest_of(key, false),
            Message::Have(piece) => self.has_piece(key, piece),
            Message::Bitfield(bytes) => match self.pieces_said(&bytes) {
                Ok(have) => self.has_pieces(key, &have),
                Err(_) => self.hang_up(
                    key,
                    HangUp::Protocol("a bitfield that does not fit this torrent"),
                ),
            },
            // Who has all knows how many that are, even if we do not.
            Message::HaveAll => self.has_pieces(key, &Bitfield::full(self.layout.piece_count())),
            Message::HaveNone => self.has_pieces(key, &Bitfield::new(self.layout.piece_count())),
            Message::Request(request) => self.asked_for(key, request),
            Message::Cancel(request) => self.cancelled(key, request),
            Message::Reject(request) => self.rejected(key, request),
            Message::Suggest(piece) => self.suggested(key, piece),
            // Hints that we may ignore, or that the driver has dealt with.
            Message::KeepAlive
            | Message::AllowedFast(_)
            | Message::Extended { .. }
            | Message::Port(_)
            | Message::HashRequest(_)
            | Message::Hashes(..)
            | Message::HashReject(_)
            | Message::Unknown { .. } => {}
        }
    }

    /// The peer has said what it has: it takes part.
    fn announced(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key)
            && !std::mem::replace(&mut peer.announced, true)
            && !peer.inbound
        {
            self.dialer.talked(peer.addr);
        }
    }

    fn has_piece(&mut self, key: PeerKey, piece: u32) {
        if self.layout.piece(piece).is_none() {
            return self.hang_up(
                key,
                HangUp::Protocol("a piece that this torrent does not have"),
            );
        }
        self.announced(key);
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.have.set(piece) {
            let (is_far, is_away) = (peer.is_far, peer.is_away());
            self.picker.gained(piece);
            self.seeds += usize::from(peer.have.is_full());
            if let Some(at) = peer.handed.iter().position(|handed| *handed == piece) {
                peer.handed.swap_remove(at);
                // Slow start: it has it, and nobody waits for us.
                peer.handed_max += usize::from(is_far && self.uploads.is_empty());
                self.spread.no_longer_given(piece);
                self.spread.look_at(key);
            }
            if !self.have.get(piece) && self.verifiable.get(piece) {
                peer.wanted += 1;
            }
            (self.border).gained(self.now, piece, is_away, self.have.get(piece));
            self.claim_kept(key, piece);
            self.update_interest(key);
        }
        self.part_if_both_complete(key);
    }

    fn has_pieces(&mut self, key: PeerKey, have: &Bitfield) {
        self.announced(key);
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let was_seed = peer.is_seed();
        // aria2 sends a new list where many new pieces would be as many messages.
        for piece in have.iter_ones() {
            if peer.have.set(piece) {
                self.picker.gained(piece);
                let is_held = self.have.get(piece);
                (self.border).gained(self.now, piece, peer.is_away(), is_held);
            }
        }
        self.seeds += usize::from(peer.is_seed() && !was_seed);
        self.recount(key);
        self.update_interest(key);
        self.part_if_both_complete(key);
        self.plan_dirty = true;
    }

    fn recount(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let wanted = peer
            .have
            .iter_common(&self.verifiable)
            .filter(|&piece| !self.have.get(piece))
            .count();
        peer.wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    }

    /// The piece is wanted from now on: who has it is of interest.
    pub(crate) fn count_wanted(&mut self, piece: u32) {
        let holders = self.peers.iter().filter(|(_, peer)| peer.have.get(piece));
        for key in holders.map(|(&key, _)| key).collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.wanted += 1;
            }
            self.update_interest(key);
        }
    }

    /// Counts anew what every peer has that we want.
    pub(crate) fn recount_interest(&mut self) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            self.recount(key);
            self.update_interest(key);
        }
        self.plan_dirty = true;
    }

    /// Tells the peer whether we want something of it, when that has changed.
    pub(crate) fn update_interest(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let interested = peer.wanted > 0;
        if interested != peer.we_are_interested {
            peer.we_are_interested = interested;
            if interested {
                if self.useful == 0 && self.growing {
                    self.useful_since = self.now;
                }
                self.useful += 1;
            } else {
                self.useful -= 1;
            }
            self.send(
                key,
                if interested {
                    Message::Interested
                } else {
                    Message::NotInterested
                },
            );
        }
        self.dirty.insert(key);
    }

    pub(crate) fn part_if_both_complete(&mut self, key: PeerKey) {
        let peer = self.peers.get(&key);
        let is_seed = peer.is_some_and(|peer| peer.is_seed() && !(self.growing && peer.own));
        if self.is_complete() && is_seed {
            self.hang_up(key, HangUp::BothComplete);
        }
    }

    /// Closes a connection of ours and forgets the peer.
    pub(crate) fn hang_up(&mut self, key: PeerKey, reason: HangUp) {
        let Some(peer) = self.peers.get(&key) else {
            return;
        };
        let addr = peer.addr;
        self.out.push_back(Output::HangUp { peer: key, reason });
        let retry = match reason {
            HangUp::Protocol(_) | HangUp::Banned => {
                self.dialer.ban(addr);
                Duration::MAX
            }
            HangUp::WrongBlock(piece) => {
                self.dialer.ban(addr);
                self.out
                    .push_back(Output::Event(Event::Banned { addr, piece }));
                Duration::MAX
            }
            HangUp::BothComplete | HangUp::Duplicate => PARTED,
            HangUp::Full => Duration::from_mins(1),
        };
        self.forget(key, Some(retry));
    }

    /// The connection is gone, by the peer's will or the network's.
    pub(crate) fn peer_down(&mut self, key: PeerKey) {
        self.forget(key, None);
    }

    /// `retry`: we closed it, and dial the address again after so long.
    fn forget(&mut self, key: PeerKey, retry: Option<Duration>) {
        self.drop_claims(key);
        let Some(peer) = self.peers.remove(&key) else {
            return;
        };
        // A connection that was refused as a second one leaves the first its name.
        if self.names.get(&peer.name) == Some(&key) {
            self.names.remove(&peer.name);
        }
        self.plan_redial(&peer, retry);
        self.seeds -= usize::from(peer.is_seed());
        self.useful -= usize::from(peer.we_are_interested);
        if !peer.is_stuck {
            self.sending -= peer.sending;
        }
        peer.have
            .iter_ones()
            .for_each(|piece| self.picker.lost(piece));
        self.leaves_border(&peer);
        for asked in peer.asked {
            self.release(asked.block, key);
        }
        self.remember_giver(key, peer.addr);
        for piece in peer.handed {
            self.spread.no_longer_given(piece);
        }
        self.spread.forget(key);
        self.look_again_at_first_copies();
        for partial in self.partials.values_mut() {
            if partial.only == Some(key) {
                partial.only = None;
            }
        }
        self.dirty.remove(&key);
        self.uploads.remove(&key);
        self.slots_taken.remove(&key);
        if !self.peers.values().any(|peer| peer.own) {
            // Nobody is left who would say that the link is not full any more.
            self.queueing = Duration::ZERO;
        }
        self.all_dirty = true;
        self.plan_dirty = true;
        // A slot is free.
        self.next_choke = self.now;
    }

    /// What a peer that is gone gave may be proven wrong later.
    fn remember_giver(&mut self, key: PeerKey, addr: SocketAddr) {
        let gave = Giver::Peer(key);
        let mut begun = self.partials.values().flat_map(|partial| &partial.blocks);
        let mut failed = self.failed.values().flatten();
        if begun.any(|block| *block == Block::Received(Some(gave)))
            || failed.any(|giver| *giver == Some(gave))
        {
            self.departed.insert(key, addr);
            if self.departed.len() > DEPARTED_MAX {
                self.departed.pop_first();
            }
        }
    }

    /// When to dial the peer of a connection again that is gone.
    fn plan_redial(&mut self, peer: &Peer, retry: Option<Duration>) {
        let wait = retry.unwrap_or(LOST);
        if let Some(addr) = peer.listens_at.filter(|&addr| !self.is_reached(addr)) {
            self.dialer.closed(self.now, addr, wait);
        }
        if peer.inbound {
            return;
        }
        let twin = self.names.get(&peer.name);
        if let Some(twin) = twin.and_then(|twin| self.peers.get_mut(twin)) {
            // Where it listens is known now, and of use when the other connection ends.
            twin.listens_at.get_or_insert(peer.addr);
            self.dialer
                .closed(self.now, peer.addr, retry.unwrap_or(PARTED));
        } else if retry.is_some() || peer.announced {
            self.dialer.closed(self.now, peer.addr, wait);
        } else {
            // It hung up at once.
            self.dialer.failed(self.now, peer.addr);
        }
    }
}

#[cfg(test)]
mod tests;
