use axum::Router;
use axum::http::HeaderMap as Headers;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use super::*;

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn a_token_goes_with_the_request_and_json_comes_back() {
    let router = Router::new().route(
        "/under/api/v1/tasks/{id}/cancel",
        post(
            |headers: Headers, path: axum::extract::Path<String>| async move {
                assert_eq!(headers["authorization"], "Bearer secret");
                assert_eq!(path.0, "a/b");
                (
                    StatusCode::NOT_FOUND,
                    r#"{"error":{"code":"not_found","message":"no task `a/b`","field":"id"}}"#,
                )
            },
        ),
    );
    let client =
        ControlClient::new(&format!("{}/under", serve(router).await), Some("secret\n")).unwrap();
    let error = client.cancel_task("a/b").await.unwrap_err();
    assert!(error.is_not_found() && !error.is_unreachable() && !error.is_token_refused());
    assert_eq!(error.detail().unwrap().code, "not_found");
    assert!(
        error
            .to_string()
            .ends_with("refused: no task `a/b` (field `id`)"),
        "{error}"
    );
    assert!(!format!("{client:?}").contains("secret"));
}

#[tokio::test]
async fn a_torrent_that_is_not_final_is_none_and_an_unknown_one_an_error() {
    let known = Sid([1; 32]);
    let router = Router::new().route(
        &format!("/api/v1/s/{known}/torrent"),
        get(|| async { (StatusCode::NOT_FOUND, [("retry-after", "2")], "") }),
    );
    let client = ControlClient::new(&serve(router).await, None).unwrap();
    assert_eq!(client.torrent(known).await.unwrap(), None);
    assert!(
        client
            .torrent(Sid([2; 32]))
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn nobody_there_and_nonsense_are_told_apart_from_a_refusal() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = ControlClient::new(&address, None)
        .unwrap()
        .nodes()
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");

    let router = Router::new().route("/api/v1/nodes", get(|| async { "hello" }));
    let error = ControlClient::new(&serve(router).await, None)
        .unwrap()
        .nodes()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::BadReply { .. }) && error.is_unreachable(),
        "{error}"
    );

    let router = Router::new().route("/api/v1/nodes", get(|| async { StatusCode::UNAUTHORIZED }));
    let error = ControlClient::new(&serve(router).await, None)
        .unwrap()
        .nodes()
        .await
        .unwrap_err();
    assert!(
        error.is_token_refused() && !error.is_unreachable(),
        "{error}"
    );
}

#[test]
fn bad_addresses_and_tokens_are_named() {
    for address in ["", "host:7600", "ftp://h/", "http://u:p@h/", "http://h/?x"] {
        assert!(
            matches!(
                ControlClient::new(address, None),
                Err(ClientError::Address { .. })
            ),
            "{address}"
        );
    }
    let client = ControlClient::new("http://h", None).unwrap();
    for token in ["", "a b", "a\u{7}b"] {
        assert!(
            matches!(client.with_token(token), Err(ClientError::Token)),
            "{token:?}"
        );
    }
}
