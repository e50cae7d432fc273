//! A program in one of the hosts: started, watched, ended.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::bench::measure::{anonymous, describe, stat};

/// How often a program is looked at.
pub(crate) const STEP: Duration = Duration::from_millis(10);
/// How long a program may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Waits for a line, then becomes the program: what entering a host costs is over before the clock starts.
const HOLD: &str = "echo held; read -r _; exec \"$@\" </dev/null";
/// How long a program that is held may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a program says that it has the whole file.
#[derive(Clone, Debug)]
pub(crate) enum Done {
    /// A line with this text.
    Line(&'static str),
    /// A file appears.
    File(PathBuf),
    /// It ends.
    Exit,
}

/// A running program; killed when dropped.
pub(crate) struct Job {
    child: Child,
    log: PathBuf,
    read: u64,
    /// The largest anonymous resident memory seen, in bytes.
    pub(crate) anon_bytes: u64,
    /// Processor seconds, once it has ended.
    cpu: Option<f64>,
    /// Its command line for the report.
    pub(crate) line: String,
}

/// The same command within a namespace; it dies with us.
pub(crate) fn in_host(namespace: &str, command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(["--pdeathsig", "KILL", "ip", "netns", "exec", namespace])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(key, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

impl Job {
    /// Starts it; what it prints goes into `log`.
    pub(crate) fn start(command: Command, log: &Path) -> Result<Self> {
        let line = describe(&command);
        let line = line
            .split_once(" exec ")
            .and_then(|(_, rest)| rest.split_once(' '))
            .map_or_else(|| line.clone(), |(_, rest)| rest.to_owned());
        Self::spawn(command, line, Stdio::null(), log)
    }

    /// Makes a program ready in a host; it begins with [`Self::release`].
    pub(crate) fn hold(namespace: &str, command: &Command, log: &Path) -> Result<Self> {
        let mut held = Command::new("sh");
        held.args(["-c", HOLD, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            held.env(key, value.unwrap_or_default());
        }
        if let Some(folder) = command.get_current_dir() {
            held.current_dir(folder);
        }
        let line = describe(command);
        let mut job = Self::spawn(in_host(namespace, &held), line, Stdio::piped(), log)?;
        job.wait_line("held", PATIENCE)?;
        Ok(job)
    }

    /// Lets a program begin that was held.
    pub(crate) fn release(&mut self) -> Result<()> {
        match self.child.stdin.take() {
            Some(mut stdin) => writeln!(stdin).context("it ended while it was held"),
            None => Ok(()),
        }
    }

    fn spawn(mut command: Command, line: String, stdin: Stdio, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        let child = command
            .stdin(stdin)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("{line} cannot be started"))?;
        Ok(Self {
            child,
            log: log.to_owned(),
            read: 0,
            anon_bytes: 0,
            cpu: None,
            line,
        })
    }

    /// Whether it has said that it is done.
    ///
    /// # Errors
    /// When it has ended without, with the end of what it printed.
    pub(crate) fn is_done(&mut self, signal: &Done) -> Result<bool> {
        let ended = self.has_ended()?;
        let done = match signal {
            Done::Line(text) => self.new_output()?.contains(text),
            Done::File(path) => path.exists(),
            Done::Exit if ended => self.child.wait()?.success(),
            Done::Exit => false,
        };
        if ended && !done {
            bail!(
                "{} ended with {}: {}",
                self.line,
                self.child.wait()?,
                self.last_words()
            );
        }
        Ok(done)
    }

    /// Waits until it prints a line with `text`.
    pub(crate) fn wait_line(&mut self, text: &'static str, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.is_done(&Done::Line(text))? {
            if start.elapsed() > patience {
                bail!("{} does not say {text}: {}", self.line, self.last_words());
            }
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// What it has printed since the last call, with a little of what was before: a text may come in two halves.
    fn new_output(&mut self) -> Result<String> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(self.read.saturating_sub(200)))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        self.read = log.stream_position()?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(600);
        text.get(start..).unwrap_or_default().to_owned()
    }

    /// Looks at its memory.
    pub(crate) fn sample_memory(&mut self) {
        if self.cpu.is_none() {
            self.anon_bytes = self.anon_bytes.max(anonymous(self.child.id()));
        }
    }

    /// Processor seconds so far, or until it ended.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match self.cpu {
            Some(cpu) => Ok(cpu),
            None => Ok(stat(self.child.id())?.cpu),
        }
    }

    fn has_ended(&mut self) -> Result<bool> {
        if self.cpu.is_none() {
            let stat = stat(self.child.id())?;
            if stat.zombie {
                // Its figures are gone once it is waited for.
                self.cpu = Some(stat.cpu);
                self.child.wait()?;
            }
        }
        Ok(self.cpu.is_some())
    }

    /// Asks it to end.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.has_ended()? {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// Asks all to end and waits until they have; kills who does not.
    pub(crate) fn stop_all<'a>(jobs: impl IntoIterator<Item = &'a mut Self>) -> Result<()> {
        let mut left: Vec<_> = jobs.into_iter().collect();
        for job in &mut left {
            job.terminate()?;
        }
        let start = Instant::now();
        while !left.is_empty() {
            if start.elapsed() > GRACE {
                for job in &mut left {
                    job.kill()?;
                }
            }
            let mut running = Vec::new();
            for job in left {
                if !job.has_ended()? {
                    running.push(job);
                }
            }
            left = running;
            thread::sleep(STEP);
        }
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
