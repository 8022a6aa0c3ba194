//! How fast a bucket refills, in arithmetic that a program can do.

/// The most that a bucket may be refilled with in [`TEN_YEARS_NS`].
pub const MOST: u64 = 1 << 62;
/// For how long a bucket is sure to count right.
pub const TEN_YEARS_NS: u64 = 10 * 366 * 24 * 3_600 * 1_000_000_000;

/// The widest shift that a program can do.
const WIDEST: u32 = 63;

/// So much in each period.
///
/// The part of a period is multiplied and shifted, since a division costs more and the product of
/// time and amount does not fit a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// What comes in a period.
    pub amount: u64,
    /// The period, in nanoseconds.
    pub period_ns: u64,
    /// What a nanosecond brings, shifted to the left.
    pub mult: u64,
    /// By how much it is shifted.
    pub shift: u32,
}

/// Why there is no such rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// A period of no time.
    #[error("the period of a rate is not 0")]
    NoPeriod,
    /// Nothing ever comes.
    #[error("the amount of a rate is not 0")]
    NoAmount,
    /// It would count beyond a word.
    #[error("{amount} each {period_ns} ns is too much to count for ten years")]
    TooFast {
        /// As given.
        amount: u64,
        /// As given.
        period_ns: u64,
    },
}

impl Rate {
    /// So much in each period.
    ///
    /// # Errors
    /// See [`RateError`].
    pub fn new(amount: u64, period_ns: u64) -> Result<Self, RateError> {
        if period_ns == 0 {
            return Err(RateError::NoPeriod);
        }
        if amount == 0 {
            return Err(RateError::NoAmount);
        }
        let too_fast = RateError::TooFast { amount, period_ns };
        let total = u128::from(amount) * u128::from(TEN_YEARS_NS) / u128::from(period_ns);
        if total > u128::from(MOST) || amount > MOST {
            return Err(too_fast);
        }
        // The widest shift whose product fits: the last nanosecond of a period has the largest.
        let (mult, shift) = (0..=WIDEST)
            .rev()
            .find_map(|shift| {
                let mult = (u128::from(amount) << shift) / u128::from(period_ns);
                let mult = u64::try_from(mult).ok()?;
                mult.checked_mul(period_ns - 1)?;
                Some((mult, shift))
            })
            .ok_or(too_fast)?;
        Ok(Self {
            amount,
            period_ns,
            mult,
            shift,
        })
    }

    /// What has come after so long.
    ///
    /// Never more than `elapsed * amount / period`; that exactly at whole periods, and between them
    /// less by at most [`Rate::error`]. It never falls, for as long as the total fits a word (ten
    /// years at least); then it wraps, as it does in a program.
    #[must_use]
    pub fn refilled(&self, elapsed_ns: u64) -> u64 {
        let whole = (elapsed_ns / self.period_ns).wrapping_mul(self.amount);
        let part = (elapsed_ns % self.period_ns).wrapping_mul(self.mult) >> self.shift;
        whole.wrapping_add(part)
    }

    /// By how much [`Rate::refilled`] may stay below `elapsed * amount / period`, rounded down:
    /// `1 + amount * period / 2^63`. That is 1 up to 9 thousand million a second or 2.5 million an
    /// hour; beyond, about 1 in 9 thousand million of the amount for each second of the period.
    #[must_use]
    pub fn error(&self) -> u64 {
        let beyond = (u128::from(self.amount) * u128::from(self.period_ns)) >> 63;
        u64::try_from(beyond).map_or(u64::MAX, |beyond| beyond.saturating_add(1))
    }

    /// The shortest time after which so much has come; `u64::MAX` if that is not to be lived.
    #[must_use]
    pub fn until(&self, much: u64) -> u64 {
        if much == 0 {
            return 0;
        }
        let whole = (much - 1) / self.amount;
        let rest = much - whole * self.amount;
        let part = (u128::from(rest) << self.shift)
            .checked_div(u128::from(self.mult).max(1))
            .map_or(0, |floor| {
                let short = floor * u128::from(self.mult) < u128::from(rest) << self.shift;
                floor + u128::from(short)
            })
            .min(u128::from(self.period_ns));
        let time = u128::from(whole) * u128::from(self.period_ns) + part;
        u64::try_from(time).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(rate: &Rate, elapsed: u64) -> u64 {
        let exact = u128::from(elapsed) * u128::from(rate.amount) / u128::from(rate.period_ns);
        u64::try_from(exact).unwrap()
    }

    /// Of any size up to `2^bits`, small ones as often as large ones.
    fn sized(bits: u32) -> impl Strategy<Value = u64> {
        (0..=bits).prop_flat_map(|bits| 1..=1u64 << bits)
    }

    fn rate() -> impl Strategy<Value = Rate> {
        (sized(62), sized(63)).prop_filter_map("too fast", |(amount, period)| {
            Rate::new(amount, period).ok()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            max_global_rejects: 1 << 20,
            ..ProptestConfig::with_cases(4_000)
        })]

        #[test]
        fn never_above_the_exact_and_below_by_no_more_than_stated(
            rate in rate(),
            elapsed in 0..=TEN_YEARS_NS,
        ) {
            let (is, exact) = (rate.refilled(elapsed), exact(&rate, elapsed));
            prop_assert!(is <= exact, "{is} > {exact}");
            prop_assert!(exact - is <= rate.error(), "{is}, {exact}, {}", rate.error());
        }

        #[test]
        fn no_product_passes_a_word(rate in rate()) {
            prop_assert!(rate.mult.checked_mul(rate.period_ns - 1).is_some());
            prop_assert!(rate.shift <= WIDEST);
            // The last moment of a period has no more than the period.
            prop_assert!(((rate.period_ns - 1) * rate.mult) >> rate.shift <= rate.amount);
        }

        #[test]
        fn it_never_falls(rate in rate(), elapsed in 0..TEN_YEARS_NS, more in sized(58)) {
            let later = (elapsed + more).min(TEN_YEARS_NS);
            prop_assert!(rate.refilled(elapsed) <= rate.refilled(elapsed + 1));
            prop_assert!(rate.refilled(elapsed) <= rate.refilled(later));
        }

        #[test]
        fn it_never_falls_over_the_end_of_a_period(rate in rate(), nth in any::<u64>()) {
            let periods = TEN_YEARS_NS / rate.period_ns;
            let end = (nth % (periods + 1)) * rate.period_ns;
            prop_assert!(rate.refilled(end.saturating_sub(1)) <= rate.refilled(end));
            prop_assert!(rate.refilled(end) <= rate.refilled(end + 1));
        }

        #[test]
        fn whole_periods_are_exact(rate in rate(), nth in any::<u64>()) {
            let periods = TEN_YEARS_NS / rate.period_ns;
            let whole = nth % (periods + 1);
            prop_assert_eq!(rate.refilled(whole * rate.period_ns), whole * rate.amount);
        }

        #[test]
        fn until_is_the_first_moment(rate in rate(), elapsed in 0..=TEN_YEARS_NS) {
            let much = rate.refilled(elapsed);
            let first = rate.until(much);
            prop_assert!(first <= elapsed);
            prop_assert_eq!(rate.refilled(first), much);
            if first > 0 {
                prop_assert!(rate.refilled(first - 1) < much);
            }
            let next = rate.until(much + 1);
            prop_assert!(next > elapsed);
            if next < u64::MAX && rate.period_ns < 1 << 62 {
                prop_assert!(rate.refilled(next) > much);
                prop_assert!(rate.refilled(next - 1) <= much);
            }
        }
    }

    #[test]
    fn usual_rates_are_exact_to_one() {
        let second = 1_000_000_000;
        for (amount, period) in [
            (1, second),
            (100, second),
            (1_000_000, second),
            (1, 86_400 * second),
            (1_000, 60 * second),
            (2_500_000, 3_600 * second),
            (3, 7),
        ] {
            let rate = Rate::new(amount, period).unwrap();
            assert_eq!(rate.error(), 1, "{amount}/{period}");
            assert_eq!(rate.refilled(period), amount);
            assert_eq!(rate.refilled(0), 0);
            let near = exact(&rate, period / 2);
            assert!(near - rate.refilled(period / 2) <= 1);
        }
        assert_eq!(Rate::new(1 << 30, second).unwrap().error(), 1);
        // The fastest that counts for ten years.
        assert_eq!(Rate::new(14_000_000_000, second).unwrap().error(), 2);
    }

    #[test]
    fn what_is_no_rate() {
        assert_eq!(Rate::new(1, 0), Err(RateError::NoPeriod));
        assert_eq!(Rate::new(0, 1), Err(RateError::NoAmount));
        let (amount, period_ns) = (15, 1);
        assert_eq!(
            Rate::new(amount, period_ns),
            Err(RateError::TooFast { amount, period_ns })
        );
        assert!(Rate::new(14, 1).is_ok());
        // What comes once in a life has to fit all the same.
        assert!(Rate::new(MOST, u64::MAX).is_ok());
        assert!(Rate::new(MOST + 1, u64::MAX).is_err());
    }
}
