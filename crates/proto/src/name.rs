//! File names that may reach a disk.

use std::fmt;
use std::str::FromStr;

use caseless::Caseless as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use unicode_normalization::UnicodeNormalization as _;

use crate::percent;

/// The longest name in bytes. File systems allow 255; the rest is room for the suffixes of unfinished files.
pub const NAME_LENGTH_LIMIT: usize = 220;

/// What unfinished data, journals and locks lying beside a file have in their names; no content may be called so.
pub const WORKING_SUFFIX: &str = ".floodway";

/// Why a name may not reach a disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing is left to name a file.
    #[error("the file name is empty; give one (with -o)")]
    Empty,
    /// Longer than [`NAME_LENGTH_LIMIT`].
    #[error("a file name of {0} bytes is too long; the limit is {NAME_LENGTH_LIMIT}")]
    TooLong(usize),
    /// Not UTF-8, or a percent-escape that is none.
    #[error("the file name {0:?} is not UTF-8 text")]
    NotText(String),
    /// A separator, a control character, or one that some file system refuses.
    #[error("the file name {name:?} contains {character:?}, which is not allowed in file names")]
    Character {
        /// The whole name.
        name: String,
        /// The first character at fault.
        character: char,
    },
    /// A name that has a meaning of its own somewhere: `.`, `..`, a Windows device, a working file of ours.
    #[error("the file name {0:?} is reserved; it cannot be used on every system")]
    Reserved(String),
    /// A dot or a space at the end, which Windows drops.
    #[error("the file name {0:?} ends in a dot or a space")]
    Trailing(String),
}

/// A file name (one path segment) that is safe on every file system: UTF-8, 1 to [`NAME_LENGTH_LIMIT`] bytes,
/// without separators, control or text-direction characters and `< > : " | ? *`, not `.` or `..`, no Windows
/// device (`NUL`, `com1.txt`), no dot or space at the end, and without [`WORKING_SUFFIX`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SafeName(String);

impl SafeName {
    /// Takes `name` as it is.
    ///
    /// # Errors
    /// [`NameError`] when a rule above is broken. Names are refused, never changed: two contents must not meet in one file.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_LENGTH_LIMIT {
            return Err(NameError::TooLong(name.len()));
        }
        if let Some(character) = name.chars().find(|&c| !allowed(c)) {
            return Err(NameError::Character {
                name: name.into(),
                character,
            });
        }
        if name == "." || name == ".." || is_device(name) || is_working_file(name) {
            return Err(NameError::Reserved(name.into()));
        }
        if name.ends_with(['.', ' ']) {
            return Err(NameError::Trailing(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// The name a download of `url` gets: its last path segment, percent-decoded, without query and fragment.
    /// Takes a whole URL or only its path.
    ///
    /// # Errors
    /// [`NameError::Empty`] when the path is empty or ends in `/`, otherwise as [`SafeName::new`].
    pub fn from_url_path(url: &str) -> Result<Self, NameError> {
        let end = url.find(['?', '#']).unwrap_or(url.len());
        let path = &url[..end];
        let path = match path.split_once("://") {
            // What stands before the first slash is the host, not a file.
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => path,
        };
        let segment = path.rsplit('/').next().unwrap_or_default();
        let bytes = percent::decode(segment);
        let name = bytes.as_deref().and_then(|b| std::str::from_utf8(b).ok());
        Self::new(name.ok_or_else(|| NameError::NotText(segment.into()))?)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Bidirectional controls make a name look like another one.
fn allowed(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*'
        )
        && !matches!(
            character,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// Windows opens a device under these names whatever the extension, even with spaces before it.
fn is_device(name: &str) -> bool {
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end_matches(' ');
    let stem = stem.to_ascii_uppercase();
    if matches!(
        stem.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" | "CLOCK$"
    ) {
        return true;
    }
    let port = stem
        .strip_prefix("COM")
        .or_else(|| stem.strip_prefix("LPT"));
    port.is_some_and(|number| {
        let mut digits = number.chars();
        matches!(digits.next(), Some('0'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
    })
}

fn is_working_file(name: &str) -> bool {
    folded(name).contains(WORKING_SUFFIX)
}

/// Text as file systems know it that tell no case and normalise Unicode (APFS, NTFS, ext4 with `casefold`): texts that any of
/// them takes for equal are equal then. The canonical caseless matching of Unicode (D145).
pub(crate) fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfd().default_case_fold().nfd().collect()
}

impl fmt::Display for SafeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SafeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for SafeName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for SafeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SafeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in [
            "a",
            "disk.img",
            ".hidden",
            "with space",
            "Ünïcode-名前.bin",
            "console.log",
            "COM10",
            "COM",
            "nullable",
            "a..b",
            "-o",
            &"x".repeat(NAME_LENGTH_LIMIT),
        ] {
            assert_eq!(SafeName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_escape_or_mislead_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "..\\x",
            "a\0",
            "a\nb",
            "\u{7f}",
            "\u{85}",
            "C:",
            "a:b",
            "what?",
            "CON",
            "con",
            "nul.txt",
            "NUL .x",
            "Com1",
            "lpt9.tar.gz",
            "COM¹",
            "a.",
            "a ",
            "...",
            "x.floodway",
            "x.FLOODWAY-part",
            "x.\u{fb02}oodway",
            "evil\u{202e}gpj.exe",
            "conin$",
        ] {
            assert!(SafeName::new(name).is_err(), "{name:?}");
        }
        let long = "x".repeat(NAME_LENGTH_LIMIT + 1);
        assert_eq!(SafeName::new(&long), Err(NameError::TooLong(221)));
        assert_eq!(
            SafeName::new("a/b").unwrap_err().to_string(),
            r#"the file name "a/b" contains '/', which is not allowed in file names"#
        );
    }

    #[test]
    fn a_url_names_its_last_segment() {
        for (url, name) in [
            ("https://h:1/a/b%20c.img?x=/y#z", "b c.img"),
            ("/only/path.bin", "path.bin"),
            ("file:///srv/disk.img", "disk.img"),
            ("x.bin?sig=a://b/c", "x.bin"),
            ("http://h/%E2%82%AC", "€"),
        ] {
            assert_eq!(
                SafeName::from_url_path(url).unwrap().as_str(),
                name,
                "{url}"
            );
        }
        for url in ["http://host", "http://host/", "http://host/dir/", "", "?q"] {
            assert_eq!(SafeName::from_url_path(url), Err(NameError::Empty), "{url}");
        }
        for url in [
            "http://h/..%2f..%2fetc",
            "http://h/%2e%2e",
            "http://h/%ff",
            "http://h/%4",
            "http://h/a%00",
        ] {
            assert!(SafeName::from_url_path(url).is_err(), "{url}");
        }
    }

    #[test]
    fn settings_and_messages_check_names_too() {
        let name: SafeName = serde_json_like("disk.img").unwrap();
        assert_eq!(name.to_string(), "disk.img");
        assert!(serde_json_like("../disk.img").is_err());
    }

    fn serde_json_like(text: &str) -> Result<SafeName, serde::de::value::Error> {
        use serde::de::IntoDeserializer as _;
        SafeName::deserialize(text.into_deserializer())
    }

    proptest! {
        #[test]
        fn what_passes_is_one_plain_path_segment(text in "\\PC{0,40}|[./\\\\a-c]{0,8}|.{0,240}") {
            for name in [SafeName::new(&text), SafeName::from_url_path(&text)].into_iter().flatten() {
                let path = std::path::Path::new("dir").join(name.as_str());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("dir")));
                prop_assert_eq!(path.file_name().unwrap().to_str(), Some(name.as_str()));
                prop_assert!(name.as_str().len() <= NAME_LENGTH_LIMIT);
                prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
            }
        }
    }
}
