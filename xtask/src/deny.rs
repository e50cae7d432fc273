//! `cargo xtask deny`: cargo-deny where it is installed; else the same rules of deny.toml by what `cargo metadata` says.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell::{cargo, run, say, works, workspace};

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// Absent for members of the workspace.
    source: Option<String>,
}

/// The registry of crates, as `cargo metadata` names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(crate) fn check() -> Result<()> {
    if works("cargo", &["deny", "--version"]) {
        return run(cargo().args(["deny", "check", "licenses", "bans", "sources"]));
    }
    let text = fs::read_to_string(workspace().join("deny.toml")).context("deny.toml")?;
    let rules: Rules = toml::from_str(&text).context("deny.toml")?;
    let output = metadata().output().context("cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let used: BTreeSet<_> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| node.id.as_str())
        .collect();
    let packages = metadata
        .packages
        .iter()
        .filter(|package| used.contains(package.id.as_str()));
    let mut count = 0;
    let mut faults = Vec::new();
    for package in packages {
        count += 1;
        faults.extend(judge(package, &rules));
    }
    for fault in &faults {
        say(format_args!("error: {fault}"));
    }
    if !faults.is_empty() {
        bail!(
            "{} of {count} packages break the rules of deny.toml",
            faults.len()
        );
    }
    say(format_args!(
        "licences, bans and sources of {count} packages are as deny.toml wants them"
    ));
    Ok(())
}

fn metadata() -> Command {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    command
}

/// What is wrong with a package.
fn judge(package: &Package, rules: &Rules) -> Option<String> {
    let what = format!("{} {}", package.name, package.version);
    if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == package.name) {
        return Some(format!(
            "{what} is banned: {}",
            ban.reason.as_deref().unwrap_or("no reason given")
        ));
    }
    if package
        .source
        .as_deref()
        .is_some_and(|source| source != REGISTRY)
    {
        return Some(format!(
            "{what} comes from {}",
            package.source.as_deref().unwrap_or_default()
        ));
    }
    match &package.license {
        None => Some(format!("{what} names no licence")),
        Some(license) => (!allowed(license, &rules.licenses.allow)).then(|| {
            format!("{what} has the licence `{license}`, which is not in the allowed list")
        }),
    }
}

/// Whether an SPDX expression can be met with allowed licences only: `OR` of `AND`s, with brackets.
fn allowed(expression: &str, list: &BTreeSet<String>) -> bool {
    // Old packages write `MIT/Apache-2.0`.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    either(&mut rest, list) && rest.is_empty()
}

fn either(words: &mut &[&str], list: &BTreeSet<String>) -> bool {
    let mut met = both(words, list);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        // Read on in any case.
        met |= both(words, list);
    }
    met
}

fn both(words: &mut &[&str], list: &BTreeSet<String>) -> bool {
    let mut met = one(words, list);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        met &= one(words, list);
    }
    met
}

fn one(words: &mut &[&str], list: &BTreeSet<String>) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let met = either(words, list);
            if let [")", rest @ ..] = *words {
                *words = rest;
            }
            met
        }
        [license, "WITH", exception, rest @ ..] => {
            *words = rest;
            list.contains(&format!("{license} WITH {exception}"))
        }
        [license, rest @ ..] => {
            *words = rest;
            list.contains(*license)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_read_as_spdx_defines_them() {
        let list = [
            "MIT",
            "Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "Unicode-3.0",
        ];
        let list = list.map(String::from).into_iter().collect();
        for (expression, met) in [
            ("MIT", true),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("GPL-3.0-only AND (MIT OR Apache-2.0)", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
            ("", false),
        ] {
            assert_eq!(allowed(expression, &list), met, "{expression}");
        }
    }
}
