//! The genesis of a content of one file, for tests of the crates above.

use floodway_proto::genesis::{FinalTorrents, Flavors, Genesis, GenesisFile, OriginIdentity};
use floodway_proto::record::SecretKey;
use floodway_proto::{SafeName, Sha256};

/// What control signs with here.
pub(crate) fn control_key() -> SecretKey {
    SecretKey::from_seed(&[3; 32])
}

/// Its records are signed with [`control_key`].
pub(crate) fn genesis(name: &str, length: Option<u64>, piece_length: u32, etag: &str) -> Genesis {
    let name = SafeName::new(name).unwrap();
    Genesis {
        created_unix_s: 1,
        final_torrents: FinalTorrents {
            flavors: Flavors::V1,
            private: true,
            source: String::new(),
        },
        keys: vec![control_key().public().to_bytes()],
        files: vec![GenesisFile {
            path: vec![name.clone()],
            length,
            url_suffix: String::new(),
            etag: etag.into(),
            last_modified: String::new(),
            version: String::new(),
        }],
        name,
        nonce: [7; 16],
        origin: OriginIdentity {
            etag: etag.into(),
            last_modified: String::new(),
            url_hash: Sha256([0; 32]),
            version: String::new(),
        },
        piece_length,
        strong: true,
        trust: 0,
    }
}
