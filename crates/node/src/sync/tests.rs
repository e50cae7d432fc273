use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

/// A control that parks a sync until the next one comes, and writes down what came.
#[derive(Clone, Default)]
struct Control {
    seen: Arc<Mutex<Vec<SyncRequest>>>,
    came: Arc<Notify>,
    failures: Arc<Mutex<u32>>,
}

async fn answer(State(control): State<Control>, Json(request): Json<SyncRequest>) -> Response {
    {
        let mut failures = control.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    }
    let parked = request.wait_ms > 0;
    control.seen.lock().unwrap().push(request);
    control.came.notify_waiters();
    if parked {
        control.came.notified().await;
    }
    let version = control.seen.lock().unwrap().len() as u64;
    Json(SyncReply {
        version,
        interval_ms: 15_000,
        ..SyncReply::default()
    })
    .into_response()
}

async fn start(control: &Control) -> Syncer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .route("/api/v1/sync", post(answer))
        .with_state(control.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Syncer::new(ControlClient::new(&address, Some("t")).unwrap())
}

/// The next answer that is news.
async fn fresh(syncer: &mut Syncer) -> (SyncRequest, SyncReply) {
    loop {
        if let Synced::Reply {
            request,
            reply: Some(reply),
        } = syncer.next(SyncRequest::default).await
        {
            return (*request, *reply);
        }
    }
}

#[tokio::test]
async fn a_report_releases_the_parked_sync_and_is_acknowledged() {
    let control = Control::default();
    let mut syncer = start(&control).await;
    syncer.changed();
    let (report, reply) = fresh(&mut syncer).await;
    assert_eq!((report.wait_ms, report.known, reply.version), (0, 0, 1));
    // Nothing to tell: one is parked, with what is known.
    let came = control.came.notified();
    tokio::select! {
        _ = syncer.next(SyncRequest::default) => panic!("a parked sync was answered"),
        () = came => {}
    }
    let parked = control.seen.lock().unwrap().last().unwrap().clone();
    assert_eq!((parked.known, parked.boot), (1, report.boot));
    assert!(parked.wait_ms > 0);
    syncer.changed();
    let mut waits = Vec::new();
    for _ in 0..2 {
        if let Synced::Reply { request, .. } = syncer.next(SyncRequest::default).await {
            waits.push(request.wait_ms == 0);
        }
    }
    waits.sort_unstable();
    assert_eq!(
        waits,
        [false, true],
        "the parked one was released, the report answered"
    );
}

#[tokio::test]
async fn failures_are_told_and_overcome() {
    let control = Control::default();
    *control.failures.lock().unwrap() = 2;
    let mut syncer = start(&control).await;
    syncer.changed();
    for _ in 0..2 {
        match syncer.next(SyncRequest::default).await {
            Synced::Failed(error) => assert!(error.is_unreachable(), "{error}"),
            other @ Synced::Reply { .. } => panic!("{other:?}"),
        }
        assert!(syncer.down_since().is_some());
    }
    fresh(&mut syncer).await;
    assert_eq!(syncer.down_since(), None);
}

#[tokio::test]
async fn goodbye_is_said() {
    let control = Control::default();
    let syncer = start(&control).await;
    syncer.leave(SyncRequest::default()).await;
    assert!(control.seen.lock().unwrap()[0].leaving);
}
