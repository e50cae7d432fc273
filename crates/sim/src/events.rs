//! What is to happen, in the order of virtual time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use floodway_proto::Time;
use floodway_swarm::{Input, RequestKey};

use crate::net::FlowId;

/// One thing that happens. Kept small: a large swarm has millions of them waiting.
pub(crate) enum What {
    /// A node starts.
    Join(usize),
    /// A node is gone.
    Leave(usize),
    /// A node's engine asked to be woken now.
    Wake(usize),
    /// A node asks control for peers.
    AskControl(usize),
    /// Control answers a node.
    ControlAnswers(usize),
    /// A node sends the news of pieces that it has gathered.
    TellPieces(usize),
    /// Something reaches a node other than by its links.
    Input(usize, Box<Input>),
    /// The uplink of a host is free.
    Uplink(usize),
    /// A packet reaches the downlink at the other end.
    Reaches(FlowId),
    /// It is through.
    Arrives(FlowId),
    /// A server begins to answer.
    Answer(usize, RequestKey),
}

struct Entry {
    at: Time,
    /// Of two at the same time the one made first comes first.
    order: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest: that is the one a heap gives.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Everything that is still to happen.
#[derive(Default)]
pub(crate) struct Events {
    heap: BinaryHeap<Entry>,
    made: u64,
}

impl Events {
    pub(crate) fn push(&mut self, at: Time, what: What) {
        self.made += 1;
        self.heap.push(Entry {
            at,
            order: self.made,
            what,
        });
    }

    pub(crate) fn pop(&mut self) -> Option<(Time, What)> {
        self.heap.pop().map(|entry| (entry.at, entry.what))
    }
}
