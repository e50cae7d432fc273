//! From a URL to an HTTP source: probing, pinning, and which redirects may be followed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use floodway_origin::{Expectation, Origin, OriginError, Probe, SourceUrl, UrlCheck, Validator};
use floodway_swarm::SourceClass;
use url::Url;

use crate::{HttpSource, Session};

/// Tries of a probe that fails for a passing reason, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a busy origin is waited for.
const BUSY_FOR: Duration = Duration::from_mins(5);

/// The session's reader of origins, asking `check` about every URL.
pub(crate) fn reader(session: &Session, check: Option<&Arc<dyn UrlCheck>>) -> Origin {
    match check {
        Some(check) => session.origin().checked_by(Arc::clone(check)),
        None => session.origin().clone(),
    }
}

/// Learns what is at `url`; a passing trouble is waited for, a busy origin as long as it asks.
///
/// # Errors
/// [`OriginError`].
pub(crate) async fn probe(
    session: &Session,
    url: &SourceUrl,
    check: Option<&Arc<dyn UrlCheck>>,
) -> Result<Probe, OriginError> {
    let origin = reader(session, check);
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        let error = match origin.probe(url, session.origin_guard(), None).await {
            Ok(probe) => return Ok(probe),
            Err(error) => error,
        };
        tries += 1;
        match again(&error, tries, begun.elapsed()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

/// An object that is read by one GET of the whole may break off so often in a row: each time it is read from its first byte on,
/// which may cost its origin another copy.
pub(crate) const WHOLE_TRIES: u32 = 4;

/// The body stopped before it was whole.
pub(crate) fn broke_off(error: &OriginError) -> bool {
    matches!(
        error,
        OriginError::Broken { .. } | OriginError::Short { .. } | OriginError::Stalled { .. }
    )
}

/// How long to wait before the next try; `None`: give up.
pub(crate) fn again(error: &OriginError, tries: u32, since: Duration) -> Option<Duration> {
    if let OriginError::Busy { retry_after, .. } = error {
        let pause = retry_after.unwrap_or(PAUSE * 2).max(PAUSE);
        return (since + pause <= BUSY_FOR).then_some(pause);
    }
    (error.is_transient() && tries < TRIES).then_some(PAUSE * tries)
}

/// The source that `probe` described.
pub(crate) fn source(
    url: &SourceUrl,
    probe: &Probe,
    check: Option<&Arc<dyn UrlCheck>>,
) -> HttpSource {
    HttpSource {
        url: url.clone(),
        class: SourceClass::Origin,
        bearer: None,
        expect: probe.expectation(),
        access: probe.access(),
        check: check.cloned(),
        files: None,
    }
}

/// Holds a probe against what control or a torrent says of the content.
///
/// # Errors
/// [`OriginError::Changed`] when the object is another one.
pub(crate) fn agrees(
    url: &SourceUrl,
    probe: &Probe,
    length: Option<u64>,
    etag: Option<&str>,
) -> Result<(), OriginError> {
    let changed = |what, expected: String, found: String| OriginError::Changed {
        url: url.to_string(),
        what,
        expected,
        found,
    };
    if let (Some(expected), Some(found)) = (length, probe.length)
        && expected != found
    {
        return Err(changed(
            "its length",
            expected.to_string(),
            found.to_string(),
        ));
    }
    let found = etag_of(&probe.validator);
    match etag.filter(|etag| !etag.is_empty()) {
        Some(expected) if found.as_deref() != Some(expected) => Err(changed(
            "its ETag",
            expected.to_owned(),
            found.unwrap_or_else(|| "not said".into()),
        )),
        _ => Ok(()),
    }
}

/// What control and genesis keep as the object's strong ETag. A local file's state takes its place, in quotes.
pub(crate) fn etag_of(validator: &Validator) -> Option<String> {
    match validator {
        Validator::Strong(tag) => Some(tag.clone()),
        Validator::File { .. } => Some(format!("\"{validator}\"")),
        Validator::Weak { .. } | Validator::None => None,
    }
}

/// The expectation that a genesis' `etag` and `last modified` (empty: none) stand for.
pub(crate) fn expectation(length: Option<u64>, etag: &str, last_modified: &str) -> Expectation {
    let file = etag
        .trim_matches('"')
        .parse()
        .ok()
        .filter(|validator| matches!(validator, Validator::File { .. }));
    let validator = match (file, etag, last_modified) {
        (Some(file), ..) => file,
        (None, "", "") => Validator::None,
        (None, "", date) => Validator::Weak {
            etag: None,
            last_modified: Some(date.to_owned()),
        },
        (None, tag, _) => Validator::Strong(tag.to_owned()),
    };
    Expectation { length, validator }
}

/// Permits only the URL's own host. The allow-list is control's: it has checked the URL, but sees no redirect.
pub(crate) fn same_host(url: &SourceUrl) -> Arc<dyn UrlCheck> {
    let host = url.as_url().host_str().map(str::to_owned);
    Arc::new(move |asked: &Url| {
        let name = asked.host_str();
        if name.map(str::to_owned) == host {
            return Ok(());
        }
        Err(format!(
            "a redirect leads from {} to {}; relays and agents stay on the host that was permitted: name the final URL instead",
            host.as_deref().unwrap_or("a local file"),
            name.unwrap_or("no host"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use floodway_origin::Access;

    use super::*;

    fn url(text: &str) -> SourceUrl {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_stay_on_the_host() {
        let check = same_host(&url("http://a.example:8080/f"));
        for (target, permitted) in [
            ("http://a.example:8080/g", true),
            ("https://a.example/f", true),
            ("http://b.example/f", false),
            ("http://169.254.169.254/", false),
        ] {
            assert_eq!(
                check.check(&Url::parse(target).unwrap()).is_ok(),
                permitted,
                "{target}"
            );
        }
        assert!(
            same_host(&url("file:///data/f"))
                .check(&Url::parse("file:///data/f").unwrap())
                .is_ok()
        );
    }

    #[test]
    fn validators_pass_through_genesis() {
        for validator in [
            Validator::Strong("\"x y\"".into()),
            Validator::File {
                length: 3,
                mtime_ns: 4,
                inode: 5,
            },
        ] {
            let etag = etag_of(&validator).unwrap();
            assert!(etag.starts_with('"') && etag.ends_with('"'));
            assert_eq!(expectation(Some(3), &etag, "").validator, validator);
        }
        assert_eq!(
            etag_of(&Validator::Weak {
                etag: Some("W/\"x\"".into()),
                last_modified: None
            }),
            None
        );
        assert_eq!(expectation(Some(3), "", "").validator, Validator::None);
        assert!(matches!(
            expectation(Some(3), "", "d").validator,
            Validator::Weak {
                etag: None,
                last_modified: Some(_)
            }
        ));
    }

    #[test]
    fn another_length_or_etag_is_another_object() {
        let url = url("http://h/f");
        let probe = Probe {
            final_url: url.clone(),
            length: Some(5),
            validator: Validator::Strong("\"x\"".into()),
            ranges: true,
            last_modified: None,
            content_type: None,
            digest: None,
        };
        assert_eq!(source(&url, &probe, None).access, Access::Ranges);
        assert!(agrees(&url, &probe, Some(5), Some("\"x\"")).is_ok());
        assert!(agrees(&url, &probe, None, Some("")).is_ok());
        assert!(
            agrees(&url, &probe, Some(6), None)
                .unwrap_err()
                .is_changed()
        );
        assert!(
            agrees(&url, &probe, None, Some("\"y\""))
                .unwrap_err()
                .is_changed()
        );
    }

    #[test]
    fn passing_trouble_is_waited_for_and_the_rest_is_not() {
        let busy = |retry_after| OriginError::Busy {
            url: String::new(),
            status: 503,
            retry_after,
        };
        let soon = Duration::from_secs(7);
        assert_eq!(again(&busy(Some(soon)), 50, Duration::ZERO), Some(soon));
        assert_eq!(again(&busy(Some(BUSY_FOR)), 1, soon), None);
        let broken = OriginError::Short {
            url: String::new(),
            got: 1,
            expected: 2,
            marked: false,
        };
        assert!(again(&broken, 1, Duration::ZERO).is_some());
        assert_eq!(again(&broken, TRIES, Duration::ZERO), None);
        let missing = OriginError::NotFound {
            url: String::new(),
            status: Some(404),
        };
        assert_eq!(again(&missing, 1, Duration::ZERO), None);
    }
}
