//! Bodies and path segments, with errors that name the field.

use std::fmt;
use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use floodway_proto::Sid;
use http::StatusCode;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Both limits are those of [`routes`](super::routes).
const TOO_LARGE: &str = "the body is too long: a sync, and a task with its list of files, may have 16 MiB, other requests 2 MiB; publish a folder of many files in parts, or packed";

/// A body of JSON, whatever its content type says.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let (code, message) = match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ("too_large", TOO_LARGE.to_owned()),
                    _ => ("bad_request", rejection.body_text()),
                };
                ApiError::new(rejection.status(), code, message)
            })?;
        read(&bytes).map(Self)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let refused = ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_request",
            format!("the body is not what this route takes: {}", error.inner()),
        );
        match field(&path, &error.inner().to_string()) {
            Some(field) => refused.field(field),
            None => refused,
        }
    })?;
    json.end().map_err(|error| {
        let message = format!("the body goes on after its JSON value: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    })?;
    Ok(value)
}

/// The field at fault: where the reader stood, or what its message quotes when the field is missing or unknown.
fn field(path: &str, message: &str) -> Option<String> {
    let quoted = ["missing field `", "unknown field `"]
        .iter()
        .find_map(|lead| {
            let (_, rest) = message.split_once(lead)?;
            Some(rest.split_once('`')?.0.to_owned())
        });
    let place = (path != "." && path != "?").then(|| path.to_owned());
    match (place, quoted) {
        (Some(place), Some(quoted))
            if place != quoted && !place.ends_with(&format!(".{quoted}")) =>
        {
            Some(format!("{place}.{quoted}"))
        }
        (place, quoted) => place.or(quoted),
    }
}

/// The value of a key in a query, read as a `T`.
///
/// # Errors
/// 400 naming the key when it holds something else.
pub(super) fn query<T: FromStr<Err: fmt::Display>>(
    query: Option<&str>,
    key: &str,
) -> Result<Option<T>, ApiError> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let value = pairs.find(|(name, _)| name == key);
    let value = value.map(|(_, text)| {
        let read = text.parse();
        read.map_err(|problem| ApiError::bad_field(key, format!("`{key}`: {problem}")))
    });
    value.transpose()
}

/// Reads the swarm id of a path.
pub(super) fn sid(text: &str) -> Result<Sid, ApiError> {
    text.parse()
        .map_err(|error: floodway_proto::IdError| ApiError::bad_field("sid", error.to_string()))
}

#[cfg(test)]
mod tests {
    use floodway_api::rest::CreateTask;
    use floodway_api::sync::SyncRequest;

    use super::*;

    fn field_of<T: DeserializeOwned>(body: &str) -> Option<String> {
        let error = read::<T>(body.as_bytes()).err().expect("must be refused");
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        error.detail().field.clone()
    }

    #[test]
    fn errors_name_the_field_at_fault() {
        assert_eq!(field_of::<CreateTask>("{}").as_deref(), Some("url"));
        assert_eq!(
            field_of::<CreateTask>(r#"{"url":1}"#).as_deref(),
            Some("url")
        );
        assert_eq!(
            field_of::<CreateTask>(r#"{"url":"x","ot":"all"}"#).as_deref(),
            Some("ot")
        );
        let nested = r#"{"contents":[{"sid":"zz"}]}"#;
        assert_eq!(
            field_of::<SyncRequest>(nested).as_deref(),
            Some("contents[0].sid")
        );
        let missing = r#"{"tasks":[{"task":"t1"}]}"#;
        assert_eq!(
            field_of::<SyncRequest>(missing).as_deref(),
            Some("tasks[0].state")
        );
        assert_eq!(field_of::<CreateTask>("").as_deref(), None);
        assert_eq!(field_of::<CreateTask>(r#"{"url":"x"} {"#).as_deref(), None);
    }
}
