//! What a peer says: bytes to items, without copying blocks.

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use floodway_proto::Layout;
use floodway_proto::wire::manifest::MANIFEST;
use floodway_proto::wire::{
    self, ExtendedHandshake, Frame, HttpClaims, Limits, METADATA, ManifestMessage, Message,
    MetadataMessage,
};
use floodway_swarm::Input;
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::ReadHalf;

use super::{CLAIMS_ID, Connection, IS_RELAY, MANIFEST_ID, METADATA_ID, PeerError};
use crate::content::Item;
use crate::session::{BUFFER_LENGTH, Pool};

/// A buffer with less room than this is changed for another: small reads cost as much as large ones.
const ROOM_LEAST: usize = 32 * 1024;

impl Connection {
    /// Reads until the peer is done or wrong.
    pub(super) async fn read(&self, mut stream: ReadHalf<'_>) -> Result<(), PeerError> {
        let mut reading = self.content.reading.clone();
        let pool = self.session.pool();
        let mut buffer = pool.take();
        loop {
            self.may_read(&mut reading).await?;
            make_room(&mut buffer, pool);
            let read = stream.read_buf(&mut buffer).await?;
            if read == 0 {
                return Err(PeerError::Closed);
            }
            self.heard.store(true, Ordering::Relaxed);
            self.session.down().charge(read);
            let frames = frames(&mut buffer, self.content.wire_limits)?;
            let items = self.items(frames)?;
            if !items.is_empty() {
                self.send(items).await?;
            }
        }
    }

    /// What the driver must know of these frames.
    fn items(&self, mut frames: Bytes) -> Result<Vec<Item>, PeerError> {
        let mut items = Vec::new();
        let mut received = 0;
        while let Some(frame) = wire::decode(&mut frames, &self.content.wire_limits)? {
            match frame {
                Frame::Piece { piece, begin, data } => {
                    received += data.len() as u64;
                    items.push(block(self.content.layout(), piece, begin, data)?);
                }
                Frame::Message(Message::Extended { id: 0, payload }) => {
                    self.extended(&ExtendedHandshake::decode(&payload)?, &mut items);
                }
                Frame::Message(Message::Extended { id, payload }) if id == MANIFEST_ID => {
                    // To whom we did not offer it, it is one of the many that we do not know.
                    if self.content.growth.is_some() {
                        items.push(Item::Manifest(ManifestMessage::decode(payload)?));
                    }
                }
                Frame::Message(Message::Extended { id, payload }) if id == METADATA_ID => {
                    let message = MetadataMessage::decode(&payload)?;
                    items.extend(self.metadata_asked(&message));
                }
                Frame::Message(Message::HashRequest(request)) => {
                    let torrent = self.content.torrent(self.name);
                    let is_v2 = torrent.is_some_and(|torrent| torrent.is_v2);
                    self.unanswered.send_modify(|unanswered| *unanswered += 1);
                    items.push(Item::HashRequest { is_v2, request });
                }
                Frame::Message(message) => {
                    let input = self.message_input(message)?;
                    items.extend(input.map(Item::Input));
                }
            }
        }
        if received > 0 {
            self.session.metrics().peer_received.add(received);
        }
        Ok(items)
    }

    /// Info dicts are given, not asked for. Who has not said under which number it wants the answer gets none.
    fn metadata_asked(&self, message: &MetadataMessage) -> Option<Item> {
        let MetadataMessage::Request { piece } = *message else {
            return None;
        };
        if self.metadata_id.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.unanswered.send_modify(|unanswered| *unanswered += 1);
        let torrent = self.content.torrent(self.name);
        let info = torrent.map(|torrent| torrent.info);
        Some(Item::MetadataRequest { info, piece })
    }

    /// `None` for what the engine need not know.
    fn message_input(&self, message: Message) -> Result<Option<Input>, PeerError> {
        let peer = self.key;
        Ok(match message {
            Message::Extended { id, payload } if id == CLAIMS_ID => Some(Input::PeerClaims {
                peer,
                claims: HttpClaims::decode(&payload)?,
            }),
            // We offered no other extension, and what we do not know is to be ignored. We ask for no hashes.
            Message::KeepAlive
            | Message::Extended { .. }
            | Message::Port(_)
            | Message::Hashes(..)
            | Message::HashReject(_)
            | Message::Unknown { .. } => None,
            message => Some(Input::PeerMessage { peer, message }),
        })
    }

    fn extended(&self, theirs: &ExtendedHandshake, items: &mut Vec<Item>) {
        let claims_id = theirs.id(HttpClaims::NAME);
        self.claims_id
            .store(claims_id.unwrap_or(0), Ordering::Relaxed);
        let metadata_id = theirs.id(METADATA).unwrap_or(0);
        self.metadata_id.store(metadata_id, Ordering::Relaxed);
        let own = match (self.content.sid, &theirs.floodway) {
            (Some(ours), Some(node)) => node.sid == ours,
            (Some(_), None) => false,
            // A torrent of others has no swarm id: whoever shares claims is one of ours.
            (None, _) => claims_id.is_some(),
        };
        items.push(Item::Input(Input::PeerExtended {
            peer: self.key,
            request_queue: theirs.request_queue,
            own,
            hears_claims: claims_id.is_some(),
        }));
        let node = theirs.floodway.filter(|_| own);
        let manifest_id = theirs
            .id(MANIFEST)
            .filter(|_| self.content.growth.is_some());
        if let (Some(id), Some(node)) = (manifest_id, node)
            && self.manifest_id.swap(id, Ordering::Relaxed) == 0
        {
            items.push(Item::Neighbour {
                head: node.head,
                is_relay: node.capabilities & IS_RELAY != 0,
            });
        }
    }
}

/// Gives `buffer` room for the rest of a message whose beginning it holds, or for a good read.
fn make_room(buffer: &mut BytesMut, pool: &Pool) {
    let rest = if buffer.len() < 4 {
        0
    } else {
        wire::needed(buffer).saturating_sub(buffer.len())
    };
    if buffer.capacity() - buffer.len() >= rest.max(ROOM_LEAST) {
        return;
    }
    let length = buffer.len() + rest + ROOM_LEAST;
    // A message that no pooled buffer holds gets its own.
    let mut fresh = if length > BUFFER_LENGTH {
        BytesMut::with_capacity(length)
    } else {
        pool.take()
    };
    fresh.extend_from_slice(buffer);
    let used = std::mem::replace(buffer, fresh);
    pool.give(used);
}

/// Takes all whole frames off `buffer`; the beginning of the next one stays.
fn frames(buffer: &mut BytesMut, limits: Limits) -> Result<Bytes, PeerError> {
    let mut end = 0;
    loop {
        let rest = &buffer[end..];
        if rest.len() < 4 {
            break;
        }
        let total = wire::needed(rest);
        if total > rest.len() {
            // Refuses what is too long before it is waited for.
            let mut head = Bytes::copy_from_slice(&rest[..rest.len().min(5)]);
            wire::decode(&mut head, &limits)?;
            break;
        }
        end += total;
    }
    Ok(buffer.split_to(end).freeze())
}

fn block(layout: &Layout, piece: u32, begin: u32, data: Bytes) -> Result<Item, PeerError> {
    let length = u32::try_from(data.len()).ok();
    let block = length.and_then(|length| layout.block(piece, begin, length));
    match block {
        Some(block) => Ok(Item::Block { block, data }),
        None => Err(PeerError::NoSuchBlock {
            piece,
            begin,
            length: data.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use floodway_proto::wire::encode_piece_header;

    use super::*;

    #[test]
    fn whole_frames_are_taken_and_the_rest_stays() {
        let limits = Limits::for_pieces(16);
        let mut buffer = BytesMut::new();
        Message::Have(3).encode(&mut buffer);
        encode_piece_header(1, 0, 4, &mut buffer);
        buffer.put_slice(b"data");
        Message::Have(4).encode(&mut buffer);
        let all = buffer.clone();
        for cut in 0..all.len() {
            let mut buffer = BytesMut::from(&all[..cut]);
            let whole = frames(&mut buffer, limits).unwrap();
            let expected = [0, 9, 26].into_iter().rfind(|&end| end <= cut).unwrap();
            assert_eq!(
                (whole.len(), buffer.len()),
                (expected, cut - expected),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_head() {
        let limits = Limits::for_pieces(16);
        let head = |bytes: &[u8]| frames(&mut BytesMut::from(bytes), limits);
        assert!(head(b"\xff\xff\xff\xff").is_err());
        assert!(head(b"\0\x01\0\x0a\x07").is_err(), "a block above 64 KiB");
        assert!(head(b"\0\0\x40\x09\x07").is_ok());
    }

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let layout = Layout::new(Some(40_000), 32 << 10).unwrap();
        let data = |length: usize| Bytes::from(vec![0; length]);
        assert!(block(&layout, 0, 16384, data(16384)).is_ok());
        assert!(block(&layout, 1, 0, data(40_000 - 32_768)).is_ok());
        for (piece, begin, length) in [(0, 0, 16383), (0, 1, 16384), (2, 0, 16384), (1, 0, 16384)] {
            assert!(
                block(&layout, piece, begin, data(length)).is_err(),
                "{piece} {begin} {length}"
            );
        }
    }

    #[test]
    fn a_long_message_gets_a_buffer_of_its_own() {
        let pool = Pool::default();
        let mut buffer = pool.take();
        buffer.put_u32(1 << 20);
        make_room(&mut buffer, &pool);
        assert!(buffer.capacity() >= (1 << 20) + 4);
        assert_eq!(&buffer[..], (1_u32 << 20).to_be_bytes());
    }
}
