//! The network: hosts with an uplink shared fairly by their connections, and a downlink with a buffer before it.
//!
//! An uplink serves its connections in turn, one packet (a block, or all control messages that wait) each, as TCP
//! flows share a link. Loss is seen as TCP shows it: the connection stands still for a retransmission, and over a
//! long path it cannot be faster than loss allows (Mathis et al. 1997). What reaches a downlink queues there; what
//! finds the buffer full is lost: it comes a round trip later, and its sender pauses as long.

use std::collections::VecDeque;
use std::time::Duration;

use floodway_proto::wire::{HttpClaims, Message};
use floodway_proto::{BlockId, ByteRate, Site, Time};
use floodway_swarm::{PeerKey, RequestKey};

use crate::plan::Link;

/// Names one direction of a connection.
pub(crate) type FlowId = usize;

/// A node is told no more often how long what it sends waits.
const QUEUEING_EVERY: Duration = Duration::from_millis(100);
/// How long a retransmission takes beyond a round trip.
const RETRANSMIT: Duration = Duration::from_millis(20);

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// Messages without payload, sent together.
    Control(Vec<Message>),
    /// What an own node fetches over HTTP.
    Claims(HttpClaims),
    /// Where a node stands.
    Site(Site),
    /// A block, right or wrong.
    Block(BlockId, bool),
}

/// Who sends on a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FlowKind {
    /// A node to a peer: its own and the receiver's name of the connection.
    Peer {
        from: usize,
        from_key: PeerKey,
        to: usize,
        to_key: PeerKey,
    },
    /// A server answers a request of a node.
    Http {
        server: usize,
        to: usize,
        request: RequestKey,
    },
}

/// One direction of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) kind: FlowKind,
    pub(crate) host: usize,
    pub(crate) to_host: usize,
    pub(crate) open: bool,
    /// What waits for the uplink. HTTP flows have none: their server reads as it sends.
    pub(crate) queue: VecDeque<Packet>,
    /// What has left the uplink (or is leaving it) and is not there yet, with its size in bytes; the first `reached`
    /// of these are in the buffer of the other downlink.
    under_way: VecDeque<(Packet, u64)>,
    reached: usize,
    /// It waits for its turn in the host's ring.
    waiting: bool,
    /// Nothing overtakes what was sent before.
    in_order_at: Time,
    /// Something was lost on the last buffer: nothing gets through before it was sent again.
    stalled_until: Time,
    /// It may not send before.
    paced_until: Time,
    /// The fastest that loss and delay let one connection be.
    ceiling: Option<ByteRate>,
}

/// One machine's access.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) link: Link,
    ring: VecDeque<FlowId>,
    /// Whose packet is on its way out, until `busy_until`.
    sending: Option<FlowId>,
    busy_until: Time,
    /// When its uplink is looked at next; an earlier look replaces a later one.
    turn_at: Option<Time>,
    down_free_at: Time,
    /// When its node is told how long what it sends waits.
    queueing_due: Time,
    /// Payload bytes that left it.
    pub(crate) sent: u64,
}

impl Flow {
    /// The packet waits for the uplink. Messages overtake the blocks that wait, as they do in nodes.
    pub(crate) fn wait(&mut self, packet: Packet) {
        let is_block = |packet: &Packet| matches!(packet, Packet::Block(..));
        if is_block(&packet) {
            return self.queue.push_back(packet);
        }
        let blocks = self.queue.iter().position(is_block);
        let at = blocks.unwrap_or(self.queue.len());
        let last = at.checked_sub(1).and_then(|last| self.queue.get_mut(last));
        match (last, packet) {
            (Some(Packet::Control(messages)), Packet::Control(more)) => messages.extend(more),
            (_, packet) => self.queue.insert(at, packet),
        }
    }
}

fn time_of(rate: ByteRate, bytes: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.0.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Host {
    pub(crate) fn new(link: Link) -> Self {
        Self {
            link,
            ring: VecDeque::new(),
            sending: None,
            busy_until: Time::ZERO,
            turn_at: None,
            down_free_at: Time::ZERO,
            queueing_due: Time::ZERO,
            sent: 0,
        }
    }
}

/// Hosts and flows.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) hosts: Vec<Host>,
    pub(crate) flows: Vec<Flow>,
    /// Packets that found a buffer full.
    pub(crate) dropped: u64,
}

/// What an uplink does next.
pub(crate) enum Turn {
    /// This flow sends.
    Sends(FlowId),
    /// All flows that have something are paced: look again then.
    Paced(Time),
    /// Nothing to send.
    Idle,
}

/// What happens to a packet at the other downlink, and when.
pub(crate) enum Reached {
    /// It is through.
    Arrives(Time),
    /// It is not in the buffer: try then.
    Again(Time),
}

impl Network {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive rate far below 2^64"
    )]
    pub(crate) fn open(&mut self, kind: FlowKind, host: usize, to_host: usize) -> FlowId {
        let loss = self.hosts[host].link.loss + self.hosts[to_host].link.loss;
        let round = self.round_trip(host, to_host).as_secs_f64();
        let ceiling = (loss > 0.0 && round > 0.0)
            .then(|| ByteRate((1448.0 * 1.22 / (round * loss.sqrt())) as u64));
        self.flows.push(Flow {
            kind,
            host,
            to_host,
            open: true,
            queue: VecDeque::new(),
            under_way: VecDeque::new(),
            reached: 0,
            waiting: false,
            in_order_at: Time::ZERO,
            stalled_until: Time::ZERO,
            paced_until: Time::ZERO,
            ceiling,
        });
        self.flows.len() - 1
    }

    fn round_trip(&self, a: usize, b: usize) -> Duration {
        (self.hosts[a].link.delay + self.hosts[b].link.delay) * 2
    }

    /// The flow has something to send. When its uplink must be looked at for that, if no look is due before.
    pub(crate) fn ready(&mut self, id: FlowId, now: Time) -> Option<Time> {
        let flow = &mut self.flows[id];
        let host = &mut self.hosts[flow.host];
        if !flow.waiting {
            flow.waiting = true;
            host.ring.push_back(id);
        }
        let at = host.busy_until.max(now);
        if host.turn_at.is_some_and(|turn| turn <= at) {
            return None;
        }
        host.turn_at = Some(at);
        Some(at)
    }

    /// True when this look at the uplink is the one that is due: others were replaced by earlier ones.
    pub(crate) fn is_due(&mut self, host: usize, now: Time) -> bool {
        let host = &mut self.hosts[host];
        let due = host.turn_at == Some(now);
        if due {
            host.turn_at = None;
        }
        due
    }

    /// The flow whose packet has left by now.
    pub(crate) fn has_left(&mut self, host: usize) -> Option<FlowId> {
        self.hosts[host].sending.take()
    }

    /// The next flow to send `bytes(flow)` on this host's uplink; a flow without anything to send gives 0.
    pub(crate) fn turn(
        &mut self,
        host: usize,
        now: Time,
        mut bytes: impl FnMut(&Flow) -> u64,
    ) -> Turn {
        let mut earliest: Option<Time> = None;
        for _ in 0..self.hosts[host].ring.len() {
            let Some(id) = self.hosts[host].ring.pop_front() else {
                break;
            };
            let flow = &mut self.flows[id];
            let size = if flow.open { bytes(flow) } else { 0 };
            if size == 0 {
                flow.waiting = false;
                continue;
            }
            self.hosts[host].ring.push_back(id);
            if flow.paced_until > now {
                earliest = Some(earliest.map_or(flow.paced_until, |at| at.min(flow.paced_until)));
                continue;
            }
            if let Some(ceiling) = flow.ceiling {
                flow.paced_until = now + time_of(ceiling, size);
            }
            return Turn::Sends(id);
        }
        self.hosts[host].turn_at = earliest;
        earliest.map_or(Turn::Idle, Turn::Paced)
    }

    /// The flow's turn is used for this packet. When its uplink is free again.
    pub(crate) fn send(&mut self, id: FlowId, now: Time, packet: Packet, bytes: u64) -> Time {
        let flow = &mut self.flows[id];
        flow.under_way.push_back((packet, bytes));
        let host = &mut self.hosts[flow.host];
        host.busy_until = now + time_of(host.link.up, bytes);
        host.turn_at = Some(host.busy_until);
        host.sending = Some(id);
        host.busy_until
    }

    /// How long what TCP lets out now waits for this uplink, every [`QUEUEING_EVERY`]: of a connection that loss and delay
    /// keep slow that is one packet. `bytes` are those of all packets, or of the first.
    pub(crate) fn queueing(
        &mut self,
        host: usize,
        now: Time,
        bytes: impl Fn(&Flow, bool) -> u64,
    ) -> Option<Duration> {
        let host = &mut self.hosts[host];
        if now < host.queueing_due {
            return None;
        }
        host.queueing_due = now + QUEUEING_EVERY;
        let waiting = host.ring.iter().map(|&id| &self.flows[id]);
        let bytes = waiting
            .filter(|flow| flow.open && flow.paced_until <= now)
            .map(|flow| bytes(flow, flow.ceiling.is_none()));
        Some(time_of(host.link.up, bytes.sum()))
    }

    pub(crate) fn pace(&mut self, id: FlowId, until: Time) {
        let flow = &mut self.flows[id];
        flow.paced_until = flow.paced_until.max(until);
    }

    /// The packet that has just left `id`'s uplink, and when it reaches the other downlink; `luck` is uniform in
    /// 0..1, twice. `None` when the connection was closed meanwhile.
    pub(crate) fn travel(
        &mut self,
        id: FlowId,
        now: Time,
        luck: (f64, f64),
    ) -> Option<(&Packet, Time)> {
        let flow = &self.flows[id];
        let (a, b) = (self.hosts[flow.host].link, self.hosts[flow.to_host].link);
        let mut travel = a.delay + b.delay + (a.jitter + b.jitter).mul_f64(luck.1);
        if luck.0 < a.loss + b.loss {
            travel += (a.delay + b.delay) * 2 + RETRANSMIT;
        }
        let flow = &mut self.flows[id];
        flow.in_order_at = flow.in_order_at.max(now + travel);
        let (packet, _) = flow.under_way.back()?;
        Some((packet, flow.in_order_at))
    }

    /// A packet of this flow is at the other downlink. `None` when the connection was closed meanwhile.
    pub(crate) fn reach(&mut self, id: FlowId, now: Time) -> Option<Reached> {
        let round = self.round_trip(self.flows[id].host, self.flows[id].to_host);
        let flow = &mut self.flows[id];
        let &(_, bytes) = flow.under_way.get(flow.reached)?;
        if flow.stalled_until > now {
            return Some(Reached::Again(flow.stalled_until));
        }
        let host = &mut self.hosts[flow.to_host];
        let backlog = host.down_free_at.since(now);
        if host.link.buffer.is_some_and(|buffer| backlog > buffer) {
            let again = now + round + RETRANSMIT;
            flow.stalled_until = again;
            flow.paced_until = flow.paced_until.max(again);
            self.dropped += 1;
            return Some(Reached::Again(again));
        }
        flow.reached += 1;
        host.down_free_at = host.down_free_at.max(now) + time_of(host.link.down, bytes);
        Some(Reached::Arrives(host.down_free_at))
    }

    /// The first packet of this flow is through. `None` when the connection was closed meanwhile.
    pub(crate) fn arrive(&mut self, id: FlowId) -> Option<Packet> {
        let flow = &mut self.flows[id];
        let (packet, _) = flow.under_way.pop_front()?;
        flow.reached -= 1;
        Some(packet)
    }

    /// Everything that was under way is lost.
    pub(crate) fn close(&mut self, id: FlowId) {
        let flow = &mut self.flows[id];
        flow.open = false;
        flow.queue = VecDeque::new();
        flow.under_way = VecDeque::new();
        flow.reached = 0;
    }
}
