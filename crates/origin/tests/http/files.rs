//! Local files as origins.

use std::fs;
use std::io::Write;

use floodway_origin::{Access, ErrorKind, Guard, OriginError, ReadRequest, SourceUrl, Validator};

use crate::server::{collect, data, origin, probe, read};

fn file(length: usize) -> (tempfile::TempDir, std::path::PathBuf, SourceUrl) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b.bin");
    fs::write(&path, data(length)).unwrap();
    let url = SourceUrl::from_path(&path).unwrap();
    (folder, path, url)
}

#[tokio::test]
async fn a_file_reads_like_an_origin() {
    let (_folder, _, url) = file(1_000_000);
    let found = probe(&url).await.unwrap();
    assert_eq!(
        (found.length, found.access()),
        (Some(1_000_000), Access::Ranges)
    );
    assert!(matches!(
        found.validator,
        Validator::File {
            length: 1_000_000,
            ..
        }
    ));
    let guard = Guard::unmetered();
    let request = ReadRequest::part(url.clone(), 1000..900_001, &found);
    let bytes = collect(origin().read(&request, &guard).await.unwrap())
        .await
        .unwrap();
    assert!(bytes == data(1_000_000)[1000..900_001]);
    assert_eq!(guard.body_bytes().get(), 899_001);
    assert!(read(&ReadRequest::whole(url.clone())).await.unwrap() == data(1_000_000));
    let mut body = origin().read(&request, &guard).await.unwrap();
    body.shorten(1007);
    assert_eq!(body.next().await.unwrap().unwrap().len(), 7);
    assert!(body.next().await.is_none());
    let error = read(&ReadRequest::part(url, 0..1_000_001, &found))
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::RangeNotSatisfiable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_empty_file_is_an_object_too() {
    let (_folder, _, url) = file(0);
    assert_eq!(probe(&url).await.unwrap().length, Some(0));
    assert_eq!(read(&ReadRequest::whole(url)).await.unwrap(), b"");
}

#[tokio::test]
async fn a_file_that_changes_is_noticed() {
    let (folder, path, url) = file(1_000_000);
    let found = probe(&url).await.unwrap();
    let request = ReadRequest::part(url, 0..1_000_000, &found);
    let mut body = origin().read(&request, &Guard::unmetered()).await.unwrap();
    body.next().await.unwrap().unwrap();
    // Midway, in place.
    fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let error = body.next().await.unwrap().unwrap_err();
    assert!(error.is_changed(), "{error:?}");
    assert!(body.next().await.is_none());
    // Between two reads, by renaming another of equal length over it.
    let found = probe(&request.url).await.unwrap();
    let other = folder.path().join("other");
    fs::write(&other, data(1_000_001)).unwrap();
    fs::rename(&other, &path).unwrap();
    let error = read(&ReadRequest::part(request.url, 0..10, &found))
        .await
        .unwrap_err();
    assert!(error.is_changed(), "{error:?}");
}

#[tokio::test]
async fn a_file_that_shrinks_midway_is_noticed() {
    let (_folder, path, url) = file(1_000_000);
    let mut body = origin()
        .read(&ReadRequest::whole(url), &Guard::unmetered())
        .await
        .unwrap();
    body.next().await.unwrap().unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    assert!(body.next().await.unwrap().unwrap_err().is_changed());
}

#[tokio::test]
async fn what_is_no_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let url = SourceUrl::from_path(folder.path()).unwrap();
    let error = probe(&url).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("is not a file but a directory: name a file"),
        "{error}"
    );
    let error = read(&ReadRequest::whole("file:///dev/zero".parse().unwrap()))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::NotAFile { .. }), "{error:?}");
    let missing = SourceUrl::from_path(&folder.path().join("missing")).unwrap();
    let error = probe(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .to_string()
            .ends_with("missing does not exist at the origin"),
        "{error}"
    );
}
