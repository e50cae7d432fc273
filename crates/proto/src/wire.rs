//! What peers say: handshake and messages of BEP 3, 6 (fast), 9 (metadata), 10 (extensions) and 52 (hashes).
//!
//! Entry: [`decode`] takes one whole [`Frame`] off the front of what was received, without copying payload. A
//! message that is too long is refused as soon as its length is visible, so a peer cannot make us wait for or
//! hold more than [`Limits`] allow. Web seeds (BEP 19) need no messages: they are plain HTTP ranges.

use bytes::{Buf, BufMut, Bytes};

use crate::bencode::{DecodeError, FieldError};
use crate::{InfoHash, PeerName};
use hashes::{ANSWER_HASHES_LIMIT, REQUEST_LENGTH};

mod claims;
mod extended;
mod hashes;
pub mod manifest;
mod metadata;

pub use claims::HttpClaims;
pub use extended::{ExtendedHandshake, OwnNode};
pub use hashes::{HashRequest, joined};
pub use manifest::{ManifestMessage, ManifestMessageError};
pub use metadata::{METADATA, METADATA_PIECE, MetadataError, MetadataMessage};

/// The length of a [`Handshake`] in bytes.
pub const HANDSHAKE_LENGTH: usize = 68;
/// The first 20 bytes of every BitTorrent connection.
pub const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";

/// The longest block that a peer may send, in bytes. We ask for 16 KiB.
const BLOCK_LIMIT: u32 = 64 * 1024;
/// The longest extended message that a peer may send, in bytes.
const EXTENDED_LIMIT: u32 = 1024 * 1024;
/// The most pieces a torrent may have while we do not know it (libtorrent's limit).
const PIECES_LIMIT: u32 = 1 << 21;

/// Why a peer's bytes were refused. The connection cannot go on after any of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The connection began with something else than [`PROTOCOL`]; perhaps with encryption.
    #[error("the peer does not speak plain BitTorrent")]
    NotBitTorrent,
    /// A message above its limit.
    #[error("the peer sent a message of {length} bytes; the limit is {limit}")]
    MessageTooLong {
        /// Its length, without the 4 bytes of the length itself.
        length: u32,
        /// What is allowed for this kind of message.
        limit: u32,
    },
    /// A message of a known kind that cannot have this length.
    #[error("the peer sent message {id} with a length of {length} bytes; it has {expected}")]
    WrongLength {
        /// The kind.
        id: u8,
        /// The length that came.
        length: u32,
        /// The length, or the least length, of this kind.
        expected: u32,
    },
    /// An extension handshake that is no bencoding.
    #[error("the peer's extension handshake is unreadable: {0}")]
    Bencode(DecodeError),
    /// An extension handshake with a wrong field.
    #[error("the peer's extension handshake is wrong: {0}")]
    Field(FieldError),
    /// [`HttpClaims`] that are no ascending list of ranges, or too many.
    #[error("the peer's HTTP claims are no list of at most {limit} ascending ranges", limit = HttpClaims::RANGES_LIMIT)]
    Claims,
    /// A malformed message of the kind [`manifest::MANIFEST`].
    #[error("the peer broke the manifest protocol: {0}")]
    Manifest(#[from] ManifestMessageError),
    /// A malformed message of the kind [`METADATA`].
    #[error("the peer's metadata message is wrong: {0}")]
    Metadata(MetadataError),
}

impl WireError {
    /// True when the peer broke the protocol and must not be dialled again.
    pub fn is_peers_fault(&self) -> bool {
        match self {
            Self::NotBitTorrent => false,
            Self::MessageTooLong { .. }
            | Self::WrongLength { .. }
            | Self::Bencode(_)
            | Self::Field(_)
            | Self::Claims
            | Self::Manifest(_)
            | Self::Metadata(_) => true,
        }
    }
}

/// The first thing each side says (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The content: one of its 20-byte names.
    pub info_hash: InfoHash,
    /// Who speaks.
    pub peer: PeerName,
    /// The speaker knows the extension protocol (BEP 10).
    pub extensions: bool,
    /// The speaker knows the fast extension (BEP 6).
    pub fast: bool,
}

impl Handshake {
    /// The 68 bytes.
    pub fn encode(&self) -> [u8; HANDSHAKE_LENGTH] {
        let mut out = [0; HANDSHAKE_LENGTH];
        out[..20].copy_from_slice(PROTOCOL);
        out[25] = if self.extensions { 0x10 } else { 0 };
        out[27] = if self.fast { 0x04 } else { 0 };
        out[28..48].copy_from_slice(&self.info_hash.0);
        out[48..].copy_from_slice(&self.peer.0);
        out
    }

    /// Reads the 68 bytes. Reserved bits that we do not know are ignored.
    ///
    /// # Errors
    /// [`WireError::NotBitTorrent`] when they do not begin with [`PROTOCOL`].
    pub fn decode(bytes: &[u8; HANDSHAKE_LENGTH]) -> Result<Self, WireError> {
        if !bytes.starts_with(PROTOCOL) {
            return Err(WireError::NotBitTorrent);
        }
        let mut info_hash = InfoHash([0; 20]);
        let mut peer = PeerName([0; 20]);
        info_hash.0.copy_from_slice(&bytes[28..48]);
        peer.0.copy_from_slice(&bytes[48..]);
        Ok(Self {
            info_hash,
            peer,
            extensions: bytes[25] & 0x10 != 0,
            fast: bytes[27] & 0x04 != 0,
        })
    }
}

/// Names bytes of a piece, as peers do. Nothing is checked: see [`Layout::block`](crate::Layout::block).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The piece's index.
    pub piece: u32,
    /// Bytes from the piece's start.
    pub begin: u32,
    /// How many bytes.
    pub length: u32,
}

/// A message without a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing, to keep the connection alive.
    KeepAlive,
    /// Requests will not be answered from now on.
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender wants pieces that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender has this piece now.
    Have(u32),
    /// All pieces that the sender has; see [`Bitfield::from_bytes`](crate::Bitfield::from_bytes).
    Bitfield(Bytes),
    /// Send this block.
    Request(Request),
    /// Do not send this block any more.
    Cancel(Request),
    /// Fast: the sender would like to send this piece.
    Suggest(u32),
    /// Fast: the sender has all pieces.
    HaveAll,
    /// Fast: the sender has no piece.
    HaveNone,
    /// Fast: this request will not be answered.
    Reject(Request),
    /// Fast: this piece may be asked for while choked.
    AllowedFast(u32),
    /// An extended message (BEP 10); id 0 is an [`ExtendedHandshake`].
    Extended {
        /// The number that the *receiver* gave to this kind of message.
        id: u8,
        /// What follows the number.
        payload: Bytes,
    },
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// v2: send these hashes.
    HashRequest(HashRequest),
    /// v2: the hashes that were asked for, and then those that prove them, 32 bytes each.
    Hashes(HashRequest, Bytes),
    /// v2: this request for hashes will not be answered.
    HashReject(HashRequest),
    /// A message of a kind that we do not know; its payload was dropped. Never sent.
    Unknown {
        /// The kind.
        id: u8,
        /// The length in bytes, with the id.
        length: u32,
    },
}

/// One whole message as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Anything but a block.
    Message(Message),
    /// A block (BEP 3's message "piece").
    Piece {
        /// The piece's index.
        piece: u32,
        /// Bytes from the piece's start.
        begin: u32,
        /// The block, sharing the memory of what was received.
        data: Bytes,
    },
}

/// How long a peer's messages may be, in bytes, without the 4 bytes of the length itself.
///
/// Each kind has its own limit; these two depend on the content and on what we are willing to read. Blocks may have
/// 64 KiB, extended messages 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Any message, known or not.
    pub message_length: u32,
    /// A bitfield, with its id.
    pub bitfield_length: u32,
}

impl Default for Limits {
    /// Enough for 2^21 pieces.
    fn default() -> Self {
        Self::for_pieces(PIECES_LIMIT)
    }
}

impl Limits {
    /// For a content of `pieces` pieces.
    pub fn for_pieces(pieces: u32) -> Self {
        let bitfield_length = 1 + pieces.div_ceil(8);
        Self {
            message_length: bitfield_length.max(2 + EXTENDED_LIMIT).max(9 + BLOCK_LIMIT),
            bitfield_length,
        }
    }
}

mod id {
    pub(super) const CHOKE: u8 = 0;
    pub(super) const UNCHOKE: u8 = 1;
    pub(super) const INTERESTED: u8 = 2;
    pub(super) const NOT_INTERESTED: u8 = 3;
    pub(super) const HAVE: u8 = 4;
    pub(super) const BITFIELD: u8 = 5;
    pub(super) const REQUEST: u8 = 6;
    pub(super) const PIECE: u8 = 7;
    pub(super) const CANCEL: u8 = 8;
    pub(super) const PORT: u8 = 9;
    pub(super) const SUGGEST: u8 = 13;
    pub(super) const HAVE_ALL: u8 = 14;
    pub(super) const HAVE_NONE: u8 = 15;
    pub(super) const REJECT: u8 = 16;
    pub(super) const ALLOWED_FAST: u8 = 17;
    pub(super) const EXTENDED: u8 = 20;
    pub(super) const HASH_REQUEST: u8 = 21;
    pub(super) const HASHES: u8 = 22;
    pub(super) const HASH_REJECT: u8 = 23;
}

/// The length prefix, once its 4 bytes are there.
fn prefix(input: &[u8]) -> Option<u32> {
    input.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// How many bytes `input` must have in all before [`decode`] can take the next frame off it.
///
/// Never less than 4. Ask after [`decode`] returned `None`: it has then checked the length against the limits.
pub fn needed(input: &[u8]) -> usize {
    prefix(input).map_or(4, |length| 4 + length as usize)
}

/// Takes one whole frame off the front of `input`. `None` when more bytes are needed; `input` is then untouched.
///
/// # Errors
/// [`WireError`] when the message is longer than `limits` allow or its length does not fit its kind; `input` is
/// then of no more use.
pub fn decode(input: &mut Bytes, limits: &Limits) -> Result<Option<Frame>, WireError> {
    let Some(length) = prefix(input) else {
        return Ok(None);
    };
    if length > limits.message_length {
        let limit = limits.message_length;
        return Err(WireError::MessageTooLong { length, limit });
    }
    if length == 0 {
        input.advance(4);
        return Ok(Some(Frame::Message(Message::KeepAlive)));
    }
    let Some(&id) = input.get(4) else {
        return Ok(None);
    };
    check_length(id, length, *limits)?;
    let total = 4 + length as usize;
    if input.len() < total {
        return Ok(None);
    }
    let mut body = input.split_to(total);
    body.advance(5);
    Ok(Some(frame(id, length, body)))
}

/// Refuses a length that this kind of message cannot have, before its payload is waited for.
fn check_length(id: u8, length: u32, limits: Limits) -> Result<(), WireError> {
    let (least, most) = match id {
        id::CHOKE
        | id::UNCHOKE
        | id::INTERESTED
        | id::NOT_INTERESTED
        | id::HAVE_ALL
        | id::HAVE_NONE => (1, 1),
        id::PORT => (3, 3),
        id::HAVE | id::SUGGEST | id::ALLOWED_FAST => (5, 5),
        id::REQUEST | id::CANCEL | id::REJECT => (13, 13),
        id::PIECE => (9, 9 + BLOCK_LIMIT),
        id::BITFIELD => (1, limits.bitfield_length),
        id::EXTENDED => (2, 2 + EXTENDED_LIMIT),
        id::HASH_REQUEST | id::HASH_REJECT => (1 + REQUEST_LENGTH, 1 + REQUEST_LENGTH),
        id::HASHES => {
            let head = 1 + REQUEST_LENGTH;
            (head + 32, head + 32 * ANSWER_HASHES_LIMIT)
        }
        _ => (1, limits.message_length),
    };
    let is_cut = id == id::HASHES && !(length.saturating_sub(least)).is_multiple_of(32);
    if length < least || (least == most && length != most) || is_cut {
        let expected = least;
        return Err(WireError::WrongLength {
            id,
            length,
            expected,
        });
    }
    if length > most {
        let limit = most;
        return Err(WireError::MessageTooLong { length, limit });
    }
    Ok(())
}

/// `body` is what follows the id; its length has been checked.
fn frame(id: u8, length: u32, mut body: Bytes) -> Frame {
    Frame::Message(match id {
        id::CHOKE => Message::Choke,
        id::UNCHOKE => Message::Unchoke,
        id::INTERESTED => Message::Interested,
        id::NOT_INTERESTED => Message::NotInterested,
        id::HAVE => Message::Have(body.get_u32()),
        id::BITFIELD => Message::Bitfield(body),
        id::REQUEST => Message::Request(request(&mut body)),
        id::PIECE => {
            return Frame::Piece {
                piece: body.get_u32(),
                begin: body.get_u32(),
                data: body,
            };
        }
        id::CANCEL => Message::Cancel(request(&mut body)),
        id::PORT => Message::Port(body.get_u16()),
        id::SUGGEST => Message::Suggest(body.get_u32()),
        id::HAVE_ALL => Message::HaveAll,
        id::HAVE_NONE => Message::HaveNone,
        id::REJECT => Message::Reject(request(&mut body)),
        id::ALLOWED_FAST => Message::AllowedFast(body.get_u32()),
        id::EXTENDED => Message::Extended {
            id: body.get_u8(),
            payload: body,
        },
        id::HASH_REQUEST => Message::HashRequest(HashRequest::read(&mut body)),
        id::HASHES => Message::Hashes(HashRequest::read(&mut body), body),
        id::HASH_REJECT => Message::HashReject(HashRequest::read(&mut body)),
        _ => Message::Unknown { id, length },
    })
}

fn request(body: &mut Bytes) -> Request {
    Request {
        piece: body.get_u32(),
        begin: body.get_u32(),
        length: body.get_u32(),
    }
}

/// The length prefix of a message whose payload after the id has `payload` bytes.
///
/// # Panics
/// When it is longer than 4 GiB, which no message of ours is.
fn put_head(id: u8, payload: usize, out: &mut impl BufMut) {
    let length = u32::try_from(payload + 1).expect("our own messages are far shorter than 4 GiB");
    out.put_u32(length);
    out.put_u8(id);
}

fn put_request(id: u8, request: &Request, out: &mut impl BufMut) {
    put_head(id, 12, out);
    out.put_u32(request.piece);
    out.put_u32(request.begin);
    out.put_u32(request.length);
}

/// `more` bytes follow.
fn put_hash_request(id: u8, request: &HashRequest, more: usize, out: &mut impl BufMut) {
    put_head(id, REQUEST_LENGTH as usize + more, out);
    request.put(out);
}

fn put_index(id: u8, index: u32, out: &mut impl BufMut) {
    put_head(id, 4, out);
    out.put_u32(index);
}

impl Message {
    /// Appends the message with its length prefix. [`Message::Unknown`] writes nothing: peers close on what they
    /// do not know.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::KeepAlive => out.put_u32(0),
            Self::Choke => put_head(id::CHOKE, 0, out),
            Self::Unchoke => put_head(id::UNCHOKE, 0, out),
            Self::Interested => put_head(id::INTERESTED, 0, out),
            Self::NotInterested => put_head(id::NOT_INTERESTED, 0, out),
            Self::Have(piece) => put_index(id::HAVE, *piece, out),
            Self::Bitfield(bits) => {
                put_head(id::BITFIELD, bits.len(), out);
                out.put_slice(bits);
            }
            Self::Request(request) => put_request(id::REQUEST, request, out),
            Self::Cancel(request) => put_request(id::CANCEL, request, out),
            Self::Suggest(piece) => put_index(id::SUGGEST, *piece, out),
            Self::HaveAll => put_head(id::HAVE_ALL, 0, out),
            Self::HaveNone => put_head(id::HAVE_NONE, 0, out),
            Self::Reject(request) => put_request(id::REJECT, request, out),
            Self::AllowedFast(piece) => put_index(id::ALLOWED_FAST, *piece, out),
            Self::Extended { id, payload } => {
                put_head(id::EXTENDED, 1 + payload.len(), out);
                out.put_u8(*id);
                out.put_slice(payload);
            }
            Self::Port(port) => {
                put_head(id::PORT, 2, out);
                out.put_u16(*port);
            }
            Self::HashRequest(request) => put_hash_request(id::HASH_REQUEST, request, 0, out),
            Self::Hashes(request, hashes) => {
                put_hash_request(id::HASHES, request, hashes.len(), out);
                out.put_slice(hashes);
            }
            Self::HashReject(request) => put_hash_request(id::HASH_REJECT, request, 0, out),
            Self::Unknown { .. } => {}
        }
    }
}

/// Appends the 13 bytes that precede a block of `length` bytes; the block itself follows.
///
/// # Panics
/// When `length` is not below 4 GiB - 9.
pub fn encode_piece_header(piece: u32, begin: u32, length: u32, out: &mut impl BufMut) {
    put_head(id::PIECE, 8 + length as usize, out);
    out.put_u32(piece);
    out.put_u32(begin);
}

#[cfg(test)]
mod tests;
