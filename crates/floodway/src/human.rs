//! Figures and tables for people.

use std::fmt::Display;
use std::time::Duration;

/// How many there are, if that is known.
pub(crate) fn count(count: Option<u32>) -> String {
    count.map_or_else(|| "nobody knows how many".into(), |count| count.to_string())
}

/// `117.7MiB`: three or four digits, in binary units.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// `117.7MiB/s`.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// `5s`, `3m 20s`, `2h 5m`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// `part` of `whole` in percent, rounded; 100 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 100;
    }
    let rounded = (u128::from(part) * 200 / u128::from(whole)).div_ceil(2);
    u64::try_from(rounded).unwrap_or(u64::MAX)
}

/// `P2P 71% · relay 24% · origin 5%`: where kept bytes came from; empty when there are none.
pub(crate) fn sources(peer: u64, relay: u64, origin: u64) -> String {
    let whole = peer + relay + origin;
    if whole == 0 {
        return String::new();
    }
    [("P2P", peer), ("relay", relay), ("origin", origin)]
        .iter()
        .map(|(name, part)| format!("{name} {}%", percent(*part, whole)))
        .collect::<Vec<_>>()
        .join(" · ")
}

/// `written_like_this` for enums of the API.
pub(crate) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => format!("{other:?}"),
    }
}

/// Text in columns, for people.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|text| text.to_uppercase()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: &[&dyn Display]) {
        self.rows.push(
            cells
                .iter()
                .map(|cell| printable(&cell.to_string()))
                .collect(),
        );
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let end = if index + 1 < self.rows.len() {
                "\n"
            } else {
                ""
            };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// What others wrote must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1024), "1.0KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0MiB");
        assert_eq!(bytes(u64::MAX), "16384.0PiB");
        assert_eq!(duration(Duration::from_secs(3725)), "1h 2m");
        assert_eq!((percent(1, 3), percent(2, 3), percent(0, 0)), (33, 67, 100));
        assert_eq!(sources(71, 24, 5), "P2P 71% · relay 24% · origin 5%");
    }

    #[test]
    fn tables_line_up_and_are_safe_to_print() {
        let mut table = Table::new(&["node", "state"]);
        table.row(&[&"a\x1b[2J", &"ok"]);
        assert_eq!(table.to_string(), "NODE   STATE\na\u{fffd}[2J  ok");
    }
}
