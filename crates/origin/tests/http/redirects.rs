//! Following redirects, and remembering them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use floodway_origin::{Bearer, ErrorKind, Guard, Origin, OriginError, ReadRequest};

use crate::server::{ETAG, Reply, Seen, Server, collect, data, honest, origin, part, read};

fn to(location: &str) -> Reply {
    Reply::new("302 Found", &[("Location", location)], b"over there")
}

async fn get(origin: &Origin, server: &Server, path: &str) -> Result<Vec<u8>, OriginError> {
    let request = part(server.url(path), 10..20, 100);
    collect(origin.read(&request, &Guard::unmetered()).await?).await
}

fn object(seen: &Seen) -> Reply {
    honest(seen, &data(100), &[("ETag", ETAG)])
}

#[tokio::test]
async fn a_chain_is_followed_and_then_skipped() {
    let server = Server::start(|seen| match &*seen.path {
        "/a" => to("b?x=1#fragment"),
        "/b?x=1" => Reply::new("301 Moved", &[("Location", "/c")], b""),
        _ => object(seen),
    })
    .await;
    let origin = origin();
    for _ in 0..2 {
        assert_eq!(
            get(&origin, &server, "/a").await.unwrap(),
            &data(100)[10..20]
        );
    }
    assert_eq!(server.paths(), ["/a", "/b?x=1", "/c", "/c"]);
    let probe = origin
        .probe(&server.url("/a"), &Guard::unmetered(), None)
        .await
        .unwrap();
    assert_eq!(probe.final_url, server.url("/c"));
    assert!(
        server.seen().iter().all(|seen| seen.connection == 0),
        "redirects keep the connection"
    );
}

#[tokio::test]
async fn what_must_not_be_stored_is_asked_again() {
    for status in ["302 Found", "303 See Other"] {
        let server = Server::start(move |seen| match &*seen.path {
            "/a" => Reply::new(
                status,
                &[
                    ("Location", "/b"),
                    (
                        "Cache-Control",
                        if status.starts_with("302") {
                            "no-store"
                        } else {
                            "max-age=60"
                        },
                    ),
                ],
                b"",
            ),
            _ => object(seen),
        })
        .await;
        let origin = origin();
        for _ in 0..2 {
            get(&origin, &server, "/a").await.unwrap();
        }
        assert_eq!(server.paths(), ["/a", "/b", "/a", "/b"]);
    }
}

#[tokio::test]
async fn a_remembered_target_that_fails_is_forgotten() {
    let mirror = Arc::new(AtomicUsize::new(0));
    let current = Arc::clone(&mirror);
    let server = Server::start(move |seen| {
        let good = format!("/mirror{}", current.load(Ordering::Relaxed));
        match &*seen.path {
            "/a" => to(&good),
            path if path == good => object(seen),
            _ => Reply::new("404 Not Found", &[], b""),
        }
    })
    .await;
    let origin = origin();
    get(&origin, &server, "/a").await.unwrap();
    mirror.store(1, Ordering::Relaxed);
    get(&origin, &server, "/a").await.unwrap();
    get(&origin, &server, "/a").await.unwrap();
    assert_eq!(
        server.paths(),
        ["/a", "/mirror0", "/mirror0", "/a", "/mirror1", "/mirror1"]
    );
    // When the source fails too, that is the answer, after one try.
    let gone = Server::start(|seen| match &*seen.path {
        "/a" if seen.number == 0 => to("/b"),
        "/b" if seen.number == 1 => object(seen),
        _ => Reply::new("404 Not Found", &[], b""),
    })
    .await;
    get(&origin, &gone, "/a").await.unwrap();
    assert_eq!(
        get(&origin, &gone, "/a").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(gone.paths(), ["/a", "/b", "/b", "/a"]);
}

#[tokio::test]
async fn a_mirror_that_lies_or_breaks_off_is_forgotten() {
    let range = ("Content-Range", "bytes 10-19/100");
    let server = Server::start(move |seen| match (&*seen.path, seen.number) {
        ("/a", _) => to("/b"),
        (_, 3) => Reply::new(
            "206 Partial Content",
            &[("ETag", "\"other\""), range],
            b"0123456789",
        ),
        (_, 6) => Reply::raw(
            "206 Partial Content",
            &[("ETag", ETAG), range, ("Content-Length", "10")],
            b"01",
        )
        .close(),
        _ => object(seen),
    })
    .await;
    let origin = origin();
    get(&origin, &server, "/a").await.unwrap();
    get(&origin, &server, "/a").await.unwrap();
    assert!(get(&origin, &server, "/a").await.unwrap_err().is_changed());
    get(&origin, &server, "/a").await.unwrap();
    assert!(
        get(&origin, &server, "/a")
            .await
            .unwrap_err()
            .is_transient()
    );
    get(&origin, &server, "/a").await.unwrap();
    assert_eq!(
        server.paths(),
        ["/a", "/b", "/b", "/b", "/a", "/b", "/b", "/a", "/b"]
    );
}

#[tokio::test]
async fn loops_and_dead_ends_are_named() {
    let server = Server::start(|seen| match &*seen.path {
        "/loop" => to("/loop"),
        "/empty" => Reply::new("302 Found", &[], b""),
        "/file" => to("file:///etc/passwd"),
        _ => to("http://[broken"),
    })
    .await;
    for (path, problem) in [
        ("/loop", "a loop"),
        ("/empty", "no usable Location"),
        ("/file", "local file"),
        ("/broken", "not a URL"),
    ] {
        let error = read(&ReadRequest::whole(server.url(path)))
            .await
            .unwrap_err();
        assert!(matches!(error, OriginError::Redirect { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(!error.is_transient());
    }
    assert_eq!(
        server
            .paths()
            .iter()
            .filter(|path| *path == "/loop")
            .count(),
        11
    );
}

#[tokio::test]
async fn credentials_stay_at_home() {
    let away = Server::start(|seen| match seen.header("authorization") {
        None => object(seen),
        Some(_) => Reply::new("400 Bad Request", &[], b"credentials leaked"),
    })
    .await;
    let target = away.url("/x").as_str().to_owned();
    let home = Server::start(
        move |seen| match (&*seen.path, seen.header("authorization")) {
            (_, None) => Reply::new("401 Unauthorized", &[], b""),
            ("/near", _) => to("/far"),
            _ => to(&target),
        },
    )
    .await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let mut request = part(home.url("/near"), 10..20, 100);
    request.bearer = Some(Bearer::new("secret"));
    for _ in 0..2 {
        origin.read(&request, &guard).await.unwrap();
    }
    assert_eq!(home.paths(), ["/near", "/far"]);
    assert_eq!(away.paths(), ["/x", "/x"]);
}

#[tokio::test]
async fn every_hop_is_checked_also_when_remembered() {
    let server = Server::start(|seen| match &*seen.path {
        "/a" => to("/secret"),
        _ => object(seen),
    })
    .await;
    let free = origin();
    let strict = free.checked_by(Arc::new(|url: &url::Url| match url.path() {
        "/secret" => Err("it is not listed".to_owned()),
        _ => Ok(()),
    }));
    let error = get(&strict, &server, "/a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed);
    assert!(
        error
            .to_string()
            .contains("/secret may not be read: it is not listed"),
        "{error}"
    );
    assert_eq!(server.paths(), ["/a"]);
    get(&free, &server, "/a").await.unwrap();
    assert_eq!(
        get(&strict, &server, "/a").await.unwrap_err().kind(),
        ErrorKind::NotAllowed
    );
    assert_eq!(server.paths(), ["/a", "/a", "/secret", "/a"]);
}

#[tokio::test]
async fn a_busy_mirror_sends_us_back_to_the_balancer() {
    let busy = Server::start(|seen| match seen.number {
        0 => object(seen),
        _ => Reply::new("503 Busy", &[("Retry-After", "60")], b""),
    })
    .await;
    let other = Server::start(object).await;
    let targets = [
        busy.url("/f").as_str().to_owned(),
        other.url("/f").as_str().to_owned(),
    ];
    let balancer = Server::start(move |seen| to(&targets[seen.number.min(1)])).await;
    let origin = origin();
    for _ in 0..3 {
        get(&origin, &balancer, "/f").await.unwrap();
    }
    assert_eq!(
        (busy.seen().len(), other.seen().len(), balancer.seen().len()),
        (2, 2, 2)
    );
}
