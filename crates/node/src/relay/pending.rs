//! What a relay has learnt of one relay task and control has not acknowledged yet.
//!
//! A relay vouches for what it read of the origin under a lease of its own, and for nothing else: pieces that it got from other
//! relays are theirs to report.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use floodway_api::sync::{
    ContentReport, PIECES_PER_SYNC, PROBES_LIMIT, PieceReport, ProbeReport, RangeLease,
    RelayFailure, RelayReport,
};
use floodway_proto::Sid;

/// What to report of these relay tasks in one sync: [`PIECES_PER_SYNC`] and [`PROBES_LIMIT`] of all together, since the whole must
/// be no longer than control takes. What others report waits for what only this relay can say.
pub(super) fn reports<'a>(books: impl Iterator<Item = (&'a str, &'a Pending)>) -> Vec<RelayReport> {
    let (mut room, mut bytes) = (PIECES_PER_SYNC, PROBES_LIMIT);
    let books: Vec<_> = books
        .map(|(task, book)| (book, book.report(task, &mut room)))
        .collect();
    let reports = books.into_iter().map(|(book, mut report)| {
        report.held = book.told(&book.unconfirmed, &mut room);
        match bytes.checked_sub(book.probe_bytes) {
            Some(left) => bytes = left,
            None => report.probe = None,
        }
        report
    });
    reports.filter(says_something).collect()
}

/// Bytes that it has in a sync.
pub(super) fn json_length(probe: &ProbeReport) -> usize {
    // It has no maps, whose keys alone could be none of JSON.
    serde_json::to_vec(probe).map_or(0, |json| json.len())
}

fn says_something(report: &RelayReport) -> bool {
    let pieces = [&report.pieces, &report.audited, &report.held];
    let pieces = pieces.into_iter().any(|list| !list.is_empty());
    pieces
        || !report.unread.is_empty()
        || report.probe.is_some()
        || report.end.is_some()
        || report.failure.is_some()
}

/// The book of one relay task.
#[derive(Debug, Default)]
pub(super) struct Pending {
    sid: Option<Sid>,
    probe: Option<ProbeReport>,
    /// So many bytes in a sync.
    probe_bytes: usize,
    /// Every digest known of the content, and which of them control is to be told and has not acknowledged.
    digests: BTreeMap<u32, PieceReport>,
    unreported: BTreeSet<u32>,
    /// The same of pieces that others report: control is told what they hash to here.
    unconfirmed: BTreeSet<u32>,
    /// What was found of pieces that control asked to read again; `None`: nothing could be read.
    audited: BTreeMap<u32, Option<PieceReport>>,
    /// How long the content turned out to be.
    end: Option<u64>,
    failure: Option<RelayFailure>,
    /// Every lease that this relay was ever given, of which content and pieces.
    leases: BTreeMap<u64, (Sid, Range<u32>)>,
    pub(super) content: Option<ContentReport>,
}

impl Pending {
    /// Another content, or the same from the beginning: what was said of the last one is of no interest any more. Its leases
    /// may have come before.
    pub(super) fn begin(&mut self, sid: Option<Sid>) {
        let mut leases = std::mem::take(&mut self.leases);
        leases.retain(|_, (of, _)| Some(*of) == sid);
        *self = Self {
            sid,
            leases,
            ..Self::default()
        };
    }

    pub(super) fn probed(&mut self, probe: ProbeReport) {
        self.probe_bytes = json_length(&probe);
        self.probe = Some(probe);
    }

    pub(super) fn ended(&mut self, length: u64) {
        self.end = Some(length);
    }

    pub(super) fn failed(&mut self, failure: RelayFailure) {
        self.failure = Some(failure);
    }

    pub(super) fn piece(&mut self, piece: PieceReport) {
        self.digests.insert(piece.piece, piece);
        if self.was_leased(piece.piece) {
            self.unreported.insert(piece.piece);
        } else {
            self.unconfirmed.insert(piece.piece);
        }
    }

    pub(super) fn audited(&mut self, piece: u32, found: Option<PieceReport>) {
        self.audited.insert(piece, found);
    }

    fn was_leased(&self, piece: u32) -> bool {
        let mut own = self.leases.values();
        own.any(|(of, range)| Some(*of) == self.sid && range.contains(&piece))
    }

    /// A lease of pieces that are held already means that control does not know them: it is told (again).
    pub(super) fn leased(&mut self, sid: Sid, leases: &[RangeLease]) {
        for lease in leases {
            let range = lease.first..lease.first.saturating_add(lease.count);
            let known = self.leases.insert(lease.lease, (sid, range.clone()));
            if known.is_none() && self.sid == Some(sid) {
                let known = self.digests.range(range).map(|(&piece, _)| piece);
                let known: Vec<u32> = known.collect();
                self.unconfirmed.retain(|piece| !known.contains(piece));
                self.unreported.extend(known);
            }
        }
    }

    /// What to report now of all but `held`. `room`: for so many pieces; what is left of it.
    fn report(&self, relay_task: &str, room: &mut usize) -> RelayReport {
        let pieces = self.told(&self.unreported, room);
        let now = || self.audited.iter().take(*room);
        let audited: Vec<_> = now().filter_map(|(_, found)| *found).collect();
        let unread = now().filter_map(|(piece, found)| found.is_none().then_some(*piece));
        let unread: Vec<_> = unread.collect();
        *room -= audited.len() + unread.len();
        RelayReport {
            relay_task: relay_task.to_owned(),
            sid: self.sid,
            probe: self.probe.clone(),
            end: self.end,
            pieces,
            audited,
            held: Vec::new(),
            unread,
            failure: self.failure.clone(),
        }
    }

    /// The digests of the first of these pieces.
    fn told(&self, pieces: &BTreeSet<u32>, room: &mut usize) -> Vec<PieceReport> {
        let known = pieces.iter().filter_map(|piece| self.digests.get(piece));
        let told: Vec<_> = known.take(*room).copied().collect();
        *room -= told.len();
        told
    }

    /// True when there is something to tell that may not have had room in the last sync.
    pub(super) fn has_more(&self) -> bool {
        let no_pieces = self.unreported.is_empty() && self.unconfirmed.is_empty();
        !(no_pieces && self.audited.is_empty() && self.probe.is_none())
    }

    /// Control has made this durable.
    pub(super) fn acknowledged(&mut self, report: &RelayReport) {
        if report.sid != self.sid {
            return;
        }
        for piece in &report.pieces {
            if self.digests.get(&piece.piece) == Some(piece) {
                self.unreported.remove(&piece.piece);
            }
        }
        for piece in &report.held {
            if self.digests.get(&piece.piece) == Some(piece) {
                self.unconfirmed.remove(&piece.piece);
            }
        }
        for found in &report.audited {
            self.audited.remove(&found.piece);
        }
        for piece in &report.unread {
            self.audited.remove(piece);
        }
        if self.probe == report.probe {
            self.probe = None;
            self.probe_bytes = 0;
        }
        if self.end == report.end {
            self.end = None;
        }
        if self.failure == report.failure {
            self.failure = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use floodway_api::sync::{FileProbe, RelayFailureKind};
    use floodway_proto::{Sha1, Sha256};

    use super::*;

    const SID: Sid = Sid([1; 32]);
    const ALL: RangeLease = lease(1, 0, u32::MAX);

    const fn lease(lease: u64, first: u32, count: u32) -> RangeLease {
        RangeLease {
            lease,
            first,
            count,
            expires_ms: 1,
        }
    }

    impl Pending {
        /// What to report when there is no other task.
        fn alone(&self) -> Option<RelayReport> {
            reports([("t", self)].into_iter()).pop()
        }

        fn takes(&mut self, report: &RelayReport) -> bool {
            self.acknowledged(report);
            self.has_more()
        }
    }

    fn piece(piece: u32) -> PieceReport {
        PieceReport {
            piece,
            node: Sha256([0; 32]),
            sha1: Sha1([0; 20]),
        }
    }

    #[test]
    fn pieces_are_reported_until_they_are_acknowledged() {
        let mut pending = Pending::default();
        pending.begin(Some(SID));
        pending.leased(SID, &[ALL]);
        assert_eq!(pending.alone(), None);
        let most = u32::try_from(PIECES_PER_SYNC).unwrap();
        (0..most + 2).for_each(|n| pending.piece(piece(n)));
        let first = pending.alone().unwrap();
        assert_eq!(
            (first.pieces.len(), first.sid),
            (PIECES_PER_SYNC, Some(SID))
        );
        assert_eq!(
            pending.alone(),
            Some(first.clone()),
            "a lost sync is repeated"
        );
        assert!(pending.takes(&first), "there is more");
        let second = pending.alone().unwrap();
        assert_eq!(second.pieces, [piece(most), piece(most + 1)]);
        pending.piece(piece(0));
        assert!(pending.takes(&second));
        assert_eq!(pending.alone().unwrap().pieces, [piece(0)]);
    }

    #[test]
    fn a_new_lease_of_known_pieces_tells_them_again_once() {
        let mut pending = Pending::default();
        pending.begin(Some(SID));
        pending.leased(SID, &[ALL]);
        (0..4).for_each(|n| pending.piece(piece(n)));
        pending.acknowledged(&pending.alone().unwrap());
        let lease = lease(9, 2, 9);
        pending.leased(SID, &[lease]);
        let again = pending.alone().unwrap();
        assert_eq!(again.pieces, [piece(2), piece(3)]);
        pending.acknowledged(&again);
        pending.leased(SID, &[lease]);
        assert_eq!(pending.alone(), None);
    }

    #[test]
    fn what_other_relays_gave_is_confirmed_and_not_reported() {
        let mut pending = Pending::default();
        // The leases of a content may be known before the work on it begins, ..
        pending.leased(SID, &[lease(1, 0, 2)]);
        pending.begin(Some(SID));
        (0..4).for_each(|n| pending.piece(piece(n)));
        let report = pending.alone().unwrap();
        assert_eq!(report.pieces, [piece(0), piece(1)]);
        assert_eq!(report.held, [piece(2), piece(3)]);
        pending.acknowledged(&report);
        // .. hold for no other, and outlive a new beginning.
        let other = Sid([2; 32]);
        pending.leased(other, &[lease(2, 0, 9)]);
        assert_eq!(pending.alone(), None);
        pending.begin(Some(SID));
        (0..4).for_each(|n| pending.piece(piece(n)));
        assert_eq!(pending.alone().unwrap().pieces, report.pieces);
        pending.begin(Some(other));
        pending.leased(other, &[lease(3, 3, 1)]);
        (0..4).for_each(|n| pending.piece(piece(n)));
        assert_eq!(pending.alone().unwrap().pieces, [piece(3)]);
    }

    #[test]
    fn audits_are_told_until_they_are_acknowledged() {
        let mut pending = Pending::default();
        pending.begin(Some(SID));
        pending.audited(3, Some(piece(3)));
        pending.audited(5, None);
        let report = pending.alone().unwrap();
        assert_eq!(
            (&report.audited[..], &report.unread[..]),
            (&[piece(3)][..], &[5][..])
        );
        assert_eq!(report.pieces, [], "read again is not reported first");
        assert!(!pending.takes(&report));
        assert_eq!(pending.alone(), None);
        pending.audited(4, None);
        pending.begin(Some(Sid([2; 32])));
        assert_eq!(pending.alone(), None, "of no interest any more");
    }

    #[test]
    fn of_two_large_folders_one_is_told_after_the_other() {
        let file = FileProbe {
            path: "f".repeat(500),
            length: 1,
            etag: String::new(),
            last_modified: String::new(),
        };
        let probe = |files| ProbeReport {
            length: None,
            etag: None,
            last_modified: None,
            ranges: true,
            name: "folder".into(),
            files: vec![file.clone(); files],
        };
        let mut books: Vec<_> = (0..2).map(|_| Pending::default()).collect();
        for book in &mut books {
            book.begin(None);
            book.probed(probe(16_000));
        }
        for _ in 0..2 {
            let told = reports(["a", "b"].into_iter().zip(&books));
            assert_eq!(told.len(), 1);
            assert!(serde_json::to_vec(&told).unwrap().len() < PROBES_LIMIT);
            let at = usize::from(told[0].relay_task == "b");
            assert!(books[at].has_more());
            assert!(!books[at].takes(&told[0]));
        }
        assert!(reports(["a", "b"].into_iter().zip(&books)).is_empty());
    }

    #[test]
    fn all_that_one_sync_tells_of_has_room_in_it() {
        let most = u32::try_from(PIECES_PER_SYNC).unwrap();
        let mut books: Vec<_> = (0..3).map(|_| Pending::default()).collect();
        for book in &mut books {
            book.begin(Some(SID));
            book.leased(SID, &[lease(1, 0, most - 100)]);
            (0..most).for_each(|n| book.piece(piece(n)));
            (0..most).for_each(|n| book.audited(n, (n % 2 == 0).then_some(piece(n))));
        }
        let names = ["a", "b", "c"];
        let (mut own, mut syncs) = (Vec::new(), 0);
        while books.iter().any(Pending::has_more) {
            let books_of = || names.into_iter().zip(&books);
            let told = reports(books_of());
            let others = |of: &RelayReport| of.audited.len() + of.held.len() + of.unread.len();
            let pieces: usize = told.iter().map(|of| of.pieces.len() + others(of)).sum();
            assert!((1..=PIECES_PER_SYNC).contains(&pieces), "{pieces}");
            syncs += 1;
            own.extend(told.iter().flat_map(|of| of.pieces.clone()));
            let waits = own.len() < 3 * (PIECES_PER_SYNC - 100);
            assert!(!waits || told.iter().all(|of| of.held.is_empty()));
            for of in &told {
                let at = names.iter().position(|name| *name == of.relay_task);
                books[at.unwrap()].acknowledged(of);
            }
        }
        assert_eq!(syncs, 6);
    }

    #[test]
    fn what_was_said_of_another_content_acknowledges_nothing() {
        let mut pending = Pending::default();
        pending.failed(RelayFailure {
            kind: RelayFailureKind::Local,
            message: "x".into(),
        });
        let old = pending.alone().unwrap();
        pending.begin(Some(SID));
        pending.leased(SID, &[ALL]);
        pending.piece(piece(0));
        pending.acknowledged(&old);
        assert_eq!(pending.alone().unwrap().pieces.len(), 1);
    }
}
