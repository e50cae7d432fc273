//! Logs go to stderr.

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// What to log, like `info` or `floodway_node=debug`; else `RUST_LOG` is used [default: warn]
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logs")]
    log: Option<String>,
    /// Log as JSON, one object a line
    #[arg(long, global = true, help_heading = "Logs")]
    log_json: bool,
}

impl LogArgs {
    /// Starts logging for this process.
    ///
    /// # Errors
    /// When the filter makes no sense.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage(format_args!("the log filter cannot be used: {error}"))
                .hint("write it like `info` or `warn,floodway_node=debug`")
        };
        let filter = match &self.log {
            Some(text) => EnvFilter::try_new(text).map_err(|error| wrong(&error))?,
            None if std::env::var_os(EnvFilter::DEFAULT_ENV).is_none() => EnvFilter::new("warn"),
            None => EnvFilter::try_from_default_env().map_err(|error| wrong(&error))?,
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_writer(std::io::stderr);
        if self.log_json {
            builder.json().init();
        } else {
            builder.init();
        }
        Ok(())
    }
}
