//! `cargo xtask bench net`: what the shaped network really gives, so that figures of swarms can be believed.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use super::job::in_host;
use super::network::{self, Link, Network, ORIGIN};
use super::round::{HTTP_PORT, start_nginx};
use super::scenario::Distance;
use crate::bench::files::{Folder, random_file};
use crate::shell::print;
use crate::tools;

#[derive(Args)]
pub(crate) struct NetArgs {
    /// Of all links, both ways
    #[arg(long, default_value_t = 40.0)]
    mbit: f64,
    #[arg(long, default_value_t = 0.0)]
    round_trip_ms: f64,
    /// In each direction
    #[arg(long, default_value_t = 0.0)]
    loss_percent: f64,
    /// A memory file system
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
}

/// A client that everybody can connect to, and one that nobody can.
const OPEN: network::Host = 1;
const HIDDEN: network::Host = 2;
const FILE_BYTES: u64 = 256 << 20;
/// How long one TCP connection is measured.
const SECONDS: &str = "10";

/// Measures round trip, loss and the rate of one TCP connection; and that nobody can connect to a host behind NAT.
pub(crate) fn net(args: &NetArgs) -> Result<()> {
    tools::install_swarm_programs()?;
    let folder = Folder::create(&args.folder)?;
    let file = folder.path().join("origin/file.bin");
    fs::create_dir(folder.path().join("origin"))?;
    random_file(&file, FILE_BYTES)?;
    let link = |behind_nat| Link {
        up: Some(args.mbit),
        down: Some(args.mbit),
        behind_nat,
    };
    let hosts = [
        (ORIGIN, link(false)),
        (OPEN, link(false)),
        (HIDDEN, link(true)),
    ];
    let path = (args.round_trip_ms > 0.0 || args.loss_percent > 0.0).then_some(Distance {
        round_trip_ms: args.round_trip_ms,
        loss_percent: args.loss_percent,
    });
    let _network = Network::build(&BTreeMap::from(hosts), path, folder.path())?;
    let origin = network::address(ORIGIN).to_string();
    let ping = output(OPEN, "ping", &["-q", "-i", "0.01", "-c", "1000", &origin])?;
    let figures: Vec<_> = ping
        .lines()
        .filter(|line| line.contains("packets") || line.contains("rtt"))
        .collect();
    print(format_args!("ping: {}", figures.join(", ")));

    let at = SocketAddrV4::new(network::address(ORIGIN), HTTP_PORT);
    let _nginx = start_nginx(folder.path(), &file, at)?;
    let url = format!("http://{at}/file.bin");
    let curl = [
        "-s",
        "--noproxy",
        "*",
        "-o",
        "/dev/null",
        "-w",
        "%{speed_download}",
        "--max-time",
        SECONDS,
        &url,
    ];
    for (name, host) in [("open", OPEN), ("behind NAT", HIDDEN)] {
        let rate: f64 = output(host, "curl", &curl)?
            .parse()
            .context("curl tells no rate")?;
        print(format_args!(
            "one TCP connection to a host {name}: {:.2} Mbit/s of payload",
            rate * 8e-6
        ));
    }
    for (name, host) in [("open", OPEN), ("behind NAT", HIDDEN)] {
        // Nobody listens there: an open host refuses at once (7), of one behind NAT nothing is heard (28).
        let target = format!("http://{}:9/", network::address(host));
        let mut curl = Command::new("curl");
        curl.args(["-s", "--noproxy", "*", "--connect-timeout", "2", &target]);
        let code = in_host(&network::name(ORIGIN), &curl).status()?.code();
        let heard = if code == Some(28) {
            "times out"
        } else {
            "is answered"
        };
        print(format_args!("a connection to a host {name} {heard}"));
    }
    Ok(())
}

fn output(host: network::Host, program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args);
    let output = in_host(&network::name(host), &command).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
