//! How a content begins: its store is opened, what is known of it is gathered, and its task starts.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use floodway_proto::wire::Limits as WireLimits;
use floodway_proto::{Bitfield, InfoHash, PIECES_WHILE_UNKNOWN, Time};
use floodway_store::{Hashes, Opened};
use floodway_swarm::answers::Answers;
use floodway_swarm::{Config, Start, Swarm};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Driver, Inbox};
use crate::content::addresses::StockNames;
use crate::content::blame::FailedTries;
use crate::content::growing::Growing;
use crate::content::help::Help;
use crate::content::park::Park;
use crate::content::shares::Shares;
use crate::content::sources::Sources;
use crate::content::{
    AddError, Content, ContentSpec, Events, GrowthSeen, KnownTorrent, Progress, Reading, Shared,
    State, Target, disk,
};
use crate::session::Session;

/// Packets that may wait for the driver: each has up to 256 KiB of blocks.
const PACKETS_WAITING: usize = 64;
/// How long peers may take to answer before HTTP steps in, when nobody waits.
const GRACE_BACKGROUND: Duration = Duration::from_secs(30);

/// Opens the store and starts the task.
pub(crate) async fn start(session: &Session, mut spec: ContentSpec) -> Result<Content, AddError> {
    if let Some(taken) = spec
        .names
        .iter()
        .find(|name| session.find(**name).is_some())
    {
        return Err(AddError::NameTaken(*taken));
    }
    let (disk, disk_inbox) = mpsc::unbounded_channel();
    let (store, opened) = disk::open(session, &spec, disk).await?;
    let store = Arc::new(store);
    let (commands, commands_inbox) = mpsc::unbounded_channel();
    let (packets, packets_inbox) = mpsc::channel(PACKETS_WAITING);
    let (found, found_inbox) = mpsc::unbounded_channel();
    let length = spec.layout.length();
    let (progress, progress_seen) = watch::channel(Progress::start(length));
    let (outcome, outcome_seen) = watch::channel(None);
    let (reading, reading_seen) = watch::channel(Reading::ALL);
    // What is known of a growing content's hashes comes later.
    let offered = if spec.verifiable {
        opened.have.clone()
    } else {
        Bitfield::new(spec.layout.piece_count())
    };
    let shared = Arc::new(Shared {
        begun: spec.layout.clone(),
        ended: OnceLock::new(),
        wire_limits: WireLimits::for_pieces(pieces_in_lists(&spec)),
        sid: spec.sid,
        is_final: AtomicBool::new(spec.verifiable),
        growth: spec.growth.as_ref().map(|growth| GrowthSeen {
            is_relay: growth.is_relay,
            head: watch::channel(growth.manifest.complete_to()).0,
            genesis: Arc::default(),
        }),
        names: RwLock::new(spec.names.clone()),
        torrents: RwLock::new(torrents(&spec)),
        offered: watch::channel(offered).0,
        store: RwLock::new(Some(Arc::clone(&store))),
        session: session.downgrade(),
        packets,
        commands,
        reading: reading_seen,
        progress: progress_seen,
        outcome: outcome_seen,
        events: Mutex::new(Events::default()),
    });
    for name in &spec.names {
        if let Err(error) = session.route(*name, &shared) {
            session.forget(&shared);
            disk::close(store, false).await;
            return Err(error);
        }
    }
    let driver = Driver {
        session: session.clone(),
        shared: Arc::clone(&shared),
        swarm: swarm(session, &spec, &opened),
        store,
        park: Park::default(),
        tries: FailedTries::default(),
        growing: growing(session, &mut spec, &opened),
        help: Help::default(),
        answers: Answers::new(&spec.layout),
        sources: Sources::default(),
        peers: HashMap::new(),
        shares: Shares::default(),
        stock: StockNames::default(),
        talked_to: Vec::new(),
        digests: HashMap::new(),
        trouble: None,
        disk_alarm: None,
        state: State::Checking,
        rename: matches!(
            spec.target,
            Target::File {
                rename_when_done: true,
                ..
            }
        ),
        path: spec.target.path().clone(),
        read_only: false,
        reading,
        progress,
        outcome,
        wake: None,
        progress_at: Time::ZERO,
        changed: true,
        received: 0,
        wasted: 0,
        inbox: Inbox {
            commands: commands_inbox,
            disk: disk_inbox,
            packets: packets_inbox,
            found: found_inbox,
        },
        tasks: TaskTracker::new(),
        announcing: CancellationToken::new(),
        found,
    };
    tokio::spawn(driver.supervise(spec, opened));
    Ok(Content { shared })
}

fn swarm(session: &Session, spec: &ContentSpec, opened: &Opened) -> Swarm {
    let mut config = Config::new(session.name());
    config.prefer = spec.prefer;
    config.order = spec.order;
    config.limits = spec.limits;
    if !spec.foreground {
        config.grace = GRACE_BACKGROUND;
    }
    let start = Start {
        have: opened.have.clone(),
        partial: opened.partial.clone(),
        verifiable: spec.verifiable,
        growing: spec.growth.is_some(),
        open_ended: is_open_ended(spec),
    };
    Swarm::new(config, spec.layout.clone(), start, fastrand::u64(..))
}

/// The length was not known when the content began: its nodes learn it one after the other.
fn is_open_ended(spec: &ContentSpec) -> bool {
    let genesis = spec.growth.as_ref().map(|growth| growth.manifest.genesis());
    genesis.is_some_and(|genesis| genesis.length().is_none())
}

/// How many pieces a peer's list may be of: one that does not know the end counts more.
fn pieces_in_lists(spec: &ContentSpec) -> u32 {
    let most = if is_open_ended(spec) {
        PIECES_WHILE_UNKNOWN
    } else {
        0
    };
    spec.layout.piece_count().max(most)
}

/// The torrents whose info dict is known from the start.
fn torrents(spec: &ContentSpec) -> BTreeMap<InfoHash, KnownTorrent> {
    let info = spec.info.iter();
    let torrents = info.map(|(name, info)| {
        let torrent = KnownTorrent {
            info: info.clone(),
            is_v2: false,
        };
        (*name, torrent)
    });
    torrents.collect()
}

/// Takes what is known of a growing content's hashes out of the spec.
fn growing(session: &Session, spec: &mut ContentSpec, opened: &Opened) -> Option<Growing> {
    let growth = spec.growth.take()?;
    let adopts = spec.adopts.is_some();
    let mut growing = Growing::new(session.now(), growth, spec.verifiable, adopts);
    if let Hashes::V1(sha1s) = &spec.hashes {
        growing.has_sha1s(sha1s);
    }
    for (piece, digest) in &opened.digests {
        growing.holds(*piece, digest, &spec.layout);
    }
    Some(growing)
}
