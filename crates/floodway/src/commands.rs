//! One module per subcommand: its arguments, and what it does with them.

pub(crate) mod agent;
pub(crate) mod config;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod get;
pub(crate) mod node;
pub(crate) mod publish;
pub(crate) mod relay;
pub(crate) mod seed;
pub(crate) mod serve;
pub(crate) mod task;
pub(crate) mod torrent;
