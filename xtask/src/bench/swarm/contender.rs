//! The programs that are compared: their command lines, and how each says that it is done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Result, bail};
use serde_json::json;

use super::job::Done;
use super::network::{self, Host};
use crate::bench::Tools;
use crate::shell::{find, first_line, floodway_version};

/// The script that runs libtorrent: `seed`, `get` or `share`.
const LIBTORRENT: &str = include_str!("../libtorrent.py");
/// libtorrent set up for a flash crowd: small requests to the web seed, more upload slots, a short queue; the seed sends
/// every piece once before any twice (BEP 16).
const TUNED: &str = r#"{"urlseed_max_request_bytes":262144,"urlseed_pipeline_size":2,"unchoke_slots_limit":20,"request_queue_time":1,"super_seeding":true}"#;
pub(crate) const PEER_PORT: u16 = 6881;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Floodway with its own control and a relay on the origin's host; the content is known before the start.
    Native,
    /// The same, but control and relay first hear of the file from the clients.
    NativeCold,
    /// The same with a relay that offers nothing before it has everything.
    NativeColdAfterComplete,
    /// Floodway as an ordinary BitTorrent client with a web seed.
    Stock,
    Libtorrent,
    LibtorrentTuned,
    Aria2,
    Transmission,
    /// It has no web seeds.
    Rqbit,
    /// Plain HTTP.
    Curl,
}

const PROGRAMS: [(&str, Program); 10] = [
    ("native", Program::Native),
    (COLD, Program::NativeCold),
    (COLD_AFTER_COMPLETE, Program::NativeColdAfterComplete),
    ("stock", Program::Stock),
    ("libtorrent", Program::Libtorrent),
    ("libtorrent-tuned", Program::LibtorrentTuned),
    ("aria2", Program::Aria2),
    ("transmission", Program::Transmission),
    ("rqbit", Program::Rqbit),
    ("curl", Program::Curl),
];

/// The names of the two programs that the goals of cold scenarios compare.
pub(crate) const COLD: &str = "native-cold";
pub(crate) const COLD_AFTER_COMPLETE: &str = "native-cold-after-complete";

/// A program and whether one more of it seeds on the origin's host, beside the web seed: `NAME` or `NAME+seed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) program: Program,
    pub(crate) seed: bool,
}

impl FromStr for Contender {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, seed) = text
            .strip_suffix("+seed")
            .map_or((text, false), |name| (name, true));
        let Some((_, program)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = PROGRAMS.iter().map(|(known, _)| *known).collect();
            bail!(
                "there is no program {name}; there are {}, most of them also as NAME+seed",
                known.join(", ")
            );
        };
        let contender = Self {
            program: *program,
            seed,
        };
        match program {
            _ if seed && (program.is_native() || *program == Program::Curl) => {
                bail!("{name} needs no seed")
            }
            Program::Rqbit if !seed => bail!("rqbit has no web seeds: use rqbit+seed"),
            _ => Ok(contender),
        }
    }
}

impl Contender {
    pub(crate) fn name(self) -> String {
        let (name, _) = PROGRAMS
            .iter()
            .find(|(_, program)| *program == self.program)
            .expect("every program has a name");
        format!("{name}{}", if self.seed { "+seed" } else { "" })
    }

    /// Whether the torrent names the web seed.
    pub(crate) fn has_web_seed(self) -> bool {
        self.program != Program::Rqbit
    }
}

fn path(tools: &Tools, program: Program) -> Option<PathBuf> {
    match program {
        Program::Native
        | Program::NativeCold
        | Program::NativeColdAfterComplete
        | Program::Stock => Some(tools.floodway.clone()),
        Program::Libtorrent | Program::LibtorrentTuned => tools.python.clone(),
        Program::Aria2 => find("aria2c"),
        Program::Transmission => find("transmission-daemon"),
        Program::Rqbit => tools.rqbit.clone(),
        Program::Curl => find("curl"),
    }
}

impl Program {
    /// Whether Floodway's own control and relay take part.
    pub(crate) fn is_native(self) -> bool {
        matches!(
            self,
            Self::Native | Self::NativeCold | Self::NativeColdAfterComplete
        )
    }

    pub(crate) fn is_there(self, tools: &Tools) -> bool {
        path(tools, self).is_some()
    }

    /// What it says of its version.
    pub(crate) fn version(self, tools: &Tools) -> String {
        let Some(path) = path(tools, self) else {
            return "missing".to_owned();
        };
        match self {
            Self::Libtorrent | Self::LibtorrentTuned => first_line(
                path,
                &[
                    "-c",
                    "import libtorrent; print('libtorrent', libtorrent.__version__)",
                ],
            ),
            Self::Native | Self::NativeCold | Self::NativeColdAfterComplete | Self::Stock => {
                floodway_version(&path)
            }
            _ => first_line(path, &["--version"]),
        }
    }
}

/// What all programs of one run are given.
pub(crate) struct Swarm<'a> {
    pub(crate) tools: &'a Tools,
    /// The origin's file.
    pub(crate) file: &'a Path,
    pub(crate) torrent: &'a Path,
    /// The same file over HTTP.
    pub(crate) url: &'a str,
    /// Control's address and the file with its token, in native mode.
    pub(crate) control: Option<(String, PathBuf)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    /// The file is at its place already.
    Seed,
}

impl Swarm<'_> {
    /// The command that fetches (or seeds) the file in `folder`/data, and how it says that it is done.
    pub(crate) fn command(
        &self,
        program: Program,
        role: Role,
        host: Host,
        folder: &Path,
    ) -> Result<(Command, Done)> {
        let Some(path) = path(self.tools, program) else {
            bail!("{program:?} is missing");
        };
        let mut command = Command::new(path);
        let data = folder.join("data");
        let target = data.join(self.file.file_name().expect("it is a file"));
        command.current_dir(folder);
        for key in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(key, folder);
        }
        command.env("no_proxy", "*");
        let done = match program {
            Program::Native
            | Program::NativeCold
            | Program::NativeColdAfterComplete
            | Program::Stock => self.floodway(&mut command, role, host, &target),
            Program::Libtorrent | Program::LibtorrentTuned => {
                let role = if role == Role::Seed { "seed" } else { "share" };
                command
                    .args(["-c", LIBTORRENT, role])
                    .arg(self.torrent)
                    .arg(&data);
                command.arg(format!("0.0.0.0:{PEER_PORT}"));
                if program == Program::LibtorrentTuned {
                    command.arg(TUNED);
                }
                Done::Line("\"event\":\"done\"")
            }
            Program::Aria2 => self.aria2(&mut command, role, folder)?,
            Program::Transmission => {
                transmission(role, folder, self.torrent)?;
                command.arg("-f").arg("-g").arg(folder.join("cfg"));
                Done::File(target)
            }
            Program::Rqbit => {
                command
                    .args([
                        "-v",
                        "info",
                        "--disable-dht",
                        "--disable-lsd",
                        "--disable-upnp-port-forward",
                    ])
                    .args([
                        "--ipv4-only",
                        "--listen-ip",
                        "0.0.0.0",
                        "--listen-port",
                        &PEER_PORT.to_string(),
                    ])
                    .args(["download", "--overwrite", "--disable-http-api", "-o"])
                    .arg(&data)
                    .arg(self.torrent);
                Done::Line("torrent finished downloading")
            }
            Program::Curl => {
                command
                    .args(["-sS", "--noproxy", "*", "-o"])
                    .arg(target)
                    .arg(self.url);
                Done::Exit
            }
        };
        Ok((command, done))
    }

    fn floodway(&self, command: &mut Command, role: Role, host: Host, target: &Path) -> Done {
        match role {
            Role::Seed => command.arg("seed").arg(target).arg(self.torrent),
            Role::Client => match &self.control {
                None => command.arg("get").arg(self.torrent).arg("-o").arg(target),
                Some((control, token)) => command
                    .args(["get", self.url, "--control", control, "--token-file"])
                    .arg(token)
                    .arg("-o")
                    .arg(target),
            },
        };
        if role == Role::Client {
            // As agents do, and all the others: no SHA-256 of the whole beside the hashes of the pieces.
            command.args(["--seed-time", "1h", "--no-digest"]);
        }
        let own = format!("{}:{PEER_PORT}", network::address(host));
        command.args(["--listen", &own, "--json"]);
        Done::Line("\"event\":\"done\"")
    }

    fn aria2(&self, command: &mut Command, role: Role, folder: &Path) -> Result<Done> {
        let (hook, done) = (folder.join("hook.sh"), folder.join("done"));
        fs::write(&hook, format!("#!/bin/sh\n: > {}\n", done.display()))?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
        command
            .args(["--no-conf", "--file-allocation=none", "--disable-ipv6=true"])
            .args([
                "--summary-interval=0",
                "--console-log-level=warn",
                "--auto-file-renaming=false",
            ])
            .args([
                "--enable-dht=false",
                "--enable-dht6=false",
                "--bt-enable-lpd=false",
            ])
            .args([
                "--enable-peer-exchange=false",
                "--seed-ratio=0.0",
                "--bt-max-peers=100",
            ])
            .arg(format!("--listen-port={PEER_PORT}"))
            .arg(format!("--on-bt-download-complete={}", hook.display()))
            .arg(format!("--dir={}", folder.join("data").display()));
        if role == Role::Seed {
            command.args([
                "--bt-seed-unverified=true",
                "--check-integrity=false",
                "--allow-overwrite=true",
            ]);
        }
        command.arg(self.torrent);
        Ok(Done::File(done))
    }
}

/// Writes transmission's configuration. A client's torrent is loaded at the start; a seed's comes by the watch folder, as
/// only then its file is verified.
fn transmission(role: Role, folder: &Path, torrent: &Path) -> Result<()> {
    let configuration = folder.join("cfg");
    let is_seed = role == Role::Seed;
    let torrents = configuration.join(if is_seed { "watch" } else { "torrents" });
    fs::create_dir_all(&torrents)?;
    fs::copy(torrent, torrents.join("file.torrent"))?;
    let settings = json!({
        "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
        "port-forwarding-enabled": false, "rpc-enabled": false,
        "watch-dir-enabled": is_seed, "watch-dir": configuration.join("watch"),
        "peer-port": PEER_PORT, "peer-port-random-on-start": false,
        "download-dir": folder.join("data"), "incomplete-dir-enabled": false, "rename-partial-files": true,
        "preallocation": 0, "ratio-limit-enabled": false, "idle-seeding-limit-enabled": false,
        "speed-limit-up-enabled": false, "speed-limit-down-enabled": false,
        "peer-limit-global": 200, "peer-limit-per-torrent": 100, "upload-slots-per-torrent": 14,
        "start-added-torrents": true, "encryption": 0, "message-level": 2, "cache-size-mb": 4,
        "blocklist-enabled": false, "scrape-paused-torrents-enabled": false,
    });
    Ok(fs::write(
        configuration.join("settings.json"),
        settings.to_string(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_have_the_names_they_are_asked_for_by() {
        for (name, program) in PROGRAMS {
            let seed = program == Program::Rqbit;
            let name = format!("{name}{}", if seed { "+seed" } else { "" });
            let contender: Contender = name.parse().unwrap();
            assert_eq!(contender, Contender { program, seed });
            assert_eq!(contender.name(), name);
        }
    }

    #[test]
    fn what_is_not_possible_is_refused() {
        let error = |text: &str| text.parse::<Contender>().unwrap_err().to_string();
        assert!(error("rqbit").contains("use rqbit+seed"));
        assert!(error("native+seed").contains("needs no seed"));
        assert!(error("native-cold+seed").contains("needs no seed"));
        assert!(error("deluge").contains("there are native, native-cold"));
    }
}
