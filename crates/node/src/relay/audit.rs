//! Reads pieces from the origin again that other relays reported. Whether they agree is for control to say.

use std::collections::BTreeSet;
use std::time::Instant;

use floodway_api::sync::PieceReport;
use floodway_origin::{OriginError, ReadRequest};
use floodway_proto::digest::{DigestKind, PieceDigester};
use floodway_proto::{Layout, PieceIndex};
use tokio::task::JoinSet;

use crate::origin_source::{again, reader};
use crate::{HttpSource, Session};

/// Both digests are compared: a wrong SHA-1 would spoil the torrent of stock clients.
const BOTH: DigestKind = DigestKind {
    sha1: true,
    tree: true,
};

/// What came of one audit.
pub(super) type Audited = (u32, Result<Option<PieceReport>, OriginError>);

/// The audits of one content. Dropped, it stops.
pub(super) struct Auditor {
    session: Session,
    layout: Layout,
    origin: HttpSource,
    /// What control asks for, until it asks no longer.
    asked: BTreeSet<u32>,
    waiting: Vec<u32>,
    /// At most one at a time: leases matter more.
    running: JoinSet<Audited>,
}

impl Auditor {
    pub(super) fn new(session: Session, layout: Layout, origin: HttpSource) -> Self {
        Self {
            session,
            layout,
            origin,
            asked: BTreeSet::new(),
            waiting: Vec::new(),
            running: JoinSet::new(),
        }
    }

    /// Takes control's list.
    pub(super) fn ordered(&mut self, pieces: &[u32]) {
        self.asked.retain(|piece| pieces.contains(piece));
        self.waiting.retain(|piece| pieces.contains(piece));
        let new = pieces.iter().filter(|piece| self.asked.insert(**piece));
        let new: Vec<u32> = new.copied().collect();
        self.waiting.extend(new);
        self.begin();
    }

    fn begin(&mut self) {
        while self.running.is_empty()
            && let Some(raw) = self.waiting.pop()
        {
            // Control that asks for what does not exist waits in vain.
            let Some(piece) = self.layout.piece(raw) else {
                continue;
            };
            let (session, layout) = (self.session.clone(), self.layout.clone());
            let origin = self.origin.clone();
            self.running.spawn(async move {
                let read = read_patiently(&session, &layout, &origin, piece).await;
                (piece.0, read)
            });
        }
    }

    /// The next result; `None` while nothing is being read.
    pub(super) async fn next(&mut self) -> Option<Audited> {
        loop {
            match self.running.join_next().await? {
                Ok(audited) => {
                    self.begin();
                    return Some(audited);
                }
                Err(error) => {
                    tracing::error!(%error, "a defect broke an audit");
                    self.begin();
                }
            }
        }
    }
}

async fn read_patiently(
    session: &Session,
    layout: &Layout,
    origin: &HttpSource,
    piece: PieceIndex,
) -> Result<Option<PieceReport>, OriginError> {
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        let error = match read(session, layout, origin, piece).await {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        tries += 1;
        match again(&error, tries, begun.elapsed()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

async fn read(
    session: &Session,
    layout: &Layout,
    origin: &HttpSource,
    piece: PieceIndex,
) -> Result<Option<PieceReport>, OriginError> {
    let bytes = layout.piece_bytes(piece);
    let of_file = |start: u64| bytes.start - start..bytes.end - start;
    let files = origin.files.as_deref().zip(layout.files());
    let file = files.and_then(|(files, spans)| {
        let mut both = files.iter().zip(spans);
        both.find(|(_, span)| span.bytes.contains(&bytes.start))
    });
    let (url, expect, range) = match file {
        Some((file, span)) => (&file.url, &file.expect, of_file(span.bytes.start)),
        None => (&origin.url, &origin.expect, of_file(0)),
    };
    let _place = session.hosts().permit(url).await;
    let request = ReadRequest {
        url: url.clone(),
        range: Some(range),
        expect: expect.clone(),
        bearer: None,
    };
    let from = reader(session, origin.check.as_ref());
    let mut body = from.read(&request, session.origin_guard()).await?;
    let mut digester = PieceDigester::new(BOTH, layout, piece);
    // Only the end of the body proves that it was whole.
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        session.down().charge(chunk.len());
        session.metrics().audit_bytes.add(chunk.len() as u64);
        let wanted = chunk.len().min(digester.missing() as usize);
        digester.update(&chunk[..wanted]);
        session.down().ready().await;
    }
    let digest = digester.finish();
    let found = digest.node.zip(digest.sha1);
    Ok(found.map(|(node, sha1)| PieceReport {
        piece: piece.0,
        node,
        sha1,
    }))
}
