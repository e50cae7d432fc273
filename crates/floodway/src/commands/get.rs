//! `floodway get`: download one file.

mod explain;
mod stream;
mod view;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use floodway_node::GetError;
use floodway_node::get::{self, ControlAccess, GetSource, GetSpec};
use floodway_proto::{ByteRate, Sha256, Span};
use floodway_swarm::{Limits, Order, Prefer};

use self::view::View;
use super::torrent;
use crate::client::{self, ClientArgs};
use crate::exit::{Exit, Failure, Outcome};
use crate::say::Out;
use crate::{later, runtime, say, signals};

/// The output that means stdout.
const STDOUT: &str = "-";

/// Where peers connect unless told otherwise: every address, a free port.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// http(s)://…, file://…, a torrent file, or floodway:SID
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to put it; a folder (existing, or with a slash at the end) means FOLDER/NAME; `-` means stdout, in order, while
    /// it comes [default: ./NAME]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace a different file of that name
    #[arg(long)]
    overwrite: bool,
    /// What matters more: being done soon, or little HTTP [default: speed; with control: peers]
    #[arg(long, value_name = "WHAT")]
    prefer: Option<PreferArg>,
    /// Fetch the pieces in order
    #[arg(long)]
    sequential: bool,
    /// The whole file must have this SHA-256
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256>,
    /// Do not compute the SHA-256 of the whole file
    #[arg(long, conflicts_with = "sha256")]
    no_digest: bool,
    /// From all sources together, at most
    #[arg(long, value_name = "RATE", value_parser = positive_rate)]
    max_down: Option<ByteRate>,
    /// Go on seeding for so long
    #[arg(long, value_name = "TIME")]
    seed_time: Option<Span>,
    /// Go on seeding until so many times the file's length was sent
    #[arg(long, value_name = "X", value_parser = ratio)]
    seed_ratio: Option<f64>,
    /// No peers: HTTP only
    #[arg(long)]
    no_p2p: bool,
    /// Never read from the origin
    #[arg(long)]
    no_origin: bool,
    #[command(flatten)]
    peers: PeerArgs,
    /// Say at the end which source brought how much, why HTTP was used, who reported the pieces, and how they were verified
    #[arg(long, conflicts_with = "quiet")]
    explain: bool,
    /// Print nothing but errors
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print events as JSON, one object a line; the last one is `done` or `failed`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// How `get` and `seed` meet peers.
#[derive(Args, Debug)]
pub(crate) struct PeerArgs {
    /// Where peers connect [default: a free port]
    #[arg(long, value_name = "ADDR:PORT", default_value_t = ANY, hide_default_value = true, help_heading = "Peers")]
    pub(crate) listen: SocketAddr,
    /// What others are told instead of the listening address
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Peers")]
    pub(crate) advertise: Option<SocketAddr>,
    /// A peer to dial; may be given several times
    #[arg(long, value_name = "ADDR:PORT", help_heading = "Peers")]
    pub(crate) peer: Vec<SocketAddr>,
    /// To all peers together, at most
    #[arg(long, value_name = "RATE", value_parser = positive_rate, help_heading = "Peers")]
    pub(crate) max_up: Option<ByteRate>,
    /// Do not use the distributed hash table (this version never does)
    #[arg(long, help_heading = "Peers")]
    no_dht: bool,
    /// Do not search the local network for peers (this version never does)
    #[arg(long, help_heading = "Peers")]
    no_lsd: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PreferArg {
    /// Done soon: HTTP beside the peers
    Speed,
    /// Little HTTP: only what peers cannot deliver
    Peers,
}

/// Reads a rate that is not zero.
pub(crate) fn positive_rate(text: &str) -> Result<ByteRate, String> {
    match text.parse::<ByteRate>() {
        Ok(ByteRate::ZERO) => {
            Err("nothing would ever move; leave the limit away for no limit".into())
        }
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if ratio.is_finite() && ratio >= 0.0 => Ok(ratio),
        _ => Err("write a ratio as a number that is not negative, like 1.5".into()),
    }
}

pub(crate) fn run(args: GetArgs, started: Instant) -> Outcome {
    later::refuse_scheme(&args.source)?;
    let (json, quiet) = (args.json, args.quiet);
    let is_stream = args.output.as_deref() == Some(Path::new(STDOUT));
    let spec = spec(args, started)?;
    if is_stream {
        return stream::run(spec, json, quiet);
    }
    runtime::full()?.block_on(async {
        let shutdown = signals::shutdown()?;
        let view = View::new(json, quiet, &spec.source, Out::Stdout);
        let listener = view.clone();
        let report = get::run(spec, shutdown.cancelled(), move |event| {
            listener.event(event);
        })
        .await;
        view.clear();
        view.done(&report.map_err(failure)?);
        Ok(Exit::Done)
    })
}

/// Where events go for programs: stdout may be taken by the file's bytes. The command line need not be a correct one.
pub(crate) fn out(arguments: &[OsString]) -> Out {
    let joined = ["-o-", "-o=-", "--output=-"];
    let is_joined = |argument: &OsString| joined.iter().any(|text| argument == text);
    let is_apart =
        |pair: &[OsString]| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == STDOUT;
    if arguments.iter().any(is_joined) || arguments.windows(2).any(is_apart) {
        Out::Stderr
    } else {
        Out::Stdout
    }
}

fn spec(args: GetArgs, started: Instant) -> Result<GetSpec, Failure> {
    let source = source(&args.source)?;
    if args.json {
        say::fits_json(args.output.as_deref().unwrap_or_else(|| Path::new(".")))?;
    }
    Ok(GetSpec {
        control: control(&args.client, &source)?,
        source,
        output: args.output,
        overwrite: args.overwrite,
        prefer: args.prefer.map(|prefer| match prefer {
            PreferArg::Speed => Prefer::Speed,
            PreferArg::Peers => Prefer::Peers,
        }),
        order: if args.sequential {
            Order::Sequential
        } else {
            Order::RarestFirst
        },
        sha256: args.sha256,
        digest: !args.no_digest,
        limits: Limits {
            down: args.max_down.unwrap_or(ByteRate::MAX),
            up: args.peers.max_up.unwrap_or(ByteRate::MAX),
        },
        no_origin: args.no_origin,
        no_p2p: args.no_p2p,
        seed_time: args.seed_time.map(|span| span.0),
        seed_ratio: args.seed_ratio,
        listen: args.peers.listen,
        advertise: args.peers.advertise,
        peers: args.peers.peer,
        explain: args.explain,
        started,
    })
}

fn source(text: &str) -> Result<GetSource, Failure> {
    if text.contains("://") || text.starts_with("floodway:") {
        return text.parse().map_err(failure);
    }
    let torrent = torrent::read(Path::new(text)).map_err(|failure| {
        failure.or_hint("SOURCE is a URL (https://…), floodway:SID, or an existing torrent file")
    })?;
    Ok(GetSource::Torrent(Box::new(torrent)))
}

/// Control, if it is known and the source has to do with it.
fn control(client: &ClientArgs, source: &GetSource) -> Result<Option<ControlAccess>, Failure> {
    let Some(control) = client.control()? else {
        return Ok(None);
    };
    if matches!(source, GetSource::Torrent(_)) {
        return Ok(None);
    }
    let Some(token) = client::token(client.token_file.as_deref())? else {
        return Err(Failure::new(Exit::Refused, format_args!("control at {control} asks for a token, and none was given"))
            .hint("give `--token-file FILE` or set FLOODWAY_TOKEN: a join token will do; or leave `--control` away"));
    };
    Ok(Some(ControlAccess {
        address: control.to_string(),
        token,
    }))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn failure(error: GetError) -> Failure {
    let failure = Failure::new(Exit::from_code(error.exit_code()), &error);
    match &error {
        GetError::Origin(_) => failure.hint("the fault is at the origin or on the way to it; run the same command again, which resumes if the origin allows it"),
        GetError::Control(error) if error.is_token_refused() => {
            failure.hint("check the token: `floodway node token create` makes a new one")
        }
        GetError::Control(_) => failure.hint("check that control runs, and `--control` or FLOODWAY_CONTROL"),
        // What refuses (an option, a policy, control's list of origins) says itself what to do.
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_leave_stdout_to_the_bytes() {
        let out = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            out(&arguments)
        };
        for line in [
            "get x -o -",
            "get --output - x",
            "get x -o-",
            "get x --output=-",
        ] {
            assert_eq!(out(line), Out::Stderr, "{line}");
        }
        for line in ["get x", "get x -o a-", "get - -o x", "get x -o"] {
            assert_eq!(out(line), Out::Stdout, "{line}");
        }
    }
}
