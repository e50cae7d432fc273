//! Redirects: which may be followed, and which are remembered so that a balancer is not asked for every range.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, StatusCode, header};
use url::Url;

use crate::header::{Lifetime, lifetime, text};
use crate::url::redact;
use crate::{OriginError, SourceUrl};

/// More hops than this are taken for a loop.
pub(crate) const MOST_HOPS: usize = 10;

/// Rules which URLs may be read: the allow-list. Asked about every URL before it is read, redirect targets included.
pub trait UrlCheck: Send + Sync {
    /// Permits the URL or not.
    ///
    /// # Errors
    /// The reason for people.
    fn check(&self, url: &Url) -> Result<(), String>;
}

impl<F: Fn(&Url) -> Result<(), String> + Send + Sync> UrlCheck for F {
    fn check(&self, url: &Url) -> Result<(), String> {
        self(url)
    }
}

/// Where a redirecting reply leads, and for how long that may be remembered (`None`: not at all).
pub(crate) struct Hop {
    pub(crate) target: Url,
    pub(crate) memory: Option<Duration>,
}

pub(crate) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Reads the redirect that `from` answered.
///
/// # Errors
/// [`OriginError::Redirect`] when it leads nowhere that may be read.
pub(crate) fn hop(from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Hop, OriginError> {
    let refuse = |problem: String| OriginError::Redirect {
        url: redact(from),
        problem,
    };
    let location = text(headers, &header::LOCATION)
        .ok_or_else(|| refuse("it has no usable Location".into()))?;
    let target = from
        .join(location)
        .map_err(|error| refuse(format!("its Location is not a URL ({error})")))?;
    let target = SourceUrl::from_url(target).map_err(|error| refuse(error.to_string()))?;
    let target = target.as_url().clone();
    match (from.scheme(), target.scheme()) {
        (_, "file") => return Err(refuse("it leads to a local file".into())),
        ("https", "http") => return Err(refuse("it leads from https to http".into())),
        _ => {}
    }
    Ok(Hop {
        target,
        memory: memory(status, headers),
    })
}

/// Redirects that say nothing about it are kept this long: balancers spread transfers, not the ranges of one.
const SHORT: Duration = Duration::from_mins(10);
/// Nothing is kept longer than this, so that a permanent move can be taken back.
const LONG: Duration = Duration::from_hours(24);

fn memory(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status == StatusCode::SEE_OTHER {
        return None;
    }
    let permanent = matches!(status.as_u16(), 301 | 308);
    match lifetime(headers, SystemTime::now()) {
        Lifetime::Never => None,
        Lifetime::For(age) => Some(age.min(LONG)),
        Lifetime::Unsaid if permanent => Some(LONG),
        Lifetime::Unsaid => Some(SHORT),
    }
}

/// Where requests for a URL went last time.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<SourceUrl, Remembered>>);

#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) target: Url,
    pub(crate) until: Instant,
}

impl Memory {
    /// More URLs than this are not remembered.
    const MOST: usize = 1024;

    pub(crate) fn get(&self, source: &SourceUrl) -> Option<Remembered> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = memory.get(source)?.clone();
        if found.until <= Instant::now() {
            memory.remove(source);
            return None;
        }
        Some(found)
    }

    pub(crate) fn put(&self, source: &SourceUrl, remembered: Remembered) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.len() >= Self::MOST {
            let now = Instant::now();
            memory.retain(|_, entry| entry.until > now);
        }
        if memory.len() < Self::MOST || memory.contains_key(source) {
            memory.insert(source.clone(), remembered);
        }
    }

    pub(crate) fn forget(&self, source: &SourceUrl) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        memory.remove(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let parse = |&(name, value): &(&'static str, &str)| {
            (
                header::HeaderName::from_static(name),
                value.parse().unwrap(),
            )
        };
        pairs.iter().map(parse).collect()
    }

    fn follow(from: &str, location: &str) -> Result<String, String> {
        let headers = headers(&[("location", location)]);
        let hop = hop(&Url::parse(from).unwrap(), StatusCode::FOUND, &headers);
        hop.map(|hop| hop.target.into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn targets_are_relative_without_fragment_and_never_less_safe() {
        assert_eq!(
            follow("http://h/a/b", "../c#x").as_deref(),
            Ok("http://h/c")
        );
        assert_eq!(
            follow("http://h/a", "//i/ü").as_deref(),
            Ok("http://i/%C3%BC")
        );
        assert_eq!(
            follow("http://h/a", "https://h/a").as_deref(),
            Ok("https://h/a")
        );
        for (from, location, problem) in [
            ("https://h/a", "http://h/a", "from https to http"),
            ("http://h/a", "file:///etc/passwd", "local file"),
            ("http://h/a", "ftp://h/a", "cannot be read"),
            ("http://h/a", "http://", "not a URL"),
        ] {
            let error = follow(from, location).unwrap_err();
            assert!(error.contains(problem), "{location}: {error}");
        }
    }

    #[test]
    fn memory_follows_status_and_caching_headers() {
        let of = |status: u16, pairs: &[(&'static str, &str)]| {
            memory(StatusCode::from_u16(status).unwrap(), &headers(pairs)).map(|age| age.as_secs())
        };
        assert_eq!(of(301, &[]), Some(86_400));
        assert_eq!(of(302, &[]), Some(600));
        assert_eq!(of(303, &[]), None);
        assert_eq!(
            of(307, &[("cache-control", "public, max-age=60")]),
            Some(60)
        );
        assert_eq!(of(308, &[("cache-control", "no-store")]), None);
        assert_eq!(
            of(302, &[("cache-control", "max-age=999999999")]),
            Some(86_400)
        );
        assert_eq!(of(302, &[("expires", "0")]), Some(600));
    }

    #[test]
    fn what_is_remembered_runs_out_and_can_be_forgotten() {
        let (memory, source) = (Memory::default(), "http://h/a".parse().unwrap());
        let target = Url::parse("http://i/b").unwrap();
        let until = Instant::now() + SHORT;
        memory.put(
            &source,
            Remembered {
                target: target.clone(),
                until,
            },
        );
        assert_eq!(memory.get(&source).unwrap().target, target);
        memory.forget(&source);
        assert!(memory.get(&source).is_none());
        memory.put(
            &source,
            Remembered {
                target,
                until: Instant::now(),
            },
        );
        assert!(memory.get(&source).is_none());
    }
}
