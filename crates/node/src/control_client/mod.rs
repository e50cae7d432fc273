//! Talks to control: JSON over kept HTTP(S) connections, with a bearer token.

mod error;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use floodway_api::rest::{
    Capabilities, CreateCapability, CreateJoinToken, CreateTask, Enrol, Enrolled, ErrorBody,
    ErrorDetail, Growth, JoinToken, JoinTokenList, NodeList, NodeView, Task, TaskList,
};
use floodway_api::sync::{SyncReply, SyncRequest};
use floodway_origin::Bearer;
use floodway_proto::Sid;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::Helper;

pub use error::ClientError;

/// No reply of control is longer than this, in bytes.
const LONGEST_REPLY: usize = 64 * 1024 * 1024;
/// How long control may take for an answer that it need not wait for.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A client of one control server. Clones share their connections.
#[derive(Clone)]
pub struct ControlClient {
    base: Arc<Url>,
    authorization: Option<HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControlClient({})", self.base)
    }
}

impl ControlClient {
    /// A client of the control at `address` (`http://host:7600`), with a join, node or admin token.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Token`], or [`ClientError::Tls`] when this machine has no working TLS.
    pub fn new(address: &str, token: Option<&str>) -> Result<Self, ClientError> {
        let base = base_url(address)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_mins(1))
            .pool_timer(TokioTimer::new())
            .build(connector);
        let client = Self {
            base: Arc::new(base),
            authorization: None,
            http,
        };
        match token {
            Some(token) => client.with_token(token),
            None => Ok(client),
        }
    }

    /// The same client with another token.
    ///
    /// # Errors
    /// [`ClientError::Token`] when the text cannot be one.
    pub fn with_token(&self, token: &str) -> Result<Self, ClientError> {
        let token = token.trim();
        if token.is_empty() || token.contains(char::is_whitespace) {
            return Err(ClientError::Token);
        }
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| ClientError::Token)?;
        value.set_sensitive(true);
        Ok(Self {
            authorization: Some(value),
            ..self.clone()
        })
    }

    /// Control's address, without credentials.
    pub fn address(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// `POST /api/v1/enrol`: become a node, with a join token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn enrol(&self, enrol: &Enrol) -> Result<Enrolled, ClientError> {
        self.post("api/v1/enrol", enrol, ANSWER_TIME).await
    }

    /// `POST /api/v1/sync`; takes [`SyncRequest::wait_ms`] longer than other requests at most.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sync(&self, request: &SyncRequest) -> Result<SyncReply, ClientError> {
        let limit = ANSWER_TIME + Duration::from_millis(request.wait_ms);
        self.post("api/v1/sync", request, limit).await
    }

    /// `GET /api/v1/s/SID/torrent`: the standard torrent, `None` until the content is final.
    ///
    /// # Errors
    /// [`ClientError`]; not found means that control does not know the content at all.
    pub async fn torrent(&self, sid: Sid) -> Result<Option<Bytes>, ClientError> {
        let path = format!("api/v1/s/{sid}/torrent");
        match self
            .exchange(Method::GET, &path, None, Duration::from_mins(1))
            .await
        {
            Ok(bytes) => Ok(Some(bytes)),
            // 404 with Retry-After: known, and not final yet.
            Err(ClientError::Refused {
                status: StatusCode::NOT_FOUND,
                retry_after: Some(_),
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `GET /api/v1/s/SID/genesis`: a content's first record, with its list of files where that lies beside it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn genesis(&self, sid: Sid) -> Result<Bytes, ClientError> {
        let path = format!("api/v1/s/{sid}/genesis");
        let limit = Duration::from_mins(1);
        self.exchange(Method::GET, &path, None, limit).await
    }

    /// How a content came to be: who reported its pieces.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn growth(&self, sid: Sid) -> Result<Growth, ClientError> {
        let path = format!("api/v1/s/{sid}/growth");
        self.get(&path).await
    }

    /// Where control itself serves the signed side of a content.
    pub(crate) fn helper(&self, sid: Sid) -> Option<Helper> {
        let base = format!("{}api/v1/s/{sid}/", self.base).parse().ok()?;
        let authorization = self.authorization.as_ref()?.to_str().ok()?;
        let token = authorization.strip_prefix("Bearer ")?;
        let bearer = Some(Bearer::new(token));
        Some(Helper {
            base,
            bearer,
            is_control: true,
        })
    }

    /// `POST /api/v1/tasks`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_task(&self, create: &CreateTask) -> Result<Task, ClientError> {
        self.post("api/v1/tasks", create, ANSWER_TIME).await
    }

    /// `GET /api/v1/tasks`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tasks(&self) -> Result<TaskList, ClientError> {
        self.get("api/v1/tasks").await
    }

    /// `GET /api/v1/tasks/ID`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn task(&self, id: &str) -> Result<Task, ClientError> {
        self.get(&format!("api/v1/tasks/{}", segment(id))).await
    }

    /// `POST /api/v1/tasks/ID/cancel`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel_task(&self, id: &str) -> Result<Task, ClientError> {
        self.post(
            &format!("api/v1/tasks/{}/cancel", segment(id)),
            &serde_json::json!({}),
            ANSWER_TIME,
        )
        .await
    }

    /// `GET /api/v1/nodes`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn nodes(&self) -> Result<NodeList, ClientError> {
        self.get("api/v1/nodes").await
    }

    /// `POST /api/v1/nodes/NODE/trust`: what this relay (an id, or a name that is the only one) reports counts again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trust(&self, node: &str) -> Result<NodeView, ClientError> {
        self.post(
            &format!("api/v1/nodes/{}/trust", segment(node)),
            &serde_json::json!({}),
            ANSWER_TIME,
        )
        .await
    }

    /// `POST /api/v1/tokens`: make a join token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_join_token(
        &self,
        create: &CreateJoinToken,
    ) -> Result<JoinToken, ClientError> {
        self.post("api/v1/tokens", create, ANSWER_TIME).await
    }

    /// `GET /api/v1/tokens`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn join_tokens(&self) -> Result<JoinTokenList, ClientError> {
        self.get("api/v1/tokens").await
    }

    /// `POST /api/v1/tokens/ID/revoke`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_join_token(&self, id: &str) -> Result<JoinToken, ClientError> {
        self.post(
            &format!("api/v1/tokens/{}/revoke", segment(id)),
            &serde_json::json!({}),
            ANSWER_TIME,
        )
        .await
    }

    /// `POST /api/v1/s/SID/capability`: URLs that anyone may read for a while.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn capability(
        &self,
        sid: Sid,
        create: &CreateCapability,
    ) -> Result<Capabilities, ClientError> {
        self.post(&format!("api/v1/s/{sid}/capability"), create, ANSWER_TIME)
            .await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let bytes = self.exchange(Method::GET, path, None, ANSWER_TIME).await?;
        self.parse(&bytes)
    }

    async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.bad(&error))?;
        let bytes = self
            .exchange(Method::POST, path, Some(body.into()), limit)
            .await?;
        self.parse(&bytes)
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes).map_err(|error| self.bad(&error))
    }

    fn bad(&self, problem: &dyn fmt::Display) -> ClientError {
        ClientError::BadReply {
            control: self.address(),
            problem: problem.to_string(),
        }
    }

    /// One request and its whole reply, within `limit`.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<Bytes, ClientError> {
        let unreachable = |problem: String| ClientError::Unreachable {
            control: self.address(),
            problem,
        };
        let url = format!("{}{path}", self.base);
        let mut request = Request::builder().method(method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ClientError::Address {
                address: self.address(),
                problem: error.to_string(),
            })?;
        let whole = async {
            let reply = self
                .http
                .request(request)
                .await
                .map_err(|error| unreachable(cause(&error)))?;
            let (head, body) = reply.into_parts();
            let bytes = Limited::new(body, LONGEST_REPLY)
                .collect()
                .await
                .map_err(|error| unreachable(format!("its reply broke off: {error}")))?
                .to_bytes();
            Ok::<_, ClientError>((head, bytes))
        };
        let (head, bytes) = tokio::time::timeout(limit, whole)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", limit.as_secs())))??;
        if head.status.is_success() {
            return Ok(bytes);
        }
        if head.status.is_redirection() || head.status.is_informational() {
            return Err(self.bad(&format_args!("status {}", head.status)));
        }
        Err(self.refusal(head.status, &head.headers, &bytes))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ClientError {
        let detail = serde_json::from_slice::<ErrorBody>(body).map_or_else(
            |_| ErrorDetail {
                code: "unknown".into(),
                message: format!("status {status}"),
                field: None,
            },
            |body| body.error,
        );
        let retry_after = headers
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        ClientError::Refused {
            control: self.address(),
            status,
            detail,
            retry_after,
        }
    }
}

/// Control's address with a slash at the end, so that paths can be appended; it may lie under a path of a proxy.
fn base_url(address: &str) -> Result<Url, ClientError> {
    let wrong = |problem: String| ClientError::Address {
        address: address.to_owned(),
        problem,
    };
    let mut url = Url::parse(address.trim()).map_err(|error| wrong(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong(format!(
            "`{}` is neither http nor https",
            url.scheme()
        )));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(wrong(
            "it must have no user, password, query or fragment".into(),
        ));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn segment(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn tls() -> Result<ClientConfig, rustls::Error> {
    use hyper_rustls::ConfigBuilderExt;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = || {
        ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
    };
    Ok(match builder()?.with_native_roots() {
        Ok(config) => config.with_no_client_auth(),
        // Plain HTTP still works; https will name the unknown issuer.
        Err(_) => builder()?
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    })
}

/// The innermost cause: hyper's own text only says that the client failed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
