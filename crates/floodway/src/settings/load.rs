//! Reading settings: file < environment < flags.

use std::ffi::OsString;
use std::path::Path;

use floodway_api::settings::Field;
use serde::Serialize;
use toml::{Table, Value};

use super::Settings;
use crate::exit::Failure;

/// A configuration file larger than this is none.
const FILE_MAX: u64 = 1 << 20;

/// The settings of one role from `config`, the process's environment and `flags` (those that were given).
///
/// # Errors
/// When the file cannot be read, or a key or value is wrong; names the key and where it stands.
pub(crate) fn load<S: Settings>(
    role: &str,
    config: Option<&Path>,
    flags: &impl Serialize,
) -> Result<S, Failure> {
    layered(role, config, |name| std::env::var_os(name), flags)
}

fn layered<S: Settings>(
    role: &str,
    config: Option<&Path>,
    environment: impl Fn(&str) -> Option<OsString>,
    flags: &impl Serialize,
) -> Result<S, Failure> {
    let mut table = match config {
        Some(path) => file::<S>(role, path)?,
        None => Table::new(),
    };
    let defaults = Table::try_from(S::default()).expect("settings are a table");
    for field in S::FIELDS {
        variable::<S>(&mut table, &defaults, None, field, &environment)?;
    }
    for (section, fields) in S::SECTIONS {
        for field in *fields {
            variable::<S>(&mut table, &defaults, Some(section), field, &environment)?;
        }
    }
    let flags = Table::try_from(flags)
        .map_err(|error| Failure::usage(format_args!("a flag's value cannot be used: {error}")))?;
    table.extend(flags);
    table
        .try_into()
        .map_err(|error| Failure::usage(format_args!("a flag's value cannot be used: {error}")))
}

fn file<S: Settings>(role: &str, path: &Path) -> Result<Table, Failure> {
    let at = path.display();
    let unreadable = |error| {
        Failure::usage(format_args!(
            "the configuration file {at} cannot be read: {error}"
        ))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_MAX {
        return Err(Failure::usage(format_args!(
            "{at} has {length} bytes: that is no configuration file"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let wrong = |error: toml::de::Error| {
        Failure::usage(format_args!(
            "in the configuration file {at}: {}",
            error.to_string().trim()
        ))
        .hint(format_args!(
            "`floodway config {role}` prints every setting and what it means"
        ))
    };
    toml::from_str::<S>(&text).map_err(wrong)?;
    toml::from_str(&text).map_err(wrong)
}

/// Lays one environment variable over the table, if it is set.
fn variable<S: Settings>(
    table: &mut Table,
    defaults: &Table,
    section: Option<&str>,
    field: &Field,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<(), Failure> {
    let prefix = section.map_or(String::new(), |section| format!("{section}_"));
    let name = format!("FLOODWAY_{prefix}{}", field.name).to_uppercase();
    let Some(text) = environment(&name).filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let wrong = |problem: &str| {
        Failure::usage(format_args!(
            "the environment variable {name} cannot be used: {problem}"
        ))
    };
    let text = text.into_string().map_err(|_| wrong("it is not UTF-8"))?;
    let default = match section {
        None => defaults.get(field.name),
        Some(section) => defaults
            .get(section)
            .and_then(|inner| inner.get(field.name)),
    };
    let value = match default {
        Some(Value::Integer(_)) => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| wrong("it is not a whole number"))?,
        Some(Value::Boolean(_)) => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| wrong("it is neither true nor false"))?,
        Some(Value::Array(_)) => {
            let items = text
                .split(',')
                .map(|item| Value::String(item.trim().into()));
            Value::Array(items.collect())
        }
        _ => Value::String(text),
    };
    let target = match section {
        None => &mut *table,
        Some(section) => match table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()))
        {
            Value::Table(inner) => inner,
            _ => {
                return Err(wrong(
                    "the configuration file has a value in its section's place",
                ));
            }
        },
    };
    target.insert(field.name.into(), value);
    let checked: Result<S, _> = table.clone().try_into();
    checked
        .map(drop)
        .map_err(|error| wrong(error.to_string().trim()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use floodway_proto::ByteRate;

    use super::super::{Agent, Control};
    use super::*;

    fn no_flags() -> Table {
        Table::new()
    }

    fn config(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn error(text: &str) -> String {
        let file = config(text);
        let failure =
            layered::<Agent>("agent", Some(file.path()), |_| None, &no_flags()).unwrap_err();
        let text = format!("{failure:?}");
        assert!(text.contains(&file.path().display().to_string()), "{text}");
        text
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file = config("max_down = '1MiB/s'\nmax_up = '1MiB/s'\nname = 'file'");
        let environment = |name: &str| match name {
            "FLOODWAY_MAX_DOWN" | "FLOODWAY_MAX_UP" => Some("2MiB/s".into()),
            "FLOODWAY_ADVANCED_PEERS_MAX" => Some("7".into()),
            _ => None,
        };
        let flags: Table = toml::from_str("max_down = '3MiB/s'").unwrap();
        let settings: Agent = layered("agent", Some(file.path()), environment, &flags).unwrap();
        assert_eq!(settings.max_down, ByteRate::mib(3));
        assert_eq!(settings.max_up, ByteRate::mib(2));
        assert_eq!(settings.name.as_deref(), Some("file"));
        assert_eq!(settings.advanced.peers_max, 7);
    }

    #[test]
    fn lists_in_the_environment_are_split_at_commas() {
        let environment =
            |name: &str| (name == "FLOODWAY_ALLOW_ORIGIN").then(|| "http://a/, http://b/".into());
        let settings: Control = layered("control", None, environment, &no_flags()).unwrap();
        assert_eq!(settings.allow_origin, ["http://a/", "http://b/"]);
    }

    #[test]
    fn errors_name_the_key_and_where_it_stands() {
        assert!(error("max_dwon = '1MiB/s'").contains("`max_dwon`"));
        assert!(error("max_down = 'fast'").contains("`fast` is not a rate"));
        let zero = error("name = 'a'\nmax_up = '0'");
        assert!(
            zero.contains("max_up") && zero.contains("nothing would ever move"),
            "{zero}"
        );
        assert!(error("[advanced]\npears = 3").contains("`pears`"));
        assert!(error("max_down = ").contains("max_down"));
        let failure = layered::<Agent>(
            "agent",
            None,
            |name| (name == "FLOODWAY_LISTEN").then(|| "everywhere".into()),
            &no_flags(),
        )
        .unwrap_err();
        assert!(
            format!("{failure:?}").contains("FLOODWAY_LISTEN"),
            "{failure:?}"
        );
    }
}
