//! A real control on port 0, spoken to over HTTP as nodes, operators and stock clients do.

mod access;
mod attested;
mod audits;
mod client;
mod comeback;
mod faults;
mod flow;
mod growing;
mod levels;
mod names;
mod parking;
mod relays;
mod sites;
mod tracker;
mod trust;
mod unknown_length;
