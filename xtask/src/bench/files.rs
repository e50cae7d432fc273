//! Files and servers that all measurements need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{run_quietly, say, works};

const PREFIX: &str = "floodway-bench-";

/// A folder of our own, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes it, and removes those of runs that were killed.
    pub(crate) fn create(within: &Path) -> Result<Self> {
        for entry in fs::read_dir(within)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let path = within.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            say(format_args!(
                "{} could not be removed: {error}",
                self.0.display()
            ));
        }
    }
}

/// A file of random bytes.
pub(crate) fn random_file(path: &Path, size: u64) -> Result<()> {
    run_quietly(
        Command::new("sh")
            .args([
                "-c",
                "head -c \"$1\" /dev/urandom > \"$2\"",
                "sh",
                &size.to_string(),
            ])
            .arg(path),
    )
}

/// Whether two files are the same, byte for byte.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    works(
        "cmp",
        &["--silent", &a.to_string_lossy(), &b.to_string_lossy()],
    )
}

/// Makes the torrent of a file.
pub(crate) fn torrent(
    floodway: &Path,
    file: &Path,
    torrent: &Path,
    piece_kib: u64,
    tracker: &str,
    web_seed: Option<&str>,
) -> Result<()> {
    let mut command = Command::new(floodway);
    command
        .args(["torrent", "create"])
        .arg(file)
        .arg("-o")
        .arg(torrent)
        .arg(format!("--piece-length={piece_kib}KiB"))
        .args(["--tracker", tracker]);
    if let Some(url) = web_seed {
        command.args(["--web-seed", url]);
    }
    run_quietly(&mut command)
}

/// The configuration of an nginx in one process, so that its processor time is all there is.
pub(crate) fn nginx(root: &Path, folder: &Path, listen: &str) -> String {
    let (root, folder) = (root.display(), folder.display());
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; user root;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           sendfile on; tcp_nopush on; keepalive_timeout 300; keepalive_requests 1000000;\n\
           log_format short '$remote_addr $status $body_bytes_sent $http_range $request_time';\n\
           access_log {folder}/access.log short;\n\
           client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;\n\
           uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t;\n\
           server {{ listen {listen} backlog=1024; root {root}; }}\n\
         }}\n"
    )
}
