//! The store on a real disk, from outside.

mod common;
mod faults;
mod growing;
mod pieces;
mod resume;
mod twin;
