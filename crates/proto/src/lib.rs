//! Bytes to values and back: everything that two parties must agree on, without sockets, files or a clock.
//!
//! Entry types: [`Layout`] says how a content divides into pieces and blocks; [`Time`] is what the engine is told;
//! [`metainfo`] reads and writes torrents, [`merkle`] grows the BEP 52 tree leaf by leaf, [`genesis`] is the
//! immutable first record of a content, [`wire`] is what peers say. Invariant: whatever comes from outside is
//! checked once, here, and every length has a limit.

#![forbid(unsafe_code)]

pub mod bencode;
mod bitfield;
pub mod capability;
pub mod digest;
pub mod facts;
pub mod files;
pub mod genesis;
mod id;
mod layout;
pub mod manifest;
pub mod merkle;
pub mod metainfo;
pub mod name;
mod percent;
pub mod record;
mod site;
mod time;
pub mod torrents;
pub mod tracker;
pub mod units;
pub mod wire;

pub use bitfield::{Bitfield, BitfieldError};
pub use id::{IdError, InfoHash, NodeId, PeerName, Sha1, Sha256, Sid};
pub use layout::{
    BLOCK_LENGTH, BlockId, Layout, LayoutError, PIECE_LENGTH_RANGE, PIECES_WHILE_UNKNOWN,
    PieceIndex,
};
pub use name::{NameError, SafeName};
pub use site::{PARTS, Site, SiteError, part_of};
pub use time::Time;
pub use units::{ByteCount, ByteRate, Span};
