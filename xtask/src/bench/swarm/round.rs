//! One program through one scenario, once.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::contender::{Contender, PEER_PORT, Program, Role, Swarm};
use super::job::{Done, Job, STEP, in_host};
use super::network::{self, CONTROL, Host, Link, Network, ORIGIN};
use super::scenario::{Client, Scenario};
use super::table::{ClientRecord, Record};
use crate::bench::Tools;
use crate::bench::files::{Folder, nginx, random_file, same, torrent};
use crate::bench::measure::busy;
use crate::shell::{find, run_quietly};

pub(crate) const HTTP_PORT: u16 = 8080;
const TRACKER_PORT: u16 = 6969;
const CONTROL_PORT: u16 = 7600;
const RELAY_PORT: u16 = 7700;
/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often memory is looked at.
const MEMORY_STEP: Duration = Duration::from_millis(250);

pub(crate) struct Round<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) contender: Contender,
    pub(crate) tools: &'a Tools,
    /// Where files are.
    pub(crate) within: &'a Path,
    /// Where logs are kept, if they are.
    pub(crate) logs: Option<&'a Path>,
    /// Somebody wants us to end.
    pub(crate) stop: &'a AtomicBool,
}

/// A client and what became of it.
struct Runner {
    host: Host,
    plan: Client,
    folder: PathBuf,
    /// Held until it is to start.
    job: Job,
    started: bool,
    signal: Done,
    done: Option<Instant>,
    vanished: bool,
}

impl Round<'_> {
    /// Builds the network, lets everybody run, and takes everything down again.
    ///
    /// # Errors
    /// When something does not start or a client fails; a swarm that is merely not done in time is a record.
    pub(crate) fn run(&self) -> Result<Record> {
        // Dropped last to first: programs, then hosts, then files.
        let folder = Folder::create(self.within)?;
        let source = folder.path().join("origin");
        fs::create_dir(&source)?;
        let file = source.join("file.bin");
        random_file(&file, self.scenario.size())?;
        let members = self.scenario.members();
        let network = Network::build(
            &links(self.scenario, &members),
            self.scenario.path,
            folder.path(),
        )?;
        let result = self.with_servers(folder.path(), &file, &members);
        if let Some(logs) = self.logs {
            keep_logs(
                folder.path(),
                &logs.join(format!("{}-{}", self.scenario.name, self.contender.name())),
            )?;
        }
        drop(network);
        result
    }

    fn with_servers(&self, folder: &Path, file: &Path, members: &[Client]) -> Result<Record> {
        let origin = SocketAddrV4::new(network::address(ORIGIN), HTTP_PORT);
        let (server, url) = match self.scenario.origin.body_mbit {
            None => (
                start_nginx(folder, file, origin)?,
                format!("http://{origin}/file.bin"),
            ),
            Some(rate) => (
                self.start_paced_origin(folder, file, origin, rate)?,
                format!("http://{origin}/files/file.bin"),
            ),
        };
        let mut servers = vec![server];
        let (mut tracker, announce) = start_tracker(folder)?;
        let torrent_file = folder.join("file.torrent");
        let web_seed = self.contender.has_web_seed().then_some(url.as_str());
        torrent(
            &self.tools.floodway,
            file,
            &torrent_file,
            self.scenario.piece_kib,
            &announce,
            web_seed,
        )?;
        let control = if self.contender.program.is_native() {
            Some(self.start_control(folder, &url, &mut servers)?)
        } else {
            None
        };
        let swarm = Swarm {
            tools: self.tools,
            file,
            torrent: &torrent_file,
            url: &url,
            control,
        };
        if self.contender.seed {
            servers.push(self.start_seed(&swarm, folder, file)?);
            tracker
                .wait_line("source", PATIENCE)
                .context("the seed does not announce itself")?;
        }
        servers.push(tracker);
        let record = self.measure(&swarm, folder, members);
        Job::stop_all(&mut servers)?;
        record
    }

    /// An origin that never sends bodies faster than `mbit`, whoever asks.
    fn start_paced_origin(
        &self,
        folder: &Path,
        file: &Path,
        at: SocketAddrV4,
        mbit: f64,
    ) -> Result<Job> {
        let root = file.parent().context("the file lies in a folder")?;
        let mut command = Command::new(&self.tools.floodway);
        command
            .args(["demo-origin", "--http", &at.to_string(), "--limit"])
            .arg(format!("{mbit}Mbit/s"))
            .arg(root);
        ready(ORIGIN, &command, &folder.join("origin.log"))
    }

    /// Control on an unshaped host and a relay on the origin's. The content is known when this returns, unless clients are to
    /// find it cold.
    fn start_control(
        &self,
        folder: &Path,
        url: &str,
        servers: &mut Vec<Job>,
    ) -> Result<(String, PathBuf)> {
        let floodway = || Command::new(&self.tools.floodway);
        let (data, at) = (
            folder.join("control"),
            SocketAddrV4::new(network::address(CONTROL), CONTROL_PORT),
        );
        let address = format!("http://{at}");
        let mut control = floodway();
        control
            .args(["control", "--json", "--http", &at.to_string(), "--data"])
            .arg(&data)
            .args(["--allow-origin", url.trim_end_matches("file.bin")]);
        servers.push(ready(CONTROL, &control, &folder.join("control.log"))?);
        let token = data.join("join.token");
        let own = network::address(ORIGIN);
        let mut relay = floodway();
        relay
            .args(["relay", "--json", "--control", &address, "--token-file"])
            .arg(&token)
            .arg("--data")
            .arg(folder.join("relay"))
            .args([
                "--http",
                &format!("{own}:{RELAY_PORT}"),
                "--listen",
                &format!("{own}:{PEER_PORT}"),
            ]);
        if self.contender.program == Program::NativeColdAfterComplete {
            relay.arg("--bench-serve-after-complete");
        }
        servers.push(ready(ORIGIN, &relay, &folder.join("relay.log"))?);
        if self.contender.program != Program::Native {
            return Ok((address, token));
        }
        let mut publish = floodway();
        publish
            .args([
                "publish",
                url,
                "--wait",
                "--control",
                &address,
                "--token-file",
            ])
            .arg(data.join("admin.token"));
        run_quietly(&mut in_host(&network::name(CONTROL), &publish))?;
        Ok((address, token))
    }

    fn start_seed(&self, swarm: &Swarm<'_>, folder: &Path, file: &Path) -> Result<Job> {
        let own = folder.join("seed");
        fs::create_dir_all(own.join("data"))?;
        fs::hard_link(file, own.join("data/file.bin"))?;
        let (command, _) = swarm.command(self.contender.program, Role::Seed, ORIGIN, &own)?;
        Job::start(in_host(&network::name(ORIGIN), &command), &own.join("log"))
    }

    fn measure(&self, swarm: &Swarm<'_>, folder: &Path, members: &[Client]) -> Result<Record> {
        let hold = |(host, plan): (Host, &Client)| {
            let folder = folder.join(format!("client{host}"));
            fs::create_dir_all(folder.join("data"))?;
            let program = self.contender.program;
            let (command, signal) = swarm.command(program, Role::Client, host, &folder)?;
            let job = Job::hold(&network::name(host), &command, &folder.join("log"))?;
            Ok(Runner {
                host,
                plan: *plan,
                folder,
                job,
                started: false,
                signal,
                done: None,
                vanished: false,
            })
        };
        let mut runners = (1..).zip(members).map(hold).collect::<Result<Vec<_>>>()?;
        let (before, busy_before) = (Network::traffic()?, busy()?);
        let start = Instant::now();
        self.watch(&mut runners, start)?;
        let (after, busy_after) = (Network::traffic()?, busy()?);
        let ended = start.elapsed();
        Job::stop_all(runners.iter_mut().map(|runner| &mut runner.job))?;
        for runner in &runners {
            if runner.done.is_some() && !same(swarm.file, &runner.folder.join("data/file.bin")) {
                bail!("client {} has another file than the origin", runner.host);
            }
        }
        let traffic = |host: Host| {
            let (before, after) = (before[&host], after[&host]);
            network::Traffic {
                sent: after.sent - before.sent,
                received: after.received - before.received,
            }
        };
        let clients = runners
            .iter()
            .map(|runner| runner.record(start, traffic(runner.host)));
        Ok(Record {
            program: self.contender.name(),
            version: self.contender.program.version(self.tools),
            command: runners
                .first()
                .map(|runner| runner.job.line.clone())
                .unwrap_or_default(),
            scenario: self.scenario.clone(),
            seconds: ended.as_secs_f64(),
            origin_sent: traffic(ORIGIN).sent,
            machine_busy: busy_after.share_since(&busy_before),
            clients: clients.collect::<Result<_>>()?,
        })
    }

    /// Starts everybody at its time, and returns when all who stay are done or the limit has passed.
    fn watch(&self, runners: &mut [Runner], start: Instant) -> Result<()> {
        let limit = Duration::from_secs_f64(self.scenario.limit_seconds);
        let mut memory_due = Duration::ZERO;
        loop {
            let now = start.elapsed();
            let look_at_memory = now >= memory_due;
            if look_at_memory {
                memory_due = now + MEMORY_STEP;
            }
            for runner in &mut *runners {
                runner.step(now)?;
                if look_at_memory {
                    runner.job.sample_memory();
                }
            }
            let waits = |runner: &Runner| runner.done.is_none() && runner.plan.vanish.is_none();
            if now > limit || !runners.iter().any(waits) {
                return Ok(());
            }
            ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
            thread::sleep(STEP);
        }
    }
}

impl Runner {
    /// Does what is due `now` after the swarm's start.
    fn step(&mut self, now: Duration) -> Result<()> {
        let job = &mut self.job;
        if !self.started {
            if now >= self.plan.start {
                self.started = true;
                job.release()
                    .with_context(|| format!("client {}", self.host))?;
            }
            return Ok(());
        }
        if self.vanished {
            return Ok(());
        }
        if let Some(vanish) = self.plan.vanish
            && now >= self.plan.start + vanish
        {
            // The cable first: nobody gets to know.
            Network::cut(self.host)?;
            self.vanished = true;
            return job.kill();
        }
        if self.done.is_none()
            && job
                .is_done(&self.signal)
                .with_context(|| format!("client {}", self.host))?
        {
            self.done = Some(Instant::now());
            job.sample_memory();
            if self.plan.leave_when_done {
                job.terminate()?;
            }
        }
        Ok(())
    }

    fn record(&self, start: Instant, traffic: network::Traffic) -> Result<ClientRecord> {
        Ok(ClientRecord {
            start: self.plan.start.as_secs_f64(),
            done: self.done.map(|done| (done - start).as_secs_f64()),
            vanished: self.vanished,
            cpu_seconds: self.job.cpu_seconds()?,
            anon_bytes: self.job.anon_bytes,
            sent: traffic.sent,
            received: traffic.received,
        })
    }
}

fn links(scenario: &Scenario, members: &[Client]) -> BTreeMap<Host, Link> {
    let origin = Link {
        up: Some(scenario.origin.up_mbit),
        ..Link::default()
    };
    let clients = (1..).zip(members).map(|(host, client)| {
        let link = Link {
            up: Some(client.up_mbit),
            down: Some(client.down_mbit),
            behind_nat: client.behind_nat,
        };
        (host, link)
    });
    let servers = [(ORIGIN, origin), (CONTROL, Link::default())];
    servers.into_iter().chain(clients).collect()
}

/// Serves the file's folder on the origin.
pub(crate) fn start_nginx(folder: &Path, file: &Path, at: SocketAddrV4) -> Result<Job> {
    let Some(program) = find("nginx") else {
        bail!("nginx is missing");
    };
    let root = file.parent().context("the file lies in a folder")?;
    let configuration = folder.join("nginx.conf");
    fs::write(&configuration, nginx(root, folder, &at.to_string()))?;
    let mut command = Command::new(program);
    command
        .arg("-e")
        .arg(folder.join("nginx.log"))
        .arg("-c")
        .arg(configuration);
    let mut job = Job::start(
        in_host(&network::name(ORIGIN), &command),
        &folder.join("nginx.out"),
    )?;
    // It writes its process id when it listens.
    let listens = Done::File(folder.join("nginx.pid"));
    let start = Instant::now();
    while !job.is_done(&listens)? {
        ensure!(start.elapsed() < PATIENCE, "nginx does not start");
        thread::sleep(STEP);
    }
    Ok(job)
}

/// The tracker and its announce URL.
fn start_tracker(folder: &Path) -> Result<(Job, String)> {
    let at = SocketAddrV4::new(network::address(CONTROL), TRACKER_PORT);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "helper", "tracker", &at.to_string()]);
    let mut job = Job::start(
        in_host(&network::name(CONTROL), &command),
        &folder.join("tracker.log"),
    )?;
    job.wait_line("ready", PATIENCE)
        .context("the tracker does not start")?;
    Ok((job, format!("http://{at}/announce")))
}

/// Starts one of our servers and waits until it says that it serves.
fn ready(host: Host, command: &Command, log: &Path) -> Result<Job> {
    let mut job = Job::start(in_host(&network::name(host), command), log)?;
    job.wait_line("\"event\":\"ready\"", PATIENCE)?;
    Ok(job)
}

/// Copies everything but the file's copies.
fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    run_quietly(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--exclude=file.bin*",
                "--exclude=data",
            ])
            .arg("--file")
            .arg(to.join("logs.tar.gz"))
            .arg("--directory")
            .arg(from)
            .arg("."),
    )
}
