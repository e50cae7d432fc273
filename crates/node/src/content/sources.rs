//! HTTP sources of one content, and the requests to them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use floodway_origin::{Access as OriginAccess, ErrorKind, OriginError};
use floodway_proto::ByteRate;
use floodway_swarm::{Access, HttpEnd, Input, RequestKey, SourceClass, SourceKey};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::driver::Driver;
use super::{ContentEvent, HttpSource};
use crate::fetch::Fetch;
use crate::session::RateGate;

/// What the driver knows of HTTP.
pub(super) struct Sources {
    next: u32,
    known: HashMap<SourceKey, Known>,
    requests: HashMap<RequestKey, Request>,
    relay: Arc<RateGate>,
    origin: Arc<RateGate>,
}

struct Known {
    source: Arc<HttpSource>,
    /// As it was given: an origin that turns out not to serve ranges is read otherwise.
    given: Arc<HttpSource>,
    /// Failures in a row that brought no block.
    failures: u32,
    /// How many of them were bodies that broke off.
    broken: u32,
}

struct Request {
    source: SourceKey,
    end: watch::Sender<u64>,
    task: AbortHandle,
}

impl Default for Sources {
    fn default() -> Self {
        // The engine opens them with its first plan.
        let closed = || Arc::new(RateGate::new(ByteRate::ZERO));
        Self {
            next: 0,
            known: HashMap::new(),
            requests: HashMap::new(),
            relay: closed(),
            origin: closed(),
        }
    }
}

impl Sources {
    fn gate(&self, class: SourceClass) -> &Arc<RateGate> {
        match class {
            SourceClass::Relay => &self.relay,
            SourceClass::Origin | SourceClass::Peer => &self.origin,
        }
    }

    fn add(&mut self, given: Arc<HttpSource>, source: Arc<HttpSource>) -> SourceKey {
        let key = SourceKey(self.next);
        self.next += 1;
        self.known.insert(
            key,
            Known {
                source,
                given,
                failures: 0,
                broken: 0,
            },
        );
        key
    }

    /// A request has brought blocks. Where it ends now; everywhere when it is not ours any more.
    pub(super) fn received(&mut self, request: RequestKey) -> u64 {
        let Some(request) = self.requests.get(&request) else {
            return u64::MAX;
        };
        // What came of the whole is lost when it breaks off: only its end is a success.
        if let Some(known) = self.known.get_mut(&request.source)
            && known.source.access == OriginAccess::Ranges
        {
            known.failures = 0;
            known.broken = 0;
        }
        *request.end.borrow()
    }

    /// The request is still one of ours.
    pub(super) fn is_open(&self, request: RequestKey) -> bool {
        self.requests.contains_key(&request)
    }

    pub(super) fn shorten(&self, request: RequestKey, end: u64) {
        if let Some(request) = self.requests.get(&request) {
            request.end.send_replace(end);
        }
    }

    pub(super) fn cancel(&mut self, request: RequestKey) {
        if let Some(request) = self.requests.remove(&request) {
            request.task.abort();
        }
    }

    pub(super) fn set_rate(&self, class: SourceClass, rate: ByteRate) {
        self.gate(class).set_rate(rate);
    }

    /// Ends all requests.
    pub(super) fn clear(&mut self) {
        for (_, request) in self.requests.drain() {
            request.task.abort();
        }
    }

    /// The source behind a key, if it is still known.
    pub(super) fn get(&self, key: SourceKey) -> Option<&HttpSource> {
        self.known.get(&key).map(|known| &*known.source)
    }
}

fn access(access: OriginAccess) -> Access {
    match access {
        OriginAccess::Ranges => Access::Ranges,
        OriginAccess::OneGet => Access::OneGet,
    }
}

impl Driver {
    /// These are all sources from now on.
    pub(super) fn set_sources(&mut self, sources: Vec<HttpSource>) {
        let gone = |known: &Known| !sources.iter().any(|source| source.is_same(&known.given));
        let keys = self.sources.known.iter().filter(|(_, known)| gone(known));
        let keys: Vec<_> = keys.map(|(&key, _)| key).collect();
        for key in keys {
            self.drop_source(key);
        }
        for source in sources {
            if self
                .sources
                .known
                .values()
                .any(|known| known.given.is_same(&source))
            {
                continue;
            }
            let source = Arc::new(source);
            let key = self.sources.add(Arc::clone(&source), Arc::clone(&source));
            self.source_up(key, &source);
        }
    }

    fn source_up(&mut self, source: SourceKey, of: &HttpSource) {
        let (class, access) = (of.class, access(of.access));
        self.input(Input::HttpUp {
            source,
            class,
            access,
        });
    }

    fn drop_source(&mut self, source: SourceKey) {
        self.sources.known.remove(&source);
        let ours = |request: &Request| request.source == source;
        for (_, request) in self.sources.requests.extract_if(|_, request| ours(request)) {
            request.task.abort();
        }
        self.input(Input::HttpDown { source });
    }

    pub(super) fn http_get(&mut self, request: RequestKey, source: SourceKey, bytes: Range<u64>) {
        let Some(known) = self.sources.known.get(&source) else {
            let end = HttpEnd::Gone;
            return self.input(Input::HttpEnd { request, end });
        };
        let (end, end_seen) = watch::channel(bytes.end);
        let fetch = Fetch {
            session: self.session.clone(),
            content: Arc::clone(&self.shared),
            request,
            source: Arc::clone(&known.source),
            bytes,
            end: end_seen,
            rate: Arc::clone(self.sources.gate(known.source.class)),
            failures: known.failures,
            broken: known.broken,
            began: false,
        };
        let task = tokio::spawn(fetch.run()).abort_handle();
        self.sources
            .requests
            .insert(request, Request { source, end, task });
    }

    pub(super) fn http_end(
        &mut self,
        request: RequestKey,
        end: HttpEnd,
        error: Option<Arc<OriginError>>,
        broke_off: bool,
    ) {
        // One that was cancelled has no end.
        let Some(Request { source, .. }) = self.sources.requests.remove(&request) else {
            return;
        };
        if let Some(error) = error {
            if let Some(known) = self.sources.known.get_mut(&source).filter(|_| broke_off) {
                known.broken = known.broken.saturating_add(1);
            }
            let fallback = self.source_failed(source, end, error);
            self.input(Input::HttpEnd { request, end });
            if let Some(key) = fallback {
                self.read_whole(source, key);
            }
        } else {
            self.input(Input::HttpEnd { request, end });
        }
    }

    /// Books a failure. `Some` when the source may be read by one plain GET instead.
    fn source_failed(
        &mut self,
        key: SourceKey,
        end: HttpEnd,
        error: Arc<OriginError>,
    ) -> Option<Arc<HttpSource>> {
        self.session.metrics().http_failures.add(1);
        let known = self.sources.known.get_mut(&key)?;
        known.failures = known.failures.saturating_add(1);
        let (source, given) = (Arc::clone(&known.source), Arc::clone(&known.given));
        let no_ranges = error.kind() == ErrorKind::RangeIgnored;
        let whole = no_ranges && source.access == OriginAccess::Ranges;
        let gone = end == HttpEnd::Gone && !whole;
        tracing::warn!(%error, gone, "an HTTP source failed");
        let (url, class) = (source.url.clone(), source.class);
        self.tell(ContentEvent::SourceFailed {
            source: url,
            class,
            error,
            gone,
        });
        whole.then_some(given)
    }

    /// The server ignores ranges: reads it by one GET instead. Its validator still pins the version.
    fn read_whole(&mut self, old: SourceKey, given: Arc<HttpSource>) {
        self.drop_source(old);
        let source = Arc::new(HttpSource {
            access: OriginAccess::OneGet,
            ..(*given).clone()
        });
        let key = self.sources.add(given, Arc::clone(&source));
        self.source_up(key, &source);
    }
}
