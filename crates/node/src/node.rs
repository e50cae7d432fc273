//! What relays and agents have in common: enrolling, the session, the ready line, errors with exit codes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use floodway_api::rest::{Enrol, Role};
use floodway_swarm::Limits;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::control_client::{ClientError, ControlClient};
use crate::state::{DataDir, Identity, StateError};
use crate::{AddError, Content, ContentSpec, Session, SessionConfig, SessionError, Target};

/// First and longest pause between tries to enrol.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// How long the parts of a role may take to end.
const END: Duration = Duration::from_secs(5);

/// What every daemon must be told.
#[derive(Clone)]
pub struct NodeSettings {
    /// The data folder.
    pub data: PathBuf,
    /// Control's address.
    pub control: String,
    /// A join token, needed once.
    pub token: Option<String>,
    /// A name for people; `None`: the machine's.
    pub name: Option<String>,
    /// Where peers may connect.
    pub listen: SocketAddr,
    /// What others are told instead of the bound address.
    pub advertise: Option<SocketAddr>,
    /// Upper bounds for the whole process.
    pub limits: Limits,
    /// Peers connected at once, over all contents.
    pub peers_max: usize,
}

impl std::fmt::Debug for NodeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "NodeSettings({} in {})",
            self.control,
            self.data.display()
        )
    }
}

/// Where a role can be reached, once its listeners are bound and control has accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its own HTTP side.
    pub http: Option<SocketAddr>,
    /// Its peer side.
    pub peer: Option<SocketAddr>,
}

/// Why a role could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The data folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The peer side cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The HTTP side cannot be used.
    #[error(
        "cannot listen for HTTP on {addr}: {source}; choose another address or port with --http"
    )]
    Http {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Control does not accept this node.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// Not enrolled, and nothing to enrol with.
    #[error(
        "this node is not enrolled yet and has no join token: make one with `floodway node token create`, and give it with --token-file or FLOODWAY_TOKEN"
    )]
    NoToken,
}

impl RoleError {
    /// The exit code of `contracts.md`: 1 failed, 2 usage or settings, 5 refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Control(ClientError::Address { .. } | ClientError::Token) | Self::NoToken => 2,
            Self::Control(error) if error.is_token_refused() => 5,
            // A setting that control cannot use, such as a circle of `feeds_from`.
            Self::Control(error) if error.names_a_field() => 2,
            Self::State(_) | Self::Session(_) | Self::Http { .. } | Self::Control(_) => 1,
        }
    }
}

/// The client of this node: with the identity on disk, or a new one. Waits for control as long as it is away.
pub(crate) async fn identify(
    settings: &NodeSettings,
    data: &DataDir,
    role: Role,
) -> Result<(ControlClient, Identity), RoleError> {
    let client = ControlClient::new(&settings.control, None)?;
    if let Some(identity) = data.identity()? {
        return Ok((client.with_token(&identity.token)?, identity));
    }
    let identity = enrol(settings, &client, data, role).await?;
    Ok((client.with_token(&identity.token)?, identity))
}

/// Becomes a node with the join token, and keeps what control gives.
pub(crate) async fn enrol(
    settings: &NodeSettings,
    client: &ControlClient,
    data: &DataDir,
    role: Role,
) -> Result<Identity, RoleError> {
    let token = settings.token.as_deref().ok_or(RoleError::NoToken)?;
    let client = client.with_token(token)?;
    let name = settings.name.clone().unwrap_or_else(machine_name);
    let enrol = Enrol {
        role,
        name,
        short_lived: false,
    };
    let (mut pause, longest) = PAUSE;
    loop {
        match client.enrol(&enrol).await {
            Ok(enrolled) => {
                let identity = Identity {
                    node: enrolled.node,
                    token: enrolled.token,
                };
                data.save_identity(&identity)?;
                return Ok(identity);
            }
            Err(error) if error.is_unreachable() => {
                tracing::warn!(%error, "cannot enrol yet");
                tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
                pause = (pause * 2).min(longest);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The machine's own name.
pub(crate) fn machine_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

pub(crate) async fn start_session(
    settings: &NodeSettings,
    identity: &Identity,
) -> Result<Session, RoleError> {
    let mut config = SessionConfig::new(settings.listen, identity.node);
    config.advertise = settings.advertise;
    config.limits = settings.limits;
    config.peers_max = settings.peers_max;
    Ok(Session::start(config).await?)
}

/// Adds a content beside another with the same bytes (the same file under another URL, or published again): the first
/// answers by the name that both have, the second by its own swarm id.
async fn add_beside(session: &Session, mut spec: ContentSpec) -> Result<Content, AddError> {
    match session.add(spec.clone()).await {
        Err(AddError::NameTaken(name)) if spec.sid.is_some_and(|sid| sid.truncated() != name) => {
            spec.names.retain(|other| *other != name);
            session.add(spec).await
        }
        result => result,
    }
}

/// Adds a content; a file that is known to be whole, and has not changed since, is served without hashing it again:
/// then the second value is true.
pub(crate) async fn add_known(
    session: &Session,
    data: Option<&DataDir>,
    spec: ContentSpec,
) -> Result<(Content, bool), AddError> {
    let known = spec.sid.and_then(|sid| data?.stamp(sid));
    if known.is_some() && spec.verifiable && spec.target.path().is_file() {
        let path = spec.target.path().clone();
        let target = Target::Seed { path, known };
        match add_beside(
            session,
            ContentSpec {
                target,
                ..spec.clone()
            },
        )
        .await
        {
            Ok(content) => return Ok((content, true)),
            // Changed or gone meanwhile: it is examined, and fetched again if need be.
            Err(AddError::NotThisContent { .. } | AddError::Open(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((add_beside(session, spec).await?, false))
}

/// Waits for tasks that are ending; those that take too long are cut off.
pub(crate) async fn end_all(tasks: Vec<JoinHandle<()>>) {
    let deadline = tokio::time::Instant::now() + END;
    for mut task in tasks {
        // A task that broke has been reported where it broke.
        if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
            task.abort();
        }
    }
}

pub(crate) async fn bind_http(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), RoleError> {
    let fail = |source| RoleError::Http { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    Ok((listener, bound))
}
