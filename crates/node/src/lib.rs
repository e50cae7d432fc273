//! The driver of relays and agents: sockets, HTTP, timers and store around the swarm engine.
//!
//! Entry types: [`Session`], one per process, and [`Content`], one per content in it. A content's task owns its
//! engine; connections and fetches are tasks of their own that send it batches. Invariants: a received block is
//! parked until the engine says store or discard, and never copied on the way; a socket is not read while the store
//! has enough in memory; a defect in one content or connection ends that one alone.

pub mod agent;
mod announce;
mod content;
pub mod control_client;
mod daemon;
mod fetch;
pub mod get;
mod job;
mod manifest;
mod metrics;
mod node;
mod origin_source;
mod peer;
mod reasons;
pub mod relay;
pub mod seed;
mod session;
pub mod state;
mod sync;
#[cfg(test)]
mod testing;

pub use content::{
    AddError, Content, ContentError, ContentEvent, ContentSpec, Finished, Growth, Helper,
    HttpSource, PeerAt, Progress, ReadError, SourceFile, SourceShare, State, Target,
};
pub use job::{GetError, GetEvent, Step, VerifiedBy};
pub use metrics::{Count, Metrics};
pub use node::{NodeSettings, Ready, RoleError};
pub use session::{Session, SessionConfig, SessionError};
