//! BitTorrent clients that we did not write, with their default encryption settings; DHT, LSD, PEX and port mapping
//! are off, so that a test knows how peers found each other.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Program, Running};
use crate::tools;

const LIBTORRENT_CLIENT: &str = include_str!("libtorrent_client.py");

/// libtorrent by its Python binding.
pub struct Libtorrent(PathBuf);

impl Libtorrent {
    /// `None` when no Python can import it (the test is skipped by name).
    pub fn find() -> Option<Self> {
        tools::find_or_skip("libtorrent").map(Self)
    }

    /// Seeds what is in `folder`, or downloads into it. Wait for the event `done`.
    ///
    /// `ip` is a loopback address of its own, such as 127.0.0.2.
    #[track_caller]
    pub fn transfer(&self, torrent: &Path, folder: &Path, ip: &str) -> Running {
        self.client(torrent.as_os_str(), folder, ip)
    }

    /// Downloads into `folder` by a magnet link. Wait for the event `metadata`, which says whether the torrent is v1 and whether
    /// it is v2, and then `done`.
    #[track_caller]
    pub fn magnet(&self, link: &str, folder: &Path, ip: &str) -> Running {
        self.client(link.as_ref(), folder, ip)
    }

    #[track_caller]
    fn client(&self, source: &OsStr, folder: &Path, ip: &str) -> Running {
        Program::new(&self.0)
            .args(["-W", "ignore", "-c", LIBTORRENT_CLIENT, "transfer"])
            .arg(source)
            .arg(folder)
            .arg(format!("{ip}:0"))
            .start()
    }

    /// The v1 info-hashes that it gives files; each is (path, length, piece length).
    #[track_caller]
    pub fn info_hashes(&self, scratch: &Path, files: &[(PathBuf, u64, u64)]) -> Vec<String> {
        let list: Vec<Value> = files
            .iter()
            .map(|(path, size, piece_length)| {
                json!([path.display().to_string(), size, piece_length])
            })
            .collect();
        let list_file = scratch.join("files.json");
        fs::write(&list_file, Value::from(list).to_string()).expect("writing a list of files");
        let output = Program::new(&self.0)
            .args(["-W", "ignore", "-c", LIBTORRENT_CLIENT, "hash"])
            .arg(list_file)
            .run()
            .expect_code(0);
        let hashes: Vec<_> = output
            .stdout
            .lines()
            .filter_map(|line| {
                let value: Value = serde_json::from_str(line).ok()?;
                value["info_hash"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(
            hashes.len(),
            files.len(),
            "one info-hash a file: {}",
            output.stderr
        );
        hashes
    }
}

/// aria2.
pub struct Aria2(PathBuf);

impl Aria2 {
    /// `None` when it is not installed (the test is skipped by name).
    pub fn find() -> Option<Self> {
        tools::find_or_skip("aria2c").map(Self)
    }

    fn program(&self, torrent: &Path, folder: &Path, ip: &str) -> Program {
        Program::new(&self.0)
            .args(["--no-conf", "--enable-dht=false", "--enable-dht6=false"])
            .args(["--bt-enable-lpd=false", "--enable-peer-exchange=false"])
            .args(["--file-allocation=none", "--summary-interval=0"])
            .arg(format!("--interface={ip}"))
            .arg(format!("--listen-port={}", crate::wait::free_port()))
            .arg(format!("--dir={}", folder.display()))
            .arg(torrent)
    }

    /// Downloads into `folder` and ends when it has everything.
    #[track_caller]
    pub fn download(&self, torrent: &Path, folder: &Path, ip: &str) -> Running {
        self.program(torrent, folder, ip)
            .arg("--seed-time=0")
            .start()
    }

    /// Seeds what is in `folder` until it is killed.
    #[track_caller]
    pub fn seed(&self, torrent: &Path, folder: &Path, ip: &str) -> Running {
        self.program(torrent, folder, ip)
            .args(["--seed-ratio=0.0", "--check-integrity=true"])
            .start()
    }
}

/// Transmission's daemon.
pub struct Transmission(PathBuf);

impl Transmission {
    /// `None` when it is not installed (the test is skipped by name).
    pub fn find() -> Option<Self> {
        tools::find_or_skip("transmission-daemon").map(Self)
    }

    /// Downloads into `folder` until it is killed. A file has its name only when it is whole. `scratch` is for its own files.
    ///
    /// Peers on loopback addresses, which it drops, must not be all there are: see [`own_ip`].
    #[track_caller]
    pub fn download(&self, torrent: &Path, folder: &Path, scratch: &Path) -> Running {
        let torrents = scratch.join("torrents");
        fs::create_dir_all(&torrents).expect("a folder for a client");
        fs::copy(torrent, torrents.join("file.torrent")).expect("copying a torrent");
        let settings = json!({
            "dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false,
            "port-forwarding-enabled": false, "rpc-enabled": false,
            "peer-port": crate::wait::free_port(), "peer-port-random-on-start": false,
            "download-dir": folder, "incomplete-dir-enabled": false, "rename-partial-files": true,
            "preallocation": 0, "start-added-torrents": true, "blocklist-enabled": false,
            "scrape-paused-torrents-enabled": false, "message-level": 3,
        });
        fs::write(scratch.join("settings.json"), settings.to_string()).expect("writing settings");
        Program::new(&self.0)
            .args(["-f", "-g"])
            .arg(scratch)
            .arg("-w")
            .arg(folder)
            .start()
    }
}

/// An address of this machine that is no loopback address; `None`, and the test is skipped by name, when it has none.
pub fn own_ip() -> Option<IpAddr> {
    // Nothing is sent: the system only says from which address it would be.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let own = own
        .ok()
        .map(|addr| addr.ip())
        .filter(|ip| !ip.is_loopback());
    if own.is_none() {
        tools::skip("this machine has no address but loopback ones");
    }
    own
}
