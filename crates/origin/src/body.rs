//! The bytes of a reply: exactly those asked for, or an error that says what came instead.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::exchange::{DRAIN, Exchange, drain, walk};
use crate::file::FileReader;
use crate::reply::Extent;
use crate::{Guard, OriginError, Probe, SourceUrl};

/// A running read. Yields the bytes asked for in order; dropping it ends the read and closes its connection.
pub struct Body {
    wire: Wire,
    facts: Probe,
    guard: Guard,
    source: SourceUrl,
    extent: Extent,
    /// Offset of the next byte to yield.
    position: u64,
    /// Offset behind the last byte that arrived.
    arrived: u64,
    /// Nothing is yielded from this offset on.
    stop: u64,
    /// Arrived and counted, and waiting to be admitted.
    held: Option<Bytes>,
    stall: Duration,
    exchange: Arc<Exchange>,
    /// Its end is told from a broken connection.
    marks_end: bool,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Body");
        shown
            .field("source", &self.source)
            .field("position", &self.position);
        shown.field("end", &self.extent.end).finish_non_exhaustive()
    }
}

enum Wire {
    Http(Incoming),
    File(FileReader),
    Ended,
}

impl Body {
    pub(crate) fn http(
        incoming: Incoming,
        extent: Extent,
        facts: Probe,
        source: &SourceUrl,
        guard: &Guard,
        exchange: &Arc<Exchange>,
    ) -> Self {
        Self::new(Wire::Http(incoming), extent, facts, source, guard, exchange)
    }

    pub(crate) fn file(
        reader: FileReader,
        extent: Extent,
        facts: Probe,
        source: &SourceUrl,
        guard: &Guard,
        exchange: &Arc<Exchange>,
    ) -> Self {
        Self::new(Wire::File(reader), extent, facts, source, guard, exchange)
    }

    /// A body of no bytes.
    pub(crate) fn empty(
        start: u64,
        facts: Probe,
        source: &SourceUrl,
        guard: &Guard,
        exchange: &Arc<Exchange>,
    ) -> Self {
        let extent = Extent {
            start,
            end: Some(start),
        };
        Self::new(Wire::Ended, extent, facts, source, guard, exchange)
    }

    fn new(
        wire: Wire,
        extent: Extent,
        facts: Probe,
        source: &SourceUrl,
        guard: &Guard,
        exchange: &Arc<Exchange>,
    ) -> Self {
        Self {
            wire,
            facts,
            guard: guard.clone(),
            source: source.clone(),
            extent,
            position: extent.start,
            arrived: extent.start,
            stop: u64::MAX,
            held: None,
            stall: exchange.settings().stall_timeout,
            exchange: Arc::clone(exchange),
            marks_end: true,
        }
    }

    /// Says whether the reply's framing marks the end of its body.
    pub(crate) fn with_marked_end(self, marks_end: bool) -> Self {
        Self { marks_end, ..self }
    }

    /// True when the reply marks where its body ends: by a length, or by its last chunk. The end of any other is no more than
    /// the end of its connection, which may as well have broken.
    pub fn marks_end(&self) -> bool {
        self.marks_end
    }

    /// What the reply that carries these bytes says about the object.
    pub fn probe(&self) -> &Probe {
        &self.facts
    }

    /// The offset in the object of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The offset in the object behind the last byte of the reply; `None` when only its end will tell, and then a body
    /// that a server without length or chunks cut short cannot be noticed.
    pub fn end(&self) -> Option<u64> {
        self.extent.end
    }

    /// Ends the read at the offset `end` in the object, if that lies before its present end: others have the rest. The
    /// connection is kept when little of the reply is left, and closed otherwise.
    pub fn shorten(&mut self, end: u64) {
        self.stop = self.stop.min(end);
    }

    /// The next bytes; `None` after the last. Nothing follows an error. A call that is dropped loses no byte.
    ///
    /// # Errors
    /// [`OriginError`] when the origin stalls, breaks off, sends too little or too much, or the object changes. A body
    /// is proven complete only by the `None` at its end.
    pub async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        if self.held.is_none() {
            if self.position >= self.stop {
                self.leave();
            }
            match self.receive().await {
                Ok(bytes) => self.held = Some(bytes?),
                Err(error) => {
                    self.wire = Wire::Ended;
                    self.exchange.forget(&self.source);
                    return Some(Err(error));
                }
            }
        }
        let length = self.held.as_ref().map_or(0, Bytes::len) as u64;
        self.guard.admit(length).await;
        let mut bytes = self.held.take()?;
        let room = self.stop.saturating_sub(self.position);
        if length > room {
            bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        }
        self.position += bytes.len() as u64;
        if bytes.is_empty() {
            // It was shortened to before bytes that had already arrived.
            self.leave();
            return None;
        }
        Some(Ok(bytes))
    }

    /// Gives up the rest of the reply.
    fn leave(&mut self) {
        let rest = self
            .extent
            .end
            .map_or(u64::MAX, |end| end.saturating_sub(self.arrived));
        if let Wire::Http(incoming) = std::mem::replace(&mut self.wire, Wire::Ended)
            && rest <= DRAIN
        {
            drain(incoming, self.guard.clone(), self.stall);
        }
    }

    /// Waits for bytes that are not empty, and counts them.
    async fn receive(&mut self) -> Result<Option<Bytes>, OriginError> {
        let bytes = match &mut self.wire {
            Wire::Ended => return Ok(None),
            Wire::File(reader) => {
                let end = self.extent.end.unwrap_or(self.position).min(self.stop);
                if self.position >= end {
                    return Ok(None);
                }
                Some(reader.chunk(self.position..end).await?)
            }
            Wire::Http(incoming) => {
                let read = tokio::time::timeout(self.stall, data(incoming)).await;
                let read = read.map_err(|_| OriginError::Stalled {
                    url: self.facts.final_url.redacted(),
                    waited: self.stall,
                    stage: "more of its body",
                })?;
                match read {
                    Ok(bytes) => bytes,
                    Err(error) => return Err(self.broken(&error)),
                }
            }
        };
        let Some(bytes) = bytes else {
            self.wire = Wire::Ended;
            return match self.extent.end {
                Some(end) if self.arrived < end => Err(self.short(end, self.marks_end)),
                _ => Ok(None),
            };
        };
        self.arrived += bytes.len() as u64;
        self.guard.count(bytes.len() as u64);
        match self.extent.end {
            Some(end) if self.arrived > end => Err(OriginError::TooLong {
                url: self.facts.final_url.redacted(),
                expected: end - self.extent.start,
            }),
            _ => Ok(Some(bytes)),
        }
    }

    fn short(&self, end: u64, marked: bool) -> OriginError {
        OriginError::Short {
            url: self.facts.final_url.redacted(),
            got: self.arrived - self.extent.start,
            expected: end - self.extent.start,
            marked,
        }
    }

    fn broken(&self, error: &hyper::Error) -> OriginError {
        let (mut reason, mut early) = (String::new(), false);
        walk(error, &mut |error| {
            reason = error.to_string();
            early |= error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_incomplete_message);
            let io = error.downcast_ref::<io::Error>();
            early |= io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        });
        match self.extent.end {
            Some(end) if early => self.short(end, false),
            _ => OriginError::Broken {
                url: self.facts.final_url.redacted(),
                reason,
            },
        }
    }
}

/// The next bytes of a body; trailers and empty frames are passed over.
async fn data(incoming: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
