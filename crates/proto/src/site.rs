//! Where a node stands, and what it brings there.

use serde::{Deserialize, Serialize};

use crate::digest::sha256;

/// Into so many parts the pieces of a content are divided among the nodes of a site: the first, the seventeenth and so on are one
/// part, so that each part has its share of what comes next.
pub const PARTS: u8 = 16;

/// The site of a node, and which pieces it brings there from other sites: those of its parts. A part is one node's at
/// each site, so that every piece comes to a site about once; control is to deal the parts.
///
/// As others write it (in JSON, by `serde`) it is read only if that can be: see [`SiteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Site {
    /// Which site: equal for nodes of the same one; less than 2^63.
    pub tag: u64,
    /// Its first part of [`PARTS`].
    pub first: u8,
    /// The part after its last one; most nodes of a large site have none.
    pub end: u8,
}

impl Site {
    /// The tag of those that stand at no site.
    pub const NOWHERE: u64 = 0;

    /// A node without a part, at the site with this name; the empty name is that of no site.
    pub fn named(name: &str) -> Self {
        if name.is_empty() {
            return Self {
                tag: Self::NOWHERE,
                first: 0,
                end: 0,
            };
        }
        let mut tag = [0; 8];
        tag.copy_from_slice(&sha256(name.as_bytes()).0[..8]);
        Self {
            // Bencoded integers have 63 bits, and programs that read JSON numbers as floats keep 53.
            tag: u64::from_be_bytes(tag) >> 11,
            first: 0,
            end: 0,
        }
    }

    /// All parts are its own.
    pub fn brings_all(&self) -> bool {
        self.first == 0 && self.end >= PARTS
    }

    /// The piece is of one of its parts.
    pub fn brings(&self, piece: u32) -> bool {
        (self.first..self.end).contains(&part_of(piece))
    }
}

/// What somebody wrote as a [`Site`].
#[derive(Deserialize)]
struct Written {
    tag: u64,
    first: u64,
    end: u64,
}

/// Why what somebody wrote is no [`Site`]: which field is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// The tag does not fit into a bencoded integer.
    #[error("`site.tag` is {0}: it must be less than 2^63")]
    Tag(u64),
    /// The range of parts is turned round.
    #[error("`site.first` is {first}: it must not be more than `site.end`, which is {end}")]
    First {
        /// The first part.
        first: u64,
        /// The part after the last.
        end: u64,
    },
    /// There are not so many parts.
    #[error("`site.end` is {0}: there are {PARTS} parts")]
    End(u64),
}

impl TryFrom<Written> for Site {
    type Error = SiteError;

    fn try_from(Written { tag, first, end }: Written) -> Result<Self, SiteError> {
        if i64::try_from(tag).is_err() {
            return Err(SiteError::Tag(tag));
        }
        let part = |index: u64| u8::try_from(index).ok().filter(|part| *part <= PARTS);
        match (part(first), part(end)) {
            (_, None) => Err(SiteError::End(end)),
            (Some(first), Some(end)) if first <= end => Ok(Self { tag, first, end }),
            _ => Err(SiteError::First { first, end }),
        }
    }
}

/// Which part a piece belongs to.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a remainder is less than what was divided by"
)]
pub fn part_of(piece: u32) -> u8 {
    (piece % u32::from(PARTS)) as u8
}
