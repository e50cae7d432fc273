//! Who may use a route, and from where a request comes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{ConnectInfo, FromRequestParts};
use floodway_proto::{NodeId, Sid};
use http::StatusCode;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::App;
use crate::auth::Principal;
use crate::core::{Joining, Sponsor};
use crate::error::ApiError;

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn authenticate(parts: &Parts, app: &App) -> Result<Principal, ApiError> {
    let token = bearer(parts);
    let missing =
        || ApiError::unauthorized("this needs a token: send `Authorization: Bearer TOKEN`");
    let principal = token
        .ok_or_else(missing)
        .and_then(|token| app.directory.authenticate(token));
    if principal.is_err() {
        app.metrics.refused.fetch_add(1, Ordering::Relaxed);
    }
    principal
}

/// The admin token was given.
pub(super) struct Operator;

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match authenticate(parts, app)? {
            Principal::Operator => Ok(Self),
            Principal::Node(_) | Principal::Joiner(_) => Err(ApiError::forbidden(
                "this is for operators: it needs the admin token",
            )),
        }
    }
}

/// A node token was given.
pub(super) struct Node(pub(super) NodeId);

impl FromRequestParts<Arc<App>> for Node {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match authenticate(parts, app)? {
            Principal::Node(node) => Ok(Self(node)),
            Principal::Operator | Principal::Joiner(_) => Err(ApiError::forbidden(
                "this is for nodes: it needs a node token, which enrolling gives",
            )),
        }
    }
}

/// Any token was given; a node's admits short-lived agents only.
pub(super) struct Enroller(pub(super) Sponsor);

impl FromRequestParts<Arc<App>> for Enroller {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match authenticate(parts, app)? {
            Principal::Joiner(joining) => Ok(Self(Sponsor::Joining(joining))),
            Principal::Operator => Ok(Self(Sponsor::Joining(Joining::default()))),
            Principal::Node(node) => Ok(Self(Sponsor::Node(node))),
        }
    }
}

/// The admin token (`None`) or a node token was given.
pub(super) struct Reader(pub(super) Option<NodeId>);

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        match authenticate(parts, app)? {
            Principal::Operator => Ok(Self(None)),
            Principal::Node(node) => Ok(Self(Some(node))),
            Principal::Joiner(_) => Err(ApiError::forbidden(
                "a join token only enrols; contents are read with a node token or the admin token",
            )),
        }
    }
}

/// Who may read the signed side of contents: operators and nodes, and whoever has a capability of the content, as at a relay.
pub(super) struct FactReader {
    /// The only content; absent: any.
    only: Option<Sid>,
}

impl FactReader {
    /// Refuses a capability of another content.
    pub(super) fn check(&self, sid: Sid) -> Result<(), ApiError> {
        if self.only.is_some_and(|only| only != sid) {
            return Err(ApiError::forbidden(
                "this capability is for another content",
            ));
        }
        Ok(())
    }
}

impl FromRequestParts<Arc<App>> for FactReader {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let key = &app.config.capability_key;
        let only = bearer(parts).and_then(|token| key.verify(token, now).ok());
        if only.is_none() {
            Reader::from_request_parts(parts, app).await?;
        }
        Ok(Self { only })
    }
}

/// The address that a request comes from.
pub(super) struct Remote(pub(super) IpAddr);

impl<S: Sync> FromRequestParts<S> for Remote {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let remote = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let unwired = || {
            let message = "this server does not tell its routes where requests come from: a fault of the program";
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
        };
        remote
            .map(|ConnectInfo(addr)| Self(addr.ip().to_canonical()))
            .ok_or_else(unwired)
    }
}
