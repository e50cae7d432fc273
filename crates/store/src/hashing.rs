//! Hashing pieces: in order as blocks arrive, or many in parallel from the disk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use floodway_proto::digest::{DigestKind, PieceDigest, PieceDigester};
use floodway_proto::merkle::whole_piece_node;
use floodway_proto::{Layout, PieceIndex};

use crate::error::StoreError;
use crate::spec::Hashes;

/// No digest at all.
pub(crate) const NOTHING: PieceDigest = PieceDigest {
    sha1: None,
    node: None,
};

/// Bytes read at once when hashing from the disk.
const CHUNK: usize = 256 << 10;

/// Begins the digests of `piece`: as few as `hashes` needs.
pub(crate) fn digester(hashes: &Hashes, layout: &Layout, piece: PieceIndex) -> PieceDigester {
    let kind = match hashes {
        Hashes::V1(_) => DigestKind {
            sha1: true,
            tree: false,
        },
        Hashes::Facts(_) => DigestKind {
            sha1: true,
            tree: true,
        },
        Hashes::Unknown => DigestKind {
            sha1: false,
            tree: false,
        },
    };
    PieceDigester::new(kind, layout, piece)
}

/// True when a piece of `layout` with this digest may be held.
pub(crate) fn agrees(
    digest: &PieceDigest,
    hashes: &Hashes,
    layout: &Layout,
    piece: PieceIndex,
) -> bool {
    match hashes {
        Hashes::V1(expected) => {
            digest.sha1.is_some() && digest.sha1.as_ref() == expected.get(piece.0 as usize)
        }
        Hashes::Facts(nodes) => nodes.get(&piece).is_none_or(|&expected| {
            let layout = layout.of_piece(piece);
            let node = digest.node.map(|node| whole_piece_node(node, &layout));
            node == Some(expected)
        }),
        Hashes::Unknown => true,
    }
}

/// Hashes `pieces` on all cores. `read` fills its buffer from an offset; `progress` is told the bytes of each piece done.
///
/// # Errors
/// The first one of `read`.
pub(crate) fn digest_pieces(
    layout: &Layout,
    hashes: &Hashes,
    pieces: &[PieceIndex],
    read: impl Fn(u64, &mut [u8]) -> Result<(), StoreError> + Sync,
    progress: impl Fn(u64) + Sync,
) -> Result<Vec<PieceDigest>, StoreError> {
    let one = |piece: PieceIndex, buffer: &mut [u8]| {
        let mut digester = digester(hashes, layout, piece);
        let bytes = layout.piece_bytes(piece);
        let mut at = bytes.start;
        while at < bytes.end {
            let rest = usize::try_from(bytes.end - at).unwrap_or(usize::MAX);
            let chunk = &mut buffer[..rest.min(CHUNK)];
            read(at, chunk)?;
            digester.update(chunk);
            at += chunk.len() as u64;
        }
        progress(bytes.end - bytes.start);
        Ok(digester.finish())
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; CHUNK];
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&piece) = pieces.get(index) else {
                return Ok(done);
            };
            done.push((index, one(piece, &mut buffer)?));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(pieces.len());
    let mut digests = vec![NOTHING; pieces.len()];
    let results: Vec<Result<Vec<_>, StoreError>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        joined.collect()
    });
    for result in results {
        for (index, digest) in result? {
            digests[index] = digest;
        }
    }
    Ok(digests)
}
