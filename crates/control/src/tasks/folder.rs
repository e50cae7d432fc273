//! Folders: which lists of files may be published, and what a relay found of them.

use floodway_api::AllowList;
use floodway_api::sync::{FileProbe, ProbeReport};
use floodway_proto::SafeName;
use floodway_proto::files::{FILES_LIMIT, check_paths, parse_path, path_text, url_suffix};
use floodway_proto::genesis::GenesisFile;
use url::Url;

use super::publish::ProbeRefused;

/// The longest text of a validator in a genesis that may still have many files.
const VALIDATOR_MAX: usize = 512;

/// True when a URL names a folder.
pub(crate) fn is_folder(url: &Url) -> bool {
    url.path().ends_with('/')
}

/// Why an operator's list of files cannot be published: the field at fault, and a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListRefused {
    pub(crate) field: &'static str,
    pub(crate) message: String,
}

fn refused(field: &'static str, message: impl Into<String>) -> ListRefused {
    let message = message.into();
    ListRefused { field, message }
}

/// The files to publish of `url`, sorted: none for a single object, and for a folder that a relay walks. Each file's URL is
/// held against the allow-list.
pub(crate) fn listed(
    allow: &AllowList,
    url: &Url,
    files: Option<&[String]>,
) -> Result<Vec<String>, ListRefused> {
    let Some(files) = files else {
        if is_folder(url) && url.scheme() != "file" {
            let message = "a URL that ends in `/` names a folder: say which files it has (`--files LIST`); only folders of the relays themselves (file:///…/) are walked";
            return Err(refused("files", message));
        }
        return Ok(Vec::new());
    };
    if !is_folder(url) || url.query().is_some() {
        let message = "files are those of a folder: its URL ends in `/` and has no query";
        return Err(refused("url", message));
    }
    if files.len() > FILES_LIMIT {
        let message = format!(
            "{} files are more than the limit of {FILES_LIMIT}; publish them in parts, or packed",
            files.len()
        );
        return Err(refused("files", message));
    }
    let parse = |file: &String| {
        parse_path(file).map_err(|error| {
            let file: String = file.chars().take(300).collect();
            refused("files", format!("`{}`: {error}", file.escape_debug()))
        })
    };
    let mut paths = files.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    let names: Vec<&[SafeName]> = paths.iter().map(Vec::as_slice).collect();
    check_paths(&names).map_err(|error| refused("files", error.to_string()))?;
    for path in &paths {
        let text = format!("{url}{}", url_suffix(path));
        let url =
            Url::parse(&text).map_err(|error| refused("files", format!("{text}: {error}")))?;
        allow
            .check(&url)
            .map_err(|error| refused("files", error.to_string()))?;
    }
    Ok(paths.iter().map(|path| path_text(path)).collect())
}

/// The files of a folder as a relay found them, for the genesis. `asked`: the files that it was to look for, if it was told.
pub(crate) fn found(
    probe: &ProbeReport,
    asked: &[String],
) -> Result<Vec<GenesisFile>, ProbeRefused> {
    let mut files = probe
        .files
        .iter()
        .map(file)
        .collect::<Result<Vec<_>, _>>()?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let paths: Vec<&[SafeName]> = files.iter().map(|file| &file.path[..]).collect();
    check_paths(&paths).map_err(|error| ProbeRefused::Files(error.to_string()))?;
    let same = || {
        let found = files.iter().map(|file| path_text(&file.path));
        found.eq(asked.iter().cloned())
    };
    if !asked.is_empty() && !same() {
        let message = "the relay reported other files than it was to look for".to_owned();
        return Err(ProbeRefused::Malformed(message));
    }
    Ok(files)
}

fn file(probe: &FileProbe) -> Result<GenesisFile, ProbeRefused> {
    let FileProbe {
        path,
        length,
        etag,
        last_modified,
    } = probe;
    let named = |problem: &dyn std::fmt::Display| {
        let path: String = path.chars().take(300).collect();
        ProbeRefused::Files(format!("`{}`: {problem}", path.escape_debug()))
    };
    let names = parse_path(path).map_err(|error| named(&error))?;
    if etag.len().max(last_modified.len()) > VALIDATOR_MAX {
        return Err(named(&format_args!(
            "its origin gives it an ETag or Last-Modified of more than {VALIDATOR_MAX} bytes"
        )));
    }
    Ok(GenesisFile {
        url_suffix: url_suffix(&names),
        path: names,
        length: Some(*length),
        etag: etag.clone(),
        // Whoever knows the strong ETag needs no date.
        last_modified: if etag.is_empty() {
            last_modified.clone()
        } else {
            String::new()
        },
        version: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(url: &str, files: Option<&[&str]>) -> Result<Vec<String>, ListRefused> {
        let allow = AllowList::parse(&["http://o.example/data", "file:///srv"]).unwrap();
        let files = files.map(|files| files.iter().map(|&file| file.into()).collect::<Vec<_>>());
        listed(&allow, &Url::parse(url).unwrap(), files.as_deref())
    }

    #[test]
    fn lists_are_sorted_and_single_objects_have_none() {
        let url = "http://o.example/data/set/";
        assert_eq!(
            list(url, Some(&["b", "a/y", "a/x"])).unwrap(),
            ["a/x", "a/y", "b"]
        );
        assert_eq!(list("http://o.example/data/x", None), Ok(vec![]));
        assert_eq!(list("file:///srv/set/", None), Ok(vec![]));
    }

    #[test]
    fn what_cannot_be_published_is_refused_with_the_name() {
        let url = "http://o.example/data/set/";
        let refused = |url, files: Option<&[&str]>| {
            let ListRefused { field, message } = list(url, files).unwrap_err();
            format!("{field}: {message}")
        };
        assert!(refused(url, None).contains("files: a URL that ends in `/`"));
        assert!(refused("http://o.example/data/x", Some(&["a"])).starts_with("url: "));
        assert!(refused("http://o.example/data/?q=/", Some(&["a"])).starts_with("url: "));
        for (files, says) in [
            (&[][..], "1 to 32000 files, not 0"),
            (&["../x"], "`../x`: "),
            (&["/etc/passwd"], "`/etc/passwd`: "),
            (&["a", "A"], "`A` and `a` are one path on Windows or macOS"),
            (&["e\u{301}", "é"], "`e\u{301}` and `é` are one path"),
            (&["a", "a/b"], "`a` and `a/b` cannot lie in one folder"),
            (&["x", "x"], "`x` and `x` cannot"),
            (&[".pad/1"], "`.pad/1` lies in"),
            // What a server might read as a step out of the folder.
            (&["%2e%2e/x"], "hides `..`"),
        ] {
            let text = refused(url, Some(files));
            assert!(text.contains(says), "{files:?}: {text}");
        }
        let many = vec!["x"; FILES_LIMIT + 1];
        assert!(refused(url, Some(&many)).contains("more than the limit"));
    }

    #[test]
    fn a_relay_must_find_what_it_was_asked_for() {
        let file = |path: &str| FileProbe {
            path: path.into(),
            length: 5,
            etag: "\"x\"".into(),
            last_modified: "today".into(),
        };
        let probe = |files: Vec<FileProbe>| ProbeReport {
            length: None,
            etag: None,
            last_modified: None,
            ranges: true,
            name: "set".into(),
            files,
        };
        let two = probe(vec![file("b"), file("a/ü")]);
        let files = found(&two, &[]).unwrap();
        assert_eq!(files[0].url_suffix, "a/%C3%BC");
        assert_eq!(files[0].last_modified, "", "the ETag says more");
        assert!(found(&two, &["a/ü".into(), "b".into()]).is_ok());
        let other = found(&two, &["b".into()]);
        assert!(matches!(other, Err(ProbeRefused::Malformed(_))));
        for bad in ["../x", "/x", "a//b"] {
            let refused = found(&probe(vec![file(bad)]), &[]).unwrap_err();
            assert!(refused.to_string().contains(bad), "{refused}");
        }
        let with_tag = |etag: String| probe(vec![FileProbe { etag, ..file("a") }]);
        let weak = found(&with_tag(String::new()), &[]).unwrap();
        assert_eq!((&*weak[0].etag, &*weak[0].last_modified), ("", "today"));
        assert!(found(&with_tag("x".repeat(600)), &[]).is_err());
    }
}
