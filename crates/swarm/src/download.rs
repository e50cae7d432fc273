//! What becomes of what peers and servers send: books, verdicts, and who is to blame.

use floodway_proto::wire::Message;
use floodway_proto::{BlockId, PieceIndex};

use crate::blocks::{Block, Giver, Partial};
use crate::config::Rule;
use crate::io::{BufKey, Event, HangUp, Output, PeerKey, Sender, SourceClass, Verdict};
use crate::peer::Peer;
use crate::swarm::Swarm;

impl Swarm {
    pub(crate) fn block_in(&mut self, from: Sender, block: BlockId, buf: BufKey) {
        let bytes = u64::from(self.layout.block_size(block));
        let Some(giver) = self.account(from, block, bytes) else {
            return self.discard(buf, bytes);
        };
        let piece = block.piece.0;
        // A block that nobody asked for must not make us hold pieces of a peer's choice.
        let welcome = match giver {
            Giver::Peer(_) => self.partials.contains_key(&piece),
            Giver::Source(_) => !self.have.get(piece) && self.may_fetch(piece),
        };
        if !welcome || self.have.get(piece) {
            return self.discard(buf, bytes);
        }
        let partial = self.begin(piece);
        let Some(rivals) = partial.receive(block.index, Some(giver)) else {
            return self.discard(buf, bytes);
        };
        if partial.missing == 0 {
            self.waiting.remove(&piece);
        }
        self.out.push_back(Output::Store { block, buf });
        for rival in rivals.into_iter().flatten() {
            if self
                .peers
                .get_mut(&rival)
                .is_some_and(|peer| peer.unask(block))
            {
                self.take_back(rival, block);
                self.dirty.insert(rival);
            }
        }
    }

    /// Books a block on its sender; `None` when the sender is gone.
    fn account(&mut self, from: Sender, block: BlockId, bytes: u64) -> Option<Giver> {
        let now = self.now;
        match from {
            Sender::Peer(key) => {
                let peer = self.peers.get_mut(&key)?;
                peer.delivered(now, block, self.layout.block_size(block));
                self.rates.peer.add(now, bytes);
                self.peer_block_at = Some(now);
                self.dirty.insert(key);
                self.set_lost(key, false);
                Some(Giver::Peer(key))
            }
            Sender::Http(request) => {
                let end = self.layout.block_bytes(block).end;
                let source = self.extent_progress(request, end)?;
                match self.class_of(Giver::Source(source)) {
                    SourceClass::Relay => self.rates.relay.add(now, bytes),
                    _ => self.rates.origin.add(now, bytes),
                }
                self.down.take(now, bytes);
                Some(Giver::Source(source))
            }
        }
    }

    fn discard(&mut self, buf: BufKey, bytes: u64) {
        self.counters.wasted += bytes;
        self.out.push_back(Output::Discard { buf });
    }

    pub(crate) fn hashed(&mut self, piece: PieceIndex, verdict: Verdict) {
        if !self
            .partials
            .get(&piece.0)
            .is_some_and(Partial::is_complete)
        {
            return;
        }
        match verdict {
            Verdict::Good { disproved } => self.piece_good(piece, &disproved),
            Verdict::Bad => self.piece_bad(piece),
        }
    }

    fn piece_good(&mut self, piece: PieceIndex, disproved: &[u32]) {
        let Some(partial) = self.partials.remove(&piece.0) else {
            return;
        };
        for (index, block) in (0..).zip(&partial.blocks) {
            let bytes = u64::from(self.layout.block_size(BlockId { piece, index }));
            let Block::Received(giver) = *block else {
                continue;
            };
            *match giver.map(|giver| self.class_of(giver)) {
                None => &mut self.counters.resumed,
                Some(SourceClass::Peer) => &mut self.counters.peer,
                Some(SourceClass::Relay) => &mut self.counters.relay,
                Some(SourceClass::Origin) => &mut self.counters.origin,
            } += bytes;
        }
        self.have.set(piece.0);
        self.have_bytes += u64::from(self.layout.piece_size(piece));
        self.reconsider(piece.0);
        self.out.push_back(Output::Event(Event::PieceDone(piece)));
        if let Some(givers) = self.failed.remove(&piece.0) {
            let guilty = disproved
                .iter()
                .filter_map(|&index| givers.get(index as usize).copied().flatten());
            for giver in guilty.collect::<std::collections::BTreeSet<_>>() {
                self.convict(giver, piece);
            }
        }
        if self.verifiable.get(piece.0) {
            self.offer(piece.0, true);
        }
        if self.is_complete() {
            self.completed();
        }
    }

    /// Tells everyone that the piece can be had here. `was_wanted`: until now it was wanted of those who have it.
    pub(crate) fn offer(&mut self, piece: u32, was_wanted: bool) {
        self.offer_first_copy(piece);
        let furthest_first = self.follows(Rule::FurthestFirst);
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            let has = peer.have.get(piece);
            // A peer that spreads first copies must hear that this one has arrived, though it has the piece itself; and
            // own nodes how far we are, for they serve those first that are furthest from done. To those that have all it
            // made no difference, and hearing it cost a lone seed a fifth of its time.
            let tell = !has || peer.spreads || (peer.own && !peer.is_seed() && furthest_first);
            if has && was_wanted {
                peer.wanted = peer.wanted.saturating_sub(1);
                self.update_interest(key);
            }
            if tell {
                self.send(key, Message::Have(piece));
            }
        }
    }

    pub(crate) fn completed(&mut self) {
        self.departed.clear();
        self.out.push_back(Output::Event(Event::Complete));
        self.cancel_extents(|_| true);
        self.peers
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|key| self.part_if_both_complete(key));
        self.look_again_at_first_copies();
        self.plan_dirty = true;
        self.next_choke = self.now;
    }

    /// A piece failed. With one giver the culprit is known; else the next try tells who lied.
    fn piece_bad(&mut self, piece: PieceIndex) {
        self.out.push_back(Output::Event(Event::PieceFailed(piece)));
        let Some(partial) = self.partials.get_mut(&piece.0) else {
            return;
        };
        self.counters.wasted += u64::from(self.layout.piece_size(piece));
        let givers = partial.reset();
        let first = givers[0];
        let alone = first.filter(|_| givers.iter().all(|giver| *giver == first));
        // The store compares a good try with the last failed one, so that is the one to remember.
        self.failed.insert(piece.0, givers);
        if let Some(giver) = alone {
            self.convict(giver, piece);
        }
        self.fetch_from_one(piece.0);
        self.freed(piece.0);
    }

    /// The next try of a failed piece comes from one peer, if possible one that had no part in the failed one.
    fn fetch_from_one(&mut self, piece: u32) {
        let Some(suspects) = self.failed.get(&piece) else {
            return;
        };
        let serves = |peer: &&Peer| peer.have.get(piece) && !peer.we_are_choked && !peer.snubbed;
        let innocent = |key: &PeerKey| !suspects.contains(&Some(Giver::Peer(*key)));
        let holders = self
            .peers
            .iter()
            .filter(|(_, peer)| serves(peer))
            .map(|(&key, _)| key);
        let only = holders.max_by_key(|key| (innocent(key), *key));
        if let Some(partial) = self.partials.get_mut(&piece) {
            partial.only = only;
        }
    }

    /// The peer that a failed piece was left to may have stopped serving: then another one gets it.
    pub(crate) fn reassign_failed(&mut self) {
        for piece in self.failed.keys().copied().collect::<Vec<_>>() {
            let only = self.partials.get(&piece).and_then(|partial| partial.only);
            let serves = only
                .and_then(|key| self.peers.get(&key))
                .is_some_and(|peer| peer.may_ask() && !peer.snubbed);
            if !serves {
                self.fetch_from_one(piece);
            }
        }
    }

    /// This giver's bytes were proven wrong.
    fn convict(&mut self, giver: Giver, piece: PieceIndex) {
        if !self.follows(Rule::Blame) {
            return;
        }
        match giver {
            Giver::Peer(key) if self.peers.contains_key(&key) => {
                self.hang_up(key, HangUp::WrongBlock(piece));
            }
            Giver::Peer(key) => {
                if let Some(addr) = self.departed.remove(&key)
                    && self.dialer.ban(addr)
                {
                    self.out
                        .push_back(Output::Event(Event::Banned { addr, piece }));
                }
            }
            // A source that is gone is blamed no more, however many of its blocks turn out wrong.
            Giver::Source(source) if self.sources.get(&source).is_some_and(|of| of.gone) => {}
            Giver::Source(source) => {
                self.out
                    .push_back(Output::Event(Event::SourceDropped { source, piece }));
                self.http_down(source);
            }
        }
    }

    pub(crate) fn piece_lost(&mut self, piece: PieceIndex) {
        if self.have.clear(piece.0) {
            let bytes = u64::from(self.layout.piece_size(piece));
            self.have_bytes -= bytes;
            // It will count where it comes from now.
            if self.resumed.clear(piece.0) {
                self.counters.resumed -= bytes;
            }
            self.reconsider(piece.0);
            self.recount_interest();
        }
    }
}
