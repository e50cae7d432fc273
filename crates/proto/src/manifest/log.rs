//! Control's records, as far as others may ask for them.

use std::collections::BTreeMap;

use crate::record::{Head, Part, Signed};

/// The newest snapshot, what followed it, and what came before it back to the snapshot before: a snapshot leaves out the
/// hashes of single pieces, which those who are hardly behind find in the records that they lack.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    records: BTreeMap<Head, (Signed, Option<Part>)>,
    /// The first record of the newest snapshot that is whole.
    base: Option<Head>,
    head: Head,
    complete_to: Head,
}

impl Log {
    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn complete_to(&self) -> Head {
        self.complete_to
    }

    pub(super) fn get(&self, head: Head) -> Option<&Signed> {
        self.records.get(&head).map(|(signed, _)| signed)
    }

    /// True for a record from before the newest snapshot.
    pub(super) fn is_superseded(&self, head: Head) -> bool {
        self.base.is_some_and(|base| head < base)
    }

    pub(super) fn insert(&mut self, signed: Signed, part: Option<Part>) {
        let head = signed.record().head;
        if self.is_superseded(head) {
            return;
        }
        self.head = self.head.max(head);
        self.records.insert(head, (signed, part));
        if let Some(part) = part {
            self.rebase(head, part);
        }
        // A new term begins with a snapshot, so within a term there are no gaps.
        loop {
            let next = Head {
                seq: self.complete_to.seq.saturating_add(1),
                ..self.complete_to
            };
            if next == self.complete_to || !self.records.contains_key(&next) {
                break;
            }
            self.complete_to = next;
        }
    }

    /// When all parts of a newer snapshot are here, what was said before it is no longer needed.
    fn rebase(&mut self, head: Head, part: Part) {
        let at = |index: u16| {
            let first = head.seq.checked_sub(part.index.into())?;
            Some(Head {
                seq: first.checked_add(index.into())?,
                ..head
            })
        };
        let is_part = |index: u16| {
            let found = at(index).and_then(|head| self.records.get(&head));
            let expected = Part { index, of: part.of };
            found.is_some_and(|(_, part)| *part == Some(expected))
        };
        let (Some(first), Some(last)) = (at(0), at(part.of - 1)) else {
            return;
        };
        if self.is_superseded(first) || !(0..part.of).all(is_part) {
            return;
        }
        let kept_from = self.base.replace(first).unwrap_or(first);
        self.records = self.records.split_off(&kept_from);
        self.complete_to = self.complete_to.max(last);
    }

    /// True when all records between the one and the other, of one term, are kept.
    fn leads_on_from(&self, have: Head, to: Head) -> bool {
        let between = self.records.range(have..to).count();
        have.term == to.term && have.seq > 0 && between as u64 == to.seq - have.seq
    }

    /// What somebody lacks who knows all up to `have`.
    pub(super) fn after(&self, have: Head) -> impl Iterator<Item = &Signed> {
        // A snapshot's parts make sense only together.
        let from = self
            .base
            .filter(|base| have < *base && !self.leads_on_from(have, *base));
        let records = self.records.iter();
        let records =
            records.filter(move |(head, _)| from.map_or(**head > have, |from| **head >= from));
        records.map(|(_, (signed, _))| signed)
    }
}
