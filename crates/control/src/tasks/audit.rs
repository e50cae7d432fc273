//! Which pieces a second relay reads from the origin again, and what follows from what it read.

use std::collections::{BTreeMap, BTreeSet};

use floodway_proto::{NodeId, Sha1, Sha256};
use serde::{Deserialize, Serialize};

/// Contents of fewer pieces are audited only when the share is so high that a whole piece is due: of sixteen pieces one more
/// costs the origin 6 %.
const PIECES_MIN: u32 = 16;

/// What became of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// The relay was asked and has not answered.
    Open,
    /// It read the same bytes.
    Equal,
    /// It read other bytes, or computed another SHA-1.
    Different,
    /// It could not read them, or went away.
    Unread,
}

/// What a relay found.
pub(crate) type Digests = (Sha256, Sha1);

/// One relay's second reading of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) outcome: Outcome,
    /// What it found, when it is [`Outcome::Different`].
    pub(crate) digests: Option<Digests>,
}

/// What all readings of one piece together say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody has not answered yet.
    Open,
    /// Nobody read other bytes than those reported.
    Agreed,
    /// Two relays differ: a third must decide.
    Disputed,
    /// Most relays read the same: these did not.
    Against(Vec<NodeId>),
    /// No two relays read the same.
    Unstable,
}

/// All audits of one content, by piece and auditor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audits(BTreeMap<(u32, NodeId), Reading>);

impl Audits {
    pub(crate) fn insert(&mut self, piece: u32, auditor: NodeId, reading: Reading) {
        self.0.insert((piece, auditor), reading);
    }

    pub(crate) fn get(&self, piece: u32, auditor: NodeId) -> Option<Reading> {
        self.0.get(&(piece, auditor)).copied()
    }

    /// Every reading, by piece.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, NodeId, Reading)> + '_ {
        let rows = self.0.iter();
        rows.map(|((piece, auditor), reading)| (*piece, *auditor, *reading))
    }

    /// What is asked for and not answered.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u32, NodeId)> + '_ {
        let open = |(.., reading): &(u32, NodeId, Reading)| reading.outcome == Outcome::Open;
        self.iter()
            .filter(open)
            .map(|(piece, auditor, _)| (piece, auditor))
    }

    pub(crate) fn is_audited(&self, piece: u32) -> bool {
        self.of(piece).next().is_some()
    }

    /// How many pieces were chosen, whatever became of them.
    pub(crate) fn chosen(&self) -> u32 {
        let mut pieces: Vec<u32> = self.0.keys().map(|(piece, _)| *piece).collect();
        pieces.dedup();
        u32::try_from(pieces.len()).unwrap_or(u32::MAX)
    }

    fn of(&self, piece: u32) -> impl Iterator<Item = (NodeId, Reading)> + '_ {
        let range = (piece, NodeId([0; 16]))..=(piece, NodeId([0xff; 16]));
        let rows = self.0.range(range);
        rows.map(|((_, auditor), reading)| (*auditor, *reading))
    }

    /// Who found something else in a piece.
    pub(crate) fn dissenters(&self, piece: u32) -> impl Iterator<Item = NodeId> + '_ {
        let differs = |(_, reading): &(NodeId, Reading)| reading.outcome == Outcome::Different;
        self.of(piece).filter(differs).map(|(auditor, _)| auditor)
    }

    /// Pieces of which this relay found something else, while others are still to say.
    pub(crate) fn disputes_of(&self, node: NodeId) -> BTreeSet<u32> {
        let open = self.open().map(|(piece, _)| piece);
        open.filter(|piece| self.dissenters(*piece).any(|other| other == node))
            .collect()
    }

    /// Judges a piece that `reporter` reported with these digests. What others say of it counts only if they are `trusted`.
    pub(crate) fn verdict(
        &self,
        piece: u32,
        reporter: NodeId,
        reported: Digests,
        trusted: impl Fn(NodeId) -> bool,
    ) -> Verdict {
        let mut found = vec![(reporter, reported)];
        for (auditor, reading) in self.of(piece).filter(|(auditor, _)| trusted(*auditor)) {
            match reading.outcome {
                Outcome::Open => return Verdict::Open,
                Outcome::Equal => found.push((auditor, reported)),
                Outcome::Different => found.extend(reading.digests.map(|other| (auditor, other))),
                Outcome::Unread => {}
            }
        }
        if found.iter().all(|(_, digests)| *digests == reported) {
            return Verdict::Agreed;
        }
        if found.len() == 2 {
            return Verdict::Disputed;
        }
        let votes = |digests: &Digests| found.iter().filter(|(_, other)| other == digests).count();
        let most = found.iter().map(|(_, digests)| digests);
        let Some(most) = most.max_by_key(|digests| votes(digests)).copied() else {
            return Verdict::Agreed;
        };
        if votes(&most) * 2 <= found.len() {
            return Verdict::Unstable;
        }
        let others = found.iter().filter(|(_, digests)| *digests != most);
        Verdict::Against(others.map(|(node, _)| *node).collect())
    }
}

/// One of how many pieces is audited; `None`: none.
pub(crate) fn interval(share: f64) -> Option<u32> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of u32"
    )]
    (share > 0.0).then(|| (1.0 / share).round().clamp(1.0, f64::from(u32::MAX)) as u32)
}

/// How many pieces are to be chosen in all, when `known` of `count` are known. The last pieces of a content are the end of no
/// full interval: one is chosen for them when everything is known.
pub(crate) fn quota(interval: u32, known: u32, count: u32) -> u32 {
    let full = known / interval.max(1);
    let rest = known == count && !count.is_multiple_of(interval) && count >= PIECES_MIN;
    full + u32::from(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);
    const C: NodeId = NodeId([3; 16]);

    fn digests(byte: u8) -> Digests {
        (Sha256([byte; 32]), Sha1([byte; 20]))
    }

    type Found = (NodeId, Outcome, u8);

    fn audits(readings: &[Found]) -> Audits {
        let mut audits = Audits::default();
        for (auditor, outcome, byte) in readings {
            let digests = (*outcome == Outcome::Different).then(|| digests(*byte));
            let outcome = *outcome;
            audits.insert(7, *auditor, Reading { outcome, digests });
        }
        audits
    }

    #[test]
    fn two_of_three_relays_decide() {
        use Outcome::{Different, Equal, Open, Unread};
        let all = |_| true;
        let cases: [(&[Found], Verdict); 8] = [
            (&[], Verdict::Agreed),
            (&[(B, Open, 0)], Verdict::Open),
            (&[(B, Equal, 0)], Verdict::Agreed),
            (&[(B, Unread, 0)], Verdict::Agreed),
            (&[(B, Different, 2)], Verdict::Disputed),
            (
                &[(B, Different, 2), (C, Equal, 0)],
                Verdict::Against(vec![B]),
            ),
            (
                &[(B, Different, 2), (C, Different, 2)],
                Verdict::Against(vec![A]),
            ),
            (&[(B, Different, 2), (C, Different, 3)], Verdict::Unstable),
        ];
        for (readings, verdict) in cases {
            let audits = audits(readings);
            assert_eq!(
                audits.verdict(7, A, digests(1), all),
                verdict,
                "{readings:?}"
            );
            assert_eq!(audits.verdict(8, A, digests(1), all), Verdict::Agreed);
        }
        let third_is_gone = audits(&[(B, Different, 2), (C, Unread, 0)]);
        assert_eq!(
            third_is_gone.verdict(7, A, digests(1), all),
            Verdict::Disputed
        );
        let not_b = |node| node != B;
        assert_eq!(
            third_is_gone.verdict(7, A, digests(1), not_b),
            Verdict::Agreed
        );
        // Only the SHA-1 differs: the torrent of stock clients would be wrong.
        let mut sha1 = Audits::default();
        let reading = Reading {
            outcome: Different,
            digests: Some((digests(1).0, digests(2).1)),
        };
        sha1.insert(7, B, reading);
        assert_eq!(sha1.verdict(7, A, digests(1), all), Verdict::Disputed);
    }

    #[test]
    fn the_share_bounds_what_the_origin_sends_again() {
        assert_eq!((interval(0.0), interval(-1.0)), (None, None));
        assert_eq!((interval(1.0), interval(7.0)), (Some(1), Some(1)));
        let each = interval(1.0 / 64.0).unwrap();
        assert_eq!(each, 64);
        for count in [0, 1, 2, 15, 16, 17, 63, 64, 65, 200, 1024, 23_842] {
            let chosen: Vec<u32> = (0..=count).map(|known| quota(each, known, count)).collect();
            assert!(chosen.windows(2).all(|pair| pair[0] <= pair[1]));
            let all = chosen.last().copied().unwrap_or_default();
            assert!(all * 100 <= count * 10, "{all} of {count}");
            assert_eq!(all > 0, count >= PIECES_MIN, "{count}");
        }
        assert_eq!(quota(1, 5, 9), 5, "a share of 1 is all of them");
        assert_eq!(quota(1, 9, 9), 9);
    }
}
