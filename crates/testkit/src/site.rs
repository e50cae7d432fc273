//! An origin and a fleet that may read it: what most tests of whole swarms begin with.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::files::{TestDir, random_file, sha256_file};
use crate::fleet::{Fleet, Node, task_id};
use crate::nginx::Nginx;

/// A folder, an nginx that serves `origin/` in it, and a control server that allows it.
pub struct Site {
    /// Control and what belongs to it.
    pub fleet: Fleet,
    /// The origin.
    pub nginx: Nginx,
    /// Everything lies here.
    pub dir: TestDir,
}

impl Site {
    /// How long a task may take.
    pub const PATIENCE: Duration = Duration::from_secs(100);

    /// Starts both; the limit is for each connection to the origin, in KiB/s. `None` without nginx (the test is
    /// skipped by name).
    #[track_caller]
    pub fn start(exe: impl Into<PathBuf>, limit_kib_per_second: Option<u64>) -> Option<Self> {
        Self::with(limit_kib_per_second, |dir, url| {
            Fleet::start(exe, dir, [url])
        })
    }

    /// The same with `serve`: control has a relay in it.
    #[track_caller]
    pub fn serve(exe: impl Into<PathBuf>, limit_kib_per_second: Option<u64>) -> Option<Self> {
        Self::with(limit_kib_per_second, |dir, url| {
            Fleet::serve(exe, dir, [url])
        })
    }

    #[track_caller]
    fn with(limit: Option<u64>, fleet: impl FnOnce(PathBuf, String) -> Fleet) -> Option<Self> {
        let dir = TestDir::new();
        let mut builder = Nginx::builder(dir.folder("origin"));
        if let Some(limit) = limit {
            builder = builder.limit_rate(limit);
        }
        let nginx = builder.start()?;
        let fleet = fleet(dir.folder("fleet"), nginx.url("/"));
        Some(Self { fleet, nginx, dir })
    }

    /// Puts a random file on the origin; gives its URL and SHA-256.
    pub fn file(&self, name: &str, length: u64) -> (String, String) {
        let seed = length + name.len() as u64;
        let sha256 = random_file(self.dir.join("origin").join(name), length, seed);
        (self.nginx.url(&format!("/{name}")), sha256)
    }

    /// A distribution task to all agents by the API, until every one of them is done.
    #[track_caller]
    pub fn distribute(&self, url: &str) -> Value {
        let task = self.fleet.create_task(url, Some("all"));
        let ended = self
            .fleet
            .await_task(&task_id(&task), &["done", "failed"], Self::PATIENCE);
        assert_eq!(ended["state"], "done", "{ended:#}");
        ended
    }

    /// Every agent has the file under its final name, with these bytes.
    #[track_caller]
    pub fn assert_has(agents: &[Node], name: &str, sha256: &str) {
        for agent in agents {
            assert_eq!(
                sha256_file(agent.files.join(name)),
                sha256,
                "{}",
                agent.data.display()
            );
        }
    }
}
