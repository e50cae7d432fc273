//! The digests of a content's pieces while it is being relayed, and who reported them.

use std::ops::Range;

use floodway_api::sync::PieceReport;
use floodway_proto::{Bitfield, NodeId, Sha1, Sha256};

/// Bytes of one piece's digests in [`FactRow::digests`](crate::db::FactRow): SHA-256 node, then SHA-1.
pub(crate) const DIGESTS_LENGTH: usize = 32 + 20;

/// All digests of a content that are known so far.
#[derive(Clone, Debug)]
pub(crate) struct PieceTable {
    known: Bitfield,
    digests: Vec<(Sha256, Sha1)>,
    /// Index into `relays` of each known piece's reporter.
    reporter: Vec<u16>,
    relays: Vec<NodeId>,
}

/// Equal when they say the same of every piece; in which order they learnt it does not matter.
impl PartialEq for PieceTable {
    fn eq(&self, other: &Self) -> bool {
        let reporters = (0..self.count()).map(|piece| self.reporter_of(piece));
        self.known == other.known
            && self.digests == other.digests
            && reporters.eq((0..other.count()).map(|piece| other.reporter_of(piece)))
    }
}

/// Two relays read different bytes of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The piece.
    pub(crate) piece: u32,
    /// Who reported it first.
    pub(crate) first: NodeId,
}

impl PieceTable {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            known: Bitfield::new(count),
            digests: vec![(Sha256([0; 32]), Sha1([0; 20])); count as usize],
            reporter: vec![0; count as usize],
            relays: Vec::new(),
        }
    }

    /// There are no pieces from `count` on after all.
    pub(crate) fn end(&mut self, count: u32) {
        self.known.truncate(count);
        self.digests.truncate(count as usize);
        self.reporter.truncate(count as usize);
    }

    pub(crate) fn known(&self) -> &Bitfield {
        &self.known
    }

    pub(crate) fn count(&self) -> u32 {
        self.known.len()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.known.is_full()
    }

    /// The SHA-256 node of every known piece, in piece order.
    pub(crate) fn known_nodes(&self) -> impl Iterator<Item = (u32, Sha256)> + '_ {
        let nodes = (0..).zip(&self.digests);
        nodes
            .filter(|(piece, _)| self.known.get(*piece))
            .map(|(piece, (node, _))| (piece, *node))
    }

    /// The digests of these pieces, if all of them are known.
    pub(crate) fn range(&self, pieces: Range<u32>) -> Option<Vec<(Sha256, Sha1)>> {
        let known = pieces.clone().all(|piece| self.known.get(piece));
        let digests = self
            .digests
            .get(pieces.start as usize..pieces.end as usize)?;
        known.then(|| digests.to_vec())
    }

    /// Who reported a piece, and what; `None` while it is not known.
    pub(crate) fn reading(&self, piece: u32) -> Option<(NodeId, (Sha256, Sha1))> {
        let digests = *self.digests.get(piece as usize)?;
        Some((self.reporter_of(piece)?, digests))
    }

    /// True when some of the pieces are known from this relay.
    pub(crate) fn has_reported(&self, relay: NodeId) -> bool {
        self.relays.contains(&relay)
    }

    /// SHA-256 nodes and SHA-1 digests in piece order. Only meaningful when complete.
    pub(crate) fn digests(&self) -> &[(Sha256, Sha1)] {
        &self.digests
    }

    /// Notes what `relay` read.
    pub(crate) fn insert(&mut self, relay: NodeId, piece: u32, digests: (Sha256, Sha1)) {
        let Some(slot) = self.digests.get_mut(piece as usize) else {
            return;
        };
        let index = self.relays.iter().position(|known| *known == relay);
        let index = index.unwrap_or_else(|| {
            self.relays.push(relay);
            self.relays.len() - 1
        });
        *slot = digests;
        self.reporter[piece as usize] = u16::try_from(index).unwrap_or(u16::MAX);
        self.known.set(piece);
    }

    /// Which of the reports are new, in piece order, once each.
    ///
    /// # Errors
    /// [`Conflict`] when a report contradicts a known digest, or two reports each other.
    pub(crate) fn news(
        &self,
        relay: NodeId,
        reports: &[PieceReport],
    ) -> Result<Vec<PieceReport>, Conflict> {
        let mut news: Vec<PieceReport> = Vec::new();
        for report in reports.iter().filter(|r| r.piece < self.count()) {
            if self.known.get(report.piece) {
                if self.digests[report.piece as usize] != (report.node, report.sha1) {
                    return Err(Conflict {
                        piece: report.piece,
                        first: self.reporter_of(report.piece).unwrap_or(relay),
                    });
                }
            } else {
                news.push(*report);
            }
        }
        news.sort_by_key(|report| report.piece);
        news.dedup();
        match news.windows(2).find(|pair| pair[0].piece == pair[1].piece) {
            Some(pair) => Err(Conflict {
                piece: pair[0].piece,
                first: relay,
            }),
            None => Ok(news),
        }
    }

    /// Who reported a known piece.
    fn reporter_of(&self, piece: u32) -> Option<NodeId> {
        if !self.known.get(piece) {
            return None;
        }
        let index = *self.reporter.get(piece as usize)?;
        self.relays.get(usize::from(index)).copied()
    }
}

/// Splits reports in piece order into runs of neighbours: `(first, digests)` of each.
pub(crate) fn runs(reports: &[PieceReport]) -> Vec<(u32, Vec<u8>)> {
    let mut runs: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut next = None;
    for report in reports {
        if next != Some(report.piece) {
            runs.push((report.piece, Vec::new()));
        }
        if let Some((_, digests)) = runs.last_mut() {
            digests.extend(pack((report.node, report.sha1)));
        }
        next = report.piece.checked_add(1);
    }
    runs
}

/// One piece's digests as [`unpack`] reads them.
pub(crate) fn pack((node, sha1): (Sha256, Sha1)) -> Vec<u8> {
    [&node.0[..], &sha1.0[..]].concat()
}

/// The digests in a run's bytes; a torn end is ignored.
pub(crate) fn unpack(digests: &[u8]) -> impl Iterator<Item = (Sha256, Sha1)> {
    digests.chunks_exact(DIGESTS_LENGTH).map(|chunk| {
        let (mut node, mut sha1) = ([0; 32], [0; 20]);
        node.copy_from_slice(&chunk[..32]);
        sha1.copy_from_slice(&chunk[32..]);
        (Sha256(node), Sha1(sha1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);

    fn report(piece: u32, byte: u8) -> PieceReport {
        PieceReport {
            piece,
            node: Sha256([byte; 32]),
            sha1: Sha1([byte; 20]),
        }
    }

    #[test]
    fn a_contradiction_names_the_piece_and_its_first_reporter() {
        let mut table = PieceTable::new(3);
        table.insert(A, 1, (Sha256([7; 32]), Sha1([7; 20])));
        assert_eq!(
            table.news(B, &[report(1, 7), report(2, 9)]),
            Ok(vec![report(2, 9)])
        );
        assert_eq!(
            table.news(B, &[report(1, 8)]),
            Err(Conflict { piece: 1, first: A })
        );
        let twice = [report(2, 8), report(2, 9)];
        assert_eq!(table.news(B, &twice), Err(Conflict { piece: 2, first: B }));
        assert_eq!(table.news(B, &[report(3, 1)]), Ok(vec![]), "no such piece");
        assert!(!table.is_complete());
    }

    #[test]
    fn runs_pack_neighbours_together_and_unpack_again() {
        let reports = [report(1, 1), report(2, 2), report(5, 5)];
        let runs = runs(&reports);
        assert_eq!(runs.iter().map(|run| run.0).collect::<Vec<_>>(), [1, 5]);
        let digests: Vec<_> = unpack(&runs[0].1).collect();
        assert_eq!(digests[1], (reports[1].node, reports[1].sha1));
    }
}
