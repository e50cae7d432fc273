//! Reading a dict's fields with errors that name them.

use std::fmt;

use super::{Dict, Value};

/// A field of a dict that is missing or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The path of keys, joined by dots: `info.piece length`.
    pub field: String,
    /// What is wrong with it.
    pub problem: FieldProblem,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// It is something else than an integer.
    #[error("is not an integer")]
    NotInteger,
    /// It is an integer outside what makes sense.
    #[error("is out of range")]
    OutOfRange,
    /// It is something else than a byte string.
    #[error("is not a byte string")]
    NotBytes,
    /// It is not UTF-8 text.
    #[error("is not UTF-8 text")]
    NotText,
    /// It is something else than a list.
    #[error("is not a list")]
    NotList,
    /// It is something else than a dict.
    #[error("is not a dict")]
    NotDict,
    /// It is longer or has more entries than allowed.
    #[error("is longer than the limit of {0}")]
    TooLong(usize),
    /// It is a byte string of the wrong length.
    #[error("is not {0} bytes long")]
    WrongLength(usize),
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.field, self.problem)
    }
}

impl std::error::Error for FieldError {}

impl FieldError {
    /// `field` has `problem`.
    pub fn new(field: &str, problem: FieldProblem) -> Self {
        Self {
            field: field.into(),
            problem,
        }
    }

    /// The same error seen from outside: the field lies within `outer`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            problem: self.problem,
        }
    }
}

/// A field's value, or an error when it is not there.
pub(crate) fn required<T>(key: &str, value: Option<T>) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::new(key, FieldProblem::Missing))
}

/// Each getter: `None` when the key is absent, [`FieldError`] when its value is something else.
impl<'a> Dict<'a> {
    fn field<'s, T>(
        &'s self,
        key: &str,
        problem: FieldProblem,
        read: impl FnOnce(&'s Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(FieldError::new(key, problem)),
        }
    }

    /// An integer.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, FieldError> {
        self.field(key, FieldProblem::NotInteger, Value::as_integer)
    }

    /// An integer that fits `T`: `dict.number::<u16>("port")`.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else or out of range.
    pub fn number<T: TryFrom<i64>>(&self, key: &str) -> Result<Option<T>, FieldError> {
        let value = self.integer(key)?;
        let number = value.map(T::try_from).transpose();
        number.map_err(|_| FieldError::new(key, FieldProblem::OutOfRange))
    }

    /// 0 or 1.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, FieldError> {
        match self.integer(key)? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(_) => Err(FieldError::new(key, FieldProblem::OutOfRange)),
        }
    }

    /// A byte string.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else.
    pub fn bytes(&self, key: &str) -> Result<Option<&'a [u8]>, FieldError> {
        self.field(key, FieldProblem::NotBytes, Value::as_bytes)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else or of another length.
    pub fn array<const N: usize>(&self, key: &str) -> Result<Option<[u8; N]>, FieldError> {
        let array = self.bytes(key)?.map(<[u8; N]>::try_from).transpose();
        array.map_err(|_| FieldError::new(key, FieldProblem::WrongLength(N)))
    }

    /// UTF-8 text of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else or longer.
    pub fn text(&self, key: &str, limit: usize) -> Result<Option<&'a str>, FieldError> {
        let text = self.field(key, FieldProblem::NotText, Value::as_text)?;
        match text {
            Some(text) if text.len() > limit => {
                Err(FieldError::new(key, FieldProblem::TooLong(limit)))
            }
            text => Ok(text),
        }
    }

    /// A list of at most `limit` values.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else or longer.
    pub fn list(&self, key: &str, limit: usize) -> Result<Option<&[Value<'a>]>, FieldError> {
        let list = self.field(key, FieldProblem::NotList, Value::as_list)?;
        match list {
            Some(list) if list.len() > limit => {
                Err(FieldError::new(key, FieldProblem::TooLong(limit)))
            }
            list => Ok(list),
        }
    }

    /// A dict.
    ///
    /// # Errors
    /// [`FieldError`] when it is something else.
    pub fn dict(&self, key: &str) -> Result<Option<&Self>, FieldError> {
        self.field(key, FieldProblem::NotDict, Value::as_dict)
    }
}
