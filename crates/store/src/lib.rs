//! The bytes of one content on disk: verified pieces, a resume journal, an atomic finish.
//!
//! Entry: [`Store::open`] with a [`Spec`]. Blocks go in by [`Store::put`] in any order, [`Event`]s come out, and
//! [`Store::read`] serves every held piece. Invariant: a piece is *held* only when its hash agreed (if there is one),
//! and recorded only when its bytes are where the record says; the final name appears only on a whole, durable file.
//!
//! A store has up to three threads, so that hashing and writing use different cores: one hashes blocks in order from
//! memory and judges pieces; one writes whole pieces with gathered writes, appends to the journal, and syncs beside
//! itself; and one computes the SHA-256 of the whole file if that is wanted. They end with the store, the last two
//! when the file is finished.

#![forbid(unsafe_code)]

mod active;
mod adopt;
mod error;
mod files;
mod hashing;
mod journal;
mod linear;
mod many;
mod open;
mod shared;
mod spec;
mod store;
mod verifier;
mod writer;

pub use adopt::{discard_unfinished, unfinished_identity};
pub use error::{OpenError, ReadError, StoreError};
pub use journal::lock_journal;
pub use spec::{Event, FileStamp, Hashes, Nodes, Note, Opened, Predecessor, Spec, Verdict};
pub use store::Store;
