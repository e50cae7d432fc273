//! Origins that want to be left alone.

use std::time::{Duration, SystemTime};

use floodway_origin::{ErrorKind, Guard, OriginError, ReadRequest};

use crate::server::{Reply, Server, origin, read};

#[tokio::test]
async fn one_retry_after_holds_for_the_whole_host() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_mins(1));
    for (status, asked) in [("503 Busy", "60"), ("429 Too Many", &*date)] {
        let asked = asked.to_owned();
        let server =
            Server::start(move |_| Reply::new(status, &[("Retry-After", &asked)], b"")).await;
        let (origin, guard) = (origin(), Guard::unmetered());
        let error = origin
            .read(&ReadRequest::whole(server.url("/f")), &guard)
            .await
            .unwrap_err();
        let wait = error.retry_after().unwrap().as_secs();
        assert!((58..=60).contains(&wait), "{wait}");
        // Another object, another method, a clone: nobody asks.
        let error = origin
            .clone()
            .probe(&server.url("/other"), &guard, None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.is_transient()),
            (ErrorKind::Busy, true)
        );
        assert!(error.retry_after().unwrap() <= Duration::from_mins(1));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn the_pause_ends() {
    let server = Server::start(|seen| match seen.number {
        0 => Reply::new("503 Busy", &[("Retry-After", "1")], b""),
        _ => Reply::new("200 OK", &[], b"hello"),
    })
    .await;
    let (origin, guard) = (origin(), Guard::unmetered());
    let request = ReadRequest::whole(server.url("/f"));
    let error = origin.read(&request, &guard).await.unwrap_err();
    tokio::time::sleep(error.retry_after().unwrap()).await;
    assert!(origin.read(&request, &guard).await.is_ok());
}

#[tokio::test]
async fn without_a_time_the_next_call_may_ask() {
    let server = Server::start(|_| Reply::new("503 Busy", &[("Retry-After", "soon")], b"")).await;
    let (origin, guard) = (origin(), Guard::unmetered());
    for _ in 0..2 {
        let error = origin
            .read(&ReadRequest::whole(server.url("/f")), &guard)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                OriginError::Busy {
                    status: 503,
                    retry_after: None,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn no_origin_can_send_us_away_for_long() {
    let server =
        Server::start(|_| Reply::new("503 Busy", &[("Retry-After", "999999999999")], b"")).await;
    let error = read(&ReadRequest::whole(server.url("/f")))
        .await
        .unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_hours(1)));
}
