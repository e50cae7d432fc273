//! The hash tree of BEP 52, built node by node in any order.
//!
//! Leaves (layer 0) are SHA-256 of 16 KiB each; leaves beyond the file's end are 32 zero bytes; a node is SHA-256 of
//! its two children. Over an aligned block of pieces a node never changes when other pieces arrive, so every node is
//! a *fact* of its own: [`Tree`] takes facts in any order and the root follows from them.
//!
//! The piece layer holds one node a piece. A file of at most one piece has a tree over its own leaves only (rounded
//! up to a power of two), so its one piece node is its root: with a known length that is the node given here. While
//! the length is unknown a piece node always spans a whole piece; [`widened`] leads from the one to the other.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256 as Sha256Hasher};

use crate::{BLOCK_LENGTH, Layout, PIECE_LENGTH_RANGE, PieceIndex, Sha256, digest};

mod proof;
mod tree;

pub use tree::{GROUP_LAYERS, GROUP_PIECES, Tree, TreeError};

/// The bytes that one leaf covers.
pub const LEAF_LENGTH: u32 = BLOCK_LENGTH;

/// 2^58 bytes, more than any [`Layout`] can name, have 2^44 leaves.
const LAYERS: usize = 45;
/// Layers below the node of the longest piece.
const PIECE_LAYERS: usize = (*PIECE_LENGTH_RANGE.end() / LEAF_LENGTH).trailing_zeros() as usize;

/// `ZERO[layer]` is the node over leaves that all lie beyond the end.
static ZERO: LazyLock<[Sha256; LAYERS]> = LazyLock::new(|| {
    let mut zero = [Sha256([0; 32]); LAYERS];
    for layer in 1..LAYERS {
        zero[layer] = parent(zero[layer - 1], zero[layer - 1]);
    }
    zero
});

/// The leaf over `block`: 16 KiB, less only at the end of the file.
pub fn leaf_hash(block: &[u8]) -> Sha256 {
    digest::sha256(block)
}

/// The node above `left` and `right`.
pub fn parent(left: Sha256, right: Sha256) -> Sha256 {
    let mut hasher = Sha256Hasher::new();
    hasher.update(left.0);
    hasher.update(right.0);
    Sha256(hasher.finalize().into())
}

/// The node of `layer` over leaves that all lie beyond the file's end. `None` above every possible tree.
pub fn zero_node(layer: u8) -> Option<Sha256> {
    ZERO.get(usize::from(layer)).copied()
}

/// The node of layer `to` at the left edge of a file that ends below the node `hash` of layer `from`: what follows it
/// lies beyond the end.
///
/// # Panics
/// When `to` lies above every possible tree.
pub fn widened(hash: Sha256, from: u8, to: u8) -> Sha256 {
    (usize::from(from)..usize::from(to)).fold(hash, |node, layer| parent(node, ZERO[layer]))
}

/// The node of a whole piece at the left edge of `layout`'s file, from the piece's node: the same but for a file shorter
/// than a piece, whose root lies lower. This is what facts say while more of the file could follow.
pub fn whole_piece_node(node: Sha256, layout: &Layout) -> Sha256 {
    let whole = layout.piece_length() / LEAF_LENGTH;
    match (piece_layer(layout), u8::try_from(whole.trailing_zeros())) {
        (Some(layer), Ok(whole)) => widened(node, layer, whole),
        _ => node,
    }
}

/// How many layers above the leaves the node of a piece lies: the piece layer of the file, lower when the file is
/// shorter than a piece. `None` when the piece length is not a power of two: then there is no tree.
pub fn piece_layer(layout: &Layout) -> Option<u8> {
    let leaves = layout.piece_length().is_power_of_two().then(|| {
        let covered = layout.length().unwrap_or(u64::MAX);
        let covered = covered.min(u64::from(layout.piece_length()));
        covered.div_ceil(u64::from(LEAF_LENGTH)).max(1)
    })?;
    u8::try_from(leaves.next_power_of_two().trailing_zeros()).ok()
}

/// The node of one piece whose bytes are all here. `None` when the piece length is not a power of two.
pub fn piece_node(data: &[u8], layout: &Layout, piece: PieceIndex) -> Option<Sha256> {
    debug_assert!(
        data.len() <= layout.piece_size(piece) as usize,
        "more bytes than the piece has"
    );
    let mut hasher = PieceHasher::new(layout)?;
    hasher.update(data);
    Some(hasher.finish())
}

/// Makes the node of one piece while its bytes come in order, in constant memory.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    leaf: Sha256Hasher,
    /// Bytes in `leaf`.
    filled: u32,
    /// Finished leaves.
    leaves: u32,
    /// `stack[layer]` is the finished left sibling of that layer, where bit `layer` of `leaves` is set.
    stack: [Sha256; PIECE_LAYERS + 1],
    /// The layer of the node asked for.
    layer: u8,
}

impl PieceHasher {
    /// Begins a piece of `layout`. `None` when the piece length is not a power of two: then there is no tree.
    pub fn new(layout: &Layout) -> Option<Self> {
        Some(Self {
            leaf: Sha256Hasher::new(),
            filled: 0,
            leaves: 0,
            stack: [Sha256([0; 32]); PIECE_LAYERS + 1],
            layer: piece_layer(layout)?,
        })
    }

    /// Takes the piece's next bytes. Bytes beyond the piece's length are a caller's bug.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (LEAF_LENGTH - self.filled) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.leaf.update(now);
            bytes = later;
            if now.len() == room {
                self.finish_leaf();
            } else {
                self.filled += u32::try_from(now.len()).expect("less than a leaf");
            }
        }
    }

    fn finish_leaf(&mut self) {
        assert!(
            self.leaves >> self.layer == 0,
            "more bytes than a piece has"
        );
        let mut node = Sha256(self.leaf.finalize_reset().into());
        // Carry, as in adding one: two finished siblings become their parent.
        let mut layer = 0;
        while self.leaves >> layer & 1 == 1 {
            node = parent(self.stack[layer], node);
            layer += 1;
        }
        self.stack[layer] = node;
        self.leaves += 1;
        self.filled = 0;
    }

    /// The piece's node; missing leaves lie beyond the file's end.
    pub fn finish(mut self) -> Sha256 {
        if self.filled > 0 {
            self.finish_leaf();
        }
        let layers = usize::from(self.layer);
        if self.leaves == 0 {
            return ZERO[layers];
        }
        // The node at the ragged right edge, once there is one.
        let mut edge = None;
        for layer in 0..layers {
            let left = (self.leaves >> layer & 1 == 1).then(|| self.stack[layer]);
            edge = match (left, edge) {
                (None, None) => None,
                (Some(left), None) => Some(parent(left, ZERO[layer])),
                (Some(left), Some(edge)) => Some(parent(left, edge)),
                (None, Some(edge)) => Some(parent(edge, ZERO[layer])),
            };
        }
        edge.unwrap_or(self.stack[layers])
    }
}

#[cfg(test)]
mod tests;
