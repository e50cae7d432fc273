//! Whole swarms under virtual time.
//!
//! Entry: [`run`] plays a [`Plan`] with a seed and gives a [`Report`]. The nodes run the real engine
//! (`floodway-swarm`); links, disks, HTTP servers, control and payload are simulated, payload only as right or wrong.
//! Invariant: a run is a function of plan and seed. Oracles (`oracle`) look on while it runs; when one fails it names
//! the scenario and the seed, which replay it exactly.
//!
//! | module | what it does |
//! |---|---|
//! | `plan`, `scenarios` | what a run is made of; plans by name |
//! | `world`, `events` | virtual time: what happens, in which order |
//! | `net`, `traffic` | links and what goes over them |
//! | `node`, `peers`, `servers`, `control` | who is at their ends |
//! | `oracle`, `bound`, `report` | what must hold, the best possible, what came of it |

mod bound;
mod control;
mod events;
mod net;
mod node;
mod oracle;
mod peers;
pub mod plan;
mod report;
pub mod scenarios;
mod servers;
mod traffic;
mod world;

pub use plan::Plan;
pub use report::{Report, Shares, SiteBytes};
pub use world::run;
