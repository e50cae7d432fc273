//! Connections: TCP, directly or by the environment's proxies, TLS on top, all within one time limit.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::{Settings, SetupError};

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// The proxies that the environment names, if they are to be used.
#[derive(Clone, Debug)]
pub(crate) struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self(
            settings
                .environment_proxy
                .then(|| Arc::new(Matcher::from_env())),
        )
    }

    fn between(&self, destination: &Uri) -> Option<Intercept> {
        let host = destination.host()?;
        if is_loopback(host) {
            return None;
        }
        self.0.as_ref()?.intercept(destination)
    }

    /// `Proxy-Authorization` for a request that goes to a proxy in plain; a tunnel sends its own.
    pub(crate) fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        if destination.scheme_str() != Some("http") {
            return None;
        }
        self.between(destination)?.basic_auth().cloned()
    }
}

/// A proxy elsewhere cannot reach this machine's own services.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().map_or_else(
        |_| host == "localhost" || host.ends_with(".localhost"),
        |ip| ip.is_loopback(),
    )
}

/// Opens connections for the pool: [`Route`], then TLS where the URL says so, within the time limit.
#[derive(Clone)]
pub(crate) struct Connector {
    secure: HttpsConnector<Route>,
    limit: Duration,
}

impl Connector {
    pub(crate) fn new(settings: &Settings, proxies: Proxies) -> Result<Self, SetupError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_mins(1)));
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        tcp.set_recv_buffer_size(settings.recv_buffer);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = HttpsConnectorBuilder::new();
        let builder = match builder.with_provider_and_native_roots(Arc::clone(&provider)) {
            Ok(builder) => builder,
            Err(error) => {
                // Plain HTTP still works; https will name the unknown issuer.
                tracing::warn!(%error, "no root certificates found: https origins cannot be verified");
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let route = Route { tcp, proxies };
        Ok(Self {
            secure: builder.https_or_http().enable_http1().wrap_connector(route),
            limit: settings.connect_timeout,
        })
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<Wire>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.secure.poll_ready(cx)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let connecting = self.secure.call(destination);
        let limit = self.limit;
        Box::pin(async move {
            tokio::time::timeout(limit, connecting)
                .await
                .unwrap_or_else(|_| {
                    let seconds = limit.as_secs_f32();
                    Err(format!("no connection within {seconds} s").into())
                })
        })
    }
}

/// TCP to the server, or to the proxy that stands before it.
#[derive(Clone)]
pub(crate) struct Route {
    tcp: HttpConnector,
    proxies: Proxies,
}

impl Service<Uri> for Route {
    type Response = Wire;
    type Error = BoxError;
    type Future = Connecting<Wire>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = self.proxies.between(&destination) else {
            let connecting = tcp.call(destination);
            return Box::pin(async {
                Ok(Wire {
                    stream: connecting.await?,
                    proxied: false,
                })
            });
        };
        if proxy.uri().scheme_str() != Some("http") {
            let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
            return Box::pin(async move {
                Err(format!(
                    "the environment names a `{scheme}:` proxy; only http: proxies are supported"
                )
                .into())
            });
        }
        if destination.scheme_str() == Some("http") {
            let connecting = tcp.call(proxy.uri().clone());
            return Box::pin(async {
                Ok(Wire {
                    stream: connecting.await?,
                    proxied: true,
                })
            });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let connecting = tunnel.call(destination);
        Box::pin(async {
            Ok(Wire {
                stream: connecting.await?,
                proxied: false,
            })
        })
    }
}

/// A TCP connection that knows whether a proxy reads the requests on it (they then name the whole URL).
pub(crate) struct Wire {
    stream: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn proxies(proxy: &str) -> Proxies {
        let matcher = Matcher::builder().all(proxy).no("inside.example");
        Proxies(Some(Arc::new(matcher.build())))
    }

    #[test]
    fn proxies_never_stand_before_loopback() {
        let proxies = proxies("http://bob:pw@proxy:3128");
        let between = |uri: &str| proxies.between(&uri.parse().unwrap()).is_some();
        assert!(between("http://h/x") && between("https://h/x"));
        for direct in [
            "http://127.0.0.1:1/",
            "http://[::1]/",
            "http://localhost/",
            "http://a.inside.example/",
        ] {
            assert!(!between(direct), "{direct}");
        }
        assert!(
            proxies
                .authorization(&"http://h/x".parse().unwrap())
                .is_some()
        );
        assert!(
            proxies
                .authorization(&"https://h/x".parse().unwrap())
                .is_none()
        );
    }

    /// What a proxy hears when `uri` is asked for, and whether the client got an answer.
    async fn heard(uri: &str) -> (String, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://bob:pw@{}", listener.local_addr().unwrap());
        let connector = Connector::new(&Settings::default(), proxies(&proxy)).unwrap();
        let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
        let (answer, head) = tokio::join!(client.get(uri.parse().unwrap()), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            String::from_utf8(head).unwrap()
        });
        (head, answer.is_ok())
    }

    #[tokio::test]
    async fn a_proxy_gets_whole_urls_in_plain_and_tunnels_for_tls() {
        let (head, answered) = heard("http://h.example/x?y").await;
        assert!(
            head.starts_with("GET http://h.example/x?y HTTP/1.1\r\n") && answered,
            "{head}"
        );
        let (head, answered) = heard("https://h.example/x").await;
        assert!(
            head.starts_with("CONNECT h.example:443 HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains(": Basic Ym9iOnB3\r\n"), "{head}");
        assert!(!answered, "no TLS comes out of this tunnel");
    }

    #[tokio::test]
    async fn other_proxies_are_refused_by_name() {
        let connector =
            Connector::new(&Settings::default(), proxies("socks5://127.0.0.1:1")).unwrap();
        let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
        let error = client
            .get(Uri::from_static("http://h.example/"))
            .await
            .unwrap_err();
        assert!(
            format!("{error:?}").contains("`socks5:` proxy"),
            "{error:?}"
        );
    }
}
