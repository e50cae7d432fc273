//! `floodway config ROLE`: the sample configuration.

use clap::{Args, ValueEnum};

use crate::{say, settings};

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ConfigArgs {
    /// Whose configuration
    role: Role,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Control,
    Relay,
    Agent,
    Serve,
}

pub(crate) fn run(args: ConfigArgs) {
    let sample = match args.role {
        Role::Control => settings::sample::<settings::Control>(),
        Role::Relay => settings::sample::<settings::Relay>(),
        Role::Agent => settings::sample::<settings::Agent>(),
        Role::Serve => settings::sample::<settings::Serve>(),
    };
    say::line(sample.trim_end());
}
