//! What a content that was given up leaves to what takes its place: the pieces that both have.
//!
//! The successor of a changed object, or of one of which a fact proved false, holds equal pieces at once and fetches the others. A
//! download from the origin instead of relays that are gone goes on with what was verified of the same version.

use std::path::{Path, PathBuf};

use floodway_origin::Validator;
use floodway_proto::PieceIndex;
use floodway_proto::genesis::Genesis;
use floodway_store::{Nodes, Predecessor, discard_unfinished};

use super::{GetError, Job};
use crate::Content;

/// Unfinished data on this disk.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    /// Of what content.
    genesis: Genesis,
    /// What its pieces were verified by.
    proven: Nodes,
}

impl Left {
    /// What this content leaves that ends with `error`, if that may be of use.
    pub(super) async fn of(content: &Content, path: &Path, error: &GetError) -> Option<Self> {
        if !matches!(error, GetError::Replaced | GetError::NoRelay(_)) {
            return None;
        }
        let limit = content.layout().piece_count();
        let seen = content.look(move |known| {
            let facts = known.manifest.facts();
            let pieces = (0..limit).map(PieceIndex);
            let proven = pieces.filter_map(|piece| Some((piece, facts.piece_hash(piece.0)?)));
            (known.manifest.genesis().clone(), proven.collect())
        });
        let (genesis, proven) = seen.await?;
        // In folders a file that grew moves all that follow it.
        (!genesis.is_folder()).then(|| Self {
            path: path.to_owned(),
            genesis,
            proven,
        })
    }

    fn identity(&self) -> [u8; 32] {
        self.genesis.sid().0
    }

    /// Whether an origin's object is the very version that the content was of.
    fn is_of(&self, validator: &Validator, length: u64) -> bool {
        let Validator::Strong(tag) = validator else {
            return false;
        };
        let genesis = &self.genesis;
        genesis.strong && genesis.origin.etag == *tag && genesis.length() == Some(length)
    }
}

impl Job {
    /// What the content that is about to be opened at `path` takes over. Of a download from the origin (`origin`: validator and
    /// length of its object) nobody will say what its pieces hash to: it takes only what was verified, and only of the same version.
    pub(super) fn adopts(
        &self,
        path: &Path,
        origin: Option<(&Validator, u64)>,
    ) -> Option<Predecessor> {
        let left = self.left.as_ref().filter(|left| left.path == path)?;
        let only = match origin {
            None => None,
            Some((validator, length)) if left.is_of(validator, length) => Some(left.proven.clone()),
            Some(_) => return None,
        };
        Some(Predecessor {
            identity: left.identity(),
            only,
        })
    }

    /// Something is left instead of what was left before. What nobody took over of that is removed.
    pub(super) async fn leave(&mut self, left: Option<Left>) {
        let Some(old) = std::mem::replace(&mut self.left, left) else {
            return;
        };
        let (path, identity) = (old.path.clone(), old.identity());
        let removing = move || discard_unfinished(&path, identity);
        match tokio::task::spawn_blocking(removing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is left of a content could not be removed");
            }
            Err(error) => tracing::error!(%error, "a defect broke the store"),
        }
    }
}
