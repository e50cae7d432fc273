//! Programs of others: found, or installed where that is possible.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{find, run_quietly, say, target, works};

/// What tests run against, and the Debian package that brings it.
const PROGRAMS: [(&str, &str); 5] = [
    ("nginx", "nginx-light"),
    ("aria2c", "aria2"),
    ("curl", "curl"),
    ("transmission-daemon", "transmission-daemon"),
    ("ip", "iproute2"),
];
/// What `bench swarm` needs beside those.
const SWARM_PROGRAMS: [(&str, &str); 2] = [("ping", "iputils-ping"), ("sysctl", "procps")];
/// The version of rqbit that is measured.
const RQBIT: &str = "9.1.0";
/// The version of libtorrent's Python binding that we test against.
const LIBTORRENT: &str = "libtorrent==2.1.1";
const NEXTEST: &str = "cargo-nextest";

/// The environment of tests: where tools are, and whether missing ones fail a test.
///
/// # Errors
/// When something that should be installable is not.
pub(crate) fn for_tests(full: bool) -> Result<Vec<(&'static str, OsString)>> {
    let mut environment = Vec::new();
    if can_install() {
        install_programs()?;
    }
    match libtorrent() {
        Ok(python) => environment.push(("FLOODWAY_TEST_LIBTORRENT_PYTHON", python.into())),
        Err(error) if can_install() => return Err(error),
        Err(error) => say(format_args!(
            "libtorrent is missing, its tests will be skipped: {error:#}"
        )),
    }
    if can_install() {
        environment.push(("FLOODWAY_TEST_REQUIRE_TOOLS", "1".into()));
    }
    if full {
        environment.push(("FLOODWAY_TEST_FULL", "1".into()));
    }
    Ok(environment)
}

/// Root on a Debian-like system.
fn can_install() -> bool {
    is_root() && find("apt-get").is_some()
}

pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Installs the missing ones of [`PROGRAMS`].
pub(crate) fn install_programs() -> Result<()> {
    install(&PROGRAMS)
}

/// Installs the missing ones of what a swarm in namespaces needs.
pub(crate) fn install_swarm_programs() -> Result<()> {
    install_programs()?;
    install(&SWARM_PROGRAMS)
}

/// Installs what counts instructions, if it is missing.
pub(crate) fn install_valgrind() -> Result<()> {
    install(&[("valgrind", "valgrind")])
}

fn install(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() || !can_install() {
        return Ok(());
    }
    apt(&missing)
}

fn apt(packages: &[&str]) -> Result<()> {
    say(format_args!("installing {}", packages.join(", ")));
    run_quietly(Command::new("apt-get").args(["update", "--quiet"]))?;
    run_quietly(
        Command::new("apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Single-user mode: the packages' services are not started.
            .env("RUNLEVEL", "1"),
    )
}

/// A Python of our own that can import libtorrent.
///
/// # Errors
/// When there is no Python, or the package cannot be fetched.
pub(crate) fn libtorrent() -> Result<PathBuf> {
    let folder = target().join("tools/venv");
    let python = folder.join("bin/python");
    if works(&python, &["-c", "import libtorrent"]) {
        return Ok(python);
    }
    if let Some(python) = std::env::var_os("FLOODWAY_TEST_LIBTORRENT_PYTHON").map(PathBuf::from)
        && works(&python, &["-c", "import libtorrent"])
    {
        return Ok(python);
    }
    say(format_args!("installing {LIBTORRENT}"));
    let make = || {
        let mut command = Command::new("python3");
        command.args(["-m", "venv"]).arg(&folder);
        command
    };
    if let Err(error) = run_quietly(&mut make()) {
        if !can_install() {
            return Err(error);
        }
        apt(&["python3-venv"])?;
        run_quietly(&mut make())?;
    }
    pip(&[LIBTORRENT])?;
    Ok(python)
}

fn pip(packages: &[&str]) -> Result<()> {
    let python = target().join("tools/venv/bin/python");
    run_quietly(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages),
    )
}

/// rqbit where it is installed; else, if `build`, built from its sources.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn rqbit(build: bool) -> Result<Option<PathBuf>> {
    let own = target().join("tools/bin/rqbit");
    if let Some(found) = find("rqbit").or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(Some(found));
    }
    if !build {
        return Ok(None);
    }
    say(format_args!(
        "building rqbit {RQBIT}: this takes many minutes, once"
    ));
    run_quietly(
        Command::new("cargo")
            .args(["install", "rqbit", "--version", RQBIT, "--locked"])
            .args(["--no-default-features", "--features", "rust-tls", "--root"])
            .arg(target().join("tools")),
    )?;
    Ok(Some(own))
}

/// The test runner, `cargo-nextest`; built from its sources when there is none.
///
/// # Errors
/// When it is missing and cannot be built.
pub(crate) fn nextest() -> Result<PathBuf> {
    let own = target().join("tools/bin").join(NEXTEST);
    if let Some(found) = find(NEXTEST).or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(found);
    }
    say(format_args!(
        "building {NEXTEST}: this takes a few minutes, once"
    ));
    run_quietly(
        Command::new("cargo")
            .args([
                "install",
                "--locked",
                "--no-default-features",
                "--features",
                "default-no-update",
            ])
            .arg("--root")
            .arg(target().join("tools"))
            .arg(NEXTEST),
    )
    .with_context(|| format!("{NEXTEST} is needed; install it so that `cargo nextest` works"))?;
    Ok(own)
}
