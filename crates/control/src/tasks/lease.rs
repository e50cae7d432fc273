//! Who fetches which pieces from the origin.
//!
//! Pieces are dealt in chunks. A relay goes on where its last lease ends; a relay without one starts in the middle
//! of the largest gap that another is working towards. So each relay reads long runs, and whoever is quick takes from
//! the far half of whoever is slow. Chunks shrink towards the end, so that all finish together.

use std::time::Duration;

use floodway_proto::{Bitfield, NodeId};

use crate::db::LeaseRow;

/// Everything that a deal depends on.
pub(crate) struct Board<'a> {
    /// Pieces whose digests are known.
    pub(crate) known: &'a Bitfield,
    /// Leases that are held now, oldest first.
    pub(crate) held: &'a [LeaseRow],
    /// Leases that ever were dealt, oldest first.
    pub(crate) dealt: &'a [LeaseRow],
    /// Live relays that work on this content.
    pub(crate) relays: u32,
    /// The largest chunk, in pieces.
    pub(crate) chunk_max: u32,
    /// The origin serves ranges that may be combined. Without, one relay reads all.
    pub(crate) ranges: bool,
    /// Leases of this number or a higher one are too young to be taken from their holder.
    pub(crate) young_from: u64,
}

/// A lease is left to its holder for so long even if no piece of it was reported: a relay asks the origin for all that it
/// may have at once, and reports each piece only when it is hashed. What is taken from it then is fetched twice.
pub(crate) const YOUNG_FOR: Duration = Duration::from_secs(2);

/// A relay holds at most so many leases of one content.
const LEASES_MAX: usize = 64;

/// What to do for a relay that asks for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deal {
    /// Lease it these pieces.
    Grant { first: u32, count: u32 },
    /// Withdraw this lease of a slower relay, which has not begun it, and lease its pieces to this one.
    Steal { lease: u64, first: u32, count: u32 },
}

impl Board<'_> {
    /// The next deal for `node`, which reported `recent` pieces in its last exchange; `None` when it has enough to do
    /// or nothing is left.
    pub(crate) fn deal(&self, node: NodeId, recent: u32) -> Option<Deal> {
        if !self.ranges {
            let whole = Deal::Grant {
                first: 0,
                count: self.known.len(),
            };
            return (self.held.is_empty() && !self.known.is_full()).then_some(whole);
        }
        let own: Vec<_> = self
            .held
            .iter()
            .filter(|lease| lease.node == node)
            .collect();
        let outstanding: u32 = own.iter().map(|lease| self.unknown(lease)).sum();
        let gaps = self.gaps();
        let free: u32 = gaps.iter().map(|gap| gap.1).sum();
        if free == 0 {
            return if outstanding == 0 {
                self.steal(node)
            } else {
                None
            };
        }
        // Whoever is alone need not leave anything for others to begin with.
        let share = if self.relays > 1 {
            free.div_ceil(self.relays.saturating_mul(2))
        } else {
            free
        };
        let chunk = share.clamp(1, self.chunk_max.max(1));
        // Work for two exchanges at the speed of the last one, so that a quick relay never waits for a lease.
        let wanted = recent
            .saturating_mul(2)
            .saturating_add(chunk)
            .max(chunk.saturating_mul(2));
        if outstanding >= wanted || own.len() >= LEASES_MAX {
            return None;
        }
        let (start, end) = self.place(node, &own, &gaps, chunk)?;
        Some(Deal::Grant {
            first: start,
            count: (end - start).min(chunk),
        })
    }

    /// Where the next chunk for `node` begins, and where the gap ends.
    fn place(
        &self,
        node: NodeId,
        own: &[&LeaseRow],
        gaps: &[(u32, u32)],
        chunk: u32,
    ) -> Option<(u32, u32)> {
        // What it once held it may still have on its disk.
        for lease in self.dealt.iter().rev().filter(|lease| lease.node == node) {
            let lease_end = lease.first + lease.count;
            for &(first, count) in gaps {
                let (start, end) = (first.max(lease.first), (first + count).min(lease_end));
                if start < end {
                    return Some((start, end));
                }
            }
        }
        for lease in own.iter().rev() {
            let next = lease.first + lease.count;
            if let Some(gap) = gaps.iter().find(|gap| gap.0 == next) {
                return Some((gap.0, gap.0 + gap.1));
            }
        }
        let &(first, count) = gaps
            .iter()
            .max_by_key(|gap| (gap.1, std::cmp::Reverse(gap.0)))?;
        let approached = self
            .held
            .iter()
            .any(|lease| lease.node != node && lease.first + lease.count == first);
        let start = if approached && count > chunk {
            first + count / 2
        } else {
            first
        };
        Some((start, first + count))
    }

    /// Takes a lease that its holder has not begun for long while it is still busy with an older one.
    fn steal(&self, node: NodeId) -> Option<Deal> {
        let untouched =
            |lease: &LeaseRow| lease.id < self.young_from && self.unknown(lease) == lease.count;
        let busy_before = |lease: &LeaseRow| {
            let same = |other: &&LeaseRow| other.node == lease.node && other.id < lease.id;
            self.held
                .iter()
                .filter(same)
                .any(|other| self.unknown(other) > 0)
        };
        self.held
            .iter()
            .rev()
            .find(|lease| lease.node != node && untouched(lease) && busy_before(lease))
            .map(|lease| Deal::Steal {
                lease: lease.id,
                first: lease.first,
                count: lease.count,
            })
    }

    fn unknown(&self, lease: &LeaseRow) -> u32 {
        let pieces = lease.first..lease.first + lease.count;
        let known = pieces.filter(|piece| self.known.get(*piece)).count();
        lease.count - u32::try_from(known).unwrap_or(lease.count)
    }

    /// Runs `(first, count)` of pieces that are neither known nor leased.
    fn gaps(&self) -> Vec<(u32, u32)> {
        let mut taken = self.known.clone();
        for lease in self.held {
            for piece in lease.first..lease.first + lease.count {
                taken.set(piece);
            }
        }
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        for piece in (0..taken.len()).filter(|piece| !taken.get(*piece)) {
            match gaps.last_mut() {
                Some((first, count)) if *first + *count == piece => *count += 1,
                _ => gaps.push((piece, 1)),
            }
        }
        gaps
    }
}

#[cfg(test)]
mod tests;
