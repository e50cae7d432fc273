//! Settings of the roles: TOML file < environment (`FLOODWAY_…`) < flags. Unknown keys are errors.
//!
//! Each role's settings are one struct, declared with [`documented!`](floodway_api::documented): its doc comments are
//! the sample file that `floodway config ROLE` prints.

mod load;
mod roles;
mod sample;

pub(crate) use load::load;
pub(crate) use roles::{Agent, Relay, Serve};
pub(crate) use sample::sample;

use floodway_api::settings::Documented;
pub(crate) use floodway_control::Settings as Control;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A role's settings.
pub(crate) trait Settings: Documented + Default + Serialize + DeserializeOwned {}

impl<S: Documented + Default + Serialize + DeserializeOwned> Settings for S {}
