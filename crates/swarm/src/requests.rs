//! Requests to peers: what to ask of whom, and when to ask somebody else.

use std::time::Duration;

use floodway_proto::wire::{Message, Request};
use floodway_proto::{BlockId, PieceIndex};

use crate::blocks::{Block, Partial};
use crate::config::{Order, Rule};
use crate::io::{HangUp, PeerKey};
use crate::peer::{Peer, depth_min};
use crate::picker::Tie;
use crate::swarm::Swarm;

/// How much sooner a second request for a block must be answered than the first.
const TWICE_PAYS: Duration = Duration::from_millis(50);
/// Who holds less than others by this part of the content is behind; by fewer than so many pieces nobody is, since news of as many
/// may be under way: a margin of three or four cost `nat` one percent in simulation.
const BEHIND: u32 = 32;
const BEHIND_MIN: u32 = 8;
/// Begun pieces looked at before a new one is begun: where many peers each have what no other has, many have begun.
const WAITING_PROBED: usize = 64;
/// Suggestions of a peer looked at that come before their hash.
const SUGGESTED_PROBED: usize = 256;
/// So many of the last requests to each peer are looked at for a block worth a second one.
const TWICE_PROBED: usize = 64;

impl Swarm {
    pub(crate) fn request_of(&self, block: BlockId) -> Request {
        Request {
            piece: block.piece.0,
            begin: self.layout.block_begin(block),
            length: self.layout.block_size(block),
        }
    }

    /// Asks the peer for as much as it should have under way.
    pub(crate) fn fill_requests(&mut self, key: PeerKey) {
        if !self.fetching {
            return;
        }
        while self.down.ready(self.now) {
            let by_rate = self.follows(Rule::DepthByRate);
            let Some(peer) = self.peers.get_mut(&key) else {
                return;
            };
            let depth = if by_rate {
                peer.depth(self.now, self.layout.block_length(), self.is_behind)
            } else {
                depth_min(self.layout.block_length())
            };
            peer.depth_used = peer.asked.len() >= depth;
            if !peer.may_ask() || peer.depth_used {
                return;
            }
            let Some(block) = self.pick(key) else { return };
            self.ask(key, block);
        }
    }

    /// Looks whether we are further from done than our own neighbours: by then we have little that they lack, so that our uplink
    /// rests, and all are done later for it.
    pub(crate) fn notice_behind(&mut self) {
        let unfinished = self
            .peers
            .values()
            .filter(|peer| peer.own && !peer.is_seed());
        let (count, held) = unfinished.fold((0, 0), |(count, held), peer| {
            (count + 1, held + u64::from(peer.have.count()))
        });
        let margin = (self.layout.piece_count() / BEHIND).max(BEHIND_MIN);
        let held_here = u64::from(self.have.count() + margin);
        self.is_behind = self.follows(Rule::CatchUp) && held_here * count < held;
    }

    fn ask(&mut self, key: PeerKey, block: BlockId) {
        let now = self.now;
        let request = self.request_of(block);
        self.down.take(now, u64::from(request.length));
        if let Some(peer) = self.peers.get_mut(&key) {
            if peer.asked.is_empty() {
                peer.progress_at = now;
            }
            peer.asked.push_back(crate::peer::Asked { block, at: now });
        }
        self.send(key, Message::Request(request));
    }

    /// The next block to ask the peer for, already claimed for it.
    fn pick(&mut self, key: PeerKey) -> Option<BlockId> {
        let urgent = self.pick_failed(key).or_else(|| self.pick_suggested(key));
        if urgent.is_some() {
            return urgent;
        }
        if self.waits_for_suggestions(self.peers.get(&key)?) {
            return None;
        }
        let begun = if self.follows(Rule::WholePieces) {
            self.pick_waiting(key)
        } else {
            None
        };
        begun
            .or_else(|| self.pick_new(key))
            .or_else(|| self.pick_any_waiting(key))
            .or_else(|| self.pick_from_extent(key))
            .or_else(|| self.pick_twice(key))
    }

    fn claim(&mut self, piece: u32, index: u32, key: PeerKey) -> Option<BlockId> {
        let partial = self.partials.get_mut(&piece)?;
        if !partial.claim(index, key) {
            return None;
        }
        if partial.missing == 0 {
            self.waiting.remove(&piece);
        }
        Some(BlockId {
            piece: PieceIndex(piece),
            index,
        })
    }

    /// A block of a failed piece that is left to this peer. It goes before all others: until its verdict a liar spoils
    /// every piece that it has a part in.
    fn pick_failed(&mut self, key: PeerKey) -> Option<BlockId> {
        let left_to_it = |&piece: &u32| {
            let partial = self.partials.get(&piece)?;
            let index = partial.first_missing()?;
            (partial.only == Some(key)).then_some((piece, index))
        };
        let (piece, index) = self.failed.keys().find_map(left_to_it)?;
        self.claim(piece, index, key)
    }

    /// A block of the first piece that the peer suggests and that can still be asked for. While a content grows a suggestion
    /// may come before what the piece must hash to is known here: it is kept until then. The peer waits for us to have the piece,
    /// and suggests it to nobody else.
    fn pick_suggested(&mut self, key: PeerKey) -> Option<BlockId> {
        let mut at = 0;
        while at < SUGGESTED_PROBED {
            let piece = *self.peers.get(&key)?.suggested.get(at)?;
            if self.growing && !self.verifiable.get(piece) && !self.have.get(piece) {
                at += 1;
                continue;
            }
            let free =
                self.verifiable.get(piece) && !self.have.get(piece) && !self.reserved.get(piece);
            let index = match self.partials.get(&piece) {
                None if free => Some(0),
                Some(partial) if free && partial.only.is_none_or(|only| only == key) => {
                    partial.first_missing()
                }
                _ => None,
            };
            if let Some(index) = index {
                self.begin(piece);
                return self.claim(piece, index, key);
            }
            self.peers.get_mut(&key)?.suggested.remove(at);
        }
        None
    }

    /// The piece waits for blocks, and this peer may bring one.
    fn may_continue(&self, piece: u32, key: PeerKey, peer: &Peer) -> bool {
        let free = |partial: &Partial| partial.only.is_none_or(|only| only == key);
        peer.have.get(piece)
            && self.border.lets(self.now, peer, piece)
            && self.waiting.contains(&piece)
            && free(&self.partials[&piece])
    }

    /// A block of one of the first pieces that have begun: completing it makes it tradable.
    fn pick_waiting(&mut self, key: PeerKey) -> Option<BlockId> {
        let peer = self.peers.get(&key)?;
        let mut begun = self.waiting.iter().copied().take(WAITING_PROBED);
        let piece = begun.find(|&piece| self.may_continue(piece, key, peer))?;
        let index = self.partials[&piece].first_missing()?;
        self.claim(piece, index, key)
    }

    /// The same of all pieces that have begun: the one the peer is at, else the first of those that it has.
    fn pick_any_waiting(&mut self, key: PeerKey) -> Option<BlockId> {
        let peer = self.peers.get(&key)?;
        let fits = |piece: &u32| self.may_continue(*piece, key, peer);
        let current = peer.asked.back().map(|asked| asked.block.piece.0);
        let few = peer.have.count() + self.layout.piece_count() / 64;
        let piece = match current.filter(fits) {
            Some(piece) => piece,
            // Whichever are fewer are walked.
            None if (few as usize) < self.waiting.len() => peer.have.iter_ones().find(fits)?,
            None => self.waiting.iter().copied().find(fits)?,
        };
        let index = self.partials[&piece].first_missing()?;
        self.claim(piece, index, key)
    }

    /// The first block of a piece that nobody fetches.
    fn pick_new(&mut self, key: PeerKey) -> Option<BlockId> {
        let peer = self.peers.get(&key)?;
        let have = &peer.have;
        // Where HTTP walks up from the start of a gap, peers walk down from its end.
        let tie = if self.extents.is_empty() || !self.follows(Rule::MeetInTheMiddle) {
            Tie::Random
        } else {
            Tie::Highest
        };
        let may = |piece| self.border.lets(self.now, peer, piece);
        let piece = match self.config.order {
            Order::RarestFirst if !self.is_pair() => {
                self.picker.rarest_that(have, may, tie, &mut self.rng)
            }
            Order::RarestFirst | Order::Sequential => self.picker.first_that(have, may),
        }?;
        self.begin(piece);
        self.claim(piece, 0, key)
    }

    /// One complete peer, no other known, and no HTTP: no order of pieces helps anybody, and from first to last the
    /// disk writes long runs and the digest of the whole file need not read them back.
    fn is_pair(&self) -> bool {
        let mut peers = self.peers.values();
        let (Some(peer), None) = (peers.next(), peers.next()) else {
            return false;
        };
        self.extents.is_empty()
            && peer.is_seed()
            && self.dialer.knows_only(peer.listens_at.unwrap_or(peer.addr))
    }

    /// The piece has begun: it leaves the picker and has blocks.
    pub(crate) fn begin(&mut self, piece: u32) -> &mut Partial {
        let blocks = self.layout.block_count(PieceIndex(piece));
        self.partials
            .entry(piece)
            .or_insert_with(|| Partial::new(blocks));
        self.reconsider(piece);
        self.partials.get_mut(&piece).expect("it was entered above")
    }

    /// End-game, when every missing block is asked for: one that a slower peer is asked for. At most two are asked
    /// for the same block; one that sat on its requests before leaves its place to another that did not.
    fn pick_twice(&mut self, key: PeerKey) -> Option<BlockId> {
        if self.picker.open_count() > 0 || !self.waiting.is_empty() || !self.follows(Rule::EndGame)
        {
            return None;
        }
        let length = self.layout.block_length();
        let peer = self.peers.get(&key)?;
        // A second request pays only when it is clearly sooner answered than the first.
        let sooner = peer.answers_in(self.now, peer.asked.len(), length) * 2
            + peer.round_trip()
            + TWICE_PAYS;
        let mut latest: Option<(Duration, PeerKey, BlockId)> = None;
        for (&other, rival) in self.peers.iter().filter(|(other, _)| **other != key) {
            // Who sat on requests is asked only for what another such sits on: either may be the one that answers.
            if peer.snubbed && !rival.snubbed {
                continue;
            }
            let last = rival.asked.iter().enumerate().rev().take(TWICE_PROBED);
            let mut lets = last.filter(|(_, asked)| {
                let piece = asked.block.piece.0;
                peer.have.get(piece) && self.border.lets(self.now, peer, piece)
            });
            let found = lets.find_map(|(at, asked)| {
                let wait = self.waits_for(asked.block, other, at, key)?;
                Some((wait, asked.block))
            });
            if let Some((wait, block)) = found
                && wait > latest.map_or(sooner, |(wait, ..)| wait)
            {
                latest = Some((wait, other, block));
            }
        }
        let (_, slower, block) = latest?;
        if let Some((_, Some(_))) = self.who_is_asked(block) {
            self.leave_place(slower, block);
        }
        self.claim(block.piece.0, block.index, key)
    }

    /// How long we wait for a block that is the `at`th that `slower` is asked for, if `key` is not asked for it beside that one or in
    /// its place. `None` if it may not be.
    fn waits_for(
        &self,
        block: BlockId,
        slower: PeerKey,
        at: usize,
        key: PeerKey,
    ) -> Option<Duration> {
        let length = self.layout.block_length();
        let (peer, rival) = (self.peers.get(&key)?, self.peers.get(&slower)?);
        let (first, second) = self.who_is_asked(block)?;
        let Some(second) = second else {
            return Some(if rival.snubbed {
                // It was waited for long enough.
                Duration::MAX
            } else {
                rival.answers_in(self.now, at + 1, length)
            });
        };
        let other = if first == slower { second } else { first };
        if !rival.snubbed || peer.snubbed || other == key {
            return None;
        }
        let other = self.peers.get(&other)?;
        let before = other.asked.iter().take_while(|asked| asked.block != block);
        Some(other.answers_in(self.now, before.count() + 1, length))
    }

    /// The one or two that are asked for a block, unless it is to come from nobody else.
    fn who_is_asked(&self, block: BlockId) -> Option<(PeerKey, Option<PeerKey>)> {
        let partial = self.partials.get(&block.piece.0)?;
        if partial.only.is_some() || self.reserved.get(block.piece.0) {
            return None;
        }
        match *partial.blocks.get(block.index as usize)? {
            Block::Claimed(first, second) => Some((first, second)),
            Block::Missing | Block::Received(_) => None,
        }
    }

    /// The peer is no longer asked for a block that another is asked for too.
    fn leave_place(&mut self, key: PeerKey, block: BlockId) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.unask(block);
        }
        self.take_back(key, block);
        self.release(block, key);
    }

    /// The peer will not deliver this block.
    pub(crate) fn release(&mut self, block: BlockId, key: PeerKey) {
        let piece = block.piece.0;
        if self
            .partials
            .get_mut(&piece)
            .is_some_and(|partial| partial.release(block.index, key))
        {
            self.freed(piece);
        }
    }

    /// Blocks of this piece are to be had again; a piece of which nothing came is as if never begun.
    pub(crate) fn freed(&mut self, piece: u32) {
        if self
            .partials
            .get(&piece)
            .is_some_and(|partial| partial.is_untouched() && partial.only.is_none())
        {
            self.partials.remove(&piece);
        }
        self.reconsider(piece);
        self.all_dirty = true;
    }

    pub(crate) fn choked(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.we_are_choked = true;
        // With BEP 6 every request is answered or rejected one by one; without it they are gone.
        if !peer.fast {
            for asked in std::mem::take(&mut peer.asked) {
                self.release(asked.block, key);
            }
        }
    }

    pub(crate) fn unchoked(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.we_are_choked = false;
            self.dirty.insert(key);
        }
    }

    pub(crate) fn rejected(&mut self, key: PeerKey, request: Request) {
        let Some(block) = self
            .layout
            .block(request.piece, request.begin, request.length)
        else {
            return self.hang_up(
                key,
                HangUp::Protocol("a reject of something that was never asked"),
            );
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if !peer.answers_taken_back(block) && peer.unask(block) {
            self.release(block, key);
        }
    }

    /// Cancels a request that is no longer among those asked.
    pub(crate) fn take_back(&mut self, key: PeerKey, block: BlockId) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.takes_back(block);
        }
        self.send(key, Message::Cancel(self.request_of(block)));
    }

    /// Requests that a peer sits on are given to others; what it still sends is welcome.
    pub(crate) fn expire_requests(&mut self) {
        if !self.follows(Rule::RequestsExpire) {
            return;
        }
        let now = self.now;
        let late: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.expires_at().is_some_and(|at| at <= now))
            .map(|(&key, _)| key)
            .collect();
        for key in late {
            let Some(peer) = self.peers.get_mut(&key) else {
                continue;
            };
            peer.snubbed = true;
            peer.progress_at = now;
            for asked in std::mem::take(&mut peer.asked) {
                self.take_back(key, asked.block);
                self.release(asked.block, key);
            }
            self.set_lost(key, true);
        }
    }

    pub(crate) fn drop_all_requests(&mut self) {
        for key in self.peers.keys().copied().collect::<Vec<_>>() {
            let asked = self
                .peers
                .get_mut(&key)
                .map(|peer| std::mem::take(&mut peer.asked));
            for asked in asked.into_iter().flatten() {
                self.take_back(key, asked.block);
                self.release(asked.block, key);
            }
        }
    }
}
