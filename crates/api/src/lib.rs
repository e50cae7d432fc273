//! What control, nodes and the command line say to each other, as types.
//!
//! Entry types: [`sync::SyncRequest`] and [`sync::SyncReply`] are the one exchange between a node and control;
//! [`manifest`] is the part of it that is about growing contents; [`rest`] is what operators and scripts use; [`settings`]
//! lets configuration explain itself. Invariant: fields are only ever added; whoever reads ignores those it does not know, so
//! old and new versions work together.

pub mod manifest;
pub mod rest;
pub mod settings;
pub mod sync;

mod allow;
mod bytes_hex;

pub use allow::{AllowList, BadPrefix, NotAllowed};
pub use bytes_hex::HexBytes;
