//! Origins that keep the rules, and origins that break each of them.

mod busy;
mod files;
mod lies;
mod probes;
mod reads;
mod redirects;
mod server;
