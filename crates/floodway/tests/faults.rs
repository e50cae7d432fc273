//! `kill -9` at random points, objects that change, full disks, memory: nothing that was acknowledged is lost, and
//! what is fetched again is bounded.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use floodway_testkit::{
    Nginx, Node, Program, Running, Site, TestDir, make_sparse, random_file, sha256_file, task_id,
    tools, wait_until,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 160 * MIB;
/// What one killed process may have to fetch again.
const LOST: u64 = 64 * MIB;
const PATIENCE: Duration = Duration::from_secs(100);

/// How many kill points: all thirty with `FLOODWAY_TEST_FULL`.
fn points() -> u64 {
    if tools::full() { 30 } else { 3 }
}

/// When to kill, by seed: anywhere in the time that the job takes.
fn moment(seed: u64) -> Duration {
    Duration::from_millis(fastrand::Rng::with_seed(seed).u64(50..6000))
}

/// A whole site with one object that takes a few seconds to fetch.
struct Job {
    relays: Vec<Node>,
    agents: Vec<Node>,
    url: String,
    sha256: String,
    site: Site,
}

impl Job {
    #[track_caller]
    fn new(relays: usize, agents: usize) -> Option<Self> {
        let site = Site::start(env!("CARGO_BIN_EXE_floodway"), Some(32 * 1024))?;
        Some(Self::at(site, relays, agents, 0))
    }

    /// The same with `serve` for control and the only relay.
    #[track_caller]
    fn serve(agents: usize) -> Option<Self> {
        let site = Site::serve(env!("CARGO_BIN_EXE_floodway"), Some(32 * 1024))?;
        Some(Self::at(site, 0, agents, 1))
    }

    /// `more`: nodes that the site has already.
    #[track_caller]
    fn at(mut site: Site, relays: usize, agents: usize, more: usize) -> Self {
        let (url, sha256) = site.file("disk.img", LENGTH);
        let relays = site.fleet.relays(relays);
        let agents = site.fleet.agents(agents);
        let nodes = relays.len() + agents.len() + more;
        site.fleet.await_live_nodes(nodes);
        Self {
            relays,
            agents,
            url,
            sha256,
            site,
        }
    }

    fn begin(&self) -> Value {
        self.site.fleet.create_task(&self.url, Some("all"))
    }

    fn state(&self, task: &Value) -> Value {
        self.site.fleet.task(&task_id(task))["state"].clone()
    }

    #[track_caller]
    fn restart_control(&mut self) {
        self.site.fleet.control.restart();
        self.site.fleet.control.ready();
    }

    #[track_caller]
    fn finish(&self, task: &Value, what: &str) {
        let done = self
            .site
            .fleet
            .await_task(&task_id(task), &["done", "failed"], PATIENCE);
        assert_eq!(done["state"], "done", "{what}: {done:#}");
        Site::assert_has(&self.agents, "disk.img", &self.sha256);
        let sent = self.site.nginx.body_bytes("/disk.img");
        assert!(
            sent <= LENGTH + LOST + MIB,
            "{what}: {} MiB from the origin: {done:#}",
            sent / MIB
        );
    }
}

#[test]
fn kill_9_of_control_loses_no_task() {
    for seed in 0..points() {
        let Some(mut job) = Job::new(2, 1) else {
            return;
        };
        let task = job.begin();
        let moment = moment(seed);
        thread::sleep(moment);
        let before = job.state(&task);
        job.restart_control();
        let what = format!("seed {seed}: control killed after {moment:?} when {before}");
        job.finish(&task, &what);
        job.restart_control();
        assert_eq!(
            job.site.fleet.task(&task_id(&task))["state"],
            "done",
            "{what}: forgotten"
        );
    }
}

#[test]
fn kill_9_of_control_right_after_an_answer_keeps_what_it_said() {
    let Some(mut job) = Job::new(0, 0) else {
        return;
    };
    for round in 0..10 {
        let task = job
            .site
            .fleet
            .create_task(&format!("{}?round={round}", job.url), None);
        job.restart_control();
        let found = job.site.fleet.task(&task_id(&task));
        assert_eq!(found["url"], task["url"], "round {round}");
    }
    let tasks = job
        .site
        .fleet
        .api()
        .get("/api/v1/tasks")
        .expect_status(200)
        .json();
    assert_eq!(
        tasks["tasks"].as_array().map(Vec::len),
        Some(10),
        "{tasks:#}"
    );
}

#[test]
fn kill_9_of_serve_loses_no_task_and_fetches_little_again() {
    for seed in 400..400 + points() {
        let Some(mut job) = Job::serve(1) else {
            return;
        };
        let task = job.begin();
        let moment = moment(seed);
        thread::sleep(moment);
        let before = job.state(&task);
        job.restart_control();
        let what = format!("seed {seed}: serve killed after {moment:?} when {before}");
        job.finish(&task, &what);
        job.restart_control();
        assert_eq!(job.state(&task), "done", "{what}: forgotten");
    }
}

#[test]
fn kill_9_of_a_relay_fetches_little_again() {
    for seed in 100..100 + points() {
        let Some(mut job) = Job::new(2, 1) else {
            return;
        };
        let task = job.begin();
        let moment = moment(seed);
        thread::sleep(moment);
        let before = job.state(&task);
        let victim = usize::try_from(seed % 2).unwrap();
        job.relays[victim].restart();
        job.finish(
            &task,
            &format!("seed {seed}: relay killed after {moment:?} when {before}"),
        );
    }
}

#[test]
fn kill_9_of_the_only_relay_fetches_little_again() {
    let Some(mut job) = Job::new(1, 1) else {
        return;
    };
    let task = job.begin();
    wait_until("most of the object to be fetched", PATIENCE, || {
        let read = job.relays[0].metric("floodway_origin_body_bytes_total");
        (read > 100 * MIB).then_some(())
    });
    job.relays[0].restart();
    job.finish(&task, "the only relay killed after 100 MiB");
}

#[test]
fn kill_9_of_control_and_the_only_relay_sends_no_agent_to_the_origin() {
    let Some(mut job) = Job::new(1, 1) else {
        return;
    };
    let task = job.begin();
    wait_until("some of the object to be fetched", PATIENCE, || {
        let read = job.relays[0].metric("floodway_origin_body_bytes_total");
        (read > 16 * MIB).then_some(())
    });
    job.relays[0].process.kill9();
    job.restart_control();
    // The agent is back first, learns what control knows, and has the time to do something foolish.
    job.site.fleet.await_live_nodes(1);
    thread::sleep(Duration::from_secs(3));
    let task_now = job.site.fleet.task(&task_id(&task));
    let sources = &task_now["agents"][0]["sources"];
    assert_eq!(sources["origin"], 0, "{task_now:#}");
    job.relays[0].restart();
    job.finish(&task, "control and the only relay killed after 16 MiB");
}

#[test]
fn kill_9_of_an_agent_fetches_little_again() {
    for seed in 200..200 + points() {
        let Some(mut job) = Job::new(1, 1) else {
            return;
        };
        let task = job.begin();
        let moment = moment(seed);
        thread::sleep(moment);
        let before = job.state(&task);
        job.agents[0].restart();
        let what = format!("seed {seed}: agent killed after {moment:?} when {before}");
        job.finish(&task, &what);
        let sent: u64 = [
            "floodway_peer_sent_bytes_total",
            "floodway_relay_http_sent_bytes_total",
        ]
        .iter()
        .map(|metric| job.relays[0].metric(metric))
        .sum();
        assert!(
            sent <= LENGTH + LOST + MIB,
            "{what}: {} MiB from the relay",
            sent / MIB
        );
    }
}

/// `get` of the object in its own folder.
fn get(folder: &Path, args: &[&str]) -> Program {
    Program::new(env!("CARGO_BIN_EXE_floodway"))
        .args(["get", "--json", "--no-dht", "--no-lsd"])
        .args(args)
        .folder(folder)
        .patience(PATIENCE)
}

#[test]
fn kill_9_of_a_plain_get_fetches_little_again() {
    let dir = TestDir::new();
    let sha256 = random_file(dir.folder("origin").join("disk.img"), LENGTH, 42);
    for seed in 300..300 + points() {
        let Some(nginx) = Nginx::builder(dir.folder("origin"))
            .limit_rate(32 * 1024)
            .start()
        else {
            return;
        };
        let down = dir.folder(&format!("down-{seed}"));
        let program = get(&down, &[&nginx.url("/disk.img")]);
        let mut running = program.start();
        let moment = moment(seed) / 2;
        thread::sleep(moment);
        running.kill9();
        let what = format!("seed {seed}: killed after {moment:?}");
        if !down.join("disk.img").exists() {
            let done = program.run().expect_code(0).last_json();
            assert_eq!(done["sha256"], *sha256, "{what}");
        }
        assert_eq!(sha256_file(down.join("disk.img")), sha256, "{what}");
        let sent = nginx.body_bytes("/disk.img");
        assert!(
            sent <= LENGTH + LOST + MIB,
            "{what}: {} MiB from the origin",
            sent / MIB
        );
        fs::remove_dir_all(down).unwrap();
    }
}

#[test]
fn an_object_that_changes_under_the_relays_is_never_mixed() {
    let Some(job) = Job::new(2, 1) else { return };
    let origin = job.site.dir.join("origin");
    let second = random_file(origin.join("next"), LENGTH, 43);
    let later = SystemTime::now() + Duration::from_secs(100);
    File::options()
        .write(true)
        .open(origin.join("next"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    let task = job.begin();
    wait_until("some of the first version to be fetched", PATIENCE, || {
        let read: u64 = job
            .relays
            .iter()
            .map(|r| r.metric("floodway_origin_body_bytes_total"))
            .sum();
        (read > 16 * MIB).then_some(())
    });
    fs::rename(origin.join("next"), origin.join("disk.img")).unwrap();
    let done = job
        .site
        .fleet
        .await_task(&task_id(&task), &["done", "failed"], PATIENCE);
    let file = job.agents[0].files.join("disk.img");
    if done["state"] == "done" {
        let got = sha256_file(&file);
        assert!(
            got == job.sha256 || got == second,
            "neither version arrived"
        );
    } else {
        assert!(done.to_string().contains("change"), "it says why: {done:#}");
        assert!(!file.exists());
    }
    let sent = job.site.nginx.body_bytes("/disk.img");
    assert!(
        sent <= 2 * LENGTH + LOST,
        "{} MiB from the origin",
        sent / MIB
    );
}

/// A small file system of its own; `None` where that is not allowed (the test is skipped by name).
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, mebibytes: u32) -> Option<Self> {
        let size = format!("size={mebibytes}m");
        let args = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted = Command::new("mount").args(args).arg(&path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        tools::skip("mounting a small file system is not allowed here");
        None
    }

    fn grow(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        let status = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "growing a mounted tmpfs"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is still being killed may hold a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_pauses_says_so_and_goes_on_when_there_is_room() {
    let dir = TestDir::new();
    let sha256 = random_file(dir.folder("origin").join("disk.img"), 48 * MIB, 44);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let down = dir.folder("down");
    let Some(disk) = SmallDisk::mount(down.clone(), 24) else {
        return;
    };
    let mut running: Running = get(&down, &[&nginx.url("/disk.img")]).start();
    running.stderr_line("space");
    assert!(running.is_running(), "it pauses: {}", running.stderr());
    assert!(!down.join("disk.img").exists());
    let asked = nginx.requests("/disk.img");
    thread::sleep(Duration::from_secs(2));
    let again = nginx.requests("/disk.img") - asked;
    assert!(
        again <= 5,
        "{again} requests to the origin while the disk was full"
    );
    disk.grow(200);
    running.finish().expect_code(0);
    assert_eq!(sha256_file(down.join("disk.img")), sha256);
    drop(disk);
}

#[test]
fn an_agent_with_a_full_disk_says_so_in_its_task_and_goes_on_when_there_is_room() {
    let Some(mut site) = Site::start(env!("CARGO_BIN_EXE_floodway"), None) else {
        return;
    };
    let (url, sha256) = site.file("disk.img", 48 * MIB);
    let files = site.dir.folder("small");
    let Some(disk) = SmallDisk::mount(files.clone(), 24) else {
        return;
    };
    let _relay = site.fleet.relays(1);
    let token = site.fleet.join_token();
    let dir = files.display().to_string();
    let mut agent_node = site.fleet.node("agent", &token, &["--dir", &dir]);
    let mut publish = site
        .fleet
        .cli()
        .args(["publish", &url, "--to", "all", "--wait"])
        .patience(PATIENCE)
        .start();
    publish.stderr_line("space");
    let tasks = site.fleet.api().get("/api/v1/tasks").json();
    let id = task_id(&tasks["tasks"][0]);
    let agent = || site.fleet.task(&id)["agents"][0].clone();
    let await_paused = || {
        wait_until("the agent to say why it waits", PATIENCE, || {
            let paused = agent();
            assert_eq!(paused["state"], "downloading", "{paused:#}");
            let reason = paused["reason"].as_str()?;
            (reason.starts_with("paused: ") && reason.contains("space")).then_some(())
        });
    };
    await_paused();
    // Started anew it cannot even open what it has, and waits as well.
    agent_node.process.restart();
    agent_node.process.ready();
    agent_node.process.stderr_line("the disk refused");
    let relay_task = site.fleet.task(&id)["relay_task"].clone();
    let relay_task = relay_task.as_str().unwrap();
    site.fleet.await_task(relay_task, &["final"], PATIENCE);
    await_paused();
    assert!(!files.join("disk.img").exists());
    disk.grow(200);
    wait_until("the agent to go on", PATIENCE, || {
        let reason = agent()["reason"].to_string();
        (!reason.contains("paused")).then_some(())
    });
    publish.finish().expect_code(0);
    assert_eq!(sha256_file(files.join("disk.img")), sha256);
    drop(disk);
}

#[test]
fn a_relay_with_a_full_disk_says_so_in_the_task_and_another_takes_its_part() {
    let Some(mut site) = Site::start(env!("CARGO_BIN_EXE_floodway"), None) else {
        return;
    };
    let (url, _) = site.file("disk.img", 48 * MIB);
    let token = site.fleet.join_token();
    let (program, data) = site.fleet.node_program("relay", &token);
    fs::create_dir(&data).unwrap();
    let Some(disk) = SmallDisk::mount(data, 24) else {
        return;
    };
    let mut small = program.start();
    small.ready();
    let task = site.fleet.create_task(&url, None);
    let id = task_id(&task);
    let await_paused = || {
        wait_until("the relay to say why it waits", PATIENCE, || {
            let task = site.fleet.task(&id);
            let relay = &task["growth"]["relays"][0];
            assert_ne!(task["state"], "failed", "{task:#}");
            let free = relay["leased"] == 0;
            let paused = relay["paused"].as_str()?;
            (free && paused.contains("space")).then_some(())
        });
    };
    await_paused();
    let shown = site.fleet.cli().args(["task", "show", &id]).run();
    assert!(
        shown.expect_code(0).stdout.contains("paused: "),
        "people see it too"
    );
    // Started anew it cannot even open what it has, and waits as well.
    small.restart();
    small.ready();
    small.stderr_line("the disk refused");
    await_paused();
    let _large = site.fleet.relays(1);
    let done = site.fleet.await_task(&id, &["final", "failed"], PATIENCE);
    assert_eq!(done["state"], "final", "{done:#}");
    disk.grow(200);
    wait_until("the relay to go on", PATIENCE, || {
        let task = site.fleet.task(&id);
        let relays = task["growth"]["relays"].as_array()?;
        let whole = |relay: &&Value| relay["have"] == 48 * MIB && relay["paused"].is_null();
        (relays.iter().filter(whole).count() == 2).then_some(())
    });
    // Lazily unmounted only once nobody writes to it.
    drop(small);
    drop(disk);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = TestDir::new();
    random_file(dir.folder("origin").join("disk.img"), MIB, 45);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    fs::write(dir.join("file"), "not a folder").unwrap();
    let target = dir.join("file").join("disk.img").display().to_string();
    let output = get(&dir, &[&nginx.url("/disk.img"), "-o", &target]).run();
    assert!(
        matches!(output.code, 1 | 2),
        "exit {}: {}",
        output.code,
        output.stderr
    );
    assert!(output.stderr.contains("file"), "{}", output.stderr);
}

#[test]
fn memory_stays_below_150_mib_on_a_large_file() {
    let length = if tools::full() { 10 << 30 } else { 1 << 30 };
    let dir = TestDir::new();
    make_sparse(dir.folder("origin").join("disk.img"), length);
    let Some(nginx) = Nginx::start(dir.folder("origin")) else {
        return;
    };
    let url = nginx.url("/disk.img");
    let program = get(&dir, &[&url]).patience(Duration::from_mins(8));
    let mut running = program.start();
    let mut most = 0;
    while running.is_running() {
        most = most.max(running.rss_anon());
        thread::sleep(Duration::from_millis(50));
    }
    let done = running.finish().expect_code(0).last_json();
    assert_eq!(done["bytes"], length);
    assert!(
        most > 0 && most < 150 * MIB,
        "{} MiB of anonymous memory",
        most / MIB
    );
}

#[test]
fn memory_of_a_relay_and_an_agent_stays_below_150_mib_on_a_large_file() {
    let length = if tools::full() { 10 << 30 } else { 512 * MIB };
    let Some(mut site) = Site::start(env!("CARGO_BIN_EXE_floodway"), None) else {
        return;
    };
    make_sparse(site.dir.join("origin").join("disk.img"), length);
    let nodes = [site.fleet.relays(1), site.fleet.agents(1)].map(|mut nodes| nodes.remove(0));
    site.fleet.await_live_nodes(2);
    let url = site.nginx.url("/disk.img");
    let id = task_id(&site.fleet.create_task(&url, Some("all")));
    let mut most = [0; 2];
    let patience = Duration::from_mins(if tools::full() { 20 } else { 4 });
    let ended = wait_until("the end of the task", patience, || {
        for (most, node) in most.iter_mut().zip(&nodes) {
            *most = node.process.rss_anon().max(*most);
        }
        let task = site.fleet.task(&id);
        let state = task["state"].as_str()?;
        matches!(state, "done" | "failed").then_some(task)
    });
    assert_eq!(ended["state"], "done", "{ended:#}");
    let agent = &ended["agents"][0];
    assert_eq!(agent["sources"]["origin"], 0, "from the relay: {agent:#}");
    for (most, role) in most.into_iter().zip(["relay", "agent"]) {
        assert!(
            most > 0 && most < 150 * MIB,
            "{role}: {} MiB of anonymous memory",
            most / MIB
        );
    }
}
