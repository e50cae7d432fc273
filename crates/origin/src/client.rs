//! The entry type: probing and reading by URL.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header};
use hyper::body::Body as _;

use crate::body::Body;
use crate::exchange::{Answer, Exchange, Question, drain};
use crate::file;
use crate::header::text;
use crate::redirect::UrlCheck;
use crate::reply::{Extent, Head};
use crate::{
    Bearer, Expectation, Guard, OriginError, Probe, Settings, SetupError, SourceUrl, Validator,
};

/// Reads origins. Clones are cheap and share connections, remembered redirects and the pauses that hosts asked for.
#[derive(Clone)]
pub struct Origin {
    exchange: Arc<Exchange>,
    check: Option<Arc<dyn UrlCheck>>,
}

/// What is to be read.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Where from.
    pub url: SourceUrl,
    /// Which bytes; `None`: the whole object by one plain GET.
    pub range: Option<Range<u64>>,
    /// What the reply must agree with.
    pub expect: Expectation,
    /// A token for the server, sent to the host of `url` only.
    pub bearer: Option<Bearer>,
}

impl ReadRequest {
    /// The whole object, whatever it is.
    pub fn whole(url: SourceUrl) -> Self {
        Self {
            url,
            range: None,
            expect: Expectation::default(),
            bearer: None,
        }
    }

    /// A part of the object that `probe` described.
    pub fn part(url: SourceUrl, range: Range<u64>, probe: &Probe) -> Self {
        Self {
            url,
            range: Some(range),
            expect: probe.expectation(),
            bearer: None,
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("checked", &self.check.is_some())
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// A reader with its own connections. It permits every URL until [`Origin::checked_by`] says otherwise.
    ///
    /// # Errors
    /// [`SetupError`] when TLS cannot be set up.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let exchange = Arc::new(Exchange::new(settings)?);
        Ok(Self {
            exchange,
            check: None,
        })
    }

    /// The same reader, permitting only URLs that `check` permits, redirect targets included.
    #[must_use]
    pub fn checked_by(&self, check: Arc<dyn UrlCheck>) -> Self {
        Self {
            exchange: Arc::clone(&self.exchange),
            check: Some(check),
        }
    }

    /// Learns what the object is: by HEAD, and by a GET of its first byte where HEAD leaves something open.
    ///
    /// # Errors
    /// [`OriginError`] when the origin does not answer, refuses, or answers nonsense.
    pub async fn probe(
        &self,
        url: &SourceUrl,
        guard: &Guard,
        bearer: Option<&Bearer>,
    ) -> Result<Probe, OriginError> {
        if let Some(path) = url.file_path() {
            self.permitted(url)?;
            return Ok(file::open(url, path).await?.1);
        }
        let mut question = Question {
            source: url,
            method: Method::HEAD,
            range: None,
            if_match: None,
            bearer,
            length: None,
        };
        match self.ask(&question, guard).await {
            Ok(answer) => {
                let headers = answer.response.headers();
                if let Ok(probe) = head_of(&question, &answer, content_length(headers)).facts()
                    && settles(&probe, headers)
                {
                    return Ok(probe);
                }
            }
            // Servers that fail or refuse HEAD, and URLs signed for GET only, may well answer a GET.
            Err(
                OriginError::NotFound { .. }
                | OriginError::Refused { .. }
                | OriginError::Server { .. }
                | OriginError::BadReply { .. }
                | OriginError::Broken { .. },
            ) => {}
            Err(error) => return Err(error),
        }
        question.method = Method::GET;
        question.range = Some(0..1);
        self.first_byte(&question, guard).await
    }

    async fn first_byte(
        &self,
        question: &Question<'_>,
        guard: &Guard,
    ) -> Result<Probe, OriginError> {
        let answer = match self.ask(question, guard).await {
            // There is no first byte: the object is empty. Only a GET of the whole says more about it.
            Err(OriginError::RangeNotSatisfiable {
                length: Some(0), ..
            }) => {
                let whole = Question {
                    range: None,
                    method: Method::GET,
                    ..*question
                };
                self.ask(&whole, guard).await?
            }
            answer => answer?,
        };
        let length = answer.response.body().size_hint().exact();
        let mut probe = head_of(question, &answer, length).facts()?;
        // A whole reply to a range: whatever Accept-Ranges says, ranges do not work here.
        probe.ranges =
            answer.response.status() == StatusCode::PARTIAL_CONTENT || probe.length == Some(0);
        drain(
            answer.response.into_body(),
            guard.clone(),
            self.exchange.settings().stall_timeout,
        );
        Ok(probe)
    }

    /// Begins to read.
    ///
    /// # Errors
    /// [`OriginError`] when the origin does not answer, refuses, or its reply is not what was asked for and expected.
    pub async fn read(&self, request: &ReadRequest, guard: &Guard) -> Result<Body, OriginError> {
        let (url, expect) = (&request.url, &request.expect);
        if let Some(range) = request
            .range
            .as_ref()
            .filter(|range| range.start >= range.end)
        {
            let facts = as_expected(url, expect);
            return Ok(Body::empty(range.start, facts, url, guard, &self.exchange));
        }
        if let Some(path) = url.file_path() {
            self.permitted(url)?;
            let (reader, facts) = file::open(url, path).await?;
            let bytes = reader.check(request.range.as_ref(), expect)?;
            let extent = Extent {
                start: bytes.start,
                end: Some(bytes.end),
            };
            return Ok(Body::file(
                reader,
                extent,
                facts,
                url,
                guard,
                &self.exchange,
            ));
        }
        let question = Question {
            source: url,
            method: Method::GET,
            range: request.range.clone(),
            if_match: expect.validator.strong(),
            bearer: request.bearer.as_ref(),
            length: expect.length,
        };
        let answer = self.ask(&question, guard).await?;
        let head = head_of(
            &question,
            &answer,
            answer.response.body().size_hint().exact(),
        );
        let checked = head.facts().and_then(|facts| {
            let extent = head.extent(&facts, request.range.as_ref(), expect)?;
            Ok((facts, extent))
        });
        // A mirror that lies or lags is not asked again.
        let (facts, extent) = checked.inspect_err(|_| self.exchange.forget(url))?;
        let marks_end = marks_end(&answer.response);
        let body = Body::http(
            answer.response.into_body(),
            extent,
            facts,
            url,
            guard,
            &self.exchange,
        );
        Ok(body.with_marked_end(marks_end))
    }

    /// Reads a small document whole, of at most `limit` bytes. `None`: there is none now (204).
    ///
    /// # Errors
    /// As [`read`](Self::read), and [`OriginError::TooLong`].
    pub async fn document(
        &self,
        url: &SourceUrl,
        bearer: Option<&Bearer>,
        limit: usize,
        guard: &Guard,
    ) -> Result<Option<Vec<u8>>, OriginError> {
        let question = Question {
            source: url,
            method: Method::GET,
            range: None,
            if_match: None,
            bearer,
            length: None,
        };
        let answer = self.ask(&question, guard).await?;
        if answer.response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        let length = answer.response.body().size_hint().exact();
        let head = head_of(&question, &answer, length);
        let facts = head.facts()?;
        let extent = head.extent(&facts, None, &Expectation::default())?;
        let body = answer.response.into_body();
        let mut body = Body::http(body, extent, facts, url, guard, &self.exchange);
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            if bytes.len() + chunk.len() > limit {
                return Err(OriginError::TooLong {
                    url: url.redacted(),
                    expected: limit as u64,
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    async fn ask(&self, question: &Question<'_>, guard: &Guard) -> Result<Answer, OriginError> {
        self.exchange
            .ask(question, self.check.as_deref(), guard)
            .await
    }

    fn permitted(&self, url: &SourceUrl) -> Result<(), OriginError> {
        let Some(check) = &self.check else {
            return Ok(());
        };
        let refused = |reason| OriginError::NotAllowed {
            url: url.redacted(),
            reason,
        };
        check.check(url.as_url()).map_err(refused)
    }
}

fn head_of<'a>(
    question: &'a Question<'_>,
    answer: &'a Answer,
    body_length: Option<u64>,
) -> Head<'a> {
    Head {
        source: question.source,
        url: &answer.url,
        status: answer.response.status(),
        headers: answer.response.headers(),
        body_length,
    }
}

/// True when the reply says where its body ends: HTTP/1 by a length or by chunks, of which the last says that it is.
fn marks_end(response: &http::Response<hyper::body::Incoming>) -> bool {
    let is_chunked = |codings: &str| {
        let last = codings.rsplit(',').next().unwrap_or_default();
        last.trim().eq_ignore_ascii_case("chunked")
    };
    let codings = text(response.headers(), &header::TRANSFER_ENCODING);
    response.body().size_hint().exact().is_some() || codings.is_some_and(is_chunked)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &header::CONTENT_LENGTH)?.trim().parse().ok()
}

/// Whether HEAD said enough. A length of 0 is what careless servers answer to every HEAD.
fn settles(probe: &Probe, headers: &HeaderMap) -> bool {
    let no_ranges =
        text(headers, &header::ACCEPT_RANGES).is_some_and(|units| units.trim() == "none");
    probe.length.is_some_and(|length| length > 0) && (probe.ranges || no_ranges)
}

fn as_expected(url: &SourceUrl, expect: &Expectation) -> Probe {
    let validator = expect.validator.clone();
    Probe {
        final_url: url.clone(),
        length: expect.length,
        ranges: !matches!(validator, Validator::None),
        validator,
        last_modified: None,
        content_type: None,
        digest: None,
    }
}
