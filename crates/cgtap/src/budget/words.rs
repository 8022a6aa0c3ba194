//! A budget: where its words lie, and what they mean.
//!
//! Programs change the words, one atomic step at a time; [`Budget`] says the same in plain
//! arithmetic, for what explains and shows them.

use super::rate::Rate;

/// Words of a budget, 64 bits each.
pub const WORDS: usize = 16;
/// Bytes of a budget: two lines of a cache.
pub const BYTES: usize = WORDS * 8;
/// Budgets of a state that commands give to limits.
pub const NAMED: usize = 4_096;
/// Budgets of a state, with those that cgroups are given as they are made ([`super::places`]).
pub const BUDGETS: usize = NAMED + super::places::PLACES;
/// Bytes of all budgets of a state.
pub const ALL_BYTES: u32 = (BUDGETS * BYTES) as u32;

/// Which word is what.
pub mod word {
    /// What is taken, that which is being tried and may be given back included.
    pub const TAKEN: usize = 0;
    /// What of [`TAKEN`] is certain. Only a bucket keeps it.
    pub const DONE: usize = 1;
    /// What came when the bucket was full, and so is lost, without what was lent. Only a bucket has any.
    pub const LOST: usize = 2;
    /// The most of an absolute budget; the burst of a bucket.
    pub const CAP: usize = 3;
    /// The period of a bucket's rate, in nanoseconds; 0 for an absolute budget.
    pub const PERIOD_NS: usize = 4;
    /// What comes in a period.
    pub const AMOUNT: usize = 5;
    /// [`Rate::mult`](super::Rate::mult).
    pub const MULT: usize = 6;
    /// [`Rate::shift`](super::Rate::shift).
    pub const SHIFT: usize = 7;
    /// When a bucket began, full.
    pub const EPOCH_NS: usize = 8;
    /// How often it said no.
    pub const DENIED: usize = 9;
    /// To how much it said no.
    pub const DENIED_AMOUNT: usize = 10;
    /// When it first said no; 0 if it never did.
    pub const FIRST_DENIED_NS: usize = 11;
    /// When it last said no.
    pub const LAST_DENIED_NS: usize = 12;
    /// The index, plus 1, of the budget of the next limited cgroup above; 0 for none.
    pub const UP: usize = 13;
    /// See [`flag`](super::flag); above them, from bit [`VERDICT_SHIFT`](super::VERDICT_SHIFT) on,
    /// what becomes of an event that it refuses, for gates that find it on their way up.
    pub const FLAGS: usize = 14;
    /// The id of the limit.
    pub const LIMIT: usize = 15;
}

/// Where the verdict begins in [`word::FLAGS`]: an errno, a signal from
/// [`SIGNAL`](super::denial::SIGNAL) on, 0 if no event is refused.
pub const VERDICT_SHIFT: u32 = 32;

/// Bits of [`word::FLAGS`].
pub mod flag {
    /// It counts what it would have refused, and lets it through.
    pub const OBSERVE: u64 = 1;
    /// Its cgroup is frozen by whoever paces it.
    pub const FROZEN: u64 = 2;
}

/// What a budget's words say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// [`word::TAKEN`]; below 0 when more was given back than was seen to be taken.
    pub taken: i64,
    /// [`word::DONE`].
    pub done: i64,
    /// [`word::LOST`]; below 0 when more was lent.
    pub lost: i64,
    /// [`word::CAP`].
    pub cap: u64,
    /// How fast it refills; `None` for an absolute budget.
    pub rate: Option<Rate>,
    /// [`word::EPOCH_NS`].
    pub epoch_ns: u64,
}

impl Budget {
    /// From its words.
    #[must_use]
    pub fn of(words: &[u64; WORDS]) -> Self {
        let period_ns = words[word::PERIOD_NS];
        let rate = Rate {
            amount: words[word::AMOUNT],
            period_ns,
            mult: words[word::MULT],
            shift: u32::try_from(words[word::SHIFT] & 63).unwrap_or_default(),
        };
        Self {
            taken: words[word::TAKEN].cast_signed(),
            done: words[word::DONE].cast_signed(),
            lost: words[word::LOST].cast_signed(),
            cap: words[word::CAP],
            rate: (period_ns != 0 && rate.amount != 0).then_some(rate),
            epoch_ns: words[word::EPOCH_NS],
        }
    }

    /// Up to what [`Budget::taken`] may come at this time. For a bucket: all that came and its
    /// burst, without what is lost, and what a charge would find lost now.
    #[must_use]
    pub fn allowed(&self, now_ns: u64) -> i64 {
        let sum = match &self.rate {
            None => i128::from(self.cap),
            Some(rate) => {
                let refilled = i128::from(rate.refilled(now_ns.saturating_sub(self.epoch_ns)));
                let lost = i128::from(self.lost).max(refilled - i128::from(self.done));
                refilled + i128::from(self.cap) - lost
            }
        };
        narrow(sum)
    }

    /// What is left at this time; below 0 when it is in debt.
    #[must_use]
    pub fn left(&self, now_ns: u64) -> i64 {
        self.allowed(now_ns).saturating_sub(self.taken)
    }

    /// What [`Budget::lost`] has to be for a bucket to have something left that has `left`, which is a debt: it
    /// is lent that. No charge finds more lost than that, since in debt more was done than came.
    #[must_use]
    pub fn lent(&self, left: i64) -> i64 {
        self.lost.saturating_add(left).saturating_sub(1)
    }

    /// In how many nanoseconds something is left again, if nobody takes any: 0 if there is
    /// something now, `None` if time does not bring it.
    #[must_use]
    pub fn open_at(&self, now_ns: u64) -> Option<u64> {
        let left = self.left(now_ns);
        if left > 0 {
            return Some(0);
        }
        let rate = self.rate.as_ref()?;
        if self.cap == 0 {
            return None;
        }
        let elapsed = now_ns.saturating_sub(self.epoch_ns);
        let more = left.unsigned_abs().saturating_add(1);
        let at = rate.until(rate.refilled(elapsed).saturating_add(more));
        Some(at.saturating_sub(now_ns.saturating_sub(self.epoch_ns)))
    }
}

fn narrow(sum: i128) -> i64 {
    let end = if sum < 0 { i64::MIN } else { i64::MAX };
    i64::try_from(sum).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn bucket(amount: u64, cap: u64) -> Budget {
        Budget {
            taken: 0,
            done: 0,
            lost: 0,
            cap,
            rate: Some(Rate::new(amount, SECOND).unwrap()),
            epoch_ns: 5 * SECOND,
        }
    }

    /// A charge with nobody beside it, as a program does it.
    fn charge(budget: &mut Budget, n: i64, now: u64) -> bool {
        if let Some(rate) = &budget.rate {
            let refilled = rate.refilled(now - budget.epoch_ns).cast_signed();
            let want = refilled - budget.done;
            budget.lost = budget.lost.max(want);
        }
        if budget.taken + n > budget.allowed(now) {
            return false;
        }
        budget.taken += n;
        budget.done += n;
        true
    }

    #[test]
    fn the_words_say_what_they_say() {
        let rate = Rate::new(7, SECOND).unwrap();
        let mut words = [0; WORDS];
        words[word::TAKEN] = 3;
        words[word::DONE] = 2;
        words[word::LOST] = 1;
        words[word::CAP] = 9;
        words[word::EPOCH_NS] = 11;
        assert_eq!(Budget::of(&words).rate, None);
        words[word::PERIOD_NS] = rate.period_ns;
        words[word::AMOUNT] = rate.amount;
        words[word::MULT] = rate.mult;
        words[word::SHIFT] = u64::from(rate.shift);
        let budget = Budget {
            taken: 3,
            done: 2,
            lost: 1,
            cap: 9,
            rate: Some(rate),
            epoch_ns: 11,
        };
        assert_eq!(Budget::of(&words), budget);
        assert_eq!(BYTES, 128);
        // A gauge that was given back more than it saw taken.
        words[word::TAKEN] = (-4i64).cast_unsigned();
        words[word::PERIOD_NS] = 0;
        assert_eq!(Budget::of(&words).left(0), 13);
    }

    #[test]
    fn an_absolute_budget_has_what_is_not_taken() {
        let mut budget = Budget {
            rate: None,
            ..bucket(1, 10)
        };
        budget.taken = 7;
        assert_eq!((budget.allowed(0), budget.left(0)), (10, 3));
        assert_eq!(budget.open_at(0), Some(0));
        budget.taken = 12;
        assert_eq!((budget.left(0), budget.open_at(0)), (-2, None));
    }

    #[test]
    fn a_bucket_is_full_at_first_and_no_fuller_later() {
        let budget = bucket(10, 4);
        let begin = budget.epoch_ns;
        // A clock that is behind sees the beginning.
        for now in [0, begin, begin + SECOND, begin + 1_000 * SECOND] {
            assert_eq!(budget.left(now), 4);
            assert_eq!(budget.open_at(now), Some(0));
        }
    }

    #[test]
    fn debt_is_paid_by_time() {
        let mut budget = bucket(10, 4);
        let begin = budget.epoch_ns;
        budget.taken = 9;
        budget.done = 9;
        assert_eq!(budget.left(begin), -5);
        // Six have to come for one to be left; a part of a second is rounded down.
        assert_eq!(budget.open_at(begin), Some(SECOND * 6 / 10 + 1));
        assert_eq!(budget.left(begin + SECOND * 6 / 10 + 1), 1);
        assert_eq!(budget.left(begin + SECOND * 6 / 10), 0);
        assert_eq!(budget.left(begin + 100 * SECOND), 4);
    }

    proptest! {
        #[test]
        fn what_opens_is_open(
            amount in 1u64..1_000,
            cap in 1u64..50,
            taken in 0i64..10_000,
            elapsed in 0u64..20 * SECOND,
        ) {
            let mut budget = bucket(amount, cap);
            (budget.taken, budget.done) = (taken, taken);
            let now = budget.epoch_ns + elapsed;
            let wait = budget.open_at(now).unwrap();
            prop_assert!(budget.left(now + wait) > 0);
            if wait > 0 {
                prop_assert!(budget.left(now + wait - 1) <= 0);
            }
        }

        /// With nobody beside, a bucket is the one of the books: what is left refills and never
        /// passes the burst.
        #[test]
        fn charges_one_after_the_other_are_a_bucket(
            amount in 1u64..1_000,
            cap in 1u64..50,
            charges in proptest::collection::vec((0u64..200, 1i64..60), 0..60),
        ) {
            let mut budget = bucket(amount, cap);
            let rate = budget.rate.unwrap();
            let cap = cap.cast_signed();
            let (mut now, mut left, mut seen) = (budget.epoch_ns, cap, 0);
            for (wait_ms, n) in charges {
                now += wait_ms * 1_000_000;
                let refilled = rate.refilled(now - budget.epoch_ns).cast_signed();
                left = cap.min(left + refilled - seen);
                seen = refilled;
                prop_assert_eq!(budget.left(now), left);
                let fits = n <= left;
                prop_assert_eq!(charge(&mut budget, n, now), fits);
                left -= if fits { n } else { 0 };
            }
        }
    }

    #[test]
    fn whoever_is_lent_a_debt_again_and_again_goes_on() {
        let mut budget = bucket(100, 100);
        let mut now = 5 * SECOND;
        // Nine times what comes, for weeks.
        for _ in 0..1_000_000 {
            now += 2 * SECOND;
            budget.taken += 1_800;
            budget.done += 1_800;
            let left = budget.left(now);
            if left <= 0 {
                budget.lost = budget.lent(left);
                assert_eq!(budget.left(now), 1);
            }
        }
        // What comes from then on is as before.
        let left = budget.left(now);
        assert_eq!(budget.left(now + SECOND), left + 100 - 1);
        assert_eq!(budget.left(now + 60 * SECOND), 100);
    }
}
