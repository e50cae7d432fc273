//! Every lie of an origin is noticed before a wrong byte gets out.

use floodway_origin::{ErrorKind, Expectation, OriginError, ReadRequest, Validator};

use crate::server::{ETAG, Reply, Server, data, expect, honest, part, read};

/// The error that a 206 with these headers and body causes when bytes 10..20 of 100 were asked for.
async fn lie(headers: &[(&'static str, &'static str)], body: &'static [u8]) -> OriginError {
    let headers = headers.to_vec();
    let server = Server::start(move |_| Reply::new("206 Partial Content", &headers, body)).await;
    read(&part(server.url("/f"), 10..20, 100))
        .await
        .unwrap_err()
}

#[tokio::test]
async fn the_whole_instead_of_a_part() {
    let server = Server::start(|_| Reply::new("200 OK", &[("ETag", ETAG)], &data(100))).await;
    let error = read(&part(server.url("/f"), 10..20, 100))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::RangeIgnored {
                from_start: false,
                length: Some(100),
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.kind(), ErrorKind::RangeIgnored);
    let error = read(&part(server.url("/f"), 0..20, 100)).await.unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::RangeIgnored {
                from_start: true,
                ..
            }
        ),
        "{error:?}"
    );
    // Asked for all by a range: a plain 200 is the same.
    assert_eq!(
        read(&part(server.url("/f"), 0..100, 100)).await.unwrap(),
        data(100)
    );
}

#[tokio::test]
async fn a_part_instead_of_the_whole() {
    let server = Server::start(|_| {
        Reply::new(
            "206 Partial Content",
            &[("Content-Range", "bytes 0-9/100")],
            &data(10),
        )
    })
    .await;
    let error = read(&ReadRequest::whole(server.url("/f")))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::BadReply { .. }), "{error:?}");
}

#[tokio::test]
async fn other_bytes_than_asked_for() {
    for range in [
        "bytes 0-9/100",
        "bytes 10-20/100",
        "bytes 10-18/100",
        "bytes 11-19/100",
    ] {
        let server = Server::start(move |_| {
            Reply::new(
                "206 Partial Content",
                &[("ETag", ETAG), ("Content-Range", range)],
                &data(10),
            )
        })
        .await;
        let error = read(&part(server.url("/f"), 10..20, 100))
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::WrongRange { .. }),
            "{range}: {error:?}"
        );
        assert!(error.to_string().contains("asked bytes 10-19"), "{error}");
    }
}

#[tokio::test]
async fn no_usable_content_range() {
    let tag = ("ETag", ETAG);
    for error in [
        lie(&[tag], b"0123456789").await,
        lie(&[tag, ("Content-Range", "bytes ten-19/100")], b"0123456789").await,
        lie(
            &[
                tag,
                ("Content-Range", "bytes 10-19/100"),
                ("Content-Range", "bytes 20-29/100"),
            ],
            b"0123456789",
        )
        .await,
        lie(&[tag, ("Content-Range", "bytes */100")], b"0123456789").await,
        lie(
            &[
                tag,
                ("Content-Type", "multipart/byteranges; boundary=x"),
                ("Content-Range", "bytes 10-19/100"),
            ],
            b"0123456789",
        )
        .await,
    ] {
        assert!(matches!(error, OriginError::BadReply { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn another_total() {
    let error = lie(
        &[("ETag", ETAG), ("Content-Range", "bytes 10-19/101")],
        b"0123456789",
    )
    .await;
    assert!(error.is_changed(), "{error:?}");
    assert!(
        error.to_string().contains("its length was 100, now 101"),
        "{error}"
    );
    // An open total proves nothing, but a pinned tag does.
    let open = [("ETag", ETAG), ("Content-Range", "bytes 10-19/*")];
    let server =
        Server::start(move |_| Reply::new("206 Partial Content", &open, b"0123456789")).await;
    let mut request = part(server.url("/f"), 10..20, 100);
    assert_eq!(read(&request).await.unwrap(), b"0123456789");
    request.expect.validator = Validator::None;
    assert!(read(&request).await.unwrap_err().is_changed());
}

#[tokio::test]
async fn another_tag_or_none() {
    let range = ("Content-Range", "bytes 10-19/100");
    for error in [
        lie(&[("ETag", "\"v2\""), range], b"0123456789").await,
        lie(&[("ETag", "W/\"v1\""), range], b"0123456789").await,
        lie(&[("ETag", ETAG), ("ETag", "\"v2\""), range], b"0123456789").await,
        lie(&[range], b"0123456789").await,
    ] {
        assert!(error.is_changed() && !error.is_transient(), "{error:?}");
    }
    let server = Server::start(|_| Reply::new("200 OK", &[("ETag", "\"v2\"")], &data(100))).await;
    let mut request = ReadRequest::whole(server.url("/f"));
    request.expect = expect(100, ETAG);
    assert!(read(&request).await.unwrap_err().is_changed());
}

#[tokio::test]
async fn the_object_changes_between_two_reads_at_equal_length() {
    let server = Server::start(|seen| {
        let tag = if seen.number == 0 { ETAG } else { "\"v2\"" };
        honest(seen, &data(100), &[("ETag", tag)])
    })
    .await;
    let request = part(server.url("/f"), 10..20, 100);
    assert_eq!(read(&request).await.unwrap(), &data(100)[10..20]);
    let error = read(&request).await.unwrap_err();
    assert!(matches!(error, OriginError::Changed { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("its entity tag was \"v1\", now \"v2\""),
        "{error}"
    );
}

#[tokio::test]
async fn weak_validators_are_compared_but_never_sent() {
    let weak = |etag: Option<&str>, date: Option<&str>| Expectation {
        length: Some(100),
        validator: Validator::Weak {
            etag: etag.map(Into::into),
            last_modified: date.map(Into::into),
        },
    };
    let server = Server::start(|seen| {
        honest(
            seen,
            &data(100),
            &[("ETag", "W/\"a\""), ("Last-Modified", "today")],
        )
    })
    .await;
    let mut request = part(server.url("/f"), 10..20, 100);
    for (expect, agrees) in [
        (weak(Some("W/\"a\""), Some("today")), true),
        (weak(Some("\"a\""), None), true),
        (weak(Some("W/\"b\""), None), false),
        (weak(None, Some("yesterday")), false),
    ] {
        request.expect = expect.clone();
        let outcome = read(&request).await;
        assert_eq!(outcome.is_ok(), agrees, "{expect:?}");
        assert!(agrees || outcome.unwrap_err().is_changed());
    }
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("if-match").is_none())
    );

    // A part without what was seen before is suspicious; one whole GET mixes nothing.
    let server = Server::start(|seen| honest(seen, &data(100), &[])).await;
    let mut request = part(server.url("/f"), 10..20, 100);
    request.expect = weak(Some("W/\"a\""), Some("today"));
    assert!(read(&request).await.unwrap_err().is_changed());
    request.range = None;
    assert_eq!(read(&request).await.unwrap(), data(100));
}

#[tokio::test]
async fn a_shrunken_object_has_changed() {
    let server = Server::start(|seen| honest(seen, &data(50), &[("ETag", ETAG)])).await;
    let error = read(&part(server.url("/f"), 60..70, 100))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::RangeNotSatisfiable {
                length: Some(50),
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.is_changed());
    let mut request = part(server.url("/f"), 60..70, 100);
    request.expect.length = None;
    assert!(
        !read(&request).await.unwrap_err().is_changed(),
        "a foolish range is no change"
    );
}

#[tokio::test]
async fn encoded_despite_identity() {
    let error = lie(
        &[
            ("ETag", ETAG),
            ("Content-Range", "bytes 10-19/100"),
            ("Content-Encoding", "gzip"),
        ],
        b"0123456789",
    )
    .await;
    assert!(matches!(error, OriginError::Encoded { .. }), "{error:?}");
    assert!(error.to_string().contains("`gzip`"), "{error}");
}

#[tokio::test]
async fn short_bodies_with_a_clean_close() {
    let headers = [("ETag", ETAG), ("Content-Range", "bytes 10-19/100")];
    let with_length = [&headers[..], &[("Content-Length", "10")]].concat();
    for headers in [with_length, headers.to_vec()] {
        let server =
            Server::start(move |_| Reply::raw("206 Partial Content", &headers, b"01234").close())
                .await;
        let error = read(&part(server.url("/f"), 10..20, 100))
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                OriginError::Short {
                    got: 5,
                    expected: 10,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.is_transient());
    }
    // It says itself that it is short.
    let error = lie(
        &[("ETag", ETAG), ("Content-Range", "bytes 10-19/100")],
        b"01234",
    )
    .await;
    assert!(matches!(error, OriginError::Short { .. }), "{error:?}");
}

#[tokio::test]
async fn long_bodies() {
    let error = lie(
        &[("ETag", ETAG), ("Content-Range", "bytes 10-19/100")],
        b"0123456789X",
    )
    .await;
    assert!(
        matches!(error, OriginError::TooLong { expected: 10, .. }),
        "{error:?}"
    );
    let headers = [("ETag", ETAG), ("Content-Range", "bytes 10-19/100")];
    let server =
        Server::start(move |_| Reply::raw("206 Partial Content", &headers, b"0123456789X").close())
            .await;
    let error = read(&part(server.url("/f"), 10..20, 100))
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::TooLong { expected: 10, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn silence_before_and_within_the_body() {
    let headers = [
        ("ETag", ETAG),
        ("Content-Range", "bytes 10-19/100"),
        ("Content-Length", "10"),
    ];
    let server =
        Server::start(move |_| Reply::raw("206 Partial Content", &headers, b"01234").hang()).await;
    let error = read(&part(server.url("/f"), 10..20, 100))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::Stalled {
                stage: "more of its body",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.is_transient());

    let server = Server::start(|_| Reply::text("").hang()).await;
    let settings = floodway_origin::Settings {
        connect_timeout: std::time::Duration::from_millis(100),
        first_byte_timeout: std::time::Duration::from_millis(100),
        ..Default::default()
    };
    let origin = floodway_origin::Origin::new(settings).unwrap();
    let guard = floodway_origin::Guard::unmetered();
    let error = origin
        .read(&part(server.url("/f"), 10..20, 100), &guard)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::Stalled {
                stage: "the head of its reply",
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn replies_that_are_not_http() {
    for text in [
        "hello\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    ] {
        let server = Server::start(move |_| Reply::text(text).close()).await;
        let error = read(&part(server.url("/f"), 10..20, 100))
            .await
            .unwrap_err();
        assert!(
            matches!(error, OriginError::BadReply { .. }),
            "{text}: {error:?}"
        );
    }
    let server = Server::start(|_| Reply::text("HTTP/1.1 2").close()).await;
    let error = read(&part(server.url("/f"), 10..20, 100))
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Broken { .. }), "{error:?}");
    assert_eq!(server.seen().len(), 2, "asked once more, not for ever");
}
