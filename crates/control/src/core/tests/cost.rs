//! What a sync costs control, as instructions: `cargo xtask bench cost` runs this under callgrind, which counts only what
//! happens within [`measured`].

use super::*;

const SYNCS: usize = 500;

fn number(name: &str) -> u32 {
    let text = std::env::var(name).unwrap_or_default();
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("{name} is a number, not `{text}`"))
}

/// An agent that takes part in the content.
fn agent(rig: &mut Rig, number: u32) -> (NodeId, SyncRequest) {
    let enrol = Enrol {
        role: Role::Agent,
        name: format!("agent {number}"),
        short_lived: false,
    };
    let joining = Sponsor::Joining(Joining::default());
    let id = rig.core.enrol(joining, &enrol).unwrap().node;
    let content = ContentReport {
        serving: true,
        manifest: Some(Head::default()),
        ..ContentReport::nothing(rig.sid)
    };
    let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
    let request = SyncRequest {
        boot: 1,
        streaming: true,
        peer: Some((Ipv4Addr::new(10, 0, high, low), 6881).into()),
        asks: vec![Ask::Open { url: URL.into() }],
        contents: vec![content],
        ..SyncRequest::default()
    };
    (id, request)
}

/// What callgrind counts.
#[inline(never)]
fn measured(rig: &mut Rig, syncs: Vec<(NodeId, SyncRequest)>) {
    for (node, request) in syncs {
        rig.request(node, request);
    }
}

#[test]
#[ignore = "`cargo xtask bench cost` counts its instructions"]
#[expect(clippy::print_stdout, reason = "how many were counted")]
fn of_an_agents_sync() {
    let mut rig = Rig::new(number("COST_PIECES"), 1, |_| {});
    let agents: Vec<_> = (0..number("COST_PEERS"))
        .map(|number| agent(&mut rig, number))
        .collect();
    for (node, request) in agents.clone() {
        rig.request(node, request);
    }
    let again = agents.into_iter().cycle().take(SYNCS).collect();
    measured(&mut rig, again);
    println!("\n{SYNCS}");
}
