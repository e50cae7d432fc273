//! What a swarm is measured in: hosts, their links, the file, who comes and goes. Read from TOML.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::bound::{self, Member};

/// The scenarios of this repository, by name.
const SHIPPED: [(&str, &str); 10] = [
    ("s1", include_str!("../../../bench/s1.toml")),
    ("s1-cold", include_str!("../../../bench/s1-cold.toml")),
    ("s2", include_str!("../../../bench/s2.toml")),
    ("s3", include_str!("../../../bench/s3.toml")),
    ("rtt60", include_str!("../../../bench/rtt60.toml")),
    ("staggered", include_str!("../../../bench/staggered.toml")),
    ("churn", include_str!("../../../bench/churn.toml")),
    ("unequal", include_str!("../../../bench/unequal.toml")),
    ("nat", include_str!("../../../bench/nat.toml")),
    ("quick", include_str!("../../../bench/quick.toml")),
];
/// How much of what an Ethernet frame with its 14 bytes of header carries is TCP payload.
pub(crate) const GOODPUT: f64 = 1448.0 / 1514.0;
/// Hosts are numbered within one /24.
const CLIENTS_MAX: u32 = 200;

/// One scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without `.toml`.
    #[serde(default)]
    pub(crate) name: String,
    /// One line for the report.
    pub(crate) about: String,
    pub(crate) file_mib: u64,
    #[serde(default = "piece_kib")]
    pub(crate) piece_kib: u64,
    /// When a run is cut.
    pub(crate) limit_seconds: f64,
    pub(crate) origin: Origin,
    /// Groups of equal clients.
    pub(crate) clients: Vec<Group>,
    /// Delay and loss between any two hosts.
    pub(crate) path: Option<Distance>,
}

fn piece_kib() -> u64 {
    256
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    pub(crate) up_mbit: f64,
    /// What it sends at most of bodies, over its link or to its own host. Then it is not nginx but the demo's origin, which
    /// can be paced.
    pub(crate) body_mbit: Option<f64>,
}

impl Origin {
    /// The rate on the wire at which others can get the file's bytes from its host.
    fn source_mbit(&self) -> f64 {
        self.body_mbit
            .map_or(self.up_mbit, |body| self.up_mbit.min(body / GOODPUT))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) count: u32,
    pub(crate) up_mbit: f64,
    pub(crate) down_mbit: f64,
    /// When the group's first client starts.
    #[serde(default)]
    pub(crate) first_start_seconds: f64,
    /// How long after each other the group's clients start.
    #[serde(default)]
    pub(crate) start_every_seconds: f64,
    /// Nobody can connect to them.
    #[serde(default)]
    pub(crate) behind_nat: bool,
    /// They stop as soon as they have the file, instead of seeding on.
    #[serde(default)]
    pub(crate) leave_when_done: bool,
    /// They are gone without a word so long after their start.
    pub(crate) vanish_after_seconds: Option<f64>,
}

/// How far hosts are from each other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distance {
    pub(crate) round_trip_ms: f64,
    /// Of the packets, in each direction.
    #[serde(default)]
    pub(crate) loss_percent: f64,
}

/// One client's host and behaviour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) up_mbit: f64,
    pub(crate) down_mbit: f64,
    pub(crate) start: Duration,
    pub(crate) behind_nat: bool,
    pub(crate) leave_when_done: bool,
    pub(crate) vanish: Option<Duration>,
}

impl Scenario {
    /// By name, or from a TOML file.
    ///
    /// # Errors
    /// When there is no such scenario, or what is wrong with it.
    pub(crate) fn load(which: &str) -> Result<Self> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == which) {
            return Self::parse(name, text);
        }
        let path = Path::new(which);
        if path.extension().is_none() {
            let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
            bail!(
                "there is no scenario {which}; there are {}, or give a FILE.toml",
                names.join(", ")
            );
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("scenario {which} cannot be read"))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self =
            toml::from_str(text).with_context(|| format!("scenario {name} makes no sense"))?;
        name.clone_into(&mut scenario.name);
        scenario
            .check()
            .with_context(|| format!("scenario {name} makes no sense"))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let count: u32 = self.clients.iter().map(|group| group.count).sum();
        ensure!(
            (1..=CLIENTS_MAX).contains(&count),
            "clients: {count} in all, 1 to {CLIENTS_MAX} are possible"
        );
        ensure!(self.file_mib > 0, "file_mib must be more than 0");
        ensure!(
            self.piece_kib.is_power_of_two() && self.piece_kib >= 16,
            "piece_kib = {} must be a power of two, 16 or more",
            self.piece_kib
        );
        ensure!(
            self.limit_seconds > 0.0,
            "limit_seconds must be more than 0"
        );
        ensure!(
            self.origin.up_mbit > 0.0,
            "origin.up_mbit must be more than 0"
        );
        ensure!(
            self.origin.body_mbit.is_none_or(|rate| rate > 0.0),
            "origin.body_mbit must be more than 0"
        );
        for group in &self.clients {
            ensure!(
                group.up_mbit > 0.0 && group.down_mbit > 0.0,
                "clients: up_mbit and down_mbit must be more than 0"
            );
            ensure!(
                group.first_start_seconds >= 0.0
                    && group.start_every_seconds >= 0.0
                    && group.vanish_after_seconds.is_none_or(|after| after > 0.0),
                "clients: times cannot be negative"
            );
        }
        ensure!(
            self.clients
                .iter()
                .any(|group| group.vanish_after_seconds.is_none()),
            "clients: somebody must stay"
        );
        if let Some(path) = self.path {
            ensure!(
                (0.0..=2000.0).contains(&path.round_trip_ms),
                "path.round_trip_ms = {} must be 0 to 2000",
                path.round_trip_ms
            );
            ensure!(
                (0.0..=50.0).contains(&path.loss_percent),
                "path.loss_percent = {} must be 0 to 50",
                path.loss_percent
            );
        }
        Ok(())
    }

    /// In bytes.
    pub(crate) fn size(&self) -> u64 {
        self.file_mib << 20
    }

    /// The clients, in the order of their groups.
    pub(crate) fn members(&self) -> Vec<Client> {
        let of_group = |group: &Group| {
            let group = group.clone();
            (0..group.count).map(move |index| Client {
                up_mbit: group.up_mbit,
                down_mbit: group.down_mbit,
                start: Duration::from_secs_f64(
                    group.first_start_seconds + f64::from(index) * group.start_every_seconds,
                ),
                behind_nat: group.behind_nat,
                leave_when_done: group.leave_when_done,
                vanish: group.vanish_after_seconds.map(Duration::from_secs_f64),
            })
        };
        self.clients.iter().flat_map(of_group).collect()
    }

    /// The fluid bound in seconds from the first start, as TCP over Ethernet can reach it.
    pub(crate) fn bound_seconds(&self) -> f64 {
        let members: Vec<_> = self
            .members()
            .iter()
            .map(|client| Member {
                up: client.up_mbit * GOODPUT,
                down: client.down_mbit * GOODPUT,
                start: client.start.as_secs_f64(),
                vanish: client
                    .vanish
                    .map(|after| (client.start + after).as_secs_f64()),
            })
            .collect();
        let source = self.origin.source_mbit() * GOODPUT;
        bound::seconds(self.megabits(), source, &members)
    }

    /// How long the origin takes to send one copy, if it is paced.
    pub(crate) fn one_copy_seconds(&self) -> Option<f64> {
        Some(self.megabits() / self.origin.body_mbit?)
    }

    fn megabits(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "files are far smaller than 2^52 bytes"
        )]
        let bytes = self.size() as f64;
        bytes * 8e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "about = 'x'\nfile_mib = 64\nlimit_seconds = 100\n[origin]\nup_mbit = 40\n\
                        [[clients]]\ncount = 8\nup_mbit = 40\ndown_mbit = 40\n";

    fn error(text: &str) -> String {
        format!("{:#}", Scenario::parse("mine", text).unwrap_err())
    }

    #[test]
    fn shipped_scenarios_are_good() {
        for (name, _) in SHIPPED {
            let scenario = Scenario::load(name).unwrap();
            assert!(scenario.bound_seconds() < scenario.limit_seconds, "{name}");
        }
    }

    #[test]
    fn the_bounds_of_the_main_scenarios() {
        // In staggered the last starts after 22 s, which no header makes longer.
        for (name, seconds) in [
            ("s1", 14.0),
            ("s1-cold", 14.1),
            ("s2", 28.1),
            ("s3", 39.4),
            ("staggered", 36.0),
        ] {
            let bound = Scenario::load(name).unwrap().bound_seconds();
            assert!((bound - seconds).abs() < 0.1, "{name}: {bound}");
        }
    }

    #[test]
    fn starts_follow_each_other() {
        let text = format!("{GOOD}first_start_seconds = 3\nstart_every_seconds = 0.5\n");
        let members = Scenario::parse("mine", &text).unwrap().members();
        assert_eq!(members[0].start, Duration::from_secs(3));
        assert_eq!(members[7].start, Duration::from_millis(6500));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        assert!(error(&GOOD.replace("count = 8", "count = 0")).contains("clients: 0 in all"));
        assert!(error(&GOOD.replace("count = 8", "cuont = 8")).contains("cuont"));
        assert!(error(&GOOD.replace("file_mib = 64", "piece_kib = 3")).contains("file_mib"));
        let odd = GOOD.replace("file_mib = 64", "file_mib = 64\npiece_kib = 100");
        assert!(error(&odd).contains("piece_kib = 100 must be a power of two"));
        let lossy = format!("{GOOD}[path]\nround_trip_ms = 10\nloss_percent = 99\n");
        assert!(error(&lossy).contains("path.loss_percent = 99 must be 0 to 50"));
        let gone = format!("{GOOD}vanish_after_seconds = 1\n");
        assert!(error(&gone).contains("somebody must stay"));
        let missing = Scenario::load("s9").unwrap_err().to_string();
        assert!(missing.contains("there are s1, s1-cold"), "{missing}");
    }
}
