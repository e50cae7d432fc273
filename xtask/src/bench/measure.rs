//! A program from its start to the moment it has the file: wall time, processor time, memory.
//!
//! A child that has ended keeps its figures in /proc until it is waited for, so nothing is lost by looking late.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// How often a running client is looked at.
const STEP: Duration = Duration::from_millis(2);
/// No transfer may take longer.
const PATIENCE: Duration = Duration::from_mins(10);
/// Ticks per second of the times in /proc (`sysconf(_SC_CLK_TCK)`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// One measured transfer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// From the client's start until it said it was done, or ended.
    pub(crate) seconds: f64,
    /// Processor seconds of the client, to its end.
    pub(crate) client_cpu: f64,
    /// Processor seconds of the source meanwhile.
    pub(crate) source_cpu: f64,
    /// The client's largest anonymous resident memory in bytes.
    pub(crate) anon_bytes: u64,
    /// The client's command line.
    pub(crate) command: String,
}

/// Runs a client to its end.
pub(crate) fn client(mut command: Command) -> Result<Sample> {
    let line = describe(&command);
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{line} cannot be started"))?;
    let done = watch(&mut child);
    let (mut anon, mut told) = (0, None);
    loop {
        if told.is_none() && done.try_recv().is_ok() {
            told = Some(start.elapsed());
        }
        anon = anon.max(anonymous(child.id()));
        if stat(child.id())?.zombie {
            break;
        }
        if start.elapsed() > PATIENCE {
            drop(child.kill());
            bail!("{line} was not done after {PATIENCE:?}");
        }
        thread::sleep(STEP);
    }
    let ended = start.elapsed();
    let client_cpu = stat(child.id())?.cpu;
    let status = child.wait()?;
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    let seconds = told.unwrap_or(ended).as_secs_f64();
    Ok(Sample {
        seconds,
        client_cpu,
        source_cpu: 0.0,
        anon_bytes: anon,
        command: line,
    })
}

/// Tells when the child first says that it is done.
fn watch(child: &mut Child) -> mpsc::Receiver<()> {
    let (send, receive) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if line.contains("\"event\":\"done\"") {
                // The receiver is gone when the child has ended.
                let _ = send.send(());
            }
        }
    });
    receive
}

/// A source while a client is measured; killed when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it and waits until `ready`.
    pub(crate) fn start(mut command: Command, ready: impl Fn() -> bool) -> Result<Self> {
        let line = describe(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{line} cannot be started"))?;
        let server = Self(child);
        let start = Instant::now();
        while !ready() {
            if start.elapsed() > PATIENCE || stat(server.0.id())?.zombie {
                bail!("{line} does not serve");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        Ok(stat(self.0.id())?.cpu)
    }

    pub(crate) fn stop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Stat {
    pub(crate) zombie: bool,
    /// User and system seconds so far.
    pub(crate) cpu: f64,
}

/// What /proc/PID/stat says (see proc(5)): state is field 3, user and system ticks are 14 and 15.
pub(crate) fn stat(pid: u32) -> Result<Stat> {
    let text =
        fs::read_to_string(format!("/proc/{pid}/stat")).context("a child is gone unwaited")?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<_> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    match (fields.first(), ticks(11), ticks(12)) {
        (Some(state), Some(user), Some(system)) => Ok(Stat {
            zombie: *state == "Z",
            cpu: (user + system) / TICKS,
        }),
        _ => bail!("/proc/{pid}/stat makes no sense: {text}"),
    }
}

/// Anonymous resident memory in bytes, 0 when it has ended.
pub(crate) fn anonymous(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Ticks of all processors together since the machine started.
pub(crate) struct Busy {
    working: f64,
    all: f64,
}

/// Looks at how busy the machine was so far.
pub(crate) fn busy() -> Result<Busy> {
    let text = fs::read_to_string("/proc/stat")?;
    let first = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // See proc(5): the fourth and fifth are idle and waiting for disks.
    let idle: f64 = ticks.iter().skip(3).take(2).sum();
    let all: f64 = ticks.iter().sum();
    Ok(Busy {
        working: all - idle,
        all,
    })
}

impl Busy {
    /// The share of all processors in use since `before`.
    pub(crate) fn share_since(&self, before: &Self) -> f64 {
        (self.working - before.working) / (self.all - before.all).max(1.0)
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// The command line, without folders and with scripts left out.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let short = |word: &str| match (word.rsplit_once('/'), word.split_once("=/")) {
        _ if word.contains('\n') => "SCRIPT".to_owned(),
        (Some((folder, name)), _) if folder.starts_with('/') => name.to_owned(),
        (Some((_, name)), Some((option, _))) => format!("{option}={name}"),
        _ => word.to_owned(),
    };
    words
        .map(|word| short(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}
