//! Programs under test: started, listened to, killed, started again.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};
use serde_json::Value;

pub use rustix::process::Signal;

use crate::wait::DEFAULT_PATIENCE;

/// How to start a program: everything but the running process.
#[derive(Clone, Debug)]
pub struct Program {
    exe: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    patience: Duration,
}

impl Program {
    /// A program without arguments. It inherits the environment except for what begins with `FLOODWAY_`.
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            patience: DEFAULT_PATIENCE,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the folder it runs in.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().into());
        self
    }

    /// Sets how long any one wait for it may take, instead of [`DEFAULT_PATIENCE`].
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it; its output is collected in the background.
    #[track_caller]
    pub fn start(&self) -> Running {
        let mut command = Command::new(&self.exe);
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"FLOODWAY_") {
                command.env_remove(key);
            }
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {self:?}: {error}"));
        Running {
            out: Lines::collect(child.stdout.take().expect("stdout is piped")),
            err: Lines::collect(child.stderr.take().expect("stderr is piped")),
            child,
            program: self.clone(),
            seen: 0,
            code: None,
            started: Instant::now(),
        }
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn run(&self) -> Output {
        self.start().finish()
    }
}

/// What a program wrote, line by line, as it comes.
#[derive(Default)]
struct Lines {
    text: Mutex<Text>,
    changed: Condvar,
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let into = Arc::clone(&lines);
        thread::spawn(move || {
            let mut source = BufReader::new(source);
            loop {
                let mut line = Vec::new();
                let got = source.read_until(b'\n', &mut line).unwrap_or(0);
                let mut text = into.text.lock().expect("no reader panicked");
                if got == 0 {
                    text.ended = true;
                } else {
                    let line = String::from_utf8_lossy(&line);
                    text.lines
                        .push(line.strip_suffix('\n').unwrap_or(&line).to_owned());
                }
                let ended = text.ended;
                drop(text);
                into.changed.notify_all();
                if ended {
                    return;
                }
            }
        });
        lines
    }

    /// The first line from `from` on for which `check` has an answer, with its index; `None` at the end of the
    /// output or after `patience`.
    fn find<T>(
        &self,
        from: usize,
        patience: Duration,
        mut check: impl FnMut(&str) -> Option<T>,
    ) -> Option<(usize, T)> {
        let start = Instant::now();
        let mut next = from;
        let mut text = self.text.lock().expect("no reader panicked");
        loop {
            while let Some(line) = text.lines.get(next) {
                if let Some(found) = check(line) {
                    return Some((next, found));
                }
                next += 1;
            }
            let left = patience.checked_sub(start.elapsed())?;
            if text.ended {
                return None;
            }
            text = self
                .changed
                .wait_timeout(text, left)
                .expect("no reader panicked")
                .0;
        }
    }

    fn all(&self) -> String {
        self.text
            .lock()
            .expect("no reader panicked")
            .lines
            .join("\n")
    }
}

/// The addresses in a `ready` line.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Base URL of the HTTP side.
    pub http: Option<String>,
    /// `ADDR:PORT` of the peer side.
    pub peer: Option<String>,
}

impl Ready {
    /// The HTTP side's base URL; panics when there is none.
    #[track_caller]
    pub fn http(&self) -> &str {
        self.http
            .as_deref()
            .expect("the ready line names an HTTP address")
    }

    /// The peer side's address; panics when there is none.
    #[track_caller]
    pub fn peer(&self) -> &str {
        self.peer
            .as_deref()
            .expect("the ready line names a peer address")
    }
}

/// A started program. Killed when dropped.
pub struct Running {
    program: Program,
    child: Child,
    out: Arc<Lines>,
    err: Arc<Lines>,
    seen: usize,
    code: Option<i32>,
    started: Instant,
}

impl Running {
    /// Waits for the `ready` line.
    #[track_caller]
    pub fn ready(&mut self) -> Ready {
        let line = self.event("ready");
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        Ready {
            http: text("http"),
            peer: text("peer"),
        }
    }

    /// Waits for the next JSON line on stdout whose `event` is `name`; lines before it count as seen.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        self.line(&format!("an event `{name}`"), |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == name).then_some(value)
        })
    }

    /// Waits for the next line on stdout for which `check` has an answer; lines before it count as seen.
    #[track_caller]
    pub fn line<T>(&mut self, what: &str, check: impl FnMut(&str) -> Option<T>) -> T {
        match self.out.find(self.seen, self.program.patience, check) {
            Some((index, found)) => {
                self.seen = index + 1;
                found
            }
            None => panic!(
                "no {what} after {:?}\n{}",
                self.started.elapsed(),
                self.describe()
            ),
        }
    }

    /// Waits for a line on stderr that contains `text`, from the start on, and gives it.
    #[track_caller]
    pub fn stderr_line(&mut self, text: &str) -> String {
        let check = |line: &str| line.contains(text).then(|| line.to_owned());
        match self.err.find(0, self.program.patience, check) {
            Some((_, line)) => line,
            None => panic!("stderr never said `{text}`\n{}", self.describe()),
        }
    }

    /// All of stderr so far.
    pub fn stderr(&self) -> String {
        self.err.all()
    }

    /// All of stdout so far.
    pub fn stdout(&self) -> String {
        self.out.all()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; it is no error when the process has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && self.code.is_none()
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) {
        if self.code.is_none() {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.code = Some(code_of(status));
            }
        }
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Kills it if it still runs, and starts it anew with the same arguments.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        *self = self.program.start();
    }

    /// Waits for its end and gives the exit code; minus the number of the signal that killed it.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.poll() {
                return code;
            }
            let waited = start.elapsed();
            assert!(
                waited < self.program.patience,
                "still running after another {waited:?}\n{}",
                self.describe()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end and gives all that it wrote.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let code = self.wait();
        let seconds = self.started.elapsed().as_secs_f64();
        for lines in [&self.out, &self.err] {
            // The pipes end with the process, unless it left children behind: those do not hold up the test.
            lines.find(usize::MAX, Duration::from_secs(2), |_| Some(()));
        }
        let (stdout, stderr) = (self.out.all(), self.err.all());
        Output {
            code,
            stdout,
            stderr,
            seconds,
        }
    }

    /// Anonymous resident memory in bytes (`RssAnon`), 0 when it has ended.
    pub fn rss_anon(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("RssAnon:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .map_or(0, |kib: u64| kib * 1024)
    }

    fn poll(&mut self) -> Option<i32> {
        if self.code.is_none() {
            self.code = self.child.try_wait().expect("a child of ours").map(code_of);
        }
        self.code
    }

    fn describe(&mut self) -> String {
        let state = match self.poll() {
            Some(code) => format!("it ended with {code}"),
            None => "it is running".to_owned(),
        };
        let shown: Vec<_> = self
            .program
            .args
            .iter()
            .map(|arg| arg.to_string_lossy())
            .map(|arg| if arg.len() > 300 { "…".into() } else { arg })
            .collect();
        format!(
            "{} {}: {state}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.program.exe.display(),
            shown.join(" "),
            tail(&self.out.all()),
            tail(&self.err.all())
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn code_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| -status.signal().unwrap_or(0))
}

/// The last lines of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// What a program that has ended left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; minus the number of the signal that killed it.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// From start to end.
    pub seconds: f64,
}

impl Output {
    /// Panics with everything that was written unless the exit code is `code`.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "often the check is all one wants"
    )]
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "exit code\n--- stdout\n{}\n--- stderr\n{}\n---",
            tail(&self.stdout),
            tail(&self.stderr)
        );
        self
    }

    /// The last line of stdout as JSON.
    #[track_caller]
    pub fn last_json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| {
            panic!(
                "the last line of stdout is not JSON: {error}\n{}\n{}",
                self.stdout, self.stderr
            )
        })
    }

    /// All of stdout as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "stdout is not JSON: {error}\n{}\n{}",
                self.stdout, self.stderr
            )
        })
    }
}
