//! Programs of others that a test needs; a test without its program is skipped by name.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path of a program, or the end of the test when there is none: see [`tools::find_or_skip`](crate::tools::find_or_skip).
#[macro_export]
macro_rules! require {
    ($tool:expr) => {
        match $crate::tools::find_or_skip($tool) {
            Some(path) => path,
            None => return,
        }
    };
}

/// Searches `PATH` and the system folders that are not always in it.
pub fn find(name: &str) -> Option<PathBuf> {
    if name == "libtorrent" {
        return libtorrent_python();
    }
    env::var_os("PATH")
        .iter()
        .flat_map(env::split_paths)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The path of a program; `libtorrent` stands for a Python that can import it.
///
/// Says so and gives `None` when it is missing, so that the test can end; with `FLOODWAY_TEST_REQUIRE_TOOLS` set
/// (continuous integration) a missing program fails the test.
pub fn find_or_skip(name: &str) -> Option<PathBuf> {
    let found = find(name);
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Says that the running test is skipped and why; fails it with `FLOODWAY_TEST_REQUIRE_TOOLS` set.
pub fn skip(reason: &str) {
    assert!(
        env::var_os("FLOODWAY_TEST_REQUIRE_TOOLS").is_none(),
        "{} cannot run: {reason}",
        test_name()
    );
    skip_unable(reason);
}

/// The same for what no installation mends: this system does not permit it.
#[expect(
    clippy::print_stderr,
    reason = "this is how a test says that it did not run"
)]
pub fn skip_unable(reason: &str) {
    eprintln!("skipped: {}: {reason}", test_name());
}

fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("a test").to_owned()
}

/// True when the long forms of tests are asked for (`FLOODWAY_TEST_FULL`).
pub fn full() -> bool {
    env::var_os("FLOODWAY_TEST_FULL").is_some()
}

fn libtorrent_python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/venv/bin/python");
    env::var_os("FLOODWAY_TEST_LIBTORRENT_PYTHON")
        .map(PathBuf::from)
        .into_iter()
        .chain([venv])
        .find(|python| {
            Command::new(python)
                .args(["-c", "import libtorrent"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
}
