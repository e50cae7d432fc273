//! Swarms of all sizes, own and stock, with and without an origin.

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, SafeName, Time};
use floodway_sim::plan::{Conduct, Departure, Link, NodePlan, Plan, ServerFault, ServerPlan};
use floodway_sim::{Report, run};
use floodway_swarm::{Order, SourceClass};

use crate::{
    LENGTH, LINK, finishes, never_small, origin_bytes, peers_first, plan, seed_and, seeds,
};

#[test]
fn lossy_swarms_of_all_sizes_finish() {
    for seed in seeds() {
        let leechers = [1, 2, 4, 9, 19][usize::try_from(seed % 5).unwrap()];
        finishes(&plan(seed_and(leechers, Link { loss: 0.01, ..LINK })), seed);
    }
}

#[test]
fn stock_nodes_finish_among_own_ones() {
    for seed in seeds() {
        let mut nodes = seed_and(6, LINK);
        nodes[1..4].iter_mut().for_each(|node| node.stock = true);
        finishes(&plan(nodes), seed);
    }
}

#[test]
fn the_same_seed_replays_exactly() {
    let lossy = Link {
        loss: 0.03,
        jitter: Duration::from_millis(20),
        ..LINK
    };
    // With all that a plan may have: NAT, departures, a liar, a full disk, stock nodes, an origin and a relay that fail.
    let mut all = plan(seed_and(8, lossy));
    all.nodes[1].nat = true;
    (all.nodes[2].leaves, all.nodes[2].departure) =
        (Some(Time::from_millis(700)), Departure::Silent);
    (all.nodes[3].seed, all.nodes[3].conduct) = (true, Conduct::Lies { one_in: 3 });
    all.nodes[4].disk.full = Some((Time::from_millis(300), Time::from_millis(900)));
    all.nodes[5].stock = true;
    all.servers[0].faults = vec![ServerFault::Breaks { after: 7 }];
    all.servers.push(ServerPlan {
        class: SourceClass::Relay,
        connections_max: 1,
        ..ServerPlan::origin(LINK)
    });
    for node in &mut all.nodes[6..] {
        (node.servers, node.config) = (vec![0, 1], never_small);
    }
    for plan in [plan(seed_and(5, lossy)), all] {
        for seed in seeds().take(5) {
            let play = || format!("{:?}", run(&plan, seed));
            assert_eq!(play(), play(), "seed {seed} is not deterministic");
        }
    }
}

#[test]
fn a_liar_is_banned_and_nobody_else() {
    for seed in seeds() {
        let mut nodes = seed_and(5, LINK);
        (nodes[1].seed, nodes[1].conduct) = (true, Conduct::Lies { one_in: 3 });
        let report = finishes(&plan(nodes), seed);
        assert!(
            report.bans.iter().all(|&(_, whom)| whom == 1),
            "seed {seed}: {:?}",
            report.bans
        );
        assert!(!report.bans.is_empty(), "seed {seed}: nobody noticed");
    }
}

#[test]
fn a_liar_gives_little_of_large_pieces_before_its_ban() {
    const PIECE: u64 = 4 << 20;
    let layout = Layout::new(Some(4 * PIECE), 4 << 20).unwrap();
    for seed in seeds() {
        let mut nodes = seed_and(2, Link::of(ByteRate(2_000_000)));
        (nodes[1].seed, nodes[1].conduct) = (true, Conduct::Lies { one_in: 1 });
        nodes[2].link = Link::of(ByteRate(20_000_000));
        let report = finishes(
            &Plan {
                layout: layout.clone(),
                ..plan(nodes)
            },
            seed,
        );
        let wrong = report.host_sent[1];
        assert!(
            wrong <= 5 * PIECE / 2,
            "seed {seed}: {wrong} bytes of the liar"
        );
    }
}

#[test]
fn a_peer_that_sends_nothing_holds_nobody_up() {
    for seed in seeds() {
        let mut nodes = seed_and(4, LINK);
        (nodes[1].seed, nodes[1].conduct) = (true, Conduct::Stalls { after: 0 });
        let report = finishes(&plan(nodes), seed);
        assert!(report.makespan_seconds() < 30.0, "{}", report.summary());
    }
}

#[test]
fn a_vanishing_seed_does_not_matter_once_its_pieces_are_out() {
    for seed in seeds() {
        let mut nodes = seed_and(6, LINK);
        nodes[0].leaves = Some(Time::from_millis(9_000));
        finishes(&plan(nodes), seed);
    }
}

#[test]
fn without_any_peer_the_origin_is_read_once() {
    for seed in seeds() {
        let report = finishes(
            &plan(vec![NodePlan {
                servers: vec![0],
                ..NodePlan::new(LINK)
            }]),
            seed,
        );
        assert_eq!(origin_bytes(&report), LENGTH, "seed {seed}");
    }
}

#[test]
fn with_peers_preferred_a_serving_swarm_costs_the_origin_nothing() {
    for seed in seeds() {
        let mut nodes = seed_and(4, LINK);
        for node in &mut nodes[1..] {
            (node.servers, node.config) = (vec![0], peers_first);
        }
        let report = finishes(&plan(nodes), seed);
        assert_eq!(origin_bytes(&report), 0, "seed {seed}:\n{}", report.trace);
    }
}

#[test]
fn without_a_seed_the_swarm_reads_first_copies_from_the_origin() {
    for seed in seeds() {
        let node = NodePlan {
            servers: vec![0],
            config: peers_first,
            ..NodePlan::new(LINK)
        };
        let report = finishes(&plan(vec![node; 4]), seed);
        assert!(
            origin_bytes(&report) < 2 * LENGTH,
            "{}\n{}",
            report.summary(),
            report.trace
        );
    }
}

#[test]
fn a_folder_of_files_is_fetched_from_peers_and_from_the_origin() {
    let length = |file: u64| match file {
        5 | 39 => 0,
        7 => 1,
        11 => 128 << 10,
        other => other * 9973 % 300_000,
    };
    let file = |file: u64| {
        let name = SafeName::new(&format!("{file:03}")).unwrap();
        (vec![name], length(file))
    };
    let layout = Layout::folder((0..40).map(file), 128 << 10).unwrap();
    let total = layout.length().unwrap();
    for seed in seeds() {
        let node = NodePlan {
            servers: vec![0],
            config: peers_first,
            ..NodePlan::new(LINK)
        };
        let mut nodes = vec![node; 4];
        nodes[3].stock = true;
        nodes[3].servers.clear();
        let report = finishes(
            &Plan {
                layout: layout.clone(),
                ..plan(nodes)
            },
            seed,
        );
        let sent = origin_bytes(&report);
        assert!(sent < 2 * total, "{}\n{}", report.summary(), report.trace);
    }
}

#[test]
fn a_seed_that_falls_silent_is_replaced_by_the_origin() {
    for seed in seeds() {
        let mut nodes = seed_and(2, LINK);
        nodes[0].leaves = Some(Time::from_millis(1_500));
        for node in &mut nodes[1..] {
            (node.servers, node.config) = (vec![0], peers_first);
        }
        finishes(&plan(nodes), seed);
    }
}

#[test]
fn a_download_limit_holds() {
    for seed in seeds().take(5) {
        let mut nodes = seed_and(1, LINK);
        nodes[1].config = |config| config.limits.down = ByteRate(500_000);
        let seconds = finishes(&plan(nodes), seed).makespan_seconds();
        assert!(
            (7.5..11.0).contains(&seconds),
            "seed {seed}: 4 MiB at 0.5 MB/s took {seconds} s"
        );
    }
}

/// The order in which node 1 completed its pieces.
fn completed(report: &Report) -> Vec<u32> {
    let piece = |line: &str| {
        let (before, rest) = line.split_once("PieceDone(PieceIndex(")?;
        let piece = rest.split_once(')')?.0.parse().ok();
        piece.filter(|_| before.ends_with(" 1 "))
    };
    report.trace.lines().filter_map(piece).collect()
}

#[test]
fn sequential_order_is_kept() {
    let mut nodes = seed_and(1, LINK);
    nodes[1].config = |config| config.order = Order::Sequential;
    let done = completed(&finishes(&plan(nodes), 1));
    assert_eq!(done.len(), 32);
    assert!(done.is_sorted(), "{done:?}");
}

/// Where no order helps anybody the disk's order is taken; with a third node first copies must differ.
#[test]
fn two_alone_go_from_first_to_last() {
    let done = completed(&finishes(&plan(seed_and(1, LINK)), 1));
    assert!(done.len() == 32 && done.is_sorted(), "{done:?}");
    let three = finishes(&plan(seed_and(2, LINK)), 1);
    assert!(!completed(&three).is_sorted());
}

#[test]
fn a_late_node_joins_and_finishes() {
    for seed in seeds() {
        let mut nodes = seed_and(3, LINK);
        nodes[3].joins = Time::from_millis(20_000);
        finishes(&plan(nodes), seed);
    }
}

/// Pieces that were with a peer that left are handed out again at once: nobody waits for them.
#[test]
fn first_copies_that_left_with_a_peer_are_handed_out_again() {
    for seed in seeds() {
        let mut nodes = seed_and(3, LINK);
        // Two fast ones finish and leave; the slow one must not be held up by what they took with them.
        nodes[3].link.down = ByteRate(2_000_000);
        nodes[1].leaves_when_done = true;
        nodes[2].leaves_when_done = true;
        let report = finishes(&plan(nodes), seed);
        assert!(
            report.makespan_seconds() < 5.5,
            "{}\n{}",
            report.summary(),
            report.trace
        );
    }
}

/// A block that the only peer sits on goes to the web seed, not back to that peer.
#[test]
fn a_useless_peer_keeps_nothing_from_the_web_seed() {
    for seed in seeds() {
        let mut nodes = seed_and(1, LINK);
        nodes[0].conduct = Conduct::Stalls { after: 0 };
        nodes[1].servers = vec![0];
        let report = finishes(&plan(nodes), seed);
        assert!(report.makespan_seconds() < 30.0, "{}", report.summary());
    }
}
