//! `floodway seed PATH FILE.torrent`: serves a file that is here already.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use floodway_proto::NodeId;
use floodway_proto::metainfo::{Metainfo, MetainfoError};
use floodway_store::Hashes;
use floodway_swarm::{Limits, Order, Prefer};
use url::Url;

use crate::get::read_torrent;
use crate::job::sources::info_for_peers;
use crate::{
    AddError, Content, ContentSpec, GetError, Progress, Ready, Session, SessionConfig, Target,
};

/// What `seed` is to do.
#[derive(Clone, Debug)]
pub struct SeedSpec {
    /// The whole file.
    pub path: PathBuf,
    /// Its torrent.
    pub torrent: PathBuf,
    /// Where peers may connect.
    pub listen: SocketAddr,
    /// What others are told instead of the bound address.
    pub advertise: Option<SocketAddr>,
    /// Peers named by the user.
    pub peers: Vec<SocketAddr>,
    /// Upper bounds.
    pub limits: Limits,
}

/// Hashes the file, announces it and serves it until `shutdown`.
///
/// `ready` is called once it is announced, `progress` from time to time from then on.
///
/// # Errors
/// [`GetError`]: the torrent or the file cannot be used, or the file is not the torrent's (exit code 3).
pub async fn run(
    spec: SeedSpec,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Ready),
    progress: impl Fn(&Progress),
) -> Result<(), GetError> {
    tokio::pin!(shutdown);
    let torrent = read_torrent(&spec.torrent)?;
    let mut config = SessionConfig::new(spec.listen, NodeId(fastrand::u128(..).to_be_bytes()));
    config.advertise = spec.advertise;
    config.limits = spec.limits;
    let session = Session::start(config).await?;
    let content = tokio::select! {
        added = session.add(content_spec(&spec, &torrent)?) => added.map_err(|error| wrong_file(error, &spec.path))?,
        () = &mut shutdown => {
            session.shutdown().await;
            return Err(GetError::Interrupted);
        }
    };
    ready(Ready {
        http: None,
        peer: Some(session.peer_addr()),
    });
    tokio::select! {
        () = &mut shutdown => {}
        () = watch(&content, progress) => {}
    }
    session.shutdown().await;
    Ok(())
}

async fn watch(content: &Content, tell: impl Fn(&Progress)) {
    let mut progress = content.progress();
    loop {
        tell(&progress.borrow_and_update());
        if progress.changed().await.is_err() {
            return;
        }
    }
}

fn content_spec(spec: &SeedSpec, torrent: &Metainfo) -> Result<ContentSpec, GetError> {
    let info = &torrent.info;
    let path = std::path::absolute(&spec.path).map_err(|source| GetError::File {
        action: "find",
        path: spec.path.clone(),
        source: Arc::new(source),
    })?;
    Ok(ContentSpec {
        names: vec![torrent.info_hash],
        info: info_for_peers(torrent, None),
        sid: None,
        layout: info.layout().map_err(MetainfoError::PieceLength)?,
        hashes: Hashes::V1(info.pieces.clone()),
        identity: [0; 32],
        adopts: None,
        target: Target::Seed { path, known: None },
        prefer: Prefer::Peers,
        order: Order::RarestFirst,
        foreground: false,
        limits: spec.limits,
        linear_digest: false,
        peers: spec.peers.clone(),
        trackers: http_trackers(torrent),
        sources: Vec::new(),
        verifiable: true,
        growth: None,
    })
}

/// The trackers that this program speaks to.
pub(crate) fn http_trackers(torrent: &Metainfo) -> Vec<Url> {
    let urls = torrent
        .trackers
        .iter()
        .flatten()
        .filter_map(|url| Url::parse(url).ok());
    urls.filter(|url| matches!(url.scheme(), "http" | "https"))
        .collect()
}

/// Names a missing file as what it is: a mistake in the command.
fn wrong_file(error: AddError, path: &Path) -> GetError {
    match error {
        AddError::Open(_) if !path.is_file() => GetError::Usage(format!(
            "`{}` is no file that could be seeded",
            path.display()
        )),
        error => error.into(),
    }
}
