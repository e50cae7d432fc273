//! Learning what an object is.

use floodway_origin::{Access, Bearer, ErrorKind, Guard, OriginError, Validator};

use crate::server::{ETAG, Reply, Server, data, honest, origin, probe};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

#[tokio::test]
async fn head_is_enough_for_an_honest_server() {
    let body = data(1234);
    let server = Server::start(move |seen| {
        let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        let more = [
            ("ETag", ETAG),
            ("Last-Modified", DATE),
            ("Content-Type", "a/b"),
            ("Repr-Digest", digest),
        ];
        honest(seen, &body, &more)
    })
    .await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!(found.length, Some(1234));
    assert_eq!(found.validator, Validator::Strong(ETAG.into()));
    assert_eq!(found.last_modified.as_deref(), Some(DATE));
    assert_eq!(found.content_type.as_deref(), Some("a/b"));
    assert!(found.digest.unwrap().to_string().starts_with("e3b0c442"));
    assert_eq!(found.access(), Access::Ranges);
    assert_eq!(found.final_url, server.url("/f"));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn where_head_fails_the_first_byte_tells() {
    for status in [
        "405 Method Not Allowed",
        "403 Forbidden",
        "404 Not Found",
        "500 Oops",
        "501 Not Implemented",
    ] {
        let body = data(1234);
        let server = Server::start(move |seen| match &*seen.method {
            "HEAD" => Reply::raw(status, &[("Content-Length", "17")], b""),
            _ => honest(seen, &body, &[("ETag", ETAG)]),
        })
        .await;
        let guard = Guard::unmetered();
        let found = origin()
            .probe(&server.url("/f"), &guard, Some(&Bearer::new("t")))
            .await
            .unwrap();
        assert_eq!(
            (found.length, found.access()),
            (Some(1234), Access::Ranges),
            "{status}"
        );
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[1].range(), Some((0, 0)));
        assert!(
            seen.iter()
                .all(|seen| seen.header("authorization") == Some("Bearer t"))
        );
        while guard.body_bytes().get() < 1 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn where_head_leaves_something_open_the_first_byte_tells() {
    // No length; no word on ranges; a length of 0 that is a lie.
    for head in [
        &[("Accept-Ranges", "bytes")][..],
        &[("Content-Length", "1234")],
        &[("Content-Length", "0"), ("Accept-Ranges", "bytes")],
    ] {
        let body = data(1234);
        let server = Server::start(move |seen| match &*seen.method {
            "HEAD" => Reply::raw("200 OK", head, b""),
            _ => honest(seen, &body, &[("ETag", ETAG)]),
        })
        .await;
        let found = probe(&server.url("/f")).await.unwrap();
        assert_eq!(
            (found.length, found.access()),
            (Some(1234), Access::Ranges),
            "{head:?}"
        );
    }
}

#[tokio::test]
async fn without_ranges_or_strong_tag_there_is_one_get() {
    let plain = |headers: &'static [(&'static str, &'static str)]| {
        Server::start(move |seen| match &*seen.method {
            "HEAD" => Reply::raw(
                "200 OK",
                &[headers, &[("Content-Length", "10")]].concat(),
                b"",
            ),
            _ => Reply::new("200 OK", headers, &data(10)),
        })
    };
    let server = plain(&[("ETag", ETAG)]).await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!(
        (found.length, found.ranges, found.access()),
        (Some(10), false, Access::OneGet)
    );

    let server = plain(&[("ETag", ETAG), ("Accept-Ranges", "none")]).await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!((found.ranges, server.seen().len()), (false, 1));

    for (headers, expected) in [
        (
            &[("ETag", "W/\"v1\""), ("Last-Modified", DATE)][..],
            (Some("W/\"v1\""), Some(DATE)),
        ),
        (&[("ETag", "v1")], (Some("v1"), None)),
        (&[("Last-Modified", DATE)], (None, Some(DATE))),
    ] {
        let server = Server::start(move |seen| honest(seen, &data(10), headers)).await;
        let found = probe(&server.url("/f")).await.unwrap();
        let (etag, date) = (expected.0.map(Into::into), expected.1.map(Into::into));
        assert_eq!(
            found.validator,
            Validator::Weak {
                etag,
                last_modified: date
            }
        );
        assert_eq!((found.ranges, found.access()), (true, Access::OneGet));
    }
    let server = Server::start(|seen| honest(seen, &data(10), &[])).await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!(
        (found.validator.clone(), found.access()),
        (Validator::None, Access::OneGet)
    );
}

#[tokio::test]
async fn an_object_without_length_is_read_whole() {
    let server = Server::start(|_| Reply::text("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: \"a\"\r\n\r\n5\r\nhello\r\n0\r\n\r\n").close()).await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!((found.length, found.access()), (None, Access::OneGet));
}

#[tokio::test]
async fn an_empty_object_has_length_zero() {
    let server = Server::honest(Vec::new()).await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!(
        (found.length, found.validator),
        (Some(0), Validator::Strong(ETAG.into()))
    );
}

#[tokio::test]
async fn refusals_have_their_kind() {
    for (status, kind) in [
        ("404 Not Found", ErrorKind::NotFound),
        ("410 Gone", ErrorKind::NotFound),
        ("401 Unauthorized", ErrorKind::Refused),
        ("403 Forbidden", ErrorKind::Refused),
        ("500 Oops", ErrorKind::Faulty),
        ("418 Teapot", ErrorKind::Faulty),
        ("204 No Content", ErrorKind::Faulty),
        ("304 Not Modified", ErrorKind::Faulty),
    ] {
        let server =
            Server::start(move |_| Reply::raw(status, &[("Content-Length", "0")], b"").close())
                .await;
        let error = probe(&server.url("/f")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert_eq!(error.is_transient(), status.starts_with('5'), "{status}");
    }
}

#[tokio::test]
async fn a_coded_object_is_refused() {
    let server = Server::start(|seen| {
        honest(
            seen,
            &data(10),
            &[("ETag", ETAG), ("Content-Encoding", "gzip")],
        )
    })
    .await;
    let error = probe(&server.url("/f")).await.unwrap_err();
    assert!(matches!(error, OriginError::Encoded { .. }), "{error}");
}

#[tokio::test]
async fn strange_header_values_do_no_harm() {
    let server = Server::start(|seen| {
        honest(
            seen,
            &data(10),
            &[
                ("ETag", "\"é\""),
                ("X-Name", "naïve"),
                ("Server", "\u{1f980}"),
            ],
        )
    })
    .await;
    let found = probe(&server.url("/f")).await.unwrap();
    assert_eq!(found.validator, Validator::Strong("\"é\"".into()));
    let huge = "x".repeat(2_000_000);
    let server = Server::start(move |_| Reply::raw("200 OK", &[("X-Huge", &huge)], b"")).await;
    let error = probe(&server.url("/f")).await.unwrap_err();
    assert!(matches!(error, OriginError::BadReply { .. }), "{error:?}");
}
