//! The signed records of one content, as far as somebody may still want them.

use std::collections::BTreeMap;

use floodway_proto::record::{Body, Checkpoint, Head, Part, Signed, State};

/// The checkpoints of one content in ascending order, from some snapshot on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Records(BTreeMap<Head, Signed>);

fn checkpoint(signed: &Signed) -> Option<&Checkpoint> {
    match &signed.record().body {
        Body::Checkpoint(checkpoint) => Some(checkpoint),
        Body::Genesis(_) | Body::Lease(_) | Body::Attest(_) => None,
    }
}

impl Records {
    pub(crate) fn insert(&mut self, signed: Signed) {
        self.0.insert(signed.record().head, signed);
    }

    pub(crate) fn drop_before(&mut self, head: Head) {
        self.0 = self.0.split_off(&head);
    }

    /// The oldest record that is kept.
    pub(crate) fn first(&self) -> Option<Head> {
        self.0.keys().next().copied()
    }

    /// The newest record; `0.0` when there is none.
    pub(crate) fn head(&self) -> Head {
        self.0.keys().next_back().copied().unwrap_or_default()
    }

    fn newest(&self) -> Option<&Checkpoint> {
        self.0.values().rev().find_map(checkpoint)
    }

    /// How far the content is.
    pub(crate) fn state(&self) -> Option<&State> {
        self.newest().map(|checkpoint| &checkpoint.state)
    }

    /// When the content ended, in milliseconds since 1970, if it has.
    pub(crate) fn ended_at_ms(&self) -> Option<u64> {
        let newest = self.newest()?;
        is_end(&newest.state).then_some(newest.time_unix_ms)
    }

    /// How many pieces are sealed.
    pub(crate) fn sealed(&self) -> u32 {
        self.newest().map_or(0, |checkpoint| checkpoint.sealed)
    }

    /// The first record of each snapshot, newest first. All parts of a snapshot are made durable together.
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = Head> + '_ {
        let records = self.0.iter().rev();
        records.filter_map(|(head, signed)| {
            let Part { index, .. } = checkpoint(signed)?.snapshot?;
            (index == 0).then_some(*head)
        })
    }

    /// What somebody lacks who knows all up to `have`: what followed it, if that is still kept without a gap, else the
    /// newest snapshot and what followed that.
    pub(crate) fn after(&self, have: Head) -> impl Iterator<Item = &Signed> {
        let snapshot = self.snapshots().next().unwrap_or_default();
        let is_kept = self.0.contains_key(&have);
        let records = self.0.iter().filter(move |(head, _)| {
            if is_kept {
                **head > have
            } else {
                **head >= snapshot
            }
        });
        records.map(|(_, signed)| signed)
    }

    /// The shortest record that says how the content ended, if it has.
    pub(crate) fn end(&self) -> Option<&Signed> {
        let ends = self.0.values().rev().take_while(|signed| {
            checkpoint(signed).is_some_and(|checkpoint| is_end(&checkpoint.state))
        });
        ends.min_by_key(|signed| signed.bytes().len())
    }
}

/// True when nothing follows such a state but, for a final content, its end.
pub(crate) fn is_end(state: &State) -> bool {
    match state {
        State::Open | State::Complete => false,
        State::Final(_) | State::Aborted(_) | State::Superseded { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::facts::{Accept, FactStore, PieceSpace};
    use floodway_proto::manifest::{Sealer, Status};
    use floodway_proto::record::{EndReason, Fact, LeaseId, SecretKey};
    use floodway_proto::{Sha256, Sid};

    use super::*;

    const PIECE: u32 = 256 << 10;

    /// Control seals one piece after another; all records.
    fn sealed(count: u32) -> Vec<Signed> {
        let length = Some(u64::from(PIECE) * 1000);
        let space = PieceSpace::new(PIECE, &[length]).unwrap();
        let mut facts = FactStore::new(space, Accept::Sealed);
        let mut sealer = Sealer::new(Sid([1; 32]), SecretKey::from_seed(&[1; 32]), 0, 5);
        let mut status = Status {
            length,
            sealed: 0,
            state: State::Open,
            lease_floor: LeaseId(0),
            revoked: Vec::new(),
            time_unix_ms: 0,
        };
        let mut records = sealer.checkpoint(&facts, &[], &status).unwrap();
        for index in 0..count {
            let fact = Fact {
                file: 0,
                layer: 4,
                index,
                hash: Sha256([7; 32]),
            };
            facts.seal(&fact).unwrap();
            status.sealed += 1;
            records.extend(sealer.checkpoint(&facts, &[fact], &status).unwrap());
        }
        status.state = State::Aborted(EndReason::Operator);
        records.extend(sealer.last_checkpoint(&facts, &[], &status).unwrap());
        records
    }

    #[test]
    fn who_follows_gets_what_it_lacks_and_who_comes_or_fell_behind_the_newest_snapshot() {
        let all = sealed(200);
        let mut records = Records::default();
        all.iter()
            .cloned()
            .for_each(|signed| records.insert(signed));
        let snapshots: Vec<Head> = records.snapshots().collect();
        assert!(snapshots.len() > 3, "{snapshots:?}");
        records.drop_before(snapshots[1]);
        let head = records.head();
        assert_eq!(head, all.last().unwrap().record().head);
        let before = |head: Head, by| Head {
            seq: head.seq - by,
            ..head
        };
        let heads = |have| -> Vec<Head> {
            let after = records.after(have);
            after.map(|signed| signed.record().head).collect()
        };
        assert_eq!(heads(before(head, 2)), [before(head, 1), head]);
        assert_eq!(heads(head), []);
        for have in [
            Head::default(),
            Head { term: 4, seq: 9 },
            Head { term: 9, seq: 1 },
            before(snapshots[1], 1),
        ] {
            assert_eq!(heads(have), [snapshots[0]], "{have}: the last snapshot");
        }
        assert_eq!(records.sealed(), 200);
        assert!(records.state().is_some_and(is_end));
        let end = records.end().unwrap();
        assert_eq!(end.record().head, before(head, 1), "shorter than {head}");
    }
}
