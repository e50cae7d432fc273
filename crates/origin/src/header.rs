//! Reply headers to values. Nothing here trusts its input: what does not parse is `None`, and the caller decides.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use floodway_proto::Sha256;
use http::HeaderMap;
use http::header::{self, HeaderName};

/// Longer values than this are not remembered as validators or media types.
const LONGEST_VALUE: usize = 1024;
/// No origin may send us away for longer than this.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// A `Content-Range` of bytes (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentRange {
    /// `bytes FIRST-LAST/TOTAL`; the end here is exclusive, the total `None` for `*`.
    Bytes {
        start: u64,
        end: u64,
        total: Option<u64>,
    },
    /// `bytes */TOTAL`: the answer to a range that cannot be satisfied.
    Unsatisfied { total: u64 },
}

impl ContentRange {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = match total {
            "*" => None,
            digits => Some(number(digits)?),
        };
        if range == "*" {
            return total.map(|total| Self::Unsatisfied { total });
        }
        let (first, last) = range.split_once('-')?;
        let (start, end) = (number(first)?, number(last)?.checked_add(1)?);
        let fits = start < end && total.is_none_or(|total| end <= total);
        fits.then_some(Self::Bytes { start, end, total })
    }
}

/// Digits only: `u64::from_str` alone would also take a sign.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// An entity tag (RFC 9110 section 8.8.3), kept as the server wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntityTag {
    /// `"…"`: equal tags mean equal bytes.
    Strong(String),
    /// `W/"…"`, and what some servers send without quotes: good for comparing, not for `If-Match`.
    Weak(String),
}

impl EntityTag {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.len() > LONGEST_VALUE {
            return None;
        }
        let opaque = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let strong =
            opaque.is_some_and(|tag| tag.chars().all(|c| c != '"' && c > ' ' && c != '\x7f'));
        Some(if strong {
            Self::Strong(text.into())
        } else {
            Self::Weak(text.into())
        })
    }
}

/// How long `Retry-After` asks to wait from `now` on: seconds or a date (RFC 9110 section 10.2.3), at most an hour.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit mean "very long", not "no answer".
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let date = httpdate::parse_http_date(text).ok()?;
        date.duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST_PAUSE))
}

/// What the reply says about being remembered (RFC 9111 sections 4.2 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// `no-store`.
    Never,
    /// Fresh for this long.
    For(Duration),
    /// Nothing useful was said.
    Unsaid,
}

pub(crate) fn lifetime(headers: &HeaderMap, now: SystemTime) -> Lifetime {
    let mut max_age = None;
    for directive in all_text(headers, &header::CACHE_CONTROL).flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" {
            return Lifetime::Never;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            max_age = number(seconds.trim_matches('"')).map(Duration::from_secs);
        }
    }
    let expires = || {
        let date = httpdate::parse_http_date(text(headers, &header::EXPIRES)?).ok()?;
        date.duration_since(now).ok()
    };
    match max_age.or_else(expires) {
        Some(age) if !age.is_zero() => Lifetime::For(age),
        _ => Lifetime::Unsaid,
    }
}

/// The header's only value as text. `None` when it is missing, contradicts itself or is not UTF-8.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.any(|other| other != first) {
        return None;
    }
    // Beyond ASCII is allowed in old servers' values; `HeaderValue::to_str` would refuse it.
    std::str::from_utf8(first.as_bytes()).ok()
}

fn all_text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter();
    values.filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
}

/// A short value that is kept for comparing or showing.
pub(crate) fn kept_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = text(headers, name)?.trim();
    (!value.is_empty() && value.len() <= LONGEST_VALUE).then(|| value.into())
}

/// The coding of a body that is not plain bytes.
pub(crate) fn content_coding(headers: &HeaderMap) -> Option<String> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let coding = codings.find(|value| {
        let value = value.as_bytes().trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })?;
    let shown: String = String::from_utf8_lossy(coding.as_bytes())
        .chars()
        .take(40)
        .collect();
    Some(shown)
}

/// The SHA-256 of the whole object if the reply offers it: `Repr-Digest` (RFC 9530), the older `Digest` (RFC 3230) and,
/// when the reply is about the whole object, `Content-Digest`.
pub(crate) fn sha256(headers: &HeaderMap, whole: bool) -> Option<Sha256> {
    let of = |name: &'static str| {
        let name = HeaderName::from_static(name);
        all_text(headers, &name).find_map(sha256_in_list)
    };
    of("repr-digest")
        .or_else(|| of("digest"))
        .or_else(|| if whole { of("content-digest") } else { None })
}

/// Finds `sha-256=:BASE64:` (or without colons, RFC 3230) in a list of digests.
fn sha256_in_list(list: &str) -> Option<Sha256> {
    list.split(',').find_map(|entry| {
        let (algorithm, value) = entry.trim().split_once('=')?;
        if !algorithm.trim().eq_ignore_ascii_case("sha-256") {
            return None;
        }
        // Structured field parameters may follow the value.
        let value = value.split(';').next()?.trim();
        let value = value
            .strip_prefix(':')
            .and_then(|rest| rest.strip_suffix(':'))
            .unwrap_or(value);
        let bytes = STANDARD
            .decode(value)
            .or_else(|_| STANDARD_NO_PAD.decode(value))
            .ok()?;
        Some(Sha256(bytes.try_into().ok()?))
    })
}

#[cfg(test)]
mod tests;
