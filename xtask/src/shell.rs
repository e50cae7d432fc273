//! Running other programs.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A line on stderr.
pub(crate) fn say(text: impl Display) {
    // Nobody reads it any more: nothing to do about that.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Text for stdout.
pub(crate) fn print(text: impl Display) {
    // As above.
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace's folder.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// The folder of build results.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The optimised binary, freshly built.
pub(crate) fn release_build() -> Result<PathBuf> {
    run(cargo().args([
        "build",
        "--release",
        "--package",
        "floodway",
        "--bin",
        "floodway",
    ]))?;
    Ok(target().join("release/floodway"))
}

/// The binary as tests use it, freshly built.
pub(crate) fn debug_build() -> Result<PathBuf> {
    run(cargo().args(["build", "--package", "floodway", "--bin", "floodway"]))?;
    Ok(target().join("debug/floodway"))
}

/// Runs a program to its end; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{command:?} cannot be started"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Runs a program quietly: what it says is shown only when it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        bail!("{command:?} ended with {}:\n{out}{err}", output.status);
    }
    Ok(())
}

/// Whether a program can be run and succeeds.
pub(crate) fn works(program: impl AsRef<OsStr>, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The first line that a program prints.
pub(crate) fn first_line(program: impl AsRef<OsStr>, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    output.map_or_else(
        |error| error.to_string(),
        |output| {
            // nginx prints its version on stderr.
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        },
    )
}

/// What a Floodway binary says of its version, and which build it is: figures of two builds must not be taken for one.
pub(crate) fn floodway_version(binary: &Path) -> String {
    let sum = first_line("sha256sum", &[&binary.to_string_lossy()]);
    let sum: String = sum.chars().take(12).collect();
    format!("{} (sha256 {sum}…)", first_line(binary, &["--version"]))
}

/// Finds a program on `PATH` and in the system folders that are not always in it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
