//! A real nginx as the origin.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::files::TestDir;
use crate::http::try_request;
use crate::process::{Program, Running, Signal};
use crate::tools;
use crate::wait::{free_port, wait_until};

/// How an nginx is to serve.
#[derive(Clone, Debug)]
pub struct NginxBuilder {
    root: PathBuf,
    server: String,
}

impl NginxBuilder {
    /// Limits each connection, in KiB/s.
    #[must_use]
    pub fn limit_rate(mut self, kib_per_second: u64) -> Self {
        self.server
            .extend(["limit_rate ", &kib_per_second.to_string(), "k;\n"]);
        self
    }

    /// Compresses whatever a client admits.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        self.server += "gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any;\n";
        self
    }

    /// Serves no ranges.
    #[must_use]
    pub fn no_ranges(mut self) -> Self {
        self.server += "max_ranges 0;\n";
        self
    }

    /// Gives no ETags, so that only dates tell versions apart.
    #[must_use]
    pub fn no_etags(mut self) -> Self {
        self.server += "etag off;\n";
        self
    }

    /// Starts it and waits until it answers. `None` when nginx is not installed (the test is skipped by name).
    #[track_caller]
    pub fn start(self) -> Option<Nginx> {
        let exe = tools::find_or_skip("nginx")?;
        let dir = TestDir::new();
        let port = free_port();
        fs::create_dir_all(dir.join("tmp")).expect("a folder for nginx");
        fs::write(dir.join("nginx.conf"), config(&dir, port, &self))
            .expect("writing nginx's configuration");
        let program = Program::new(exe)
            .arg("-p")
            .arg(&*dir)
            .args(["-e", "error.log", "-c"])
            .arg(dir.join("nginx.conf"));
        let mut nginx = Nginx {
            process: program.start(),
            dir,
            port,
        };
        nginx.await_start();
        Some(nginx)
    }
}

fn config(dir: &Path, port: u16, builder: &NginxBuilder) -> String {
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/tmp/{kind};\n", dir.display()))
        .concat();
    format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
         events {{ worker_connections 1024; }}
         http {{
           {temp}
           default_type application/octet-stream;
           log_format bytes '$status $body_bytes_sent $request_method $uri $http_range';
           access_log {dir}/access.log bytes;
           sendfile on; keepalive_timeout 60;
           server {{
             listen 127.0.0.1:{port};
             root '{root}';
             {server}
             location = /nginx-status {{ stub_status; access_log off; }}
           }}
         }}\n",
        dir = dir.display(),
        root = builder.root.display(),
        server = builder.server,
    )
}

/// A running nginx that serves a folder on 127.0.0.1.
pub struct Nginx {
    process: Running,
    dir: TestDir,
    port: u16,
}

impl Nginx {
    /// Serves a folder at full speed with ranges and strong ETags.
    #[track_caller]
    pub fn start(root: impl AsRef<Path>) -> Option<Self> {
        Self::builder(root).start()
    }

    /// Serves a folder as the builder says.
    pub fn builder(root: impl AsRef<Path>) -> NginxBuilder {
        NginxBuilder {
            root: root.as_ref().into(),
            server: String::new(),
        }
    }

    /// The URL of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Stops it at once: from now on connections are refused.
    pub fn stop(&mut self) {
        self.process.kill9();
    }

    /// Stops it gracefully, then starts it at the same address.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait();
        self.process.restart();
        self.await_start();
    }

    /// Body bytes sent for a path so far, requests in progress not included: `$body_bytes_sent` of its access log.
    pub fn logged_bytes(&self, path: &str) -> u64 {
        self.log()
            .iter()
            .filter(|line| line.path == path)
            .map(|line| line.bytes)
            .sum()
    }

    /// Body bytes sent for a path, once no request is in progress any more.
    #[track_caller]
    pub fn body_bytes(&self, path: &str) -> u64 {
        if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            wait_until(
                "nginx has finished all its requests",
                Duration::from_secs(30),
                || {
                    let status = try_request("GET", &self.url("/nginx-status"), &[], b"").ok()?;
                    // The request that asks counts as one.
                    status.text().contains("Writing: 1 ").then_some(())
                },
            );
        }
        self.logged_bytes(path)
    }

    /// Requests for a path so far, requests in progress not included.
    pub fn requests(&self, path: &str) -> usize {
        self.log().iter().filter(|line| line.path == path).count()
    }

    fn log(&self) -> Vec<LogLine> {
        let text = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                let bytes = words.nth(1)?.parse().ok()?;
                Some(LogLine {
                    bytes,
                    path: words.nth(1)?.to_owned(),
                })
            })
            .collect()
    }

    #[track_caller]
    fn await_start(&mut self) {
        wait_until("nginx to listen", Duration::from_secs(10), || {
            assert!(
                self.process.is_running(),
                "nginx did not start: {} {}",
                self.process.stderr(),
                fs::read_to_string(self.dir.join("error.log")).unwrap_or_default()
            );
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

struct LogLine {
    bytes: u64,
    path: String,
}
