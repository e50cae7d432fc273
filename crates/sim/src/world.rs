//! The event loop: virtual time, and what happens to whom.

use std::time::Duration;

use floodway_proto::{Layout, Time};
use floodway_swarm::{Event, Input, Output, SourceClass, SourceKey};

use crate::bound::must_finish;
use crate::control::Directory;
use crate::events::{Events, What};
use crate::net::{Host, Network, Packet, Reached};
use crate::node::Node;
use crate::peers::{address, node_at};
use crate::plan::{Departure, Plan};
use crate::report::Report;

/// Runs a plan. The same plan and seed give the same report.
///
/// # Panics
/// When an oracle fails; the message names the scenario and the seed.
pub fn run(plan: &Plan, seed: u64) -> Report {
    let mut world = World::new(plan, seed);
    world.run();
    world.finish()
}

/// Everything that a run consists of.
pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) layout: Layout,
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Time,
    events: Events,
    pub(crate) net: Network,
    pub(crate) nodes: Vec<Node>,
    /// The host of each server.
    pub(crate) server_hosts: Vec<usize>,
    /// Requests that each server is answering.
    pub(crate) server_load: Vec<usize>,
    directory: Directory<'a>,
    /// Nodes that must still finish.
    unfinished: usize,
    pub(crate) report: Report,
}

impl Drop for World<'_> {
    /// A failed assertion inside the engine does not know the seed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the message of a failed test")]
            {
                eprintln!("failed at {} in {}", self.now, self.report.replay());
            }
        }
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, seed: u64) -> Self {
        let mut net = Network::default();
        net.hosts
            .extend(plan.nodes.iter().map(|node| Host::new(node.link)));
        let mut server_hosts = Vec::new();
        for server in &plan.servers {
            server_hosts.push(server.with_node.unwrap_or(net.hosts.len()));
            if server.with_node.is_none() {
                net.hosts.push(Host::new(server.link));
            }
        }
        let mut world = Self {
            layout: plan.layout.clone(),
            rng: fastrand::Rng::with_seed(seed),
            now: Time::ZERO,
            events: Events::default(),
            net,
            nodes: (0..plan.nodes.len())
                .map(|at| Node::new(plan, at, seed))
                .collect(),
            server_load: vec![0; server_hosts.len()],
            server_hosts,
            directory: Directory::new(plan),
            unfinished: plan.nodes.iter().filter(|node| must_finish(node)).count(),
            report: Report::new(plan, seed),
            plan,
        };
        for (at, node) in plan.nodes.iter().enumerate() {
            world.at(node.joins, What::Join(at));
            if let Some(leaves) = node.leaves {
                world.at(leaves, What::Leave(at));
            }
        }
        world
    }

    pub(crate) fn at(&mut self, time: Time, what: What) {
        self.events.push(time.max(self.now), what);
    }

    pub(crate) fn after(&mut self, delay: Duration, what: What) {
        self.at(self.now + delay, what);
    }

    pub(crate) fn input_after(&mut self, delay: Duration, at: usize, input: Input) {
        self.after(delay, What::Input(at, Box::new(input)));
    }

    fn run(&mut self) {
        while self.unfinished > 0 {
            let Some((time, what)) = self.events.pop() else {
                return;
            };
            if time > self.plan.until {
                return;
            }
            self.now = time;
            self.report.events += 1;
            self.step(what);
        }
    }

    fn finish(mut self) -> Report {
        let hosts = self.net.hosts.iter();
        let sent = hosts.map(|host| host.sent).collect();
        let progress = self.nodes.iter().map(|node| node.swarm.progress());
        let progress = progress.collect();
        let report = std::mem::take(&mut self.report);
        report.ended(self.now, sent, progress, self.net.dropped)
    }

    fn step(&mut self, what: What) {
        match what {
            What::Join(at) => self.join(at),
            What::Leave(at) => self.leave(at),
            What::Wake(at) => {
                if self.nodes[at].wake == Some(self.now) {
                    self.nodes[at].wake = None;
                    self.input(at, Input::Tick);
                }
            }
            What::AskControl(at) => self.ask_control(at),
            What::ControlAnswers(at) => self.control_answers(at),
            What::TellPieces(at) => self.tell_pieces(at),
            What::Input(at, input) => self.input_is_due(at, *input),
            What::Uplink(host) => self.uplink(host),
            What::Reaches(flow) => match self.net.reach(flow, self.now) {
                Some(Reached::Arrives(at)) => self.at(at, What::Arrives(flow)),
                Some(Reached::Again(at)) => self.at(at, What::Reaches(flow)),
                None => {}
            },
            What::Arrives(flow) => self.arrives(flow),
            What::Answer(at, request) => self.answer(at, request),
        }
    }

    /// What a node hears after a while.
    fn input_is_due(&mut self, at: usize, input: Input) {
        let is_connected = |peer| self.nodes[at].connections.contains_key(peer);
        match &input {
            // The other one left while they shook hands.
            Input::PeerUp {
                peer,
                addr,
                inbound,
                ..
            } if !is_connected(peer) => {
                let addr = *addr;
                if !inbound {
                    self.input(at, Input::DialFailed { addr });
                }
            }
            Input::PeerExtended { peer, .. } if !is_connected(peer) => {}
            Input::Hashed { piece, .. } => {
                let piece = *piece;
                if self.nodes[at].online {
                    self.nodes[at].judged(piece, &self.layout);
                }
                self.input(at, input);
            }
            _ => self.input(at, input),
        }
    }

    fn join(&mut self, at: usize) {
        let plan = &self.plan.nodes[at];
        self.nodes[at].online = true;
        self.directory.joined(at);
        self.ask_control(at);
        for &server in &plan.servers {
            let source = SourceKey(u32::try_from(server).unwrap_or(u32::MAX));
            let server = &self.plan.servers[server];
            let (class, access) = (server.class, server.access);
            self.input(
                at,
                Input::HttpUp {
                    source,
                    class,
                    access,
                },
            );
        }
        // A seed says nothing of itself, but its engine must be woken.
        self.input(at, Input::Tick);
    }

    fn leave(&mut self, at: usize) {
        let plan = &self.plan.nodes[at];
        self.nodes[at].online = false;
        self.directory.left(at);
        let departure = if plan.leaves_when_done {
            Departure::Closes
        } else {
            plan.departure
        };
        self.cut_all(at, departure);
        for request in std::mem::take(&mut self.nodes[at].requests).into_values() {
            self.end_flow(&request);
        }
    }

    fn ask_control(&mut self, at: usize) {
        let control = self.plan.control;
        let knows_its_site = self.nodes[at].site.is_some() || self.plan.sites() < 2;
        if !self.nodes[at].online || (self.nodes[at].held.is_full() && knows_its_site) {
            return;
        }
        let away = |outage: &(Time, Time)| (outage.0..outage.1).contains(&self.now);
        if !control.outage.as_ref().is_some_and(away) {
            self.after(control.delay, What::ControlAnswers(at));
        }
        self.after(control.every, What::AskControl(at));
    }

    /// With all in mind that asked at the same time, as the real one answers again when a swarm changes: else the first of a
    /// site would have all its parts, and the first behind NAT nobody to dial.
    fn control_answers(&mut self, at: usize) {
        if self.plan.sites() > 1 {
            let site = self.directory.site(at);
            self.nodes[at].site = Some(site);
            self.input(at, Input::Site(site));
        }
        if self.nodes[at].held.is_full() {
            return;
        }
        let peers = self.plan.control.peers;
        let others = self.directory.answer(&mut self.rng, at, peers);
        let found = others.into_iter().map(address).collect();
        self.input(at, Input::PeersFound(found));
    }

    pub(crate) fn input(&mut self, at: usize, input: Input) {
        self.inputs(at, std::iter::once(input));
    }

    /// Feeds a node's engine with what came at once, and does what it wants done.
    pub(crate) fn inputs(&mut self, at: usize, inputs: impl Iterator<Item = Input>) {
        if !self.nodes[at].online {
            return;
        }
        let now = self.now;
        for input in inputs {
            self.nodes[at].swarm.handle_input(now, input);
        }
        loop {
            match self.nodes[at].swarm.poll_output() {
                Output::WakeAt(wake) => {
                    if let Some(time) = wake.filter(|_| self.nodes[at].wake != wake) {
                        assert!(time > now, "the engine asks to be woken at once for ever");
                        self.at(time, What::Wake(at));
                    }
                    self.nodes[at].wake = wake;
                    break;
                }
                output => self.output(at, output),
            }
        }
        if !self.nodes[at].requests.is_empty() {
            self.check_permitted(at);
        }
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Dial { addr } => self.dial(at, addr),
            Output::HangUp { peer, .. } => self.hang_up(at, peer),
            Output::Send { peer, message } => self.send(at, peer, message),
            Output::Claims { peer, claims } => self.send_other(at, peer, Packet::Claims(claims)),
            Output::Site { peer, site } => self.send_other(at, peer, Packet::Site(site)),
            Output::SendBlock { peer, block, .. } => self.send_block(at, peer, block),
            Output::HttpGet {
                request,
                source,
                bytes,
            } => self.http_get(at, request, source, bytes),
            Output::HttpShorten { request, end } => self.shorten(at, request, end),
            Output::HttpCancel { request } => self.cancel(at, request),
            Output::HttpRate { class, rate } => {
                self.check_reason(at, class, rate);
                self.nodes[at].rates[usize::from(class == SourceClass::Origin)] = rate;
            }
            Output::Store { block, buf } => self.store(at, block, buf),
            Output::Discard { buf } => {
                let block = self.nodes[at].unpark(buf);
                self.nodes[at].books.wasted += u64::from(self.layout.block_size(block.id));
            }
            Output::Event(event) => self.event(at, &event),
            Output::WakeAt(_) => unreachable!("handled by the caller"),
        }
    }

    fn event(&mut self, at: usize, event: &Event) {
        self.report.note(self.now, at, event);
        match *event {
            Event::Plan(plan) => self.nodes[at].plan = Some(plan),
            Event::PieceDone(piece) => self.check_delivered(at, piece),
            Event::Banned { addr, .. } => {
                self.check_banned(at, node_at(addr));
                self.report.bans.insert((at, node_at(addr)));
            }
            Event::SourceDropped { source, .. } => self.check_dropped(at, source),
            Event::Complete => {
                self.check_complete(at);
                let plan = &self.plan.nodes[at];
                if !plan.seed && self.report.done[at].is_none() {
                    self.report.done[at] = Some(self.now);
                    self.unfinished -= usize::from(must_finish(plan));
                    if plan.leaves_when_done {
                        self.after(Duration::from_millis(1), What::Leave(at));
                    }
                }
            }
            Event::PieceFailed(_) => {}
        }
    }
}
