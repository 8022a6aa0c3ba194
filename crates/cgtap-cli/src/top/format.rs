//! Numbers as people read them, in a few characters.

use cgtap::meter::usage::{Form, Unit};

use super::column::Column;

const BYTES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const COUNTS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
/// Names of times, and how many nanoseconds each has.
const TIMES: [(&str, f64); 7] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("min", 60e9),
    ("h", 3600e9),
    ("d", 86400e9),
];

/// The number that stands in a column.
pub fn shown(column: &Column, number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) if column.form == Form::Gauge => amount(column.unit, number),
        Some(number) => rate(column.unit, number),
    }
}

/// So much of `unit`.
pub fn amount(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Bytes => scaled(number, 1024.0, &BYTES, 0),
        Unit::Count => scaled(number, 1000.0, &COUNTS, 0),
        Unit::Ns => time(number),
    }
}

/// So much of `unit` a second; time as a part of one CPU or device.
pub fn rate(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Bytes => scaled(number, 1024.0, &BYTES, 0),
        Unit::Count => scaled(number, 1000.0, &COUNTS, 1),
        Unit::Ns => format!("{:.1}%", number / 1e7),
    }
}

/// A rate with its unit, where no head says it.
pub fn full_rate(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Ns => rate(unit, number),
        _ => rate(unit, number) + "/s",
    }
}

fn scaled(number: f64, step: f64, names: &[&str], smallest_digits: usize) -> String {
    let mut number = number;
    let mut name = 0;
    // What would be rounded up to a whole step belongs to the next name.
    while number >= step - 0.05 && name + 1 < names.len() {
        number /= step;
        name += 1;
    }
    let digits = match name {
        0 if number >= 100.0 || number == 0.0 => 0,
        0 => smallest_digits,
        _ => 1,
    };
    format!("{number:.digits$}{}", names[name])
}

fn time(ns: f64) -> String {
    let place = TIMES.iter().rposition(|(_, size)| ns >= *size);
    let (name, size) = TIMES[place.unwrap_or(0)];
    let digits = usize::from(size > 1.0);
    format!("{:.digits$}{name}", ns / size)
}

/// The bounds of bucket `n` of a histogram.
pub fn bounds(unit: Unit, n: usize) -> (String, String) {
    let from = if n == 0 { 0.0 } else { power(n) };
    (amount(unit, from), amount(unit, power(n + 1)))
}

fn power(n: usize) -> f64 {
    2_f64.powi(i32::try_from(n).unwrap_or(i32::MAX))
}

/// The upper bound of the bucket in which the part `part` of all numbers is reached.
pub fn quantile(unit: Unit, buckets: &[u64], part: f64) -> Option<String> {
    let all: u64 = buckets.iter().fold(0, |sum, n| sum.saturating_add(*n));
    let wanted = (all as f64 * part).ceil().max(1.0);
    let mut sum = 0.0;
    let n = buckets.iter().position(|count| {
        sum += *count as f64;
        sum >= wanted
    })?;
    Some(bounds(unit, n).1)
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 8] = ['_', '.', ',', '-', '~', '=', '*', '#'];

/// The last `width` of `points` as bars; the highest is as high as can be.
pub fn sparkline(points: &[f32], width: usize, unicode: bool) -> String {
    let points = &points[points.len().saturating_sub(width)..];
    let most = points.iter().copied().fold(0.0, f32::max);
    let bars = if unicode { BARS } else { ASCII_BARS };
    let bar = |point: &f32| {
        if *point <= 0.0 || most <= 0.0 {
            return ' ';
        }
        let step = (f64::from(*point) / f64::from(most) * 7.0).round();
        bars.get(step as usize).copied().unwrap_or(bars[0])
    };
    points.iter().map(bar).collect()
}

/// A bar as long as `number` is of `most`, at the most `width`.
pub fn bar(number: u64, most: u64, width: usize, unicode: bool) -> String {
    let length = number as f64 / most.max(1) as f64 * width as f64;
    let least = usize::from(number > 0);
    let length = (length.round() as usize).max(least).min(width);
    if unicode { "█" } else { "#" }.repeat(length)
}

/// A whole number with a comma between its thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short_and_in_the_units_of_people() {
        for (unit, number, text) in [
            (Unit::Bytes, 0.0, "0B"),
            (Unit::Bytes, 512.4, "512B"),
            (Unit::Bytes, 1023.96, "1.0KiB"),
            (Unit::Bytes, 1.5 * 1048576.0, "1.5MiB"),
            (Unit::Ns, 1.5e9, "150.0%"),
            (Unit::Ns, 1e6, "0.1%"),
            (Unit::Count, 0.5, "0.5"),
            (Unit::Count, 123.4, "123"),
            (Unit::Count, 12_345.0, "12.3k"),
            (Unit::Count, 999_960.0, "1.0M"),
        ] {
            assert_eq!(rate(unit, number), text, "{unit} {number}");
        }
        assert_eq!(full_rate(Unit::Bytes, 2048.0), "2.0KiB/s");
        assert_eq!(full_rate(Unit::Ns, 2e9), "200.0%");
    }

    #[test]
    fn amounts_are_whole_where_they_are_small() {
        for (unit, number, text) in [
            (Unit::Count, 7.0, "7"),
            (Unit::Count, 1e30, "1000000000000.0E"),
            (Unit::Ns, 999.0, "999ns"),
            (Unit::Ns, 16384.0, "16.4us"),
            (Unit::Ns, 90e9, "1.5min"),
            (Unit::Bytes, u64::MAX as f64, "16.0EiB"),
        ] {
            assert_eq!(amount(unit, number), text, "{unit} {number}");
        }
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123_456), "123,456");
    }

    #[test]
    fn bounds_of_buckets_are_readable() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(bounds(Unit::Ns, 0), pair("0ns", "2ns"));
        assert_eq!(bounds(Unit::Ns, 20), pair("1.0ms", "2.1ms"));
        assert_eq!(bounds(Unit::Bytes, 12), pair("4.0KiB", "8.0KiB"));
        assert_eq!(bounds(Unit::Bytes, 63).1, "16.0EiB");
        let buckets = [0, 50, 49, 1];
        assert_eq!(quantile(Unit::Count, &buckets, 0.5).unwrap(), "4");
        assert_eq!(quantile(Unit::Count, &buckets, 0.99).unwrap(), "8");
        assert_eq!(quantile(Unit::Count, &buckets, 1.0).unwrap(), "16");
        assert_eq!(quantile(Unit::Count, &[0, 0], 0.5), None);
    }

    #[test]
    fn sparklines_have_their_highest_point_at_the_top() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 4.0], 9, true), " ▃▅█");
        assert_eq!(sparkline(&[9.0, 0.0, 1.0], 2, false), " #");
        assert_eq!(sparkline(&[], 5, true), "");
        assert_eq!(bar(1, 1000, 10, false), "#");
        assert_eq!(bar(500, 1000, 10, true), "█████");
        assert_eq!(bar(0, 0, 10, true), "");
    }
}
