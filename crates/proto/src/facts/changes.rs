//! What an input changed.

use std::ops::Range;

use crate::Sha256;
use crate::record::LeaseId;

/// Relays contradict each other, or what is sealed: one of them lies, or the origin gave them different bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The piece, or the first of those of which at least one is false.
    pub piece: u32,
    /// What is sealed of them; `None` when only relays contradict each other, or the piece lies beyond the end.
    pub sealed: Option<Sha256>,
    /// The leases under which it was attested, ascending.
    pub leases: Vec<LeaseId>,
}

/// What an input changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Runs of pieces that can be verified now, ascending.
    pub verifiable: Vec<Range<u32>>,
    /// Runs of pieces that can no longer be verified: what is held of them must not be served before it is proven again.
    pub withdrawn: Vec<Range<u32>>,
    /// Contradictions that came up.
    pub conflicts: Vec<Conflict>,
}

impl Changes {
    /// True when nothing changed.
    pub fn is_empty(&self) -> bool {
        self.verifiable.is_empty() && self.withdrawn.is_empty() && self.conflicts.is_empty()
    }

    /// Adds what changed after this. A piece that went back and forth appears where it ended.
    pub fn merge(&mut self, later: Self) {
        let verifiable = subtract(&self.verifiable, &later.withdrawn);
        let withdrawn = subtract(&self.withdrawn, &later.verifiable);
        self.verifiable = union(verifiable, later.verifiable);
        self.withdrawn = union(withdrawn, later.withdrawn);
        self.conflicts.extend(later.conflicts);
    }

    pub(super) fn conflict(
        &mut self,
        piece: u32,
        sealed: Option<Sha256>,
        leases: impl IntoIterator<Item = LeaseId>,
    ) {
        let mut leases: Vec<LeaseId> = leases.into_iter().collect();
        leases.sort_unstable();
        leases.dedup();
        self.conflicts.push(Conflict {
            piece,
            sealed,
            leases,
        });
    }
}

/// Ascending pieces as runs.
pub(crate) fn runs(pieces: impl Iterator<Item = u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(last) if last.end == piece => last.end += 1,
            _ => runs.push(piece..piece + 1),
        }
    }
    runs
}

fn union(mut runs: Vec<Range<u32>>, more: Vec<Range<u32>>) -> Vec<Range<u32>> {
    runs.extend(more);
    runs.sort_unstable_by_key(|run| run.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
    }
    joined
}

fn subtract(runs: &[Range<u32>], less: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut left = runs.to_vec();
    for cut in less {
        let parts = left.into_iter().flat_map(|run| {
            let before = run.start..run.end.min(cut.start);
            let after = run.start.max(cut.end)..run.end;
            [before, after]
        });
        left = parts.filter(|run| !run.is_empty()).collect();
    }
    left
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::single_range_in_vec_init,
        reason = "runs of pieces are lists of ranges, often of one"
    )]

    use super::*;

    #[test]
    fn a_piece_that_went_back_and_forth_appears_where_it_ended() {
        let mut changes = Changes {
            verifiable: vec![0..4, 10..12],
            withdrawn: vec![20..22],
            conflicts: Vec::new(),
        };
        changes.merge(Changes {
            verifiable: vec![4..6, 20..21],
            withdrawn: vec![1..2],
            conflicts: Vec::new(),
        });
        assert_eq!(changes.verifiable, [0..1, 2..6, 10..12, 20..21]);
        assert_eq!(changes.withdrawn, [1..2, 21..22]);
    }
}
