//! Who may do what: tokens, the allow-list, capabilities; and the relay's HTTP side as curl would use it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use floodway_testkit::{
    Api, Fleet, Nginx, Node, Program, Reply, TestDir, random_bytes, random_file, request, task_id,
    try_request, wait_until,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 4 * MIB + 77;

struct Site {
    fleet: Fleet,
    nginx: Nginx,
    dir: TestDir,
}

fn site() -> Option<Site> {
    let dir = TestDir::new();
    random_file(dir.folder("origin/data").join("disk.img"), LENGTH, 5);
    fs::write(dir.folder("origin/database").join("x"), "secret").unwrap();
    let nginx = Nginx::start(dir.folder("origin"))?;
    let fleet = Fleet::start(
        env!("CARGO_BIN_EXE_floodway"),
        dir.folder("fleet"),
        [nginx.url("/data")],
    );
    Some(Site { fleet, nginx, dir })
}

/// A relay that serves one content, the content's sid and bytes.
struct Relayed {
    relay: Node,
    site: Site,
    sid: String,
    body: Vec<u8>,
}

impl Relayed {
    #[track_caller]
    fn new() -> Option<Self> {
        let mut site = site()?;
        let relay = site.fleet.relays(1).remove(0);
        let task = site
            .fleet
            .create_task(&site.nginx.url("/data/disk.img"), None);
        let task = site
            .fleet
            .await_task(&task_id(&task), &["final"], Duration::from_mins(1));
        let sid = task["sid"].as_str().unwrap().to_owned();
        Some(Self {
            site,
            relay,
            sid,
            body: random_bytes(LENGTH, 5),
        })
    }

    /// The URL with a capability in it, as `…/capability` gives it.
    #[track_caller]
    fn url(&self, seconds: u64) -> String {
        let path = format!("/api/v1/s/{}/capability", self.sid);
        let reply = self
            .site
            .fleet
            .api()
            .post(&path, &json!({ "seconds": seconds }));
        let urls = reply.expect_status(200).json();
        urls["urls"][0]
            .as_str()
            .unwrap_or_else(|| panic!("no URL in {urls}"))
            .to_owned()
    }

    #[track_caller]
    fn capability(&self, seconds: u64) -> String {
        let url = self.url(seconds);
        let (_, rest) = url.split_once("/api/v1/w/").expect("the form of such URLs");
        rest.split('/').next().unwrap().to_owned()
    }

    fn data_url(&self) -> String {
        format!("{}/api/v1/s/{}/data", self.relay.ready.http(), self.sid)
    }

    #[track_caller]
    fn get(&self, headers: &[(&str, &str)]) -> Reply {
        request("GET", &self.url(600), headers, b"")
    }
}

#[test]
fn the_relay_serves_whole_contents_and_ranges() {
    let Some(relayed) = Relayed::new() else {
        return;
    };
    let body = &relayed.body;
    let whole = relayed.get(&[]).expect_status(200);
    assert!(whole.body == *body);
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let etag = whole.header("etag").expect("an ETag").to_owned();
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "a strong ETag: {etag}"
    );

    let end = usize::try_from(LENGTH).unwrap();
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=-100", end - 100, end - 1),
        ("bytes=4194304-", 4_194_304, end - 1),
        ("bytes=4194304-99999999", 4_194_304, end - 1),
        ("bytes=-99999999", 0, end - 1),
    ] {
        let reply = relayed.get(&[("Range", range)]).expect_status(206);
        assert!(reply.body == body[first..=last], "{range}");
        let expected = format!("bytes {first}-{last}/{LENGTH}");
        assert_eq!(reply.header("content-range"), Some(&*expected), "{range}");
        assert_eq!(reply.header("etag"), Some(&*etag));
    }

    for range in [format!("bytes={LENGTH}-"), "bytes=-0".into()] {
        let reply = relayed.get(&[("Range", &range)]).expect_status(416);
        assert_eq!(
            reply.header("content-range"),
            Some(&*format!("bytes */{LENGTH}")),
            "{range}"
        );
    }
    // A range that makes no sense is as if there were none (RFC 9110, 14.2).
    for range in ["bytes=9-1", "lines=1-2", "bytes=x-y"] {
        relayed.get(&[("Range", range)]).expect_status(200);
    }
}

#[test]
fn the_relay_serves_several_ranges_in_one_reply() {
    let Some(relayed) = Relayed::new() else {
        return;
    };
    let reply = relayed
        .get(&[("Range", "bytes=0-9,1000000-1000099,-5")])
        .expect_status(206);
    let kind = reply.header("content-type").expect("a content type");
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("not multipart/byteranges: {kind}"))
        .trim_matches('"');
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(
        text.matches(&format!("--{boundary}")).count(),
        4,
        "three parts and the end"
    );
    let end = usize::try_from(LENGTH).unwrap();
    for (first, last) in [(0, 9), (1_000_000, 1_000_099), (end - 5, end - 1)] {
        let label = format!("bytes {first}-{last}/{LENGTH}");
        assert!(text.contains(&label), "{label}");
        let part = &relayed.body[first..=last];
        assert!(
            reply.body.windows(part.len()).any(|window| window == part),
            "{label}"
        );
    }
    // Many tiny ranges are an attack, not a request; any answer but a huge one will do.
    let many = (0..500)
        .map(|i| format!("{i}-"))
        .collect::<Vec<_>>()
        .join(",");
    let reply = relayed.get(&[("Range", &format!("bytes={many}"))]);
    assert!(
        reply.body.len() as u64 <= 2 * LENGTH,
        "{} bytes",
        reply.body.len()
    );
}

#[test]
fn the_relay_answers_conditional_requests() {
    let Some(relayed) = Relayed::new() else {
        return;
    };
    let etag = relayed
        .get(&[("Range", "bytes=0-0")])
        .header("etag")
        .unwrap()
        .to_owned();
    let range = ("Range", "bytes=0-9");
    for (header, value, status) in [
        ("If-Range", &*etag, 206),
        ("If-Range", "\"other\"", 200),
        ("If-Range", "Tue, 03 Nov 2026 10:00:00 GMT", 200),
        ("If-Match", &*etag, 206),
        ("If-Match", "*", 206),
        ("If-Match", "\"other\"", 412),
        ("If-None-Match", &*etag, 304),
        ("If-None-Match", "\"other\"", 206),
    ] {
        let reply = relayed.get(&[range, (header, value)]);
        assert_eq!(reply.status, status, "{header}: {value}");
    }
    let head = request("HEAD", &relayed.url(600), &[], b"").expect_status(200);
    assert_eq!(head.header("content-length"), Some(&*LENGTH.to_string()));
    assert_eq!(head.header("etag"), Some(&*etag));
    request("POST", &relayed.url(600), &[], b"x").expect_status(405);
}

#[test]
fn the_relay_wants_a_capability_that_is_good() {
    let Some(relayed) = Relayed::new() else {
        return;
    };
    let url = relayed.data_url();
    let with = |token: &str| {
        request(
            "GET",
            &url,
            &[("Authorization", &format!("Bearer {token}"))],
            b"",
        )
    };
    request("GET", &url, &[], b"").expect_status(401);
    let good = relayed.capability(600);
    assert!(with(&good).expect_status(200).body == relayed.body);
    for forged in [
        "",
        "x",
        &relayed.site.fleet.admin_token(),
        &flip_last(&good),
    ] {
        let status = with(forged).status;
        assert!(matches!(status, 401 | 403), "{forged}: {status}");
    }
    let other = format!(
        "{}/api/v1/s/{}/data",
        relayed.relay.ready.http(),
        "ab".repeat(32)
    );
    let status = request(
        "GET",
        &other,
        &[("Authorization", &format!("Bearer {good}"))],
        b"",
    )
    .status;
    assert!(
        matches!(status, 401 | 403 | 404),
        "a capability is for one content: {status}"
    );

    let short = relayed.capability(1);
    wait_until(
        "a capability of one second to expire",
        Duration::from_secs(10),
        || (with(&short).status != 200).then_some(()),
    );
    let reply = with(&short).expect_status(403);
    assert!(
        reply.json()["error"]["code"].is_string(),
        "{}",
        reply.text()
    );
}

/// The text with its last letter changed.
fn flip_last(text: &str) -> String {
    let (rest, last) = text.split_at(text.len() - 1);
    // Not the neighbour in the alphabet: in base64 the last letter may have unused low bits.
    format!("{rest}{}", if last == "Q" { "g" } else { "Q" })
}

/// A node's token, as `POST /api/v1/enrol` gives it.
#[track_caller]
fn node_token(fleet: &Fleet) -> String {
    let enrol = json!({ "role": "agent", "name": "black-box" });
    let reply = Api::new(fleet.url(), fleet.join_token()).post("/api/v1/enrol", &enrol);
    assert!((200..300).contains(&reply.status), "{}", reply.text());
    reply.json()["token"]
        .as_str()
        .expect("a node token")
        .to_owned()
}

#[test]
fn operator_routes_are_for_operators() {
    let Some(site) = site() else { return };
    let task = json!({ "url": site.nginx.url("/data/disk.img") });
    for (token, status) in [
        (String::new(), 401),
        ("not-a-token".into(), 401),
        (node_token(&site.fleet), 403),
    ] {
        let api = Api::new(site.fleet.url(), &token);
        for reply in [
            api.post("/api/v1/tasks", &task),
            api.get("/api/v1/tasks"),
            api.get("/api/v1/tasks/1"),
            api.post("/api/v1/tasks/1/cancel", &json!({})),
            api.get("/api/v1/nodes"),
        ] {
            assert_eq!(reply.status, status, "{}", reply.text());
            assert!(
                reply.json()["error"]["message"].is_string(),
                "{}",
                reply.text()
            );
        }
    }
    assert_eq!(site.nginx.body_bytes("/data/disk.img"), 0);
    let sync = Api::new(site.fleet.url(), "").post("/api/v1/sync", &json!({}));
    assert_eq!(sync.status, 401);
    for args in [
        &["task", "list"][..],
        &["node", "list"],
        &["publish", "http://127.0.0.1:1/x"],
    ] {
        site.fleet
            .cli_with(&node_token(&site.fleet))
            .args(args)
            .run()
            .expect_code(5);
        site.fleet
            .cli_with("not-a-token")
            .args(args)
            .run()
            .expect_code(5);
    }
}

#[test]
fn urls_off_the_allow_list_are_refused_by_name() {
    let Some(site) = site() else { return };
    let other = site.nginx.url("/database/x");
    for url in [
        &*other,
        "http://127.0.0.1:1/data/x",
        &site.nginx.url("/data/../database/x"),
        &site.nginx.url("/data/%2e%2e/database/x"),
        &site.nginx.url("/data/x").replace("http:", "https:"),
        &site
            .nginx
            .url("/data/x")
            .replace("127.0.0.1", "user@127.0.0.1"),
        "file:///etc/passwd",
        "not a url",
        "",
    ] {
        let reply = site
            .fleet
            .api()
            .post("/api/v1/tasks", &json!({ "url": url }));
        assert!(
            (400..500).contains(&reply.status),
            "{url}: {}",
            reply.status
        );
        assert_eq!(
            reply.json()["error"]["field"],
            "url",
            "{url}: {}",
            reply.text()
        );
    }
    let output = site
        .fleet
        .cli()
        .args(["publish", &other])
        .run()
        .expect_code(5);
    assert!(output.stderr.contains("url"), "{}", output.stderr);
    let token = site.fleet.join_token();
    let output = site
        .fleet
        .cli_with(&token)
        .args(["get", &other, "--listen", "127.0.0.1:0"])
        .folder(site.dir.folder("down"))
        .run()
        .expect_code(5);
    assert!(output.stderr.contains("url"), "{}", output.stderr);
    assert_eq!(
        site.nginx.requests("/database/x"),
        0,
        "the origin is untouched"
    );
}

#[test]
fn bad_bodies_get_a_clear_answer() {
    let Some(site) = site() else { return };
    let admin = format!("Bearer {}", site.fleet.admin_token());
    let url = format!("{}/api/v1/tasks", site.fleet.url());
    let post = |body: &[u8]| {
        let headers = [
            ("Authorization", &*admin),
            ("Content-Type", "application/json"),
        ];
        request("POST", &url, &headers, body)
    };
    let bodies: [&[u8]; 7] = [
        b"",
        b"{",
        b"[]",
        b"{\"url\": 5}",
        b"{\"to\": \"all\"}",
        b"{\"url\": \"http://127.0.0.1/x\", \"unknown\": 1}",
        &vec![b'['; 100_000],
    ];
    for body in bodies {
        let reply = post(body);
        let text = reply.text();
        assert!(
            (400..500).contains(&reply.status),
            "{}: {text}",
            reply.status
        );
        assert!(reply.json()["error"]["message"].is_string(), "{text}");
    }
    // Far too long: refused before it is read, so that writing it may fail first.
    let headers = [("Authorization", &*admin)];
    if let Ok(reply) = try_request("POST", &url, &headers, &vec![b' '; 64 << 20]) {
        assert!((400..500).contains(&reply.status), "{}", reply.status);
    }
    for path in [
        "/api/v1/nonsense",
        "/api/v1/tasks/%ff",
        "/api/v1/s/zz/torrent",
    ] {
        let status = site.fleet.api().get(path).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[test]
fn a_revoked_join_token_admits_nobody() {
    let Some(mut site) = site() else { return };
    let cli = |args: &[&str]| site.fleet.cli().args(args).run().expect_code(0);
    let made = cli(&[
        "node", "token", "create", "--role", "agent", "--label", "site=a", "--json",
    ]);
    let made: Value = made.json();
    let token = made["token"].as_str().unwrap().to_owned();
    let id = made["id"].as_str().unwrap().to_owned();
    let listed = cli(&["node", "token", "list", "--json"]).stdout;
    assert!(
        listed.contains(&id) && !listed.contains(&token),
        "the token is shown once: {listed}"
    );
    let (relay, _) = site.fleet.node_program("relay", &token);
    relay.run().expect_code(5);
    let mut before = site.fleet.node("agent", &token, &[]);
    site.fleet
        .cli()
        .args(["node", "token", "revoke", &id])
        .run()
        .expect_code(0);
    let (agent, _) = site.fleet.node_program("agent", &token);
    let output = agent.run().expect_code(5);
    assert!(output.stderr.contains("revoked"), "{}", output.stderr);
    // Who was admitted before stays, restarts included.
    before.restart();
    site.fleet
        .cli()
        .args(["node", "token", "revoke", "no-such-id"])
        .run()
        .expect_code(4);
}

#[test]
fn tokens_and_state_are_private_and_never_shown() {
    let Some(mut site) = site() else { return };
    let agents = site.fleet.agents(1);
    for file in ["admin.token", "join.token"] {
        let mode = fs::metadata(site.fleet.data().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let admin = site.fleet.admin_token();
    for entry in fs::read_dir(site.fleet.data()).unwrap().flatten() {
        let path = entry.path();
        if path.is_file() && !path.ends_with("admin.token") {
            let bytes = fs::read(&path).unwrap();
            let found = bytes
                .windows(admin.len())
                .any(|window| window == admin.as_bytes());
            assert!(!found, "{} holds the admin token", path.display());
        }
    }
    for text in [site.fleet.control.stderr(), site.fleet.control.stdout()] {
        assert!(
            !text.contains(&admin) && !text.contains(&site.fleet.join_token()),
            "{text}"
        );
    }
    for entry in fs::read_dir(&agents[0].data).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains("token") {
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
        }
    }
}

#[test]
fn control_and_nodes_answer_for_their_health() {
    let Some(mut site) = site() else { return };
    let relays = site.fleet.relays(1);
    let agents = site.fleet.agents(1);
    let control = site.fleet.url().to_owned();
    for path in ["/healthz", "/readyz", "/metrics"] {
        request("GET", &format!("{control}{path}"), &[], b"").expect_status(200);
    }
    for node in relays.iter().chain(&agents) {
        request("GET", &format!("{}/healthz", node.ready.http()), &[], b"").expect_status(200);
        let metrics = request("GET", &format!("{}/metrics", node.ready.http()), &[], b"").text();
        for name in [
            "floodway_origin_body_bytes_total",
            "floodway_origin_bytes_without_lease_total",
            "floodway_relay_http_sent_bytes_total",
            "floodway_peer_sent_bytes_total",
            "floodway_peer_received_bytes_total",
        ] {
            assert!(
                metrics.contains(&format!("# TYPE {name} counter")),
                "{name}:\n{metrics}"
            );
        }
    }
    let nodes = site
        .fleet
        .cli()
        .args(["node", "list", "--json"])
        .run()
        .expect_code(0)
        .json();
    let roles: Vec<_> = nodes["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["role"].clone())
        .collect();
    assert!(
        roles.contains(&"relay".into()) && roles.contains(&"agent".into()),
        "{nodes}"
    );
}

#[test]
fn nodes_wait_for_control_but_not_with_a_refused_token() {
    let Some(mut site) = site() else { return };
    let (agent, _) = site.fleet.node_program("agent", "not-a-token");
    agent.run().expect_code(5);
    // Nobody listens there yet: the agent retries until control comes.
    site.fleet.control.kill9();
    let token = site.fleet.join_token();
    let (agent, _) = site.fleet.node_program("agent", &token);
    let mut agent = agent.start();
    agent.stderr_line("control");
    assert!(agent.is_running());
    site.fleet.control.restart();
    agent.ready();
    Program::new(env!("CARGO_BIN_EXE_floodway"))
        .arg("agent")
        .run()
        .expect_code(2);
}
