//! Reaching control as an operator: address and token from flags or environment, refusals as exit codes.

use std::path::{Path, PathBuf};

use clap::Args;
use floodway_node::control_client::{ClientError, ControlClient};
use url::Url;

use crate::exit::{Exit, Failure};

/// A token file longer than this holds no token.
const TOKEN_MAX: u64 = 4096;

/// How a client of control finds it and says who it is.
#[derive(Args, Debug)]
pub(crate) struct ClientArgs {
    /// Control's address; else `FLOODWAY_CONTROL` is used
    #[arg(long, value_name = "URL")]
    control: Option<Url>,
    /// A file with the token; else `FLOODWAY_TOKEN` is used
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

impl ClientArgs {
    /// Control's address; an empty `FLOODWAY_CONTROL` is none, as with all settings.
    ///
    /// # Errors
    /// When the variable holds no URL.
    pub(crate) fn control(&self) -> Result<Option<Url>, Failure> {
        if self.control.is_some() {
            return Ok(self.control.clone());
        }
        let set = std::env::var_os("FLOODWAY_CONTROL").filter(|text| !text.is_empty());
        let Some(text) = set else { return Ok(None) };
        let text = text.to_string_lossy();
        text.parse().map(Some).map_err(|error| {
            Failure::usage(format_args!(
                "the environment variable FLOODWAY_CONTROL cannot be used: `{}` is not a URL ({error})",
                text.escape_debug()
            ))
        })
    }

    /// A client for operators' commands.
    ///
    /// # Errors
    /// When address or token is missing or cannot be used.
    pub(crate) fn operator(&self) -> Result<ControlClient, Failure> {
        let Some(control) = self.control()? else {
            return Err(Failure::usage(
                "this command asks control, and no address of it was given",
            )
            .hint("give `--control URL` or set FLOODWAY_CONTROL"));
        };
        let Some(token) = token(self.token_file.as_deref())? else {
            return Err(Failure::new(Exit::Refused, "control asks for the admin token, and none was given")
                .hint("give `--token-file DATA/admin.token` (DATA: control's data folder) or set FLOODWAY_TOKEN"));
        };
        ControlClient::new(control.as_str(), Some(&token)).map_err(failure)
    }
}

/// The token in `file`, else in `FLOODWAY_TOKEN`.
///
/// # Errors
/// When the file cannot be read or is no token file.
pub(crate) fn token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else {
        return Ok(std::env::var("FLOODWAY_TOKEN")
            .ok()
            .filter(|token| !token.trim().is_empty()));
    };
    let at = path.display();
    let unreadable = |error| {
        Failure::usage(format_args!("the token file {at} cannot be read: {error}"))
            .hint("control writes admin.token and join.token into its data folder")
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    if length > TOKEN_MAX || text.trim().is_empty() {
        return Err(Failure::usage(format_args!(
            "the token file {at} holds no token"
        )));
    }
    Ok(Some(text.trim().to_owned()))
}

/// A node's join token, which it needs once: a file that is gone by now is worth a warning only.
///
/// # Errors
/// As [`token`], for a file that exists.
pub(crate) fn join_token(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file.filter(|path| !path.exists()) else {
        return token(file);
    };
    tracing::warn!(
        "the token file {} does not exist: only a node that is enrolled already can start",
        path.display()
    );
    Ok(None)
}

/// Control's refusal, or its silence, as a failure of the command.
pub(crate) fn failure(error: ClientError) -> Failure {
    let exit = match &error {
        ClientError::Address { .. } | ClientError::Token => Exit::Usage,
        _ if error.is_token_refused() => Exit::Refused,
        _ if error.is_not_found() => Exit::NotFound,
        _ if error
            .status()
            .is_some_and(|status| status.is_client_error()) =>
        {
            Exit::Usage
        }
        _ => Exit::Failed,
    };
    let code = error.detail().map(|detail| detail.code.as_str());
    let hint = match (&error, exit) {
        (_, Exit::Refused) if code == Some("not_allowed") => {
            Some("start control with `--allow-origin PREFIX` for origins that may be read")
        }
        (_, Exit::Refused) => Some("check which token it is: operators' commands need admin.token"),
        (ClientError::Unreachable { .. }, _) => {
            Some("check that control runs, and `--control` or FLOODWAY_CONTROL")
        }
        _ => None,
    };
    let failure = Failure::new(exit, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
