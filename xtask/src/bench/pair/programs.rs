//! The command lines of the programs that are compared.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bench::Tools;
use crate::bench::files::nginx;
use crate::bench::measure::free_port;
use crate::bench::tracker::Tracker;
use crate::shell::{first_line, floodway_version};

const LIBTORRENT: &str = include_str!("../libtorrent.py");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx,
    Curl,
    Floodway,
    /// As a client without the SHA-256 of the whole file, which no other client computes.
    FloodwayNoDigest,
    Libtorrent,
    Aria2,
    Rqbit,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Curl => "curl",
            Self::Floodway => "floodway",
            Self::FloodwayNoDigest => "floodway --no-digest",
            Self::Libtorrent => "libtorrent",
            Self::Aria2 => "aria2",
            Self::Rqbit => "rqbit",
        }
    }
}

/// What all cases share.
pub(crate) struct Bench {
    pub(crate) folder: PathBuf,
    pub(crate) file: PathBuf,
    pub(crate) size: u64,
    pub(crate) torrent: PathBuf,
    pub(crate) tracker: Tracker,
    pub(crate) nginx: Option<PathBuf>,
    pub(crate) curl: Option<PathBuf>,
    pub(crate) aria2: Option<PathBuf>,
    pub(crate) tools: Tools,
}

impl Bench {
    fn path(&self, program: Program) -> Option<&Path> {
        match program {
            Program::Nginx => self.nginx.as_deref(),
            Program::Curl => self.curl.as_deref(),
            Program::Floodway | Program::FloodwayNoDigest => Some(&self.tools.floodway),
            Program::Libtorrent => self.tools.python.as_deref(),
            Program::Aria2 => self.aria2.as_deref(),
            Program::Rqbit => self.tools.rqbit.as_deref(),
        }
    }

    pub(crate) fn has(&self, program: Program) -> bool {
        self.path(program).is_some()
    }

    fn command(&self, program: Program) -> Result<Command> {
        let path = self
            .path(program)
            .with_context(|| format!("{} is missing", program.name()))?;
        let mut command = Command::new(path);
        // Who runs the bench may be a node of a fleet: that is not what is measured.
        command.env_remove("FLOODWAY_CONTROL").stderr(Stdio::null());
        Ok(command)
    }

    /// What each program says of its version.
    pub(crate) fn versions(&self) -> Vec<(&'static str, String)> {
        let asks: [(Program, &[&str]); 5] = [
            (Program::Nginx, &["-v"]),
            (Program::Curl, &["--version"]),
            (
                Program::Libtorrent,
                &[
                    "-c",
                    "import libtorrent; print('libtorrent', libtorrent.__version__)",
                ],
            ),
            (Program::Aria2, &["--version"]),
            (Program::Rqbit, &["--version"]),
        ];
        let found = asks.iter().filter_map(|(program, args)| {
            Some((program.name(), first_line(self.path(*program)?, args)))
        });
        let own = self.path(Program::Floodway);
        let own = own.map(|path| (Program::Floodway.name(), floodway_version(path)));
        own.into_iter().chain(found).collect()
    }

    /// The source's command: serves the file on `port`.
    pub(crate) fn serve(&self, program: Program, port: u16) -> Result<Command> {
        let mut command = self.command(program)?;
        let source = self.file.parent().expect("the file lies in a folder");
        match program {
            Program::Nginx => {
                let configuration = self.folder.join("nginx.conf");
                fs::write(&configuration, nginx(source, &self.folder, &local(port)))?;
                command
                    .arg("-e")
                    .arg(self.folder.join("nginx.log"))
                    .arg("-c")
                    .arg(configuration);
            }
            Program::Floodway => {
                command
                    .arg("seed")
                    .arg(&self.file)
                    .arg(&self.torrent)
                    .args(["--listen", &local(port), "--json"]);
            }
            Program::Libtorrent => {
                command
                    .args(["-c", LIBTORRENT, "seed"])
                    .arg(&self.torrent)
                    .arg(source)
                    .arg(local(port));
            }
            Program::Aria2 => {
                self.aria2(&mut command, port, source);
                command.args(["--seed-ratio=0.0", "--bt-seed-unverified=true"]);
            }
            Program::Rqbit => self.rqbit(&mut command, port, source),
            Program::Curl | Program::FloodwayNoDigest => {
                bail!("{} is for clients", program.name())
            }
        }
        Ok(command)
    }

    /// The client's command: fetches the file from `source` into `target`.
    pub(crate) fn fetch(
        &self,
        program: Program,
        source: Program,
        port: u16,
        target: &Path,
    ) -> Result<Command> {
        let mut command = self.command(program)?;
        let url = format!("http://{}/file.bin", local(port));
        let from: &OsStr = if source == Program::Nginx {
            url.as_ref()
        } else {
            self.torrent.as_ref()
        };
        let own = free_port()?;
        match program {
            Program::Curl => {
                command
                    .args(["--silent", "--show-error", "--fail", "-o"])
                    .arg(target.join("file.bin"))
                    .arg(&url);
            }
            Program::Floodway | Program::FloodwayNoDigest => {
                command
                    .arg("get")
                    .arg(from)
                    .arg("-o")
                    .arg(target.join("file.bin"));
                command.args(["--listen", &local(own), "--json"]);
                if program == Program::FloodwayNoDigest {
                    command.arg("--no-digest");
                }
            }
            Program::Libtorrent => {
                command
                    .args(["-c", LIBTORRENT, "get"])
                    .arg(from)
                    .arg(target)
                    .arg(local(own));
            }
            Program::Aria2 if source == Program::Nginx => {
                command
                    .args(["--no-conf", "--file-allocation=none", "--dir"])
                    .arg(target)
                    .arg(&url);
            }
            Program::Aria2 => {
                self.aria2(&mut command, own, target);
                command.arg("--seed-time=0");
            }
            Program::Rqbit => {
                self.rqbit(&mut command, own, target);
                command.arg("--exit-on-finish");
            }
            Program::Nginx => bail!("nginx fetches nothing"),
        }
        Ok(command)
    }

    fn rqbit(&self, command: &mut Command, port: u16, folder: &Path) {
        command
            .args([
                "--disable-dht",
                "--disable-lsd",
                "--disable-upnp-port-forward",
                "--ipv4-only",
            ])
            .args([
                "--listen-ip",
                "127.0.0.1",
                "--listen-port",
                &port.to_string(),
            ])
            .args(["download", "--overwrite", "--disable-http-api", "-o"])
            .arg(folder)
            .arg(&self.torrent);
    }

    fn aria2(&self, command: &mut Command, port: u16, folder: &Path) {
        command
            .args([
                "--no-conf",
                "--enable-dht=false",
                "--enable-dht6=false",
                "--bt-enable-lpd=false",
            ])
            .args([
                "--enable-peer-exchange=false",
                "--file-allocation=none",
                "--interface=127.0.0.1",
            ])
            .arg(format!("--listen-port={port}"))
            .arg("--dir")
            .arg(folder)
            .arg(&self.torrent);
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
