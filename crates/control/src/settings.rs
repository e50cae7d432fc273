//! Control's settings: file, environment and flags end up here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use floodway_api::sync::OfflineOrigin;
use floodway_proto::units::{ByteCount, Span};
use serde::{Deserialize, Serialize};

floodway_api::documented! {
    /// Settings of the control server.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct Settings {
        /// Folder of the database, the tokens and the keys. Back it up. Default: ./floodway-data/control.
        pub data: PathBuf,
        /// Where the HTTP side listens: API, tracker, metrics. Port 0 takes a free one. Default: 127.0.0.1:7600.
        pub http: SocketAddr,
        /// Prefixes of origin URLs that may be fetched, such as "https://files.example.org/images" or "file:///srv/data" (a path
        /// on the relays). Scheme, host, port and whole path segments are compared. Default: none, so nothing is allowed.
        pub allow_origin: Vec<String>,
        /// The address of control as torrents and nodes are told, such as "https://control.example.org". Default: the address
        /// it listens on.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub public_url: Option<String>,
        /// File with the operators' token, such as "/etc/floodway/admin.token"; made at the first start. Default: admin.token in the
        /// data folder.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub admin_token_file: Option<PathBuf>,
        /// Also makes a hybrid torrent (BEP 52) of every new content, beside the v1 and the v2-only one. Some stock clients cannot read
        /// hybrids. Default: false.
        pub hybrid_torrents: bool,
        /// Which share of the pieces that one relay reported another relay reads from the origin again, to find relays that lie or
        /// are damaged; 0 for none, 1 for all. It is rounded to one of a whole number of pieces (0.7
        /// means all). It is what the origin sends beyond one copy. Nothing is audited while only one relay is there.
        /// Default: 0.015625 (one of 64).
        pub audit_share: f64,
        /// What nodes may do while control is away: "allow" (read from the origin), "floor" (at a static share only) or "deny".
        /// Default: allow.
        pub offline_origin: OfflineOrigin,
    }
    sections {
        /// Intervals and limits that seldom need a change.
        pub advanced: Advanced,
    }
}

floodway_api::documented! {
    /// Intervals and limits that seldom need a change.
    #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct Advanced {
        /// A node that has not synced for so long is gone; three times its interval when that is longer. Default: 15s.
        pub node_timeout: Span,
        /// Life of a relay's lease of a range of pieces; each sync renews it. Default: 15s.
        pub lease: Span,
        /// The largest range leased at once. Default: 64MiB.
        pub lease_size: ByteCount,
        /// How often a node with unfinished work syncs. Default: 1s.
        pub busy_interval: Span,
        /// How often an idle node syncs, at least. Default: 15s.
        pub idle_interval_min: Span,
        /// How often an idle node syncs in a very large fleet. Default: 300s.
        pub idle_interval_max: Span,
        /// Idle nodes whose request is held open. Each costs about 30 KiB of memory. Default: 20000.
        pub parked_max: usize,
        /// Peers in one answer about one content. Default: 50.
        pub peers_per_reply: usize,
        /// New peers of a content are told to those who wait no more often than this. Default: 250ms.
        pub peer_news: Span,
        /// How often stock clients announce. Default: 30s.
        pub announce_interval: Span,
        /// How long a complete content waits for the next SHA-1 that a second relay confirms before it is final without; at most twice as
        /// long in all. Default: 5s.
        pub confirm_wait: Span,
        /// A one-shot download that stopped syncing is forgotten after this. Default: 10m.
        pub forget_after: Span,
    }
}

const fn span(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: PathBuf::from("floodway-data/control"),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7600)),
            allow_origin: Vec::new(),
            public_url: None,
            admin_token_file: None,
            hybrid_torrents: false,
            audit_share: 1.0 / 64.0,
            offline_origin: OfflineOrigin::Allow,
            advanced: Advanced::default(),
        }
    }
}

impl Default for Advanced {
    fn default() -> Self {
        Self {
            node_timeout: span(15),
            lease: span(15),
            lease_size: ByteCount::mib(64),
            busy_interval: span(1),
            idle_interval_min: span(15),
            idle_interval_max: span(300),
            parked_max: 20_000,
            peers_per_reply: 50,
            peer_news: Span(Duration::from_millis(250)),
            announce_interval: span(30),
            confirm_wait: span(5),
            forget_after: span(600),
        }
    }
}

impl Settings {
    /// The file with the operators' token.
    pub fn admin_token_path(&self) -> PathBuf {
        let default = || self.data.join("admin.token");
        self.admin_token_file.clone().unwrap_or_else(default)
    }
}
