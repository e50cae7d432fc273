//! Hashes for others, with the proof that leads from them towards the root (BEP 52, "hash request").

use super::{GROUP_PIECES, Tree};
use crate::Sha256;

/// The most hashes of one request (BEP 52).
const LENGTH_LIMIT: u32 = GROUP_PIECES;

impl Tree {
    /// `length` hashes of the piece layer from `index` on, and then their uncles: the sibling of the node over all of
    /// them, the sibling of its parent, and so on, up to `proof_layers` layers above the pieces. Nodes beyond the end of
    /// the file are those over zeros, as far as the tree is filled up to a power of two.
    ///
    /// `None` when there are no such hashes, they are not all known, or the request is not what BEP 52 permits: a length
    /// that is no power of two up to 512, an index that is no multiple of it, a proof beyond the root. A length of 1 is
    /// not permitted, but libtorrent asks so for the last piece of a file.
    pub fn hashes(&self, index: u32, length: u32, proof_layers: u32) -> Option<Vec<Sha256>> {
        let (bottom, root) = (self.piece_layer(), self.root_layer()?);
        let above = u32::from(root.checked_sub(bottom).filter(|&above| above > 0)?);
        let fits = length.is_power_of_two()
            && length <= LENGTH_LIMIT
            && index.is_multiple_of(length)
            && u64::from(index) + u64::from(length) <= 1 << above
            && proof_layers < above;
        if !fits {
            return None;
        }
        let covered = length.trailing_zeros();
        let pieces = (index..index + length).map(|index| (bottom, index));
        let uncles = (bottom..root).zip(0..=proof_layers).skip(covered as usize);
        let uncles = uncles.map(|(layer, up)| (layer, (index >> up) ^ 1));
        let nodes = pieces.chain(uncles);
        nodes
            .map(|(layer, index)| self.node(layer, index))
            .collect()
    }
}
