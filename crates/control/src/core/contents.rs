//! What is read of one content over HTTP: torrents, magnet links, capabilities, and its signed side.

use std::fmt::Write as _;
use std::ops::Range;

use floodway_api::rest::Capabilities;
use floodway_proto::merkle::GROUP_PIECES;
use floodway_proto::record::{FinalNames, Head, Signed, State};
use floodway_proto::{InfoHash, NodeId, Sha1, Sha256, Sid};
use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Core;
use crate::db::{ContentRow, ContentState, KeptGenesis};
use crate::error::ApiError;
use crate::tasks::publish::Format;

/// The longest life of a capability that an operator may ask for, in seconds: a year.
const CAPABILITY_SECONDS_MAX: u64 = 366 * 86_400;
/// The same for a node: a day.
const NODE_CAPABILITY_SECONDS_MAX: u64 = 86_400;
/// All but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a torrent file is made of, apart from the info dict and the pieces' hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TorrentParts {
    /// The file's name with `.torrent`.
    pub(crate) file_name: String,
    pub(crate) tracker: String,
    pub(crate) web_seeds: Vec<String>,
    pub(crate) genesis: KeptGenesis,
    /// How many pieces there are, and bytes.
    pub(crate) pieces: u32,
    pub(crate) length: u64,
}

/// Signed records for somebody who lacks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// The newest record that there is.
    pub(crate) head: Head,
    /// The records, one after the other.
    pub(crate) records: Vec<u8>,
}

/// The digests of a group of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) pieces: Range<u32>,
    /// `None`: they are in the database only.
    pub(crate) digests: Option<Vec<(Sha256, Sha1)>>,
}

fn not_yet(code: &str, message: String) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, code, message).retry_after(1)
}

impl Core {
    fn known(&self, sid: Sid) -> Result<&ContentRow, ApiError> {
        let unknown = || {
            ApiError::not_found(format!(
                "there is no content {sid}; `floodway task list` shows what there is"
            ))
        };
        self.model.contents.get(&sid).ok_or_else(unknown)
    }

    /// A published content, for whoever may read it: operators any, nodes any that is published.
    fn published(&self, sid: Sid) -> Result<&ContentRow, ApiError> {
        let row = self.model.contents.get(&sid);
        let task = row.and_then(|row| self.model.relay_tasks.get(&row.relay_task));
        let live = task.is_some_and(|task| task.is_live() && task.sid == Some(sid));
        row.filter(|_| live).ok_or_else(|| {
            ApiError::not_found(format!("there is no content {sid}, or it was cancelled or replaced; `floodway task list` shows what there is"))
        })
    }

    fn published_final(&self, sid: Sid) -> Result<&ContentRow, ApiError> {
        let row = self.published(sid)?;
        if row.state == ContentState::Final {
            return Ok(row);
        }
        let message = format!(
            "the content {sid} is not final yet: relays are still fetching it; ask again soon"
        );
        Err(not_yet("not_final", message))
    }

    /// The names that control signed, if the content is final and it did.
    fn signed_names(&self, sid: Sid) -> Option<&FinalNames> {
        match self.model.records.get(&sid)?.state()? {
            State::Final(names) => Some(names),
            State::Open | State::Complete | State::Aborted(_) | State::Superseded { .. } => None,
        }
    }

    /// The 20-byte names of a final content in trackers and handshakes, one list a torrent: v1, v2 truncated, hybrid.
    pub(super) fn names(&self, row: &ContentRow) -> Vec<Vec<InfoHash>> {
        let truncated = |hash: Sha256| {
            let (name, _) = hash
                .0
                .split_first_chunk()
                .expect("32 bytes are more than 20");
            InfoHash(*name)
        };
        let signed = self.signed_names(row.sid);
        let v1 = row.info_hash.map(|hash| vec![hash]);
        let v2 = signed.and_then(|names| names.v2);
        let hybrid = signed.and_then(|names| names.hybrid);
        let names = [
            v1,
            v2.map(|hash| vec![truncated(hash)]),
            hybrid.map(|(v1, v2)| vec![v1, truncated(v2)]),
        ];
        names.into_iter().flatten().collect()
    }

    /// Refuses a form of torrent that a content does not have.
    fn check_format(&self, row: &ContentRow, format: Format) -> Result<(), ApiError> {
        let signed = self.signed_names(row.sid);
        let exists = match format {
            Format::V1 => true,
            Format::V2 => signed.is_some_and(|names| names.v2.is_some()),
            Format::Hybrid => signed.is_some_and(|names| names.hybrid.is_some()),
        };
        if exists {
            return Ok(());
        }
        let why = match format {
            Format::Hybrid => {
                "hybrids are made only of contents begun with the setting `hybrid_torrents`"
            }
            Format::V1 | Format::V2 => {
                "the content was begun before there were v2 torrents; publish it anew"
            }
        };
        let message = format!("the content {} has no {format} torrent: {why}", row.sid);
        Err(ApiError::new(StatusCode::NOT_FOUND, "no_such_format", message).field("format"))
    }

    /// What the torrent of a final content says apart from the info dict.
    pub(crate) fn torrent_parts(&self, sid: Sid, format: Format) -> Result<TorrentParts, ApiError> {
        let row = self.published_final(sid)?;
        self.check_format(row, format)?;
        Ok(TorrentParts {
            file_name: format!("{}.torrent", row.name),
            tracker: self.tracker_url(row),
            web_seeds: self.content_urls(row, None),
            genesis: row.genesis.clone(),
            pieces: row.layout().map_or(0, |layout| layout.piece_count()),
            length: row.length.unwrap_or_default(),
        })
    }

    fn tracker_url(&self, row: &ContentRow) -> String {
        format!("{}/announce/{}", self.config.base_url, row.announce_key)
    }

    /// The magnet link of a final content (BEP 9; `btmh` of BEP 52).
    pub(crate) fn magnet(&self, sid: Sid, format: Format) -> Result<String, ApiError> {
        let row = self.published_final(sid)?;
        self.check_format(row, format)?;
        let signed = self.signed_names(sid);
        let (v1, v2) = match format {
            Format::V1 => (row.info_hash, None),
            Format::V2 => (None, signed.and_then(|names| names.v2)),
            Format::Hybrid => signed.and_then(|names| names.hybrid).unzip(),
        };
        let v1 = v1.map(|hash| format!("xt=urn:btih:{hash}"));
        // 0x12, 0x20: a SHA-256 of 32 bytes, as multihash has it.
        let v2 = v2.map(|hash| format!("xt=urn:btmh:1220{hash}"));
        let names: Vec<_> = v1.into_iter().chain(v2).collect();
        let mut magnet = format!("magnet:?{}", names.join("&"));
        let mut add = |key: &str, value: &str| {
            let value = utf8_percent_encode(value, SEGMENT);
            write!(magnet, "&{key}={value}").expect("a String takes all");
        };
        add("dn", &row.name);
        add("xl", &row.length.unwrap_or_default().to_string());
        add("tr", &self.tracker_url(row));
        for url in self.content_urls(row, None) {
            add("ws", &url);
        }
        Ok(magnet)
    }

    /// URLs of a content at each live relay, good for `seconds`. `node`: who asks, if not an operator.
    pub(crate) fn capability(
        &self,
        sid: Sid,
        seconds: u64,
        node: Option<NodeId>,
    ) -> Result<Capabilities, ApiError> {
        let row = self.published(sid)?;
        let limit = if node.is_some() {
            NODE_CAPABILITY_SECONDS_MAX
        } else {
            CAPABILITY_SECONDS_MAX
        };
        if seconds == 0 || seconds > limit {
            let message = format!("a capability lives from 1 to {limit} seconds");
            return Err(ApiError::bad_field("seconds", message));
        }
        let holds = |node: NodeId| {
            let said = self.live.get(&node).map(|live| &live.said.contents);
            said.is_some_and(|contents| contents.iter().any(|content| content.sid == sid))
        };
        if node.is_some_and(|node| !holds(node)) {
            let message = "a node gets capabilities for contents that it holds or wants only";
            return Err(ApiError::forbidden(message));
        }
        let expires = self.now.us.cast_unsigned() / 1_000_000 + seconds;
        Ok(Capabilities {
            urls: self.content_urls(row, Some(expires)),
        })
    }

    fn content_urls(&self, row: &ContentRow, expires_unix_s: Option<u64>) -> Vec<String> {
        let capability = self.config.capability_key.issue(row.sid, expires_unix_s);
        let name = utf8_percent_encode(&row.name, SEGMENT).to_string();
        // Web seeds of a folder end in `/`: clients append the folder's name and the file's path (BEP 19).
        let name = if row.genesis.folder().is_some() {
            String::new()
        } else {
            name
        };
        let relays = self.serving_relays(row.sid, None).into_iter();
        relays
            .map(|relay| format!("{}/api/v1/w/{capability}/{name}", relay.http))
            .collect()
    }

    /// The genesis, which the sid names.
    pub(crate) fn genesis(&self, sid: Sid) -> Result<KeptGenesis, ApiError> {
        Ok(self.known(sid)?.genesis.clone())
    }

    /// What somebody lacks of a content's records who knows all up to `after`.
    pub(crate) fn records_after(&self, sid: Sid, after: Head) -> Result<News, ApiError> {
        self.known(sid)?;
        let unsigned = || {
            let message =
                format!("nothing was signed of content {sid}; it is verified by its torrent");
            ApiError::new(StatusCode::NOT_FOUND, "not_signed", message)
        };
        let records = self.model.records.get(&sid).ok_or_else(unsigned)?;
        let lacking = records.after(after).map(Signed::bytes);
        Ok(News {
            head: records.head(),
            records: lacking.flatten().copied().collect(),
        })
    }

    /// The digests of the pieces of one group (512), or of those in `part` only, once all of them are known.
    pub(crate) fn group(&self, sid: Sid, group: u32, part: Range<u32>) -> Result<Group, ApiError> {
        let row = self.known(sid)?;
        let count = row.layout().map_or(0, |layout| layout.piece_count());
        let first = group.saturating_mul(GROUP_PIECES).min(count);
        let end = count.min(first.saturating_add(GROUP_PIECES));
        let pieces = first.max(part.start)..end.min(part.end);
        if pieces.is_empty() || row.state == ContentState::Superseded {
            let message = format!("content {sid} has no group {group} of pieces, or was replaced");
            return Err(ApiError::not_found(message));
        }
        let digests = match self.model.pieces.get(&sid) {
            None if row.state == ContentState::Final => None,
            table => {
                let digests = table.and_then(|table| table.range(pieces.clone()));
                let unknown = || {
                    let message = format!("not all pieces of group {group} are known yet");
                    not_yet("not_known", message)
                };
                Some(digests.ok_or_else(unknown)?)
            }
        };
        Ok(Group { pieces, digests })
    }
}
