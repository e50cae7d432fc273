//! Pieces that have begun: who is asked for each block, and who delivered it.

use std::ops::Range;

use crate::io::{PeerKey, SourceKey};

/// Who gave us a block: what blame and counters need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Giver {
    Peer(PeerKey),
    Source(SourceKey),
}

/// One block of a begun piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Nobody is asked.
    Missing,
    /// One peer is asked, in the end-game a second one too.
    Claimed(PeerKey, Option<PeerKey>),
    /// It came; `None`: it was on disk when we started.
    Received(Option<Giver>),
}

/// A piece of which something was asked or received.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) blocks: Box<[Block]>,
    /// Blocks with nobody asked.
    pub(crate) missing: u32,
    /// Blocks that came.
    pub(crate) received: u32,
    /// A failed piece is fetched again from this one peer, so that the next verdict names somebody.
    pub(crate) only: Option<PeerKey>,
}

impl Partial {
    pub(crate) fn new(blocks: u32) -> Self {
        Self {
            blocks: vec![Block::Missing; blocks as usize].into(),
            missing: blocks,
            received: 0,
            only: None,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.received as usize == self.blocks.len()
    }

    /// Nothing came and nobody is asked.
    pub(crate) fn is_untouched(&self) -> bool {
        self.missing as usize == self.blocks.len()
    }

    /// The first block that nobody is asked for.
    pub(crate) fn first_missing(&self) -> Option<u32> {
        if self.missing == 0 {
            return None;
        }
        let index = self
            .blocks
            .iter()
            .position(|block| *block == Block::Missing)?;
        u32::try_from(index).ok()
    }

    /// The first run of missing blocks: what an HTTP range could fetch.
    pub(crate) fn missing_run(&self) -> Option<Range<u32>> {
        let start = self.first_missing()?;
        let run = self.blocks[start as usize..]
            .iter()
            .take_while(|block| **block == Block::Missing)
            .count();
        Some(start..start + u32::try_from(run).unwrap_or(u32::MAX))
    }

    /// `peer` is asked for a missing block, or as the second one for a block that one other peer is asked for.
    pub(crate) fn claim(&mut self, index: u32, peer: PeerKey) -> bool {
        let block = &mut self.blocks[index as usize];
        match *block {
            Block::Missing => {
                *block = Block::Claimed(peer, None);
                self.missing -= 1;
                true
            }
            Block::Claimed(first, None) if first != peer => {
                *block = Block::Claimed(first, Some(peer));
                true
            }
            _ => false,
        }
    }

    /// `peer` will not deliver the block. True when nobody is asked for it any more.
    pub(crate) fn release(&mut self, index: u32, peer: PeerKey) -> bool {
        let block = &mut self.blocks[index as usize];
        match *block {
            Block::Claimed(first, None) if first == peer => {
                *block = Block::Missing;
                self.missing += 1;
                true
            }
            Block::Claimed(first, Some(second)) if first == peer => {
                *block = Block::Claimed(second, None);
                false
            }
            Block::Claimed(first, Some(second)) if second == peer => {
                *block = Block::Claimed(first, None);
                false
            }
            _ => false,
        }
    }

    /// The block came from `giver`. Returns the other peers that were asked, or `None` when we had it already.
    pub(crate) fn receive(
        &mut self,
        index: u32,
        giver: Option<Giver>,
    ) -> Option<[Option<PeerKey>; 2]> {
        let block = &mut self.blocks[index as usize];
        let asked = match *block {
            Block::Missing => {
                self.missing -= 1;
                [None, None]
            }
            Block::Claimed(first, second) => [Some(first), second],
            Block::Received(_) => return None,
        };
        *block = Block::Received(giver);
        self.received += 1;
        Some(asked.map(|peer| peer.filter(|&peer| giver != Some(Giver::Peer(peer)))))
    }

    /// The piece has no more blocks than this after all.
    pub(crate) fn truncate(&mut self, blocks: u32) {
        let kept = self.blocks.iter().take(blocks as usize);
        self.blocks = kept.copied().collect();
        let count = |wanted: fn(&Block) -> bool| {
            let found = self.blocks.iter().filter(|block| wanted(block)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        self.missing = count(|block| *block == Block::Missing);
        self.received = count(|block| matches!(block, Block::Received(_)));
    }

    /// Everything received is void. Returns who gave what.
    pub(crate) fn reset(&mut self) -> Vec<Option<Giver>> {
        let givers = self
            .blocks
            .iter()
            .map(|block| match block {
                Block::Received(giver) => *giver,
                _ => None,
            })
            .collect();
        *self = Self::new(u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
        givers
    }

    #[cfg(debug_assertions)]
    pub(crate) fn check_invariants(&self) {
        let count =
            |wanted: fn(&Block) -> bool| self.blocks.iter().filter(|block| wanted(block)).count();
        assert_eq!(
            count(|block| *block == Block::Missing),
            self.missing as usize
        );
        assert_eq!(
            count(|block| matches!(block, Block::Received(_))),
            self.received as usize
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerKey = PeerKey(1);
    const B: PeerKey = PeerKey(2);

    #[test]
    fn a_block_has_at_most_two_claimants() {
        let mut partial = Partial::new(2);
        assert!(
            partial.claim(0, A)
                && !partial.claim(0, A)
                && partial.claim(0, B)
                && !partial.claim(0, PeerKey(3))
        );
        assert!(!partial.release(0, A), "the second claimant is still asked");
        assert!(partial.release(0, B));
        assert!(partial.is_untouched());
    }

    #[test]
    fn receiving_names_the_others_that_were_asked() {
        let mut partial = Partial::new(2);
        partial.claim(1, A);
        partial.claim(1, B);
        assert_eq!(
            partial.receive(1, Some(Giver::Peer(B))),
            Some([Some(A), None])
        );
        assert_eq!(
            partial.receive(1, Some(Giver::Peer(A))),
            None,
            "a duplicate"
        );
        assert_eq!(
            (partial.first_missing(), partial.missing_run()),
            (Some(0), Some(0..1))
        );
        partial.receive(0, None);
        assert!(partial.is_complete());
        assert_eq!(partial.reset(), [None, Some(Giver::Peer(B))]);
        assert_eq!(partial.missing_run(), Some(0..2));
    }
}
