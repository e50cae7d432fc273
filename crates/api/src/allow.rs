//! Which origins may be read at all.

use std::fmt;

use percent_encoding::percent_decode;
use url::Url;

/// The URL prefixes that an operator permits (`--allow-origin`); none by default, and then nothing is permitted.
///
/// Scheme, host, port and whole path segments are compared, percent-decoded: `https://host/data` permits
/// `https://HOST:443/data/x?y`, not `https://host/database`. Prefixes of files (`file:///srv/data`) are paths on the
/// relay that reads; a link within them is followed wherever it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Prefix>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix {
    place: Place,
    segments: Vec<Vec<u8>>,
}

/// Scheme, host and port; the parser has already lowered the case and filled in the default port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    scheme: String,
    host: Option<String>,
    port: Option<u16>,
}

/// A prefix that cannot be what its author meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{prefix}` is not a prefix of origin URLs: {problem}; write it like https://host/path or file:///path"
)]
pub struct BadPrefix {
    prefix: String,
    problem: String,
}

/// A URL that no prefix permits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("url: {url} {reason}")]
pub struct NotAllowed {
    url: String,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error(
        "is not on the list of allowed origins; the operator can add a prefix of it with --allow-origin"
    )]
    NotListed,
    #[error(
        "holds a user or password; leave it out, credentials belong into the relay's configuration"
    )]
    Credentials,
    #[error("hides `..` in a path segment; write the path without it")]
    HiddenDots,
}

impl NotAllowed {
    /// The field of a request that is to blame.
    pub const FIELD: &'static str = "url";
}

impl AllowList {
    /// Reads the prefixes as an operator wrote them.
    ///
    /// # Errors
    /// [`BadPrefix`] names the first that is not a plain http, https or file URL.
    pub fn parse<S: AsRef<str>>(prefixes: &[S]) -> Result<Self, BadPrefix> {
        let prefixes = prefixes.iter().map(|prefix| Prefix::parse(prefix.as_ref()));
        Ok(Self(prefixes.collect::<Result<_, _>>()?))
    }

    /// True when nothing is permitted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Permits the URL or not. The query and the fragment do not matter.
    ///
    /// # Errors
    /// [`NotAllowed`], whose text names the field `url`, the URL without its secrets, and what to do.
    pub fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        let refuse = |reason| {
            Err(NotAllowed {
                url: shown(url),
                reason,
            })
        };
        if has_credentials(url) {
            return refuse(Reason::Credentials);
        }
        let segments = segments(url);
        if segments.iter().any(|segment| hides_dots(segment)) {
            return refuse(Reason::HiddenDots);
        }
        let place = Place::of(url);
        let permits =
            |prefix: &Prefix| prefix.place == place && segments.starts_with(&prefix.segments);
        if self.0.iter().any(permits) {
            Ok(())
        } else {
            refuse(Reason::NotListed)
        }
    }
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, BadPrefix> {
        let bad = |problem: &dyn fmt::Display| BadPrefix {
            prefix: Url::parse(text)
                .map_or_else(|_| text.chars().take(200).collect(), |url| shown(&url)),
            problem: problem.to_string(),
        };
        let url = Url::parse(text.trim()).map_err(|error| bad(&error))?;
        let place = Place::of(&url);
        match url.scheme() {
            "http" | "https" => {}
            "file" if place.host.is_none() => {}
            "file" => return Err(bad(&"a file prefix names no host")),
            scheme => return Err(bad(&format_args!("`{scheme}:` URLs cannot be read"))),
        }
        if has_credentials(&url) {
            return Err(bad(&"credentials have no place in it"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad(&"a query or fragment is never compared"));
        }
        let mut segments = segments(&url);
        if segments.iter().any(|segment| hides_dots(segment)) {
            return Err(bad(&"it hides `..` in a path segment"));
        }
        // `https://host/data/` and `https://host/data` mean the same.
        if segments.last().is_some_and(Vec::is_empty) {
            segments.pop();
        }
        Ok(Self { place, segments })
    }
}

impl Place {
    fn of(url: &Url) -> Self {
        Self {
            scheme: url.scheme().into(),
            host: url
                .host_str()
                .filter(|host| !host.is_empty())
                .map(Into::into),
            port: url.port_or_known_default(),
        }
    }
}

fn segments(url: &Url) -> Vec<Vec<u8>> {
    let segments = url.path_segments().into_iter().flatten();
    segments
        .map(|segment| percent_decode(segment.as_bytes()).collect())
        .collect()
}

/// Whether some server or file system might read the decoded segment as a step out of the folder. The URL parser
/// resolves plain `..` and `%2e%2e`; left are encoded separators, a second layer of encoding, and `..;parameters`.
fn hides_dots(segment: &[u8]) -> bool {
    let decoded: Vec<u8> = percent_decode(segment).collect();
    let steps_out = |segment: &[u8]| {
        let mut parts = segment.split(|byte| matches!(byte, b'/' | b'\\'));
        parts.any(|part| matches!(part.split(|&byte| byte == b';').next(), Some(b"." | b"..")))
    };
    steps_out(segment) || steps_out(&decoded) || decoded.contains(&0)
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// The URL without user, password, query and fragment.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have them.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(prefix: &str, url: &str) -> bool {
        let list = AllowList::parse(&[prefix]).unwrap();
        list.check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn nothing_is_permitted_by_default() {
        let list = AllowList::parse::<&str>(&[]).unwrap();
        assert!(list.is_empty());
        let url = Url::parse("http://bob@host/f?sig=1").unwrap();
        assert!(list.check(&url).is_err());
        let error = list
            .check(&Url::parse("http://host/f?sig=1#x").unwrap())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "url: http://host/f is not on the list of allowed origins; the operator can add a prefix of it with --allow-origin"
        );
    }

    #[test]
    fn whole_segments_are_compared() {
        for prefix in [
            "https://host/data",
            "https://host/data/",
            "HTTPS://HOST:443/./data",
        ] {
            for url in [
                "https://host/data",
                "https://host/data/",
                "https://host:443/data/x?q",
                "https://host/d%61ta/x",
            ] {
                assert!(permits(prefix, url), "{prefix} {url}");
            }
            for url in [
                "https://host/database",
                "https://host/",
                "https://host/Data/x",
                "http://host/data/x",
                "https://host:444/data/x",
                "https://host.evil/data/x",
                "https://evil/host/data/x",
                "https://host@evil/data/x",
                "https://host:443@evil/data/x",
                "https://evil#@host/data/x",
                "https://evil\\@host/data/x",
                "https://host/data%2fx",
                "https://host//data/x",
                "file:///data/x",
            ] {
                assert!(!permits(prefix, url), "{prefix} {url}");
            }
        }
        assert!(permits("http://host", "http://host/any/thing"));
        assert!(permits("http://127.0.0.1:8080/", "http://127.1:8080/x"));
        assert!(!permits("http://127.0.0.1:8080/", "http://127.0.0.1/x"));
        assert!(permits("http://[::1]:80", "http://[0:0:0:0:0:0:0:1]/x"));
        assert!(permits(
            "https://bücher.example/",
            "https://xn--bcher-kva.example/x"
        ));
    }

    #[test]
    fn no_dots_lead_out() {
        for url in [
            "http://host/data/../secret",
            "http://host/data/%2e%2e/secret",
            "http://host/data/%2E./secret",
            "http://host/data/x%2f..%2f..%2fsecret",
            "http://host/data/..%2fsecret",
            "http://host/data/..%5csecret",
            "http://host/data/..\\secret",
            "http://host/data/%252e%252e/secret",
            "http://host/data/..;a=b/secret",
            "http://host/data/%00",
            "file:///data/../secret",
            "file:///data/..%2fsecret",
        ] {
            for prefix in ["http://host/data", "file:///data"] {
                assert!(!permits(prefix, url), "{prefix} {url}");
            }
        }
        assert!(permits("http://host/data", "http://host/x/../data/y"));
        assert!(permits("http://host/data", "http://host/data/..x/y..z/..."));
        assert!(permits("http://host/data", "http://host/data/a%2Fb"));
        assert!(permits("http://host/data", "http://host/data/100%25"));
    }

    #[test]
    fn files_are_paths() {
        assert!(permits("file:///srv/data", "file:///srv/data/x"));
        assert!(permits("file:///srv/data", "file://localhost/srv/data/x"));
        assert!(!permits("file:///srv/data", "file:///srv/data2/x"));
        assert!(!permits("file:///srv/data", "file://other/srv/data/x"));
        assert!(!permits("file:///srv/data", "http://srv/data"));
        assert!(permits("file:///", "file:///any"));
    }

    #[test]
    fn credentials_are_refused_wherever_they_stand() {
        let list = AllowList::parse(&["http://host/"]).unwrap();
        let error = list
            .check(&Url::parse("http://bob:secret@host/f").unwrap())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("url: http://host/f holds a user or password")
        );
        let error = AllowList::parse(&["http://bob:secret@host/"]).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn bad_prefixes_are_named() {
        for prefix in [
            "",
            "host/path",
            "ftp://host/",
            "s3://bucket/",
            "file://host/path",
            "http://host/?q",
            "http://host/#f",
            "http://host/a%2f..%2fb",
        ] {
            let error = AllowList::parse(&["http://good/", prefix]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("`{}", prefix.split(['?', '#']).next().unwrap())),
                "{error}"
            );
        }
    }
}
