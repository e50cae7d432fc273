//! HTTP servers: origins and relays, and the requests that nodes have there.

use std::ops::Range;
use std::time::Duration;

use floodway_proto::BlockId;
use floodway_swarm::{HttpEnd, Input, RequestKey, Sender, SourceKey};

use crate::events::What;
use crate::net::FlowKind;
use crate::node::Request;
use crate::plan::ServerFault;
use crate::world::World;

/// How long a refusal without Retry-After keeps a reader away.
const REFUSED_FOR: Duration = Duration::from_secs(1);

impl World<'_> {
    /// A node asks a server for a range.
    pub(crate) fn http_get(
        &mut self,
        at: usize,
        key: RequestKey,
        source: SourceKey,
        bytes: Range<u64>,
    ) {
        let server = source.0 as usize;
        self.check_request(at, server, &bytes);
        self.report.http_requests[server] += 1;
        let request = Request {
            flow: None,
            server,
            next: bytes.start,
            end: bytes.end,
            delivered: bytes.start,
            blocks_left: self.blocks_until_break(server),
        };
        self.nodes[at].requests.insert(key, request);
        self.after(self.way(at, server), What::Answer(at, key));
    }

    /// How long a message takes between a node and a server.
    fn way(&self, at: usize, server: usize) -> Duration {
        let host = &self.net.hosts[self.server_hosts[server]];
        self.plan.nodes[at].link.delay + host.link.delay
    }

    pub(crate) fn answer(&mut self, at: usize, key: RequestKey) {
        let Some(server) = self.nodes[at]
            .requests
            .get(&key)
            .map(|request| request.server)
        else {
            return;
        };
        if let Some(end) = self.refusal(server) {
            self.nodes[at].requests.remove(&key);
            let back = self.way(at, server);
            if let HttpEnd::Failed { after } = end {
                let heard = self.now + back;
                let refused = (heard, heard + after);
                self.nodes[at].refused.insert(server, refused);
            }
            return self.input_after(back, at, Input::HttpEnd { request: key, end });
        }
        self.server_load[server] += 1;
        let kind = FlowKind::Http {
            server,
            to: at,
            request: key,
        };
        let flow = self.net.open(kind, self.server_hosts[server], at);
        if let Some(request) = self.nodes[at].requests.get_mut(&key) {
            request.flow = Some(flow);
        }
        self.start(flow);
    }

    fn blocks_until_break(&self, server: usize) -> u64 {
        let breaks = |fault: &ServerFault| match *fault {
            ServerFault::Breaks { after } => Some(after),
            _ => None,
        };
        let faults = &self.plan.servers[server].faults;
        faults.iter().find_map(breaks).unwrap_or(u64::MAX)
    }

    /// Why a server does not answer a request with data now.
    fn refusal(&self, server: usize) -> Option<HttpEnd> {
        let plan = &self.plan.servers[server];
        let fault = plan.faults.iter().find_map(|fault| match *fault {
            ServerFault::Busy {
                from,
                to,
                retry_after,
            } if (from..to).contains(&self.now) => Some(HttpEnd::Failed { after: retry_after }),
            ServerFault::Changed { from } if self.now >= from => Some(HttpEnd::Gone),
            _ => None,
        });
        fault.or_else(|| {
            (self.server_load[server] >= plan.connections_max)
                .then_some(HttpEnd::Failed { after: REFUSED_FOR })
        })
    }

    /// A block of an answer has come.
    pub(crate) fn http_block(
        &mut self,
        server: usize,
        to: usize,
        key: RequestKey,
        block: BlockId,
        right: bool,
    ) {
        let bytes = self.layout.block_bytes(block);
        self.report
            .server_bytes(self.now, server, to, bytes.end - bytes.start);
        self.block(to, Sender::Http(key), block, right);
        let Some(request) = self.nodes[to].requests.get_mut(&key) else {
            return;
        };
        request.delivered = bytes.end;
        let broken = request.blocks_left == 0 && request.delivered == request.next;
        if broken && request.delivered < request.end {
            return self.end_request(to, key, HttpEnd::Failed { after: REFUSED_FOR });
        }
        self.end_if_delivered(to, key);
    }

    fn end_if_delivered(&mut self, at: usize, key: RequestKey) {
        let request = self.nodes[at].requests.get(&key);
        if request.is_some_and(|request| request.delivered >= request.end) {
            self.end_request(at, key, HttpEnd::Done);
        }
    }

    fn end_request(&mut self, at: usize, key: RequestKey, end: HttpEnd) {
        if let Some(request) = self.nodes[at].requests.remove(&key) {
            self.end_flow(&request);
            self.input_after(Duration::ZERO, at, Input::HttpEnd { request: key, end });
        }
    }

    pub(crate) fn shorten(&mut self, at: usize, key: RequestKey, end: u64) {
        if let Some(request) = self.nodes[at].requests.get_mut(&key) {
            request.end = request.end.min(end);
        }
        self.end_if_delivered(at, key);
    }

    pub(crate) fn cancel(&mut self, at: usize, key: RequestKey) {
        if let Some(request) = self.nodes[at].requests.remove(&key) {
            self.end_flow(&request);
        }
    }

    pub(crate) fn end_flow(&mut self, request: &Request) {
        if let Some(flow) = request.flow
            && self.net.flows[flow].open
        {
            self.net.close(flow);
            self.server_load[request.server] -= 1;
        }
    }
}
