//! What a [`FactStore`] answers.

use std::ops::Range;

use super::{Accept, Claim, FactStore, NodeAt, Trust, runs};
use crate::merkle::{GROUP_LAYERS, Tree, piece_layer};
use crate::record::Fact;
use crate::wire::HashRequest;
use crate::{Layout, Sha256};

impl FactStore {
    /// The sealed nodes over a piece up to its group, from the piece up.
    fn sealed_nodes(&self, piece: u32) -> impl DoubleEndedIterator<Item = NodeAt> {
        let located = self.space.locate(piece).and_then(|(file, index)| {
            let tree = self.tree(file).ok()?;
            let layer = tree.piece_layer();
            let top = tree.root_layer().map_or(u8::MAX, |root| root.max(layer));
            let top = top.min(layer + GROUP_LAYERS);
            Some((file, index, layer, top))
        });
        let (file, index, layer, top) = located.unwrap_or((0, 0, 1, 0));
        let nodes = (layer..=top).map(move |at| NodeAt {
            file,
            layer: at,
            index: index >> (at - layer),
        });
        nodes.filter(|&node| self.sealed(node).is_some())
    }

    /// The highest sealed node over a piece, up to its group: what the piece's hash can be proven by.
    pub fn sealed_node(&self, piece: u32) -> Option<NodeAt> {
        self.sealed_nodes(piece).next_back()
    }

    /// The highest sealed node over a piece of which every piece's hash is proven, with those hashes: what to send to
    /// somebody who knows the node.
    pub fn expandable(&self, piece: u32) -> Option<(NodeAt, Vec<Sha256>)> {
        let nodes = self.sealed_nodes(piece);
        nodes.rev().find_map(|node| {
            let pieces = self.pieces_under(node).ok()?;
            let hashes = pieces.map(|piece| self.proven(piece));
            Some((node, hashes.collect::<Option<Vec<_>>>()?))
        })
    }

    /// The pieces of the content under a node; none if there can be no such fact.
    pub fn pieces_of(&self, node: NodeAt) -> Range<u32> {
        self.pieces_under(node).unwrap_or(0..0)
    }

    /// The piece that a relay would speak of with a fact there: the node of a piece, or the root of a file shorter than a
    /// piece; `end` is how long the relay says the last file is. The piece may lie beyond the end.
    pub fn attestable(&self, at: NodeAt, end: Option<u64>) -> Option<u32> {
        let tree = self.tree(at.file).ok()?;
        let first = self.space.file_pieces(at.file).start;
        let length = tree.length().or(end);
        let is_small_root = || {
            let layout = Layout::new(length, self.space.piece_length()).ok();
            let layer = layout.and_then(|layout| piece_layer(&layout));
            at.index == 0 && length > Some(0) && layer == Some(at.layer)
        };
        if at.layer == tree.piece_layer() || is_small_root() {
            return first.checked_add(at.index);
        }
        None
    }

    /// True when this very fact is sealed, or follows from what is.
    pub fn is_sealed(&self, fact: &Fact) -> bool {
        self.sealed(fact.at()) == Some(fact.hash)
    }

    /// True when the hash of a piece is proven.
    pub fn is_proven(&self, piece: u32) -> bool {
        self.proven(piece).is_some()
    }

    /// The hash of a whole piece, as far as it may be used to verify bytes.
    pub fn piece_hash(&self, piece: u32) -> Option<Sha256> {
        self.proven(piece)
            .or_else(|| self.usable_claim(piece).map(|claim| claim.hash))
    }

    /// Who vouches for [`piece_hash`](Self::piece_hash).
    pub fn trust(&self, piece: u32) -> Option<Trust> {
        if self.proven(piece).is_some() {
            return Some(Trust::Sealed);
        }
        self.usable_claim(piece)
            .map(|claim| Trust::Attested(claim.lease))
    }

    fn usable_claim(&self, piece: u32) -> Option<Claim> {
        let claims = self
            .claims
            .get(&piece)
            .filter(|_| self.accept == Accept::Attested)?;
        let first = *claims.first()?;
        let agree = claims.iter().all(|claim| claim.hash == first.hash);
        (agree && !self.is_doubted(piece)).then_some(first)
    }

    fn is_doubted(&self, piece: u32) -> bool {
        let mut under = self.doubted.iter().map(|&node| self.pieces_under(node));
        under.any(|pieces| pieces.is_ok_and(|pieces| pieces.contains(&piece)))
    }

    /// True when bytes of the piece can be verified: it may be asked of anyone, served and delivered.
    pub fn is_verifiable(&self, piece: u32) -> bool {
        self.piece_hash(piece).is_some()
    }

    /// The runs of pieces within `range` that are not verifiable.
    pub fn missing(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let range = range.start..range.end.min(self.space.limit());
        runs(range.filter(|&piece| !self.is_verifiable(piece)))
    }

    /// BEP 52's `pieces root` of a file, once it follows from what is sealed. An empty file has none.
    pub fn pieces_root(&self, file: u16) -> Option<Sha256> {
        self.tree(file).ok()?.root()
    }

    /// Hashes of a file's pieces and what proves them, for others (BEP 52): `base_layer` must be the pieces' layer, as no
    /// lower ones are kept; the rest as in [`Tree::hashes`]. `None`: not to be had here.
    pub fn hashes(&self, file: u16, request: &HashRequest) -> Option<Vec<Sha256>> {
        let tree = self.tree(file).ok()?;
        let is_pieces = request.base_layer == u32::from(tree.piece_layer());
        let HashRequest {
            index,
            length,
            proof_layers,
            ..
        } = *request;
        is_pieces.then(|| tree.hashes(index, length, proof_layers))?
    }

    /// True when the length and the roots of all files are known.
    pub fn is_complete(&self) -> bool {
        let files = (0..=u16::MAX).zip(&self.trees);
        self.space.piece_count().is_some()
            && files
                .filter_map(|(file, tree)| Some((file, tree.as_ref()?)))
                .all(|(file, tree)| {
                    self.space.file_length(file) == Some(0) || tree.root().is_some()
                })
    }

    /// How many pieces' hashes are proven.
    pub fn proven_pieces(&self) -> u32 {
        self.trees.iter().flatten().map(Tree::known_pieces).sum()
    }

    /// The fewest facts from which all that is sealed follows, but for the hashes of pieces below them: a snapshot.
    pub fn maximal(&self) -> Vec<Fact> {
        let trees = (0..=u16::MAX).zip(&self.trees);
        let nodes = trees.flat_map(|(file, tree)| {
            let nodes = tree.iter().flat_map(Tree::maximal);
            nodes.map(move |(layer, index, hash)| Fact {
                file,
                layer,
                index,
                hash,
            })
        });
        nodes.collect()
    }
}
