//! Who may do what.

use floodway_api::rest::{Enrolled, JoinToken, JoinTokenList, NodeList, Role, TaskList};
use serde_json::json;

use crate::client::{ORIGIN, Server, request};

#[tokio::test]
async fn each_token_opens_its_own_routes_and_no_others() {
    let server = Server::start();
    let agent = server.enrol(Role::Agent).await;
    let (admin, join) = (server.admin(), server.secret("join.token"));
    let nobody = server.get("/api/v1/tasks", "").await;
    assert!(
        nobody.head.contains("www-authenticate: bearer"),
        "{}",
        nobody.head
    );
    let operators = [
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks"),
        ("GET", "/api/v1/nodes"),
        ("POST", "/api/v1/tokens"),
    ];
    for (method, path) in operators {
        for (token, status) in [
            ("", 401),
            ("wrong", 401),
            (agent.token.as_str(), 403),
            (join.as_str(), 403),
        ] {
            let answer = request(server.addr, method, path, token, b"{}").await;
            assert_eq!(answer.refusal().0, status, "{method} {path} with `{token}`");
        }
    }
    let enrol = json!({"role": "agent", "name": "x"});
    assert_eq!(
        server
            .post("/api/v1/enrol", &agent.token, &enrol)
            .await
            .status,
        403
    );
    assert_eq!(
        server.post("/api/v1/enrol", &admin, &enrol).await.status,
        201
    );
    for token in [&admin, &join] {
        assert_eq!(
            server
                .post("/api/v1/sync", token, &json!({}))
                .await
                .refusal()
                .0,
            403
        );
    }
    let nodes: NodeList = server.get("/api/v1/nodes", &admin).await.ok();
    assert_eq!(nodes.nodes.len(), 2);
}

#[tokio::test]
async fn a_join_token_fixes_role_and_labels_and_can_be_revoked() {
    let server = Server::start();
    let admin = server.admin();
    let wanted = json!({"role": "agent", "labels": {"site": "berlin"}});
    let token: JoinToken = server.post("/api/v1/tokens", &admin, &wanted).await.ok();
    let text = token.token.clone().unwrap();
    let mut agent = server.enrol_with(Role::Agent, &text).await;
    let relay = server
        .post(
            "/api/v1/enrol",
            &text,
            &json!({"role": "relay", "name": "r"}),
        )
        .await;
    assert_eq!(
        relay.refusal(),
        (403, "forbidden".into(), Some("role".into()))
    );
    let nodes: NodeList = server.get("/api/v1/nodes", &admin).await.ok();
    assert_eq!(nodes.nodes[0].labels["site"], "berlin");

    let path = format!("/api/v1/tokens/{}/revoke", token.id);
    assert!(
        server
            .post(&path, &admin, &json!({}))
            .await
            .ok::<JoinToken>()
            .revoked
    );
    let refused = server
        .post(
            "/api/v1/enrol",
            &text,
            &json!({"role": "agent", "name": "late"}),
        )
        .await;
    assert_eq!(refused.refusal().0, 401);
    assert!(refused.text().contains("revoked"), "{}", refused.text());
    agent.sync(&server).await;
    // A download on its machine is a node beside it, with its labels.
    let short = json!({"role": "agent", "name": "get", "short_lived": true});
    let beside = server.post("/api/v1/enrol", &agent.token, &short).await;
    let beside: Enrolled = beside.ok();
    let nodes: NodeList = server.get("/api/v1/nodes", &admin).await.ok();
    let beside_row = nodes.nodes.iter().find(|row| row.node == beside.node);
    assert_eq!(beside_row.unwrap().labels["site"], "berlin");
    for (token, enrol) in [
        (&agent.token, json!({"role": "agent", "name": "x"})),
        (
            &agent.token,
            json!({"role": "relay", "name": "x", "short_lived": true}),
        ),
        (&beside.token, short),
    ] {
        let refused = server.post("/api/v1/enrol", token, &enrol).await;
        assert_eq!(refused.refusal().0, 403, "{enrol}");
    }
    let list: JoinTokenList = server.get("/api/v1/tokens", &admin).await.ok();
    assert!(
        list.tokens.iter().all(|token| token.token.is_none()),
        "texts are shown once"
    );
    assert_eq!(
        server
            .post("/api/v1/tokens/j0/revoke", &admin, &json!({}))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn origins_off_the_list_are_refused_with_the_field_named() {
    let server = Server::start();
    let admin = server.admin();
    let cases = [
        ("http://evil.example/x", 403, "not_allowed"),
        ("http://origin.example/files-of-others", 403, "not_allowed"),
        ("http://origin.example/files/../secret", 403, "not_allowed"),
        ("file:///etc/passwd", 403, "not_allowed"),
        ("not a url", 400, "bad_request"),
    ];
    for (url, status, code) in cases {
        let refused = server
            .post("/api/v1/tasks", &admin, &json!({"url": url}))
            .await;
        assert_eq!(
            refused.refusal(),
            (status, code.into(), Some("url".into())),
            "{url}"
        );
    }
    let list: TaskList = server.get("/api/v1/tasks", &admin).await.ok();
    assert_eq!(list.tasks, []);
}

#[tokio::test]
async fn targets_are_checked_before_anything_is_made() {
    let server = Server::start();
    let admin = server.admin();
    server.enrol(Role::Agent).await;
    let url = format!("{ORIGIN}/x");
    let ask = async |to: &str| {
        server
            .post("/api/v1/tasks", &admin, &json!({"url": url, "to": to}))
            .await
            .refusal()
    };
    assert_eq!(
        ask("site=mars").await,
        (404, "no_agent_matches".into(), Some("to".into()))
    );
    assert_eq!(
        ask("mars").await,
        (400, "bad_request".into(), Some("to".into()))
    );
    let list: TaskList = server.get("/api/v1/tasks", &admin).await.ok();
    assert_eq!(list.tasks, []);
}

#[tokio::test]
async fn every_refusal_has_the_one_form() {
    let server = Server::start();
    let admin = server.admin();
    assert_eq!(server.get("/no/such", "").await.refusal().0, 404);
    assert_eq!(
        request(server.addr, "DELETE", "/api/v1/tasks", &admin, b"")
            .await
            .refusal()
            .0,
        405
    );
    assert_eq!(
        server.get("/api/v1/tasks/t1", &admin).await.refusal().0,
        404
    );
    assert_eq!(
        server
            .get("/api/v1/s/xyz/torrent", &admin)
            .await
            .refusal()
            .2
            .as_deref(),
        Some("sid")
    );
    assert_eq!(
        server
            .get("/api/v1/tasks?limit=many", &admin)
            .await
            .refusal()
            .2
            .as_deref(),
        Some("limit")
    );
    let unknown = request(
        server.addr,
        "POST",
        "/api/v1/tasks",
        &admin,
        br#"{"url":"x","too":"all"}"#,
    )
    .await;
    assert_eq!(
        unknown.refusal(),
        (400, "bad_request".into(), Some("too".into()))
    );
    let garbage = request(server.addr, "POST", "/api/v1/tasks", &admin, b"\xff\x00{").await;
    assert_eq!(garbage.refusal().0, 400);
    // Only bodies that may name the files of a folder may be longer.
    for (path, mebibytes) in [("/api/v1/tokens", 3), ("/api/v1/tasks", 17)] {
        let long = vec![b' '; mebibytes << 20];
        let answer = request(server.addr, "POST", path, &admin, &long).await;
        assert_eq!(answer.refusal(), (413, "too_large".into(), None), "{path}");
    }
    let agent = server.enrol(Role::Agent).await;
    let body = br#"{"contents":[{"sid":"00"}]}"#;
    let nested = request(server.addr, "POST", "/api/v1/sync", &agent.token, body).await;
    assert_eq!(nested.refusal().2.as_deref(), Some("contents[0].sid"));
}

#[tokio::test]
async fn secrets_are_private_files_and_the_folder_is_used_once() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    let folder = server.data.path().join("control");
    for file in ["admin.token", "join.token", "capability.key"] {
        let mode = std::fs::metadata(folder.join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let database = std::fs::read(folder.join("control.db")).unwrap();
    let wal = std::fs::read(folder.join("control.db-wal")).unwrap_or_default();
    for secret in [server.admin(), server.secret("join.token")] {
        let found = |bytes: &[u8]| {
            bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes())
        };
        assert!(
            !found(&database) && !found(&wal),
            "a token lies in the database"
        );
    }
    let settings = floodway_control::Settings {
        data: folder,
        ..Default::default()
    };
    let second = floodway_control::start(settings)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(second.to_string().contains("in use"), "{second}");
}
