//! What comes in: packets of connections and fetches, and what the handle asks for.

use std::net::SocketAddr;

use floodway_swarm::answers::Answer;
use floodway_swarm::gossip::GossipInput;
use floodway_swarm::{Input, PeerKey, Sender};

use super::{Driver, Peer, Stop};
use crate::content::growing::Growing;
use crate::content::{Command, ContentEvent, HttpSource, Item, Packet, PeerAt, PeerOut, State};

impl Driver {
    pub(super) fn packet(&mut self, packet: Packet) {
        match packet {
            Packet::PeerUp {
                peer,
                addr,
                name,
                inbound,
                fast,
                out,
                waiting,
                hang_up,
            } => {
                let hang_up = hang_up.drop_guard();
                self.shares.peer_up(peer, name, addr, inbound);
                self.peers.insert(
                    peer,
                    Peer {
                        out,
                        waiting,
                        pending: Vec::new(),
                        _hang_up: hang_up,
                    },
                );
                self.input(Input::PeerUp {
                    peer,
                    addr,
                    name,
                    inbound,
                    fast,
                });
            }
            Packet::DialFailed(addr) => self.input(Input::DialFailed { addr }),
            Packet::PeerDown(peer) => {
                if self.forget_peer(peer) {
                    self.input(Input::PeerDown { peer });
                }
            }
            Packet::Items {
                from,
                source,
                items,
            } => {
                if self.is_heard(from) {
                    self.count_share(from, source.as_deref(), &items);
                    self.items(from, items);
                }
            }
            Packet::BodyEnded {
                request,
                source,
                length,
                tail,
            } => self.body_ended(request, &source, length, tail),
            Packet::HttpEnd {
                request,
                end,
                error,
                broke_off,
            } => self.http_end(request, end, error, broke_off),
            Packet::Unreadable(piece) => self.unreadable(piece),
            Packet::Helped(helped) => self.helped(helped),
            Packet::TrackerFailed { tracker, error } => {
                self.tell(ContentEvent::TrackerFailed { tracker, error });
            }
        }
    }

    /// Drops the connection. False when that has happened before.
    pub(super) fn forget_peer(&mut self, peer: PeerKey) -> bool {
        self.gossip(GossipInput::NeighbourDown { peer });
        self.answers.forget(peer);
        self.shares.peer_down(peer);
        self.peers.remove(&peer).is_some()
    }

    /// Not a peer whose connection was dropped meanwhile.
    fn is_heard(&self, from: Sender) -> bool {
        !matches!(from, Sender::Peer(peer) if !self.peers.contains_key(&peer))
    }

    pub(in crate::content) fn count_share(
        &mut self,
        from: Sender,
        source: Option<&HttpSource>,
        items: &[Item],
    ) {
        let bytes = items.iter().map(|item| match item {
            Item::Block { data, .. } => data.len() as u64,
            _ => 0,
        });
        let bytes: u64 = bytes.sum();
        match (from, source) {
            _ if bytes == 0 => {}
            (_, Some(source)) => self.shares.by_http(&source.url, source.class, bytes),
            (Sender::Peer(peer), None) => self.count_peer(peer, bytes),
            (Sender::Http(_), None) => {}
        }
    }

    pub(in crate::content) fn items(&mut self, from: Sender, items: Vec<Item>) {
        let end = match from {
            Sender::Peer(_) => u64::MAX,
            Sender::Http(request) => self.sources.received(request),
        };
        let now = self.session.now();
        self.changed = true;
        for item in items {
            match item {
                Item::Input(input) => {
                    self.look_at(&input);
                    self.swarm.handle_input(now, input);
                }
                Item::Block { block, data }
                    if self.shared.layout().block_bytes(block).end > end =>
                {
                    // Others have it already: the request was shortened while this was on its way.
                    self.wasted += data.len() as u64;
                }
                Item::Block { block, data } if !self.exists(block, data.len()) => {
                    self.wasted += data.len() as u64;
                }
                Item::Neighbour { head, is_relay } => {
                    self.said(from, |peer| GossipInput::NeighbourUp {
                        peer,
                        head,
                        is_relay,
                    });
                }
                Item::Manifest(message) => {
                    self.said(from, |peer| GossipInput::Message { peer, message });
                }
                Item::MetadataRequest { info, piece } => {
                    if let Sender::Peer(peer) = from {
                        let answer = self.answers.metadata(now, peer, info.as_ref(), piece);
                        self.answer(peer, answer, PeerOut::Metadata);
                    }
                }
                Item::HashRequest { is_v2, request } => {
                    if let Sender::Peer(peer) = from {
                        let known = self.growing.as_ref().filter(|_| is_v2);
                        let known = known.map(Growing::manifest);
                        let answer = self.answers.hashes(now, peer, known, &request);
                        self.answer(peer, answer, PeerOut::Hashes);
                    }
                }
                Item::Block { block, data } => {
                    if self.received == 0 {
                        self.tell(ContentEvent::FirstByte);
                    }
                    self.received += data.len() as u64;
                    let buf = self.park.put(data);
                    self.swarm
                        .handle_input(now, Input::Block { from, block, buf });
                }
            }
        }
    }

    fn said(&mut self, from: Sender, input: impl FnOnce(PeerKey) -> GossipInput) {
        if let Sender::Peer(peer) = from {
            self.gossip(input(peer));
        }
    }

    fn answer<T>(&mut self, peer: PeerKey, answer: Answer<T>, out: impl FnOnce(T) -> PeerOut) {
        match answer {
            Answer::Send(answer) => self.order(peer, out(answer)),
            Answer::Flood => {
                tracing::warn!(?peer, "a peer asks for the torrent again and again");
                self.input(Input::Banish { peer });
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) -> Option<Stop> {
        match command {
            Command::AddPeers(peers) => self.peers_found(peers),
            Command::SetSources(sources) => self.set_sources(sources),
            Command::SetLeases(leases) => self.input(Input::Leases(leases)),
            Command::SetSite(site) => self.set_site(site),
            Command::Records(records) => self.records(records),
            Command::SetHelpers(helpers, newest) => self.set_helpers(helpers, newest),
            Command::Look(look) => look(self.growing.as_ref().map(Growing::known)),
            Command::SetLimits(limits) => self.input(Input::Limits(limits)),
            Command::Finish => {
                self.rename = true;
                if matches!(*self.outcome.borrow(), Some(Err(_))) {
                    // It is tried anew: whoever waits now learns how that ends.
                    self.outcome.send_replace(None);
                    self.set_state(State::Finishing);
                }
                if !self.growing.as_ref().is_some_and(Growing::is_open) {
                    self.store.finish();
                }
            }
            Command::Stop {
                delete_unfinished,
                stopped,
            } => {
                return Some(Stop {
                    delete_unfinished,
                    stopped: Some(stopped),
                });
            }
        }
        None
    }

    pub(super) fn addresses_found(&mut self, addrs: Vec<SocketAddr>) {
        self.peers_found(addrs.into_iter().map(PeerAt::from).collect());
    }

    fn peers_found(&mut self, peers: Vec<PeerAt>) {
        let names = self.shared.names();
        // Without a name there is nothing to ask peers for.
        if names.is_empty() {
            return;
        }
        let mut peers = self.stock.found(peers, &names);
        peers.retain(|addr| !self.session.is_self(*addr));
        if !peers.is_empty() {
            self.input(Input::PeersFound(peers));
        }
    }
}
