//! `/api/v1/s/SID/{genesis,head,hashes/G}`: the signed side of a content, as control serves it too, for nodes that no
//! neighbour helps.

use std::ops::Range;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use floodway_proto::facts::FactStore;
use floodway_proto::record::{Head, Signed};
use floodway_proto::{PieceIndex, Sha256};
use tokio::time::Instant;
use url::form_urlencoded;

use super::{OCTETS, Refusal, Serving, by_capability, finish, text};
use crate::Content;

/// Pieces in a group.
const GROUP_PIECES: u32 = 512;
/// The longest that a `head` is held open, in seconds.
const WAIT_MAX: u64 = 25;
/// What never changes may be kept for a year.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";

pub(super) async fn genesis(
    State(serving): State<Serving>,
    Path(sid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let content = by_capability(&serving, &sid, &headers)?.content;
    let genesis = content.genesis().await.ok_or(Refusal::NotSigned)?;
    reply(genesis, IMMUTABLE)
}

pub(super) async fn head(
    State(serving): State<Serving>,
    Path(sid): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let content = by_capability(&serving, &sid, &headers)?.content;
    let query = Query::parse(query.as_deref())?;
    // Subscribed before the first look, so that nothing is missed in between.
    let mut heads = content.heads().ok_or(Refusal::NotSigned)?;
    // Of too many who wait the last are answered at once.
    let place = serving.place_to_wait().filter(|_| query.wait > 0);
    let wait = place.as_ref().map_or(0, |_| query.wait.min(WAIT_MAX));
    let until = Instant::now() + Duration::from_secs(wait);
    let (newest, records) = loop {
        heads.borrow_and_update();
        let (newest, records) = records_after(&content, query.after).await?;
        if !records.is_empty() {
            break (newest, records);
        }
        match tokio::time::timeout_at(until, heads.changed()).await {
            Ok(Ok(())) => {}
            // Nothing new in time, or the content is going.
            Ok(Err(_)) | Err(_) => break (newest, records),
        }
    };
    let etag = format!("\"{newest}\"");
    let builder = Response::builder().header(header::ETAG, &etag);
    if text(&headers, &header::IF_NONE_MATCH) == Some(&etag) {
        return finish(builder.status(StatusCode::NOT_MODIFIED), Body::empty());
    }
    if records.is_empty() && query.wait > 0 {
        return finish(builder.status(StatusCode::NO_CONTENT), Body::empty());
    }
    let builder = builder
        .header(header::CONTENT_TYPE, OCTETS)
        .header(header::CACHE_CONTROL, "no-cache");
    finish(builder, Body::from(records))
}

/// Up to where the content's records are known here, and those after `have`, one after the other.
async fn records_after(content: &Content, have: Head) -> Result<(Head, Vec<u8>), Refusal> {
    let records = content.look(move |known| {
        let records = known.manifest.records_after(have).map(Signed::bytes);
        (
            known.manifest.complete_to(),
            records.flatten().copied().collect(),
        )
    });
    records.await.ok_or(Refusal::NoSuchContent)
}

/// What `head` is asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    after: Head,
    /// In seconds.
    wait: u64,
}

impl Query {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "after" => parsed.after = value.parse().map_err(|_| Refusal::BadQuery)?,
                "wait" => parsed.wait = value.parse().map_err(|_| Refusal::BadQuery)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

pub(super) async fn hashes(
    State(serving): State<Serving>,
    Path((sid, group)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let content = by_capability(&serving, &sid, &headers)?.content;
    let group: u32 = group.parse().map_err(|_| Refusal::BadQuery)?;
    let asked = Asked::parse(query.as_deref())?;
    let count = content.layout().piece_count();
    let pieces = asked.of_group(group, count);
    if pieces.is_empty() {
        return Err(Refusal::NoSuchGroup);
    }
    let digests = content.look(move |known| -> Option<Vec<u8>> {
        let mut digests = Vec::with_capacity(pieces.len() * 32);
        for piece in pieces {
            if asked.is_v1 {
                digests.extend(known.sha1s.get(&PieceIndex(piece))?.0);
            } else {
                digests.extend(proven(known.manifest.facts(), piece)?.0);
            }
        }
        Some(digests)
    });
    let digests = digests.await.ok_or(Refusal::NotSigned)?;
    reply(digests.ok_or(Refusal::NotKnown)?, IMMUTABLE)
}

/// What `hashes` is asked.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// For entries of the v1 torrent.
    is_v1: bool,
    /// Only for so many pieces from the first one on: they may be known before the whole group is.
    first: u32,
    count: u32,
}

impl Asked {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self {
            is_v1: false,
            first: 0,
            count: u32::MAX,
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match (&*name, &*value) {
                ("alg", "sha256") => asked.is_v1 = false,
                ("alg", "sha1") => asked.is_v1 = true,
                ("alg", _) => return Err(Refusal::BadQuery),
                ("first", value) => asked.first = value.parse().map_err(|_| Refusal::BadQuery)?,
                ("count", value) => asked.count = value.parse().map_err(|_| Refusal::BadQuery)?,
                _ => {}
            }
        }
        Ok(asked)
    }

    /// What is asked for of a group of a content of `count` pieces.
    fn of_group(&self, group: u32, count: u32) -> Range<u32> {
        let first = group.saturating_mul(GROUP_PIECES);
        let end = count.min(first.saturating_add(GROUP_PIECES));
        first.max(self.first)..end.min(self.first.saturating_add(self.count))
    }
}

fn proven(facts: &FactStore, piece: u32) -> Option<Sha256> {
    facts.piece_hash(piece).filter(|_| facts.is_proven(piece))
}

fn reply(bytes: impl Into<Body>, cache: &str) -> Result<Response, Refusal> {
    let builder = Response::builder()
        .header(header::CONTENT_TYPE, OCTETS)
        .header(header::CACHE_CONTROL, cache);
    finish(builder, bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_group_may_be_asked_for() {
        let of = |query: &str| Asked::parse(Some(query)).unwrap().of_group(1, 700);
        assert_eq!(of(""), 512..700);
        assert_eq!(of("first=520&count=8&alg=sha1"), 520..528);
        assert_eq!(of("first=4294967295&count=4294967295").len(), 0);
        assert_eq!(of("first=0&count=512").len(), 0);
        assert_eq!(of("first=699&count=9"), 699..700);
        for bad in ["first=", "count=-1", "alg=", "count=x"] {
            assert_eq!(Asked::parse(Some(bad)), Err(Refusal::BadQuery), "{bad}");
        }
    }

    #[test]
    fn what_head_is_asked_is_read_strictly() {
        let parsed = |query: &str| Query::parse(Some(query));
        let (after, wait) = (Head { term: 7, seq: 9 }, 25);
        assert_eq!(parsed("after=7.9&wait=25&x=1"), Ok(Query { after, wait }));
        assert_eq!(Query::parse(None), Ok(Query::default()));
        for bad in ["after=7", "after=", "wait=-1", "wait=x", "wait="] {
            assert_eq!(parsed(bad), Err(Refusal::BadQuery), "{bad}");
        }
    }
}
