//! Links, disks, servers, control and peers that do not do as they should.

use std::time::Duration;

use floodway_proto::{ByteRate, Time};
use floodway_sim::plan::{Conduct, Departure, Disk, Link, NodePlan, Plan, ServerFault, ServerPlan};
use floodway_swarm::{Access, SourceClass};

use crate::rules::an_origin_that_stalls_beside_a_seed;
use crate::{LENGTH, LINK, finishes, never_small, origin_bytes, plan, seed_and, seeds};

const fn ms(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// One node that reads the origin, which has these faults.
fn alone_with(faults: Vec<ServerFault>) -> Plan {
    let mut plan = plan(vec![NodePlan {
        servers: vec![0],
        ..NodePlan::new(LINK)
    }]);
    plan.servers[0].faults = faults;
    plan
}

#[test]
fn a_short_buffer_before_the_downlink_loses_packets_and_holds_nobody_up() {
    for seed in seeds() {
        let buffer = Some(Duration::from_millis(30));
        let plan = plan(seed_and(6, Link { buffer, ..LINK }));
        let report = finishes(&plan, seed);
        assert!(report.dropped > 0, "seed {seed}: nothing was lost");
        assert!(report.makespan_seconds() < 6.0, "{}", report.summary());
    }
}

#[test]
fn jitter_and_loss_over_a_long_path() {
    for seed in seeds() {
        let far = Link {
            delay: Duration::from_millis(60),
            jitter: Duration::from_millis(30),
            loss: 0.005,
            ..LINK
        };
        finishes(&plan(seed_and(4, far)), seed);
    }
}

#[test]
fn nodes_behind_nat_dial_the_others() {
    for seed in seeds() {
        let mut nodes = seed_and(6, LINK);
        nodes[2..5].iter_mut().for_each(|node| node.nat = true);
        finishes(&plan(nodes), seed);
    }
}

#[test]
fn a_slow_disk_and_a_full_one_are_waited_for() {
    for seed in seeds() {
        let mut nodes = seed_and(4, LINK);
        nodes[1].disk.per_piece = Duration::from_millis(60);
        nodes[2].disk = Disk {
            full: Some((ms(500), ms(4000))),
            ..Disk::default()
        };
        let report = finishes(&plan(nodes), seed);
        assert!(report.done[2].unwrap() > ms(4000), "{}", report.trace);
    }
}

#[test]
fn an_origin_that_is_busy_for_a_while_is_read_later_and_once() {
    for seed in seeds() {
        let plan = alone_with(vec![ServerFault::Busy {
            from: ms(0),
            to: ms(3000),
            retry_after: Duration::from_secs(2),
        }]);
        let report = finishes(&plan, seed);
        assert_eq!(origin_bytes(&report), LENGTH, "{}", report.trace);
        let requests = report.http_requests[0];
        assert!(requests <= 8, "seed {seed}: {requests} requests");
    }
}

#[test]
fn an_origin_that_stalls_is_waited_for() {
    for seed in seeds() {
        let (from, to) = (ms(200), ms(2500));
        finishes(&alone_with(vec![ServerFault::Stalls { from, to }]), seed);
    }
}

#[test]
fn an_object_that_changes_midway_is_left_to_the_peers() {
    for seed in seeds() {
        let mut plan = alone_with(vec![ServerFault::Changed { from: ms(300) }]);
        plan.nodes[0].config = |config| {
            never_small(config);
            config.extent_max = 256 << 10;
        };
        plan.nodes.push(NodePlan {
            joins: ms(5000),
            ..NodePlan::seed(LINK)
        });
        let report = finishes(&plan, seed);
        assert!(report.curve.last().unwrap().1.origins > 0);
        assert!(report.done[0].unwrap() > ms(5000), "{}", report.trace);
    }
}

#[test]
fn an_origin_that_serves_few_at_once_is_not_stormed() {
    for seed in seeds() {
        let node = NodePlan {
            servers: vec![0],
            config: never_small,
            ..NodePlan::new(LINK)
        };
        let mut plan = plan(vec![node; 6]);
        plan.servers[0].connections_max = 2;
        let report = finishes(&plan, seed);
        let requests = report.http_requests[0];
        assert!(requests < 400, "seed {seed}: {requests} requests");
    }
}

#[test]
fn a_server_without_ranges_is_read_once_as_a_whole() {
    for seed in seeds() {
        let mut plan = alone_with(Vec::new());
        plan.servers[0].access = Access::OneGet;
        let report = finishes(&plan, seed);
        assert_eq!(
            (origin_bytes(&report), report.http_requests[0]),
            (LENGTH, 1)
        );
    }
}

#[test]
fn a_lying_relay_is_dropped_and_the_origin_serves() {
    for seed in seeds() {
        let mut plan = alone_with(Vec::new());
        plan.servers.push(ServerPlan {
            class: SourceClass::Relay,
            faults: vec![ServerFault::Lies { one_in: 3 }],
            ..ServerPlan::origin(LINK)
        });
        plan.nodes[0].servers = vec![0, 1];
        let report = finishes(&plan, seed);
        assert!(report.trace.contains("SourceDropped"), "{}", report.trace);
    }
}

#[test]
fn a_relay_on_a_seeds_host_shares_its_uplink() {
    for seed in seeds() {
        let mut plan = plan(seed_and(3, LINK));
        plan.servers[0].class = SourceClass::Relay;
        plan.servers[0].with_node = Some(0);
        plan.nodes[0].link.up = ByteRate(1_000_000);
        for node in &mut plan.nodes[1..] {
            (node.servers, node.config) = (vec![0], never_small);
        }
        let report = finishes(&plan, seed);
        let shares = report.curve.last().unwrap().1;
        assert!(shares.seeds > 0 && shares.relays > 0, "{}", report.replay());
        let both = shares.seeds + shares.relays;
        assert!(report.host_sent[0] >= both, "{}", report.replay());
        // One megabyte a second, by whichever way.
        let most = report.end.since(Time::ZERO).as_millis() * 1000;
        assert!(
            u128::from(both) <= most,
            "{both} bytes: {}",
            report.summary()
        );
    }
}

/// Its last pieces are with peers, so nobody waits until it goes on.
#[test]
fn a_server_that_stalls_holds_nothing_back_that_peers_have() {
    for access in [Access::Ranges, Access::OneGet] {
        for seed in seeds() {
            let mut plan = an_origin_that_stalls_beside_a_seed();
            plan.servers[0].access = access;
            let report = finishes(&plan, seed);
            assert!(report.makespan_seconds() < 6.0, "{}", report.summary());
        }
    }
}

/// While a slow seed gives the rest: the server has trouble enough.
#[test]
fn a_server_that_stalls_again_and_again_is_asked_less_and_less_often() {
    for seed in seeds().take(20) {
        let mut plan = an_origin_that_stalls_beside_a_seed();
        plan.nodes[0].link.up = ByteRate(50_000);
        let report = finishes(&plan, seed);
        let requests = report.http_requests[0];
        assert!(report.makespan_seconds() > 50.0, "{}", report.summary());
        assert!(requests <= 8, "{requests} requests, {}", report.summary());
    }
}

#[test]
fn an_outage_of_control_ends() {
    for seed in seeds() {
        let mut plan = plan(seed_and(4, LINK));
        plan.control.outage = Some((ms(0), ms(8000)));
        plan.control.delay = Duration::from_millis(200);
        let report = finishes(&plan, seed);
        assert!(report.done[1].unwrap() > ms(8000));
        assert!(
            report.makespan_seconds() < 20.0,
            "{}\n{}",
            report.summary(),
            report.trace
        );
    }
}

#[test]
fn a_peer_that_stops_midway_holds_nobody_up() {
    for seed in seeds() {
        let mut nodes = seed_and(4, LINK);
        nodes[1].seed = true;
        nodes[1].conduct = Conduct::Stalls { after: 40 };
        let report = finishes(&plan(nodes), seed);
        assert!(report.makespan_seconds() < 15.0, "{}", report.summary());
    }
}

#[test]
fn peers_that_vanish_without_a_word_hold_nobody_up() {
    for seed in seeds() {
        let mut nodes = seed_and(8, LINK);
        for (at, node) in nodes.iter_mut().enumerate().skip(1).step_by(3) {
            node.leaves = Some(ms(700 + 100 * at as u64));
            node.departure = Departure::Silent;
        }
        let report = finishes(&plan(nodes), seed);
        // Not before the 60 s after which their connections break.
        assert!(
            report.makespan_seconds() < 20.0,
            "{}\n{}",
            report.summary(),
            report.trace
        );
    }
}

#[test]
fn joins_and_departures_all_along() {
    for seed in seeds() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut nodes = seed_and(8, LINK);
        for node in &mut nodes[1..] {
            node.joins = ms(rng.u64(..6000));
            node.leaves_when_done = rng.u8(..3) == 0;
            node.leaves = (rng.u8(..5) == 0).then(|| node.joins + Duration::from_millis(900));
            node.stock = rng.u8(..4) == 0;
            node.link.up = ByteRate([500_000, 5_000_000, 10_000_000][rng.usize(..3)]);
        }
        finishes(&plan(nodes), seed);
    }
}

#[test]
fn what_comes_into_each_site_is_counted() {
    for seed in seeds().take(20) {
        let mut nodes = seed_and(12, LINK);
        for (at, node) in nodes.iter_mut().enumerate() {
            node.site = u32::try_from(at % 3).unwrap();
        }
        let report = finishes(&plan(nodes), seed);
        let shares = report.curve.last().unwrap().1;
        let injected: u64 = report.sites.iter().map(|site| site.injected).sum();
        assert_eq!(injected, shares.seeds, "seed {seed}");
        assert!(
            report
                .sites
                .iter()
                .all(|site| site.injected + site.crossing >= LENGTH)
        );
    }
}
