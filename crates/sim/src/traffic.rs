//! What goes over the links: packets on their way out, under way and in.

use std::time::Duration;

use floodway_proto::{BlockId, ByteRate, Layout, PieceIndex};
use floodway_swarm::{Input, PeerKey, Sender};

use crate::events::What;
use crate::net::{Flow, FlowId, FlowKind, Packet, Turn};
use crate::plan::ServerFault;
use crate::world::World;

/// How long a message without payload is on the wire.
const MESSAGE_BYTES: u64 = 9;
/// What goes before a block.
const BLOCK_HEADER: u64 = 13;

impl World<'_> {
    pub(crate) fn push(&mut self, flow: FlowId, packet: Packet) {
        if !self.net.flows[flow].open {
            return;
        }
        self.net.flows[flow].wait(packet);
        self.start(flow);
    }

    /// The uplink of a host may send its next packet.
    pub(crate) fn uplink(&mut self, host: usize) {
        if !self.net.is_due(host, self.now) {
            return;
        }
        if let Some(flow) = self.net.has_left(host) {
            self.left(flow);
        }
        self.stall(host);
        let (nodes, layout) = (&self.nodes, self.layout.clone());
        let size = |flow: &Flow| match flow.kind {
            FlowKind::Peer { .. } => flow.queue.front().map_or(0, |packet| packet.bytes(&layout)),
            FlowKind::Http { to, request, .. } => nodes[to]
                .requests
                .get(&request)
                .filter(|request| request.next < request.end && request.blocks_left > 0)
                .map_or(0, |request| {
                    u64::from(layout.block_size(block_at(&layout, request.next)))
                }),
        };
        match self.net.turn(host, self.now, size) {
            Turn::Sends(flow) => {
                let packet = self.take(flow);
                let bytes = packet.bytes(&self.layout);
                let free = self.net.send(flow, self.now, packet, bytes);
                self.at(free, What::Uplink(host));
            }
            Turn::Paced(at) => self.at(at, What::Uplink(host)),
            Turn::Idle => {}
        }
    }

    /// What servers on this host send waits while they stall.
    fn stall(&mut self, host: usize) {
        for (server, plan) in self.plan.servers.iter().enumerate() {
            let until = plan.faults.iter().find_map(|fault| match *fault {
                ServerFault::Stalls { from, to } if (from..to).contains(&self.now) => Some(to),
                _ => None,
            });
            let Some(until) = until.filter(|_| self.server_hosts[server] == host) else {
                continue;
            };
            let requests = self.nodes.iter().flat_map(|node| node.requests.values());
            let of_it = requests.filter(|request| request.server == server);
            for flow in of_it.filter_map(|request| request.flow) {
                self.net.pace(flow, until);
            }
        }
    }

    /// Takes the next packet of a flow whose turn it is.
    fn take(&mut self, id: FlowId) -> Packet {
        let flow = &mut self.net.flows[id];
        let FlowKind::Http {
            server,
            to,
            request,
        } = flow.kind
        else {
            return flow.queue.pop_front().expect("it has something to send");
        };
        let rate = self.nodes[to].rate_of(self.plan.servers[server].class);
        let request = self.nodes[to]
            .requests
            .get_mut(&request)
            .expect("a flow is closed with its request");
        let block = block_at(&self.layout, request.next);
        let bytes = self.layout.block_bytes(block);
        request.next = bytes.end;
        request.blocks_left -= 1;
        // The reader does not read faster than its plan says, and the server is stopped by that.
        if rate != ByteRate::MAX {
            let nanos = (bytes.end - bytes.start).saturating_mul(1_000_000_000) / rate.0.max(1);
            self.net.pace(id, self.now + Duration::from_nanos(nanos));
        }
        let mut right = true;
        for fault in &self.plan.servers[server].faults {
            if let ServerFault::Lies { one_in } = *fault {
                right &= !block.piece.0.is_multiple_of(one_in);
            }
        }
        Packet::Block(block, right)
    }

    /// The packet of this flow has left its uplink.
    fn left(&mut self, id: FlowId) {
        let luck = (self.rng.f64(), self.rng.f64());
        let Some((packet, reaches)) = self.net.travel(id, self.now, luck) else {
            return;
        };
        let block = match packet {
            Packet::Block(block, _) => Some(*block),
            Packet::Control(_) | Packet::Claims(_) | Packet::Site(_) => None,
        };
        self.at(reaches, What::Reaches(id));
        let (host, kind) = (self.net.flows[id].host, self.net.flows[id].kind);
        if let Some(block) = block {
            self.net.hosts[host].sent += u64::from(self.layout.block_size(block));
            if let FlowKind::Peer { from, from_key, .. } = kind {
                let peer = from_key;
                let queueing = self.queueing(host, peer);
                let sent = [Input::BlockSent { peer, block }];
                self.inputs(from, sent.into_iter().chain(queueing));
            }
        }
    }

    /// How long what this host sends waits, when it is to hear of it.
    fn queueing(&mut self, host: usize, peer: PeerKey) -> Option<Input> {
        let layout = &self.layout;
        let delay = self.net.queueing(host, self.now, |flow, all| {
            let packets = flow.queue.iter().take(if all { usize::MAX } else { 1 });
            packets.map(|packet| packet.bytes(layout)).sum()
        });
        delay.map(|delay| Input::Queueing { peer, delay })
    }

    /// The flow has something to send.
    pub(crate) fn start(&mut self, flow: FlowId) {
        if let Some(at) = self.net.ready(flow, self.now) {
            self.at(at, What::Uplink(self.net.flows[flow].host));
        }
    }

    /// A packet has come through the last downlink.
    pub(crate) fn arrives(&mut self, flow: FlowId) {
        let Some(packet) = self.net.arrive(flow) else {
            return;
        };
        match (self.net.flows[flow].kind, packet) {
            (FlowKind::Peer { to, to_key, .. }, Packet::Control(messages)) => {
                let messages = messages.into_iter().map(|message| Input::PeerMessage {
                    peer: to_key,
                    message,
                });
                self.inputs(to, messages);
            }
            (FlowKind::Peer { to, to_key, .. }, Packet::Claims(claims)) => {
                let peer = to_key;
                self.input(to, Input::PeerClaims { peer, claims });
            }
            (FlowKind::Peer { to, to_key, .. }, Packet::Site(site)) => {
                let peer = to_key;
                self.input(to, Input::PeerSite { peer, site });
            }
            (
                FlowKind::Peer {
                    from, to, to_key, ..
                },
                Packet::Block(block, right),
            ) => {
                let bytes = u64::from(self.layout.block_size(block));
                self.report.peer_bytes(self.now, from, to, bytes);
                self.block(to, Sender::Peer(to_key), block, right);
            }
            (
                FlowKind::Http {
                    server,
                    to,
                    request,
                },
                Packet::Block(block, right),
            ) => self.http_block(server, to, request, block, right),
            (FlowKind::Http { .. }, Packet::Control(_) | Packet::Claims(_) | Packet::Site(_)) => {}
        }
    }
}

fn block_at(layout: &Layout, byte: u64) -> BlockId {
    // Beyond the end there is nothing to be found.
    let piece = layout.piece_at(byte).unwrap_or(PieceIndex(0));
    let begin = u32::try_from(byte - layout.piece_offset(piece)).unwrap_or(u32::MAX);
    BlockId {
        piece,
        index: begin / layout.block_length(),
    }
}

impl Packet {
    fn bytes(&self, layout: &Layout) -> u64 {
        match self {
            Self::Control(messages) => messages.len() as u64 * MESSAGE_BYTES,
            Self::Site(_) => 2 * MESSAGE_BYTES,
            Self::Claims(claims) => MESSAGE_BYTES + 8 * claims.ranges.len() as u64,
            Self::Block(block, _) => u64::from(layout.block_size(*block)) + BLOCK_HEADER,
        }
    }
}
