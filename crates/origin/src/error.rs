//! What can go wrong with an origin, and whose fault it was.

use std::io;
use std::time::Duration;

/// Why an origin could not be probed or read. URLs in the texts have no credentials and no query.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The URL, or one that it redirects to, is not permitted.
    #[error("url: {url} may not be read: {reason}")]
    NotAllowed {
        /// Which URL.
        url: String,
        /// Which rule.
        reason: String,
    },
    /// No connection: name, network, or nobody listens.
    #[error("no connection to {url}: {reason}; check the host name and that the server runs")]
    Connect {
        /// What was to be read.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The TLS certificate or handshake was not accepted.
    #[error(
        "no secure connection to {url}: {reason}; check the server's certificate and this machine's root certificates"
    )]
    Tls {
        /// What was to be read.
        url: String,
        /// What TLS said.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection to {url} broke: {reason}")]
    Broken {
        /// What was being read.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// Nothing arrived for too long.
    #[error("{url} sent nothing for {} s while {stage} was awaited", waited.as_secs_f32())]
    Stalled {
        /// What was being read.
        url: String,
        /// How long.
        waited: Duration,
        /// What was awaited.
        stage: &'static str,
    },
    /// 429 or 503: the origin wants to be left alone.
    #[error("the origin of {url} is busy (status {status}){}", again(*retry_after))]
    Busy {
        /// What was to be read.
        url: String,
        /// The status it answered.
        status: u16,
        /// For how long nobody should ask the host again, if it said so.
        retry_after: Option<Duration>,
    },
    /// 404 or 410, or no such file.
    #[error("{url} does not exist at the origin{}", with_status(*status))]
    NotFound {
        /// What was to be read.
        url: String,
        /// The status, for HTTP.
        status: Option<u16>,
    },
    /// 401, 403 or 407, or no permission for a file.
    #[error("the origin refuses access to {url}{}; check credentials and permissions", with_status(*status))]
    Refused {
        /// What was to be read.
        url: String,
        /// The status, for HTTP.
        status: Option<u16>,
    },
    /// The origin failed by its own account (5xx).
    #[error("the origin failed at {url} (status {status})")]
    Server {
        /// What was to be read.
        url: String,
        /// The status it answered.
        status: u16,
    },
    /// 416: no such bytes.
    #[error("the origin has no such bytes in {url}{}", now_has(*length))]
    RangeNotSatisfiable {
        /// What was being read.
        url: String,
        /// The object's length by that reply.
        length: Option<u64>,
        /// Whether the object was expected to have them: then it shrank.
        expected: bool,
    },
    /// The object is not the version that was expected.
    #[error(
        "the object at {url} changed: {what} was {expected}, now {found}; begin again with the new version"
    )]
    Changed {
        /// What was being read.
        url: String,
        /// Which property.
        what: &'static str,
        /// Its value before.
        expected: String,
        /// Its value now.
        found: String,
    },
    /// 200 instead of 206: the whole object is coming.
    #[error("the origin ignored the asked range of {url}: read it whole, by one GET")]
    RangeIgnored {
        /// What was being read.
        url: String,
        /// Whether the range began at byte 0, so that the same reply would have served.
        from_start: bool,
        /// The whole length by that reply.
        length: Option<u64>,
    },
    /// 206 with other bytes than asked for.
    #[error("the origin sent the wrong bytes of {url}: asked {asked}, answered {answered}")]
    WrongRange {
        /// What was being read.
        url: String,
        /// The range asked for.
        asked: String,
        /// `Content-Range` of the reply.
        answered: String,
    },
    /// A coded body although only `identity` was accepted.
    #[error("the origin sent {url} encoded as `{coding}` although only plain bytes were accepted")]
    Encoded {
        /// What was being read.
        url: String,
        /// The coding it named.
        coding: String,
    },
    /// The body ended early, with a clean close or a broken one.
    #[error("the origin ended {url} after {got} of {expected} bytes")]
    Short {
        /// What was being read.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that should have come.
        expected: u64,
        /// Whether the reply itself marked this as its end: then it did not break off.
        marked: bool,
    },
    /// The body goes on beyond what it should be.
    #[error("the origin sent more of {url} than the {expected} bytes that are due")]
    TooLong {
        /// What was being read.
        url: String,
        /// Bytes that should have come.
        expected: u64,
    },
    /// What was given cannot be put into a request.
    #[error("no request can be made for {url}: {problem}")]
    Request {
        /// What was to be read.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A redirect that cannot be followed.
    #[error("the redirect from {url} cannot be followed: {problem}")]
    Redirect {
        /// Which URL redirected.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A reply that makes no sense.
    #[error("the origin's reply for {url} makes no sense: {problem}")]
    BadReply {
        /// What was to be read.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A local path that is no file.
    #[error("{url} is not a file but {what}: name a file")]
    NotAFile {
        /// Which path.
        url: String,
        /// What it is.
        what: &'static str,
    },
    /// A local file could not be read.
    #[error("{url} could not be read: {source}")]
    File {
        /// Which file.
        url: String,
        /// What the system said.
        source: io::Error,
    },
}

fn again(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| {
        format!("; it asks to wait {} s", after.as_secs_f32().ceil())
    })
}

fn with_status(status: Option<u16>) -> String {
    status.map_or_else(String::new, |status| format!(" (status {status})"))
}

fn now_has(length: Option<u64>) -> String {
    length.map_or_else(String::new, |length| format!(": it has {length} bytes now"))
}

/// Classes of [`OriginError`], for policy and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Forbidden by our own allow-list.
    NotAllowed,
    /// No connection, a broken or a silent one.
    Unreachable,
    /// The origin asks for a pause.
    Busy,
    /// No such object.
    NotFound,
    /// No permission.
    Refused,
    /// Another version than expected.
    Changed,
    /// The origin cannot do ranges after all.
    RangeIgnored,
    /// The origin failed, or broke HTTP.
    Faulty,
}

impl ErrorKind {
    /// A short word for metrics' labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Changed => "changed",
            Self::RangeIgnored => "range_ignored",
            Self::Faulty => "faulty",
        }
    }
}

impl OriginError {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAllowed { .. } => ErrorKind::NotAllowed,
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. } => ErrorKind::Unreachable,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Changed { .. } | Self::RangeNotSatisfiable { expected: true, .. } => {
                ErrorKind::Changed
            }
            Self::RangeIgnored { .. } => ErrorKind::RangeIgnored,
            Self::Server { .. }
            | Self::RangeNotSatisfiable {
                expected: false, ..
            }
            | Self::WrongRange { .. }
            | Self::Encoded { .. }
            | Self::Short { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Redirect { .. }
            | Self::BadReply { .. }
            | Self::NotAFile { .. }
            | Self::File { .. } => ErrorKind::Faulty,
        }
    }

    /// True when the same request may succeed later: the network or the server's moment was bad.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::Busy { .. }
            | Self::Server { .. }
            | Self::Short { .. } => true,
            Self::NotAllowed { .. }
            | Self::Tls { .. }
            | Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::Changed { .. }
            | Self::RangeIgnored { .. }
            | Self::WrongRange { .. }
            | Self::Encoded { .. }
            | Self::TooLong { .. }
            | Self::Request { .. }
            | Self::Redirect { .. }
            | Self::BadReply { .. }
            | Self::NotAFile { .. }
            | Self::File { .. } => false,
        }
    }

    /// True when the object is another version than expected: nothing more of it may be mixed with what is there.
    pub fn is_changed(&self) -> bool {
        self.kind() == ErrorKind::Changed
    }

    /// How long the origin wants to be left alone, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
