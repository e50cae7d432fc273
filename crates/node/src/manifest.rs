//! What control says of the signed side of a content, as this node takes it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use floodway_api::HexBytes;
use floodway_api::manifest::ManifestInfo;
use floodway_proto::manifest::Manifest;
use floodway_proto::record::{Signed, State};
use floodway_proto::{InfoHash, Sha256};

/// The records in a reply. One that cannot be read is left out: what it says comes by other records or not at all.
pub(crate) fn records(info: Option<&ManifestInfo>) -> Vec<Signed> {
    let records = info.into_iter().flat_map(|info| &info.records);
    let decode = |bytes: &HexBytes| {
        Signed::decode(Bytes::copy_from_slice(&bytes.0))
            .inspect_err(|error| tracing::warn!(%error, "control sent a record that is none"))
            .ok()
    };
    records.filter_map(decode).collect()
}

/// The name of a final content's v2 torrent, as control signed it: stock clients that have that torrent know no other name.
pub(crate) fn v2_name(manifest: &Manifest) -> Option<InfoHash> {
    match manifest.state() {
        State::Final(names) => names.v2.map(truncated),
        _ => None,
    }
}

/// A v2 info-hash as handshakes and trackers have it (BEP 52).
pub(crate) fn truncated(hash: Sha256) -> InfoHash {
    let mut name = [0; 20];
    name.copy_from_slice(&hash.0[..20]);
    InfoHash(name)
}

/// Takes the hashes of all pieces, which records leave out, from this node's disk. They are proven by what control sealed;
/// wrong ones, of a damaged file, are left out.
pub(crate) fn expand(manifest: &mut Manifest, hashes: &[Sha256]) {
    let mut piece = 0;
    while (piece as usize) < hashes.len() {
        let Some(node) = manifest.facts().sealed_node(piece) else {
            piece += 1;
            continue;
        };
        let pieces = manifest.facts().pieces_of(node);
        let of_node = hashes.get(pieces.start as usize..pieces.end as usize);
        if let Some(Err(error)) = of_node.map(|hashes| manifest.expand(node, hashes)) {
            tracing::warn!(%error, "hashes of a content on this disk are damaged");
        }
        piece = pieces.end.max(piece + 1);
    }
}

/// A key of control, if it is as long as one.
pub(crate) fn key(bytes: Option<&HexBytes>) -> Option<[u8; 32]> {
    let key = <[u8; 32]>::try_from(bytes?.0.as_slice());
    key.inspect_err(|_| tracing::warn!("control sent a key of a wrong length"))
        .ok()
}

/// Microseconds since 1970, to compare what different processes of one machine say.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use floodway_proto::digest;
    use floodway_proto::facts::Accept;
    use floodway_proto::manifest::{Sealer, Status};
    use floodway_proto::record::{Fact, LeaseId, State};

    use super::*;
    use crate::testing::{control_key, genesis};

    const PIECES: u32 = 700;

    /// A content of so many pieces of which control said only in sum what they hash to.
    fn in_sum(hashes: &[Sha256]) -> Manifest {
        let length = Some(u64::from(PIECES) * 16_384);
        let genesis = genesis("f", length, 16_384, "\"v1\"");
        let mut manifest = Manifest::new(genesis.clone(), Accept::Sealed).unwrap();
        let mut facts = manifest.facts().clone();
        for (index, &hash) in (0..).zip(hashes) {
            let (file, layer) = (0, 0);
            facts
                .seal(&Fact {
                    file,
                    layer,
                    index,
                    hash,
                })
                .unwrap();
        }
        let status = Status {
            length: genesis.length(),
            sealed: PIECES,
            state: State::Open,
            lease_floor: LeaseId(0),
            revoked: Vec::new(),
            time_unix_ms: 0,
        };
        let mut sealer = Sealer::new(genesis.sid(), control_key(), 0, 1);
        for record in sealer.checkpoint(&facts, &[], &status).unwrap() {
            manifest.apply(&record).unwrap();
        }
        manifest
    }

    #[test]
    fn kept_hashes_are_taken_where_they_are_proven() {
        let hashes: Vec<_> = (0..PIECES)
            .map(|piece| digest::sha256(&piece.to_be_bytes()))
            .collect();
        let mut manifest = in_sum(&hashes);
        assert!(manifest.facts().proven_pieces() < PIECES);
        expand(&mut manifest, &hashes);
        assert_eq!(manifest.facts().proven_pieces(), PIECES);
        // A damaged or torn file does no harm.
        let mut manifest = in_sum(&hashes);
        let mut damaged = hashes.clone();
        damaged[600] = Sha256([0; 32]);
        expand(&mut manifest, &damaged);
        assert!((512..PIECES).contains(&manifest.facts().proven_pieces()));
        let mut manifest = in_sum(&hashes);
        expand(&mut manifest, &hashes[..600]);
        assert!(!manifest.facts().is_proven(600));
        expand(&mut manifest, &[]);
    }
}
