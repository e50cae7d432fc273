//! `Range` and conditions of RFC 9110, as decisions on header values.

use std::ops::Range;

/// More ranges than this are not answered one by one: the whole is sent instead (RFC 9110 section 14.2 permits it).
const MOST_RANGES: usize = 16;

/// Which bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of them: no `Range`, or one that may be ignored.
    Whole,
    /// One part, or several as `multipart/byteranges`.
    Parts(Vec<Range<u64>>),
    /// None of the ranges lies within the content.
    Nothing,
}

/// Reads a `Range` header (RFC 9110 section 14.2) for a content of `length` bytes. What does not parse is ignored.
pub(crate) fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some(specs) = header.and_then(|header| {
        let (unit, specs) = header.split_once('=')?;
        unit.trim().eq_ignore_ascii_case("bytes").then_some(specs)
    }) else {
        return Wanted::Whole;
    };
    let mut parts = Vec::new();
    let mut any = false;
    for (index, spec) in specs
        .split(',')
        .map(str::trim)
        .filter(|spec| !spec.is_empty())
        .enumerate()
    {
        any = true;
        match one(spec, length) {
            _ if index >= MOST_RANGES => return Wanted::Whole,
            None => return Wanted::Whole,
            Some(part) => parts.extend((!part.is_empty()).then_some(part)),
        }
    }
    let bytes: u64 = parts.iter().map(|part| part.end - part.start).sum();
    match parts.len() {
        0 if any => Wanted::Nothing,
        0 => Wanted::Whole,
        // Overlapping ranges would make us send more than there is.
        2.. if bytes > length => Wanted::Whole,
        _ => Wanted::Parts(parts),
    }
}

/// One range: `FIRST-LAST`, `FIRST-` or `-SUFFIX`. Empty when it lies outside; `None` when it is malformed.
fn one(spec: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let start = number(first)?;
    let end = if last.is_empty() {
        length
    } else {
        let last = number(last)?;
        if last < start {
            return None;
        }
        last.saturating_add(1).min(length)
    };
    Some(start.min(end)..end)
}

/// Digits only; more than fit are as good as infinite.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().unwrap_or(u64::MAX))
}

/// What the conditions of a request say, in the order of RFC 9110 section 13.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Answer; ranges count only if `ranges`.
    Go {
        /// `If-Range` does not forbid them.
        ranges: bool,
    },
    /// 304: the client has it.
    NotModified,
    /// 412: the client wants another version.
    Failed,
}

/// Evaluates the conditions against our strong entity tag (with its quotes).
pub(crate) fn condition(
    etag: &str,
    if_match: Option<&str>,
    if_none_match: Option<&str>,
    if_range: Option<&str>,
) -> Condition {
    if if_match.is_some_and(|tags| !lists(tags, etag, false)) {
        return Condition::Failed;
    }
    if if_none_match.is_some_and(|tags| lists(tags, etag, true)) {
        return Condition::NotModified;
    }
    // A date never matches: there is no Last-Modified.
    Condition::Go {
        ranges: if_range.is_none_or(|tag| tag.trim() == etag),
    }
}

/// Our tags are hexadecimal, so splitting at commas cannot cut a tag that is ours.
fn lists(tags: &str, etag: &str, weak: bool) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = if weak {
            tag.strip_prefix("W/").unwrap_or(tag)
        } else {
            tag
        };
        tag == "*" || tag == etag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(header: &str) -> Wanted {
        wanted(Some(header), 100)
    }

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        assert_eq!(wanted(None, 100), Wanted::Whole);
        for (header, range) in [
            ("bytes=0-9", 0..10),
            ("bytes=90-", 90..100),
            ("bytes=-7", 93..100),
            ("bytes=-700", 0..100),
            ("Bytes = 5 - 5", 5..6),
            ("bytes=50-99999999999999999999999", 50..100),
        ] {
            assert_eq!(parts(header), Wanted::Parts(vec![range]), "{header}");
        }
        assert_eq!(parts("bytes=0-0, -1"), Wanted::Parts(vec![0..1, 99..100]));
        assert_eq!(
            parts("bytes=200-300,3-4"),
            Wanted::Parts(std::iter::once(3..5).collect())
        );
    }

    #[test]
    fn what_lies_outside_is_nothing_and_what_is_malformed_is_ignored() {
        for header in [
            "bytes=100-",
            "bytes=200-300",
            "bytes=-0",
            "bytes=100-100,101-",
        ] {
            assert_eq!(parts(header), Wanted::Nothing, "{header}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
        for header in [
            "bytes",
            "lines=1-2",
            "bytes=a-b",
            "bytes=9-3",
            "bytes=+1-2",
            "bytes=1",
            "bytes=--1",
            "bytes=0-1,x",
            "bytes=",
        ] {
            assert_eq!(parts(header), Wanted::Whole, "{header}");
        }
    }

    #[test]
    fn many_or_overlapping_ranges_get_the_whole() {
        let many: Vec<String> = (0..17).map(|n| format!("{n}-{n}")).collect();
        assert_eq!(parts(&format!("bytes={}", many.join(","))), Wanted::Whole);
        assert!(
            matches!(parts(&format!("bytes={}", many[..16].join(","))), Wanted::Parts(parts) if parts.len() == 16)
        );
        assert_eq!(parts("bytes=0-,0-,0-"), Wanted::Whole);
    }

    #[test]
    fn conditions() {
        let tag = "\"aa\"";
        let go = Condition::Go { ranges: true };
        assert_eq!(condition(tag, None, None, None), go);
        assert_eq!(
            condition(tag, Some("\"bb\", \"aa\""), None, Some("\"aa\"")),
            go
        );
        assert_eq!(condition(tag, Some("*"), Some("\"bb\""), None), go);
        assert_eq!(
            condition(tag, Some("W/\"aa\""), None, None),
            Condition::Failed,
            "If-Match is strong"
        );
        assert_eq!(
            condition(tag, Some("\"bb\""), Some("\"aa\""), None),
            Condition::Failed
        );
        assert_eq!(
            condition(tag, None, Some("W/\"aa\""), None),
            Condition::NotModified
        );
        assert_eq!(
            condition(tag, None, Some("*"), None),
            Condition::NotModified
        );
        for other in ["\"bb\"", "W/\"aa\"", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(
                condition(tag, None, None, Some(other)),
                Condition::Go { ranges: false }
            );
        }
    }
}
