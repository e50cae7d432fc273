//! What is known of one file's tree.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{LAYERS, LEAF_LENGTH, parent, widened, zero_node};
use crate::{Layout, PieceIndex, Sha256};

/// How many layers above the piece layer a *group* lies: the most pieces whose hashes are passed on at once.
pub const GROUP_LAYERS: u8 = 9;
/// The pieces of a group.
pub const GROUP_PIECES: u32 = 1 << GROUP_LAYERS;

/// Why nodes were not taken into a [`Tree`]; it is then as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The length is zero, or the piece length is not a power of two.
    #[error("a content of this length and piece length has no hash tree")]
    NoTree,
    /// The file has no such node.
    #[error("the tree has no node {index} in layer {layer}")]
    NoSuchNode {
        /// The layer, from the leaves up.
        layer: u8,
        /// The index within the layer.
        index: u32,
    },
    /// The node contradicts what is known: one of those who gave them lied.
    #[error("a hash contradicts what is known of node {index} in layer {layer}")]
    Conflict {
        /// The layer of the node that is known otherwise.
        layer: u8,
        /// Its index within the layer.
        index: u32,
        /// What is known.
        known: Sha256,
        /// What follows from the new node.
        found: Sha256,
    },
    /// A length that leaves a known node beyond the file's end, or another length than is known.
    #[error("a length of {0} bytes contradicts what is known of the file")]
    Length(u64),
    /// Hashes under a node that is not known.
    #[error("node {index} in layer {layer} is not known, so nothing can be checked against it")]
    NotKnown {
        /// The layer, from the leaves up.
        layer: u8,
        /// The index within the layer.
        index: u32,
    },
    /// More or fewer hashes than the node has pieces.
    #[error("{found} hashes were given for a node of {expected} pieces")]
    Count {
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
}

/// The pieces of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    /// Which of `pieces` are known.
    known: [u64; GROUP_PIECES as usize / 64],
    count: u32,
    /// As far as known; what is not known between is zero.
    pieces: Vec<Sha256>,
}

impl Group {
    fn get(&self, slot: u32) -> Option<Sha256> {
        let known = self.known[(slot / 64) as usize] >> (slot % 64) & 1 == 1;
        known.then(|| self.pieces[slot as usize])
    }

    fn set(&mut self, slot: u32, hash: Sha256) {
        let at = slot as usize;
        if self.pieces.len() <= at {
            // Never more than a whole group takes.
            let room = (at + 1).next_power_of_two() - self.pieces.len();
            self.pieces.reserve_exact(room);
            self.pieces.resize(at + 1, Sha256([0; 32]));
        }
        self.count += u32::from(self.get(slot).is_none());
        self.pieces[at] = hash;
        self.known[at / 64] |= 1 << (slot % 64);
    }
}

/// The nodes known of one file's tree. When both children of a node are known, so is the node.
///
/// Takes nodes of the piece layer and above in any order, and the root of a file that is shorter than a piece; the
/// result does not depend on the order. The length may follow later. A known piece costs 32 bytes; what follows from
/// the pieces of a complete group is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    length: Option<u64>,
    /// The layer of a whole piece's node.
    piece_layer: u8,
    groups: BTreeMap<u32, Group>,
    /// Nodes above the piece layer; within complete groups none.
    upper: BTreeMap<(u8, u32), Sha256>,
    /// The root, where it lies below the piece layer.
    small_root: Option<Sha256>,
}

impl Tree {
    /// An empty tree over a file.
    ///
    /// # Errors
    /// [`TreeError::NoTree`] when the length is 0 (BEP 52 gives empty files no root), or the piece length is not a power
    /// of two.
    pub fn new(layout: &Layout) -> Result<Self, TreeError> {
        let piece_length = layout.piece_length();
        if layout.length() == Some(0) || !piece_length.is_power_of_two() {
            return Err(TreeError::NoTree);
        }
        let leaves = piece_length / LEAF_LENGTH;
        Ok(Self {
            length: layout.length(),
            piece_layer: u8::try_from(leaves.trailing_zeros()).map_err(|_| TreeError::NoTree)?,
            groups: BTreeMap::new(),
            upper: BTreeMap::new(),
            small_root: None,
        })
    }

    /// The layer of a whole piece's node.
    pub fn piece_layer(&self) -> u8 {
        self.piece_layer
    }

    /// The file's length in bytes, once known.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    fn piece_length(&self) -> u64 {
        u64::from(LEAF_LENGTH) << self.piece_layer
    }

    /// How many pieces the file has, once its length is known.
    pub fn pieces(&self) -> Option<u64> {
        self.length
            .map(|length| length.div_ceil(self.piece_length()))
    }

    /// The layer of the root, once the length is known: below the piece layer for a file that is shorter than a piece.
    pub fn root_layer(&self) -> Option<u8> {
        let (length, pieces) = (self.length?, self.pieces()?);
        if pieces <= 1 {
            return Some(small_root_layer(length).min(self.piece_layer));
        }
        let layers = pieces.next_power_of_two().trailing_zeros();
        Some(self.piece_layer + u8::try_from(layers).expect("at most 45 layers"))
    }

    /// How many nodes a layer from the piece layer up has within the file; without end while the length is unknown.
    fn width(&self, layer: u8) -> u64 {
        let below = u32::from(layer - self.piece_layer);
        self.pieces()
            .map_or(u64::MAX, |pieces| pieces.div_ceil(1 << below))
    }

    /// True for nodes that this file can have: those of the piece layer and above, and its root.
    fn exists(&self, layer: u8, index: u32) -> bool {
        match self.root_layer() {
            Some(root) if layer == root => index == 0 && self.length != Some(0),
            Some(root) if layer > root.max(self.piece_layer) => false,
            _ if layer < self.piece_layer => false,
            // Of an unknown length: no more pieces than 32 bits number.
            _ => {
                u64::from(layer - self.piece_layer) < 32
                    && (u64::from(index) + 1) << (layer - self.piece_layer) <= 1 << 32
                    && u64::from(index) < self.width(layer)
            }
        }
    }

    /// The node, if it is known. A node beyond a known end is known from the start.
    pub fn node(&self, layer: u8, index: u32) -> Option<Sha256> {
        if layer < self.piece_layer {
            let root = self.small_root.filter(|_| self.exists(layer, index));
            return root.filter(|_| self.root_layer() == Some(layer));
        }
        if usize::from(layer) < LAYERS && u64::from(index) >= self.width(layer) {
            return zero_node(layer);
        }
        if layer == self.piece_layer {
            let (group, slot) = (index / GROUP_PIECES, index % GROUP_PIECES);
            return self.groups.get(&group)?.get(slot);
        }
        self.upper
            .get(&(layer, index))
            .copied()
            .or_else(|| self.folded(layer, index))
    }

    /// The node over pieces of a complete group.
    fn folded(&self, layer: u8, index: u32) -> Option<Sha256> {
        let below = layer.checked_sub(self.piece_layer)?;
        if below >= GROUP_LAYERS || !self.is_group_complete(index >> (GROUP_LAYERS - below)) {
            return None;
        }
        let first = index << below;
        let mut nodes = (first..first + (1 << below))
            .map(|piece| self.node(self.piece_layer, piece))
            .collect::<Option<Vec<_>>>()?;
        while nodes.len() > 1 {
            nodes = nodes
                .chunks(2)
                .map(|pair| parent(pair[0], pair[1]))
                .collect();
        }
        nodes.pop()
    }

    /// The pieces of a group that lie within the file.
    fn group_pieces(&self, group: u32) -> Range<u64> {
        let first = u64::from(group) << GROUP_LAYERS;
        let end = first + u64::from(GROUP_PIECES);
        first..self.pieces().map_or(end, |pieces| pieces.clamp(first, end))
    }

    fn is_group_complete(&self, group: u32) -> bool {
        let pieces = self.group_pieces(group);
        self.groups
            .get(&group)
            .is_some_and(|known| u64::from(known.count) == pieces.end - pieces.start)
    }

    /// The piece's node as a [`PieceHasher`](super::PieceHasher) makes it, if it is known: of a file that is known to be
    /// shorter than a piece the root.
    pub fn piece(&self, piece: PieceIndex) -> Option<Sha256> {
        self.node(self.lowest_layer(), piece.0)
    }

    /// The layer of the nodes that a [`PieceHasher`](super::PieceHasher) makes.
    fn lowest_layer(&self) -> u8 {
        let root = self.root_layer().unwrap_or(self.piece_layer);
        root.min(self.piece_layer)
    }

    /// Adds the node of a piece as a [`PieceHasher`](super::PieceHasher) makes it. True when it is new.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_piece(&mut self, piece: PieceIndex, hash: Sha256) -> Result<bool, TreeError> {
        self.insert(self.lowest_layer(), piece.0, hash)
    }

    /// Adds a node, and all that follow from it above. True when it is new.
    ///
    /// # Errors
    /// [`TreeError::NoSuchNode`] when it lies outside the file's tree, or below the piece layer and is not the root;
    /// [`TreeError::Conflict`] when it contradicts what is known.
    pub fn insert(&mut self, layer: u8, index: u32, hash: Sha256) -> Result<bool, TreeError> {
        if !self.exists(layer, index) {
            return Err(TreeError::NoSuchNode { layer, index });
        }
        if layer < self.piece_layer {
            return self.insert_small_root(layer, hash);
        }
        let nodes = self.climb(layer, index, hash)?;
        let is_new = !nodes.is_empty();
        self.put(nodes);
        Ok(is_new)
    }

    fn insert_small_root(&mut self, layer: u8, hash: Sha256) -> Result<bool, TreeError> {
        if let Some(known) = self.small_root
            && known != hash
        {
            return Err(conflict(layer, 0, known, hash));
        }
        let nodes = self.climb(self.piece_layer, 0, widened(hash, layer, self.piece_layer))?;
        self.put(nodes);
        Ok(self.small_root.replace(hash).is_none())
    }

    /// The node and those above that follow from it, without what is known already.
    fn climb(
        &self,
        layer: u8,
        index: u32,
        hash: Sha256,
    ) -> Result<Vec<(u8, u32, Sha256)>, TreeError> {
        let top = self.root_layer().unwrap_or(self.piece_layer + 31);
        let mut nodes = Vec::new();
        let (mut layer, mut index, mut hash) = (layer, index, hash);
        loop {
            match self.node(layer, index) {
                Some(known) if known != hash => {
                    return Err(conflict(layer, index, known, hash));
                }
                Some(_) => break,
                None => nodes.push((layer, index, hash)),
            }
            if layer >= top {
                break;
            }
            let Some(sibling) = self.node(layer, index ^ 1) else {
                break;
            };
            hash = if index.is_multiple_of(2) {
                parent(hash, sibling)
            } else {
                parent(sibling, hash)
            };
            (layer, index) = (layer + 1, index / 2);
        }
        Ok(nodes)
    }

    /// Stores nodes that have been checked, all of one group as far as they lie in groups.
    fn put(&mut self, nodes: Vec<(u8, u32, Sha256)>) {
        let mut touched = None;
        for (layer, index, hash) in nodes {
            let below = layer - self.piece_layer;
            if below < GROUP_LAYERS {
                touched = Some(index >> (GROUP_LAYERS - below));
            }
            if below == 0 {
                let group = self.groups.entry(index / GROUP_PIECES).or_default();
                group.set(index % GROUP_PIECES, hash);
            } else {
                self.upper.insert((layer, index), hash);
            }
        }
        if let Some(group) = touched {
            self.drop_folded(group);
        }
    }

    /// Forgets what follows from a complete group's pieces, but for the group's own node.
    fn drop_folded(&mut self, group: u32) {
        if !self.is_group_complete(group) {
            return;
        }
        for below in 1..GROUP_LAYERS {
            let layer = self.piece_layer + below;
            let first = group << (GROUP_LAYERS - below);
            let last = first + (1 << (GROUP_LAYERS - below)) - 1;
            let nodes = self.upper.range((layer, first)..=(layer, last));
            let nodes: Vec<_> = nodes.map(|(&node, _)| node).collect();
            for node in nodes {
                self.upper.remove(&node);
            }
        }
    }

    /// Adds the hashes of all pieces under a known node. They fold to it, which proves them. True when some are new.
    ///
    /// # Errors
    /// [`TreeError::NotKnown`] when the node is not known yet, [`TreeError::NoSuchNode`] when it does not exist or lies
    /// above its group, [`TreeError::Count`] and [`TreeError::Conflict`] when these are not its pieces.
    pub fn expand(&mut self, layer: u8, index: u32, hashes: &[Sha256]) -> Result<bool, TreeError> {
        let below = layer.checked_sub(self.piece_layer);
        let below = below.filter(|&below| below <= GROUP_LAYERS && self.exists(layer, index));
        let below = below.ok_or(TreeError::NoSuchNode { layer, index })?;
        if self.node(layer, index).is_none() {
            return Err(TreeError::NotKnown { layer, index });
        }
        let pieces = self.pieces_under(below, index);
        let expected = (pieces.end - pieces.start) as usize;
        if hashes.len() != expected {
            let found = hashes.len();
            return Err(TreeError::Count { found, expected });
        }
        let mut nodes = Vec::new();
        let mut level = hashes.to_vec();
        for at in self.piece_layer..=layer {
            let first = index << (layer - at);
            for (index, &hash) in (first..).zip(&level) {
                match self.node(at, index) {
                    Some(known) if known != hash => return Err(conflict(at, index, known, hash)),
                    Some(_) => {}
                    None => nodes.push((at, index, hash)),
                }
            }
            let zero = zero_node(at).unwrap_or(Sha256([0; 32]));
            let pair = |pair: &[Sha256]| parent(pair[0], pair.get(1).copied().unwrap_or(zero));
            level = level.chunks(2).map(pair).collect();
        }
        let is_new = !nodes.is_empty();
        self.put(nodes);
        Ok(is_new)
    }

    /// The pieces under the node `index`, `below` layers above them, that lie within the file.
    fn pieces_under(&self, below: u8, index: u32) -> Range<u32> {
        let first = u64::from(index) << below;
        let end = first + (1 << below);
        let end = self.pieces().map_or(end, |pieces| pieces.clamp(first, end));
        let clip = |piece| u32::try_from(piece).unwrap_or(u32::MAX);
        clip(first)..clip(end)
    }

    /// Says how long the file is, and adds the nodes that follow from where it ends.
    ///
    /// # Errors
    /// [`TreeError::Length`] when another length is known or a known node lies beyond the end, [`TreeError::Conflict`]
    /// when a known node at the end contradicts those below it.
    pub fn set_length(&mut self, length: u64) -> Result<(), TreeError> {
        if self.length == Some(length) {
            return Ok(());
        }
        let unknown = self.length.replace(length);
        if unknown.is_some() || !self.lies_within() {
            self.length = unknown;
            return Err(TreeError::Length(length));
        }
        match self.nodes_at_end() {
            Ok(nodes) => self.put(nodes),
            Err(error) => {
                self.length = None;
                return Err(error);
            }
        }
        // The last group may be complete only now.
        if let Some((&last, _)) = self.groups.last_key_value() {
            self.drop_folded(last);
        }
        Ok(())
    }

    /// True when no known node lies beyond the end.
    fn lies_within(&self) -> bool {
        let mut pieces = self.groups.iter().flat_map(|(&group, known)| {
            let slots = (0..GROUP_PIECES).filter(|&slot| known.get(slot).is_some());
            slots.map(move |slot| group * GROUP_PIECES + slot)
        });
        pieces.all(|piece| u64::from(piece) < self.width(self.piece_layer))
            && self
                .upper
                .keys()
                .all(|&(layer, index)| self.exists(layer, index))
    }

    /// The nodes at the right edge that follow from the end, now that it is known.
    fn nodes_at_end(&self) -> Result<Vec<(u8, u32, Sha256)>, TreeError> {
        let mut nodes = Vec::new();
        let top = self.root_layer().unwrap_or(0);
        let mut from_below = None;
        for layer in self.piece_layer..=top {
            let last = self.width(layer).saturating_sub(1);
            let index = u32::try_from(last).expect("no piece lies beyond 32 bits");
            let edge = match (self.node(layer, index), from_below) {
                (Some(known), Some(found)) if known != found => {
                    return Err(conflict(layer, index, known, found));
                }
                (None, Some(found)) => {
                    nodes.push((layer, index, found));
                    Some(found)
                }
                (known, _) => known,
            };
            from_below = edge.and_then(|edge| {
                if index.is_multiple_of(2) {
                    zero_node(layer).map(|zero| parent(edge, zero))
                } else {
                    self.node(layer, index - 1).map(|left| parent(left, edge))
                }
            });
        }
        Ok(nodes)
    }

    /// The file's `pieces root`, once it follows from what is known.
    pub fn root(&self) -> Option<Sha256> {
        let layer = self.root_layer()?;
        self.node(layer, 0).filter(|_| self.length != Some(0))
    }

    /// How many pieces' nodes are known.
    pub fn known_pieces(&self) -> u32 {
        self.groups.values().map(|group| group.count).sum()
    }

    /// The fewest nodes up to the groups' layer from which all that is known of the layers above the pieces follows, in
    /// the file's order, as `(layer, index, node)`.
    pub fn maximal(&self) -> Vec<(u8, u32, Sha256)> {
        if let Some((layer, root)) = self.root_layer().zip(self.root())
            && layer < self.piece_layer
        {
            return vec![(layer, 0, root)];
        }
        let top = self.piece_layer + GROUP_LAYERS;
        let top = self
            .root_layer()
            .map_or(top, |root| top.min(root.max(self.piece_layer)));
        let within = self
            .upper
            .range(..(top + 1, 0))
            .map(|(&(layer, index), _)| {
                // Of the group above, or of the one that the node is.
                index >> (self.piece_layer + GROUP_LAYERS).saturating_sub(layer)
            });
        let mut groups: Vec<u32> = self.groups.keys().copied().chain(within).collect();
        groups.sort_unstable();
        groups.dedup();
        let mut found = Vec::new();
        for group in groups {
            let index = group << (self.piece_layer + GROUP_LAYERS - top);
            self.collect_maximal(top, index, &mut found);
        }
        found
    }

    fn collect_maximal(&self, layer: u8, index: u32, found: &mut Vec<(u8, u32, Sha256)>) {
        if u64::from(index) >= self.width(layer) {
            return;
        }
        if let Some(node) = self.node(layer, index) {
            found.push((layer, index, node));
        } else if layer > self.piece_layer {
            self.collect_maximal(layer - 1, index * 2, found);
            self.collect_maximal(layer - 1, index * 2 + 1, found);
        }
    }
}

/// The layer of the root of a file of at most one piece.
fn small_root_layer(length: u64) -> u8 {
    let leaves = length.div_ceil(u64::from(LEAF_LENGTH)).max(1);
    u8::try_from(leaves.next_power_of_two().trailing_zeros()).expect("at most 64 layers")
}

fn conflict(layer: u8, index: u32, known: Sha256, found: Sha256) -> TreeError {
    TreeError::Conflict {
        layer,
        index,
        known,
        found,
    }
}
