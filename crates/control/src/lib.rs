//! The control server: tasks, tracker, policy, store.
//!
//! Entry: [`run`] on a bound listener, or [`start`] and [`Control::router`] for a process of several roles. Invariant:
//! nothing is acknowledged before it is durable, and control never touches an origin: relays do, on its orders.
//!
//! One core, a machine without I/O, decides everything in turns; an actor around it makes each turn's changes durable
//! in one transaction before anybody hears of them. The HTTP side only translates.

mod actor;
mod auth;
mod core;
mod db;
mod error;
mod http;
mod metrics;
mod secrets;
mod server;
mod settings;
mod sites;
mod swarm_state;
mod tasks;

pub use db::StoreError;
pub use secrets::SecretFileError;
pub use server::{Control, ControlError, Ready, Stopper, run, start};
pub use settings::{Advanced, Settings};
