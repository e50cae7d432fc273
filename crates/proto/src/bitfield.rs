//! Which pieces somebody has, as BEP 3 sends it.

/// Why bytes are no bitfield of the expected length. Both are the sender's fault (BEP 3: the connection should be closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// More or fewer bytes than the piece count asks for.
    #[error("the bitfield has {found} bytes; {pieces} pieces need {expected}")]
    Length {
        /// Bytes that came.
        found: usize,
        /// Bytes that the piece count asks for.
        expected: usize,
        /// The piece count.
        pieces: u32,
    },
    /// A bit after the last piece is set.
    #[error("the bitfield claims a piece beyond the last of {pieces}")]
    SpareBits {
        /// The piece count.
        pieces: u32,
    },
}

/// A set of piece indices below a fixed count, dense: one bit a piece. It knows how many it holds.
///
/// An index beyond the end is never a member: [`get`](Self::get) says `false`, [`set`](Self::set) and
/// [`clear`](Self::clear) do nothing and say `false`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitfield {
    /// Bit `i` is bit `63 - i % 64` of word `i / 64`: big-endian words are then the wire form. Spare bits are zero.
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

const fn word(index: u32) -> usize {
    (index / 64) as usize
}

const fn mask(index: u32) -> u64 {
    1 << (63 - index % 64)
}

/// The indices of the bits set in `bits`, the word that begins at `base`.
fn ones(base: u32, mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let first = bits.leading_zeros();
        (first < 64).then(|| {
            bits &= !mask(first);
            base + first
        })
    })
}

impl Bitfield {
    /// No piece of `len`.
    pub fn new(len: u32) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
            ones: 0,
        }
    }

    /// All pieces of `len`.
    pub fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64) as usize];
        if let Some(last) = words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last <<= 64 - len % 64;
        }
        Self {
            words,
            len,
            ones: len,
        }
    }

    /// Leaves out all pieces from `len` on: the content turned out to end there. Nothing happens when there are no more.
    pub fn truncate(&mut self, len: u32) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.words.truncate(len.div_ceil(64) as usize);
        if let Some(last) = self.words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last &= u64::MAX << (64 - len % 64);
        }
        self.ones = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// How many pieces there are, had or not.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// True when there are no pieces at all (a content of 0 bytes).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True when `index` is in the set.
    pub fn get(&self, index: u32) -> bool {
        self.words
            .get(word(index))
            .is_some_and(|bits| bits & mask(index) != 0)
    }

    /// Adds `index`. True when it is new.
    pub fn set(&mut self, index: u32) -> bool {
        let new = index < self.len && !self.get(index);
        if new {
            self.words[word(index)] |= mask(index);
            self.ones += 1;
        }
        new
    }

    /// Removes `index`. True when it was there.
    pub fn clear(&mut self, index: u32) -> bool {
        let old = self.get(index);
        if old {
            self.words[word(index)] &= !mask(index);
            self.ones -= 1;
        }
        old
    }

    /// How many pieces are in the set.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// True when every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// The members, ascending.
    pub fn iter_ones(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .step_by(64)
            .zip(&self.words)
            .flat_map(|(base, &bits)| ones(base, bits))
    }

    /// The members of both sets, ascending; 64 are compared at a time.
    pub fn iter_common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let both = self.words.iter().zip(&other.words).map(|(a, b)| a & b);
        (0u32..)
            .step_by(64)
            .zip(both)
            .flat_map(|(base, bits)| ones(base, bits))
    }

    /// The wire form (BEP 3): the first piece is the high bit of the first byte, spare bits are zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.words.len() * 8);
        for word in &self.words {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.truncate(self.len.div_ceil(8) as usize);
        bytes
    }

    /// Reads the wire form of a bitfield of a content whose end one of both sides may not know yet: it may be shorter or longer
    /// than `len` pieces ask for, but has none from `len` on.
    ///
    /// # Errors
    /// [`BitfieldError::SpareBits`] when it has.
    pub fn from_open_ended(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let (within, beyond) = bytes.split_at(bytes.len().min(len.div_ceil(8) as usize));
        if beyond.iter().any(|&byte| byte != 0) {
            return Err(BitfieldError::SpareBits { pieces: len });
        }
        let mut whole = within.to_vec();
        whole.resize(len.div_ceil(8) as usize, 0);
        Self::from_bytes(&whole, len)
    }

    /// Reads the wire form of a bitfield of `len` pieces.
    ///
    /// # Errors
    /// [`BitfieldError`] when the number of bytes is not exactly what `len` asks for, or a spare bit is set.
    pub fn from_bytes(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let expected = len.div_ceil(8) as usize;
        if bytes.len() != expected {
            return Err(BitfieldError::Length {
                found: bytes.len(),
                expected,
                pieces: len,
            });
        }
        let words: Vec<u64> = bytes
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_be_bytes(word)
            })
            .collect();
        if let Some(last) = words.last()
            && !len.is_multiple_of(64)
            && last << (len % 64) != 0
        {
            return Err(BitfieldError::SpareBits { pieces: len });
        }
        let ones = words.iter().map(|word| word.count_ones()).sum();
        Ok(Self { words, len, ones })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_piece_is_the_high_bit() {
        let mut have = Bitfield::new(10);
        assert!(have.set(0) && have.set(9) && !have.set(9));
        assert_eq!(have.to_bytes(), [0b1000_0000, 0b0100_0000]);
        assert!(have.clear(0) && !have.clear(0));
        assert_eq!(have.count(), 1);
    }

    #[test]
    fn common_members_are_those_of_both() {
        let (mut a, mut b) = (Bitfield::new(200), Bitfield::full(200));
        for index in [0, 63, 64, 199] {
            a.set(index);
        }
        b.clear(64);
        assert!(a.iter_common(&b).eq([0, 63, 199]));
    }

    #[test]
    fn nothing_exists_beyond_the_end() {
        for len in [0, 1, 63, 64, 65, 130] {
            let mut have = Bitfield::full(len);
            assert!(have.is_full() && have.count() == len);
            assert!(
                !have.get(len) && !have.set(len) && !have.clear(len),
                "{len}"
            );
            assert!(!have.get(u32::MAX) && !have.set(u32::MAX), "{len}");
            assert!(have.iter_ones().eq(0..len), "{len}");
        }
    }

    #[test]
    fn wrong_lengths_and_spare_bits_are_refused() {
        assert_eq!(
            Bitfield::from_bytes(&[0], 9).unwrap_err().to_string(),
            "the bitfield has 1 bytes; 9 pieces need 2"
        );
        assert!(Bitfield::from_bytes(&[0, 0, 0], 9).is_err());
        assert_eq!(
            Bitfield::from_bytes(&[0xff, 0xc0], 9),
            Err(BitfieldError::SpareBits { pieces: 9 })
        );
        assert!(Bitfield::from_bytes(&[0xff, 0x80], 9).unwrap().is_full());
        assert!(Bitfield::from_bytes(&[], 0).unwrap().is_full());
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(len in 0u32..300, ops in prop::collection::vec((any::<bool>(), 0u32..310), 0..200)) {
            let (mut bits, mut set) = (Bitfield::new(len), BTreeSet::new());
            for (add, index) in ops {
                if add {
                    prop_assert_eq!(bits.set(index), index < len && set.insert(index));
                } else {
                    prop_assert_eq!(bits.clear(index), set.remove(&index));
                }
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert!(bits.iter_ones().eq(set.iter().copied()));
            prop_assert_eq!(Bitfield::from_bytes(&bits.to_bytes(), len), Ok(bits));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20), len in 0u32..170) {
            if let Ok(bits) = Bitfield::from_bytes(&bytes, len) {
                prop_assert_eq!(bits.to_bytes(), bytes);
                prop_assert_eq!(bits.count() as usize, bits.iter_ones().count());
            }
        }
    }
}
