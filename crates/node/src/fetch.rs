//! HTTP requests: an extent of the content from a relay or origin, cut into blocks as it comes.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use floodway_origin::{Access, Body, Expectation, OriginError, ReadRequest, SourceUrl};
use floodway_swarm::{HttpEnd, RequestKey, Sender, SourceClass};
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::content::{HttpSource, Packet, Reading, Shared};
use crate::origin_source::WHOLE_TRIES;
use crate::session::{RateGate, Session};

mod hosts;
mod slicer;

pub(crate) use hosts::Hosts;
use slicer::Slicer;

/// Pause after the first failure of a source; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const BACKOFF_LAST: Duration = Duration::from_mins(1);

/// One request under way.
pub(crate) struct Fetch {
    pub(crate) session: Session,
    pub(crate) content: Arc<Shared>,
    pub(crate) request: RequestKey,
    pub(crate) source: Arc<HttpSource>,
    /// Bytes of the content to deliver.
    pub(crate) bytes: Range<u64>,
    /// Nothing at or beyond this is delivered: the end of `bytes`, or less once others have the rest.
    pub(crate) end: watch::Receiver<u64>,
    /// What the engine allows this class of sources.
    pub(crate) rate: Arc<RateGate>,
    /// Failures of the source in a row before this request.
    pub(crate) failures: u32,
    /// How many of them were bodies that broke off.
    pub(crate) broken: u32,
    /// A body has begun: what fails from now on has cost the origin bytes.
    pub(crate) began: bool,
}

/// One GET.
struct Part {
    url: SourceUrl,
    expect: Expectation,
    /// Where what is at the URL begins in the content.
    file_start: u64,
    /// The bytes of the content to read.
    bytes: Range<u64>,
}

impl Part {
    /// The bytes as the URL counts them.
    fn range(&self) -> Range<u64> {
        self.bytes.start - self.file_start..self.bytes.end - self.file_start
    }
}

/// The driver has gone.
struct Gone;

impl Fetch {
    /// Delivers blocks in order, then says how it ended.
    pub(crate) async fn run(mut self) {
        let result = AssertUnwindSafe(self.deliver()).catch_unwind().await;
        let (end, error) = match result {
            Ok(Ok(Ok(()))) => (HttpEnd::Done, None),
            Ok(Ok(Err(error))) => (self.judge(&error), Some(Arc::new(error))),
            Ok(Err(Gone)) => return,
            Err(_) => {
                tracing::error!(source = %self.source.url, "a defect broke this request");
                (
                    HttpEnd::Failed {
                        after: BACKOFF_LAST,
                    },
                    None,
                )
            }
        };
        let packet = Packet::HttpEnd {
            request: self.request,
            end,
            error,
            broke_off: self.began && end != HttpEnd::Done,
        };
        // A driver that is gone does not care.
        let _ = self.content.packets.send(packet).await;
    }

    /// What an error means for the source.
    fn judge(&self, error: &OriginError) -> HttpEnd {
        // Whoever refuses for now sends nothing, and may be asked again and again. Of a folder all files that came before are lost.
        let costs = self.source.access == Access::OneGet && self.began;
        if !error.is_transient() || (costs && self.broken + 1 >= WHOLE_TRIES) {
            return HttpEnd::Gone;
        }
        let backoff = BACKOFF_FIRST
            .saturating_mul(1 << self.failures.min(10))
            .min(BACKOFF_LAST);
        HttpEnd::Failed {
            after: error.retry_after().unwrap_or(backoff),
        }
    }

    async fn deliver(&mut self) -> Result<Result<(), OriginError>, Gone> {
        let _place = self.session.hosts().permit(&self.source.url).await;
        let session = self.session.clone();
        let guard = match self.source.class {
            SourceClass::Relay => session.relay_guard(),
            SourceClass::Peer | SourceClass::Origin => session.origin_guard(),
        };
        let origin = match &self.source.check {
            Some(check) => session.origin().checked_by(Arc::clone(check)),
            None => session.origin().clone(),
        };
        let ranges = self.source.access == Access::Ranges;
        for part in self.parts() {
            let request = ReadRequest {
                url: part.url.clone(),
                range: ranges.then(|| part.range()),
                expect: part.expect.clone(),
                bearer: self.source.bearer.clone(),
            };
            self.may_read().await?;
            if *self.end.borrow() <= part.bytes.start {
                break;
            }
            let read = match origin.read(&request, guard).await {
                Ok(body) => {
                    self.began = true;
                    self.stream(body, &part).await?
                }
                Err(error) => Err(error),
            };
            if read.is_err() {
                return Ok(read);
            }
        }
        Ok(Ok(()))
    }

    /// What is to be read, one request after the other: of a folder at its origin from each file.
    fn parts(&self) -> Vec<Part> {
        let spans = self.content.layout().files();
        let (Some(files), Some(spans)) = (&self.source.files, spans) else {
            return vec![Part {
                url: self.source.url.clone(),
                expect: self.source.expect.clone(),
                file_start: 0,
                bytes: self.bytes.clone(),
            }];
        };
        let parts = files.iter().zip(spans).map(|(file, span)| Part {
            url: file.url.clone(),
            expect: file.expect.clone(),
            file_start: span.bytes.start,
            bytes: self.bytes.start.max(span.bytes.start)..self.bytes.end.min(span.bytes.end),
        });
        parts.filter(|part| !part.bytes.is_empty()).collect()
    }

    async fn stream(
        &mut self,
        mut body: Body,
        part: &Part,
    ) -> Result<Result<(), OriginError>, Gone> {
        let next = part.file_start + body.position();
        let mut slicer = Slicer::new(self.content.layout().clone(), next, part.bytes.start);
        let open_ended =
            self.content.layout().length().is_none() && self.source.access == Access::OneGet;
        if open_ended && !body.marks_end() {
            return Ok(Err(OriginError::BadReply {
                url: part.url.redacted(),
                problem: "it says neither how long the object is nor, by chunks, where it ends: nobody could tell its end from a broken connection".into(),
            }));
        }
        loop {
            self.may_read().await?;
            let end = (*self.end.borrow_and_update()).min(part.bytes.end);
            body.shorten(end.saturating_sub(part.file_start));
            if slicer.next() >= end {
                let is_too_long = open_ended && end == part.bytes.end;
                return Ok(if is_too_long {
                    Err(OriginError::TooLong {
                        url: part.url.redacted(),
                        expected: end,
                    })
                } else {
                    Ok(())
                });
            }
            let chunk = tokio::select! {
                chunk = body.next() => chunk,
                changed = self.end.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(Gone),
                },
            };
            let Some(chunk) = chunk else {
                if open_ended {
                    self.ended(slicer).await?;
                }
                return Ok(Ok(()));
            };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Err(error)),
            };
            self.rate.charge(chunk.len());
            self.session.down().charge(chunk.len());
            let items = slicer.cut(chunk, end);
            if !items.is_empty() {
                let packet = Packet::Items {
                    from: Sender::Http(self.request),
                    source: Some(Arc::clone(&self.source)),
                    items,
                };
                self.content.packets.send(packet).await.map_err(|_| Gone)?;
            }
        }
    }

    /// The body came to its end, of which nobody knew where it is.
    async fn ended(&self, slicer: Slicer) -> Result<(), Gone> {
        let packet = Packet::BodyEnded {
            request: self.request,
            source: Arc::clone(&self.source),
            length: slicer.next(),
            tail: slicer.into_tail(),
        };
        self.content.packets.send(packet).await.map_err(|_| Gone)
    }

    /// Waits until the store has room and the limits allow to read.
    async fn may_read(&self) -> Result<(), Gone> {
        let mut reading: watch::Receiver<Reading> = self.content.reading.clone();
        if !reading.borrow().http {
            reading
                .wait_for(|reading| reading.http)
                .await
                .map_err(|_| Gone)?;
        }
        self.rate.ready().await;
        self.session.down().ready().await;
        Ok(())
    }
}
