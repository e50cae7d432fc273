//! Two hosts and a cable between them, for what loopback cannot show: addresses that change.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Program;
use crate::tools;

/// The address of the first host, and those of the second one, one after the other.
const FIRST: &str = "10.77.0.1";
const SECOND: [&str; 2] = ["10.77.0.2", "10.77.0.3"];

/// Two network namespaces that reach each other and nothing else; gone when dropped.
pub struct Cable {
    ip: PathBuf,
    /// The namespaces.
    hosts: [String; 2],
}

impl Cable {
    /// Lays it. `None`, and says so, where there is no `ip`, or namespaces are not permitted.
    #[track_caller]
    pub fn lay() -> Option<Self> {
        let ip = tools::find_or_skip("ip")?;
        let hosts = ["a", "b"].map(|end| format!("fwtest-{}-{end}", std::process::id()));
        let added = Command::new(&ip).args(["netns", "add", &hosts[0]]).output();
        let added = added.expect("starting ip");
        if !added.status.success() {
            let why = String::from_utf8_lossy(&added.stderr);
            tools::skip_unable(&format!("it needs network namespaces: {}", why.trim()));
            return None;
        }
        let cable = Self { ip, hosts };
        let [first, second] = &cable.hosts;
        cable.run(&["netns", "add", second]);
        cable.run(&[
            "link", "add", "cable0", "netns", first, "type", "veth", "peer", "cable0", "netns",
            second,
        ]);
        for (host, address) in [(first, FIRST), (second, SECOND[0])] {
            cable.run(&["-n", host, "link", "set", "lo", "up"]);
            cable.run(&["-n", host, "link", "set", "cable0", "up"]);
            cable.address("add", host, address);
        }
        Some(cable)
    }

    /// A program on the first host, at [`Cable::first`].
    pub fn on_first(&self, exe: impl AsRef<Path>) -> Program {
        self.on(&self.hosts[0], exe.as_ref())
    }

    /// A program on the second host.
    pub fn on_second(&self, exe: impl AsRef<Path>) -> Program {
        self.on(&self.hosts[1], exe.as_ref())
    }

    /// The address of the first host.
    pub fn first(&self) -> &'static str {
        FIRST
    }

    /// The second host gets another address: connections from and to the old one fall silent at both ends.
    #[track_caller]
    pub fn second_moves(&self) {
        self.address("del", &self.hosts[1], SECOND[0]);
        self.address("add", &self.hosts[1], SECOND[1]);
    }

    fn on(&self, host: &str, exe: &Path) -> Program {
        Program::new(&self.ip)
            .args(["netns", "exec", host])
            .arg(exe)
    }

    #[track_caller]
    fn address(&self, action: &str, host: &str, address: &str) {
        let address = format!("{address}/24");
        self.run(&["-n", host, "address", action, &address, "dev", "cable0"]);
    }

    #[track_caller]
    fn run(&self, args: &[&str]) {
        Program::new(&self.ip).args(args).run().expect_code(0);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for host in &self.hosts {
            // The cable goes with its ends. Whatever was not made cannot be deleted.
            let _ = Command::new(&self.ip).args(["netns", "del", host]).output();
        }
    }
}
