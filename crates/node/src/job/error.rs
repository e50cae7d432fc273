//! Why a transfer did not end with the file.

use std::path::PathBuf;
use std::sync::Arc;

use floodway_origin::{ErrorKind, OriginError};
use floodway_proto::metainfo::MetainfoError;
use floodway_proto::{NameError, Sha256};
use floodway_store::OpenError;

use crate::control_client::ClientError;
use crate::{AddError, ContentError, SessionError};

/// Why a transfer did not end with the file; [`GetError::exit_code`] classifies it.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The torrent file is malformed or not supported.
    #[error(transparent)]
    Torrent(#[from] MetainfoError),
    /// The file name may not reach a disk.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The peer address or TLS cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The file cannot be written there, or is there already.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The disk refused.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A file beside the target could not be used.
    #[error("could not {action} `{path}`: {source}", path = .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// The file's bytes could not be written to where they were to go in order.
    #[error(
        "{}; {written} bytes of the file were written before",
        broken_output(source)
    )]
    Output {
        /// So many bytes were written.
        written: u64,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// What was written in order is not the beginning of the file that there is now.
    #[error(
        "the object changed at its origin after the first {0} bytes of its old version had been written to stdout; what was written is of no use: begin anew"
    )]
    OutputDiffers(u64),
    /// A file has the target's name already.
    #[error("`{path}` already exists; remove it, choose another name with -o, or use --overwrite", path = .0.display())]
    TargetExists(PathBuf),
    /// The origin did not give it.
    #[error(transparent)]
    Origin(#[from] Arc<OriginError>),
    /// Control did not answer, or refused.
    #[error(transparent)]
    Control(#[from] ClientError),
    /// Not permitted: by the allow-list, by policy, by an option.
    #[error("{0}")]
    Refused(String),
    /// There is no such content.
    #[error("{0}")]
    NotFound(String),
    /// Nobody is left who could deliver.
    #[error("{0}")]
    NobodyLeft(String),
    /// Another version of the object takes the place of the content that was being fetched.
    #[error(
        "the object changed at its origin while it was fetched; what came of the old version was discarded"
    )]
    Replaced,
    /// A growing content is final, and its torrent says more than what came of its records.
    #[error("the content is final: it is fetched by its torrent from now on")]
    ByTorrent,
    /// The relays that fetched the content are gone, and the origin may be read instead.
    #[error("no relay is left that fetches this content: {0}")]
    NoRelay(&'static str),
    /// The file is not the one that was wanted.
    #[error(
        "the file's SHA-256 is {found}, not {expected}: it is damaged or another version; nothing was kept"
    )]
    Mismatch {
        /// What it should be.
        expected: Sha256,
        /// What it is.
        found: Sha256,
    },
    /// Stopped before it was done.
    #[error("stopped before the file was complete; run the same command again to resume")]
    Interrupted,
    /// Stopped before it was done, and the origin cannot be read from the middle.
    #[error(
        "stopped before the file was complete; its origin allows no resume: the same command begins anew"
    )]
    InterruptedAnew,
    /// The task was cancelled.
    #[error("the task was cancelled")]
    Cancelled,
}

/// Says whose fault it is that stdout takes no more.
fn broken_output(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => {
            "whoever reads the file from stdout closed it before the end".into()
        }
        _ => format!("the file could not be written to stdout: {error}"),
    }
}

impl From<OriginError> for GetError {
    fn from(error: OriginError) -> Self {
        Self::Origin(Arc::new(error))
    }
}

impl GetError {
    /// The exit code of `contracts.md`: 1 failed, 2 usage, 3 mismatch, 4 not found, 5 refused, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Torrent(_) | Self::Name(_) | Self::TargetExists(_) => 2,
            Self::Add(AddError::Open(error)) => match error {
                OpenError::TargetExists(_)
                | OpenError::TargetDiffers(_)
                | OpenError::NotAFileName(_)
                | OpenError::NoFolder(_)
                | OpenError::FolderExists(_)
                | OpenError::IsFolder(_) => 2,
                OpenError::WrongLength { .. } => 3,
                _ => 1,
            },
            Self::Add(AddError::NotThisContent { .. }) => 3,
            Self::Mismatch { .. } => 3,
            Self::NotFound(_) => 4,
            Self::Refused(_) => 5,
            Self::Origin(error) => match error.kind() {
                ErrorKind::NotFound => 4,
                ErrorKind::NotAllowed | ErrorKind::Refused => 5,
                _ => 1,
            },
            Self::Control(error) if error.is_token_refused() => 5,
            Self::Control(error) if error.is_not_found() => 4,
            Self::Control(ClientError::Address { .. } | ClientError::Token) => 2,
            Self::Interrupted | Self::InterruptedAnew | Self::Cancelled => 130,
            Self::Output { .. }
            | Self::OutputDiffers(_)
            | Self::Session(_)
            | Self::Add(_)
            | Self::Content(_)
            | Self::File { .. }
            | Self::Control(_)
            | Self::NobodyLeft(_)
            | Self::Replaced
            | Self::ByTorrent
            | Self::NoRelay(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let url = String::new;
        let origin = |error: OriginError| GetError::from(error).exit_code();
        assert_eq!(
            origin(OriginError::NotFound {
                url: url(),
                status: Some(404)
            }),
            4
        );
        assert_eq!(
            origin(OriginError::Refused {
                url: url(),
                status: Some(403)
            }),
            5
        );
        assert_eq!(
            origin(OriginError::NotAllowed {
                url: url(),
                reason: url()
            }),
            5
        );
        assert_eq!(
            origin(OriginError::Server {
                url: url(),
                status: 500
            }),
            1
        );
        let open = |error| GetError::from(AddError::from(error)).exit_code();
        assert_eq!(open(OpenError::TargetExists("f".into())), 2);
        assert_eq!(open(OpenError::Locked("f".into())), 1);
        assert_eq!(GetError::Interrupted.exit_code(), 130);
        let zero = Sha256([0; 32]);
        assert_eq!(
            GetError::Mismatch {
                expected: zero,
                found: zero
            }
            .exit_code(),
            3
        );
        assert_eq!(GetError::Control(ClientError::Token).exit_code(), 2);
    }
}
