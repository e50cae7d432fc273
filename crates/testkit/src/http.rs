//! A small blocking HTTP/1.1 client: one request a connection, the reply as it was on the wire.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::wait::DEFAULT_PATIENCE;

/// A reply, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer encoding.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of the first header with this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics when it is not.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the reply is not JSON: {error}: {}", self.text()))
    }

    /// Panics with the body unless the status is `status`.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "often the check is all one wants"
    )]
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "status of the reply: {}", self.text());
        self
    }
}

/// Sends a request to an `http://` URL; panics when the server cannot be reached or says nonsense.
#[track_caller]
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    try_request(method, url, headers, body)
        .unwrap_or_else(|error| panic!("{method} {url} failed: {error}"))
}

/// Sends a request to an `http://` URL.
///
/// # Errors
/// The server cannot be reached, breaks off, takes over a minute or does not speak HTTP/1.1.
pub fn try_request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Reply> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| nonsense("not an http:// URL"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(DEFAULT_PATIENCE))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() || method == "POST" {
        head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    read_reply(&mut BufReader::new(stream), method == "HEAD")
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_reply(stream: &mut impl BufRead, head_only: bool) -> io::Result<Reply> {
    let status = read_line(stream)?
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| nonsense("no status line"))?;
    let mut reply = Reply {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let line = read_line(stream)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        reply
            .headers
            .push((name.trim().to_lowercase(), value.trim().to_owned()));
    }
    if head_only || matches!(status, 204 | 304) {
        return Ok(reply);
    }
    if reply.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = read_line(stream)?;
            let size = size.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| nonsense("bad chunk"))?;
            stream.take(size).read_to_end(&mut reply.body)?;
            read_line(stream)?;
            if size == 0 {
                return Ok(reply);
            }
        }
    }
    let length = reply
        .header("content-length")
        .and_then(|text| text.parse::<u64>().ok());
    stream
        .take(length.unwrap_or(u64::MAX))
        .read_to_end(&mut reply.body)?;
    if length.is_some_and(|length| length != reply.body.len() as u64) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(reply)
}

/// Control's API with a bearer token.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    token: String,
}

impl Api {
    /// The API at a base URL such as `http://127.0.0.1:7600`; an empty token sends none.
    pub fn new(base: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            base: base.into(),
            token: token.into(),
        }
    }

    /// `GET` of a path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, b"")
    }

    /// `POST` of a JSON value to a path.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, body.to_string().as_bytes())
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("Content-Type", "application/json")];
        if !self.token.is_empty() {
            headers.push(("Authorization", &bearer));
        }
        request(method, &format!("{}{path}", self.base), &headers, body)
    }
}

/// The sum over all label sets of one metric at a node's `/metrics` (Prometheus text); 0 when it is not there yet.
#[track_caller]
pub fn metric(base: &str, name: &str) -> u64 {
    let text = request("GET", &format!("{base}/metrics"), &[], b"")
        .expect_status(200)
        .text();
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once('}')?.1,
                None => rest.strip_prefix(' ')?,
            };
            value.split_whitespace().next()?.parse::<f64>().ok()
        })
        .map(|value| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counters of bytes in tests are small and positive"
            )]
            let whole = value as u64;
            whole
        })
        .sum()
}
