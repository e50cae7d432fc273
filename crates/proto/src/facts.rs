//! What is known of the hashes of one content's pieces, and who says so.
//!
//! Entry: [`FactStore`]. It takes facts in any order; what follows from them does not depend on the order. Two kinds
//! of fact differ in trust: what control *sealed* goes into the [`Tree`] of the fact's file for
//! good; what a relay *attested* under a lease is a claim beside it that can be withdrawn, contradicted, or proven when
//! a sealed node above turns out to be made of it. (Only when relays lie it depends on the order whether that happens
//! before the lie is heard; the hashes themselves, from any peer, settle it.)
//!
//! Hashes of pieces are always those of whole pieces, as if more of the file could follow: see
//! [`widened`] for files that are shorter than a piece.
//!
//! Memory: 32 bytes a piece once its group is complete (24 000 pieces 0.8 MB, 1 000 000 pieces 33 MB); a claim that is
//! not sealed yet costs about 100 bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::Sha256;
use crate::merkle::{GROUP_LAYERS, GROUP_PIECES, Tree, TreeError, widened};
use crate::record::{Fact, LeaseId};

mod changes;
mod query;
mod space;

pub(crate) use changes::runs;
pub use changes::{Changes, Conflict};
pub use space::{PIECES_LIMIT, PieceSpace, SpaceError};

/// Whose word a node of this content has to be accepted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// A relay's, under a lease that counts.
    Attested,
    /// Control's only.
    Sealed,
}

/// Who vouches for the hash of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Control: for good.
    Sealed,
    /// A relay under this lease.
    Attested(LeaseId),
}

/// Why a fact was not taken. The store is then as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// The genesis names no such file, or it is empty.
    #[error("the content has no hashes of a file {0}")]
    NoSuchFile(u16),
    /// The file has no such node, or none that is passed on: facts lie between the pieces' and the groups' layer.
    #[error("file {file} has no fact {index} in layer {layer}")]
    NoSuchNode {
        /// The file.
        file: u16,
        /// The layer, from the leaves up.
        layer: u8,
        /// The index within the layer of the file.
        index: u32,
    },
    /// It contradicts what control sealed.
    #[error("file {file} is contradicted: {error}")]
    Contradiction {
        /// The file.
        file: u16,
        /// In which way.
        error: TreeError,
    },
    /// Hashes under a node that is not sealed here yet.
    #[error("node {index} in layer {layer} of file {file} is not sealed")]
    NotSealed {
        /// The file.
        file: u16,
        /// The layer, from the leaves up.
        layer: u8,
        /// The index within the layer of the file.
        index: u32,
    },
    /// Too many or too few hashes, or not those that the node was made of.
    #[error("these are not the hashes under a node of file {file}: {error}")]
    Hashes {
        /// The file.
        file: u16,
        /// In which way.
        error: TreeError,
    },
    /// The length cannot be.
    #[error(transparent)]
    Length(#[from] SpaceError),
}

/// What a relay says of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    lease: LeaseId,
    hash: Sha256,
}

/// All facts known of one content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactStore {
    space: PieceSpace,
    accept: Accept,
    /// One a file; none for empty files.
    trees: Vec<Option<Tree>>,
    /// What relays say of pieces whose hash is not proven, sorted.
    claims: BTreeMap<u32, Vec<Claim>>,
    /// Sealed nodes whose pieces are all claimed, but do not fold to them: some claim below is false.
    doubted: BTreeSet<NodeAt>,
}

/// Where a node lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAt {
    /// Which file.
    pub file: u16,
    /// The layer, from the leaves up.
    pub layer: u8,
    /// The index within the layer of the file.
    pub index: u32,
}

impl FactStore {
    /// Nothing is known yet but lengths.
    pub fn new(space: PieceSpace, accept: Accept) -> Self {
        let trees = (0..space.file_count()).map(|file| space.tree(file));
        Self {
            trees: trees.collect(),
            space,
            accept,
            claims: BTreeMap::new(),
            doubted: BTreeSet::new(),
        }
    }

    /// How the pieces are numbered.
    pub fn space(&self) -> &PieceSpace {
        &self.space
    }

    fn tree(&self, file: u16) -> Result<&Tree, FactError> {
        let tree = self.trees.get(usize::from(file)).and_then(Option::as_ref);
        tree.ok_or(FactError::NoSuchFile(file))
    }

    fn tree_mut(&mut self, file: u16) -> Result<&mut Tree, FactError> {
        let tree = self.trees.get_mut(usize::from(file));
        tree.and_then(Option::as_mut)
            .ok_or(FactError::NoSuchFile(file))
    }

    /// The pieces of the content under a node that may be a fact.
    fn pieces_under(&self, node: NodeAt) -> Result<Range<u32>, FactError> {
        let NodeAt { file, layer, index } = node;
        let none = FactError::NoSuchNode { file, layer, index };
        let tree = self.tree(file)?;
        let below = if layer < tree.piece_layer() {
            if tree.root_layer().is_some_and(|root| root != layer) || index != 0 {
                return Err(none);
            }
            0
        } else {
            layer - tree.piece_layer()
        };
        if below > GROUP_LAYERS {
            return Err(none);
        }
        let pieces = self.space.file_pieces(file);
        let first = u64::from(pieces.start) + (u64::from(index) << below);
        let end = (first + (1 << below)).min(pieces.end.into());
        match (u32::try_from(first), u32::try_from(end)) {
            (Ok(first), Ok(end)) if first < end => Ok(first..end),
            _ => Err(none),
        }
    }

    /// Takes what control sealed.
    ///
    /// # Errors
    /// [`FactError`] when there can be no such fact, or it contradicts what is sealed: then control contradicts itself.
    pub fn seal(&mut self, fact: &Fact) -> Result<Changes, FactError> {
        let Fact {
            file,
            layer,
            index,
            hash,
        } = *fact;
        let pieces = self.pieces_under(NodeAt { file, layer, index })?;
        let before = self.observe(pieces.clone());
        self.tree_mut(file)?
            .insert(layer, index, hash)
            .map_err(|error| match error {
                TreeError::NoSuchNode { layer, index } => {
                    FactError::NoSuchNode { file, layer, index }
                }
                error => FactError::Contradiction { file, error },
            })?;
        Ok(self.reconsider(pieces, &before))
    }

    /// Takes what a relay attests of a piece under a lease that counts. A contradiction is no error: see
    /// [`Changes::conflicts`].
    ///
    /// # Errors
    /// [`FactError::NoSuchNode`] when it is no piece's fact, or the content has no such piece.
    pub fn attest(&mut self, lease: LeaseId, fact: &Fact) -> Result<Changes, FactError> {
        let Fact {
            file, layer, index, ..
        } = *fact;
        let piece_layer = self.tree(file)?.piece_layer();
        if layer > piece_layer {
            return Err(FactError::NoSuchNode { file, layer, index });
        }
        let piece = self.pieces_under(NodeAt { file, layer, index })?.start;
        let hash = widened(fact.hash, layer, piece_layer);
        let mut changes = Changes::default();
        if let Some(known) = self.proven(piece) {
            if known != hash {
                changes.conflict(piece, Some(known), [lease]);
            }
            return Ok(changes);
        }
        let claim = Claim { lease, hash };
        let claims = self.claims.get(&piece).map_or(&[][..], Vec::as_slice);
        let Err(at) = claims.binary_search(&claim) else {
            return Ok(changes);
        };
        let before = self.observe(piece..piece + 1);
        let claims = self.claims.entry(piece).or_default();
        claims.insert(at, claim);
        if claims.iter().any(|claim| claim.hash != hash) {
            changes.conflict(piece, None, claims.iter().map(|claim| claim.lease));
        }
        changes.merge(self.reconsider(piece..piece + 1, &before));
        Ok(changes)
    }

    /// True when [`attest`](Self::attest) would take something from this. A lease's holder may contradict itself about a piece
    /// once: then nobody believes either, and more of it says nothing new.
    pub fn is_news(&self, lease: LeaseId, fact: &Fact) -> bool {
        let Ok(tree) = self.tree(fact.file) else {
            return false;
        };
        let hash = widened(fact.hash, fact.layer, tree.piece_layer());
        let piece = self.pieces_under(fact.at()).map(|pieces| pieces.start);
        let Some(piece) = piece.ok().filter(|&piece| !self.is_proven(piece)) else {
            return false;
        };
        let claims = self.claims.get(&piece).map_or(&[][..], Vec::as_slice);
        let mut own = claims.iter().filter(|claim| claim.lease == lease);
        own.clone().all(|claim| claim.hash != hash) && own.nth(1).is_none()
    }

    /// Takes the hashes of all pieces under a sealed node, from anybody: they prove themselves.
    ///
    /// # Errors
    /// [`FactError::NotSealed`] when the node is not known here (yet), [`FactError::Hashes`] when these are not its
    /// pieces: a fault of whoever sent them.
    pub fn expand(&mut self, node: NodeAt, hashes: &[Sha256]) -> Result<Changes, FactError> {
        let NodeAt { file, layer, index } = node;
        let pieces = self.pieces_under(node)?;
        let before = self.observe(pieces.clone());
        self.tree_mut(file)?
            .expand(layer, index, hashes)
            .map_err(|error| match error {
                TreeError::NotKnown { .. } => FactError::NotSealed { file, layer, index },
                TreeError::NoSuchNode { .. } => FactError::NoSuchNode { file, layer, index },
                error => FactError::Hashes { file, error },
            })?;
        Ok(self.reconsider(pieces, &before))
    }

    /// Says how long the last file is.
    ///
    /// # Errors
    /// [`FactError`] when another length is known, or a sealed piece lies beyond: then control contradicts itself.
    pub fn set_length(&mut self, length: u64) -> Result<Changes, FactError> {
        let last = self.space.file_count() - 1;
        let file = u16::try_from(last).expect("at most 65536 files");
        if self.space.file_length(file) == Some(length) {
            return Ok(Changes::default());
        }
        let mut space = self.space.clone();
        space.set_length(length)?;
        let tree = self.trees[last].as_mut();
        tree.map_or(Err(TreeError::Length(length)), |tree| {
            tree.set_length(length)
        })
        .map_err(|error| FactError::Contradiction { file, error })?;
        let beyond = space.limit()..self.space.limit();
        let mut changes = Changes::default();
        let claimed: Vec<u32> = self.claims.range(beyond).map(|(&piece, _)| piece).collect();
        let usable = claimed
            .iter()
            .copied()
            .filter(|&piece| self.is_verifiable(piece));
        changes.withdrawn = runs(usable);
        for piece in claimed {
            let claims = self.claims.remove(&piece).unwrap_or_default();
            changes.conflict(piece, None, claims.iter().map(|claim| claim.lease));
        }
        self.space = space;
        if length == 0 {
            // An empty file has none (BEP 52).
            self.trees[last] = None;
        }
        // Nodes at the end have fewer pieces now, or are known only now.
        if let Some(end) = self.space.file_pieces(file).last() {
            let before = self.observe(end..end + 1);
            changes.merge(self.reconsider(end..end + 1, &before));
        }
        Ok(changes)
    }

    /// Forgets what was attested under leases that no longer count, as far as it is not proven.
    pub fn drop_leases(&mut self, void: impl Fn(LeaseId) -> bool) -> Changes {
        let of_void = |claims: &[Claim]| claims.iter().any(|claim| void(claim.lease));
        let pieces = self.claims.iter().filter(|(_, claims)| of_void(claims));
        let pieces: Vec<u32> = pieces.map(|(&piece, _)| piece).collect();
        let mut changes = Changes::default();
        for piece in pieces {
            let before = self.observe(piece..piece + 1);
            if let Some(claims) = self.claims.get_mut(&piece) {
                claims.retain(|claim| !void(claim.lease));
                if claims.is_empty() {
                    self.claims.remove(&piece);
                }
            }
            changes.merge(self.reconsider(piece..piece + 1, &before));
        }
        changes
    }

    /// The pieces of a piece's group; it lies within one file.
    fn group(&self, piece: u32) -> Option<(u16, Range<u32>)> {
        let (file, index) = self.space.locate(piece)?;
        let pieces = self.space.file_pieces(file);
        let first = pieces.start + index / GROUP_PIECES * GROUP_PIECES;
        Some((file, first..pieces.end.min(first + GROUP_PIECES)))
    }

    /// Which of the pieces that a change to `pieces` can concern are verifiable. `pieces` lie in one group.
    fn observe(&self, pieces: Range<u32>) -> Vec<(u32, bool)> {
        let group = self.group(pieces.start).map(|(_, group)| group);
        let group = group.filter(|group| self.claims.range(group.clone()).next().is_some());
        let pieces = group.unwrap_or(pieces);
        pieces
            .map(|piece| (piece, self.is_verifiable(piece)))
            .collect()
    }

    /// What can be said of `pieces`, of one group, has changed: draws the consequences. `before` is what
    /// [`observe`](Self::observe) said before the change.
    fn reconsider(&mut self, pieces: Range<u32>, before: &[(u32, bool)]) -> Changes {
        let mut changes = Changes::default();
        self.settle(pieces.clone(), &mut changes);
        if let Some((file, group)) = self.group(pieces.start)
            && (self.claims.range(group).next().is_some() || !self.doubted.is_empty())
            && let Ok(tree) = self.tree(file)
        {
            let piece_layer = tree.piece_layer();
            let first = self.space.file_pieces(file).start;
            let (start, last) = (pieces.start - first, pieces.end - 1 - first);
            for below in 1..=GROUP_LAYERS {
                for index in start >> below..=last >> below {
                    let layer = piece_layer + below;
                    self.judge(NodeAt { file, layer, index }, &mut changes);
                }
            }
        }
        let now = |piece| self.is_verifiable(piece);
        let changed = |was: bool| {
            let pieces = before.iter().filter(move |&&(_, before)| before == was);
            pieces.map(|&(piece, _)| piece)
        };
        changes.verifiable = runs(changed(false).filter(|&piece| now(piece)));
        changes.withdrawn = runs(changed(true).filter(|&piece| !now(piece)));
        changes
    }

    /// Pieces whose hash is proven need no claims; what contradicted them is reported.
    fn settle(&mut self, pieces: Range<u32>, changes: &mut Changes) {
        let claimed: Vec<u32> = self.claims.range(pieces).map(|(&piece, _)| piece).collect();
        for piece in claimed {
            let Some(known) = self.proven(piece) else {
                continue;
            };
            let claims = self.claims.remove(&piece).unwrap_or_default();
            let wrong = claims.iter().filter(|claim| claim.hash != known);
            let wrong: Vec<LeaseId> = wrong.map(|claim| claim.lease).collect();
            if !wrong.is_empty() {
                changes.conflict(piece, Some(known), wrong);
            }
        }
    }

    /// When each piece under a sealed node has one claimed or proven hash, they are its pieces, or some claim is false.
    fn judge(&mut self, node: NodeAt, changes: &mut Changes) {
        let Ok(pieces) = self.pieces_under(node) else {
            return;
        };
        let sealed = self.sealed(node).filter(|_| self.is_claimed(&pieces));
        let said = pieces.clone().map(|piece| self.said(piece));
        let hashes = sealed.and_then(|_| said.collect::<Option<Vec<_>>>());
        let (Some(hashes), Ok(tree)) = (hashes, self.tree_mut(node.file)) else {
            self.doubted.remove(&node);
            return;
        };
        if tree.expand(node.layer, node.index, &hashes).is_ok() {
            self.doubted.remove(&node);
            self.settle(pieces, changes);
        } else if self.doubted.insert(node) {
            let claims = self.claims.range(pieces.clone());
            let leases = claims.flat_map(|(_, claims)| claims.iter().map(|claim| claim.lease));
            changes.conflict(pieces.start, sealed, leases);
        }
    }

    fn is_claimed(&self, pieces: &Range<u32>) -> bool {
        self.claims.range(pieces.clone()).next().is_some()
    }

    /// The node, if it is sealed or follows from what is.
    fn sealed(&self, node: NodeAt) -> Option<Sha256> {
        self.tree(node.file).ok()?.node(node.layer, node.index)
    }

    /// The proven hash of a piece.
    fn proven(&self, piece: u32) -> Option<Sha256> {
        let (file, index) = self.space.locate(piece)?;
        let tree = self.tree(file).ok()?;
        tree.node(tree.piece_layer(), index)
    }

    /// The proven hash, or the one that all claims agree on.
    fn said(&self, piece: u32) -> Option<Sha256> {
        self.proven(piece).or_else(|| {
            let claims = self.claims.get(&piece)?;
            let first = claims.first()?.hash;
            let agree = claims.iter().all(|claim| claim.hash == first);
            agree.then_some(first)
        })
    }
}

#[cfg(test)]
mod tests;
