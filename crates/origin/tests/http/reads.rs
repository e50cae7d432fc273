//! Reading from servers that keep the rules.

use std::time::Duration;

use floodway_origin::{Bearer, ErrorKind, Expectation, Guard, OriginError, ReadRequest, Validator};

use tokio::io::AsyncWriteExt;

use crate::server::{ETAG, Reply, Server, collect, data, expect, origin, part, read};

#[tokio::test]
async fn ranges_and_the_whole_arrive_exactly() {
    let data = data(300_000);
    let server = Server::honest(data.clone()).await;
    let url = server.url("/f");
    let middle = read(&part(url.clone(), 1000..250_001, 300_000))
        .await
        .unwrap();
    assert!(middle == data[1000..250_001]);
    let last = read(&part(url.clone(), 299_999..300_000, 300_000))
        .await
        .unwrap();
    assert_eq!(last, &data[299_999..]);
    assert!(read(&ReadRequest::whole(url.clone())).await.unwrap() == data);
    assert_eq!(read(&part(url, 5..5, 300_000)).await.unwrap(), b"");
    let seen = server.seen();
    assert_eq!(seen.len(), 3, "an empty range asks nobody");
    assert_eq!(seen[0].header("range"), Some("bytes=1000-250000"));
    assert_eq!(seen[0].header("if-match"), Some(ETAG));
    assert_eq!(seen[2].header("range"), None);
    assert_eq!(seen[2].header("if-match"), None);
    for seen in seen {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert!(seen.header("user-agent").unwrap().starts_with("floodway/"));
        assert_eq!(seen.header("host"), Some(&*server.address));
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_is_cut_when_the_length_is_unknown() {
    let data = data(100);
    let server = Server::honest(data.clone()).await;
    let mut request = part(server.url("/f"), 60..200, 100);
    request.expect.length = None;
    assert_eq!(read(&request).await.unwrap(), &data[60..]);
}

#[tokio::test]
async fn a_document_is_read_whole_or_not_at_all() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/none" => Reply::raw("204 No Content", &[], b""),
        "/gone" => Reply::new("404 Not Found", &[], b"x"),
        _ => Reply::new("200 OK", &[("ETag", "\"7.9\"")], &[7; 1000]),
    })
    .await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let bearer = Bearer::new("t");
    let read = async |path: &str, limit| {
        let url = server.url(path);
        origin.document(&url, Some(&bearer), limit, &guard).await
    };
    assert_eq!(read("/all", 1000).await.unwrap(), Some(vec![7; 1000]));
    assert_eq!(read("/none", 1000).await.unwrap(), None);
    let long = read("/all", 999).await.unwrap_err();
    assert!(
        matches!(long, OriginError::TooLong { expected: 999, .. }),
        "{long}"
    );
    let gone = read("/gone", 1000).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization") == Some("Bearer t"))
    );
}

#[tokio::test]
async fn every_body_byte_is_counted_by_the_guard() {
    let server = Server::honest(data(5000)).await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let request = part(server.url("/f"), 0..4000, 5000);
    collect(origin.read(&request, &guard).await.unwrap())
        .await
        .unwrap();
    assert_eq!(guard.body_bytes().get(), 4000);
    assert_eq!(guard.bytes_without_lease().get(), 4000);
}

#[tokio::test]
async fn one_connection_serves_one_read_after_another() {
    let server = Server::honest(data(50_000)).await;
    let (origin, guard) = (origin(), Guard::unmetered());
    for start in 0..5 {
        let request = part(server.url("/f"), start..start + 20_000, 50_000);
        collect(origin.read(&request, &guard).await.unwrap())
            .await
            .unwrap();
    }
    assert!(server.seen().iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced_unnoticed() {
    let data = data(100);
    let body = data.clone();
    let server = Server::start(move |seen| {
        let reply = crate::server::honest(seen, &body, &[("ETag", ETAG)]);
        // Says nothing of closing, then answers the next request on this connection by closing it.
        if seen.number == 1 {
            Reply::text("").close()
        } else {
            reply
        }
    })
    .await;
    let (origin, guard) = (origin(), Guard::unmetered());
    for _ in 0..2 {
        let request = part(server.url("/f"), 0..100, 100);
        let body = origin.read(&request, &guard).await.unwrap();
        assert_eq!(collect(body).await.unwrap(), data);
    }
    let connections: Vec<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[tokio::test]
async fn a_shortened_body_ends_where_it_was_told_to() {
    let data = data(40_000);
    let server = Server::honest(data.clone()).await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let request = part(server.url("/f"), 10_000..40_000, 40_000);
    let mut body = origin.read(&request, &guard).await.unwrap();
    body.shorten(10_005);
    assert_eq!(body.next().await.unwrap().unwrap(), &data[10_000..10_005]);
    assert!(body.next().await.is_none());
    assert!(body.next().await.is_none());
    assert_eq!(body.position(), 10_005);
    // The rest was small: it is read in the background, and the connection serves again.
    while guard.body_bytes().get() < 30_000 {
        tokio::task::yield_now().await;
    }
    let request = part(server.url("/f"), 0..10, 40_000);
    assert_eq!(
        collect(origin.read(&request, &guard).await.unwrap())
            .await
            .unwrap(),
        &data[..10]
    );
    assert!(server.seen().iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn a_large_rest_is_not_read() {
    let server = Server::honest(data(50_000_000)).await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let mut body = origin
        .read(&part(server.url("/f"), 0..50_000_000, 50_000_000), &guard)
        .await
        .unwrap();
    let first = body.next().await.unwrap().unwrap();
    body.shorten(100);
    assert!(
        body.next().await.is_none(),
        "{} bytes were already out",
        first.len()
    );
    collect(
        origin
            .read(&part(server.url("/f"), 0..10, 50_000_000), &guard)
            .await
            .unwrap(),
    )
    .await
    .unwrap();
    assert_eq!(
        server.seen()[1].connection,
        1,
        "the old connection was closed"
    );
    assert!(guard.body_bytes().get() < 50_000_000);
}

#[tokio::test]
async fn a_dropped_call_loses_no_byte() {
    let data = data(10);
    let sent = data.clone();
    let server = Server::start(move |_| {
        let headers = [
            ("ETag", ETAG),
            ("Content-Length", "10"),
            ("Content-Range", "bytes 0-9/10"),
        ];
        Reply::raw("206 Partial Content", &headers, &sent[..4]).hang()
    })
    .await;
    let mut body = origin()
        .read(&part(server.url("/f"), 0..10, 10), &Guard::unmetered())
        .await
        .unwrap();
    assert_eq!(body.next().await.unwrap().unwrap(), &data[..4]);
    let wait = tokio::time::timeout(Duration::from_millis(1), body.next()).await;
    assert!(wait.is_err());
    assert_eq!(body.position(), 4);
    let error = body.next().await.unwrap().unwrap_err();
    assert!(matches!(error, OriginError::Stalled { .. }), "{error}");
    assert!(body.next().await.is_none());
}

#[tokio::test]
async fn a_reply_says_whether_its_end_can_be_told_from_a_broken_connection() {
    for (head, marks_end) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", true),
        ("HTTP/1.1 200 OK\r\nConnection: close", false),
        ("HTTP/1.0 200 OK", false),
    ] {
        let body = if head.ends_with("chunked") {
            "5\r\nhello\r\n0\r\n\r\n"
        } else {
            "hello"
        };
        let reply = format!("{head}\r\n\r\n{body}");
        let server = Server::start(move |_| Reply::text(&reply).close()).await;
        let request = ReadRequest::whole(server.url("/f"));
        let body = origin().read(&request, &Guard::unmetered()).await.unwrap();
        assert_eq!(body.marks_end(), marks_end, "{head}");
        assert_eq!(collect(body).await.unwrap(), b"hello", "{head}");
    }
}

#[tokio::test]
async fn chunked_bodies_end_where_they_say() {
    let chunked = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: {ETAG}\r\n\r\n{body}")
    };
    let whole = chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    let cut = chunked("5\r\nhello\r\n");
    let server = Server::start(move |seen| match &*seen.path {
        "/whole" => Reply::text(&whole),
        _ => Reply::text(&cut).close(),
    })
    .await;
    assert_eq!(
        read(&ReadRequest::whole(server.url("/whole")))
            .await
            .unwrap(),
        b"hello world"
    );
    let error = read(&ReadRequest::whole(server.url("/cut")))
        .await
        .unwrap_err();
    assert!(
        matches!(error, OriginError::Broken { .. }) && error.is_transient(),
        "{error}"
    );
    for (length, problem) in [(10, "TooLong"), (12, "Short")] {
        let mut request = ReadRequest::whole(server.url("/whole"));
        request.expect = expect(length, ETAG);
        let error = read(&request).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(problem), "{error:?}");
        let is_marked = matches!(error, OriginError::Short { marked: true, .. });
        assert_eq!(is_marked, problem == "Short", "its last chunk came");
    }
    let mut request = ReadRequest::whole(server.url("/cut"));
    request.expect = expect(12, ETAG);
    let error = read(&request).await.unwrap_err();
    assert!(
        !matches!(error, OriginError::Short { marked: true, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_body_without_any_length_ends_with_the_connection() {
    let server = Server::start(|_| Reply::raw("200 OK", &[], b"hello").close()).await;
    let mut request = ReadRequest::whole(server.url("/f"));
    let body = origin().read(&request, &Guard::unmetered()).await.unwrap();
    assert_eq!(body.end(), None, "nobody said where it ends");
    assert_eq!(collect(body).await.unwrap(), b"hello");
    request.expect = Expectation {
        length: Some(6),
        validator: Validator::None,
    };
    let error = read(&request).await.unwrap_err();
    assert!(
        matches!(
            error,
            OriginError::Short {
                got: 5,
                expected: 6,
                marked: false,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some("Bearer tok") => Reply::new("200 OK", &[], b"token"),
        Some("Basic Ym9iOnNlY3JldA==") => Reply::new("200 OK", &[], b"password"),
        _ => Reply::new("401 Unauthorized", &[], b""),
    })
    .await;
    let mut request = ReadRequest::whole(server.url("/f"));
    let error = read(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    request.bearer = Some(Bearer::new("tok"));
    assert_eq!(read(&request).await.unwrap(), b"token");
    assert!(!format!("{request:?}").contains("tok\""), "{request:?}");
    let with_password = format!("http://bob:secret@{}/f?X-Signature=abc", server.address);
    let request = ReadRequest::whole(with_password.parse().unwrap());
    assert_eq!(read(&request).await.unwrap(), b"password");
    let wrong = format!(
        "http://bob:wrong-secret@{}/f?X-Signature=abc",
        server.address
    );
    let error = read(&ReadRequest::whole(wrong.parse().unwrap()))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        !error.contains("secret") && !error.contains("abc"),
        "{error}"
    );
    assert!(error.contains("/f?…"), "{error}");
}

#[tokio::test]
async fn the_check_is_asked_before_anybody_else() {
    let server = Server::honest(data(10)).await;
    let check = |url: &url::Url| Err(format!("`{}` is not listed", url.path()));
    let origin = origin().checked_by(std::sync::Arc::new(check));
    let guard = Guard::unmetered();
    let error = origin
        .probe(&server.url("/f"), &guard, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed);
    assert!(
        error.to_string().starts_with("url: http://127.0.0.1"),
        "{error}"
    );
    let error = origin
        .read(&ReadRequest::whole(server.url("/f")), &guard)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAllowed);
    let file = ReadRequest::whole("file:///etc/hostname".parse().unwrap());
    assert_eq!(
        origin.read(&file, &guard).await.unwrap_err().kind(),
        ErrorKind::NotAllowed
    );
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn nobody_there_and_no_tls_are_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secure = format!("https://{}/f", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let request = ReadRequest::whole(secure);
    let (read_secure, ()) = tokio::join!(read(&request), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"this is not TLS\r\n").await.unwrap();
    });
    let error = read_secure.unwrap_err();
    assert!(matches!(error, OriginError::Tls { .. }), "{error:?}");
    let gone = format!("http://{}/f", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(listener);
    let error = read(&ReadRequest::whole(gone)).await.unwrap_err();
    assert!(
        matches!(error, OriginError::Connect { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let server = Server::honest(data(10)).await;
    let mut request = part(server.url("/f"), 0..10, 10);
    request.expect.validator = Validator::Strong("\"a\"\r\nX: y".into());
    let error = read(&request).await.unwrap_err();
    assert!(matches!(error, OriginError::Request { .. }), "{error:?}");
    let mut request = ReadRequest::whole(server.url("/f"));
    request.bearer = Some(Bearer::new("a\nb"));
    let error = read(&request).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("no authorization header can be made of what was given"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 0);
}
