//! Control's process: data folder, database, core, listener.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use floodway_api::{AllowList, BadPrefix};
use floodway_proto::capability::CapabilityKey;
use floodway_proto::record::SecretKey;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::actor::{Actor, Handle, start_of_time};
use crate::auth::Directory;
use crate::core::{Config, Core};
use crate::db::{Change, JoinTokenRow, Model, Sqlite, Store, StoreError};
use crate::http::{App, own_routes, routes, with_fallbacks};
use crate::metrics::Metrics;
use crate::secrets::{self, JoinSecret, SecretFileError};
use crate::settings::Settings;

/// How long a stop waits for requests under way.
const GRACE: Duration = Duration::from_secs(5);
/// The shortest admin token that an operator may put into the file.
const ADMIN_TOKEN_MIN: usize = 16;

/// Why control did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The data folder cannot be made or used.
    #[error("the data folder {}: {source}; choose another with --data, or see to its permissions", folder.display())]
    Data {
        /// The folder.
        folder: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Another process works on it.
    #[error("the data folder {} is in use by another control; stop that one, or choose another folder with --data", .0.display())]
    InUse(PathBuf),
    /// A token or key file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The allow-list cannot be understood.
    #[error("allow_origin: {0}")]
    AllowOrigin(#[from] BadPrefix),
    /// The public URL cannot be understood.
    #[error(
        "public_url: `{url}` cannot be used: {problem}; write it like https://control.example.org"
    )]
    PublicUrl {
        /// What was given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The share of audits is none.
    #[error("audit_share: {0} is no share of the pieces; it is from 0 (none) to 1 (all)")]
    AuditShare(f64),
    /// The listener failed.
    #[error("the HTTP side failed: {0}")]
    Listener(io::Error),
}

impl ControlError {
    /// True when the settings are at fault, rather than the machine.
    pub fn is_settings_fault(&self) -> bool {
        match self {
            Self::AllowOrigin(_) | Self::PublicUrl { .. } | Self::AuditShare(_) => true,
            Self::Data { .. }
            | Self::InUse(_)
            | Self::Secret(_)
            | Self::Store(_)
            | Self::Listener(_) => false,
        }
    }
}

/// What others may be told once control takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The address that the HTTP side is bound to.
    pub http: SocketAddr,
    /// The address that torrents and nodes are told, without a `/` at the end.
    pub public_url: String,
}

/// A running control without its listener: [`run`] adds one, and a process of several roles its own.
#[derive(Debug)]
pub struct Control {
    app: Arc<App>,
    public_url: String,
    join_token: String,
    actor: JoinHandle<()>,
    _lock: File,
}

/// Starts control on its data folder. `settings.http` must be the address that its routes will be served at, unless
/// `settings.public_url` is given.
///
/// # Errors
/// [`ControlError`] when the settings, the data folder, a token file or the database cannot be used.
pub async fn start(settings: Settings) -> Result<Control, ControlError> {
    let allow = AllowList::parse(&settings.allow_origin)?;
    let public_url = public_url(&settings)?;
    // Not a number is in no range either.
    if !(0.0..=1.0).contains(&settings.audit_share) {
        return Err(ControlError::AuditShare(settings.audit_share));
    }
    let lock = open_folder(&settings.data)?;
    let admin_token = admin_token(&settings)?;
    let capability_key = CapabilityKey::new(key_file(&settings.data, "capability.key")?);
    let signing_key = SecretKey::from_seed(&key_file(&settings.data, "signing.key")?);
    let store = Sqlite::open(&settings.data.join("control.db")).await?;
    let mut model = store.load().await?;
    let join_token = join_token(&settings.data, &store, &mut model).await?;
    if allow.is_empty() {
        tracing::warn!(
            "no origin is allowed: every task will be refused until --allow-origin is given"
        );
    }
    let directory = Arc::new(Directory::new(&admin_token, &model));
    let metrics = Arc::new(Metrics::default());
    let config = Arc::new(Config {
        allow,
        base_url: public_url.clone(),
        settings,
        capability_key,
        signing_key,
    });
    let seed = u64::from_le_bytes(secrets::random());
    let core = Core::new(Arc::clone(&config), model, start_of_time(), seed);
    let (actor, handle) = Actor::new(
        core,
        store.clone(),
        Arc::clone(&directory),
        Arc::clone(&metrics),
    );
    let app = Arc::new(App {
        handle,
        directory,
        metrics,
        store,
        config,
    });
    Ok(Control {
        app,
        public_url,
        join_token,
        actor: tokio::spawn(actor.run()),
        _lock: lock,
    })
}

/// Runs control on a bound listener until `shutdown`; `ready` is called once requests are taken.
///
/// # Errors
/// As [`start`], and [`ControlError::Listener`].
pub async fn run(
    mut settings: Settings,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(Ready),
) -> Result<(), ControlError> {
    settings.http = listener.local_addr().map_err(ControlError::Listener)?;
    let http = settings.http;
    let control = start(settings).await?;
    let service = control
        .router()
        .into_make_service_with_connect_info::<SocketAddr>();
    let stopping = control.stopper();
    let (stopped, stops) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        shutdown.await;
        stopping.release().await;
        // The receiver is gone when the server failed first.
        _ = stopped.send(());
    });
    ready(Ready {
        http,
        public_url: control.public_url().to_owned(),
    });
    let overdue = async {
        match stops.await {
            Ok(()) => tokio::time::sleep(GRACE).await,
            Err(_) => std::future::pending().await,
        }
    };
    let served = tokio::select! {
        served = server.into_future() => served,
        () = overdue => Ok(()),
    };
    control.close().await;
    served.map_err(ControlError::Listener)
}

/// Lets go of parked requests when a stop begins.
#[derive(Clone, Debug)]
pub struct Stopper(Handle);

impl Stopper {
    /// Answers all parked syncs; from now on none is parked.
    pub async fn release(&self) {
        let closed = self.0.call(|core| {
            core.close();
            Ok(())
        });
        // Whoever is refused here is answered all the same: the core is gone.
        drop(closed.await);
    }
}

impl Control {
    /// All routes of control, to be served with `into_make_service_with_connect_info::<SocketAddr>()`. 404 and 405 have the form
    /// of all errors.
    pub fn router(&self) -> Router {
        with_fallbacks(
            self.shared_routes()
                .merge(own_routes(Arc::clone(&self.app))),
        )
    }

    /// The routes without `/metrics`, `/healthz` and fallbacks, to be merged with those of a relay in the same process. The
    /// relay's paths `/api/v1/s/{sid}/data` and below `/api/v1/w/` are free. What relays mirror of the signed side (`genesis`, `head`,
    /// `hashes`) is here already, and takes capabilities too.
    pub fn shared_routes(&self) -> Router {
        routes(Arc::clone(&self.app))
    }

    /// Control's part of `/metrics`, in Prometheus' text format; only a comment when control cannot answer now.
    pub async fn metrics_text(&self) -> String {
        let text = self.app.metrics_text().await;
        text.unwrap_or_else(|error| format!("# {}\n", error.message()))
    }

    /// The join token of `DATA/join.token`: admits both roles, without labels.
    pub fn join_token(&self) -> &str {
        &self.join_token
    }

    /// The address that torrents and nodes are told, without a `/` at the end.
    pub fn public_url(&self) -> &str {
        &self.public_url
    }

    /// What a server of these routes calls when it begins to stop, so that parked syncs do not hold it up.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.app.handle.clone())
    }

    /// Stops deciding and closes the database. All routers must be gone, or it waits for the last of them up to 5 s.
    pub async fn close(self) {
        let Self { app, actor, .. } = self;
        let store = app.store.clone();
        drop(app);
        let abort = actor.abort_handle();
        if tokio::time::timeout(GRACE, actor).await.is_err() {
            abort.abort();
        }
        store.close().await;
    }
}

fn public_url(settings: &Settings) -> Result<String, ControlError> {
    let Some(text) = &settings.public_url else {
        return Ok(format!("http://{}", reachable(settings.http)));
    };
    let bad = |problem: String| ControlError::PublicUrl {
        url: text.clone(),
        problem,
    };
    let url = Url::parse(text).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https")
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(bad(
            "it must be a http:// or https:// URL without query".into()
        ));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Nobody can connect to an unspecified address; who listens on all of them is on this machine too.
fn reachable(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        let loopback = match addr.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        tracing::warn!(
            "torrents and nodes are told {loopback}: give --public-url when others are to reach control"
        );
        addr.set_ip(loopback);
    }
    addr
}

/// Makes the data folder and takes it for this process.
fn open_folder(folder: &Path) -> Result<File, ControlError> {
    let failed = |source| ControlError::Data {
        folder: folder.into(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("control.lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ControlError::InUse(folder.into())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn admin_token(settings: &Settings) -> Result<String, ControlError> {
    let path = settings.admin_token_path();
    let token = secrets::file(&path, || format!("fwa.{}", secrets::random_hex::<32>()))?;
    if token.len() < ADMIN_TOKEN_MIN || token.contains(char::is_whitespace) {
        let expected = "at least 16 characters in one word";
        return Err(SecretFileError::Unusable {
            file: path,
            expected,
        }
        .into());
    }
    Ok(token)
}

/// The 32 secret bytes in a file of the data folder, made at the first start.
fn key_file(folder: &Path, name: &str) -> Result<[u8; 32], ControlError> {
    let path = folder.join(name);
    let text = secrets::file(&path, secrets::random_hex::<32>)?;
    let mut secret = [0; 32];
    hex::decode_to_slice(&text, &mut secret).map_err(|_| SecretFileError::Unusable {
        file: path,
        expected: "64 hexadecimal digits",
    })?;
    Ok(secret)
}

/// The token of `DATA/join.token`, known to the database also when that is younger than the file.
async fn join_token(
    folder: &Path,
    store: &Sqlite,
    model: &mut Model,
) -> Result<String, ControlError> {
    let path = folder.join("join.token");
    let text = secrets::file(&path, || JoinSecret::new().text().to_owned())?;
    let secret = JoinSecret::read(&text).ok_or(SecretFileError::Unusable {
        file: path,
        expected: "a join token of control",
    })?;
    if !model.join_tokens.contains_key(secret.id()) {
        let row = Change::JoinToken(JoinTokenRow {
            id: secret.id().to_owned(),
            hash: secret.hash(),
            role: None,
            labels: std::collections::BTreeMap::new(),
            revoked: false,
            created_us: start_of_time().us,
        });
        store.commit(std::slice::from_ref(&row)).await?;
        model.apply(row);
    }
    Ok(text)
}
