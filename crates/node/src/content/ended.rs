//! The driver's side of a content whose length becomes known while it is fetched: to a relay by the body that it reads, to
//! everybody by control's word.

use bytes::Bytes;
use floodway_proto::{BlockId, PieceIndex};
use floodway_swarm::{Input, RequestKey, Sender};

use super::driver::Driver;
use super::{ContentEvent, HttpSource, Item};

impl Driver {
    /// Takes the length from control's records as soon as they say it, before anything that follows from it.
    pub(super) fn learn_length(&mut self) {
        if self.shared.layout().length().is_some() {
            return;
        }
        let growing = self.growing.as_ref();
        if let Some(length) = growing.and_then(|growing| growing.manifest().length()) {
            self.end_at(length);
        }
    }

    /// A body was read to its end. `tail`: its last bytes, which fill no block.
    pub(super) fn body_ended(
        &mut self,
        request: RequestKey,
        source: &HttpSource,
        length: u64,
        tail: Bytes,
    ) {
        // What others than relays read of the origin is checked against control's word, and makes none.
        let is_relay = self
            .shared
            .growth
            .as_ref()
            .is_some_and(|growth| growth.is_relay);
        if !is_relay || !self.sources.is_open(request) {
            return;
        }
        self.end_at(length);
        let layout = self.shared.layout().clone();
        if layout.length() != Some(length) {
            // Another relay read more or less of it before, and control signed that.
            let piece = layout.pieces().next_back().unwrap_or(PieceIndex(0));
            let source = source.url.clone();
            return self.tell(ContentEvent::SourceDropped { source, piece });
        }
        self.tell(ContentEvent::BodyEnded { length });
        let at = length - tail.len() as u64;
        let Some(piece) = layout.piece_at(at).filter(|_| !tail.is_empty()) else {
            return;
        };
        let within = at - layout.piece_offset(piece);
        let index = within / u64::from(layout.block_length());
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let block = BlockId { piece, index };
        let items = vec![Item::Block { block, data: tail }];
        let from = Sender::Http(request);
        self.count_share(from, Some(source), &items);
        self.items(from, items);
    }

    /// The block is one of the content as it is known now: while a body is read the end may become known.
    pub(super) fn exists(&self, block: BlockId, length: usize) -> bool {
        let layout = self.shared.layout();
        block.index < layout.block_count(block.piece) && layout.block_size(block) as usize == length
    }

    fn end_at(&mut self, length: u64) {
        // The store and connections first: they may be asked for the last piece at once.
        if self.shared.end(length) {
            tracing::debug!(length, "the content's length is known");
            self.store.end(length);
            self.input(Input::Ended { length });
        }
    }
}
