//! `floodway torrent create`: hashes on all cores, a piece at a time, so that the file is never loaded.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use clap::Args;
use floodway_proto::metainfo::{Info, Metainfo};
use floodway_proto::{ByteCount, Layout, PieceIndex, SafeName, Sha1};
use serde_json::json;
use sha1::Digest;
use url::Url;

use crate::exit::{Exit, Failure, Outcome};
use crate::say;

/// What a hashing thread reads at once.
const READ_LENGTH: usize = 256 * 1024;

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The file to describe
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write the torrent [default: FILE.torrent]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// A power of two from 16KiB to 64MiB [default: from the file's length, 256KiB to 16MiB]
    #[arg(long, value_name = "SIZE")]
    piece_length: Option<ByteCount>,
    /// A tracker's announce URL; may be given several times
    #[arg(long, value_name = "URL")]
    tracker: Vec<Url>,
    /// A URL of the same file; may be given several times
    #[arg(long, value_name = "URL")]
    web_seed: Vec<Url>,
    /// Peers only from these trackers (BEP 27)
    #[arg(long)]
    private: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: CreateArgs) -> Outcome {
    let name = file_name(&args.file)?;
    let output: PathBuf = args.output.unwrap_or_else(|| {
        let mut name = OsString::from(&args.file);
        name.push(".torrent");
        name.into()
    });
    if args.json {
        say::fits_json(&output)?;
    }
    let file = File::open(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| unreadable(&args.file, &error))?;
    if !metadata.is_file() {
        return Err(
            Failure::usage(format_args!("{} is not a file", args.file.display()))
                .hint("torrents of folders come with a later release"),
        );
    }
    for tracker in &args.tracker {
        if !matches!(tracker.scheme(), "http" | "https") {
            say::note(format_args!(
                "note: {tracker} goes into the torrent for other clients: this version of Floodway announces to HTTP trackers only"
            ));
        }
    }
    let layout = layout(metadata.len(), args.piece_length)?;
    let pieces = hash(&file, &layout).map_err(|error| unreadable(&args.file, &error))?;
    let info = Info {
        name,
        length: metadata.len(),
        files: Vec::new(),
        piece_length: layout.piece_length(),
        pieces: pieces.into(),
        private: args.private,
    };
    let mut torrent = Metainfo::new(info).map_err(Failure::failed)?;
    torrent.trackers = args
        .tracker
        .iter()
        .map(|url| vec![url.to_string()])
        .collect();
    torrent.web_seeds = args.web_seed.iter().map(Url::to_string).collect();
    torrent.created_by = Some(concat!("floodway ", env!("CARGO_PKG_VERSION")).into());
    write(&output, &torrent.encode()).map_err(|error| {
        Failure::failed(format_args!(
            "{} cannot be written: {error}",
            output.display()
        ))
    })?;
    if args.json {
        say::json(&json!({
            "torrent": output,
            "name": torrent.info.name,
            "length": torrent.info.length,
            "piece_length": torrent.info.piece_length,
            "info_hash_v1": torrent.info_hash,
        }));
    } else {
        say::line(format_args!("{}  {}", torrent.info_hash, output.display()));
    }
    Ok(Exit::Done)
}

fn file_name(path: &Path) -> Result<SafeName, Failure> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    SafeName::new(name).map_err(Failure::usage)
}

fn layout(length: u64, piece_length: Option<ByteCount>) -> Result<Layout, Failure> {
    let wrong = |size: &dyn std::fmt::Display| {
        Failure::usage(format_args!("`--piece-length {size}` cannot be used"))
            .hint("a piece length is a power of two from 16KiB to 64MiB")
    };
    let piece_length = match piece_length {
        None => Layout::default_piece_length(Some(length)),
        Some(size) => {
            let power = u32::try_from(size.0)
                .ok()
                .filter(|size| size.is_power_of_two());
            power.ok_or_else(|| wrong(&size))?
        }
    };
    Layout::new(Some(length), piece_length)
        .map_err(|error| wrong(&ByteCount(piece_length.into())).hint(error))
}

/// SHA-1 of every piece, by one thread per core.
fn hash(file: &File, layout: &Layout) -> io::Result<Vec<Sha1>> {
    let next = AtomicU32::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut buffer = vec![0; READ_LENGTH];
        let mut done = Vec::new();
        while let Some(piece) = layout.piece(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((piece, hash_piece(file, layout, piece, &mut buffer)?));
        }
        Ok(done)
    };
    let results: Vec<io::Result<Vec<(PieceIndex, Sha1)>>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().expect("hashing does not panic"))
            .collect()
    });
    let mut hashes = vec![Sha1([0; 20]); layout.piece_count() as usize];
    for result in results {
        for (piece, digest) in result? {
            hashes[piece.0 as usize] = digest;
        }
    }
    Ok(hashes)
}

fn hash_piece(
    file: &File,
    layout: &Layout,
    piece: PieceIndex,
    buffer: &mut [u8],
) -> io::Result<Sha1> {
    let bytes = layout.piece_bytes(piece);
    let (mut offset, mut left) = (bytes.start, layout.piece_size(piece) as usize);
    let mut hasher = sha1::Sha1::new();
    while left > 0 {
        let part = left.min(buffer.len());
        file.read_exact_at(&mut buffer[..part], offset)?;
        hasher.update(&buffer[..part]);
        offset += part as u64;
        left -= part;
    }
    Ok(Sha1(hasher.finalize().into()))
}

/// Writes beside the target, then renames: a reader never sees half a torrent.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = OsString::from(path);
    unfinished.push(".floodway-new");
    let written = File::create(&unfinished)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        drop(std::fs::remove_file(&unfinished));
    }
    written
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    };
    Failure::new(
        exit,
        format_args!("{} cannot be read: {error}", path.display()),
    )
}
