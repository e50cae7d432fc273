//! What a peer says: bytes to items, without copying blocks.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use floodway_proto::Layout;
use floodway_proto::wire::manifest::MANIFEST;
use floodway_proto::wire::{
    self, ExtendedHandshake, Frame, HttpClaims, METADATA, ManifestMessage, Message, MetadataMessage,
};
use floodway_swarm::Input;
use tokio::net::tcp::ReadHalf;

use super::received::Received;
use super::{CLAIMS_ID, Connection, IS_RELAY, MANIFEST_ID, METADATA_ID, PeerError};
use crate::content::Item;

impl Connection {
    /// Reads until the peer is done or wrong.
    pub(super) async fn read(&self, mut stream: ReadHalf<'_>) -> Result<(), PeerError> {
        let mut reading = self.content.reading.clone();
        let mut received = Received::new(self.session.pool());
        let mut said = ExtendedHandshake::default();
        loop {
            self.may_read(&mut reading).await?;
            let read = received.read(&mut stream).await?;
            if read == 0 {
                return Err(PeerError::Closed);
            }
            self.heard.store(true, Ordering::Relaxed);
            self.session.down().charge(read);
            let frames = received.frames(self.content.wire_limits)?;
            let items = self.items(frames, &mut said)?;
            if !items.is_empty() {
                self.send(items).await?;
            }
        }
    }

    /// What the driver must know of these frames. `said`: what the peer has said of itself so far (BEP 10).
    fn items(
        &self,
        mut frames: Bytes,
        said: &mut ExtendedHandshake,
    ) -> Result<Vec<Item>, PeerError> {
        let mut items = Vec::new();
        let mut received = 0;
        while let Some(frame) = wire::decode(&mut frames, &self.content.wire_limits)? {
            match frame {
                Frame::Piece { piece, begin, data } => {
                    received += data.len() as u64;
                    items.push(block(self.content.layout(), piece, begin, data)?);
                }
                Frame::Message(Message::Extended { id: 0, payload }) => {
                    said.merge(ExtendedHandshake::decode(&payload)?);
                    self.extended(said, &mut items);
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
            listen_port: theirs.listen_port,
        }));
        let node = theirs.floodway.filter(|_| own);
        if let Some(site) = node.and_then(|node| node.site) {
            let peer = self.key;
            items.push(Item::Input(Input::PeerSite { peer, site }));
        }
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
    use super::*;

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
}
