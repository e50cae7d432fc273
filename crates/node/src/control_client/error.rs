//! What can go wrong between this process and control.

use std::time::Duration;

use floodway_api::rest::ErrorDetail;
use http::StatusCode;

/// Why a request to control failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address of control cannot be used.
    #[error(
        "control's address `{address}` cannot be used: {problem}; write it like http://host:7600"
    )]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The token holds characters that no token has.
    #[error(
        "the token is not one that control makes: it has blanks or control characters; check the token file"
    )]
    Token,
    /// TLS cannot be set up on this machine.
    #[error("TLS cannot be set up on this machine: {0}")]
    Tls(#[from] rustls::Error),
    /// No connection, a broken or a silent one.
    #[error("control at {control} cannot be reached: {problem}")]
    Unreachable {
        /// Its address.
        control: String,
        /// What happened.
        problem: String,
    },
    /// Control answered, and refused.
    #[error("control at {control} refused: {}{}", detail.message, at_field(detail))]
    Refused {
        /// Its address.
        control: String,
        /// The HTTP status.
        status: StatusCode,
        /// What control says of it.
        detail: ErrorDetail,
        /// When to ask again, if control said so.
        retry_after: Option<Duration>,
    },
    /// What answered is no control, or a broken one.
    #[error("what answers at {control} makes no sense: {problem}; is it a Floodway control?")]
    BadReply {
        /// Its address.
        control: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn at_field(detail: &ErrorDetail) -> String {
    // Control often names the field in the message already.
    match &detail.field {
        Some(field) if !detail.message.contains(field.as_str()) => format!(" (field `{field}`)"),
        _ => String::new(),
    }
}

impl ClientError {
    /// True when control is away or in trouble: the same request may succeed later.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::BadReply { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Address { .. } | Self::Token | Self::Tls(_) => false,
        }
    }

    /// True when the token is not accepted (401), or not for this (403).
    pub fn is_token_refused(&self) -> bool {
        matches!(
            self.status(),
            Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        )
    }

    /// True when control does not know what was named (404).
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// True when control says which field of the request it cannot use (400): what it holds is to be corrected, at this end.
    pub fn names_a_field(&self) -> bool {
        let field = self.detail().and_then(|detail| detail.field.as_ref());
        self.status() == Some(StatusCode::BAD_REQUEST) && field.is_some()
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What control said of a refusal.
    pub fn detail(&self) -> Option<&ErrorDetail> {
        match self {
            Self::Refused { detail, .. } => Some(detail),
            _ => None,
        }
    }
}
