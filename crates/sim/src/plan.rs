//! What a simulated run is made of: every node, link, source and fault, as plain values.

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, Time};
use floodway_swarm::{Access, Config, Rule, SourceClass};

/// One end's access to the network.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// What it can send.
    pub up: ByteRate,
    /// What it can receive.
    pub down: ByteRate,
    /// One way to the middle of the network; a path takes both ends' delay.
    pub delay: Duration,
    /// Added to a packet's delay at random, up to this.
    pub jitter: Duration,
    /// The share of packets that need a retransmission (seen as a stall of the connection).
    pub loss: f64,
    /// What the buffer before the downlink holds, as time at its rate; what comes beyond it is lost. `None`: all.
    pub buffer: Option<Duration>,
}

impl Link {
    /// A symmetric link without loss, 1 ms from the middle.
    pub const fn of(rate: ByteRate) -> Self {
        Self {
            up: rate,
            down: rate,
            delay: Duration::from_millis(1),
            jitter: Duration::ZERO,
            loss: 0.0,
            buffer: None,
        }
    }
}

/// What a node does to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conduct {
    /// As it should.
    #[default]
    Honest,
    /// Sends every block of one piece in `one_in` wrong.
    Lies {
        /// Pieces whose index it divides are lied about.
        one_in: u32,
    },
    /// Says what it has, unchokes, and after a number of blocks sends nothing more.
    Stalls {
        /// Blocks that it still sends.
        after: u64,
    },
}

/// How a node goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Departure {
    /// Its connections are closed: the others know at once.
    #[default]
    Closes,
    /// Its power fails: nothing more comes of it, and the others learn it only when a connection times out.
    Silent,
}

/// How fast and how reliable a node's disk is.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// How long hashing and writing one piece takes; one piece after the other.
    pub per_piece: Duration,
    /// Between these times it is full: what came waits in memory, and the node stops fetching.
    pub full: Option<(Time, Time)>,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            per_piece: Duration::from_millis(1),
            full: None,
        }
    }
}

/// One node that runs the engine.
#[derive(Clone)]
pub struct NodePlan {
    /// Changes to the default configuration.
    pub config: fn(&mut Config),
    /// Complete from the start.
    pub seed: bool,
    /// Its access.
    pub link: Link,
    /// It does not say that it is an own node.
    pub stock: bool,
    /// Which site it belongs to: each piece is to come there once.
    pub site: u32,
    /// Nobody can dial it.
    pub nat: bool,
    /// What it does to others.
    pub conduct: Conduct,
    /// Its disk.
    pub disk: Disk,
    /// When it starts.
    pub joins: Time,
    /// When it goes, if it does.
    pub leaves: Option<Time>,
    /// How it goes.
    pub departure: Departure,
    /// It leaves as soon as it is complete.
    pub leaves_when_done: bool,
    /// Which of the plan's servers it may read.
    pub servers: Vec<usize>,
}

impl NodePlan {
    /// An honest node with nothing, there from the start.
    pub fn new(link: Link) -> Self {
        Self {
            config: |_| {},
            seed: false,
            link,
            stock: false,
            site: 0,
            nat: false,
            conduct: Conduct::Honest,
            disk: Disk::default(),
            joins: Time::ZERO,
            leaves: None,
            departure: Departure::Closes,
            leaves_when_done: false,
            servers: Vec::new(),
        }
    }

    /// The same, complete from the start.
    pub fn seed(link: Link) -> Self {
        Self {
            seed: true,
            ..Self::new(link)
        }
    }
}

/// What an HTTP server does wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFault {
    /// Answers 429 or 503 with Retry-After in this time.
    Busy {
        /// From.
        from: Time,
        /// To.
        to: Time,
        /// Retry-After.
        retry_after: Duration,
    },
    /// Sends nothing in this time.
    Stalls {
        /// From.
        from: Time,
        /// To.
        to: Time,
    },
    /// Another object lies there from then on: every reader notices, by its validator.
    Changed {
        /// From.
        from: Time,
    },
    /// Every answer breaks off after so many blocks, and works again a second later.
    Breaks {
        /// Blocks.
        after: u64,
    },
    /// Bytes of one piece in `one_in` are wrong.
    Lies {
        /// Pieces whose index it divides.
        one_in: u32,
    },
}

/// An HTTP source: the origin, or a relay's HTTP side.
#[derive(Clone, Debug)]
pub struct ServerPlan {
    /// Relay or origin.
    pub class: SourceClass,
    /// Ranges, or only the whole.
    pub access: Access,
    /// Its access; `up` is its limit. `with_node` shares a node's link instead.
    pub link: Link,
    /// The node (by index) on whose host it runs and whose uplink it shares.
    pub with_node: Option<usize>,
    /// Requests served at once; more get 503.
    pub connections_max: usize,
    /// What goes wrong.
    pub faults: Vec<ServerFault>,
}

impl ServerPlan {
    /// A faultless origin.
    pub fn origin(link: Link) -> Self {
        Self {
            class: SourceClass::Origin,
            access: Access::Ranges,
            link,
            with_node: None,
            connections_max: usize::MAX,
            faults: Vec::new(),
        }
    }
}

/// How nodes learn of each other.
#[derive(Clone, Copy, Debug)]
pub struct ControlPlan {
    /// An answer takes this long.
    pub delay: Duration,
    /// Peers named in one answer: anybody where there is one site. Where there are more, nodes of the asker's own; and to who brings
    /// pieces there a fifth of others that bring the same to theirs.
    pub peers: usize,
    /// How often a node asks again.
    pub every: Duration,
    /// Out of reach in this time.
    pub outage: Option<(Time, Time)>,
}

impl Default for ControlPlan {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(5),
            peers: 50,
            every: Duration::from_secs(5),
            outage: None,
        }
    }
}

/// A whole scenario.
#[derive(Clone)]
pub struct Plan {
    /// Its name, for people.
    pub name: &'static str,
    /// The content.
    pub layout: Layout,
    /// Everybody who runs the engine.
    pub nodes: Vec<NodePlan>,
    /// HTTP sources.
    pub servers: Vec<ServerPlan>,
    /// How nodes learn of each other.
    pub control: ControlPlan,
    /// Nodes send news of new pieces at once, but no more often than this, and then together: zero in small swarms, where each
    /// counts.
    pub news_every: Duration,
    /// A rule of the engine that all nodes leave out: to show what it is for.
    pub without: Option<Rule>,
    /// The run is given up then.
    pub until: Time,
}

impl Plan {
    /// `nodes` that want a content of this layout and know each other by control; no HTTP source.
    pub fn new(name: &'static str, layout: Layout, nodes: Vec<NodePlan>) -> Self {
        Self {
            name,
            layout,
            nodes,
            servers: Vec::new(),
            control: ControlPlan::default(),
            news_every: Duration::ZERO,
            without: None,
            until: Time::from_millis(1_000_000),
        }
    }

    /// How many sites there are.
    pub fn sites(&self) -> usize {
        let last = self.nodes.iter().map(|node| node.site).max();
        last.map_or(0, |site| site as usize + 1)
    }
}
