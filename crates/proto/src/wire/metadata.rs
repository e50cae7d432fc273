//! Info dicts for peers that know only a torrent's name: the extended message `ut_metadata` (BEP 9).

use bytes::Bytes;

use crate::bencode::{self, FieldError, FieldProblem, Item, required};
use crate::wire::WireError;

/// The name of the message in the extension handshake's `m`.
pub const METADATA: &str = "ut_metadata";
/// Info dicts are asked for in pieces of so many bytes; only the last may be shorter.
pub const METADATA_PIECE: u32 = 16 * 1024;

/// One message of the kind [`METADATA`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataMessage {
    /// Send this piece of the info dict.
    Request {
        /// Which: counted from 0. Whether there is such a piece is for the reader to check.
        piece: u32,
    },
    /// A piece of the info dict.
    Data {
        /// Which.
        piece: u32,
        /// Bytes of the whole info dict.
        total_size: u32,
        /// The piece's bytes, at most [`METADATA_PIECE`].
        data: Bytes,
    },
    /// A request will not be answered.
    Reject {
        /// The piece that was asked for.
        piece: u32,
    },
    /// A message of a later version of the protocol, which is to be ignored. Never sent.
    Unknown,
}

impl MetadataMessage {
    /// What answers a request for `piece` of an info dict. `None` when it has no such piece.
    pub fn data_of(info: &Bytes, piece: u32) -> Option<Self> {
        let total_size = u32::try_from(info.len()).ok()?;
        let start = piece.checked_mul(METADATA_PIECE)?;
        let end = total_size.min(start.saturating_add(METADATA_PIECE));
        (start < end).then(|| Self::Data {
            piece,
            total_size,
            data: info.slice(start as usize..end as usize),
        })
    }

    /// The payload of the extended message, without its id. [`Self::Unknown`] is never sent.
    pub fn encode(&self) -> Vec<u8> {
        let dict = |kind, piece: u32, total_size: Option<u32>| {
            let dict = Item::dict_of_some([
                ("msg_type", Some(Item::Integer(kind))),
                ("piece", Some(Item::Integer(piece.into()))),
                (
                    "total_size",
                    total_size.map(|size| Item::Integer(size.into())),
                ),
            ]);
            dict.encode()
        };
        match self {
            Self::Request { piece } => dict(0, *piece, None),
            Self::Data {
                piece,
                total_size,
                data,
            } => {
                let mut out = dict(1, *piece, Some(*total_size));
                out.extend_from_slice(data);
                out
            }
            Self::Reject { piece } => dict(2, *piece, None),
            Self::Unknown => Vec::new(),
        }
    }

    /// Reads the payload of an extended message that came under the number that we gave to [`METADATA`].
    ///
    /// # Errors
    /// [`WireError::Metadata`] when it is malformed, or has more data than a piece.
    pub fn decode(payload: &Bytes) -> Result<Self, WireError> {
        let (value, data) = bencode::decode_prefix(payload, &bencode::Limits::MESSAGE)
            .map_err(|error| WireError::Metadata(MetadataError::Bencode(error)))?;
        let field = |error| WireError::Metadata(MetadataError::Field(error));
        let not_dict = || field(FieldError::new("message", FieldProblem::NotDict));
        let dict = value.as_dict().ok_or_else(not_dict)?;
        let number = |key| required(key, dict.number::<u32>(key)?);
        Ok(match number("msg_type").map_err(field)? {
            // Some clients let bytes follow the dict.
            0 => Self::Request {
                piece: number("piece").map_err(field)?,
            },
            1 if data.len() > METADATA_PIECE as usize => {
                return Err(WireError::Metadata(MetadataError::Data(data.len())));
            }
            1 => Self::Data {
                piece: number("piece").map_err(field)?,
                total_size: number("total_size").map_err(field)?,
                data: payload.slice_ref(data),
            },
            2 => Self::Reject {
                piece: number("piece").map_err(field)?,
            },
            _ => Self::Unknown,
        })
    }
}

/// Why a message of the kind [`METADATA`] was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// It is no bencoding.
    #[error("{0}")]
    Bencode(bencode::DecodeError),
    /// A field is missing or wrong.
    #[error("{0}")]
    Field(FieldError),
    /// More data than a piece has.
    #[error("it has {0} bytes of data; a piece has at most {METADATA_PIECE}")]
    Data(usize),
}
