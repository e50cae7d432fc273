//! Which piece to ask a peer for: rarest first among pieces that nobody fetches yet.
//!
//! A piece that is *open* (missing, verifiable, not begun, not inside an HTTP extent) stands in the bucket of its
//! availability. A change of availability moves it in constant time (swap with the last of the bucket), so the
//! order inside a bucket is arbitrary, which is what spreads the first copies. A pick samples a few entries of the first
//! buckets and falls back to one pass over 64 pieces a word, so its cost hardly depends on the number of pieces.

use std::collections::BTreeSet;

use fastrand::Rng;
use floodway_proto::Bitfield;

/// Entries looked at in one bucket before the next.
const PROBES: usize = 32;
/// Buckets looked at before the pass over all.
const BUCKETS_PROBED: usize = 16;
/// Marks a piece that stands in no bucket.
const CLOSED: u32 = u32::MAX;

/// How the piece is chosen among those equally rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// Any: first copies spread.
    Random,
    /// The highest index: HTTP comes from the other end.
    Highest,
}

/// Open pieces by availability.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    /// How many connected peers have each piece.
    availability: Vec<u32>,
    /// Where an open piece stands in its bucket; [`CLOSED`] for the others.
    position: Vec<u32>,
    /// Open pieces by availability.
    buckets: Vec<Vec<u32>>,
    /// Buckets with something in them: among thousands of peers most have nothing.
    filled: BTreeSet<usize>,
    open: Bitfield,
    /// No piece before this one is open.
    first: u32,
}

impl Picker {
    /// All pieces closed, nobody has any.
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            availability: vec![0; pieces as usize],
            position: vec![CLOSED; pieces as usize],
            buckets: vec![Vec::new()],
            filled: BTreeSet::new(),
            open: Bitfield::new(pieces),
            first: 0,
        }
    }

    pub(crate) fn availability(&self, piece: u32) -> u32 {
        self.availability[piece as usize]
    }

    /// How many peers have the rarest open piece that anybody has.
    pub(crate) fn rarest_availability(&self) -> Option<usize> {
        self.filled.range(1..).next().copied()
    }

    pub(crate) fn open_count(&self) -> u32 {
        self.open.count()
    }

    pub(crate) fn iter_open(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.iter_ones()
    }

    pub(crate) fn is_open(&self, piece: u32) -> bool {
        self.open.get(piece)
    }

    /// Open pieces that no connected peer has.
    pub(crate) fn unavailable(&self) -> usize {
        self.buckets[0].len()
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "a bucket holds at most as many as there are pieces"
    )]
    fn enter(&mut self, piece: u32) {
        let bucket = self.availability[piece as usize] as usize;
        if self.buckets.len() <= bucket {
            self.buckets.resize_with(bucket + 1, Vec::new);
        }
        self.position[piece as usize] = self.buckets[bucket].len() as u32;
        self.buckets[bucket].push(piece);
        if self.buckets[bucket].len() == 1 {
            self.filled.insert(bucket);
        }
    }

    fn leave(&mut self, piece: u32) {
        let availability = self.availability[piece as usize] as usize;
        let bucket = &mut self.buckets[availability];
        let position = self.position[piece as usize];
        bucket.swap_remove(position as usize);
        if bucket.is_empty() {
            self.filled.remove(&availability);
        }
        if let Some(&moved) = bucket.get(position as usize) {
            self.position[moved as usize] = position;
        }
        self.position[piece as usize] = CLOSED;
    }

    /// The piece may be picked from now on, at a place in its bucket that `rng` chooses.
    pub(crate) fn open(&mut self, piece: u32, rng: &mut Rng) {
        if !self.open.set(piece) {
            return;
        }
        self.first = self.first.min(piece);
        self.enter(piece);
        let bucket = self.availability[piece as usize] as usize;
        let (last, other) = (
            self.buckets[bucket].len() - 1,
            rng.usize(..self.buckets[bucket].len()),
        );
        self.buckets[bucket].swap(last, other);
        self.position.swap(
            self.buckets[bucket][last] as usize,
            self.buckets[bucket][other] as usize,
        );
    }

    /// The piece may not be picked: held, begun, reserved or not verifiable.
    pub(crate) fn close(&mut self, piece: u32) {
        if self.open.clear(piece) {
            self.leave(piece);
        }
    }

    /// There are no pieces from `count` on after all.
    pub(crate) fn end(&mut self, count: u32) {
        let beyond: Vec<u32> = self
            .open
            .iter_ones()
            .skip_while(|&piece| piece < count)
            .collect();
        for piece in beyond {
            self.close(piece);
        }
        self.open.truncate(count);
    }

    /// One peer more has the piece.
    pub(crate) fn gained(&mut self, piece: u32) {
        self.shift(piece, 1);
    }

    /// One peer fewer has the piece.
    pub(crate) fn lost(&mut self, piece: u32) {
        self.shift(piece, -1);
    }

    fn shift(&mut self, piece: u32, by: i32) {
        let open = self.open.get(piece);
        if open {
            self.leave(piece);
        }
        let availability = &mut self.availability[piece as usize];
        *availability = availability
            .checked_add_signed(by)
            .expect("a piece is lost only by a peer that had it");
        if open {
            self.enter(piece);
        }
    }

    /// The rarest open piece among those of `peer`, ties broken by `tie`.
    pub(crate) fn rarest(&self, peer: &Bitfield, tie: Tie, rng: &mut Rng) -> Option<u32> {
        self.rarest_that(peer, |_| true, tie, rng)
    }

    /// The same among those of them that `may` be asked for.
    pub(crate) fn rarest_that(
        &self,
        peer: &Bitfield,
        may: impl Fn(u32) -> bool,
        tie: Tie,
        rng: &mut Rng,
    ) -> Option<u32> {
        let good = |piece: &u32| peer.get(*piece) && may(*piece);
        for &bucket in self.filled.range(1..).take(BUCKETS_PROBED) {
            let bucket = &self.buckets[bucket];
            let start = rng.usize(..bucket.len());
            let mut probes = bucket[start..]
                .iter()
                .chain(&bucket[..start])
                .copied()
                .take(PROBES);
            let found = match tie {
                Tie::Random => probes.find(good),
                Tie::Highest => probes.filter(good).max(),
            };
            if found.is_some() {
                return found;
            }
        }
        self.open
            .iter_common(peer)
            .filter(|&piece| may(piece))
            .min_by_key(|&piece| self.availability(piece))
    }

    /// A piece of the rarest bucket that has a `good` one, among pieces that somebody has; a few of each are looked at.
    pub(crate) fn rarest_of(
        &self,
        probes: usize,
        rng: &mut Rng,
        good: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut buckets = self.filled.range(1..).take(BUCKETS_PROBED);
        buckets.find_map(|&bucket| Self::any_of(&self.buckets[bucket], probes, rng, &good))
    }

    /// A `good` piece that nobody has; a few are looked at.
    pub(crate) fn unavailable_of(
        &self,
        probes: usize,
        rng: &mut Rng,
        good: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        Self::any_of(&self.buckets[0], probes, rng, &good)
    }

    fn any_of(
        bucket: &[u32],
        probes: usize,
        rng: &mut Rng,
        good: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if bucket.is_empty() {
            return None;
        }
        let (before, after) = bucket.split_at(rng.usize(..bucket.len()));
        let mut probed = after.iter().chain(before).copied().take(probes);
        probed.find(|&piece| good(piece))
    }

    /// The first open piece of `peer` that `may` be asked for.
    pub(crate) fn first_that(&mut self, peer: &Bitfield, may: impl Fn(u32) -> bool) -> Option<u32> {
        let count = self.open.len();
        while self.first < count && !self.open.get(self.first) {
            self.first += 1;
        }
        // Mostly it is the very first one; a search from there over 64 pieces a word if not.
        if self.first < count && peer.get(self.first) && may(self.first) {
            return Some(self.first);
        }
        self.open.iter_common(peer).find(|&piece| may(piece))
    }

    #[cfg(debug_assertions)]
    pub(crate) fn check_invariants(&self) {
        let entries: usize = self.buckets.iter().map(Vec::len).sum();
        assert_eq!(
            entries,
            self.open.count() as usize,
            "every open piece stands in one bucket"
        );
        assert!(
            self.open.iter_ones().all(|piece| piece >= self.first),
            "no open piece stands before the first"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picker(availability: &[u32]) -> (Picker, Rng) {
        let mut rng = Rng::with_seed(1);
        let mut picker = Picker::new(u32::try_from(availability.len()).unwrap());
        for (piece, &count) in (0..).zip(availability) {
            picker.open(piece, &mut rng);
            (0..count).for_each(|_| picker.gained(piece));
        }
        (picker, rng)
    }

    #[test]
    fn the_rarest_piece_that_the_peer_has_is_picked() {
        let (mut picker, mut rng) = picker(&[3, 1, 2, 0]);
        let mut peer = Bitfield::full(3 + 1);
        assert_eq!(picker.rarest(&peer, Tie::Random, &mut rng), Some(1));
        peer.clear(1);
        assert_eq!(picker.rarest(&peer, Tie::Random, &mut rng), Some(2));
        picker.close(2);
        assert_eq!(picker.rarest(&peer, Tie::Random, &mut rng), Some(0));
        assert_eq!(picker.unavailable(), 1);
    }

    #[test]
    fn ties_are_spread_or_taken_from_the_end() {
        let (picker, mut rng) = picker(&[1; 24]);
        let peer = Bitfield::full(24);
        assert_eq!(picker.rarest(&peer, Tie::Highest, &mut rng), Some(23));
        let picks: BTreeSet<_> = (0..100)
            .filter_map(|_| picker.rarest(&peer, Tie::Random, &mut rng))
            .collect();
        assert!(picks.len() > 10, "first copies must spread: {picks:?}");
    }

    #[test]
    fn a_piece_beyond_the_probes_is_found_all_the_same() {
        let (picker, mut rng) = picker(&vec![1; 5000]);
        let mut peer = Bitfield::new(5000);
        peer.set(4321);
        for _ in 0..50 {
            assert_eq!(picker.rarest(&peer, Tie::Random, &mut rng), Some(4321));
        }
    }

    #[test]
    fn random_changes_keep_every_open_piece_in_one_bucket() {
        let (mut picker, mut rng) = picker(&[1; 40]);
        for _ in 0..10_000 {
            let piece = rng.u32(..40);
            match rng.u8(..4) {
                0 => picker.open(piece, &mut rng),
                1 => picker.close(piece),
                2 => picker.gained(piece),
                _ if picker.availability(piece) > 0 => picker.lost(piece),
                _ => {}
            }
            picker.check_invariants();
            for (count, bucket) in picker.buckets.iter().enumerate() {
                for (at, &piece) in bucket.iter().enumerate() {
                    assert_eq!(
                        (
                            picker.availability(piece) as usize,
                            picker.position[piece as usize] as usize
                        ),
                        (count, at)
                    );
                }
            }
        }
    }
}
