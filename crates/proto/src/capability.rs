//! Capabilities: short-lived tokens that let their bearer read one content from one relay.
//!
//! Entry: [`CapabilityKey`]. Control and a relay share a key; control issues, the relay verifies without asking.
//! A token is 96 characters that need no escaping in a URL: base64url of `sid 32 | expiry 8 | HMAC-SHA256 32`.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256 as Sha256Hasher;

use crate::Sid;

/// The length of every token in characters.
pub const CAPABILITY_LENGTH: usize = TOKEN_BYTES / 3 * 4;

const TOKEN_BYTES: usize = SIGNED_BYTES + 32;
const SIGNED_BYTES: usize = 32 + 8;
/// Keeps these MACs apart from all others that are ever made with the same key.
const DOMAIN: &[u8] = b"floodway capability v1\0";
/// The expiry of a token that lives as long as the content is published.
const NEVER: u64 = u64::MAX;

/// Why a token gives no access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Not a token at all.
    #[error("the capability is malformed; it must be {CAPABILITY_LENGTH} base64url characters")]
    Malformed,
    /// Not made with this key: for another relay, or invented.
    #[error("the capability was not issued for this relay")]
    Forged,
    /// Genuine, but its time is over.
    #[error("the capability has expired; ask control for a new one")]
    Expired,
}

/// The secret that control shares with one relay.
#[derive(Clone, PartialEq, Eq)]
pub struct CapabilityKey([u8; 32]);

impl fmt::Debug for CapabilityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityKey(…)")
    }
}

impl CapabilityKey {
    /// A key of these bytes, which must come from a cryptographic random generator.
    pub const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// The secret, to be stored or sent to the relay. It must not reach a log.
    pub const fn secret(&self) -> &[u8; 32] {
        &self.0
    }

    /// A token for the content `sid`, good until `expires_unix_s` (seconds since 1970), or for as long as the content is
    /// published.
    pub fn issue(&self, sid: Sid, expires_unix_s: Option<u64>) -> String {
        let mut token = [0; TOKEN_BYTES];
        token[..32].copy_from_slice(&sid.0);
        token[32..SIGNED_BYTES].copy_from_slice(&expires_unix_s.unwrap_or(NEVER).to_be_bytes());
        let mac = self.mac(&token[..SIGNED_BYTES]).finalize().into_bytes();
        token[SIGNED_BYTES..].copy_from_slice(&mac);
        base64_encode(&token)
    }

    /// The content that `text` gives access to at `now_unix_s`. The comparison takes the same time for every wrong MAC.
    ///
    /// # Errors
    /// [`CapabilityError`]: [`Expired`](CapabilityError::Expired) only if the token is genuine.
    pub fn verify(&self, text: &str, now_unix_s: u64) -> Result<Sid, CapabilityError> {
        let token = base64_decode(text).ok_or(CapabilityError::Malformed)?;
        let (signed, mac) = token.split_at(SIGNED_BYTES);
        self.mac(signed)
            .verify_slice(mac)
            .map_err(|_| CapabilityError::Forged)?;
        let mut sid = [0; 32];
        let mut expires = [0; 8];
        sid.copy_from_slice(&signed[..32]);
        expires.copy_from_slice(&signed[32..]);
        if u64::from_be_bytes(expires) <= now_unix_s {
            return Err(CapabilityError::Expired);
        }
        Ok(Sid(sid))
    }

    fn mac(&self, signed: &[u8]) -> Hmac<Sha256Hasher> {
        let mac = Hmac::<Sha256Hasher>::new_from_slice(&self.0);
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(DOMAIN);
        mac.update(signed);
        mac
    }
}

/// RFC 4648 section 5. A token is a multiple of 3 bytes long, so there is no padding and one form only.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64_encode(token: &[u8; TOKEN_BYTES]) -> String {
    let (triples, _) = token.as_chunks::<3>();
    let character = |bits: u32| char::from(ALPHABET[(bits & 63) as usize]);
    let quads = triples.iter().flat_map(|&[a, b, c]| {
        let bits = u32::from_be_bytes([0, a, b, c]);
        [18, 12, 6, 0].map(|shift| character(bits >> shift))
    });
    quads.collect()
}

fn base64_decode(text: &str) -> Option<[u8; TOKEN_BYTES]> {
    if text.len() != CAPABILITY_LENGTH {
        return None;
    }
    let mut token = [0; TOKEN_BYTES];
    let (quads, _) = text.as_bytes().as_chunks::<4>();
    let (triples, _) = token.as_chunks_mut::<3>();
    for (triple, quad) in triples.iter_mut().zip(quads) {
        let mut bits = 0;
        for &character in quad {
            bits = bits << 6 | u32::from(sextet(character)?);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        *triple = bytes;
    }
    Some(token)
}

fn sextet(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: CapabilityKey = CapabilityKey::new([7; 32]);

    #[test]
    fn a_token_opens_its_content_until_it_expires() {
        let sid = Sid([9; 32]);
        let token = KEY.issue(sid, Some(1000));
        assert_eq!(token.len(), CAPABILITY_LENGTH);
        assert_eq!(CAPABILITY_LENGTH, 96);
        assert!(
            token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
        assert_eq!(KEY.verify(&token, 999), Ok(sid));
        assert_eq!(KEY.verify(&token, 1000), Err(CapabilityError::Expired));
        let lasting = KEY.issue(sid, None);
        assert_eq!(KEY.verify(&lasting, u64::MAX - 1), Ok(sid));
    }

    #[test]
    fn wrong_tokens_are_told_apart() {
        let token = KEY.issue(Sid([9; 32]), Some(1));
        let other = CapabilityKey::new([8; 32]);
        assert_eq!(other.verify(&token, 0), Err(CapabilityError::Forged));
        // Forged beats expired: whoever cannot sign learns nothing.
        assert_eq!(other.verify(&token, 5), Err(CapabilityError::Forged));
        for text in [
            "",
            "x",
            &token[1..],
            &format!("{token}A"),
            &token.replace(&token[..1], "="),
            &"€".repeat(32),
        ] {
            assert_eq!(
                KEY.verify(text, 0),
                Err(CapabilityError::Malformed),
                "{text}"
            );
        }
    }

    #[test]
    fn the_format_does_not_change() {
        // Made with Python's hmac and base64 modules.
        assert_eq!(
            KEY.issue(Sid([1; 32]), Some(2)),
            "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEAAAAAAAAAAnzKT3nNDVg7bpbAoq95eLcw_9Etz2p8PEfLo0KTIhjV"
        );
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{KEY:?}"), "CapabilityKey(…)");
    }

    proptest! {
        #[test]
        fn one_changed_character_spoils_a_token(
            sid in any::<[u8; 32]>(),
            expires in prop::option::of(1u64..),
            at in 0..CAPABILITY_LENGTH,
            to in "[A-Za-z0-9_-]",
        ) {
            let token = KEY.issue(Sid(sid), expires);
            prop_assert_eq!(KEY.verify(&token, 0), Ok(Sid(sid)));
            let mut other = token.clone();
            other.replace_range(at..=at, &to);
            if other != token {
                prop_assert_eq!(KEY.verify(&other, 0), Err(CapabilityError::Forged));
            }
        }

        #[test]
        fn any_text_is_refused(text in "\\PC{0,120}|[A-Za-z0-9_-]{96}") {
            prop_assert!(KEY.verify(&text, 0).is_err());
        }
    }
}
