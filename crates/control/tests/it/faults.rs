//! Bad settings, and a database that takes no writes.

use floodway_api::rest::{Role, TaskList};
use floodway_control::{ControlError, Settings, start};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Executor};

use crate::client::{ORIGIN, Server};

#[tokio::test]
async fn bad_settings_are_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("control");
    let base = Settings {
        data: data.clone(),
        ..Settings::default()
    };
    let bad_origin = Settings {
        allow_origin: vec!["origin.example".into()],
        ..base.clone()
    };
    let error = start(bad_origin).await.map(|_| ()).unwrap_err();
    assert!(
        error.is_settings_fault() && error.to_string().starts_with("allow_origin: "),
        "{error}"
    );
    let bad_url = Settings {
        public_url: Some("control.example".into()),
        ..base.clone()
    };
    let error = start(bad_url).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, ControlError::PublicUrl { .. }), "{error}");
    for audit_share in [-0.5, 1.5, f64::NAN, f64::INFINITY] {
        let bad_share = Settings {
            audit_share,
            ..base.clone()
        };
        let error = start(bad_share).await.map(|_| ()).unwrap_err();
        assert!(
            error.is_settings_fault() && error.to_string().starts_with("audit_share: "),
            "{error}"
        );
    }
    assert!(!data.exists(), "nothing was made");

    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("admin.token"), "short").unwrap();
    let error = start(base.clone()).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, ControlError::Secret(_)), "{error}");
    std::fs::remove_file(data.join("admin.token")).unwrap();
    std::fs::write(
        data.join("control.db"),
        "this is no database, but it is long enough to look at".repeat(99),
    )
    .unwrap();
    let error = start(base).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, ControlError::Store(_)), "{error}");
}

#[tokio::test]
async fn while_the_database_takes_no_writes_nothing_is_acknowledged() {
    let server = Server::start();
    let mut agent = server.enrol(Role::Agent).await;
    let file = server.data.path().join("control/control.db");
    let options = SqliteConnectOptions::new().filename(file);
    let mut blocker: SqliteConnection = options.connect().await.unwrap();
    blocker.execute("BEGIN IMMEDIATE").await.unwrap();
    let (admin, body) = (server.admin(), json!({"url": format!("{ORIGIN}/x")}));
    let refused = server.post("/api/v1/tasks", &admin, &body).await;
    assert_eq!(refused.refusal(), (503, "unavailable".into(), None));
    assert!(refused.head.contains("retry-after"), "{}", refused.head);
    assert_eq!(server.get("/readyz", "").await.refusal().0, 503);
    assert_eq!(server.get("/healthz", "").await.status, 200);
    let metrics = server.get("/metrics", "").await.text();
    assert!(metrics.contains("floodway_control_ready 0"), "{metrics}");
    let list: TaskList = server.get("/api/v1/tasks", &admin).await.ok();
    assert_eq!(list.tasks, [], "it did not happen");

    blocker.execute("ROLLBACK").await.unwrap();
    assert_eq!(
        server.post("/api/v1/tasks", &admin, &body).await.status,
        201
    );
    assert_eq!(server.get("/readyz", "").await.status, 200);
    agent.sync(&server).await;
}
