//! What a relay has learnt of one relay task and control has not acknowledged yet.
//!
//! A relay vouches for what it read of the origin under a lease of its own, and for nothing else: pieces that it got from other
//! relays are theirs to report.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use floodway_api::sync::{
    ContentReport, PIECES_PER_SYNC, PieceReport, ProbeReport, RangeLease, RelayFailure, RelayReport,
};
use floodway_proto::Sid;

/// The book of one relay task.
#[derive(Debug, Default)]
pub(super) struct Pending {
    sid: Option<Sid>,
    probe: Option<ProbeReport>,
    /// Every digest known of the content, and which of them control is to be told and has not acknowledged.
    digests: BTreeMap<u32, PieceReport>,
    unreported: BTreeSet<u32>,
    /// The same of pieces that others report: control is told what they hash to here.
    unconfirmed: BTreeSet<u32>,
    /// What was found of pieces that control asked to read again; `None`: nothing could be read.
    audited: BTreeMap<u32, Option<PieceReport>>,
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
        self.probe = Some(probe);
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

    /// What to report now.
    pub(super) fn report(&self, relay_task: &str) -> Option<RelayReport> {
        let pieces = self
            .unreported
            .iter()
            .filter_map(|piece| self.digests.get(piece))
            .take(PIECES_PER_SYNC);
        let held = (self.unconfirmed.iter())
            .filter_map(|piece| self.digests.get(piece))
            .take(PIECES_PER_SYNC);
        let now = || self.audited.iter().take(PIECES_PER_SYNC);
        let audited = now().filter_map(|(_, found)| *found);
        let unread = now().filter_map(|(piece, found)| found.is_none().then_some(*piece));
        let report = RelayReport {
            relay_task: relay_task.to_owned(),
            sid: self.sid,
            probe: self.probe.clone(),
            pieces: pieces.copied().collect(),
            audited: audited.collect(),
            held: held.copied().collect(),
            unread: unread.collect(),
            failure: self.failure.clone(),
        };
        let audits = report.audited.is_empty() && report.unread.is_empty();
        let empty = report.probe.is_none() && report.pieces.is_empty() && report.failure.is_none();
        let empty = empty && audits && report.held.is_empty();
        (!empty).then_some(report)
    }

    /// Control has made this durable. True when there is more to say.
    pub(super) fn acknowledged(&mut self, report: &RelayReport) -> bool {
        if report.sid != self.sid {
            return false;
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
        }
        if self.failure == report.failure {
            self.failure = None;
        }
        !self.unreported.is_empty() || !self.unconfirmed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use floodway_api::sync::RelayFailureKind;
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
        assert_eq!(pending.report("t"), None);
        let most = u32::try_from(PIECES_PER_SYNC).unwrap();
        (0..most + 2).for_each(|n| pending.piece(piece(n)));
        let first = pending.report("t").unwrap();
        assert_eq!(
            (first.pieces.len(), first.sid),
            (PIECES_PER_SYNC, Some(SID))
        );
        assert_eq!(
            pending.report("t"),
            Some(first.clone()),
            "a lost sync is repeated"
        );
        assert!(pending.acknowledged(&first), "there is more");
        let second = pending.report("t").unwrap();
        assert_eq!(second.pieces, [piece(most), piece(most + 1)]);
        pending.piece(piece(0));
        assert!(pending.acknowledged(&second));
        assert_eq!(pending.report("t").unwrap().pieces, [piece(0)]);
    }

    #[test]
    fn a_new_lease_of_known_pieces_tells_them_again_once() {
        let mut pending = Pending::default();
        pending.begin(Some(SID));
        pending.leased(SID, &[ALL]);
        (0..4).for_each(|n| pending.piece(piece(n)));
        pending.acknowledged(&pending.report("t").unwrap());
        let lease = lease(9, 2, 9);
        pending.leased(SID, &[lease]);
        let again = pending.report("t").unwrap();
        assert_eq!(again.pieces, [piece(2), piece(3)]);
        pending.acknowledged(&again);
        pending.leased(SID, &[lease]);
        assert_eq!(pending.report("t"), None);
    }

    #[test]
    fn what_other_relays_gave_is_confirmed_and_not_reported() {
        let mut pending = Pending::default();
        // The leases of a content may be known before the work on it begins, ..
        pending.leased(SID, &[lease(1, 0, 2)]);
        pending.begin(Some(SID));
        (0..4).for_each(|n| pending.piece(piece(n)));
        let report = pending.report("t").unwrap();
        assert_eq!(report.pieces, [piece(0), piece(1)]);
        assert_eq!(report.held, [piece(2), piece(3)]);
        pending.acknowledged(&report);
        // .. hold for no other, and outlive a new beginning.
        let other = Sid([2; 32]);
        pending.leased(other, &[lease(2, 0, 9)]);
        assert_eq!(pending.report("t"), None);
        pending.begin(Some(SID));
        (0..4).for_each(|n| pending.piece(piece(n)));
        assert_eq!(pending.report("t").unwrap().pieces, report.pieces);
        pending.begin(Some(other));
        pending.leased(other, &[lease(3, 3, 1)]);
        (0..4).for_each(|n| pending.piece(piece(n)));
        assert_eq!(pending.report("t").unwrap().pieces, [piece(3)]);
    }

    #[test]
    fn audits_are_told_until_they_are_acknowledged() {
        let mut pending = Pending::default();
        pending.begin(Some(SID));
        pending.audited(3, Some(piece(3)));
        pending.audited(5, None);
        let report = pending.report("t").unwrap();
        assert_eq!(
            (&report.audited[..], &report.unread[..]),
            (&[piece(3)][..], &[5][..])
        );
        assert_eq!(report.pieces, [], "read again is not reported first");
        assert!(!pending.acknowledged(&report));
        assert_eq!(pending.report("t"), None);
        pending.audited(4, None);
        pending.begin(Some(Sid([2; 32])));
        assert_eq!(pending.report("t"), None, "of no interest any more");
    }

    #[test]
    fn what_was_said_of_another_content_acknowledges_nothing() {
        let mut pending = Pending::default();
        pending.failed(RelayFailure {
            kind: RelayFailureKind::Local,
            message: "x".into(),
        });
        let old = pending.report("t").unwrap();
        pending.begin(Some(SID));
        pending.leased(SID, &[ALL]);
        pending.piece(piece(0));
        assert!(!pending.acknowledged(&old));
        assert_eq!(pending.report("t").unwrap().pieces.len(), 1);
    }
}
