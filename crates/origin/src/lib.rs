//! Reading origins: one HTTP/1.1 reader and local files behind one type, [`Origin`].
//!
//! [`Origin::probe`] learns what an object is ([`Probe`]), [`Origin::read`] reads a range or all of it ([`Body`]).
//! Invariants: nothing is read without a [`Guard`]; a [`Body`] yields exactly the bytes that were asked for, of the
//! version that was expected, or ends in an [`OriginError`] that says what the origin did instead; no message names
//! credentials or the query of a URL.

mod body;
mod client;
mod connect;
mod error;
mod exchange;
mod file;
mod guard;
mod header;
mod hosts;
mod probe;
mod redirect;
mod reply;
mod settings;
mod url;

pub use body::Body;
pub use client::{Origin, ReadRequest};
pub use error::{ErrorKind, OriginError};
pub use guard::{Counter, Guard};
pub use probe::{Access, Expectation, Probe, Validator, ValidatorError};
pub use redirect::UrlCheck;
pub use settings::{Bearer, Settings, SetupError};
pub use url::{SourceUrl, SourceUrlError};
