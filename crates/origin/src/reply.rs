//! Does a reply carry what was asked for? Nothing of its body is read before this says so.

use std::ops::Range;

use http::{HeaderMap, StatusCode, header};
use url::Url;

use crate::header::{ContentRange, EntityTag, content_coding, kept_text, sha256, text};
use crate::url::redact;
use crate::{Expectation, OriginError, Probe, SourceUrl, Validator};

/// A reply's head, with what the transport says about its body's length.
pub(crate) struct Head<'a> {
    pub(crate) source: &'a SourceUrl,
    pub(crate) url: &'a Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// The body's length in bytes if its framing or, for HEAD, its header says it.
    pub(crate) body_length: Option<u64>,
}

/// The bytes of the object that a body carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    /// Exclusive; `None` when only the end of the body will tell.
    pub(crate) end: Option<u64>,
}

impl Head<'_> {
    /// What this reply says about the object.
    ///
    /// # Errors
    /// [`OriginError`] when it is coded, or neither a whole nor a proper partial reply.
    pub(crate) fn facts(&self) -> Result<Probe, OriginError> {
        if let Some(coding) = content_coding(self.headers) {
            let url = redact(self.url);
            return Err(OriginError::Encoded { url, coding });
        }
        let partial = self.status == StatusCode::PARTIAL_CONTENT;
        let length = match self.status {
            StatusCode::OK => self.body_length,
            StatusCode::PARTIAL_CONTENT => self.content_range()?.1,
            status => return Err(self.bad(format!("unexpected status {status}"))),
        };
        let accepts = text(self.headers, &header::ACCEPT_RANGES);
        let bytes = |value: &str| {
            value
                .split(',')
                .any(|unit| unit.trim().eq_ignore_ascii_case("bytes"))
        };
        let final_url = SourceUrl::from_url(self.url.clone());
        Ok(Probe {
            final_url: final_url.unwrap_or_else(|_| self.source.clone()),
            length,
            validator: validator(self.headers),
            ranges: partial || accepts.is_some_and(bytes),
            last_modified: kept_text(self.headers, &header::LAST_MODIFIED),
            content_type: kept_text(self.headers, &header::CONTENT_TYPE),
            digest: sha256(self.headers, !partial),
        })
    }

    /// Holds the reply against what was asked and expected.
    ///
    /// # Errors
    /// The [`OriginError`] that names the difference.
    pub(crate) fn extent(
        &self,
        facts: &Probe,
        range: Option<&Range<u64>>,
        expect: &Expectation,
    ) -> Result<Extent, OriginError> {
        self.agree(facts, expect, range.is_none())?;
        let partial = self.status == StatusCode::PARTIAL_CONTENT;
        let Some(asked) = range else {
            if partial {
                return Err(self.bad("a part was sent although the whole was asked for".into()));
            }
            return Ok(Extent {
                start: 0,
                end: facts.length.or(expect.length),
            });
        };
        if !partial {
            let whole = asked.start == 0 && facts.length == Some(asked.end);
            if whole {
                return Ok(Extent {
                    start: 0,
                    end: Some(asked.end),
                });
            }
            return Err(OriginError::RangeIgnored {
                url: redact(self.url),
                from_start: asked.start == 0,
                length: facts.length,
            });
        }
        let (sent, total) = self.content_range()?;
        // Without a known length the asked range may go beyond the end.
        let end = total.map_or(asked.end, |total| asked.end.min(total));
        let end = if expect.length.is_some() {
            asked.end
        } else {
            end
        };
        if sent != (asked.start..end) {
            return Err(OriginError::WrongRange {
                url: redact(self.url),
                asked: format!("bytes {}-{}", asked.start, asked.end - 1),
                answered: format!("bytes {}-{}", sent.start, sent.end - 1),
            });
        }
        let length = sent.end - sent.start;
        match self.body_length {
            Some(body) if body > length => Err(OriginError::TooLong {
                url: redact(self.url),
                expected: length,
            }),
            Some(body) if body < length => Err(OriginError::Short {
                url: redact(self.url),
                got: body,
                expected: length,
                marked: true,
            }),
            _ => Ok(Extent {
                start: sent.start,
                end: Some(sent.end),
            }),
        }
    }

    fn agree(&self, facts: &Probe, expect: &Expectation, whole: bool) -> Result<(), OriginError> {
        let changed = |what, expected: String, found: Option<String>| OriginError::Changed {
            url: redact(self.url),
            what,
            expected,
            found: found.unwrap_or_else(|| "not said".into()),
        };
        let tag = text(self.headers, &header::ETAG).map(|tag| tag.trim().to_owned());
        match &expect.validator {
            Validator::None => {}
            Validator::Strong(expected) => {
                if tag.as_deref() != Some(expected) {
                    return Err(changed("its entity tag", expected.clone(), tag));
                }
            }
            Validator::Weak {
                etag,
                last_modified,
            } => {
                // Some servers leave them out of one method or the other; for one whole GET that mixes nothing.
                let differs =
                    |expected: &Option<String>, found: &Option<String>| match (expected, found) {
                        (Some(expected), Some(found)) => weak(expected) != weak(found),
                        (Some(_), None) => !whole,
                        (None, _) => false,
                    };
                if differs(etag, &tag) {
                    return Err(changed(
                        "its entity tag",
                        etag.clone().unwrap_or_default(),
                        tag,
                    ));
                }
                if differs(last_modified, &facts.last_modified) {
                    let (was, now) = (last_modified.clone(), facts.last_modified.clone());
                    return Err(changed("its Last-Modified", was.unwrap_or_default(), now));
                }
            }
            Validator::File { .. } => {
                return Err(changed(
                    "its kind",
                    "a local file".into(),
                    Some("a web object".into()),
                ));
            }
        }
        match (expect.length, facts.length) {
            (Some(expected), Some(found)) if expected != found => Err(changed(
                "its length",
                expected.to_string(),
                Some(found.to_string()),
            )),
            // A part whose place in the whole is left open proves nothing unless a strong tag pinned it.
            (Some(expected), None) if !whole && expect.validator.strong().is_none() => {
                Err(changed("its length", expected.to_string(), None))
            }
            _ => Ok(()),
        }
    }

    /// The bytes that a 206 says it carries, and the object's length if it says that too.
    fn content_range(&self) -> Result<(Range<u64>, Option<u64>), OriginError> {
        let media = text(self.headers, &header::CONTENT_TYPE).unwrap_or_default();
        if media
            .trim_start()
            .to_ascii_lowercase()
            .starts_with("multipart/byteranges")
        {
            return Err(self.bad("several parts were sent although one was asked for".into()));
        }
        match text(self.headers, &header::CONTENT_RANGE).and_then(ContentRange::parse) {
            Some(ContentRange::Bytes { start, end, total }) => Ok((start..end, total)),
            _ => Err(self.bad("a part was sent without a usable Content-Range".into())),
        }
    }

    fn bad(&self, problem: String) -> OriginError {
        OriginError::BadReply {
            url: redact(self.url),
            problem,
        }
    }
}

/// For weak comparison (RFC 9110 section 8.8.3.2) the mark does not count.
fn weak(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn validator(headers: &HeaderMap) -> Validator {
    let last_modified = kept_text(headers, &header::LAST_MODIFIED);
    match text(headers, &header::ETAG).and_then(EntityTag::parse) {
        Some(EntityTag::Strong(tag)) => Validator::Strong(tag),
        Some(EntityTag::Weak(tag)) => Validator::Weak {
            etag: Some(tag),
            last_modified,
        },
        None if last_modified.is_some() => Validator::Weak {
            etag: None,
            last_modified,
        },
        None => Validator::None,
    }
}
