//! One simulated node: the engine, and a store that knows only whether each block is right.

use std::collections::BTreeMap;

use floodway_proto::wire::Message;
use floodway_proto::{Bitfield, BlockId, ByteRate, Layout, PeerName, PieceIndex, Site, Time};
use floodway_swarm::{
    BufKey, Config, HttpPlan, PeerKey, RequestKey, SourceClass, Start, Swarm, Verdict,
};

use crate::net::FlowId;
use crate::plan::Plan;

/// One connection as its node sees it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other node.
    pub(crate) other: usize,
    /// Its name of the connection.
    pub(crate) theirs: PeerKey,
    /// What we send on.
    pub(crate) flow: FlowId,
    /// News of pieces, gathered to be sent together.
    pub(crate) news: Vec<Message>,
}

/// One HTTP request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) flow: Option<FlowId>,
    pub(crate) server: usize,
    /// The next byte to be sent, and the end.
    pub(crate) next: u64,
    pub(crate) end: u64,
    /// The byte after the last one delivered.
    pub(crate) delivered: u64,
    /// Blocks that the server will still send before it breaks off.
    pub(crate) blocks_left: u64,
}

/// A block that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parked {
    pub(crate) id: BlockId,
    pub(crate) right: bool,
    /// What kind of source sent it.
    pub(crate) class: Option<SourceClass>,
}

/// Bytes that came to a node: of pieces that it holds, by kind of source, and thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) peer: u64,
    pub(crate) relay: u64,
    pub(crate) origin: u64,
    pub(crate) wasted: u64,
}

pub(crate) struct Node {
    pub(crate) swarm: Swarm,
    pub(crate) online: bool,
    /// Where control says that it stands.
    pub(crate) site: Option<Site>,
    pub(crate) wake: Option<Time>,
    pub(crate) connections: BTreeMap<PeerKey, Connection>,
    pub(crate) requests: BTreeMap<RequestKey, Request>,
    /// Its last word on HTTP.
    pub(crate) plan: Option<HttpPlan>,
    /// HTTP read rates, relay and origin, as the engine last said.
    pub(crate) rates: [ByteRate; 2],
    next_key: u64,
    next_buf: u64,
    pub(crate) parked: Option<(BufKey, Parked)>,
    /// What became of the bytes that the network brought, counted here: the engine's own account must say the same.
    pub(crate) books: Books,
    /// When it hears that a server refused, and until when that server is not to be asked again.
    pub(crate) refused: BTreeMap<usize, (Time, Time)>,
    /// News of pieces wait to be sent.
    pub(crate) has_news: bool,
    /// When it last told what it had gathered.
    pub(crate) told_at: Option<Time>,
    /// Blocks that a stalling node has still sent.
    pub(crate) served: u64,
    /// Its disk is busy until then.
    pub(crate) disk_free_at: Time,
    /// It has stopped fetching because the disk is full.
    pub(crate) disk_refuses: bool,
    /// Blocks of begun pieces, and of those whose verdict is not told yet.
    stored: BTreeMap<u32, Vec<Option<Parked>>>,
    /// Which blocks were wrong in the last failed try of a piece.
    wrong_before: BTreeMap<u32, Vec<u32>>,
    pub(crate) held: Bitfield,
}

pub(crate) fn name(node: usize) -> PeerName {
    let mut name = [0; 20];
    name[..8].copy_from_slice(&(node as u64).to_be_bytes());
    PeerName(name)
}

impl Node {
    pub(crate) fn new(plan: &Plan, at: usize, seed: u64) -> Self {
        let layout = plan.layout.clone();
        let mut start = Start::empty(layout.piece_count());
        if plan.nodes[at].seed {
            start.have = Bitfield::full(layout.piece_count());
        }
        let mut config = Config::new(name(at));
        config.without = plan.without;
        (plan.nodes[at].config)(&mut config);
        Self {
            held: start.have.clone(),
            swarm: Swarm::new(
                config,
                layout,
                start,
                seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ at as u64,
            ),
            online: false,
            site: None,
            wake: None,
            connections: BTreeMap::new(),
            requests: BTreeMap::new(),
            plan: None,
            rates: [ByteRate::ZERO; 2],
            next_key: 0,
            next_buf: 0,
            parked: None,
            books: Books::default(),
            refused: BTreeMap::new(),
            has_news: false,
            told_at: None,
            served: 0,
            disk_free_at: Time::ZERO,
            disk_refuses: false,
            stored: BTreeMap::new(),
            wrong_before: BTreeMap::new(),
        }
    }

    pub(crate) fn new_key(&mut self) -> PeerKey {
        self.next_key += 1;
        PeerKey(self.next_key)
    }

    pub(crate) fn park(&mut self, block: Parked) -> BufKey {
        self.next_buf += 1;
        let buf = BufKey(self.next_buf);
        assert!(
            self.parked.replace((buf, block)).is_none(),
            "the block before was neither stored nor discarded"
        );
        buf
    }

    /// Takes the parked block out; the engine must name it right.
    pub(crate) fn unpark(&mut self, buf: BufKey) -> Parked {
        let (parked, block) = self.parked.take().expect("a block is parked");
        assert_eq!(parked, buf, "the engine names another buffer");
        block
    }

    /// Stores a block of a piece of `count`. The verdict, when it was the last of its piece: to be told later.
    pub(crate) fn store(&mut self, block: Parked, count: u32) -> Option<Verdict> {
        let piece = block.id.piece.0;
        assert!(!self.held.get(piece), "a block of a held piece");
        let blocks = self
            .stored
            .entry(piece)
            .or_insert_with(|| vec![None; count as usize]);
        assert!(
            blocks[block.id.index as usize].replace(block).is_none(),
            "a block stored twice"
        );
        if blocks.iter().any(Option::is_none) {
            return None;
        }
        let wrong: Vec<u32> = (0..)
            .zip(blocks.iter().flatten())
            .filter(|(_, block)| !block.right)
            .map(|(index, _)| index)
            .collect();
        if wrong.is_empty() {
            return Some(Verdict::Good {
                disproved: self.wrong_before.remove(&piece).unwrap_or_default(),
            });
        }
        self.wrong_before.insert(piece, wrong);
        Some(Verdict::Bad)
    }

    /// The verdict on a stored piece is told now: it counts as held, or as thrown away.
    pub(crate) fn judged(&mut self, piece: PieceIndex, layout: &Layout) {
        let blocks = self.stored.remove(&piece.0).unwrap_or_default();
        let blocks: Vec<_> = blocks.into_iter().flatten().collect();
        let is_good = blocks.iter().all(|block| block.right);
        if is_good {
            self.held.set(piece.0);
        }
        for block in blocks {
            let bytes = u64::from(layout.block_size(block.id));
            *match block.class.filter(|_| is_good) {
                None => &mut self.books.wasted,
                Some(SourceClass::Peer) => &mut self.books.peer,
                Some(SourceClass::Relay) => &mut self.books.relay,
                Some(SourceClass::Origin) => &mut self.books.origin,
            } += bytes;
        }
    }

    pub(crate) fn rate_of(&self, class: SourceClass) -> ByteRate {
        self.rates[usize::from(class == SourceClass::Origin)]
    }
}
