//! What can be set, role by role. Control's own settings are [`floodway_control::Settings`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use floodway_api::documented;
use floodway_proto::ByteRate;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::Control;
use crate::commands::get;

/// Every address of this machine, a port of the system's choice.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A rate that is not zero, as flags have it.
fn positive_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteRate, D::Error> {
    let text = String::deserialize(deserializer)?;
    get::positive_rate(&text).map_err(serde::de::Error::custom)
}

documented! {
    /// Settings of `floodway relay`.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct Relay {
        /// The folder of contents and of the node token. Default: ./floodway-data/relay.
        pub(crate) data: PathBuf,
        /// Control's address, such as "http://control.example:7600".
        pub(crate) control: Option<Url>,
        /// A file with the join token, such as "join.token": needed once. `FLOODWAY_TOKEN` can hold the token instead.
        pub(crate) token_file: Option<PathBuf>,
        /// A name for people, such as "relay-1". Default: this machine's.
        pub(crate) name: Option<String>,
        /// Relays from which this one takes everything instead of reading origins, such as ["relay-1"]: by the name that they were
        /// given, or by node id. Default: none, it reads origins.
        pub(crate) feeds_from: Vec<String>,
        /// Where agents read over HTTP. Default: every address, a free port.
        pub(crate) http: SocketAddr,
        /// Where peers connect. Default: every address, a free port.
        pub(crate) listen: SocketAddr,
        /// What peers are told instead of the listening address, such as "192.0.2.1:6881".
        pub(crate) advertise: Option<SocketAddr>,
        /// From origins and peers together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_down: ByteRate,
        /// To all peers together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_up: ByteRate,
    }
    sections {
        /// What seldom needs a change.
        pub(crate) advanced: Node,
    }
}

documented! {
    /// Settings of `floodway agent`.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct Agent {
        /// The folder of this agent's state and of the node token. Default: ./floodway-data/agent.
        pub(crate) data: PathBuf,
        /// Where finished files go, such as "/srv/files". Default: `files` in the data folder.
        pub(crate) dir: Option<PathBuf>,
        /// Control's address, such as "http://control.example:7600".
        pub(crate) control: Option<Url>,
        /// A file with the join token, such as "join.token": needed once. `FLOODWAY_TOKEN` can hold the token instead.
        pub(crate) token_file: Option<PathBuf>,
        /// A name for people, such as "agent-1". Default: this machine's.
        pub(crate) name: Option<String>,
        /// Where metrics are served. Default: this machine only, a free port.
        pub(crate) http: SocketAddr,
        /// Where peers connect. Default: every address, a free port.
        pub(crate) listen: SocketAddr,
        /// What peers are told instead of the listening address, such as "192.0.2.1:6881".
        pub(crate) advertise: Option<SocketAddr>,
        /// From all sources together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_down: ByteRate,
        /// To all peers together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_up: ByteRate,
    }
    sections {
        /// What seldom needs a change.
        pub(crate) advanced: Node,
    }
}

documented! {
    /// Settings of `floodway serve`: control and a relay in one process, on one HTTP port.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct Serve {
        /// The folder of both: database and tokens in it, the relay's contents in `relay`. Default: ./floodway-data/serve.
        pub(crate) data: PathBuf,
        /// The one port of API, tracker and relayed contents. Default: 127.0.0.1:7600.
        pub(crate) http: SocketAddr,
        /// The address that torrents and nodes are told, such as "http://floodway.example:7600". Default: the address it listens on.
        pub(crate) public_url: Option<String>,
        /// Prefixes of origin URLs that may be fetched, such as "https://files.example.org/images". Scheme, host, port and
        /// whole path segments are compared. Default: none, so nothing is allowed.
        pub(crate) allow_origin: Vec<String>,
        /// Where peers connect. Default: every address, a free port.
        pub(crate) listen: SocketAddr,
        /// What peers are told instead of the listening address, such as "192.0.2.1:6881".
        pub(crate) advertise: Option<SocketAddr>,
        /// From origins and peers together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_down: ByteRate,
        /// To all peers together. Default: unlimited.
        #[serde(deserialize_with = "positive_rate")]
        pub(crate) max_up: ByteRate,
    }
    sections {
        /// What seldom needs a change.
        pub(crate) advanced: Node,
    }
}

documented! {
    /// What seldom needs a change.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct Node {
        /// Peers connected at once, over all contents. Default: 200.
        pub(crate) peers_max: usize,
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            data: "./floodway-data/relay".into(),
            control: None,
            token_file: None,
            name: None,
            feeds_from: Vec::new(),
            http: ANY,
            listen: ANY,
            advertise: None,
            max_down: ByteRate::MAX,
            max_up: ByteRate::MAX,
            advanced: Node::default(),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            data: "./floodway-data/agent".into(),
            dir: None,
            control: None,
            token_file: None,
            name: None,
            http: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            listen: ANY,
            advertise: None,
            max_down: ByteRate::MAX,
            max_up: ByteRate::MAX,
            advanced: Node::default(),
        }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            data: "./floodway-data/serve".into(),
            http: Control::default().http,
            public_url: None,
            allow_origin: Vec::new(),
            listen: ANY,
            advertise: None,
            max_down: ByteRate::MAX,
            max_up: ByteRate::MAX,
            advanced: Node::default(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { peers_max: 200 }
    }
}
