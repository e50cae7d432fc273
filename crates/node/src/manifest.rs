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
