use proptest::prelude::*;

use super::*;

fn range(text: &str) -> Option<ContentRange> {
    ContentRange::parse(text)
}

#[test]
fn content_ranges_must_make_sense() {
    let bytes = |start, end, total| Some(ContentRange::Bytes { start, end, total });
    assert_eq!(range("bytes 0-0/1"), bytes(0, 1, Some(1)));
    assert_eq!(range(" Bytes  5-9/* "), bytes(5, 10, None));
    assert_eq!(
        range("bytes */7"),
        Some(ContentRange::Unsatisfied { total: 7 })
    );
    for text in [
        "",
        "bytes",
        "bytes 0-0",
        "bytes 1-0/5",
        "bytes 0-5/5",
        "bytes */*",
        "bytes +1-2/5",
        "bytes 0-18446744073709551615/*",
        "bytes 0-1/18446744073709551616",
        "items 0-0/1",
        "bytes 0-0/1, bytes 2-2/3",
        "bytes=0-0/1",
    ] {
        assert_eq!(range(text), None, "{text}");
    }
}

#[test]
fn only_quoted_tags_are_strong() {
    let strong = |tag: &str| Some(EntityTag::Strong(tag.into()));
    let weak = |tag: &str| Some(EntityTag::Weak(tag.into()));
    assert_eq!(EntityTag::parse(" \"abc-1\" "), strong("\"abc-1\""));
    assert_eq!(EntityTag::parse("\"\""), strong("\"\""));
    assert_eq!(EntityTag::parse("\"é\""), strong("\"é\""));
    assert_eq!(EntityTag::parse("W/\"abc\""), weak("W/\"abc\""));
    for text in ["abc", "\"", "\"a\"b\"", "\"a b\"", "w/\"abc\""] {
        assert_eq!(EntityTag::parse(text), weak(text), "{text}");
    }
    assert_eq!(EntityTag::parse(""), None);
    assert_eq!(EntityTag::parse(&"x".repeat(LONGEST_VALUE + 1)), None);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
    let seconds = |text: &str| retry_after(text, now).map(|wait| wait.as_secs());
    assert_eq!(seconds("120"), Some(120));
    assert_eq!(seconds(" 0 "), Some(0));
    assert_eq!(seconds("99999999999999999999999999"), Some(3600));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
    assert_eq!(seconds("Sunday, 06-Nov-94 08:50:37 GMT"), Some(60));
    assert_eq!(seconds("Sun Nov  6 08:50:37 1994"), Some(60));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
    for text in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
        assert_eq!(seconds(text), None, "{text}");
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|&(name, value)| {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        (HeaderName::from_static(name), value)
    });
    pairs.collect()
}

#[test]
fn digests_are_found_in_old_and_new_headers() {
    let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let found = |name: &'static str, value: &str, whole| {
        sha256(&headers(&[(name, value)]), whole).map(|digest| digest.to_string())
    };
    for value in [
        format!("sha-256=:{empty}:"),
        format!("sha-512=:AAAA:, sha-256=:{empty}:;x=1"),
        format!("SHA-256={empty}"),
        format!("sha-256={}", empty.trim_end_matches('=')),
    ] {
        assert_eq!(
            found("repr-digest", &value, false).as_deref(),
            Some(hex),
            "{value}"
        );
        assert_eq!(
            found("digest", &value, false).as_deref(),
            Some(hex),
            "{value}"
        );
        assert_eq!(
            found("content-digest", &value, true).as_deref(),
            Some(hex),
            "{value}"
        );
        assert_eq!(
            found("content-digest", &value, false),
            None,
            "a part's digest is not the object's"
        );
    }
    for value in ["sha-256=:AAAA:", "sha-256", "md5=:AAAA:", "sha-256=:***:"] {
        assert_eq!(found("repr-digest", value, true), None, "{value}");
    }
}

#[test]
fn values_that_contradict_each_other_count_as_none() {
    let twice = headers(&[("etag", "\"a\""), ("etag", "\"b\"")]);
    let same: HeaderMap = headers(&[("etag", "\"a\""), ("etag", "\"a\"")]);
    assert_eq!(text(&twice, &header::ETAG), None);
    assert_eq!(text(&same, &header::ETAG), Some("\"a\""));
    assert_eq!(
        content_coding(&headers(&[("content-encoding", "identity")])),
        None
    );
    assert_eq!(
        content_coding(&headers(&[("content-encoding", "gzip")])).as_deref(),
        Some("gzip")
    );
}

proptest! {
    #[test]
    fn no_header_value_makes_a_parser_panic(text in "\\PC{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let now = SystemTime::UNIX_EPOCH;
        let _ = (range(&text), EntityTag::parse(&text), retry_after(&text, now), sha256_in_list(&text));
        if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
            let map: HeaderMap = [header::CACHE_CONTROL, header::EXPIRES, header::CONTENT_ENCODING]
                .into_iter()
                .map(|name| (name, value.clone()))
                .collect();
            let _ = (lifetime(&map, now), content_coding(&map), kept_text(&map, &header::CONTENT_ENCODING));
        }
    }

    #[test]
    fn content_ranges_read_back(start in 0..u64::MAX / 2, length in 1..u64::MAX / 4, more in 0..u64::MAX / 8, open: bool) {
        let (end, total) = (start + length, start + length + more);
        let shown = if open { "*".into() } else { total.to_string() };
        let total = (!open).then_some(total);
        let parsed = range(&format!("bytes {start}-{}/{shown}", end - 1));
        prop_assert_eq!(parsed, Some(ContentRange::Bytes { start, end, total }));
    }

    #[test]
    fn near_content_ranges_never_claim_the_impossible(text in "bytes [0-9*]{1,21}-?[0-9]{0,21}/[0-9*]{1,21}") {
        if let Some(ContentRange::Bytes { start, end, total }) = range(&text) {
            prop_assert!(start < end && total.is_none_or(|total| end <= total), "{}", text);
        }
    }

    #[test]
    fn a_strong_tag_fits_into_if_match(text in "\\PC{0,40}") {
        if let Some(EntityTag::Strong(tag)) = EntityTag::parse(&format!("\"{text}\"")) {
            prop_assert!(http::HeaderValue::from_bytes(tag.as_bytes()).is_ok());
            prop_assert!(!tag[1..tag.len() - 1].contains('"'));
        }
    }

    #[test]
    fn retry_after_dates_read_back(seconds in 0..4_000_000_000u64, ahead in 0..3600u64) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(ahead));
        prop_assert_eq!(retry_after(&date, now), Some(Duration::from_secs(ahead)));
    }
}
