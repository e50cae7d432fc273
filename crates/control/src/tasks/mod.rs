//! Decisions about tasks, as pure functions and values: no clock, no sockets, no database.

pub(crate) mod audit;
pub(crate) mod folder;
pub(crate) mod growing;
pub(crate) mod lease;
pub(crate) mod pieces;
pub(crate) mod publish;
pub(crate) mod records;
pub(crate) mod targets;
