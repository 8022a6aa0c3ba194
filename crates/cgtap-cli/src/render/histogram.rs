//! Numbers by their size.

use super::{Cell, Column, Look, Table};

/// Width of the longest bar.
const BAR: u64 = 40;

/// A bound as people read it: a power of two, or of nanoseconds the time that it is.
fn bound(power: usize, is_time: bool) -> String {
    let value = 1u128 << power;
    if power == 0 {
        return "0".to_owned();
    }
    if is_time {
        let (unit, per) = [
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ]
        .into_iter()
        .find(|(_, per)| value >= *per)
        .unwrap_or(("ns", 1));
        return if value / per < 10 && per > 1 {
            format!("{:.2} {unit}", value as f64 / per as f64)
        } else {
            format!("{} {unit}", value / per)
        };
    }
    let (suffix, shift) = [
        ("E", 60),
        ("P", 50),
        ("T", 40),
        ("G", 30),
        ("M", 20),
        ("K", 10),
        ("", 0),
    ]
    .into_iter()
    .find(|(_, shift)| power >= *shift)
    .unwrap_or(("", 0));
    format!("{}{suffix}", value >> shift)
}

/// A row a bucket, from the first to the last that has something.
pub fn histogram(title: &str, buckets: &[u64], is_time: bool, look: &Look) -> String {
    let first = buckets.iter().position(|n| *n > 0).unwrap_or(0);
    let most = buckets.iter().copied().max().unwrap_or(0).max(1);
    let mut table = Table::new(vec![
        Column::numbers("FROM"),
        Column::numbers("BELOW"),
        Column::numbers("COUNT"),
        Column::words(""),
    ]);
    for (power, count) in buckets.iter().enumerate().skip(first) {
        let width = u128::from(*count) * u128::from(BAR) / u128::from(most);
        let bar = "#".repeat(usize::try_from(width).unwrap_or(0));
        let cells: [Cell; 4] = [
            bound(power, is_time).into(),
            bound(power + 1, is_time).into(),
            count.into(),
            bar.into(),
        ];
        table.push(cells.into());
    }
    format!("\n{title}\n{}", table.render(look))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_bounds_and_bars() {
        let text = histogram("x", &[0, 0, 4, 8], false, &Look::of_file());
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[3].trim().starts_with("4") && lines[3].ends_with(&"#".repeat(20)));
        assert!(lines[4].trim().starts_with("8") && lines[4].ends_with(&"#".repeat(40)));
    }

    #[test]
    fn bounds_are_read_by_people() {
        assert_eq!(bound(0, false), "0");
        assert_eq!(bound(17, false), "128K");
        assert_eq!(bound(20, true), "1.05 ms");
        assert_eq!(bound(24, true), "16 ms");
        assert_eq!(bound(9, true), "512 ns");
        assert_eq!(bound(64, false), "16E");
    }
}
