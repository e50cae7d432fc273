//! What waits to be said to a peer. Messages overtake the blocks that wait.
//!
//! A slow uplink needs seconds for the blocks that it has in hand. If our own requests, and news of what can be had here,
//! stood behind them, a peer with a far faster uplink would be idle until it heard of them.

use std::collections::VecDeque;

use floodway_proto::wire::Message;

use crate::content::PeerOut;

/// What is to be sent to one peer.
#[derive(Default)]
pub(super) struct Outbox {
    /// Goes first.
    pub(super) messages: VecDeque<PeerOut>,
    /// Blocks, and what is said of requests for blocks: to who does not know BEP 6 a choke means that no block follows.
    pub(super) answers: VecDeque<PeerOut>,
}

impl Outbox {
    pub(super) fn push(&mut self, out: PeerOut) {
        match out {
            PeerOut::Block { .. }
            | PeerOut::Message(Message::Choke | Message::Unchoke | Message::Reject(_)) => {
                self.answers.push_back(out);
            }
            _ => self.messages.push_back(out),
        }
    }

    pub(super) fn extend(&mut self, more: Vec<PeerOut>) {
        for out in more {
            self.push(out);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use floodway_proto::wire::Request;
    use floodway_proto::{BlockId, PieceIndex};

    use super::*;

    #[test]
    fn messages_overtake_blocks_and_what_is_said_of_them() {
        let request = Request {
            piece: 1,
            begin: 0,
            length: 16_384,
        };
        let block = PeerOut::Block {
            block: BlockId {
                piece: PieceIndex(0),
                index: 0,
            },
            zeros: 0,
        };
        let mut outbox = Outbox::default();
        outbox.extend(vec![
            block,
            PeerOut::Message(Message::Choke),
            PeerOut::Message(Message::Reject(request)),
            PeerOut::Message(Message::Request(request)),
            PeerOut::Message(Message::Unchoke),
            PeerOut::Message(Message::Have(7)),
        ]);
        assert!(matches!(
            outbox.messages.make_contiguous(),
            [
                PeerOut::Message(Message::Request(_)),
                PeerOut::Message(Message::Have(7))
            ]
        ));
        assert!(matches!(
            outbox.answers.make_contiguous(),
            [
                PeerOut::Block { .. },
                PeerOut::Message(Message::Choke),
                PeerOut::Message(Message::Reject(_)),
                PeerOut::Message(Message::Unchoke)
            ]
        ));
    }
}
