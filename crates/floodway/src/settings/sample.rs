//! The sample configuration file, made from the types' doc comments.

use std::fmt::Write;

use floodway_api::settings::Field;
use toml::{Table, Value};

use super::Settings;

/// A TOML file with every setting at its default and what it means.
pub(crate) fn sample<S: Settings>() -> String {
    let defaults = Table::try_from(S::default()).expect("settings are a table");
    let mut out = String::new();
    comment(&mut out, S::ABOUT);
    out.push_str(
        "# Each setting can also be given in the environment, as FLOODWAY_KEY (in a section: FLOODWAY_SECTION_KEY),\n\
         # and the common ones as flags; flags win.\n\n",
    );
    section(&mut out, S::FIELDS, &defaults);
    for (name, fields) in S::SECTIONS {
        writeln!(out, "[{name}]").expect("strings take everything");
        let values = defaults.get(*name).and_then(Value::as_table);
        section(&mut out, fields, values.expect("sections are tables"));
    }
    out.truncate(out.trim_end().len());
    out
}

fn section(out: &mut String, fields: &[Field], values: &Table) {
    for field in fields {
        comment(out, field.docs);
        let written = match values.get(field.name) {
            Some(value) => writeln!(out, "{} = {value}\n", field.name),
            None => writeln!(out, "# {} = {}\n", field.name, example(field)),
        };
        written.expect("strings take everything");
    }
}

/// What a value of a setting without default looks like: the first quoted text of its doc comment.
fn example(field: &Field) -> String {
    let quoted = field.docs.iter().find_map(|line| line.split('"').nth(1));
    format!("{:?}", quoted.unwrap_or_default())
}

fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        out.push('#');
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::super::{Agent, Control, Relay, Serve, Settings};
    use super::*;

    fn round_trip<S: Settings + PartialEq + Debug>() {
        let text = sample::<S>();
        assert_eq!(toml::from_str::<S>(&text).expect(&text), S::default());
        // Settings without default become valid ones by removing the comment sign.
        let is_setting = |line: &&str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' '))
        };
        let lines = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(is_setting).unwrap_or(line));
        let uncommented: String = lines.flat_map(|line| [line, "\n"]).collect();
        assert!(
            !uncommented.contains("= \"\"\n"),
            "a setting without example:\n{uncommented}"
        );
        toml::from_str::<S>(&uncommented).expect(&uncommented);
        for field in S::FIELDS
            .iter()
            .chain(S::SECTIONS.iter().flat_map(|(_, fields)| *fields))
        {
            assert!(!field.docs.is_empty(), "{} has no doc comment", field.name);
            let misspelt = format!("{}x = 1", field.name);
            let error = toml::from_str::<S>(&misspelt).unwrap_err().to_string();
            assert!(error.contains(&format!("`{}x`", field.name)), "{error}");
        }
    }

    #[test]
    fn every_sample_reads_back_as_the_defaults_and_misspelt_keys_fail() {
        round_trip::<Control>();
        round_trip::<Relay>();
        round_trip::<Agent>();
        round_trip::<Serve>();
    }
}
