//! Sizes, rates and durations as people write them.
//!
//! Sizes read and print as `8MiB`, rates as `8MiB/s` (also read: `100Mbit/s`), durations as `30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a size, rate or duration could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: write it like {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A number of bytes. Reads `64MiB`, `1.5GiB`, `2GB`, `4096`; prints the largest binary unit that divides it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// Bytes per second. Reads `8MiB/s`, `100Mbit/s`; `unlimited` is [`ByteRate::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(pub u64);

/// A length of time as written in settings: `250ms`, `30s`, `10m`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl ByteCount {
    /// `count` KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }
    /// `count` MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl ByteRate {
    /// No bytes at all.
    pub const ZERO: Self = Self(0);
    /// No limit.
    pub const MAX: Self = Self(u64::MAX);

    /// `count` MiB per second.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Bytes that pass at this rate in `duration`, rounded down.
    pub fn over(self, duration: Duration) -> ByteCount {
        let bytes = u128::from(self.0) * duration.as_nanos() / 1_000_000_000;
        ByteCount(u64::try_from(bytes).unwrap_or(u64::MAX))
    }
}

const BINARY: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

fn binary(value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (unit, shift) = BINARY
        .into_iter()
        .find(|&(_, shift)| value != 0 && value.trailing_zeros() >= shift)
        .unwrap_or(("B", 0));
    write!(f, "{}{unit}", value >> shift)
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        binary(self.0, f)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::MAX {
            return f.write_str("unlimited");
        }
        binary(self.0, f)?;
        f.write_str("/s")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (per, unit) = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1000, "s"),
        ]
        .into_iter()
        .find(|&(per, _)| millis != 0 && millis.is_multiple_of(per))
        .unwrap_or((1, "ms"));
        write!(f, "{}{unit}", millis / per)
    }
}

/// Splits `1.5GiB` into 1.5 and `GiB`.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text.get(..end)?.parse().ok()?;
    Some((number, text.get(end..)?.trim()))
}

/// `number × unit` as whole units, when it fits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "checked against the range"
)]
fn scale(number: f64, unit: f64) -> Option<u64> {
    let value = (number * unit).round();
    (value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

fn bytes_per_unit(unit: &str) -> Option<f64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1_048_576.0,
        "g" | "gib" => 1_073_741_824.0,
        "t" | "tib" => 1_099_511_627_776.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "bit" => 0.125,
        "kbit" => 125.0,
        "mbit" => 125e3,
        "gbit" => 125e6,
        _ => return None,
    })
}

impl FromStr for ByteCount {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        split(text)
            .filter(|(_, unit)| !unit.to_ascii_lowercase().ends_with("bit"))
            .and_then(|(number, unit)| scale(number, bytes_per_unit(unit)?))
            .map(Self)
            .ok_or_else(|| UnitError {
                text: text.into(),
                what: "size",
                example: "64MiB, 1.5GiB or 4096",
            })
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "unlimited" {
            return Ok(Self::MAX);
        }
        split(text)
            .and_then(|(number, unit)| {
                scale(
                    number,
                    bytes_per_unit(unit.strip_suffix("/s").unwrap_or(unit))?,
                )
            })
            .map(Self)
            .ok_or_else(|| UnitError {
                text: text.into(),
                what: "rate",
                example: "8MiB/s, 100Mbit/s or unlimited",
            })
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let seconds = |unit: &str| {
            Some(match unit {
                "ms" => 0.001,
                "" | "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            })
        };
        split(text)
            .and_then(|(number, unit)| scale(number * 1000.0, seconds(unit)?))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| UnitError {
                text: text.into(),
                what: "duration",
                example: "250ms, 30s, 10m, 2h or 7d",
            })
    }
}

/// Settings hold these as text, the way they are printed; a bare number is accepted as bytes.
macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_serde!(ByteCount, ByteRate, Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_durations_read_as_people_write_them() {
        assert_eq!("64MiB".parse(), Ok(ByteCount::mib(64)));
        assert_eq!("1.5GiB".parse(), Ok(ByteCount::mib(1536)));
        assert_eq!("4096".parse(), Ok(ByteCount(4096)));
        assert_eq!("8MiB/s".parse(), Ok(ByteRate::mib(8)));
        assert_eq!("100Mbit/s".parse(), Ok(ByteRate(12_500_000)));
        assert_eq!("unlimited".parse(), Ok(ByteRate::MAX));
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("10m".parse(), Ok(Span(Duration::from_mins(10))));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "MiB", "-1", "8 apples", "1e99", "8Mbit"] {
            assert!(text.parse::<ByteCount>().is_err(), "{text}");
        }
        assert_eq!(
            "5x".parse::<Span>().unwrap_err().to_string(),
            "`5x` is not a duration: write it like 250ms, 30s, 10m, 2h or 7d"
        );
        assert!("3 per day".parse::<ByteRate>().is_err());
    }

    #[test]
    fn printing_round_trips() {
        for value in [0, 1, 1023, 1024, 3 << 20, (3 << 20) + 1, 1 << 40] {
            assert_eq!(ByteCount(value).to_string().parse(), Ok(ByteCount(value)));
            assert_eq!(ByteRate(value).to_string().parse(), Ok(ByteRate(value)));
        }
        assert_eq!(Span(Duration::from_secs(90)).to_string(), "90s");
        assert_eq!(
            ByteRate::mib(8).over(Duration::from_millis(250)),
            ByteCount::mib(2)
        );
    }
}
