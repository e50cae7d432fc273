//! Which blocks of a failed piece were wrong: told by comparing with the good ones.

use std::collections::HashMap;

use floodway_proto::{PieceIndex, Sha1};

/// SHA-1 of each block of the last failed try of a piece, until the piece is good.
///
/// Only of the last one: the engine remembers who gave the blocks of that try, and of no other.
#[derive(Default)]
pub(crate) struct FailedTries(HashMap<PieceIndex, Vec<Sha1>>);

impl FailedTries {
    /// A piece failed, with these blocks. None: it was not a try but a held piece that went bad.
    pub(crate) fn failed(&mut self, piece: PieceIndex, blocks: Vec<Sha1>) {
        if !blocks.is_empty() {
            self.0.insert(piece, blocks);
        }
    }

    /// A piece is good, with these blocks: the indices of those that differ from the last failed try, ascending.
    pub(crate) fn good(&mut self, piece: PieceIndex, blocks: &[Sha1]) -> Vec<u32> {
        let Some(tried) = self.0.remove(&piece) else {
            return Vec::new();
        };
        let pairs = (0..).zip(tried.iter().zip(blocks));
        pairs
            .filter(|(_, (tried, good))| tried != good)
            .map(|(index, _)| index)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_only_an_earlier_try_got_wrong_name_nobody() {
        let sha1 = |n: u8| Sha1([n; 20]);
        let mut tries = FailedTries::default();
        let piece = PieceIndex(3);
        tries.failed(piece, vec![sha1(1), sha1(9), sha1(3)]);
        tries.failed(piece, vec![sha1(1), sha1(2), sha1(8)]);
        tries.failed(PieceIndex(4), Vec::new());
        assert_eq!(tries.good(piece, &[sha1(1), sha1(2), sha1(3)]), [2]);
        assert!(
            tries.good(piece, &[sha1(7)]).is_empty(),
            "a good piece is forgotten"
        );
        assert!(tries.good(PieceIndex(4), &[sha1(7)]).is_empty());
    }
}
