//! Where bytes come from, and how that is shown to people.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

/// Longer URLs are refused, from users and in redirects alike (RFC 9110 section 4.1 asks for 8000 octets at least).
const LONGEST: usize = 16 * 1024;

/// The URL of an origin's object: `http`, `https` or `file`. Printed without user, password, query and fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SourceUrl(Url);

/// Why a text is not a [`SourceUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceUrlError {
    /// Not a URL at all.
    #[error("this is not a URL ({0}): write it like https://host/path or file:///path")]
    Syntax(#[from] url::ParseError),
    /// A scheme that the design knows and this version does not.
    #[error("`{0}:` URLs are not supported yet: use the object's https:// URL")]
    LaterScheme(String),
    /// A scheme that nobody plans to read.
    #[error("`{0}:` URLs cannot be read: use http, https or file")]
    Scheme(String),
    /// A `file:` URL that names no path on this machine.
    #[error("this file: URL names no path on this machine: write it like file:///path")]
    FilePath,
    /// A URL beyond all reason.
    #[error("the URL has {0} characters; the limit is {LONGEST}")]
    TooLong(usize),
}

impl SourceUrl {
    /// Checks what a user or a redirect named. The fragment is cut off: it never goes to a server.
    ///
    /// # Errors
    /// [`SourceUrlError`] says what is wrong with the text.
    pub fn from_url(mut url: Url) -> Result<Self, SourceUrlError> {
        if url.as_str().len() > LONGEST {
            return Err(SourceUrlError::TooLong(url.as_str().len()));
        }
        match url.scheme() {
            "http" | "https" => url.set_fragment(None),
            "file" => {
                url.set_fragment(None);
                url.set_query(None);
                // A NUL cannot be in a path, and a separator must not hide in a segment.
                let path = url.path().to_ascii_lowercase();
                if url.to_file_path().is_err() || path.contains("%00") || path.contains("%2f") {
                    return Err(SourceUrlError::FilePath);
                }
            }
            "s3" | "gs" | "az" => return Err(SourceUrlError::LaterScheme(url.scheme().into())),
            other => return Err(SourceUrlError::Scheme(other.into())),
        }
        Ok(Self(url))
    }

    /// The URL of a local file.
    ///
    /// # Errors
    /// [`SourceUrlError::FilePath`] when the path is not absolute.
    pub fn from_path(path: &Path) -> Result<Self, SourceUrlError> {
        let url = Url::from_file_path(path).map_err(|()| SourceUrlError::FilePath)?;
        Self::from_url(url)
    }

    /// The whole URL, secrets included.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The whole URL as text, secrets included: for requests and for the disk, not for people.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The path, when this is a local file.
    pub fn file_path(&self) -> Option<PathBuf> {
        (self.0.scheme() == "file").then(|| self.0.to_file_path().ok())?
    }

    /// The last path segment, percent-decoded: what the object is called. `None` when there is none or it is not UTF-8.
    /// Whoever makes a file of it must check that the name is safe.
    pub fn name(&self) -> Option<String> {
        let segment = self
            .0
            .path_segments()?
            .rfind(|segment| !segment.is_empty())?;
        Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())
    }

    /// What may be shown and logged: no user, no password, no fragment, no capability of a relay, and a query only as `?…`.
    pub fn redacted(&self) -> String {
        redact(&self.0)
    }
}

/// What comes before the capability in the path of a relay's web seed URL.
const BEFORE_CAPABILITY: &str = "/api/v1/w/";

/// A URL without its secrets: queries hold signatures, user parts hold passwords, and paths of relays hold capabilities.
pub(crate) fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs without a host, which have no such part.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_fragment(None);
    let query = shown.query().is_some();
    shown.set_query(None);
    let mut shown = String::from(shown);
    if let Some(at) = shown.find(BEFORE_CAPABILITY) {
        let start = at + BEFORE_CAPABILITY.len();
        let end = shown[start..].find('/');
        shown.replace_range(start..end.map_or(shown.len(), |end| start + end), "…");
    }
    if query {
        shown.push_str("?…");
    }
    shown
}

impl FromStr for SourceUrl {
    type Err = SourceUrlError;
    fn from_str(text: &str) -> Result<Self, SourceUrlError> {
        if text.len() > LONGEST {
            return Err(SourceUrlError::TooLong(text.len()));
        }
        Self::from_url(Url::parse(text)?)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SourceUrl {
        text.parse().unwrap()
    }

    #[test]
    fn secrets_are_never_shown() {
        let url = source("https://bob:pw@Host:443/a%20b/f.bin?X-Amz-Signature=abc#frag");
        assert_eq!(url.to_string(), "https://host/a%20b/f.bin?…");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert!(url.as_str().ends_with("?X-Amz-Signature=abc"));
        assert_eq!(source("http://h/x").to_string(), "http://h/x");
        for (url, shown) in [
            (
                "http://relay:80/api/v1/w/c4P-x/a/b.img",
                "http://relay/api/v1/w/…/a/b.img",
            ),
            (
                "http://h/base/api/v1/w/c4P?x#y",
                "http://h/base/api/v1/w/…?…",
            ),
            ("http://h/api/v1/w/", "http://h/api/v1/w/…"),
        ] {
            assert_eq!(source(url).to_string(), shown);
        }
    }

    #[test]
    fn the_name_is_the_last_segment() {
        assert_eq!(
            source("http://h/a/b%20c.iso?x=1").name().as_deref(),
            Some("b c.iso")
        );
        assert_eq!(source("http://h/a/dir/").name().as_deref(), Some("dir"));
        assert_eq!(source("http://h/").name(), None);
        assert_eq!(source("http://h/%ff").name(), None);
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        let error = |text: &str| text.parse::<SourceUrl>().unwrap_err();
        assert_eq!(error("s3://b/k"), SourceUrlError::LaterScheme("s3".into()));
        assert_eq!(error("ftp://h/f"), SourceUrlError::Scheme("ftp".into()));
        assert!(matches!(error("no url"), SourceUrlError::Syntax(_)));
        assert_eq!(error("file://elsewhere/f"), SourceUrlError::FilePath);
        assert_eq!(error("file:///a%00b"), SourceUrlError::FilePath);
        assert_eq!(
            error("file:///data/x%2f..%2f..%2Fetc/passwd"),
            SourceUrlError::FilePath
        );
        let long = format!("http://h/{}", "a".repeat(LONGEST));
        assert_eq!(error(&long), SourceUrlError::TooLong(long.len()));
    }

    #[test]
    fn files_are_paths() {
        let url = SourceUrl::from_path(Path::new("/data/a b#c?d")).unwrap();
        assert_eq!(url.file_path().as_deref(), Some(Path::new("/data/a b#c?d")));
        assert_eq!(url.name().as_deref(), Some("a b#c?d"));
        assert_eq!(source("http://h/f").file_path(), None);
        assert!(SourceUrl::from_path(Path::new("relative")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_can_be_shown_and_sent(tail in "[ -~]{0,40}", any in "\\PC{0,40}") {
            for text in [format!("http://host/{tail}"), format!("http://host/{any}?{any}"), any] {
                let Ok(url) = text.parse::<SourceUrl>() else { continue };
                let _ = (url.to_string(), url.name());
                if url.file_path().is_none() {
                    proptest::prop_assert!(url.as_str().parse::<http::Uri>().is_ok(), "{}", url.as_str());
                }
            }
        }
    }
}
