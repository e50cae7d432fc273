//! Requests for nodes of a v2 torrent's hash trees (BEP 52), for peers whose torrent has no piece layers.

use bytes::{Buf, BufMut, Bytes};

use crate::Sha256;

/// The most hashes of the base layer that one request may ask for (BEP 52).
const HASHES_PER_REQUEST: u32 = 512;
/// Bytes of a [`HashRequest`].
pub(super) const REQUEST_LENGTH: u32 = 32 + 4 * 4;
/// The most hashes of one answer: those of the base layer and one more in each layer that a tree can have above.
pub(super) const ANSWER_HASHES_LIMIT: u32 = HASHES_PER_REQUEST + 64;

/// Names hashes in one layer of a file's tree, and the proof that leads from them towards the root. Nothing is checked:
/// see [`FactStore::hashes`](crate::facts::FactStore::hashes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashRequest {
    /// The root of the file's tree.
    pub pieces_root: Sha256,
    /// The layer of the hashes, from the leaves up.
    pub base_layer: u32,
    /// The first hash, counted within the layer.
    pub index: u32,
    /// How many hashes.
    pub length: u32,
    /// How many layers above the base layer the proof reaches. The hashes themselves prove the lowest of them.
    pub proof_layers: u32,
}

impl HashRequest {
    pub(super) fn read(body: &mut Bytes) -> Self {
        let mut root = [0; 32];
        body.copy_to_slice(&mut root);
        Self {
            pieces_root: Sha256(root),
            base_layer: body.get_u32(),
            index: body.get_u32(),
            length: body.get_u32(),
            proof_layers: body.get_u32(),
        }
    }

    pub(super) fn put(&self, out: &mut impl BufMut) {
        out.put_slice(&self.pieces_root.0);
        out.put_u32(self.base_layer);
        out.put_u32(self.index);
        out.put_u32(self.length);
        out.put_u32(self.proof_layers);
    }
}

/// Hashes one after the other, as they travel.
pub fn joined(hashes: &[Sha256]) -> Bytes {
    hashes.iter().flat_map(|hash| hash.0).collect()
}
