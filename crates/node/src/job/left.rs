//! What a content that was given up leaves to what takes its place: the pieces that both have.
//!
//! The successor of a changed object, or of one of which a fact proved false, holds equal pieces at once and fetches the others. A
//! download from the origin instead of relays that are gone goes on with what was verified of the same version.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use floodway_origin::Validator;
use floodway_proto::genesis::Genesis;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::{Layout, PieceIndex, SafeName, Sha256, Sid, digest};
use floodway_store::{Nodes, OpenError, Predecessor, discard_unfinished, unfinished_identity};

use super::{GetError, Job, Place};
use crate::Content;
use crate::state::DataDir;

/// Unfinished data on this disk. What nobody takes over of it is removed by [`Job::leave`], not with this: of a node that is stopped
/// before something takes its place it stays, and a later run finds it by its journal, as after a kill.
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
        Some(Self {
            path: path.to_owned(),
            genesis,
            proven,
        })
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

/// How a folder divides into files and pieces; `None` of a single file.
fn folder_of(genesis: &Genesis) -> Option<Layout> {
    genesis.is_folder().then(|| genesis.layout().ok()).flatten()
}

impl Job {
    /// What the content `sid` that is about to be opened at `path` takes over, until its facts say which of it they prove: what this
    /// job left, or what an earlier run left of whatever content, as control may say no more which one it took the place of.
    pub(super) fn adopts(&self, path: &Path, sid: Sid) -> Option<Predecessor> {
        let left = self.left.as_ref().filter(|left| left.path == path);
        let found = || {
            let identity = unfinished_identity(path).filter(|&identity| identity != sid.0)?;
            let genesis = self.data().and_then(|data| data.genesis(Sid(identity)));
            Some((identity, genesis.as_ref().and_then(folder_of)))
        };
        let known = left.map(|left| (left.genesis.sid().0, folder_of(&left.genesis)));
        let (identity, folder) = known.or_else(found)?;
        Some(Predecessor {
            identity,
            folder,
            only: None,
        })
    }

    /// What a download from the origin takes over. Nobody will say what its pieces hash to: it takes only what was verified, and
    /// only of the version that the origin has.
    pub(super) fn adopts_version(
        &self,
        path: &Path,
        validator: &Validator,
        length: u64,
    ) -> Option<Predecessor> {
        let left = self.left.as_ref().filter(|left| left.path == path)?;
        left.is_of(validator, length).then(|| Predecessor {
            identity: left.genesis.sid().0,
            folder: None,
            only: Some(left.proven.clone()),
        })
    }

    /// Something is left instead of what was left before. What nobody took over of that is removed.
    pub(super) async fn leave(&mut self, left: Option<Left>) {
        let Some(old) = std::mem::replace(&mut self.left, left) else {
            return;
        };
        in_background(move || discard(&old.path, old.genesis.sid())).await;
    }

    /// The content is not wanted any more: removes what an earlier run has begun of it, also where this one never came to go on with it.
    pub(crate) async fn discard(&self, sid: Sid) {
        let Some(name) = self.name_of(sid) else {
            return;
        };
        let path = self.rules.place.path(&name);
        in_background(move || discard(&path, sid)).await;
    }

    /// What the file of a content is called, if that is known here.
    fn name_of(&self, sid: Sid) -> Option<SafeName> {
        if let Ok(Some(genesis)) = self.genesis(sid) {
            return Some(genesis.name);
        }
        let bytes = self.data()?.torrent(sid).ok().flatten()?;
        Metainfo::decode(&bytes)
            .ok()
            .map(|torrent| torrent.info.name)
    }
}

/// What the tasks of an agent need of the contents in its folder.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    sids: BTreeSet<Sid>,
    /// Digests of the URLs whose objects are fetched: a content of an earlier version may be taken over.
    urls: BTreeSet<Sha256>,
}

impl Wanted {
    /// A task is for this content.
    pub(crate) fn content(&mut self, sid: Sid) {
        self.sids.insert(sid);
    }

    /// A job fetches what is there.
    pub(crate) fn object(&mut self, url: &str) {
        self.urls.insert(digest::sha256(url.as_bytes()));
    }
}

/// Removes what earlier runs left in this folder that no task will take over any more, and forgets all contents but those that are
/// wanted. Blocks.
pub(crate) fn sweep(data: &DataDir, folder: &Path, wanted: &Wanted) {
    let place = Place::Folder(folder.to_owned());
    data.retain_contents(|sid| {
        if wanted.sids.contains(&sid) {
            return true;
        }
        let Some(genesis) = data.genesis(sid) else {
            return false;
        };
        let path = place.path(&genesis.name);
        if unfinished_identity(&path) != Some(sid.0) {
            return false;
        }
        let is_awaited = wanted.urls.contains(&genesis.origin.url_hash);
        if !is_awaited {
            discard(&path, sid);
        }
        is_awaited
    });
}

async fn in_background(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::error!(%error, "a defect broke the store");
    }
}

fn discard(path: &Path, sid: Sid) {
    match discard_unfinished(path, sid.0) {
        // Whoever has it open took it over.
        Ok(()) | Err(OpenError::Locked(_)) => {}
        Err(error) => tracing::warn!(%error, "what is left of a content could not be removed"),
    }
}

#[cfg(test)]
mod tests;
