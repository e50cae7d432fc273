//! Who brings the pieces of one content to one site: each piece is to come there once, and to spread there.
//!
//! Sites play a role as soon as nodes with two different `site` labels are enrolled (`Model::has_sites`). Before that, and
//! for agents without a label, everything is as if there were none: no parts are dealt, and nothing is said of them. Then each content
//! is divided into [`PARTS`] parts, and each site has a [`Deal`] of its own for it:
//!
//! - *A relay at the site* that has the content, or goes on with it, brings all of it, and the agents there bring nothing. (Two such
//!   relays both do: what one has, the other does not bring again.) Relays without a label are a site each, and bring all too.
//! - *Else agents bring it*: those of the content's swarm, each one run of parts, together all of them: one agent alone brings
//!   all, two bring half each, and of more than sixteen only sixteen bring anything. Which ones is chance, another for each content:
//!   control does not know whose link is best.
//! - *Who comes* takes half of the largest run, as long as fewer than sixteen bring something.
//! - *Who leaves* (it says so, or does not sync for `node_timeout`) is replaced by one that brings nothing yet. When there is none, the
//!   neighbour with the smaller run takes its parts over.
//! - *Nobody else's parts change* by either, unless somebody would have more than one and a half times its due: then the runs are
//!   made equal, in the same order.
//! - *Who becomes complete* keeps its parts. There is nothing more to bring, since its site has it all; but who brings these
//!   parts to other sites is connected to it.
//!
//! Deals are kept in memory only, and changed at the pace of the news about peers, so that many who come at once are dealt with at once.
//! A node whose parts change is told at once, by the answer to its parked sync. After a restart of control, as nodes sync again,
//! parts are dealt anew to other nodes than before; what is under way to a site at that moment may come twice. Until then, and
//! while control is away, nodes keep to what they were told last; the part of one that is gone any other brings that sees
//! it elsewhere, after a few seconds (the engine's module `site`).

use std::ops::Range;

use floodway_proto::{NodeId, PARTS};

/// A run of parts of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    node: NodeId,
    first: u8,
    end: u8,
}

impl Share {
    fn length(&self) -> u8 {
        self.end - self.first
    }

    fn parts(&self) -> Range<u8> {
        self.first..self.end
    }
}

/// Which agents bring which parts to a site. Invariant: the runs follow each other without gaps and overlaps, and none is empty; there
/// is none at all, or they are all parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deal {
    shares: Vec<Share>,
}

impl Deal {
    /// What the node brings; an empty range if nothing.
    pub(crate) fn parts(&self, node: NodeId) -> Range<u8> {
        let share = self.shares.iter().find(|share| share.node == node);
        share.map_or(0..0, Share::parts)
    }

    pub(crate) fn brings(&self, node: NodeId) -> bool {
        self.shares.iter().any(|share| share.node == node)
    }

    /// Somebody who comes would get a part.
    pub(crate) fn has_room(&self) -> bool {
        self.shares.len() < usize::from(PARTS)
    }

    /// No agent brings anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// Those who bring something of these parts.
    pub(crate) fn who_brings(&self, parts: &Range<u8>) -> impl Iterator<Item = NodeId> + '_ {
        let (first, end) = (parts.start, parts.end);
        let meets = move |share: &&Share| share.first < end && first < share.end;
        self.shares.iter().filter(meets).map(|share| share.node)
    }

    /// Deals anew, as little as needed. `stays` tells who of those that have parts is still there; `others` are agents of the site, from
    /// which those that have none are taken. Returns everybody whose parts are not what they were.
    pub(crate) fn update(
        &mut self,
        stays: impl Fn(NodeId) -> bool,
        others: impl Iterator<Item = NodeId>,
    ) -> Vec<NodeId> {
        let before = self.clone();
        let mut fresh = others.filter(|node| !before.brings(*node));
        self.replace_absent(&stays, &mut fresh);
        while self.has_room()
            && let Some(node) = fresh.next()
        {
            self.admit(node);
        }
        self.level();
        let after = self.shares.iter();
        let after = after.filter(|share| before.parts(share.node) != share.parts());
        let gone = (before.shares.iter()).filter(|share| !self.brings(share.node));
        after.chain(gone).map(|share| share.node).collect()
    }

    /// Gives the parts of those that left to others.
    fn replace_absent(
        &mut self,
        stays: &impl Fn(NodeId) -> bool,
        fresh: &mut impl Iterator<Item = NodeId>,
    ) {
        while let Some(at) = self.shares.iter().position(|share| !stays(share.node)) {
            if let Some(node) = fresh.next() {
                self.shares[at].node = node;
                continue;
            }
            let left = self.shares.remove(at);
            let before = at.checked_sub(1);
            let length = |at: usize| self.shares.get(at).map(Share::length);
            let takes_before = match (before.and_then(length), length(at)) {
                (Some(before), Some(after)) => before <= after,
                (before, _) => before.is_some(),
            };
            if let Some(before) = before.filter(|_| takes_before) {
                self.shares[before].end = left.end;
            } else if let Some(after) = self.shares.get_mut(at) {
                after.first = left.first;
            }
        }
    }

    /// Gives one more node half of the largest run, or everything if it is the first.
    fn admit(&mut self, node: NodeId) {
        let (first, end) = (0, PARTS);
        let sizes = self.shares.iter().map(Share::length).enumerate();
        // Of equal ones the first.
        let largest = sizes.rev().max_by_key(|(_, length)| *length);
        match largest {
            None => self.shares.push(Share { node, first, end }),
            Some((at, length)) => {
                let share = &mut self.shares[at];
                let end = share.end;
                share.end -= length / 2;
                let first = share.end;
                self.shares.insert(at + 1, Share { node, first, end });
            }
        }
    }

    /// Makes the runs equal if one became too large.
    fn level(&mut self) {
        let count = u8::try_from(self.shares.len()).unwrap_or(PARTS);
        let largest = self.shares.iter().map(Share::length).max();
        let Some(largest) = largest.filter(|_| count > 0) else {
            return;
        };
        let due = PARTS.div_ceil(count);
        if largest > due + due / 2 {
            for (at, share) in (0..count).zip(&mut self.shares) {
                share.first = at * PARTS / count;
                share.end = (at + 1) * PARTS / count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn node(index: u8) -> NodeId {
        NodeId([index; 16])
    }

    /// Deals to these, in this order.
    fn dealt(deal: &mut Deal, members: &BTreeSet<u8>) -> Vec<NodeId> {
        let stays = |node: NodeId| members.contains(&node.0[0]);
        deal.update(stays, members.iter().map(|index| node(*index)))
    }

    /// Who brings each part; exactly one does, or nobody anything.
    fn owners(deal: &Deal, members: &BTreeSet<u8>) -> Vec<NodeId> {
        let owner = |part: u8| {
            let all: Vec<_> = deal.who_brings(&(part..part + 1)).collect();
            assert!(all.len() <= 1, "part {part} is brought by {all:?}");
            all.first().copied()
        };
        let owners: Vec<_> = (0..PARTS).filter_map(owner).collect();
        assert!(owners.len() == usize::from(PARTS) || members.is_empty());
        owners
    }

    fn moved(before: &[NodeId], after: &[NodeId]) -> usize {
        let pairs = before.iter().zip(after);
        pairs.filter(|(before, after)| before != after).count()
    }

    #[test]
    fn few_bring_much_and_of_many_sixteen_bring_one_part_each() {
        for (count, most, least) in [(1, 16, 16), (2, 8, 8), (3, 8, 4), (5, 4, 2), (40, 1, 1)] {
            let mut deal = Deal::default();
            let members = (0..count).collect();
            let changed = dealt(&mut deal, &members);
            let lengths = || deal.shares.iter().map(Share::length);
            assert_eq!(lengths().max(), Some(most), "of {count}");
            assert_eq!(lengths().min(), Some(least), "of {count}");
            assert_eq!(changed.len(), usize::from(count.min(PARTS)));
            let bringers = members.iter().filter(|index| deal.brings(node(**index)));
            assert_eq!(bringers.count(), usize::from(count.min(PARTS)));
        }
    }

    #[test]
    fn runs_of_two_that_remain_of_sixteen_are_equal() {
        let mut deal = Deal::default();
        dealt(&mut deal, &(0..16).collect());
        let first = deal.shares[0].node.0[0];
        let second = deal.shares[1].node.0[0];
        dealt(&mut deal, &[first, second].into());
        assert_eq!(deal.parts(node(first)), 0..8);
        assert_eq!(deal.parts(node(second)), 8..16);
    }

    #[test]
    fn a_site_that_agents_need_not_bring_anything_to_has_no_parts() {
        let mut deal = Deal::default();
        dealt(&mut deal, &(0..4).collect());
        let changed = deal.update(|_| false, std::iter::empty());
        assert_eq!((changed.len(), deal.has_room()), (4, true));
        assert!((0..4).all(|index| deal.parts(node(index)).is_empty()));
    }

    proptest! {
        #[test]
        fn every_part_is_somebodys_and_few_move_when_nodes_come_and_go(
            start in proptest::collection::btree_set(0..60_u8, 0..40),
            turns in proptest::collection::vec(0..60_u8, 0..60),
        ) {
            let (mut deal, mut members) = (Deal::default(), start);
            dealt(&mut deal, &members);
            for index in turns {
                let before = owners(&deal, &members);
                let had = deal.parts(node(index)).len();
                let largest = deal.shares.iter().map(Share::length).max().unwrap_or(PARTS);
                let comes = members.insert(index);
                if !comes {
                    members.remove(&index);
                }
                let runs = deal.clone();
                let changed = dealt(&mut deal, &members);
                let after = owners(&deal, &members);
                let all = runs.shares.iter().chain(&deal.shares).map(|share| share.node);
                for other in all.collect::<BTreeSet<_>>() {
                    let is_other = runs.parts(other) != deal.parts(other);
                    prop_assert_eq!(changed.contains(&other), is_other);
                }
                if before.is_empty() || after.is_empty() {
                    continue;
                }
                let most = if comes { usize::from(largest.div_ceil(2)) } else { had };
                let fair = usize::from(PARTS).div_ceil(deal.shares.len());
                // The only reason to move more is that one had far too much.
                let is_levelled = had + usize::from(largest) > fair + fair / 2;
                let moved = moved(&before, &after);
                prop_assert!(moved <= most || is_levelled, "{} moved, not {}", moved, most);
                // Of many one takes another's place.
                prop_assert!(members.len() < PARTS.into() || moved <= most);
            }
        }
    }
}
