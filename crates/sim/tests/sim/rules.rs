//! Each rule of the engine, shown by what becomes worse without it.
//!
//! A row of [`RULES`] plays one scenario with and without a rule and compares one figure, on the median of a few seeds.

use std::time::Duration;

use floodway_proto::{ByteRate, Layout, Time};
use floodway_sim::plan::{Conduct, Departure, Link, NodePlan, Plan, ServerFault};
use floodway_sim::{Report, run, scenarios};
use floodway_swarm::{Access, Order, Rule};

use crate::{LENGTH, LINK, finishes, never_small, plan, seed_and, seeds};

/// A rule, a scenario, and a figure that is smaller when all is well.
struct Row {
    rule: Rule,
    scenario: fn() -> Plan,
    figure: fn(&Report) -> f64,
    /// The figure without the rule is at least so many times the figure with it.
    worse: f64,
}

const fn row(rule: Rule, scenario: fn() -> Plan, figure: fn(&Report) -> f64, worse: f64) -> Row {
    Row {
        rule,
        scenario,
        figure,
        worse,
    }
}

const RULES: &[Row] = &[
    row(
        Rule::MeetInTheMiddle,
        a_slow_origin_without_ranges_before_a_seed,
        makespan,
        2.0,
    ),
    row(
        Rule::MeetInTheMiddle,
        an_origin_that_stalls_beside_a_seed,
        makespan,
        2.0,
    ),
    row(
        Rule::RequestsExpire,
        a_useless_seed_and_a_web_seed,
        makespan,
        2.0,
    ),
    row(Rule::EndGame, one_slow_seed_among_fast_ones, makespan, 1.2),
    row(Rule::DepthByRate, a_long_fast_path, makespan, 3.0),
    row(Rule::CatchUp, two_behind_nat_are_late, makespan, 1.04),
    row(
        Rule::SpreadFirstCopies,
        a_slow_relay,
        Report::source_copies,
        1.3,
    ),
    row(
        Rule::LittleInHand,
        a_fast_uplink_among_slow_ones,
        makespan,
        1.05,
    ),
    row(Rule::FurthestFirst, half_behind_nat, makespan, 1.15),
    row(Rule::OncePerSite, three_sites, most_copies_into_a_site, 1.5),
    row(Rule::WholePieces, several_seeds, first_piece, 1.3),
    row(Rule::TitForTat, free_riders, givers_over_takers, 1.1),
    row(Rule::Blame, a_liar_among_seeds, Report::wasted_copies, 2.0),
    row(
        Rule::NothingTwice,
        an_origin_that_breaks_off,
        origin_copies,
        1.02,
    ),
];

fn makespan(report: &Report) -> f64 {
    report.makespan_seconds().min(report.end.as_secs_f64())
}

fn most_copies_into_a_site(report: &Report) -> f64 {
    report
        .site_copies()
        .last()
        .copied()
        .unwrap_or(f64::INFINITY)
}

fn origin_copies(report: &Report) -> f64 {
    report.source_copies()
}

fn median(plan: &Plan, figure: fn(&Report) -> f64) -> f64 {
    let mut figures: Vec<_> = seeds()
        .take(9)
        .map(|seed| figure(&run(plan, seed)))
        .collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

#[test]
fn every_rule_pays() {
    let mut broken = String::new();
    for row in RULES {
        let mut plan = (row.scenario)();
        let with = median(&plan, row.figure);
        plan.without = Some(row.rule);
        let without = median(&plan, row.figure);
        let line = format!(
            "{:?}: {with:.3} with the rule, {without:.3} without\n",
            row.rule
        );
        print(&line);
        if without < with * row.worse {
            broken.push_str(&line);
        }
    }
    assert!(broken.is_empty(), "these rules do not pay:\n{broken}");
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --no-capture, and when the test fails"
)]
fn print(line: &str) {
    print!("{line}");
}

/// Rule 1. A slow origin that can only be read as a whole is being read when a seed appears: the seed gives the rest. (Where
/// there are ranges a request is cut to its share as soon as a peer is there.)
fn a_slow_origin_without_ranges_before_a_seed() -> Plan {
    let mut plan = plan(seed_and(1, LINK));
    plan.servers[0].access = Access::OneGet;
    plan.servers[0].link.up = ByteRate(100_000);
    plan.nodes[0].joins = Time::from_millis(2_000);
    plan.nodes[1].servers = vec![0];
    plan
}

/// Rule 1, with ranges. The origin stalls: what it was asked for comes from the seed.
pub(crate) fn an_origin_that_stalls_beside_a_seed() -> Plan {
    let mut plan = plan(seed_and(1, LINK));
    plan.servers[0].faults = vec![ServerFault::Stalls {
        from: Time::from_millis(300),
        to: Time::from_millis(60_000),
    }];
    (plan.nodes[1].servers, plan.nodes[1].config) = (vec![0], never_small);
    plan
}

/// Rule 4. What a useless seed was asked for goes to the web seed.
fn a_useless_seed_and_a_web_seed() -> Plan {
    let mut plan = plan(seed_and(1, LINK));
    plan.nodes[0].conduct = Conduct::Stalls { after: 20 };
    plan.nodes[1].servers = vec![0];
    plan.until = Time::from_millis(60_000);
    plan
}

/// Rule 5. The last blocks are not left to the slowest of the seeds.
fn one_slow_seed_among_fast_ones() -> Plan {
    let mut plan = plan(vec![NodePlan::seed(LINK); 3]);
    plan.nodes[0].link.up = ByteRate(20_000);
    plan.nodes.push(NodePlan::new(LINK));
    plan
}

/// Rule 6. A round trip of 200 ms, 40 Mbit/s.
fn a_long_fast_path() -> Plan {
    plan(seed_and(
        1,
        Link {
            delay: Duration::from_millis(50),
            ..LINK
        },
    ))
}

/// Rule 6, who is behind. Two of four that can be dialled by nobody come later: whoever they know has all that they have.
fn two_behind_nat_are_late() -> Plan {
    scenarios::named("nat-late").unwrap()
}

/// Rule 7, by sites. Three of ten nodes each, and a relay elsewhere.
fn three_sites() -> Plan {
    let mut plan = plan(seed_and(30, LINK));
    for (at, node) in plan.nodes.iter_mut().enumerate() {
        node.site = u32::try_from(at % 3).unwrap();
    }
    plan.nodes[0].site = 3;
    plan
}

/// Who should bring a part to its site vanishes: others bring it.
#[test]
fn what_nobody_brings_to_a_site_comes_all_the_same() {
    for seed in seeds().take(9) {
        let mut plan = three_sites();
        for node in [1, 2, 3, 4, 5] {
            plan.nodes[node].leaves = Some(Time::from_millis(500));
            plan.nodes[node].departure = Departure::Silent;
        }
        let report = finishes(&plan, seed);
        assert!(report.makespan_seconds() < 30.0, "{}", report.summary());
    }
}

/// Rule 7. The source is the bottleneck.
fn a_slow_relay() -> Plan {
    let mut plan = plan(seed_and(8, LINK));
    plan.nodes[0].link.up = ByteRate(2_500_000);
    plan
}

/// Rule 9, seeds and own nodes. Half can be dialled by nobody, so those have fewer neighbours.
fn half_behind_nat() -> Plan {
    let mut plan = plan(seed_and(16, LINK));
    plan.layout = Layout::new(Some(8 * LENGTH), 64 * 1024).unwrap();
    for (at, node) in plan.nodes.iter_mut().enumerate().skip(1) {
        node.nat = at % 2 == 0;
    }
    plan
}

/// Little in hand before a full uplink. All depends on what the fast one has to give, and that is what the slow ones pass on to it
/// at once.
fn a_fast_uplink_among_slow_ones() -> Plan {
    let mut plan = plan(seed_and(13, LINK));
    plan.servers.clear();
    for node in &mut plan.nodes[1..13] {
        node.link.up = ByteRate(250_000);
    }
    plan.nodes[0].link.up = ByteRate(1_000_000);
    plan.nodes[13].link.up = ByteRate(12_500_000);
    plan
}

/// Rule 8, whole pieces. Pieces are completed one after the other, so that they can be passed on.
fn several_seeds() -> Plan {
    let mut plan = plan(vec![NodePlan::seed(LINK); 4]);
    plan.nodes.push(NodePlan::new(LINK));
    plan.nodes.iter_mut().for_each(|node| node.stock = true);
    plan
}

/// When the first piece was complete.
fn first_piece(report: &Report) -> f64 {
    let line = report.trace.lines().find(|line| line.contains("PieceDone"));
    let time = line.and_then(|line| line.split_once('s')?.0.parse().ok());
    time.unwrap_or(f64::INFINITY)
}

/// Rule 9. Stock nodes that give and stock nodes that do not, and a seed too slow for all.
fn free_riders() -> Plan {
    let up = ByteRate(50_000);
    let mut nodes = seed_and(16, Link { up, ..LINK });
    nodes[0].link.up = ByteRate(300_000);
    for (at, node) in nodes.iter_mut().enumerate() {
        node.stock = true;
        node.config = |config| config.upload_slots = 4;
        if at % 2 == 1 {
            node.config = |config| config.limits.up = ByteRate::ZERO;
        }
    }
    Plan {
        layout: Layout::new(Some(12 << 20), 128 << 10).unwrap(),
        until: Time::from_millis(3_000_000),
        ..plan(nodes)
    }
}

/// How long those that give took, of the time that those took who do not.
fn givers_over_takers(report: &Report) -> f64 {
    let mean = |rest: usize| {
        let times = report.done.iter().enumerate().skip(1);
        let times: Vec<_> = times
            .filter(|(at, _)| at % 2 == rest)
            .map(|(_, time)| time.unwrap_or(report.end).as_secs_f64())
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "a handful of nodes")]
        let count = times.len() as f64;
        times.iter().sum::<f64>() / count
    };
    mean(0) / mean(1)
}

/// Rule 10. One of three seeds lies about every third piece.
fn a_liar_among_seeds() -> Plan {
    let mut plan = plan(vec![NodePlan::seed(LINK); 3]);
    plan.nodes[1].conduct = Conduct::Lies { one_in: 3 };
    plan.nodes.push(NodePlan::new(LINK));
    plan
}

/// Rule 11. Answers that break off in the middle of pieces.
fn an_origin_that_breaks_off() -> Plan {
    let mut plan = plan(vec![NodePlan {
        servers: vec![0],
        ..NodePlan::new(LINK)
    }]);
    plan.servers[0].faults = vec![ServerFault::Breaks { after: 37 }];
    plan
}

/// Rule 2. Few, large requests: the default costs the origin a handful, small extents many.
#[test]
fn requests_to_an_origin_are_few_and_large() {
    let mut plan = an_origin_that_breaks_off();
    plan.servers[0].faults.clear();
    let requests = |plan: &Plan| run(plan, 1).expect_finished().http_requests[0];
    assert!(requests(&plan) <= 2);
    plan.nodes[0].config = |config| config.extent_max = 128 << 10;
    assert!(
        requests(&plan) >= 16,
        "the extent's length makes the difference"
    );
}

/// Rule 3. A refused reader comes back when it was told to, not before.
#[test]
fn retry_after_is_obeyed() {
    let mut plan = an_origin_that_breaks_off();
    let fault = |retry_after| ServerFault::Busy {
        from: Time::ZERO,
        to: Time::from_millis(10_000),
        retry_after,
    };
    plan.servers[0].faults = vec![fault(Duration::from_secs(5))];
    let requests = |plan: &Plan| run(plan, 1).expect_finished().http_requests[0];
    assert!(requests(&plan) <= 8);
    plan.servers[0].faults = vec![fault(Duration::from_millis(100))];
    assert!(requests(&plan) > 30, "the pause makes the difference");
}

/// Rule 8. A stock seed without haste: who asks for the rarest gets what can be passed on to the others.
#[test]
fn the_rarest_pieces_are_asked_for_first() {
    let copies = |config| {
        let mut plan = plan(seed_and(6, LINK));
        for node in &mut plan.nodes {
            (node.stock, node.config) = (true, config);
        }
        plan.nodes[0].link.up = ByteRate(1_000_000);
        median(&plan, Report::source_copies)
    };
    let rarest = copies(|config| config.order = Order::RarestFirst);
    let in_order = copies(|config| config.order = Order::Sequential);
    assert!(
        rarest * 2.0 < in_order,
        "copies that left the seed: {rarest} rarest first, {in_order} in order"
    );
}

/// Rule 12. Without the rule the oracle complains: HTTP is switched on and nobody is told why.
#[test]
#[should_panic(expected = "without having given a reason")]
fn a_change_of_mode_without_its_reason_is_noticed() {
    let mut plan = an_origin_that_breaks_off();
    plan.without = Some(Rule::Reasons);
    run(&plan, 0);
}
