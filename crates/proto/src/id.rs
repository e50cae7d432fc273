//! Names: contents, torrents, nodes. Each is a type, printed and read as lower-case hex.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a name could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: it must be {length} hexadecimal digits")]
pub struct IdError {
    text: String,
    what: &'static str,
    length: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $length:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError { text: text.into(), what: $what, length: $length * 2 })?;
                Ok(Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// Names a swarm: SHA-256 of its genesis record.
    Sid, 32, "swarm id (sid)"
);
id!(
    /// A 20-byte name in a BitTorrent handshake: a v1 info-hash, a truncated v2 one, or a truncated [`Sid`].
    InfoHash, 20, "info-hash"
);
id!(
    /// Names a node (relay or agent) for its whole life; control assigns it at enrolment.
    NodeId, 16, "node id"
);
id!(
    /// The 20 bytes by which a peer introduces itself in a BitTorrent handshake (BEP 20).
    PeerName, 20, "peer id"
);
id!(
    /// A SHA-256 digest: a node of the hash tree, or of a whole file.
    Sha256, 32, "SHA-256 digest"
);
id!(
    /// A SHA-1 digest: one entry of a v1 torrent's `pieces`.
    Sha1, 20, "SHA-1 digest"
);

impl Sid {
    /// The first 20 bytes: the swarm's name in handshakes among own nodes.
    pub fn truncated(&self) -> InfoHash {
        let mut name = [0; 20];
        name.copy_from_slice(&self.0[..20]);
        InfoHash(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_as_hex_and_read_back() {
        let sid = Sid([0xab; 32]);
        assert_eq!(sid.to_string().parse(), Ok(sid));
        assert_eq!(sid.truncated(), InfoHash([0xab; 20]));
        assert_eq!(
            "xyz".parse::<NodeId>().unwrap_err().to_string(),
            "`xyz` is not a node id: it must be 32 hexadecimal digits"
        );
    }
}
