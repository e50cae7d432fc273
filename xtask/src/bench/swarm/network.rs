//! Hosts on one machine: a network namespace each, all of them on one router, links shaped in both directions.
//!
//! The router has no uplink and no route outside, so no packet of a test can leave the machine. Upload is limited where a
//! packet leaves the host, download where it leaves the router, each by a token bucket with a queue of 100 ms.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::job::{Job, in_host};
use super::scenario::Distance;
use crate::shell::{run_quietly, say};

/// Starts the names of all our namespaces.
const PREFIX: &str = "fwbench-";
const ROUTER: &str = "fwbench-router";
/// What hosts reach everything through; the router answers for it on every link.
const GATEWAY: &str = "169.254.1.1";
const DELAY: &str = "delay0";
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// What most systems use; Linux lets a namespace choose only from a list.
const CUBIC: &str = "cubic";

/// A host, by number: 0 is the origin, [`CONTROL`] the host of control and tracker, all between are clients.
pub(crate) type Host = u32;
pub(crate) const ORIGIN: Host = 0;
pub(crate) const CONTROL: Host = 250;

/// Limits in Mbit/s; `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    pub(crate) up: Option<f64>,
    pub(crate) down: Option<f64>,
    /// Connections from outside do not come in; needs a limit `down`.
    pub(crate) behind_nat: bool,
}

/// Bytes that left and entered a host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// All hosts; gone when dropped.
pub(crate) struct Network {
    /// Only one such network can be at a time: its names are fixed, so that left-overs are found.
    _lock: File,
    /// What the list of congestion controls was, if we changed it.
    congestion: Option<String>,
    delay: Option<Job>,
}

impl Network {
    /// Removes what an earlier run left, and builds the hosts.
    ///
    /// # Errors
    /// When we may not, another run is going on, or the kernel lacks something.
    pub(crate) fn build(
        links: &BTreeMap<Host, Link>,
        path: Option<Distance>,
        folder: &Path,
    ) -> Result<Self> {
        let lock = File::create("/run/floodway-bench.lock").context("root is needed")?;
        ensure!(lock.try_lock().is_ok(), "another swarm is being measured");
        remove()?;
        let mut network = Self {
            _lock: lock,
            congestion: allow_cubic()?,
            delay: None,
        };
        namespace(ROUTER)?;
        sysctl(
            ROUTER,
            &[
                "net.ipv4.ip_forward=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
            ],
        )?;
        ip(ROUTER, &format!("address add {GATEWAY}/32 dev lo"))?;
        for (host, link) in links {
            add_host(*host, *link).with_context(|| format!("host {host} cannot be made"))?;
        }
        if let Some(path) = path {
            network.delay = Some(delay(path, links, folder)?);
        }
        Ok(network)
    }

    /// What each host has sent and received since it exists, as the router's side of the links counts it.
    pub(crate) fn traffic() -> Result<BTreeMap<Host, Traffic>> {
        let output = Command::new("ip")
            .args(["-n", ROUTER, "-s", "-j", "link"])
            .output()?;
        let links: Vec<Value> = serde_json::from_slice(&output.stdout)
            .context("`ip -s -j link` answers what is no JSON")?;
        let of_link = |link: &Value| {
            let host = link["ifname"].as_str()?.strip_prefix('p')?.parse().ok()?;
            let bytes = |way: &str| link["stats64"][way]["bytes"].as_u64();
            let traffic = Traffic {
                sent: bytes("rx")?,
                received: bytes("tx")?,
            };
            Some((host, traffic))
        };
        Ok(links.iter().filter_map(of_link).collect())
    }

    /// Cuts a host's cable.
    pub(crate) fn cut(host: Host) -> Result<()> {
        ip(ROUTER, &format!("link set p{host} down"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.delay = None;
        let restored = match &self.congestion {
            Some(before) => fs::write(CONGESTION, before).map_err(Into::into),
            None => Ok(()),
        };
        if let Err(error) = remove().and(restored) {
            say(format_args!("the network could not be removed: {error:#}"));
        }
    }
}

/// The name of a host's namespace.
pub(crate) fn name(host: Host) -> String {
    format!("{PREFIX}h{host}")
}

pub(crate) fn address(host: Host) -> Ipv4Addr {
    let last = u8::try_from(host + 1).expect("hosts are numbered up to 250");
    Ipv4Addr::new(10, 77, 0, last)
}

fn add_host(host: Host, link: Link) -> Result<()> {
    let (space, port, address) = (name(host), format!("p{host}"), address(host));
    namespace(&space)?;
    sysctl(
        &space,
        &[
            "net.ipv4.tcp_congestion_control=cubic",
            // Connections do not learn from earlier ones.
            "net.ipv4.tcp_no_metrics_save=1",
        ],
    )?;
    ip(
        ROUTER,
        &format!("link add {port} type veth peer name eth0 netns {space}"),
    )?;
    // Segments of at most 16 KiB: larger ones would make the shaped links bursty.
    let small = "gso_max_size 16384 gso_max_segs 11 up";
    ip(ROUTER, &format!("link set {port} {small}"))?;
    ip(&space, &format!("link set eth0 {small}"))?;
    ip(&space, &format!("address add {address}/32 dev eth0"))?;
    ip(&space, &format!("route add {GATEWAY} dev eth0 scope link"))?;
    ip(&space, &format!("route add default via {GATEWAY} dev eth0"))?;
    ip(ROUTER, &format!("route add {address}/32 dev {port}"))?;
    if let Some(rate) = link.up {
        shape(&space, "eth0", rate)?;
    }
    if let Some(rate) = link.down {
        shape(ROUTER, &port, rate)?;
    }
    if link.behind_nat {
        refuse_connections(&port)?;
    }
    Ok(())
}

/// A token bucket of `mbit` Mbit/s with a queue of 100 ms, 64 KiB at least.
fn shape(space: &str, device: &str, mbit: f64) -> Result<()> {
    let queue = (mbit * 1e6 / 8.0 * 0.1).max(65536.0);
    tc(
        space,
        &format!("qdisc add dev {device} root handle 1: htb default 1"),
    )?;
    tc(
        space,
        &format!(
            "class add dev {device} parent 1: classid 1:1 htb rate {mbit}mbit burst 16k cburst 16k quantum 16384"
        ),
    )?;
    tc(
        space,
        &format!("qdisc add dev {device} parent 1:1 handle 10: bfifo limit {queue:.0}"),
    )
}

/// Drops the first packet of every connection to the host (SYN without ACK): a class whose queue holds nothing.
fn refuse_connections(port: &str) -> Result<()> {
    tc(
        ROUTER,
        &format!("class add dev {port} parent 1: classid 1:2 htb rate 8kbit quantum 1514"),
    )?;
    tc(
        ROUTER,
        &format!("qdisc add dev {port} parent 1:2 handle 20: bfifo limit 1"),
    )?;
    tc(
        ROUTER,
        &format!(
            "filter add dev {port} parent 1: protocol ip u32 match ip protocol 6 0xff match u8 0x02 0x12 at 33 flowid 1:2"
        ),
    )
}

/// Leads what hosts send to each other through a device whose other end is a program that keeps each packet for a while.
fn delay(path: Distance, links: &BTreeMap<Host, Link>, folder: &Path) -> Result<Job> {
    ip(ROUTER, &format!("tuntap add dev {DELAY} mode tun"))?;
    ip(ROUTER, &format!("link set {DELAY} txqueuelen 10000 up"))?;
    ip(ROUTER, &format!("route add default dev {DELAY} table 100"))?;
    for host in links.keys() {
        ip(ROUTER, &format!("rule add iif p{host} lookup 100"))?;
    }
    let mut program = Command::new(std::env::current_exe()?);
    program
        .args(["bench", "helper", "delay", DELAY])
        .arg(format!("--one-way-ms={}", path.round_trip_ms / 2.0))
        .arg(format!("--loss-percent={}", path.loss_percent));
    let mut job = Job::start(in_host(ROUTER, &program), &folder.join("delay.log"))?;
    job.wait_line("ready", Duration::from_secs(5))
        .context("the delay box does not start")?;
    Ok(job)
}

fn namespace(name: &str) -> Result<()> {
    run_quietly(Command::new("ip").args(["netns", "add", name]))?;
    sysctl(
        name,
        &[
            "net.ipv6.conf.all.disable_ipv6=1",
            "net.ipv6.conf.default.disable_ipv6=1",
        ],
    )?;
    ip(name, "link set lo up")
}

/// Lets namespaces choose cubic; what the list was before, if it had to be changed.
fn allow_cubic() -> Result<Option<String>> {
    let before = fs::read_to_string(CONGESTION)?;
    if before.split_whitespace().any(|name| name == CUBIC) {
        return Ok(None);
    }
    fs::write(CONGESTION, format!("{} {CUBIC}", before.trim()))
        .context("this kernel has no TCP cubic")?;
    Ok(Some(before))
}

/// Removes all our namespaces, and ends what still runs in them.
fn remove() -> Result<()> {
    let list = Command::new("ip").args(["netns", "list"]).output()?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let ours = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(PREFIX));
    for name in ours {
        let running = Command::new("ip").args(["netns", "pids", name]).output()?;
        for pid in String::from_utf8_lossy(&running.stdout).split_whitespace() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // It may have ended by now.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        run_quietly(Command::new("ip").args(["netns", "delete", name]))?;
    }
    Ok(())
}

fn ip(space: &str, words: &str) -> Result<()> {
    run_quietly(
        Command::new("ip")
            .args(["-n", space])
            .args(words.split_whitespace()),
    )
}

fn tc(space: &str, words: &str) -> Result<()> {
    run_quietly(
        Command::new("tc")
            .args(["-n", space])
            .args(words.split_whitespace()),
    )
}

fn sysctl(space: &str, settings: &[&str]) -> Result<()> {
    run_quietly(
        Command::new("ip")
            .args(["netns", "exec", space, "sysctl", "-qw"])
            .args(settings),
    )
}
