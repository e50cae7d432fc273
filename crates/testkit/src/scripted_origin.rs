//! An HTTP origin that tells one chosen lie, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What an origin does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Nothing: ranges, a strong ETag, If-Match and If-Range are obeyed.
    None,
    /// Promises ranges and answers every one with 200 and the whole body.
    FullFor206,
    /// Answers a range with 206 and the right number of bytes from another place, labelled as what they are.
    OtherRange,
    /// From request `k` (counted from 0) on: another object of equal length under another ETag; If-Match gets a 412.
    ChangesAt(usize),
    /// The same, but If-Match is ignored: only the new ETag tells.
    ChangesAndIgnoresIfMatch(usize),
    /// Closes each body cleanly after so many bytes, as if that were all, in the first `times` replies.
    ShortBody {
        /// Body bytes before it closes.
        after: usize,
        /// How many replies are cut.
        times: usize,
        /// Whether a `Content-Length` gives it away.
        says_length: bool,
    },
    /// Applies `Content-Encoding: gzip` although the client asked for identity.
    Encodes,
    /// Knows no ranges and does not say `Accept-Ranges`.
    NoRanges,
    /// The same, and the first `times` data replies break off after so many bytes.
    NoRangesBreak {
        /// Body bytes before it closes.
        after: usize,
        /// How many replies break.
        times: usize,
    },
    /// Its only validator is a weak ETag.
    WeakEtag,
    /// Has no validator at all.
    NoValidator,
    /// Has ranges but no ETag, only a Last-Modified date.
    OnlyLastModified,
    /// Sends one chunked body without a length, and no ranges.
    Chunked,
    /// The same, but the first `times` data replies break off after so many bytes: without their last chunk.
    ChunksBreak {
        /// Body bytes before it closes.
        after: usize,
        /// How many replies break.
        times: usize,
    },
    /// The same, but so many bytes of each data reply wait until [`ScriptedOrigin::release`], at its end.
    ChunksWait(usize),
    /// Answers so many data requests with this status and `Retry-After: 2`, then properly.
    Busy {
        /// 429 or 503.
        status: u16,
        /// How many requests are refused.
        times: usize,
    },
    /// Always answers with this status.
    Status(u16),
    /// Sends nothing more after so many bytes of the first data reply, and keeps the connection open.
    Stalls(usize),
    /// Says in its `HEAD` and its first reply that the object is whole; later it is this much shorter under the same ETag.
    Truncated(usize),
    /// The object lies behind so many redirects.
    Redirects(usize),
    /// Redirects to another URL.
    RedirectsTo(String),
}

/// One request as it came, and what was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Since the origin's start.
    pub at: Duration,
    /// The method.
    pub method: String,
    /// The request target.
    pub target: String,
    /// Header names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The status that was answered.
    pub status: u16,
    /// Body bytes that were sent.
    pub body_bytes: u64,
}

/// All requests of one origin, in the order they were answered.
pub type Conversation = Vec<Seen>;

/// An origin on 127.0.0.1 that serves one body under every path. It lives as long as the test.
pub struct ScriptedOrigin {
    port: u16,
    state: Arc<State>,
}

struct State {
    body: Vec<u8>,
    /// What the object is after it changed: every byte differs.
    changed: Vec<u8>,
    lie: Lie,
    bytes_per_second: u64,
    start: Instant,
    /// Requests for data that were begun: no `HEAD`, no first byte alone, no redirects or refusals.
    data_requests: Mutex<usize>,
    refused: Mutex<usize>,
    seen: Mutex<Conversation>,
    released: Mutex<bool>,
    on_release: Condvar,
}

const ETAG: &str = "\"first\"";
const CHANGED_ETAG: &str = "\"second\"";

struct Request {
    method: String,
    target: String,
    headers: BTreeMap<String, String>,
}

/// A reply before it is sent.
struct Plan<'a> {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
    /// Send only so many bytes of the body, then close.
    cut: Option<usize>,
    /// Send only so many bytes of the body, then wait.
    stall: Option<usize>,
    chunked: bool,
    hides_length: bool,
    /// So many bytes at its end wait for the release.
    waits: usize,
}

impl ScriptedOrigin {
    /// Starts an origin that serves `body` at full speed with one lie.
    pub fn start(body: Vec<u8>, lie: Lie) -> Self {
        Self::start_limited(body, lie, u64::MAX)
    }

    /// Starts an origin that sends at most `bytes_per_second` on each connection.
    pub fn start_limited(body: Vec<u8>, lie: Lie, bytes_per_second: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for an origin");
        let port = listener.local_addr().expect("a bound port").port();
        let state = Arc::new(State {
            changed: body.iter().map(|byte| !byte).collect(),
            body,
            lie,
            bytes_per_second,
            start: Instant::now(),
            data_requests: Mutex::new(0),
            refused: Mutex::new(0),
            seen: Mutex::default(),
            released: Mutex::new(false),
            on_release: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that breaks off is no concern of the test.
                thread::spawn(move || state.serve(stream).ok());
            }
        });
        Self { port, state }
    }

    /// Lets the bytes go that [`Lie::ChunksWait`] holds back.
    pub fn release(&self) {
        *self.state.released.lock().expect("no thread panicked") = true;
        self.state.on_release.notify_all();
    }

    /// The URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What the object is before it changes.
    pub fn body(&self) -> &[u8] {
        &self.state.body
    }

    /// What the object is after it changed.
    pub fn changed_body(&self) -> &[u8] {
        &self.state.changed
    }

    /// All requests so far.
    pub fn seen(&self) -> Conversation {
        self.state.seen.lock().expect("no thread panicked").clone()
    }

    /// Body bytes sent so far.
    pub fn body_bytes(&self) -> u64 {
        self.seen().iter().map(|seen| seen.body_bytes).sum()
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut reader)? {
            let plan = self.plan(&request);
            let closes = plan.cut.is_some() || plan.chunked;
            let index = {
                let mut seen = self.seen.lock().expect("no thread panicked");
                seen.push(Seen {
                    at: self.start.elapsed(),
                    method: request.method.clone(),
                    target: request.target.clone(),
                    headers: request.headers.clone(),
                    status: plan.status,
                    body_bytes: 0,
                });
                seen.len() - 1
            };
            self.send(&mut stream, &request, &plan, index)?;
            if closes {
                return stream.shutdown(std::net::Shutdown::Write);
            }
        }
        Ok(())
    }

    /// What to answer, the lie included.
    fn plan(&self, request: &Request) -> Plan<'_> {
        if let Some(plan) = self.refuse_or_redirect(request) {
            return plan;
        }
        let range = request.headers.get("range").map(String::as_str);
        let is_probe = request.method == "HEAD" || range == Some("bytes=0-0");
        let number = {
            let mut requests = self.data_requests.lock().expect("no thread panicked");
            *requests += usize::from(!is_probe);
            requests.saturating_sub(1)
        };
        let changed = match self.lie {
            Lie::ChangesAt(at) | Lie::ChangesAndIgnoresIfMatch(at) => number >= at,
            _ => false,
        };
        let (body, etag) = if changed {
            (&self.changed, CHANGED_ETAG)
        } else {
            (&self.body, ETAG)
        };
        let body = match self.lie {
            Lie::Truncated(by) if number > 0 => &body[..body.len() - by],
            _ => body,
        };
        let validator = match self.lie {
            Lie::WeakEtag => vec![("ETag", format!("W/{etag}"))],
            Lie::NoValidator | Lie::Chunked | Lie::ChunksBreak { .. } | Lie::ChunksWait(_) => {
                vec![]
            }
            Lie::OnlyLastModified => {
                vec![("Last-Modified", "Tue, 03 Nov 2026 10:00:00 GMT".to_owned())]
            }
            _ => vec![("ETag", etag.to_owned())],
        };
        let mut plan = Plan {
            status: 200,
            headers: validator,
            body,
            cut: None,
            stall: None,
            chunked: self.is_chunked(),
            hides_length: false,
            waits: 0,
        };
        let if_match = request.headers.get("if-match").filter(|&tag| tag != "*");
        if !matches!(self.lie, Lie::ChangesAndIgnoresIfMatch(_))
            && if_match.is_some_and(|tag| tag != etag)
        {
            return Plan {
                status: 412,
                body: b"",
                ..plan
            };
        }
        let no_ranges = matches!(self.lie, Lie::NoRanges | Lie::NoRangesBreak { .. });
        let ranges = !no_ranges && !self.is_chunked();
        if ranges {
            plan.headers.push(("Accept-Ranges", "bytes".into()));
        }
        let range = range
            .filter(|_| ranges && self.lie != Lie::FullFor206)
            .filter(|_| {
                request
                    .headers
                    .get("if-range")
                    .is_none_or(|tag| tag == etag)
            });
        if let Some(range) = range {
            self.apply_range(range, &mut plan);
        }
        match self.lie {
            Lie::ShortBody {
                after,
                times,
                says_length,
            } if !is_probe && number < times => {
                plan.cut = Some(after);
                plan.hides_length = !says_length;
            }
            Lie::ChunksBreak { after, times } | Lie::NoRangesBreak { after, times }
                if !is_probe && number < times =>
            {
                plan.cut = Some(after);
            }
            Lie::ChunksWait(waits) if !is_probe => plan.waits = waits,
            Lie::Stalls(after) if !is_probe && number == 0 => plan.stall = Some(after),
            Lie::Encodes => plan.headers.push(("Content-Encoding", "gzip".into())),
            _ => {}
        }
        plan
    }

    fn is_chunked(&self) -> bool {
        matches!(
            self.lie,
            Lie::Chunked | Lie::ChunksBreak { .. } | Lie::ChunksWait(_)
        )
    }

    fn wait_for_release(&self) {
        let released = self.released.lock().expect("no thread panicked");
        let waiting = self.on_release.wait_while(released, |released| !*released);
        drop(waiting.expect("no thread panicked"));
    }

    fn refuse_or_redirect(&self, request: &Request) -> Option<Plan<'_>> {
        let answer = |status, headers| Plan {
            status,
            headers,
            body: b"",
            cut: None,
            stall: None,
            chunked: false,
            hides_length: false,
            waits: 0,
        };
        match &self.lie {
            Lie::Status(status) => Some(answer(*status, vec![])),
            Lie::Busy { status, times } => {
                let mut refused = self.refused.lock().expect("no thread panicked");
                (*refused < *times).then(|| {
                    *refused += 1;
                    answer(*status, vec![("Retry-After", "2".to_owned())])
                })
            }
            Lie::Redirects(hops) => {
                let hop: usize = request
                    .target
                    .split_once("hop=")
                    .and_then(|(_, hop)| hop.parse().ok())
                    .unwrap_or(0);
                let path = request.target.split('?').next().unwrap_or("/");
                (hop < *hops)
                    .then(|| answer(302, vec![("Location", format!("{path}?hop={}", hop + 1))]))
            }
            Lie::RedirectsTo(url) => Some(answer(302, vec![("Location", url.clone())])),
            _ => None,
        }
    }

    fn apply_range(&self, range: &str, plan: &mut Plan<'_>) {
        let length = plan.body.len();
        let Some((first, end)) = parse_range(range, length) else {
            plan.status = 416;
            plan.headers
                .push(("Content-Range", format!("bytes */{length}")));
            plan.body = b"";
            return;
        };
        let (first, end) = if self.lie == Lie::OtherRange && end < length {
            (first + 1, end + 1)
        } else {
            (first, end)
        };
        plan.status = 206;
        plan.headers.push((
            "Content-Range",
            format!("bytes {first}-{}/{length}", end - 1),
        ));
        plan.body = &plan.body[first..end];
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        plan: &Plan<'_>,
        index: usize,
    ) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", plan.status);
        for (name, value) in &plan.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if plan.chunked {
            head += "Transfer-Encoding: chunked\r\n\r\n";
        } else if plan.hides_length {
            head += "Connection: close\r\n\r\n";
        } else {
            head.extend(["Content-Length: ", &plan.body.len().to_string(), "\r\n\r\n"]);
        }
        stream.write_all(head.as_bytes())?;
        if request.method == "HEAD" {
            return Ok(());
        }
        let end = plan
            .cut
            .or(plan.stall)
            .unwrap_or(usize::MAX)
            .min(plan.body.len());
        let begun = Instant::now();
        let mut sent = 0_u64;
        let waits_at = plan.body.len() - plan.waits;
        let (now, later) = plan.body[..end].split_at(end.min(waits_at));
        for part in now.chunks(16 * 1024).chain(later.chunks(16 * 1024)) {
            if plan.waits > 0 && sent == waits_at as u64 {
                self.wait_for_release();
            }
            if plan.chunked {
                write!(stream, "{:x}\r\n", part.len())?;
            }
            stream.write_all(part)?;
            if plan.chunked {
                stream.write_all(b"\r\n")?;
            }
            sent += part.len() as u64;
            self.seen.lock().expect("no thread panicked")[index].body_bytes = sent;
            if self.bytes_per_second != u64::MAX {
                let due = Duration::from_micros(sent * 1_000_000 / self.bytes_per_second);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        if plan.chunked && plan.cut.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
        if plan.stall.is_some() {
            // Until the client gives up, which is what the test waits for.
            io::copy(&mut stream.try_clone()?, &mut io::sink())?;
        }
        Ok(())
    }
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Request {
        method,
        target,
        headers,
    }))
}

/// First byte and end of a single range; `None` when it cannot be satisfied.
fn parse_range(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        return (suffix > 0).then(|| (length.saturating_sub(suffix), length));
    }
    let first: usize = first.parse().ok()?;
    let end = last
        .parse()
        .map_or(length, |last: usize| (last + 1).min(length));
    (first < end).then_some((first, end))
}
