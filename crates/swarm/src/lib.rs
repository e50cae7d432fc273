//! One node's decisions about one content: a sans-IO state machine.
//!
//! Entry type: [`Swarm`]. Feed [`Input`]s with the time, drain [`Output`]s to [`Output::WakeAt`]. It has no clock,
//! no I/O and no payload: a received block is parked by the driver and only its name ([`BufKey`]) goes in and out.
//! Invariant: the same inputs at the same times with the same seed give the same outputs, and the books balance: no
//! piece is both held and asked for, at most two are asked for one block, every received block is stored or
//! discarded at once.
//!
//! | module | what it decides |
//! |---|---|
//! | `connect`, `dialer` | whom to dial, which connections to keep, what peers have |
//! | `picker`, `blocks`, `requests` | which block to ask of whom, and when to ask somebody else |
//! | `download` | what becomes of what comes: verdicts, blame and bans |
//! | `choke`, `upload`, `spread` | whom to serve, whose block goes next, which first copies |
//! | `site` | what to ask of peers of other sites: each piece once for all of a site |
//! | `http`, `governor` | requests over HTTP, and whether at all |
//! | `extents`, `claims` | which bytes to fetch over HTTP, and which others fetch |
//! | `fresh` | HTTP while a content grows: what is left to peers |
//! | `peer`, `rate` | what is measured of a peer; limits |
//!
//! Beside it stand [`gossip`]: how nodes learn what pieces must hash to while a content still grows; and [`answers`]: what peers
//! get that ask for the torrent itself, not for its pieces. `budget` bounds both.
//!
//! States of a piece: *open* (in the picker) → *begun* (`blocks::Partial`: some block asked or received) → hashing
//! (all received) → held; a bad verdict leads back to begun. A piece inside an HTTP extent is *reserved* and not open.

pub mod answers;
mod blocks;
mod budget;
mod choke;
mod claims;
mod config;
mod connect;
mod dialer;
mod download;
mod ended;
mod extents;
mod fresh;
pub mod gossip;
mod governor;
mod http;
mod io;
mod peer;
mod picker;
mod rate;
mod requests;
mod site;
mod spread;
mod swarm;
mod upload;

pub use config::{Config, Order, Prefer, Rule, Start};
pub use io::{
    Access, BufKey, Counters, Event, HangUp, HttpEnd, HttpPlan, Input, Limits, Output, PeerKey,
    PlanReason, RequestKey, Sender, SourceClass, SourceKey, Verdict,
};
pub use swarm::{Progress, Swarm};
