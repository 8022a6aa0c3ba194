//! How amounts are written: `10GiB`, `300ms/1s`, `5000/10s`.

use std::fmt::Write as _;

use crate::meter::usage::Unit;

/// What is allowed: so much in all, or so much each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// How much, in the meter's unit.
    pub amount: u64,
    /// Each so many nanoseconds; none for in all.
    pub period_ns: Option<u64>,
}

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// It is not written as amounts are.
    #[error("`{text}` is no amount of {what}: write {want}")]
    Form {
        /// What was given.
        text: String,
        /// What it should be of.
        what: &'static str,
        /// How it is written.
        want: &'static str,
    },
    /// It is of another unit.
    #[error("`{text}` does not fit: the meter counts {unit}; write {want}")]
    Unit {
        /// What was given.
        text: String,
        /// What the meter counts.
        unit: &'static str,
        /// How it is written.
        want: &'static str,
    },
    /// It is too large.
    #[error("`{0}` is too large: at most 2^62 fits")]
    Large(String),
    /// It is a rate of nothing.
    #[error("`{0}` is no rate: nothing ever comes back; write 0 alone to allow nothing at all")]
    Zero(String),
    /// It is less than nothing.
    #[error("`{0}` is below 0; a limit is what is left to be used")]
    Negative(String),
}

const TIMES: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
const BYTES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const COUNTS: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
];
/// No amount is larger: sums of what is taken by it stay far from the end of 64 bits.
const MAX: u64 = 1 << 62;

struct Scale {
    suffixes: &'static [(&'static str, u64)],
    what: &'static str,
    want: &'static str,
}

fn scale(unit: Unit) -> Scale {
    match unit {
        Unit::Bytes => Scale {
            suffixes: BYTES,
            what: "bytes",
            want: "a number with B, KiB, MiB, GiB, TiB (1024) or kB, MB, GB, TB (1000), such as 10GiB",
        },
        Unit::Ns => Scale {
            suffixes: TIMES,
            what: "time",
            want: "a number with ns, us, ms, s, m, h or d, such as 300ms",
        },
        Unit::Count => Scale {
            suffixes: COUNTS,
            what: "occurrences",
            want: "a number, with k, M or G for 1000, 1000000, 1000000000",
        },
    }
}

/// A number with a suffix of `scale`, exactly.
fn number(text: &str, scale: &Scale) -> Result<u64, AmountError> {
    let form = || AmountError::Form {
        text: text.to_owned(),
        what: scale.what,
        want: scale.want,
    };
    if text.starts_with('-') {
        return Err(AmountError::Negative(text.to_owned()));
    }
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let factor = scale.suffixes.iter().find(|s| s.0 == suffix.trim());
    let Some((_, factor)) = factor else {
        let elsewhere = [TIMES, BYTES, COUNTS].concat();
        let has_suffix = !digits.is_empty() && !suffix.trim().is_empty();
        if has_suffix && elsewhere.iter().any(|s| s.0 == suffix.trim()) {
            return Err(AmountError::Unit {
                text: text.to_owned(),
                unit: scale.what,
                want: scale.want,
            });
        }
        return Err(form());
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: u128 = whole.parse().map_err(|_| form())?;
    if part.len() > 9 || !part.bytes().all(|b| b.is_ascii_digit()) || digits.ends_with('.') {
        return Err(form());
    }
    let tenths = 10u128.pow(part.len() as u32);
    let part: u128 = if part.is_empty() {
        0
    } else {
        part.parse().map_err(|_| form())?
    };
    let large = || AmountError::Large(text.to_owned());
    let total = whole
        .checked_mul(u128::from(*factor))
        .ok_or_else(large)?
        .checked_add(part * u128::from(*factor) / tenths)
        .ok_or_else(large)?;
    match u64::try_from(total) {
        Ok(total) if total <= MAX => Ok(total),
        _ => Err(large()),
    }
}

/// `AMOUNT` or `AMOUNT/PERIOD` of a value that counts `unit`.
///
/// # Errors
/// [`AmountError`].
pub fn parse(text: &str, unit: Unit) -> Result<Amount, AmountError> {
    let (amount, period) = match text.split_once('/') {
        Some((amount, period)) => (amount, Some(period)),
        None => (text, None),
    };
    let time = scale(Unit::Ns);
    let amount = Amount {
        amount: number(amount.trim(), &scale(unit))?,
        period_ns: period.map(|p| number(p.trim(), &time)).transpose()?,
    };
    // Nothing at all is a limit, but no rate.
    match amount.period_ns {
        Some(period) if period == 0 || amount.amount == 0 => {
            Err(AmountError::Zero(text.to_owned()))
        }
        _ => Ok(amount),
    }
}

/// `number` of `unit` as it would be written: exact where a suffix divides it, and shortened to three
/// digits otherwise.
#[must_use]
pub fn show(number: u64, unit: Unit) -> String {
    let all: &[(&str, u64)] = match unit {
        Unit::Bytes => &[
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ],
        Unit::Ns => &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)],
        Unit::Count => &[],
    };
    let base = match unit {
        Unit::Bytes => "B",
        Unit::Ns => "ns",
        Unit::Count => "",
    };
    match all.iter().find(|(_, factor)| number >= *factor) {
        Some((suffix, factor)) if number.is_multiple_of(*factor) => {
            format!("{}{suffix}", number / factor)
        }
        Some((suffix, factor)) => format!("{:.2}{suffix}", number as f64 / *factor as f64),
        None => format!("{number}{base}"),
    }
}

/// An amount as it would be written.
#[must_use]
pub fn show_amount(amount: Amount, unit: Unit) -> String {
    let mut text = show(amount.amount, unit);
    if let Some(period_ns) = amount.period_ns {
        // Writing to a String does not fail.
        let _ = write!(text, "/{}", show(period_ns, Unit::Ns));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read() {
        let of = |text, unit| parse(text, unit).map(|a| (a.amount, a.period_ns));
        assert_eq!(of("10GiB", Unit::Bytes), Ok((10 << 30, None)));
        assert_eq!(
            of("1.5MiB/2s", Unit::Bytes),
            Ok((3 << 19, Some(2_000_000_000)))
        );
        assert_eq!(
            of("300ms/1s", Unit::Ns),
            Ok((300_000_000, Some(1_000_000_000)))
        );
        assert_eq!(of("5k", Unit::Count), Ok((5_000, None)));
        assert_eq!(of("4096", Unit::Bytes), Ok((4_096, None)));
    }

    #[test]
    fn what_is_no_amount_says_why() {
        let why = |text, unit| parse(text, unit).unwrap_err().to_string();
        assert!(why("10GiB", Unit::Ns).contains("does not fit: the meter counts time"));
        assert!(why("300ms", Unit::Bytes).contains("does not fit"));
        assert!(why("300", Unit::Ns).contains("is no amount of time"));
        assert!(why("-1", Unit::Count).contains("below 0"));
        assert_eq!(parse("0", Unit::Count).map(|a| a.amount), Ok(0));
        assert!(why("0/1s", Unit::Count).contains("no rate"));
        assert!(why("5/0s", Unit::Count).contains("no rate"));
        assert!(why("9999999999GiB", Unit::Bytes).contains("too large"));
        assert!(why("", Unit::Count).contains("is no amount"));
        assert!(why("1/", Unit::Count).contains("is no amount of time"));
        assert!(why("1..2GiB", Unit::Bytes).contains("is no amount"));
    }

    #[test]
    fn what_is_shown_reads_back() {
        for (text, unit) in [
            ("10GiB", Unit::Bytes),
            ("300ms/1s", Unit::Ns),
            ("7", Unit::Count),
        ] {
            assert_eq!(show_amount(parse(text, unit).unwrap(), unit), text);
        }
    }
}
