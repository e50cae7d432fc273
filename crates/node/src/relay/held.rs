//! One content on this relay: from leased pieces to the final names.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use floodway_api::sync::{
    ContentInfo, ContentReport, RelayContent, RelayFailure, RelayFailureKind,
};
use floodway_origin::{Access, OriginError, SourceUrl, UrlCheck};
use floodway_proto::facts::Accept;
use floodway_proto::genesis::{Genesis, GenesisFile};
use floodway_proto::manifest::Manifest;
use floodway_proto::metainfo::Metainfo;
use floodway_proto::record::{Head, Signed};
use floodway_proto::{InfoHash, PieceIndex, SafeName, Sha256, Sid};
use floodway_store::Hashes;
use floodway_swarm::{Limits, Order as PieceOrder, Prefer, SourceClass};

use super::alone::Alone;
use super::audit::Auditor;
use super::folder::file_url;
use super::work::{End, News, Note, Tools, failure, of_origin};
use crate::job::sources::{Capabilities, info_for_peers, relays};
use crate::manifest::{expand, unix_us, v2_name};
use crate::node::add_known;
use crate::origin_source::{broke_off, expectation, same_host};
use crate::state::StateError;
use crate::{Content, ContentSpec, Growth, HttpSource, SourceFile, State, Target};

/// Why a content could not be opened.
pub(super) enum OpenFailure {
    Final(RelayFailure),
    /// Somebody can make room or give permission.
    Disk(String),
    Passing(String),
}

impl OpenFailure {
    fn of_state(error: &StateError) -> Self {
        Self::of_disk(error.may_pass(), error)
    }

    fn of_disk(may_pass: bool, error: &dyn std::fmt::Display) -> Self {
        if may_pass {
            Self::Disk(error.to_string())
        } else {
            Self::Final(failure(RelayFailureKind::Local, error.to_string()))
        }
    }
}

/// A content on this relay.
pub(super) struct Held {
    pub(super) content: Content,
    pub(super) name: SafeName,
    pub(super) sid: Sid,
    pub(super) ranges: bool,
    /// The origin did not say how long it is.
    is_open_ended: bool,
    /// It has leases, as of the last orders.
    reads: bool,
    pub(super) origin: HttpSource,
    /// Control signs its facts. It does for all contents but those made by older versions.
    pub(super) is_signed: bool,
    /// It reads no origin but relays, by these capabilities.
    feeds: Option<Capabilities>,
    /// It is shown to nobody before it is final.
    pub(super) hides: bool,
    /// Control says that it is final; and this relay knows its final names.
    pub(super) ordered_final: bool,
    pub(super) is_final: bool,
    pub(super) complete: bool,
    /// No piece has been held yet.
    pub(super) is_new: bool,
    /// Up to where control has told this relay everything. A snapshot that neighbours send first says less than the records
    /// before it: it leaves out the hashes of single pieces.
    told: Head,
    /// What was held at the last look.
    pub(super) looked_at: u64,
    alone: Alone,
    pub(super) auditor: Auditor,
    /// Why nothing is fetched for the moment.
    pub(super) paused: Option<String>,
}

impl Held {
    pub(super) async fn open(
        tools: &Tools,
        order: &RelayContent,
        url: &SourceUrl,
        genesis: Genesis,
    ) -> Result<Self, OpenFailure> {
        let local = |error: &dyn std::fmt::Display| {
            OpenFailure::Final(failure(RelayFailureKind::Local, error.to_string()))
        };
        let torrent = match kept_torrent(tools, order.sid) {
            None if order.is_final => fetch_torrent(tools, order.sid)
                .await
                .map_err(OpenFailure::Passing)?,
            kept => kept,
        };
        if torrent.is_none() && !order.ranges {
            tools
                .data
                .remove_content(order.sid)
                .map_err(|error| OpenFailure::of_state(&error))?;
        }
        let growth = growth(tools, &genesis)?;
        let v2_name = v2_name(&growth.manifest);
        // A run that knows records has told of its first piece.
        let is_new = growth.manifest.head() == Head::default();
        let told = growth.manifest.complete_to();
        let folder = tools
            .data
            .content_folder(order.sid)
            .map_err(|error| OpenFailure::of_state(&error))?;
        let check: Arc<dyn UrlCheck> = same_host(url);
        let layout = growth.manifest.layout().map_err(|error| local(&error))?;
        let files = genesis.is_folder().then(|| source_files(url, &genesis));
        let files = files.transpose().map_err(|error| local(&error))?;
        let origin = HttpSource {
            url: url.clone(),
            class: SourceClass::Origin,
            bearer: None,
            expect: expectation(
                layout.length(),
                &genesis.origin.etag,
                &genesis.origin.last_modified,
            ),
            access: if order.ranges {
                Access::Ranges
            } else {
                Access::OneGet
            },
            check: Some(check),
            files,
        };
        let path = folder.join(genesis.name.as_str());
        let mut spec = ContentSpec {
            names: Vec::new(),
            info: None,
            sid: Some(order.sid),
            layout,
            hashes: Hashes::Facts(growth.nodes()),
            identity: order.sid.0,
            adopts: None,
            target: Target::File {
                path,
                overwrite: true,
                rename_when_done: true,
            },
            prefer: Prefer::Peers,
            order: PieceOrder::RarestFirst,
            foreground: false,
            limits: Limits::default(),
            linear_digest: false,
            peers: Vec::new(),
            trackers: Vec::new(),
            sources: if tools.feeds {
                Vec::new()
            } else {
                vec![origin.clone()]
            },
            verifiable: false,
            growth: Some(growth),
        };
        if let Some(torrent) = &torrent {
            if spec.layout.length().is_none() {
                let ended = spec.layout.ended(torrent.info.length);
                spec.layout = ended.map_err(|error| local(&error))?;
            }
            spec.names = vec![order.sid.truncated(), torrent.info_hash];
            spec.info = info_for_peers(torrent, Some(order.sid));
            spec.hashes = Hashes::V1(torrent.info.pieces.clone());
            spec.verifiable = true;
            spec.sources = Vec::new();
        }
        let is_final = torrent.is_some();
        let (content, complete) = add_known(&tools.session, Some(&tools.data), spec)
            .await
            .map_err(|error| OpenFailure::of_disk(error.may_pass(), &error))?;
        if let Some(name) = v2_name.filter(|_| is_final) {
            // Another content of the same bytes answers by it.
            let _ = content.add_name(name);
        }
        let layout = content.layout().clone();
        let mut auditor = Auditor::new(tools.session.clone(), layout, origin.clone());
        auditor.ordered(audits(order, tools.feeds));
        let held = Self {
            content,
            auditor,
            is_signed: !genesis.keys.is_empty(),
            is_open_ended: genesis.length().is_none(),
            reads: !order.leases.is_empty(),
            hides: tools.serve_after_complete,
            feeds: tools.feeds.then(Capabilities::default),
            name: genesis.name,
            sid: order.sid,
            ranges: order.ranges,
            origin,
            ordered_final: order.is_final,
            is_final,
            complete,
            is_new,
            told,
            looked_at: 0,
            alone: Alone::new(),
            paused: None,
        };
        held.set_leases(order);
        Ok(held)
    }

    fn set_leases(&self, order: &RelayContent) {
        // What is final is got from others; see `look` for when there are none.
        if self.is_final || self.ordered_final || self.feeds.is_some() {
            return;
        }
        let leases = order
            .leases
            .iter()
            .map(|lease| lease.first..lease.first.saturating_add(lease.count));
        self.content.set_leases(leases.collect());
    }

    /// Peers and HTTP clients may ask for what is there.
    pub(super) fn open_to_others(&self, tools: &Tools) {
        if self.is_hidden() {
            return;
        }
        if let Err(error) = self.content.add_name(self.sid.truncated()) {
            tracing::warn!(%error, "peers cannot ask for a content by its sid");
        }
        let (content, name) = (self.content.clone(), self.name.clone());
        tools.serving.insert(self.sid, content, name);
    }

    fn is_hidden(&self) -> bool {
        self.hides && !self.is_final
    }

    /// It is final, and nothing comes any more: records that say what its last pieces hash to were lost on the way. The
    /// torrent says it too.
    pub(super) fn is_stranded(&mut self) -> bool {
        let have = self.content.progress().borrow().have_bytes;
        let moved = std::mem::replace(&mut self.looked_at, have) != have;
        self.ordered_final && !self.is_final && !moved
    }

    /// It became final, which nobody but control's torrent will tell.
    pub(super) fn needs_torrent(&self, order: &RelayContent) -> bool {
        order.is_final && !self.is_final && !self.is_signed
    }

    /// The origin cannot be read any more: what that means for the task.
    pub(super) fn given_up_by(&self, error: &OriginError) -> RelayFailure {
        if self.shows_another_body(error) {
            return failure(RelayFailureKind::Changed, error.to_string());
        }
        of_origin(error)
    }

    /// The one GET of the whole failed: it is tried again from the first byte on.
    pub(super) fn read_again(&self, error: &OriginError) -> End {
        if self.shows_another_body(error) {
            return End::Failed(self.given_up_by(error));
        }
        // A folder is read file by file: a later one that cannot be had loses those before it, as a break does.
        if broke_off(error) || self.content.progress().borrow().have_bytes > 0 {
            return End::BrokeOff(error.to_string());
        }
        End::Again
    }

    /// The end of another body was signed, and this one does not end there.
    fn shows_another_body(&self, error: &OriginError) -> bool {
        let is_signed = self.is_open_ended && self.content.length().is_some();
        is_signed && ends_elsewhere(error)
    }

    /// It is to read the whole of an origin without ranges, and may have pieces of the content already, which another relay read
    /// by another GET. Nothing would compare these with the new body, so that two versions might be mixed: it has to begin
    /// without them, and what it reads is compared with what was signed.
    pub(super) fn takes_over(&mut self, order: &RelayContent) -> bool {
        let read_before = std::mem::replace(&mut self.reads, !order.leases.is_empty());
        self.feeds.is_none() && !self.is_final && begins_to_read(order, read_before)
    }

    /// Takes what control says. True when that is more than it has said before.
    pub(super) fn ordered(&mut self, order: &RelayContent, news: News) -> bool {
        self.set_leases(order);
        self.auditor.ordered(audits(order, self.feeds.is_some()));
        if order.is_final && !self.ordered_final {
            self.ordered_final = true;
            self.content.set_leases(Vec::new());
            self.alone = Alone::new();
        }
        self.stand(&news);
        self.feed(news.info.as_ref());
        let heads = news.records.iter().map(|record| record.record().head);
        let told = heads.max().map_or(self.told, |head| head.max(self.told));
        self.content.add_records(news.records);
        self.content.add_peers(news.peers);
        std::mem::replace(&mut self.told, told) != told
    }

    /// Where control says that this relay stands.
    pub(super) fn stand(&self, news: &News) {
        let info = news.info.as_ref();
        self.content.set_site(info.and_then(|info| info.site));
    }

    /// A relay that feeds from others reads these over HTTP too.
    fn feed(&mut self, info: Option<&ContentInfo>) {
        let (Some(capabilities), Some(info), false) = (&mut self.feeds, info, self.complete) else {
            return;
        };
        let length = self.content.length();
        let is_final = self.is_final || self.ordered_final;
        let relays = relays(Some(info), length, is_final, capabilities);
        self.content.set_sources(relays);
    }

    /// A relay that is read over HTTP does not take the capability any more.
    pub(super) fn refused_by(&mut self, relay: &SourceUrl) {
        if let Some(capabilities) = &mut self.feeds {
            capabilities.forget(relay.as_str());
        }
    }

    /// The content has its final names: `torrent` is kept for a restart.
    pub(super) fn became_final(
        &mut self,
        tools: &Tools,
        torrent: Option<&Metainfo>,
        name: Option<InfoHash>,
    ) {
        self.is_final = true;
        self.open_to_others(tools);
        if let Some(name) = name {
            // The same bytes of another content of this node: that one answers by their common name.
            let _ = self.content.add_name(name);
        }
        let Some(torrent) = torrent else {
            return;
        };
        if let Err(error) = tools.data.save_torrent(self.sid, &torrent.encode()) {
            tracing::warn!(%error, "the torrent could not be kept; a restart asks control for it");
        }
    }

    /// It answers by the names of the v2 torrents too: `hashes` are kept for a restart.
    pub(super) fn knows_all_hashes(&self, tools: &Tools, names: &[InfoHash], hashes: &[Sha256]) {
        for &name in names {
            // As in [`became_final`](Self::became_final).
            let _ = self.content.add_name(name);
        }
        if let Err(error) = tools.data.save_hashes(self.sid, hashes) {
            tracing::warn!(%error, "hashes could not be kept; a restart asks others for them");
        }
    }

    /// Says when the first piece was there: from then on others can have it.
    pub(super) fn log_first(&mut self, piece: PieceIndex) {
        if std::mem::take(&mut self.is_new) {
            let t_unix_us = unix_us();
            tracing::info!(sid = %self.sid, piece = piece.0, t_unix_us, "first_complete_piece");
        }
    }

    /// Keeps a verified record for a restart.
    pub(super) fn keep(&self, tools: &Tools, record: &Signed) {
        if let Err(error) = tools.data.add_record(self.sid, record) {
            tracing::warn!(%error, "a record could not be kept; a restart asks control for it");
        }
    }

    /// A final content that nobody has whole is completed from its origin.
    pub(super) fn look(&mut self) {
        let progress = self.content.progress().borrow().clone();
        let waits = self.feeds.is_none()
            && self.ordered_final
            && !self.complete
            && self.ranges
            && progress.state == State::Fetching;
        if self
            .alone
            .look(waits, progress.received_bytes, Instant::now())
        {
            tracing::warn!(sid = %self.sid, "nobody has the missing pieces: they are read from the origin");
            let all = 0..self.content.layout().piece_count();
            self.content.set_leases(vec![all]);
            self.content.set_sources(vec![self.origin.clone()]);
        }
    }

    pub(super) fn holds(&self, changed: bool) -> Note {
        let progress = self.content.progress().borrow().clone();
        Note::Holds {
            report: ContentReport {
                sid: self.sid,
                have: progress.have_bytes,
                complete: self.complete,
                final_ok: self.is_final,
                v2_ok: self.content.answers_v2(),
                peer_sent: progress.counters.sent,
                serving: !self.is_hidden(),
                manifest: self.content.head().map(|_| self.told),
                paused: self.paused.clone(),
            },
            changed,
        }
    }
}

/// The body did not break off: it is longer or shorter than it should be.
fn ends_elsewhere(error: &OriginError) -> bool {
    matches!(
        error,
        OriginError::TooLong { .. } | OriginError::Short { marked: true, .. }
    )
}

/// These are the first orders, or the first after others had it, to read the whole by one GET.
fn begins_to_read(order: &RelayContent, read_before: bool) -> bool {
    !order.ranges && !order.is_final && !order.leases.is_empty() && !read_before
}

/// What is to be read again from the origin: nothing by a relay that takes everything from others.
fn audits(order: &RelayContent, feeds: bool) -> &[u32] {
    if feeds { &[] } else { &order.audits }
}

/// What a relay reports of a content that its disk does not let it open.
pub(super) fn paused_report(sid: Sid, why: String) -> ContentReport {
    ContentReport {
        paused: Some(why),
        ..ContentReport::nothing(sid)
    }
}

/// Where the files of a folder are, and which versions of them are meant.
fn source_files(folder: &SourceUrl, genesis: &Genesis) -> Result<Arc<[SourceFile]>, String> {
    let file = |file: &GenesisFile| {
        let length = file.length;
        Ok(SourceFile {
            url: file_url(folder, &file.url_suffix)?,
            expect: expectation(length, &file.etag, &file.last_modified),
        })
    };
    genesis.files.iter().map(file).collect()
}

/// What this relay knows of the content's hashes from earlier runs.
fn growth(tools: &Tools, genesis: &Genesis) -> Result<Growth, OpenFailure> {
    let manifest = Manifest::new(genesis.clone(), Accept::Attested);
    let mut manifest = manifest.map_err(|error| OpenFailure::of_disk(false, &error))?;
    let mut kept = tools.data.records(genesis.sid());
    kept.retain(|record| manifest.apply(record).is_ok());
    expand(&mut manifest, &tools.data.hashes(genesis.sid()));
    let saved = tools.data.save_records(genesis.sid(), &kept);
    saved.map_err(|error| OpenFailure::of_state(&error))?;
    Ok(Growth {
        manifest,
        is_relay: true,
        signer: Some(Arc::clone(&tools.signer)),
    })
}

impl Tools {
    /// A content's genesis: from control's orders, or where it is too long for these from this disk or by a request of its own.
    pub(super) async fn genesis(&self, order: &RelayContent) -> Result<Genesis, OpenFailure> {
        if order.genesis.0.is_empty()
            && let Some(kept) = self.data.genesis(order.sid)
        {
            return Ok(kept);
        }
        let is_told = !order.genesis.0.is_empty();
        let bytes = if is_told {
            Bytes::copy_from_slice(&order.genesis.0)
        } else {
            let client = self.client.borrow().clone();
            let fetched = client.genesis(order.sid).await;
            fetched.map_err(|error| OpenFailure::Passing(error.to_string()))?
        };
        let wrong = |problem: &dyn std::fmt::Display| {
            let message = format!("control's genesis of content {}: {problem}", order.sid);
            OpenFailure::Final(failure(RelayFailureKind::Local, message))
        };
        let genesis = Genesis::decode(&bytes).map_err(|error| wrong(&error))?;
        if genesis.sid() != order.sid {
            return Err(wrong(&"it is that of another"));
        }
        if !is_told {
            let saved = self.data.save_genesis(&genesis);
            saved.map_err(|error| OpenFailure::of_state(&error))?;
        }
        Ok(genesis)
    }
}

fn kept_torrent(tools: &Tools, sid: Sid) -> Option<Metainfo> {
    let bytes = tools.data.torrent(sid).ok().flatten()?;
    Metainfo::decode(&bytes).ok()
}

/// The torrent from control, kept on disk. `None`: not final after all.
async fn fetch_torrent(tools: &Tools, sid: Sid) -> Result<Option<Metainfo>, String> {
    let client = tools.client.borrow().clone();
    let Some(bytes) = client
        .torrent(sid)
        .await
        .map_err(|error| error.to_string())?
    else {
        return Ok(None);
    };
    let torrent = Metainfo::decode(&bytes).map_err(|error| error.to_string())?;
    tools
        .data
        .save_torrent(sid, &bytes)
        .map_err(|error| error.to_string())?;
    Ok(Some(torrent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_read_a_whole_object_begins_without_what_others_read() {
        let lease = floodway_api::sync::RangeLease {
            lease: 1,
            first: 0,
            count: 9,
            expires_ms: 1,
        };
        let order = RelayContent {
            sid: Sid([1; 32]),
            genesis: floodway_api::HexBytes(Vec::new()),
            ranges: false,
            is_final: false,
            leases: vec![lease],
            audits: Vec::new(),
        };
        assert!(begins_to_read(&order, false));
        assert!(!begins_to_read(&order, true), "it is at it");
        let idle = RelayContent {
            leases: Vec::new(),
            ..order.clone()
        };
        assert!(!begins_to_read(&idle, false));
        // Ranges have a version.
        let ranges = RelayContent {
            ranges: true,
            ..order
        };
        assert!(!begins_to_read(&ranges, false));
    }

    #[test]
    fn a_body_that_ends_properly_before_the_signed_end_is_another_one() {
        let short = |marked| OriginError::Short {
            url: String::new(),
            got: 1,
            expected: 2,
            marked,
        };
        assert!(ends_elsewhere(&short(true)));
        assert!(!ends_elsewhere(&short(false)), "it broke off");
    }

    #[test]
    fn who_feeds_from_others_reads_nothing_again() {
        let order = RelayContent {
            sid: Sid([1; 32]),
            genesis: floodway_api::HexBytes(Vec::new()),
            ranges: true,
            is_final: false,
            leases: Vec::new(),
            audits: vec![3],
        };
        assert_eq!(audits(&order, false), [3]);
        assert!(audits(&order, true).is_empty());
    }
}
