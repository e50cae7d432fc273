//! The store on a real disk, from outside.

mod adopt;
mod common;
mod ended;
mod faults;
mod folder;
mod growing;
mod pieces;
mod resume;
mod twin;
