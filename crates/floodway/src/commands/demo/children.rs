//! The demo's processes: started, listened to, and gone when the demo is.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::exit::Failure;

/// How a child learns that it is one: the parent's process id.
const PARENT: &str = "FLOODWAY_DEMO_PARENT";
/// How long a child may take to be ready.
const START_TIME: Duration = Duration::from_secs(30);
/// How long a child may take to stop.
const STOP_TIME: Duration = Duration::from_secs(5);

/// In a child of the demo: die when the demo dies, however it does. Called first thing in every process.
pub(crate) fn die_with_parent() -> Result<(), Failure> {
    let Ok(parent) = std::env::var(PARENT) else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(Failure::failed)?;
    // It may have died before we asked.
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().to_string() != parent) {
        return Err(Failure::failed(
            "the demo that started this process is gone",
        ));
    }
    Ok(())
}

/// All child processes. Killed when dropped.
pub(crate) struct Crew {
    exe: PathBuf,
    folder: PathBuf,
    members: Vec<Member>,
}

struct Member {
    name: String,
    log: PathBuf,
    process: Child,
}

/// What a child's ready line says.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Ready {
    http: Option<String>,
}

impl Ready {
    pub(crate) fn http(self) -> Result<String, Failure> {
        self.http
            .ok_or_else(|| Failure::failed("a process of the demo has no HTTP side"))
    }
}

impl Crew {
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        let exe = std::env::current_exe().map_err(|error| {
            Failure::failed(format_args!("this program cannot find itself: {error}"))
        })?;
        Ok(Self {
            exe,
            folder: folder.to_owned(),
            members: Vec::new(),
        })
    }

    /// This program.
    pub(crate) fn exe(&self) -> &Path {
        &self.exe
    }

    /// The data folder of the child called `name`.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a role and waits until it is ready.
    pub(crate) async fn start(
        &mut self,
        name: &str,
        args: &[&dyn AsRef<OsStr>],
    ) -> Result<Ready, Failure> {
        let mut member = self.spawn(name, args)?;
        let output = member.process.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(output).lines();
        let ready = timeout(START_TIME, ready(&mut lines)).await.ok().flatten();
        let Some(ready) = ready else {
            return Err(member.trouble("did not become ready"));
        };
        // Read on, so that it never blocks on a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.members.push(member);
        Ok(ready)
    }

    /// Starts a plain download of `url` into `folder`.
    pub(crate) fn download(&self, url: &str, folder: PathBuf) -> Result<Download, Failure> {
        std::fs::create_dir_all(&folder).map_err(Failure::failed)?;
        let name = folder
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or("plain");
        let output = folder.join("");
        let args: [&dyn AsRef<OsStr>; 5] = [&"get", &url, &"-o", &output, &"--no-digest"];
        let member = self.spawn(name, &args)?;
        Ok(Download { member, folder })
    }

    fn spawn(&self, name: &str, args: &[&dyn AsRef<OsStr>]) -> Result<Member, Failure> {
        let log = self.folder.join(format!("{name}.log"));
        let spawned = File::create(&log).and_then(|stderr| {
            let mut command = Command::new(&self.exe);
            for (key, _) in std::env::vars_os() {
                if key.as_encoded_bytes().starts_with(b"FLOODWAY_") {
                    command.env_remove(key);
                }
            }
            command
                .args(args.iter().map(AsRef::as_ref))
                .env(PARENT, std::process::id().to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(stderr)
                .kill_on_drop(true)
                .spawn()
        });
        match spawned {
            Ok(process) => Ok(Member {
                name: name.into(),
                log,
                process,
            }),
            Err(error) => Err(Failure::failed(format_args!(
                "{name} cannot be started: {error}"
            ))),
        }
    }

    /// Fails when a child has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            if let Ok(Some(_)) = member.process.try_wait() {
                return Err(member.trouble("ended unexpectedly"));
            }
        }
        Ok(())
    }

    /// Stops everybody, in the order agents, relays, control, origin; kills those that do not.
    pub(crate) async fn stop(mut self) {
        for member in self.members.iter().rev() {
            let pid = member
                .process
                .id()
                .and_then(|id| i32::try_from(id).ok())
                .and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // An error means that it has ended.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for member in &mut self.members {
            if timeout(STOP_TIME, member.process.wait()).await.is_err() {
                // An error means that it has ended.
                drop(member.process.kill().await);
            }
        }
    }
}

async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Ready> {
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("\"ready\"")
            && let Ok(ready) = serde_json::from_str(&line)
        {
            return Some(ready);
        }
    }
    None
}

impl Member {
    fn trouble(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
        Failure::failed(format_args!("{} {what}; it said:\n  {tail}", self.name))
    }
}

/// A plain download in progress.
pub(crate) struct Download {
    member: Member,
    folder: PathBuf,
}

impl Download {
    /// Waits for its success, and removes what it fetched.
    pub(crate) async fn finished(mut self) -> Result<(), Failure> {
        let status = self.member.process.wait().await.map_err(Failure::failed)?;
        if !status.success() {
            return Err(self.member.trouble("failed"));
        }
        std::fs::remove_dir_all(&self.folder).map_err(Failure::failed)
    }
}
