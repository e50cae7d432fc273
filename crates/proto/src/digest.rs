//! Hashing the bytes of a piece as they come.
//!
//! Entry: [`PieceDigester`], fed with a piece's bytes in order in slices of any size. It allocates nothing.

use sha1::Sha1 as Sha1Hasher;
use sha2::{Digest as _, Sha256 as Sha256Hasher};

use crate::merkle::PieceHasher;
use crate::{Layout, PieceIndex, Sha1, Sha256};

/// SHA-1 of `bytes`.
pub fn sha1(bytes: &[u8]) -> Sha1 {
    Sha1(Sha1Hasher::digest(bytes).into())
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(Sha256Hasher::digest(bytes).into())
}

/// Which digests of a piece to make. In a folder the SHA-1 is that of a whole piece, with zeros after the end of a file
/// (BEP 47).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestKind {
    /// The piece's SHA-1, as v1 torrents have it.
    pub sha1: bool,
    /// The piece's node in the BEP 52 tree.
    pub tree: bool,
}

/// The digests of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceDigest {
    /// SHA-1, if asked for.
    pub sha1: Option<Sha1>,
    /// The node in the BEP 52 tree, if asked for and the piece length is a power of two: see [`merkle`](crate::merkle).
    pub node: Option<Sha256>,
}

/// Makes the digests of one piece while its bytes come in order.
#[derive(Clone, Debug)]
pub struct PieceDigester {
    sha1: Option<Sha1Hasher>,
    tree: Option<PieceHasher>,
    missing: u32,
    /// Zeros that belong to the SHA-1 after the piece's own bytes.
    padding: u32,
}

impl PieceDigester {
    /// Begins `piece` of `layout`.
    pub fn new(kind: DigestKind, layout: &Layout, piece: PieceIndex) -> Self {
        Self {
            missing: layout.piece_size(piece),
            padding: layout.padding(piece),
            sha1: kind.sha1.then(Sha1Hasher::new),
            tree: kind
                .tree
                .then(|| PieceHasher::new(&layout.of_piece(piece)))
                .flatten(),
        }
    }

    /// How many bytes the piece still lacks. While the content's length is unknown the last piece may never get them.
    pub fn missing(&self) -> u32 {
        self.missing
    }

    /// Takes the piece's next bytes; not more than are [`missing`](Self::missing).
    pub fn update(&mut self, bytes: &[u8]) {
        /// Both hashes read a stretch while it is in the processor's nearest cache.
        const STRETCH: usize = 16 * 1024;
        let missing = u32::try_from(bytes.len())
            .ok()
            .and_then(|length| self.missing.checked_sub(length));
        debug_assert!(missing.is_some(), "more bytes than the piece has");
        self.missing = missing.unwrap_or(0);
        for stretch in bytes.chunks(STRETCH) {
            if let Some(sha1) = &mut self.sha1 {
                sha1.update(stretch);
            }
            if let Some(tree) = &mut self.tree {
                tree.update(stretch);
            }
        }
    }

    /// The digests of what came. The caller sees to it that it was the whole piece.
    pub fn finish(self) -> PieceDigest {
        const ZEROS: [u8; 4096] = [0; 4096];
        let padded = |mut sha1: Sha1Hasher| {
            let mut left = self.padding as usize;
            while left > 0 {
                let now = left.min(ZEROS.len());
                sha1.update(&ZEROS[..now]);
                left -= now;
            }
            Sha1(sha1.finalize().into())
        };
        PieceDigest {
            sha1: self.sha1.map(padded),
            node: self.tree.map(PieceHasher::finish),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::piece_node;

    const BOTH: DigestKind = DigestKind {
        sha1: true,
        tree: true,
    };

    #[test]
    fn slices_of_any_size_give_the_same_digests() {
        let layout = Layout::new(Some(100_000), 64 << 10).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
            .take(100_000)
            .collect();
        for piece in layout.pieces() {
            let range = layout.piece_bytes(piece);
            let bytes =
                &data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            let whole = PieceDigest {
                sha1: Some(sha1(bytes)),
                node: piece_node(bytes, &layout, piece),
            };
            for size in [1, 7, 4096, 16384, 16385, 70_000] {
                let mut digester = PieceDigester::new(BOTH, &layout, piece);
                bytes.chunks(size).for_each(|slice| digester.update(slice));
                assert_eq!(digester.missing(), 0);
                assert_eq!(digester.finish(), whole, "{piece:?} by {size}");
            }
        }
    }

    #[test]
    fn in_a_folder_each_piece_is_hashed_in_its_own_file() {
        let name = |name| vec![crate::SafeName::new(name).unwrap()];
        let files = [(name("a"), 70_000), (name("b"), 1)];
        let layout = Layout::folder(files, 64 << 10).unwrap();
        let digest = |piece, bytes: &[u8]| {
            let mut digester = PieceDigester::new(BOTH, &layout, PieceIndex(piece));
            digester.update(bytes);
            digester.finish()
        };
        let single = |length, piece, bytes: &[u8]| {
            let layout = Layout::new(Some(length), 64 << 10).unwrap();
            piece_node(bytes, &layout, PieceIndex(piece))
        };
        let (tail, mut padded) = ([7; 70_000 - (64 << 10)], vec![7; 70_000 - (64 << 10)]);
        padded.resize(64 << 10, 0);
        let found = digest(1, &tail);
        assert_eq!(found.sha1, Some(sha1(&padded)));
        assert_eq!(found.node, single(70_000, 1, &tail));
        let found = digest(2, b"x");
        assert_eq!(found.node, single(1, 0, b"x"), "the root of a small file");
    }

    #[test]
    fn only_what_was_asked_for_is_made() {
        let layout = Layout::new(Some(10), 16 << 10).unwrap();
        let none = DigestKind {
            sha1: false,
            tree: false,
        };
        let digest = PieceDigester::new(none, &layout, PieceIndex(0)).finish();
        assert_eq!((digest.sha1, digest.node), (None, None));
        // Three blocks a piece: no tree exists.
        let layout = Layout::new(Some(10), 48 << 10).unwrap();
        let digest = PieceDigester::new(BOTH, &layout, PieceIndex(0)).finish();
        assert_eq!(digest.node, None);
        assert_eq!(
            digest.sha1.unwrap().to_string(),
            "da39a3ee5e6b4b0d3255bfef95601890afd80709"
        );
        assert!(sha256(b"").to_string().starts_with("e3b0c442"));
    }
}
