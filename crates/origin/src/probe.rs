//! What an object is, and what a later reply must agree with.

use std::fmt;
use std::str::FromStr;

use floodway_proto::Sha256;

use crate::SourceUrl;

/// What an origin says about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where the bytes really come from, after redirects.
    pub final_url: SourceUrl,
    /// The object's length in bytes, if the origin says it.
    pub length: Option<u64>,
    /// What tells this version from others.
    pub validator: Validator,
    /// Whether the origin answers ranges.
    pub ranges: bool,
    /// `Last-Modified` as the origin wrote it.
    pub last_modified: Option<String>,
    /// `Content-Type` as the origin wrote it.
    pub content_type: Option<String>,
    /// The object's SHA-256, if the origin offers it.
    pub digest: Option<Sha256>,
}

impl Probe {
    /// How this object can be read without ever mixing two versions.
    pub fn access(&self) -> Access {
        let pinned = matches!(
            self.validator,
            Validator::Strong(_) | Validator::File { .. }
        );
        if self.ranges && self.length.is_some() && pinned {
            Access::Ranges
        } else {
            Access::OneGet
        }
    }

    /// What later replies must agree with.
    pub fn expectation(&self) -> Expectation {
        Expectation {
            length: self.length,
            validator: self.validator.clone(),
        }
    }
}

/// How an object can be read safely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By ranges, from several connections and again after a break.
    Ranges,
    /// Only whole, by one GET from the beginning: there are no ranges, no length, or nothing that pins the version.
    OneGet,
}

/// What a reply must agree with. The default expects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// The object's whole length in bytes.
    pub length: Option<u64>,
    /// The object's version.
    pub validator: Validator,
}

/// What tells one version of an object from another. Prints as one line of text that reads back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Validator {
    /// A strong entity tag with its quotes: equal means equal bytes. Goes into `If-Match`.
    Strong(String),
    /// A weak entity tag or only a date: compared, never sent as a condition.
    Weak {
        /// `ETag` as the origin wrote it.
        etag: Option<String>,
        /// `Last-Modified` as the origin wrote it.
        last_modified: Option<String>,
    },
    /// A local file's state.
    File {
        /// Length in bytes.
        length: u64,
        /// Time of the last change in nanoseconds since 1970.
        mtime_ns: i128,
        /// The file's number in its file system.
        inode: u64,
    },
    /// Nothing.
    #[default]
    None,
}

impl Validator {
    /// The entity tag for `If-Match`, if there is one that may go there.
    pub fn strong(&self) -> Option<&str> {
        match self {
            Self::Strong(tag) => Some(tag),
            Self::Weak { .. } | Self::File { .. } | Self::None => None,
        }
    }
}

impl fmt::Display for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strong(tag) => write!(f, "etag {tag}"),
            Self::Weak {
                etag,
                last_modified,
            } => {
                let (etag, date) = (etag.as_deref(), last_modified.as_deref());
                // A tag holds no blank followed by `modified`, or it would not be one line of a header.
                write!(f, "weak {}", etag.unwrap_or("-"))?;
                date.map_or(Ok(()), |date| write!(f, " modified {date}"))
            }
            Self::File {
                length,
                mtime_ns,
                inode,
            } => write!(f, "file {length} {mtime_ns} {inode}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// A text that is no [`Validator`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a validator as this version writes it: begin the transfer again")]
pub struct ValidatorError(String);

impl FromStr for Validator {
    type Err = ValidatorError;
    fn from_str(text: &str) -> Result<Self, ValidatorError> {
        parse(text).ok_or_else(|| ValidatorError(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<Validator> {
    if text == "none" {
        return Some(Validator::None);
    }
    let (kind, rest) = text.split_once(' ')?;
    Some(match kind {
        "etag" => Validator::Strong(rest.into()),
        "weak" => {
            let (etag, date) = match rest.rsplit_once(" modified ") {
                Some((etag, date)) => (etag, Some(date.into())),
                None => (rest, None),
            };
            let etag = (etag != "-").then(|| etag.into());
            Validator::Weak {
                etag,
                last_modified: date,
            }
        }
        "file" => {
            let mut numbers = rest.split(' ');
            let validator = Validator::File {
                length: numbers.next()?.parse().ok()?,
                mtime_ns: numbers.next()?.parse().ok()?,
                inode: numbers.next()?.parse().ok()?,
            };
            numbers.next().is_none().then_some(validator)?
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validators_print_and_read_back() {
        let weak = |etag: Option<&str>, date: Option<&str>| Validator::Weak {
            etag: etag.map(Into::into),
            last_modified: date.map(Into::into),
        };
        for validator in [
            Validator::None,
            Validator::Strong("\"a b\"".into()),
            weak(Some("W/\"x\""), None),
            weak(None, Some("Sun, 06 Nov 1994 08:49:37 GMT")),
            weak(Some("W/\"x\""), Some("yesterday")),
            Validator::File {
                length: 1,
                mtime_ns: -5,
                inode: 9,
            },
        ] {
            assert_eq!(validator.to_string().parse(), Ok(validator));
        }
        for text in ["", "etag", "file 1 2", "file 1 2 3 4", "blob x"] {
            assert!(text.parse::<Validator>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_safe_only_with_length_and_a_pinned_version() {
        let mut probe = Probe {
            final_url: "http://h/f".parse().unwrap(),
            length: Some(5),
            validator: Validator::Strong("\"x\"".into()),
            ranges: true,
            last_modified: None,
            content_type: None,
            digest: None,
        };
        assert_eq!(probe.access(), Access::Ranges);
        probe.length = None;
        assert_eq!(probe.access(), Access::OneGet);
        probe.length = Some(5);
        probe.validator = Validator::Weak {
            etag: None,
            last_modified: Some("x".into()),
        };
        assert_eq!(probe.access(), Access::OneGet);
    }
}
