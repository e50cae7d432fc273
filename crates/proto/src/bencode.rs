//! Bencoding (BEP 3): a decoder that borrows and keeps raw slices, and an encoder that sorts.
//!
//! Entry: [`decode`] gives a [`Value`], whose [`raw`](Value::raw) bytes are hashed or passed on exactly as they came;
//! [`Item`] is what gets written. Integers and string lengths have one form only (no leading zeros, no `-0`) and
//! a key comes once. Unsorted keys are read, because others' files have them, and reported by [`Dict::is_sorted`].

use std::collections::BTreeMap;

mod field;

pub(crate) use field::required;
pub use field::{FieldError, FieldProblem};

/// How much a decoder will build from bytes of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest input, in bytes.
    pub length: usize,
    /// How deep lists and dicts may nest.
    pub depth: usize,
    /// How many values there may be in all; each costs about 100 bytes of memory.
    pub items: usize,
}

impl Limits {
    /// For torrent files: 64 MiB, 500 000 values.
    pub const TORRENT: Self = Self {
        length: 64 << 20,
        depth: 32,
        items: 500_000,
    };
    /// For messages of peers and replies of trackers: 1 MiB, 20 000 values.
    pub const MESSAGE: Self = Self {
        length: 1 << 20,
        depth: 16,
        items: 20_000,
    };
}

/// Why bytes are no bencoding, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not valid bencoding at byte {offset}: {reason}")]
pub struct DecodeError {
    /// Bytes from the start of the input.
    pub offset: usize,
    /// What is wrong there.
    pub reason: Reason,
}

/// What is wrong with a bencoding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The input ends within a value.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow the value.
    #[error("something follows the end")]
    TrailingBytes,
    /// No value begins with this byte.
    #[error("no value begins with byte {0:#04x}")]
    UnknownType(u8),
    /// Not a number, a second form of one (`03`, `-0`), or more than 64 bits.
    #[error("not a number in its shortest form of at most 64 bits")]
    Number,
    /// A dict's key is not a string.
    #[error("a key is not a string")]
    KeyNotString,
    /// A dict has a key twice.
    #[error("the key {0:?} comes twice")]
    DuplicateKey(String),
    /// Longer than [`Limits::length`].
    #[error("{length} bytes are more than the limit of {limit}")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Nested deeper than [`Limits::depth`].
    #[error("nested deeper than {0} levels")]
    TooDeep(usize),
    /// More values than [`Limits::items`].
    #[error("more than {0} values")]
    TooManyItems(usize),
}

/// One decoded value and the bytes it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
    kind: Kind<'a>,
}

/// What a [`Value`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `i42e`
    Integer(i64),
    /// `4:spam`
    Bytes(&'a [u8]),
    /// `l…e`
    List(Vec<Value<'a>>),
    /// `d…e`
    Dict(Dict<'a>),
}

/// A dict, looked up by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dict<'a> {
    /// In ascending order of keys, whatever the input's order.
    entries: Vec<(&'a [u8], Value<'a>)>,
    sorted: bool,
}

impl<'a> Value<'a> {
    /// The value's own bytes, as they came.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// What it is.
    pub fn kind(&self) -> &Kind<'a> {
        &self.kind
    }

    /// The integer, if it is one.
    pub fn as_integer(&self) -> Option<i64> {
        match self.kind {
            Kind::Integer(value) => Some(value),
            _ => None,
        }
    }

    /// The byte string, if it is one.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The byte string, if it is one and UTF-8.
    pub fn as_text(&self) -> Option<&'a str> {
        self.as_bytes()
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The list, if it is one.
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(values) => Some(values),
            _ => None,
        }
    }

    /// The dict, if it is one.
    pub fn as_dict(&self) -> Option<&Dict<'a>> {
        match &self.kind {
            Kind::Dict(dict) => Some(dict),
            _ => None,
        }
    }
}

impl<'a> Dict<'a> {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let found = self
            .entries
            .binary_search_by_key(&key.as_bytes(), |(key, _)| key);
        found
            .ok()
            .and_then(|at| self.entries.get(at))
            .map(|(_, value)| value)
    }

    /// All entries, in ascending order of keys.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    /// True when the input had the keys in order, as BEP 3 asks.
    pub fn is_sorted(&self) -> bool {
        self.sorted
    }
}

/// Decodes `input`, which must be exactly one value.
///
/// # Errors
/// [`DecodeError`] with the place and the reason, also when a limit is exceeded.
pub fn decode<'a>(input: &'a [u8], limits: &Limits) -> Result<Value<'a>, DecodeError> {
    let (value, rest) = decode_prefix(input, limits)?;
    if rest.is_empty() {
        return Ok(value);
    }
    Err(DecodeError {
        offset: input.len() - rest.len(),
        reason: Reason::TrailingBytes,
    })
}

/// Decodes the value at the beginning of `input`, and returns what follows it (BEP 9 puts data there).
///
/// # Errors
/// As [`decode`].
pub fn decode_prefix<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<(Value<'a>, &'a [u8]), DecodeError> {
    if input.len() > limits.length {
        return Err(DecodeError {
            offset: 0,
            reason: Reason::TooLong {
                length: input.len(),
                limit: limits.length,
            },
        });
    }
    let mut decoder = Decoder {
        input,
        at: 0,
        items: 0,
        limits,
    };
    let value = decoder.value(0)?;
    Ok((value, &input[decoder.at..]))
}

struct Decoder<'a, 'l> {
    input: &'a [u8],
    at: usize,
    items: usize,
    limits: &'l Limits,
}

impl<'a> Decoder<'a, '_> {
    fn error<T>(&self, reason: Reason) -> Result<T, DecodeError> {
        Err(DecodeError {
            offset: self.at,
            reason,
        })
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        match self.input.get(self.at) {
            Some(&byte) => Ok(byte),
            None => self.error(Reason::Truncated),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, DecodeError> {
        self.items += 1;
        if self.items > self.limits.items {
            return self.error(Reason::TooManyItems(self.limits.items));
        }
        let start = self.at;
        let kind = match self.peek()? {
            b'i' => {
                self.at += 1;
                Kind::Integer(self.number(b'e')?)
            }
            b'0'..=b'9' => Kind::Bytes(self.string()?),
            b'l' | b'd' if depth >= self.limits.depth => {
                return self.error(Reason::TooDeep(self.limits.depth));
            }
            b'l' => Kind::List(self.list(depth)?),
            b'd' => Kind::Dict(self.dict(depth)?),
            other => return self.error(Reason::UnknownType(other)),
        };
        Ok(Value {
            raw: &self.input[start..self.at],
            kind,
        })
    }

    /// Digits up to `end`, which is consumed.
    fn number(&mut self, end: u8) -> Result<i64, DecodeError> {
        /// The digits of `i64::MIN` and a sign.
        const LONGEST: usize = 20;
        let rest = &self.input[self.at..];
        let window = &rest[..rest.len().min(LONGEST + 1)];
        let Some(length) = window.iter().position(|&byte| byte == end) else {
            // Truncated only if what is there could still become a number.
            let plausible = window.len() == rest.len()
                && window
                    .iter()
                    .all(|&byte| byte.is_ascii_digit() || byte == b'-');
            return self.error(if plausible {
                Reason::Truncated
            } else {
                Reason::Number
            });
        };
        let text = &window[..length];
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let shortest = match digits {
            [b'0'] => text.len() == 1,
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        let value = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        match value {
            Some(value) if shortest => {
                self.at += length + 1;
                Ok(value)
            }
            _ => self.error(Reason::Number),
        }
    }

    fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        let start = self.at;
        let length = self.number(b':')?;
        let rest = &self.input[self.at..];
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| rest.get(..length));
        let Some(bytes) = taken else {
            self.at = start;
            return self.error(Reason::Truncated);
        };
        self.at += bytes.len();
        Ok(bytes)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, DecodeError> {
        self.at += 1;
        let mut values = Vec::new();
        while self.peek()? != b'e' {
            values.push(self.value(depth + 1)?);
        }
        self.at += 1;
        Ok(values)
    }

    fn dict(&mut self, depth: usize) -> Result<Dict<'a>, DecodeError> {
        let start = self.at;
        self.at += 1;
        let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
        let mut sorted = true;
        loop {
            let key = match self.peek()? {
                b'e' => break,
                b'0'..=b'9' => self.string()?,
                _ => return self.error(Reason::KeyNotString),
            };
            sorted &= entries.last().is_none_or(|(last, _)| *last <= key);
            entries.push((key, self.value(depth + 1)?));
        }
        self.at += 1;
        if !sorted {
            entries.sort_by_key(|&(key, _)| key);
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(DecodeError {
                offset: start,
                reason: Reason::DuplicateKey(abbreviate(pair[0].0)),
            });
        }
        Ok(Dict { entries, sorted })
    }
}

/// The beginning of `bytes` for a message.
fn abbreviate(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

/// A value to be written. Dicts come out sorted, so one value has one encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An integer; nothing that we write is negative. Keep it within 63 bits: readers refuse more.
    Integer(u64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Self>),
    /// A dict.
    Dict(BTreeMap<&'a [u8], Self>),
    /// A value that is encoded already, taken over as it is.
    Raw(&'a [u8]),
}

impl<'a> Item<'a> {
    /// A dict of `entries`; of two with the same key the later wins.
    pub fn dict(entries: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let entries = entries.into_iter();
        Self::Dict(entries.map(|(key, item)| (key.as_bytes(), item)).collect())
    }

    /// A dict of those `entries` that have a value.
    pub fn dict_of_some(entries: impl IntoIterator<Item = (&'a str, Option<Self>)>) -> Self {
        let entries = entries.into_iter();
        Self::dict(entries.filter_map(|(key, item)| Some((key, item?))))
    }

    /// A text.
    pub fn text(text: &'a str) -> Self {
        Self::Bytes(text.as_bytes())
    }

    /// 1 or 0.
    pub fn flag(flag: bool) -> Self {
        Self::Integer(flag.into())
    }

    /// The encoded value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the encoded value to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Integer(value) => {
                out.push(b'i');
                out.extend_from_slice(value.to_string().as_bytes());
                out.push(b'e');
            }
            Self::Bytes(bytes) => encode_string(bytes, out),
            Self::List(items) => {
                out.push(b'l');
                for item in items {
                    item.encode_into(out);
                }
                out.push(b'e');
            }
            Self::Dict(entries) => {
                out.push(b'd');
                for (key, item) in entries {
                    encode_string(key, out);
                    item.encode_into(out);
                }
                out.push(b'e');
            }
            Self::Raw(raw) => out.extend_from_slice(raw),
        }
    }
}

fn encode_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
