//! Medians, and what the machine is.

use std::fs;

use crate::shell::first_line;

pub(crate) const MIB: f64 = 1_048_576.0;

/// The middle value, or the mean of the middle two; not a number when there are none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The smallest value that at least this share of all values does not exceed; not a number when there are none.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank among few values"
    )]
    let rank = (share * values.len() as f64).ceil() as usize;
    let last = values.len().saturating_sub(1);
    let at = rank.saturating_sub(1).min(last);
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// System and processors, for the report.
pub(crate) fn machine() -> Vec<(String, String)> {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let model = model.map_or("unknown", |(_, model)| model);
    vec![
        ("system".to_owned(), first_line("uname", &["-srm"])),
        ("processors".to_owned(), format!("{count} × {model}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_value() {
        assert!(median([]).is_nan());
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_percentile() {
        assert!(percentile([], 0.5).is_nan());
        let hundred = || (1..=100).map(f64::from);
        assert!((percentile(hundred(), 0.99) - 99.0).abs() < 1e-9);
        assert!((percentile([3.0, 1.0], 0.99) - 3.0).abs() < 1e-9);
        assert!((percentile([3.0, 1.0], 0.0) - 1.0).abs() < 1e-9);
    }
}
