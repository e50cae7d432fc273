//! Folders of files: what a relay finds there before there is a content.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use floodway_api::sync::{FileProbe, PROBES_LIMIT, RelayFailure, RelayFailureKind};
use floodway_origin::{Access, SourceUrl, UrlCheck};
use floodway_proto::files::{
    DEPTH_LIMIT, FILES_LIMIT, check_paths, parse_path, path_text, url_suffix,
};
use floodway_proto::{ByteCount, SafeName};
use tokio::task::JoinSet;

use super::work::{failure, of_origin, patient_probe};
use crate::Session;
use crate::origin_source::etag_of;

/// Files asked about at once.
const AT_ONCE: usize = 8;

/// A path within a folder.
type FilePath = Vec<SafeName>;

fn refused(message: impl Into<String>) -> RelayFailure {
    failure(RelayFailureKind::Refused, message.into())
}

/// True when the URL names a folder.
pub(super) fn is_folder(url: &SourceUrl) -> bool {
    url.as_url().path().ends_with('/')
}

/// The name of a folder's content: the last part of its path.
pub(super) fn name_of(url: &SourceUrl) -> Result<SafeName, RelayFailure> {
    let path = url.as_url().path().trim_end_matches('/');
    SafeName::from_url_path(path).map_err(|error| refused(format!("url: {error}")))
}

/// Where the file with this suffix is.
pub(super) fn file_url(folder: &SourceUrl, suffix: &str) -> Result<SourceUrl, String> {
    let url = format!("{}{suffix}", folder.as_str());
    url.parse()
        .map_err(|error| format!("`{suffix}` makes no URL: {error}"))
}

/// Asks the origin about every file of a folder: those listed, or all that lie in it. Also says whether all can be read by
/// ranges.
pub(super) async fn probe(
    session: &Session,
    folder: &SourceUrl,
    listed: &[String],
    check: &Arc<dyn UrlCheck>,
) -> Result<(Vec<FileProbe>, bool), RelayFailure> {
    let paths = if listed.is_empty() {
        walked(folder).await?
    } else {
        let read =
            |path: &String| parse_path(path).map_err(|error| refused(format!("`{path}`: {error}")));
        listed.iter().map(read).collect::<Result<_, _>>()?
    };
    // Before the origin is asked about thousands of files in vain.
    let bytes = paths.iter().map(|path| path_text(path).len()).sum();
    check_length(folder, paths.len(), bytes)?;
    let (mut found, mut all_have_ranges) = (Vec::with_capacity(paths.len()), true);
    let mut probes = JoinSet::new();
    let mut paths = paths.into_iter();
    loop {
        while probes.len() < AT_ONCE
            && let Some(path) = paths.next()
        {
            let url = file_url(folder, &url_suffix(&path)).map_err(refused)?;
            let (session, check) = (session.clone(), Arc::clone(check));
            probes.spawn(async move { probe_file(&session, &url, &path, &check).await });
        }
        match probes.join_next().await {
            Some(Ok(probed)) => {
                let (file, has_ranges) = probed?;
                found.push(file);
                all_have_ranges &= has_ranges;
            }
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            None => break,
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((found, all_have_ranges))
}

/// Refuses a folder of which control could not be told: `bytes` are those of its report, or fewer.
pub(super) fn check_length(
    folder: &SourceUrl,
    files: usize,
    bytes: usize,
) -> Result<(), RelayFailure> {
    if bytes <= PROBES_LIMIT {
        return Ok(());
    }
    let limit = ByteCount(PROBES_LIMIT as u64);
    Err(refused(format!(
        "{folder}: the paths and validators of its {files} files take {bytes} bytes, more than the {limit} that control is told of one folder; publish it in parts, packed, or with shorter paths"
    )))
}

async fn probe_file(
    session: &Session,
    url: &SourceUrl,
    path: &[SafeName],
    check: &Arc<dyn UrlCheck>,
) -> Result<(FileProbe, bool), RelayFailure> {
    let path = path_text(path);
    let probe = patient_probe(session, url, check).await.map_err(|error| {
        let RelayFailure { kind, message } = of_origin(&error);
        failure(kind, format!("`{path}`: {message}"))
    })?;
    let length = probe.length.ok_or_else(|| {
        refused(format!(
            "`{path}`: the origin does not say its length, which files of a folder need: serve it with a Content-Length (not compressed on the way), or publish it by itself"
        ))
    })?;
    // Nothing is read of an empty file.
    let has_ranges = length == 0 || probe.access() == Access::Ranges;
    let etag = etag_of(&probe.validator).unwrap_or_default();
    let last_modified = probe.last_modified.filter(|_| etag.is_empty());
    let file = FileProbe {
        path,
        length,
        etag,
        last_modified: last_modified.unwrap_or_default(),
    };
    Ok((file, has_ranges))
}

async fn walked(folder: &SourceUrl) -> Result<Vec<FilePath>, RelayFailure> {
    let Some(path) = folder.file_path() else {
        let message = "url: only a folder of a relay (file:///…/) can be walked; publish others with the list of their files";
        return Err(refused(message));
    };
    match tokio::task::spawn_blocking(move || walk(&path)).await {
        Ok(walked) => walked,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn local(path: &Path, error: &std::io::Error) -> RelayFailure {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => RelayFailureKind::NotFound,
        _ => RelayFailureKind::Local,
    };
    failure(kind, format!("`{}`: {error}", path.display()))
}

/// All files of a folder and of the folders in it, sorted. Whatever is no file that can be passed on is refused, rather than
/// left out.
fn walk(root: &Path) -> Result<Vec<FilePath>, RelayFailure> {
    let root = root.canonicalize().map_err(|error| local(root, &error))?;
    if !root.is_dir() {
        let message = format!(
            "`{}` is no folder; publish a file without the `/` at the end",
            root.display()
        );
        return Err(refused(message));
    }
    let mut files: Vec<FilePath> = Vec::new();
    let mut folders = vec![(root.clone(), Vec::new())];
    while let Some((folder, path)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| local(&folder, &error))? {
            let entry = entry.map_err(|error| local(&folder, &error))?;
            let mut inner: FilePath = path.clone();
            inner.push(safe_name(&entry)?);
            if is_inner_folder(&root, &entry)? {
                if inner.len() >= DEPTH_LIMIT {
                    return Err(unusable(&entry.path(), &"it lies too deep"));
                }
                folders.push((entry.path(), inner));
                continue;
            }
            files.push(inner);
            if files.len() > FILES_LIMIT {
                let message = format!(
                    "`{}` has more than {FILES_LIMIT} files; publish it in parts, or packed",
                    root.display()
                );
                return Err(refused(message));
            }
        }
    }
    files.sort();
    let paths: Vec<&[SafeName]> = files.iter().map(Vec::as_slice).collect();
    check_paths(&paths).map_err(|error| refused(format!("`{}`: {error}", root.display())))?;
    Ok(files)
}

fn unusable(place: &Path, problem: &dyn std::fmt::Display) -> RelayFailure {
    refused(format!("`{}`: {problem}", place.display()))
}

fn safe_name(entry: &fs::DirEntry) -> Result<SafeName, RelayFailure> {
    let name = entry.file_name();
    let name = name
        .to_str()
        .ok_or_else(|| unusable(&entry.path(), &"its name is not UTF-8 text"))?;
    SafeName::new(name).map_err(|error| unusable(&entry.path(), &error))
}

/// Whether what lies there is a folder, or a file. A link is followed to a file within `root` only.
fn is_inner_folder(root: &Path, entry: &fs::DirEntry) -> Result<bool, RelayFailure> {
    let place = entry.path();
    let kind = entry.file_type().map_err(|error| local(&place, &error))?;
    if kind.is_symlink() {
        let target = place
            .canonicalize()
            .map_err(|error| local(&place, &error))?;
        if !target.starts_with(root) {
            let problem = "it is a link that leads out of the folder; publish the folder it leads to, or a copy";
            return Err(unusable(&place, &problem));
        }
        if !target.is_file() {
            return Err(unusable(
                &place,
                &"it is a link to something that is no file",
            ));
        }
        return Ok(false);
    }
    if !kind.is_dir() && !kind.is_file() {
        let problem = "it is a device, a pipe or a socket, and no file that could be passed on";
        return Err(unusable(&place, &problem));
    }
    Ok(kind.is_dir())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path) -> Result<Vec<String>, String> {
        let walked = walk(root).map_err(|failure| failure.message)?;
        Ok(walked.iter().map(|path| path_text(path)).collect())
    }

    #[test]
    fn a_folder_is_walked_in_order() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("b/c")).unwrap();
        fs::create_dir_all(path("empty")).unwrap();
        for file in ["b/c/2", "b/c/1", "a", "b.x", ".hidden"] {
            fs::write(path(file), file).unwrap();
        }
        symlink("c/1", path("b/link")).unwrap();
        let found = names(root.path()).unwrap();
        assert_eq!(found, [".hidden", "a", "b/c/1", "b/c/2", "b/link", "b.x"]);
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused_by_name() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let refused = |make: &dyn Fn(&Path)| {
            let root = tempfile::tempdir().unwrap();
            fs::write(root.path().join("good"), "x").unwrap();
            make(root.path());
            names(root.path()).unwrap_err()
        };
        let out = |root: &Path| symlink(outside.path().join("secret"), root.join("l")).unwrap();
        assert!(refused(&out).contains("leads out of the folder"));
        let up = |root: &Path| symlink(outside.path(), root.join("l")).unwrap();
        assert!(refused(&up).contains("leads out of the folder"));
        let round = |root: &Path| symlink(".", root.join("l")).unwrap();
        assert!(refused(&round).contains("no file"));
        let dangling = |root: &Path| symlink("nowhere", root.join("l")).unwrap();
        assert!(refused(&dangling).contains('l'));
        let socket = |root: &Path| {
            std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
        };
        assert!(refused(&socket).contains("a pipe or a socket"));
        let name = |root: &Path| fs::write(root.join("a:b"), "x").unwrap();
        assert!(refused(&name).contains("a:b"));
        let case = |root: &Path| fs::write(root.join("GOOD"), "x").unwrap();
        assert!(refused(&case).contains("`GOOD` and `good` are one path"));
        let unicode = |root: &Path| {
            fs::write(root.join("u\u{308}"), "x").unwrap();
            fs::write(root.join("ü"), "x").unwrap();
        };
        assert!(refused(&unicode).contains("`u\u{308}` and `ü` are one path"));
        let empty = tempfile::tempdir().unwrap();
        assert!(names(empty.path()).unwrap_err().contains("not 0"));
        let file = empty.path().join("f");
        fs::write(&file, "x").unwrap();
        assert!(names(&file).unwrap_err().contains("is no folder"));
        assert!(names(&empty.path().join("none")).is_err());
    }

    #[test]
    fn a_folder_of_which_control_could_not_be_told_is_refused_with_what_to_do() {
        let folder = "file:///srv/set/".parse().unwrap();
        let checked = |paths: usize, length| check_length(&folder, paths, paths * length);
        assert_eq!(checked(FILES_LIMIT, 400), Ok(()));
        let refused = checked(FILES_LIMIT, 500).unwrap_err();
        assert_eq!(refused.kind, RelayFailureKind::Refused);
        for word in [
            "file:///srv/set/",
            "32000 files",
            "16000000 bytes",
            "14MiB",
            "in parts",
        ] {
            assert!(refused.message.contains(word), "{}", refused.message);
        }
    }

    #[test]
    fn a_folder_is_called_like_its_last_part() {
        let url = |text: &str| text.parse::<SourceUrl>().unwrap();
        let folder = url("http://h/data/my%20set/");
        assert!(is_folder(&folder) && !is_folder(&url("http://h/data/x")));
        assert_eq!(name_of(&folder).unwrap().as_str(), "my set");
        assert!(name_of(&url("http://h/")).is_err());
        let file = file_url(&url("file:///srv/set/"), "a%20b/c").unwrap();
        assert_eq!(file.as_str(), "file:///srv/set/a%20b/c");
    }
}
