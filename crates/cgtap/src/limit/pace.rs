//! When a cgroup is frozen, and when it is thawed again. No kernel, no clock.
//!
//! Nothing here has to know how long the steps are, of looks at budgets or of readings: what was used
//! meanwhile is a debt of the budget, and it is paid back before the cgroup goes on.

/// What has to have come back before a cgroup is thawed: as much as comes in so long.
const THAW_AFTER_NS: u64 = 20_000_000;

/// What has to be left before a cgroup is thawed, of a limit of so much in each period, or in all.
#[must_use]
pub fn enough(amount: u64, period_ns: Option<u64>, burst: u64) -> i64 {
    let Some(period_ns) = period_ns else {
        return 1;
    };
    let comes = u128::from(amount) * u128::from(THAW_AFTER_NS) / u128::from(period_ns.max(1));
    let most = u128::from(burst / 2);
    i64::try_from(comes.min(most).max(1)).unwrap_or(i64::MAX)
}

/// Whether a cgroup is to be frozen that has so much left, if it is frozen now or not.
#[must_use]
pub fn is_to_freeze(is_frozen: bool, left: i64, enough: i64) -> bool {
    match is_frozen {
        false => left <= 0,
        true => left < enough,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::rate::Rate;
    use crate::budget::words::Budget;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;
    const TICK_NS: u64 = 2 * MS;

    #[test]
    fn what_has_to_come_back_is_what_comes_in_a_moment() {
        assert_eq!(
            enough(300 * MS, Some(SECOND), 300 * MS),
            6 * MS.cast_signed()
        );
        assert_eq!(enough(300 * MS, Some(SECOND), 2 * MS), MS.cast_signed());
        assert_eq!(enough(1, Some(SECOND), 1), 1);
        assert_eq!(enough(300 * MS, None, 300 * MS), 1);
        assert_eq!(enough(u64::MAX, Some(1), u64::MAX), i64::MAX);
        assert!(is_to_freeze(false, 0, 6) && !is_to_freeze(false, 1, 6));
        assert!(is_to_freeze(true, 5, 6) && !is_to_freeze(true, 6, 6));
    }

    /// A charge of what was read, as the program does it: what came since the reading before is lost only
    /// where that was not used.
    fn post(budget: &mut Budget, amount: i64, now_ns: u64) {
        budget.taken += amount;
        budget.done += amount;
        if let Some(rate) = &budget.rate {
            let came = rate.refilled(now_ns - budget.epoch_ns).cast_signed();
            budget.lost = budget.lost.max(came - budget.done);
        }
    }

    /// Somebody who wants an engine all the time, held to a rate by being frozen.
    struct Course {
        amount: u64,
        burst: u64,
        /// How long between two readings, and how much longer each is late by turns.
        read_ns: u64,
        jitter_ns: u64,
        /// Work that the engine has been given and goes on with when its owner is frozen.
        queued_ns: u64,
    }

    /// What the engine worked, of the time that went by after the burst was used up.
    fn share(course: &Course, seconds: u64) -> f64 {
        let mut budget = Budget {
            taken: 0,
            done: 0,
            lost: 0,
            cap: course.burst,
            rate: Some(Rate::new(course.amount, SECOND).unwrap()),
            epoch_ns: 0,
        };
        let enough = enough(course.amount, Some(SECOND), course.burst);
        let (mut worked, mut charged, mut before) = (0_u64, 0_u64, 0_u64);
        let (mut is_frozen, mut queue, mut next_ns, mut turn) = (false, 0_u64, 0_u64, 0_u64);
        let warm_ns = 30 * SECOND;
        let end_ns = warm_ns + seconds * SECOND;
        let mut now_ns = 0;
        while now_ns < end_ns {
            if now_ns == warm_ns {
                before = worked;
            }
            if !is_frozen {
                queue = course.queued_ns.max(TICK_NS);
            }
            let step = queue.min(TICK_NS);
            worked += step;
            queue -= step;
            now_ns += TICK_NS;
            if now_ns >= next_ns {
                turn += 1;
                next_ns = now_ns + course.read_ns + (turn * 7 % 5) * course.jitter_ns / 4;
                post(&mut budget, (worked - charged).cast_signed(), now_ns);
                charged = worked;
            }
            is_frozen = is_to_freeze(is_frozen, budget.left(now_ns), enough);
        }
        (worked - before) as f64 / (end_ns - warm_ns) as f64
    }

    #[test]
    fn coarse_readings_hold_the_share_in_the_long_run() {
        for percent in [3, 10, 15, 35, 60, 90] {
            for read_ms in [20, 100, 250, 1_000] {
                for (jitter_ms, queued_ms) in [(0, 0), (70, 0), (0, 30), (150, 100)] {
                    for burst_ms in [percent * 10, 20, 3_000] {
                        let course = Course {
                            amount: percent * 10 * MS,
                            burst: burst_ms * MS,
                            read_ns: read_ms * MS,
                            jitter_ns: jitter_ms * MS,
                            queued_ns: queued_ms * MS,
                        };
                        // It works in pieces as long as this: where the measure begins and ends, one of them
                        // is in it or not. A hundred of them are a long run.
                        let piece_ms = read_ms + jitter_ms + queued_ms;
                        let found = share(&course, (piece_ms * 10 / percent).max(600));
                        let wanted = percent as f64 / 100.0;
                        assert!(
                            (found - wanted).abs() <= wanted * 0.02,
                            "{percent} %, read each {read_ms} ms (+{jitter_ms}), {queued_ms} ms queued, \
                             burst {burst_ms} ms: {found}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_never_frozen_is_above_its_share() {
        let course = Course {
            amount: SECOND * 2,
            burst: SECOND * 2,
            read_ns: 250 * MS,
            jitter_ns: 0,
            queued_ns: 0,
        };
        assert!((share(&course, 60) - 1.0).abs() < 1e-9);
    }
}
