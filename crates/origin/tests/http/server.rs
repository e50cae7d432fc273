//! A server that says exactly what a test tells it to say, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use floodway_origin::{
    Body, Expectation, Guard, Origin, OriginError, Probe, ReadRequest, Settings, SourceUrl,
    Validator,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) const ETAG: &str = "\"v1\"";

/// One request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    /// How many requests came before it, on any connection.
    pub(crate) number: usize,
    head: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// First and last byte asked for.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Keep,
    Close,
    Hang,
}

pub(crate) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

impl Reply {
    /// A reply with `Content-Length`, on a connection that stays open.
    pub(crate) fn new(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("Content-Length", &length));
        Self::raw(status, &headers, body)
    }

    /// A reply with no headers but the given.
    pub(crate) fn raw(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
        for (name, value) in headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(body);
        Self {
            bytes,
            then: Then::Keep,
        }
    }

    pub(crate) fn text(text: &str) -> Self {
        Self {
            bytes: text.into(),
            then: Then::Keep,
        }
    }

    /// Ends the connection cleanly after the reply.
    pub(crate) fn close(mut self) -> Self {
        self.then = Then::Close;
        self
    }

    /// Says nothing more, for ever.
    pub(crate) fn hang(mut self) -> Self {
        self.then = Then::Hang;
        self
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log) = (Arc::new(handler), Arc::clone(&seen));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&log));
                connections.spawn(async move { serve(stream, connection, &*handler, &log).await });
            }
        });
        Self {
            address,
            seen,
            _tasks: tasks,
        }
    }

    /// A server with one object at every path that keeps all rules.
    pub(crate) async fn honest(data: Vec<u8>) -> Self {
        Self::start(move |seen| honest(seen, &data, &[("ETag", ETAG)])).await
    }

    pub(crate) fn url(&self, path: &str) -> SourceUrl {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.path).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    handler: &(dyn Fn(&Seen) -> Reply + Send + Sync),
    log: &Mutex<Vec<Seen>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.extend(&bytes[..read]),
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).unwrap();
        let mut line = head.lines().next().unwrap().split(' ');
        let (method, path) = (line.next().unwrap().into(), line.next().unwrap().into());
        let reply = {
            let mut log = log.lock().unwrap();
            let seen = Seen {
                method,
                path,
                connection,
                number: log.len(),
                head,
            };
            log.push(seen.clone());
            drop(log);
            handler(&seen)
        };
        if stream.write_all(&reply.bytes).await.is_err() {
            return;
        }
        match reply.then {
            Then::Keep => {}
            Then::Close => return,
            Then::Hang => std::future::pending().await,
        }
    }
}

/// What RFC 9110 asks a server with one object to do.
pub(crate) fn honest(seen: &Seen, data: &[u8], validators: &[(&str, &str)]) -> Reply {
    let tag = validators
        .iter()
        .find(|(name, _)| *name == "ETag")
        .map(|(_, tag)| *tag);
    if seen
        .header("if-match")
        .is_some_and(|expected| Some(expected) != tag)
    {
        return Reply::new("412 Precondition Failed", validators, b"");
    }
    let mut headers = validators.to_vec();
    headers.push(("Accept-Ranges", "bytes"));
    if seen.method == "HEAD" {
        let length = data.len().to_string();
        headers.push(("Content-Length", &length));
        return Reply::raw("200 OK", &headers, b"");
    }
    let Some((first, last)) = seen.range() else {
        return Reply::new("200 OK", &headers, data);
    };
    if first >= data.len() {
        let range = format!("bytes */{}", data.len());
        return Reply::new(
            "416 Range Not Satisfiable",
            &[("Content-Range", &range)],
            b"",
        );
    }
    let last = last.min(data.len() - 1);
    let range = format!("bytes {first}-{last}/{}", data.len());
    headers.push(("Content-Range", &range));
    Reply::new("206 Partial Content", &headers, &data[first..=last])
}

/// Bytes that tell their place.
pub(crate) fn data(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect()
}

/// A reader that loses patience soon.
pub(crate) fn origin() -> Origin {
    let settings = Settings {
        first_byte_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_millis(300),
        ..Settings::default()
    };
    Origin::new(settings).unwrap()
}

pub(crate) fn expect(length: u64, tag: &str) -> Expectation {
    Expectation {
        length: Some(length),
        validator: Validator::Strong(tag.into()),
    }
}

/// Bytes `range` of the object of `length` bytes at `url`, of version [`ETAG`].
pub(crate) fn part(url: SourceUrl, range: std::ops::Range<u64>, length: u64) -> ReadRequest {
    ReadRequest {
        url,
        range: Some(range),
        expect: expect(length, ETAG),
        bearer: None,
    }
}

pub(crate) async fn collect(mut body: Body) -> Result<Vec<u8>, OriginError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend(chunk?);
    }
    Ok(bytes)
}

pub(crate) async fn read(request: &ReadRequest) -> Result<Vec<u8>, OriginError> {
    collect(origin().read(request, &Guard::unmetered()).await?).await
}

pub(crate) async fn probe(url: &SourceUrl) -> Result<Probe, OriginError> {
    origin().probe(url, &Guard::unmetered(), None).await
}
