//! What a reader of origins can be told.

use std::fmt;
use std::time::Duration;

/// How an [`Origin`](crate::Origin) behaves on the network. There is no limit on a whole transfer: all limits are on progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest wait for a connection: name, TCP and TLS together. Default: 10 s.
    pub connect_timeout: Duration,
    /// Longest wait for the head of a reply on a connection. Default: 30 s.
    pub first_byte_timeout: Duration,
    /// Longest pause within a body. Default: 20 s.
    pub stall_timeout: Duration,
    /// Connections kept open per host while nobody uses them. Default: 4.
    pub idle_per_host: usize,
    /// Size of the sockets' receive buffers in bytes: bounds what is in flight when reading stops. Default: the system's choice.
    pub recv_buffer: Option<usize>,
    /// Whether the proxies in `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` are used, except for `NO_PROXY` and loopback
    /// addresses. Default: yes.
    pub environment_proxy: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            idle_per_host: 4,
            recv_buffer: None,
            environment_proxy: true,
        }
    }
}

/// Why an [`Origin`](crate::Origin) could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up on this machine: {0}")]
    Tls(#[from] rustls::Error),
}

/// A bearer token for one request; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(String);

impl Bearer {
    /// The token as it goes into `Authorization: Bearer …`.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    pub(crate) fn token(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}
