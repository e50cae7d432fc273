//! One question to an HTTP origin and its answer: redirects, pauses, credentials and refusals are dealt with here.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::percent_decode_str;
use url::Url;

use crate::connect::{Connector, Proxies};
use crate::header::{ContentRange, retry_after, text};
use crate::hosts::{HostKey, Pauses};
use crate::redirect::{self, MOST_HOPS, Memory, Remembered, UrlCheck};
use crate::url::redact;
use crate::{Bearer, Guard, OriginError, Settings, SetupError, SourceUrl};

const USER_AGENT: &str = concat!("floodway/", env!("CARGO_PKG_VERSION"));
/// Largest read from a socket, and with it the largest head of a reply. Reads begin small and double up to this.
const READ_BUFFER: usize = 512 * 1024;
const MOST_HEADERS: usize = 200;
/// The rest of a body up to this size is read to keep the connection; beyond, a new connection is cheaper.
pub(crate) const DRAIN: u64 = 64 * 1024;
/// Idle connections are closed before usual servers close them.
const IDLE: Duration = Duration::from_secs(15);

/// The HTTP side: connections, and what earlier answers taught.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Client<Connector, Empty<Bytes>>,
    proxies: Proxies,
    pauses: Pauses,
    memory: Memory,
    settings: Settings,
}

/// What is asked of a URL.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) source: &'a SourceUrl,
    pub(crate) method: Method,
    pub(crate) range: Option<Range<u64>>,
    pub(crate) if_match: Option<&'a str>,
    pub(crate) bearer: Option<&'a Bearer>,
    /// The object's length by what is known: tells a shrunken object from a foolish range.
    pub(crate) length: Option<u64>,
}

/// A reply below 300, and who gave it.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) url: Url,
}

impl Exchange {
    pub(crate) fn new(settings: Settings) -> Result<Self, SetupError> {
        let proxies = Proxies::new(&settings);
        let connector = Connector::new(&settings, proxies.clone())?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(settings.idle_per_host)
            .http1_max_buf_size(READ_BUFFER)
            .http1_max_headers(MOST_HEADERS)
            .build(connector);
        Ok(Self {
            client,
            proxies,
            pauses: Pauses::default(),
            memory: Memory::default(),
            settings,
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks the origin again, not a remembered mirror, next time.
    pub(crate) fn forget(&self, source: &SourceUrl) {
        self.memory.forget(source);
    }

    /// Asks and follows redirects; a remembered target that fails is forgotten and the source asked instead, once.
    ///
    /// # Errors
    /// Whatever stands between the question and a reply below 300.
    pub(crate) async fn ask(
        &self,
        question: &Question<'_>,
        check: Option<&dyn UrlCheck>,
        guard: &Guard,
    ) -> Result<Answer, OriginError> {
        let source = question.source.as_url();
        // The source itself must be permitted even when its target is remembered.
        permitted(check, source)?;
        if let Some(known) = self.memory.get(question.source) {
            match self
                .follow(question, known.target, Some(known.until), check, guard)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(%error, source = %question.source, "a remembered redirect failed");
                    self.memory.forget(question.source);
                }
            }
        }
        self.follow(question, source.clone(), None, check, guard)
            .await
    }

    async fn follow(
        &self,
        question: &Question<'_>,
        mut url: Url,
        mut until: Option<Instant>,
        check: Option<&dyn UrlCheck>,
        guard: &Guard,
    ) -> Result<Answer, OriginError> {
        let home = HostKey::of(question.source.as_url());
        let mut at_home = true;
        let mut memorable = true;
        for hops in 0..=MOST_HOPS {
            permitted(check, &url)?;
            let host = HostKey::of(&url);
            // Credentials never come back once a redirect led away.
            at_home &= host == home;
            if let Some((left, status)) = self.pauses.left(&host) {
                let (url, retry_after) = (redact(&url), Some(left));
                return Err(OriginError::Busy {
                    url,
                    status,
                    retry_after,
                });
            }
            let response = self.send(question, &url, at_home).await?;
            let status = response.status();
            if redirect::is_redirect(status) {
                let hop = redirect::hop(&url, status, response.headers())?;
                memorable &= hop.memory.is_some();
                let end = hop.memory.map(|age| Instant::now() + age);
                until = until.into_iter().chain(end).min();
                drain(
                    response.into_body(),
                    guard.clone(),
                    self.settings.stall_timeout,
                );
                url = hop.target;
                continue;
            }
            if !status.is_success() {
                return Err(self.refusal(question, &url, &response));
            }
            match until {
                Some(until) if hops > 0 && memorable => {
                    let target = url.clone();
                    self.memory
                        .put(question.source, Remembered { target, until });
                }
                _ => {}
            }
            return Ok(Answer { response, url });
        }
        Err(OriginError::Redirect {
            url: question.source.redacted(),
            problem: format!("more than {MOST_HOPS} redirects in a row: a loop"),
        })
    }

    /// Sends the request; once more when a kept connection turned out to be closed by the server.
    async fn send(
        &self,
        question: &Question<'_>,
        url: &Url,
        at_home: bool,
    ) -> Result<Response<Incoming>, OriginError> {
        let limit = self.settings.connect_timeout + self.settings.first_byte_timeout;
        let mut again = true;
        loop {
            let request = self.request(question, url, at_home)?;
            match tokio::time::timeout(limit, self.client.request(request)).await {
                Err(_) => {
                    return Err(OriginError::Stalled {
                        url: redact(url),
                        waited: limit,
                        stage: "the head of its reply",
                    });
                }
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if again && closed_early(&error) => again = false,
                Ok(Err(error)) => return Err(transport(url, &error)),
            }
        }
    }

    fn request(
        &self,
        question: &Question<'_>,
        url: &Url,
        at_home: bool,
    ) -> Result<Request<Empty<Bytes>>, OriginError> {
        let bad = |problem: String| OriginError::Request {
            url: redact(url),
            problem,
        };
        let mut bare = url.clone();
        // Both fail only for URLs without a host, which http URLs have.
        let _ = bare.set_username("");
        let _ = bare.set_password(None);
        bare.set_fragment(None);
        let uri: Uri = bare
            .as_str()
            .parse()
            .map_err(|error| bad(format!("the URL cannot be sent ({error})")))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = question.method.clone();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        let mut set = |name, value: &str| {
            let value = HeaderValue::from_bytes(value.as_bytes());
            let value = value
                .map_err(|_| bad(format!("no {name} header can be made of what was given")))?;
            headers.insert(name, value);
            Ok(())
        };
        if let Some(range) = &question.range {
            set(
                header::RANGE,
                &format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            )?;
        }
        if let Some(tag) = question.if_match {
            set(header::IF_MATCH, tag)?;
        }
        if at_home && let Some(credentials) = credentials(question) {
            set(header::AUTHORIZATION, &credentials)?;
        }
        if let Some(authorization) = self.proxies.authorization(&uri) {
            headers.insert(header::PROXY_AUTHORIZATION, authorization);
        }
        *request.uri_mut() = uri;
        Ok(request)
    }

    /// What a status of 300 and above, other than a redirect, means.
    fn refusal(
        &self,
        question: &Question<'_>,
        url: &Url,
        response: &Response<Incoming>,
    ) -> OriginError {
        let (status, headers) = (response.status(), response.headers());
        let shown = redact(url);
        let code = status.as_u16();
        match code {
            429 | 503 => {
                let asked = text(headers, &header::RETRY_AFTER);
                let retry_after = asked.and_then(|text| retry_after(text, SystemTime::now()));
                if let Some(wait) = retry_after {
                    self.pauses.pause(HostKey::of(url), code, wait);
                }
                OriginError::Busy {
                    url: shown,
                    status: code,
                    retry_after,
                }
            }
            404 | 410 => OriginError::NotFound {
                url: shown,
                status: Some(code),
            },
            401 | 403 | 407 | 451 => OriginError::Refused {
                url: shown,
                status: Some(code),
            },
            412 if let Some(tag) = question.if_match => OriginError::Changed {
                url: shown,
                what: "its entity tag",
                expected: tag.into(),
                found: text(headers, &header::ETAG).unwrap_or("another").into(),
            },
            416 if let Some(range) = &question.range => OriginError::RangeNotSatisfiable {
                url: shown,
                length: unsatisfied(headers),
                expected: question.length.is_some_and(|length| range.start < length),
            },
            408 | 425 | 500..=599 => OriginError::Server {
                url: shown,
                status: code,
            },
            _ => OriginError::BadReply {
                url: shown,
                problem: format!("unexpected status {status}"),
            },
        }
    }
}

fn permitted(check: Option<&dyn UrlCheck>, url: &Url) -> Result<(), OriginError> {
    let Some(check) = check else { return Ok(()) };
    check.check(url).map_err(|reason| OriginError::NotAllowed {
        url: redact(url),
        reason,
    })
}

/// The object's length according to a 416.
fn unsatisfied(headers: &HeaderMap) -> Option<u64> {
    match ContentRange::parse(text(headers, &header::CONTENT_RANGE)?)? {
        ContentRange::Unsatisfied { total } => Some(total),
        ContentRange::Bytes { .. } => None,
    }
}

/// The bearer token, or the user and password of the source's URL.
fn credentials(question: &Question<'_>) -> Option<String> {
    if let Some(bearer) = question.bearer {
        return Some(format!("Bearer {}", bearer.token()));
    }
    let url = question.source.as_url();
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

/// Reads the small rest of a body in the background so that its connection can be used again; drops a large one.
pub(crate) fn drain(mut body: Incoming, guard: Guard, stall: Duration) {
    if body.is_end_stream()
        || body
            .size_hint()
            .exact()
            .is_some_and(|length| length > DRAIN)
    {
        return;
    }
    tokio::spawn(tokio::time::timeout(stall, async move {
        let mut read = 0;
        while read <= DRAIN
            && let Some(Ok(frame)) = body.frame().await
        {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            guard.count(length);
            guard.admit(length).await;
            read += length;
        }
    }));
}

/// A kept connection that the server closed just as it was used: nothing was answered, so asking again is safe.
fn closed_early(error: &ClientError) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut found = false;
    walk(error, &mut |error| {
        found |= error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message);
        found |= error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        });
    });
    found
}

/// A failure before the head of a reply.
fn transport(url: &Url, error: &ClientError) -> OriginError {
    let url = redact(url);
    let (mut reason, mut tls, mut parse) = (error.to_string(), false, false);
    walk(error, &mut |error| {
        reason = error.to_string();
        tls |= error.is::<rustls::Error>();
        parse |= error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse);
    });
    if tls {
        OriginError::Tls { url, reason }
    } else if error.is_connect() {
        OriginError::Connect { url, reason }
    } else if parse {
        OriginError::BadReply {
            url,
            problem: reason,
        }
    } else {
        OriginError::Broken { url, reason }
    }
}

/// Visits an error and its causes, outermost first. An `io::Error` hides the error that it wraps from `source`.
pub(crate) fn walk(error: &(dyn Error + 'static), visit: &mut dyn FnMut(&(dyn Error + 'static))) {
    visit(error);
    let wrapped = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    if let Some(wrapped) = wrapped {
        walk(wrapped, visit);
    } else if let Some(cause) = error.source() {
        walk(cause, visit);
    }
}
