//! Why a connection ended.

use std::io;

use floodway_proto::wire::WireError;
use floodway_proto::wire::manifest::ManifestMessageError;

/// Why a connection to a peer ended, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("no handshake in time")]
    HandshakeTimeout,
    #[error("it is not plain BitTorrent")]
    NotBitTorrent,
    #[error("it does not serve any of this content's names")]
    Refused,
    #[error("it answered for another content")]
    OtherContent,
    #[error("it asks for a content that is not here")]
    Unknown,
    #[error("it is this process itself")]
    Oneself,
    #[error("there is no room for more peers")]
    Full,
    #[error("it sent nothing for a long time")]
    Silent,
    #[error("its host confirms nothing that is sent to it: it is gone, or has another address")]
    Lost,
    #[error("it asks and asks, and takes no answers")]
    TakesNothing,
    #[error("it closed the connection")]
    Closed,
    #[error("we hung up")]
    HungUp,
    #[error(
        "it sent {length} bytes at {begin} of piece {piece}, which is no block of this content"
    )]
    NoSuchBlock {
        piece: u32,
        begin: u32,
        length: usize,
    },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Manifest(#[from] ManifestMessageError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl PeerError {
    /// True when the peer broke the protocol.
    pub(crate) fn is_peers_fault(&self) -> bool {
        match self {
            Self::NoSuchBlock { .. }
            | Self::OtherContent
            | Self::Manifest(_)
            | Self::TakesNothing => true,
            Self::Wire(error) => error.is_peers_fault(),
            Self::ConnectTimeout
            | Self::HandshakeTimeout
            | Self::NotBitTorrent
            | Self::Refused
            | Self::Unknown
            | Self::Oneself
            | Self::Full
            | Self::Silent
            | Self::Lost
            | Self::Closed
            | Self::HungUp
            | Self::Io(_) => false,
        }
    }
}
