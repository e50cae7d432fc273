//! What peers get that ask for the torrent itself, and not for its pieces: its info dict (BEP 9), when they know no more than
//! its name, and hashes of a v2 torrent (BEP 52), when their torrent has no piece layers.
//!
//! Entry: [`Answers`]. Every question is answered, by what was asked for or by a rejection; a peer that asks for far more
//! than there is gets no answer any more, and should be dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use floodway_proto::manifest::Manifest;
use floodway_proto::merkle::GROUP_PIECES;
use floodway_proto::wire::{HashRequest, METADATA_PIECE, Message, MetadataMessage, joined};
use floodway_proto::{Layout, Time};

use crate::PeerKey;
use crate::budget::Budget;

/// A peer may ask for everything so many times at once, ..
const TIMES: u32 = 2;
/// .. for so much more, since small things are cheap, ..
const MORE: u32 = 64;
/// .. and for as much again over so long.
const REFILL: Duration = Duration::from_mins(1);

/// Answers peers of one content, and counts what they ask for.
#[derive(Debug)]
pub struct Answers {
    /// How many requests bring all hashes of the pieces.
    groups: u32,
    peers: BTreeMap<PeerKey, Budgets>,
}

/// What one peer may still ask for.
#[derive(Debug, Default)]
struct Budgets {
    metadata: Option<Budget>,
    hashes: Option<Budget>,
}

/// What to do about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Send this.
    Send(T),
    /// The peer goes on asking for what it has got: drop it.
    Flood,
}

/// Whether one thing more may be asked for now; `all` is how many there are. `None`: the peer is to be dropped.
fn take(budget: &mut Option<Budget>, now: Time, all: u32) -> Option<bool> {
    let most = all.saturating_mul(TIMES).saturating_add(MORE);
    let budget = budget.get_or_insert_with(|| Budget::of(most, REFILL));
    let may = budget.take(now);
    (may || !budget.is_flooded()).then_some(may)
}

impl Answers {
    /// For a content of this layout. Each file of a folder is asked about alone.
    pub fn new(layout: &Layout) -> Self {
        let groups = match layout.files() {
            None => layout.piece_count().div_ceil(GROUP_PIECES),
            Some(files) => files
                .iter()
                .map(|file| (file.pieces.end - file.pieces.start).div_ceil(GROUP_PIECES))
                .sum(),
        };
        Self {
            groups,
            peers: BTreeMap::new(),
        }
    }

    /// A peer asks for a piece of the info dict `info`; `None`: there is none to be given under the name that it used.
    pub fn metadata(
        &mut self,
        now: Time,
        peer: PeerKey,
        info: Option<&Bytes>,
        piece: u32,
    ) -> Answer<MetadataMessage> {
        let length = info.map_or(0, |info| u32::try_from(info.len()).unwrap_or(u32::MAX));
        let budgets = self.peers.entry(peer).or_default();
        let Some(may) = take(&mut budgets.metadata, now, length.div_ceil(METADATA_PIECE)) else {
            return Answer::Flood;
        };
        let data = info.filter(|_| may);
        let data = data.and_then(|info| MetadataMessage::data_of(info, piece));
        Answer::Send(data.unwrap_or(MetadataMessage::Reject { piece }))
    }

    /// A peer asks for hashes of the content that `manifest` is of; `None`: the name that it used is not of a v2 torrent.
    pub fn hashes(
        &mut self,
        now: Time,
        peer: PeerKey,
        manifest: Option<&Manifest>,
        request: &HashRequest,
    ) -> Answer<Message> {
        let budgets = self.peers.entry(peer).or_default();
        let Some(may) = take(&mut budgets.hashes, now, self.groups) else {
            return Answer::Flood;
        };
        let hashes = manifest.filter(|_| may);
        let hashes = hashes.and_then(|manifest| manifest.hashes(request));
        Answer::Send(match hashes {
            Some(hashes) => Message::Hashes(*request, joined(&hashes)),
            None => Message::HashReject(*request),
        })
    }

    /// The peer is gone.
    pub fn forget(&mut self, peer: PeerKey) {
        self.peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerKey = PeerKey(1);
    const PIECE: u32 = 16_384;

    /// One file of so many pieces.
    fn layout(pieces: u32) -> Layout {
        Layout::new(Some(u64::from(pieces * PIECE)), PIECE).unwrap()
    }

    fn ask(answers: &mut Answers, now: Time, info: &Bytes, piece: u32) -> Answer<MetadataMessage> {
        answers.metadata(now, PEER, Some(info), piece)
    }

    #[test]
    fn an_info_dict_is_given_in_pieces_and_what_it_has_not_is_rejected() {
        let info = Bytes::from(vec![7; 40_000]);
        let mut answers = Answers::new(&layout(4));
        for (piece, length) in [(0, 16384), (1, 16384), (2, 40_000 - 32_768)] {
            let sent = Answer::Send(MetadataMessage::Data {
                piece,
                total_size: 40_000,
                data: vec![7; length].into(),
            });
            assert_eq!(ask(&mut answers, Time::ZERO, &info, piece), sent);
        }
        let reject = |piece| Answer::Send(MetadataMessage::Reject { piece });
        assert_eq!(ask(&mut answers, Time::ZERO, &info, 3), reject(3));
        assert_eq!(
            ask(&mut answers, Time::ZERO, &info, u32::MAX),
            reject(u32::MAX)
        );
        assert_eq!(answers.metadata(Time::ZERO, PEER, None, 0), reject(0));
    }

    #[test]
    fn whoever_asks_again_and_again_is_put_off_and_then_dropped() {
        let info = Bytes::from(vec![7; 100 * 16_384]);
        let mut answers = Answers::new(&layout(4));
        let (mut sent, mut rejected) = (0, 0);
        loop {
            match ask(&mut answers, Time::ZERO, &info, 0) {
                Answer::Send(MetadataMessage::Data { .. }) => sent += 1,
                Answer::Send(_) => rejected += 1,
                Answer::Flood => break,
            }
        }
        assert_eq!(sent, 2 * 100 + 64);
        assert_eq!(rejected, 4 * sent);
        // Others do not suffer, and neither does the same peer under a new connection.
        let other = answers.metadata(Time::ZERO, PeerKey(2), Some(&info), 0);
        assert!(matches!(other, Answer::Send(MetadataMessage::Data { .. })));
        answers.forget(PEER);
        assert!(matches!(
            ask(&mut answers, Time::ZERO, &info, 0),
            Answer::Send(MetadataMessage::Data { .. })
        ));
    }

    #[test]
    fn after_a_while_everything_may_be_asked_for_again() {
        let info = Bytes::from(vec![7; 16_384]);
        let mut answers = Answers::new(&layout(4));
        let mut given = |now| {
            let answers = (0..100).map(|_| ask(&mut answers, now, &info, 0));
            let given = answers
                .filter(|answer| matches!(answer, Answer::Send(MetadataMessage::Data { .. })));
            given.count()
        };
        assert_eq!(given(Time::ZERO), 66);
        assert_eq!(given(Time::ZERO + REFILL / 2), 33);
    }

    /// How many questions for hashes are rejected before the peer is dropped.
    fn rejected(layout: &Layout) -> u32 {
        let request = HashRequest {
            pieces_root: floodway_proto::Sha256([1; 32]),
            base_layer: 4,
            index: 0,
            length: 2,
            proof_layers: 0,
        };
        let mut answers = Answers::new(layout);
        let mut rejected = 0;
        while let Answer::Send(answer) = answers.hashes(Time::ZERO, PEER, None, &request) {
            assert_eq!(answer, Message::HashReject(request));
            rejected += 1;
        }
        rejected
    }

    #[test]
    fn hashes_are_rejected_where_there_are_none_and_floods_end() {
        assert_eq!(rejected(&layout(1024)), 5 * (2 * 2 + 64));
    }

    #[test]
    fn each_file_of_a_folder_may_be_asked_about() {
        let path = |file: u32| vec![floodway_proto::SafeName::new(&format!("{file:03}")).unwrap()];
        let files = (0..700).map(|file| (path(file), u64::from(2 * PIECE)));
        let folder = Layout::folder(files, PIECE).unwrap();
        assert_eq!(rejected(&folder), 5 * (2 * 700 + 64));
    }
}
