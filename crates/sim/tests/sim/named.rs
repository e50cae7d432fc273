//! Every scenario that `cargo xtask sim` knows by name, but those of hundreds of nodes: how near it comes to its bound. The
//! floors are a few percent below what was seen with twenty seeds, so that a change that costs more shows here.

use floodway_sim::scenarios;

use crate::{finishes, seeds};

/// Runs the scenario with a few seeds; each must have this efficiency at least, and leave the sources no more copies than this.
fn near(name: &str, efficiency: f64, copies: f64) {
    let plan = scenarios::named(name).unwrap();
    for seed in seeds().take(2) {
        let report = finishes(&plan, seed);
        assert!(
            report.efficiency() > efficiency && report.source_copies() < copies,
            "{}",
            report.summary()
        );
    }
}

#[test]
fn every_small_scenario_is_here() {
    let here = include_str!("named.rs");
    for (name, _) in scenarios::ALL {
        let small = scenarios::named(name).unwrap().nodes.len() <= 32;
        let called = here.contains(&format!("near(\"{name}\""));
        assert_eq!(called, small, "{name}");
    }
}

#[test]
fn an_origin_as_fast_as_each_client() {
    near("s1", 0.96, 1.08);
    near("s1-stock", 0.95, 1.1);
}

#[test]
fn an_origin_half_as_fast_as_each_client() {
    near("s2", 0.96, 1.08);
}

#[test]
fn an_origin_half_as_fast_as_each_stock_client() {
    near("s2-stock", 0.95, 1.12);
}

#[test]
fn slow_uploads() {
    near("s3", 0.97, 8.0);
}

#[test]
fn slow_uploads_of_stock_clients() {
    near("s3-stock", 0.96, 8.0);
}

#[test]
fn distance_and_loss() {
    near("rtt60", 0.88, 1.3);
    near("rtt60-stock", 0.84, 2.0);
}

#[test]
fn arrivals_one_after_the_other() {
    near("staggered", 0.94, 2.5);
}

#[test]
fn departures_and_vanishing() {
    near("churn", 0.87, 1.6);
}

#[test]
fn unequal_links() {
    near("unequal", 0.97, 3.2);
    near("one-fast", 0.94, 3.5);
}

#[test]
fn half_of_them_behind_nat() {
    near("nat", 0.92, 1.2);
    near("nat-late", 0.97, 1.2);
}
