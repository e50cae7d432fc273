//! Documents that name tests name tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::shell::workspace;

/// The names of all functions in the Rust files below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let after = text.split("fn ").skip(1);
            let names = after.filter_map(|rest| rest.split_once('(').map(|(name, _)| name));
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_streaming_start_is_proven_by_exists() {
    let text = fs::read_to_string(workspace().join("docs/streaming-start-tests.md")).unwrap();
    let mut known = BTreeSet::new();
    functions(&workspace().join("crates"), &mut known);
    let quoted = text.split('`').skip(1).step_by(2);
    // What else is quoted are crates and commands.
    let named: Vec<&str> = quoted
        .filter(|name| name.contains('_') && !name.contains(' '))
        .collect();
    assert!(named.len() > 80, "the table names many: {named:?}");
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !known.contains(**name))
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:?}");
}
