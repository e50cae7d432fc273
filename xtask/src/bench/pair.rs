//! `cargo xtask bench pair`: one source and one client over loopback.

mod programs;
mod report;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::programs::{Bench, Program};
use self::report::Case;
use super::files::{self, Folder};
use super::measure::{self, Sample, Server, client};
use super::tracker::Tracker;
use super::{Common, Tools};
use crate::shell::{find, say};
use crate::tools;

#[derive(Args)]
pub(crate) struct PairArgs {
    /// The file's length, like 2GiB or 512MiB
    #[arg(long, default_value = "2GiB")]
    size: String,
    /// How many times each case is measured
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// A memory file system with room for four such files
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// The torrent's piece length.
const PIECE_KIB: u64 = 1024;
/// Who gives and who takes.
const CASES: [(Program, Program); 12] = [
    (Program::Nginx, Program::Curl),
    (Program::Nginx, Program::Floodway),
    (Program::Nginx, Program::Aria2),
    (Program::Libtorrent, Program::Libtorrent),
    (Program::Floodway, Program::Floodway),
    (Program::Floodway, Program::FloodwayNoDigest),
    (Program::Floodway, Program::Libtorrent),
    (Program::Libtorrent, Program::Floodway),
    (Program::Libtorrent, Program::FloodwayNoDigest),
    (Program::Aria2, Program::Aria2),
    (Program::Rqbit, Program::Rqbit),
    (Program::Floodway, Program::Aria2),
];

/// One source and one client over loopback.
pub(crate) fn pair(args: &PairArgs) -> Result<()> {
    let size = parse_size(&args.size).with_context(|| format!("--size {}", args.size))?;
    tools::install_programs()?;
    let tools = Tools::find(args.common.floodway.as_deref(), args.common.with_rqbit)?;
    let folder = Folder::create(&args.folder)?;
    let bench = prepare(folder.path(), tools, size)?;
    let cases: Vec<_> = CASES
        .into_iter()
        .filter(|(source, client)| bench.has(*source) && bench.has(*client))
        .filter(|case| {
            args.only
                .as_ref()
                .is_none_or(|only| name(*case).contains(only.as_str()))
        })
        .collect();
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    for round in 1..=args.runs {
        for (index, case) in cases.iter().enumerate() {
            let sample = one(&bench, *case).with_context(|| name(*case))?;
            say(format_args!(
                "run {round} of {}: {}: {:.2} s",
                args.runs,
                name(*case),
                sample.seconds
            ));
            samples.entry(index).or_default().push(sample);
        }
    }
    let measured = cases.iter().zip(samples.into_values());
    let measured: Vec<_> = measured
        .map(|(case, samples)| Case {
            name: name(*case),
            samples,
        })
        .collect();
    report::write(args, &bench, &measured)
}

fn name((source, client): (Program, Program)) -> String {
    format!("{} → {}", source.name(), client.name())
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let shift = match &text[digits.len()..] {
        "GiB" => 30,
        "MiB" => 20,
        "KiB" => 10,
        "" => 0,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Makes the file, its torrent and what the servers need.
fn prepare(folder: &Path, tools: Tools, size: u64) -> Result<Bench> {
    let source = folder.join("source");
    fs::create_dir(&source)?;
    let file = source.join("file.bin");
    say("making the file");
    files::random_file(&file, size)?;
    let tracker = Tracker::default();
    let torrent = folder.join("file.torrent");
    files::torrent(
        &tools.floodway,
        &file,
        &torrent,
        PIECE_KIB,
        &tracker.start()?,
        None,
    )?;
    Ok(Bench {
        folder: folder.to_owned(),
        torrent,
        tracker,
        nginx: find("nginx"),
        curl: find("curl"),
        aria2: find("aria2c"),
        tools,
        file,
        size,
    })
}

/// One transfer: the source is started, the client measured and what it fetched compared.
fn one(bench: &Bench, (source, taker): (Program, Program)) -> Result<Sample> {
    let target = bench.folder.join("target");
    fs::create_dir(&target)?;
    let port = measure::free_port()?;
    bench.tracker.clear();
    let ready = || match source {
        Program::Nginx => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
        // Peers announce when they have hashed what they serve.
        _ => bench.tracker.has_source(),
    };
    let mut server = Server::start(bench.serve(source, port)?, ready)?;
    let before = server.cpu_seconds()?;
    let command = bench.fetch(taker, source, port, &target)?;
    let mut sample = client(command)?;
    sample.source_cpu = server.cpu_seconds()? - before;
    server.stop();
    let fetched = target.join("file.bin");
    if !files::same(&bench.file, &fetched) {
        bail!("the file that came is not the file that was sent");
    }
    fs::remove_dir_all(&target)?;
    Ok(sample)
}
