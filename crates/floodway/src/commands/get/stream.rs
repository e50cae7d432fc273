//! `get -o -`: the file's bytes on stdout, in order, while they come. They lie in a folder of their own meanwhile, which goes
//! with the command.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use floodway_node::GetError;
use floodway_node::get::{self, GetSpec};
use floodway_swarm::Order;

use super::failure;
use super::view::View;
use crate::exit::{Exit, Failure, Outcome};
use crate::say::Out;
use crate::{runtime, signals};

/// Where large temporary files belong (the Filesystem Hierarchy Standard); `/tmp` is often memory.
const LARGE: &str = "/var/tmp";

pub(super) fn run(mut spec: GetSpec, json: bool, quiet: bool) -> Outcome {
    let scratch = Scratch::new()?;
    let out = stdout()?;
    spec.output = Some(scratch.0.clone());
    spec.order = Order::Sequential;
    let runtime = runtime::full()?;
    let outcome = runtime.block_on(async {
        let shutdown = signals::shutdown()?;
        let view = View::new(json, quiet, &spec.source, Out::Stderr);
        let listener = view.clone();
        let report = get::run_to(spec, out, shutdown.cancelled(), move |event| {
            listener.event(event);
        })
        .await;
        view.clear();
        view.done(&report.map_err(stopped)?);
        Ok(Exit::Done)
    });
    // Before the folder is removed nobody may write into it any more.
    drop(runtime);
    outcome
}

/// There is nothing that a later run could go on with.
fn stopped(error: GetError) -> Failure {
    match error {
        GetError::Interrupted => Failure::new(
            Exit::from_code(error.exit_code()),
            "stopped before the whole file was written to stdout",
        ),
        GetError::Origin(_) => failure(error).hint(
            "the fault is at the origin or on the way to it; begin anew with the same command",
        ),
        error => failure(error),
    }
}

/// Stdout itself: its own buffer is for lines.
fn stdout() -> Result<File, Failure> {
    let out = io::stdout().as_fd().try_clone_to_owned();
    out.map(File::from)
        .map_err(|error| Failure::failed(format_args!("stdout cannot be used: {error}")))
}

/// A folder for what is on its way to stdout. It goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let parent = match std::env::var_os("TMPDIR") {
            Some(folder) => PathBuf::from(folder),
            None if Path::new(LARGE).is_dir() => PathBuf::from(LARGE),
            None => std::env::temp_dir(),
        };
        let name = format!(
            "floodway-get-{}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        );
        let path = parent.join(name);
        // The bytes are this user's business.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Self(path.clone())).map_err(|error| {
            Failure::failed(format_args!(
                "the temporary folder `{}` cannot be made: {error}",
                path.display()
            ))
            .hint("set TMPDIR to a folder with room for the whole file")
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a temporary folder could not be removed");
        }
    }
}
