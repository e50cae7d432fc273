//! `get --explain`: where the bytes came from, and who vouched for them.

use floodway_node::VerifiedBy;
use floodway_node::get::{Explanation, GetReport};
use floodway_swarm::SourceClass;
use serde_json::{Value, json};

use crate::human;

fn word(class: SourceClass) -> &'static str {
    match class {
        SourceClass::Peer => "peer",
        SourceClass::Relay => "relay",
        SourceClass::Origin => "origin",
    }
}

/// For programs: one object.
pub(super) fn json(report: &GetReport, explanation: &Explanation) -> Value {
    let sources = explanation.sources.iter().map(
        |share| json!({"source": share.source, "class": word(share.class), "bytes": share.bytes}),
    );
    let growth = explanation.growth.as_ref();
    let reporters = growth.map(|growth| {
        let relays = growth.relays.iter().filter(|relay| relay.pieces > 0);
        let relays = relays
            .map(|relay| json!({"node": relay.node, "name": relay.name, "pieces": relay.pieces}));
        relays.collect::<Vec<_>>()
    });
    json!({
        "event": "explain",
        "verified_by": report.verified_by,
        "sources": sources.collect::<Vec<_>>(),
        "reasons": report.reasons,
        "pieces": growth.and_then(|growth| growth.pieces),
        "reported_by": reporters,
        "audits": growth.and_then(|growth| growth.audits),
    })
}

/// For people: line by line.
pub(super) fn lines(report: &GetReport, explanation: &Explanation) -> Vec<String> {
    let mut lines = vec!["where the bytes came from:".to_owned()];
    for share in &explanation.sources {
        let (class, bytes) = (word(share.class), human::bytes(share.bytes));
        lines.push(format!("  {bytes:>10}  {class} {}", share.source));
    }
    if report.resumed_bytes > 0 {
        let bytes = human::bytes(report.resumed_bytes);
        lines.push(format!("  {bytes:>10}  here before"));
    }
    if report.wasted_bytes > 0 {
        let bytes = human::bytes(report.wasted_bytes);
        lines.push(format!("  {bytes:>10}  of all that was of no use"));
    }
    if !report.reasons.is_empty() {
        lines.push("why it went so:".into());
        lines.extend(report.reasons.iter().map(|reason| format!("  {reason}")));
    }
    if let Some(growth) = &explanation.growth {
        lines.push(format!(
            "who reported what the {} pieces hash to:",
            human::count(growth.pieces)
        ));
        for relay in growth.relays.iter().filter(|relay| relay.pieces > 0) {
            lines.push(format!(
                "  {:>10}  relay {} ({})",
                relay.pieces, relay.name, relay.node
            ));
        }
        if let Some(audits) = growth.audits {
            lines.push(format!(
                "  {:>10}  read from the origin again by another relay, with the same result",
                audits.equal
            ));
        }
    }
    lines.push(format!(
        "verified by {}: {}",
        report.verified_by,
        how(report.verified_by)
    ));
    lines
}

fn how(verified_by: VerifiedBy) -> &'static str {
    match verified_by {
        VerifiedBy::Facts => {
            "every piece has the hash that control signed, as a relay had reported it"
        }
        VerifiedBy::Torrent => "every piece has the hash that the torrent lists",
        VerifiedBy::Digest => "the whole file has the SHA-256 that was given",
        VerifiedBy::Transport => {
            "the length, and one version of the object during the whole transfer; no hash of it was known"
        }
    }
}

#[cfg(test)]
mod tests {
    use floodway_api::manifest::Phase;
    use floodway_api::rest::{AuditCounts, Growth, RelayShare};
    use floodway_node::SourceShare;
    use floodway_proto::NodeId;
    use floodway_proto::record::Head;

    use super::*;

    fn example() -> (GetReport, Explanation) {
        let share = |source: &str, class, bytes| SourceShare {
            source: source.into(),
            class,
            bytes,
        };
        let relay = |name: &str, pieces| RelayShare {
            node: NodeId([7; 16]),
            name: name.into(),
            pieces,
            leased: 0,
            have: 0,
            paused: None,
            distrusted: false,
        };
        let report = GetReport {
            path: "/x/disk.img".into(),
            bytes: 5 << 20,
            seconds: 2.0,
            sha256: None,
            verified_by: VerifiedBy::Facts,
            reasons: vec!["HTTP: no connected peer has the missing pieces".into()],
            peer_bytes: 4 << 20,
            relay_bytes: 1 << 20,
            origin_bytes: 0,
            resumed_bytes: 0,
            wasted_bytes: 16384,
            explanation: None,
        };
        let explanation = Explanation {
            sources: vec![
                share("192.0.2.1:6881", SourceClass::Peer, (4 << 20) + 16384),
                share("http://192.0.2.2:80/data", SourceClass::Relay, 1 << 20),
            ],
            growth: Some(Growth {
                phase: Phase::Final,
                head: Head::default(),
                pieces: Some(80),
                sealed: 80,
                relays: vec![relay("north", 64), relay("south", 16), relay("idle", 0)],
                audits: Some(AuditCounts {
                    equal: 2,
                    ..AuditCounts::default()
                }),
            }),
        };
        (report, explanation)
    }

    #[test]
    fn for_people() {
        let (report, explanation) = example();
        insta::assert_snapshot!(lines(&report, &explanation).join("\n"));
    }

    #[test]
    fn for_programs() {
        let (report, explanation) = example();
        insta::assert_snapshot!(json(&report, &explanation));
    }
}
