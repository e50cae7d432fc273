//! A control server with its relays and agents, as separate processes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Api, metric};
use crate::process::{Program, Ready, Running};
use crate::site::Site;
use crate::wait::{free_port, wait_until};

/// A relay or an agent.
pub struct Node {
    /// The process.
    pub process: Running,
    /// Where it said it listens.
    pub ready: Ready,
    /// Its data folder.
    pub data: PathBuf,
    /// Where an agent's finished files lie.
    pub files: PathBuf,
}

impl Node {
    /// The value of one of its metrics.
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        metric(self.ready.http(), name)
    }

    /// Kills it if it runs, starts it anew with the same arguments, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.restart();
        self.ready = self.process.ready();
    }
}

/// A control server on a fixed port and what belongs to it.
pub struct Fleet {
    exe: PathBuf,
    dir: PathBuf,
    url: String,
    /// Where its nodes listen for peers.
    peer_ip: IpAddr,
    next: usize,
    /// The control server.
    pub control: Running,
}

impl Fleet {
    /// Starts a control server in `dir` that allows these origins.
    #[track_caller]
    pub fn start<S: AsRef<str>>(
        exe: impl Into<PathBuf>,
        dir: impl AsRef<Path>,
        allow: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::start_as(&["control"], exe, dir, allow)
    }

    /// The same with more arguments of `control`.
    #[track_caller]
    pub fn start_with<S: AsRef<str>>(
        more: &[&str],
        exe: impl Into<PathBuf>,
        dir: impl AsRef<Path>,
        allow: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::start_as(&[&["control"], more].concat(), exe, dir, allow)
    }

    /// The same by `serve`: the control server has a relay in it.
    #[track_caller]
    pub fn serve<S: AsRef<str>>(
        exe: impl Into<PathBuf>,
        dir: impl AsRef<Path>,
        allow: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::start_as(&["serve", "--listen", "127.0.0.1:0"], exe, dir, allow)
    }

    #[track_caller]
    fn start_as<S: AsRef<str>>(
        command: &[&str],
        exe: impl Into<PathBuf>,
        dir: impl AsRef<Path>,
        allow: impl IntoIterator<Item = S>,
    ) -> Self {
        let (exe, dir) = (exe.into(), dir.as_ref().to_owned());
        let port = free_port();
        let mut program = Program::new(&exe)
            .args(command)
            .args(["--http", &format!("127.0.0.1:{port}"), "--data"])
            .arg(dir.join("control"))
            .folder(&dir);
        for prefix in allow {
            program = program.args(["--allow-origin", prefix.as_ref()]);
        }
        let mut control = program.start();
        control.ready();
        Self {
            exe,
            dir,
            url: format!("http://127.0.0.1:{port}"),
            peer_ip: Ipv4Addr::LOCALHOST.into(),
            next: 0,
            control,
        }
    }

    /// Nodes that are started from now on listen for peers at this address.
    pub fn listen_for_peers_on(&mut self, ip: IpAddr) {
        self.peer_ip = ip;
    }

    /// Control's base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Control's data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.join("control")
    }

    /// The operator's token.
    #[track_caller]
    pub fn admin_token(&self) -> String {
        self.token("admin.token")
    }

    /// The token that admits nodes of both roles.
    #[track_caller]
    pub fn join_token(&self) -> String {
        self.token("join.token")
    }

    #[track_caller]
    fn token(&self, file: &str) -> String {
        let path = self.data().join(file);
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        text.trim().to_owned()
    }

    /// The API as the operator.
    #[track_caller]
    pub fn api(&self) -> Api {
        Api::new(&self.url, self.admin_token())
    }

    /// The command line as the operator.
    #[track_caller]
    pub fn cli(&self) -> Program {
        self.cli_with(&self.admin_token())
    }

    /// The command line with another token.
    pub fn cli_with(&self, token: &str) -> Program {
        Program::new(&self.exe)
            .env("FLOODWAY_CONTROL", &self.url)
            .env("FLOODWAY_TOKEN", token)
            .folder(&self.dir)
    }

    /// A node's program with its own data folder, not yet started; `role` is `relay` or `agent`.
    #[track_caller]
    pub fn node_program(&mut self, role: &str, token: &str) -> (Program, PathBuf) {
        self.next += 1;
        let data = self.dir.join(format!("{role}-{}", self.next));
        let program = self
            .cli_with(token)
            .args([
                role,
                "--http",
                "127.0.0.1:0",
                "--listen",
                &SocketAddr::new(self.peer_ip, 0).to_string(),
                "--data",
            ])
            .arg(&data);
        (program, data)
    }

    /// Starts a node with more arguments and waits until it is ready.
    #[track_caller]
    pub fn node(&mut self, role: &str, token: &str, more: &[&str]) -> Node {
        self.node_in(role, token, more, &[])
    }

    /// The same with variables of its environment.
    #[track_caller]
    pub fn node_in(
        &mut self,
        role: &str,
        token: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Node {
        let (mut program, data) = self.node_program(role, token);
        for (name, value) in variables {
            program = program.env(name, value);
        }
        let mut process = program.args(more).start();
        let ready = process.ready();
        Node {
            process,
            ready,
            files: data.join("files"),
            data,
        }
    }

    /// Starts relays and waits until they are ready.
    #[track_caller]
    pub fn relays(&mut self, count: usize) -> Vec<Node> {
        let token = self.join_token();
        (0..count)
            .map(|_| self.node("relay", &token, &[]))
            .collect()
    }

    /// Starts agents and waits until they are ready.
    #[track_caller]
    pub fn agents(&mut self, count: usize) -> Vec<Node> {
        let token = self.join_token();
        (0..count)
            .map(|_| self.node("agent", &token, &[]))
            .collect()
    }

    /// `POST /api/v1/tasks`; gives the task as created. `to` as in `publish --to`.
    #[track_caller]
    pub fn create_task(&self, url: &str, to: Option<&str>) -> Value {
        let mut body = serde_json::json!({ "url": url });
        if let Some(to) = to {
            body["to"] = to.into();
        }
        let reply = self.api().post("/api/v1/tasks", &body);
        assert!(
            (200..300).contains(&reply.status),
            "creating a task: {}",
            reply.text()
        );
        reply.json()
    }

    /// The task now; `id` names a distribution or a relay task.
    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        self.api()
            .get(&format!("/api/v1/tasks/{id}"))
            .expect_status(200)
            .json()
    }

    /// Waits until a task is in one of these states and gives it.
    #[track_caller]
    pub fn await_task(&self, id: &str, states: &[&str], patience: Duration) -> Value {
        let mut last = Value::Null;
        let start = std::time::Instant::now();
        while start.elapsed() < patience {
            last = self.task(id);
            if last["state"]
                .as_str()
                .is_some_and(|state| states.contains(&state))
            {
                return last;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("task {id} is not {states:?} after {patience:?}: {last:#}");
    }

    /// Waits until control counts so many live nodes.
    #[track_caller]
    pub fn await_live_nodes(&self, count: usize) {
        wait_until(
            &format!("{count} live nodes"),
            Duration::from_mins(1),
            || {
                let nodes = self.api().get("/api/v1/nodes").expect_status(200).json();
                let live = nodes["nodes"]
                    .as_array()?
                    .iter()
                    .filter(|node| node["live"] == true);
                (live.count() == count).then_some(())
            },
        );
    }

    /// The magnet link of a content that is final; `format` is `v1`, `v2` or `hybrid`.
    #[track_caller]
    pub fn magnet(&self, sid: &str, format: &str) -> String {
        let path = format!("/api/v1/s/{sid}/magnet?format={format}");
        let reply = self.api().get(&path).expect_status(200);
        reply.text().trim().to_owned()
    }

    /// Has the command line fetch a content that is final into the folder `out`, from anybody but its origin. What it reported.
    #[track_caller]
    pub fn late_get(&self, sid: &str, out: &Path) -> Value {
        self.cli_with(&self.join_token())
            .args(["get", &format!("floodway:{sid}"), "--json", "--no-origin"])
            .args(["--listen", "127.0.0.1:0", "-o"])
            .arg(out)
            .patience(Site::PATIENCE)
            .run()
            .expect_code(0)
            .last_json()
    }

    /// The torrent of a content that is final.
    #[track_caller]
    pub fn torrent(&self, sid: &str) -> Vec<u8> {
        self.api()
            .get(&format!("/api/v1/s/{sid}/torrent"))
            .expect_status(200)
            .body
    }
}

/// The id by which a task of the API is asked for: the distribution task, or else the relay task.
#[track_caller]
pub fn task_id(task: &Value) -> String {
    task["task"]
        .as_str()
        .or_else(|| task["relay_task"].as_str())
        .unwrap_or_else(|| panic!("no id in {task}"))
        .to_owned()
}
