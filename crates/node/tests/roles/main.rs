//! The roles as their users run them, in one process: `get` and `seed` alone, and all of them under a scripted control.

mod common;
mod control;
#[path = "../../../proto/tests/common/genesis.rs"]
mod genesis;
mod get;
mod under_control;
