//! The numbers of one series: one, or a histogram's sum and buckets.

use cgtap::meter::usage::{BUCKETS, Form, Unit, UsageValue};

/// The powers of two that end a bucket, for each unit the same ones always: a bound that came and
/// went with the numbers would be a series that comes and goes, and histograms of two machines
/// could not be added. Each fourfold of the one before is fine enough and keeps them few.
const NS: [usize; 14] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36];
const BYTES: [usize; 13] = [8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32];
const COUNTS: [usize; 11] = [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20];

/// The powers of two that end a bucket of `unit`; behind them stands one bucket more, without end.
pub fn bounds(unit: Unit) -> &'static [usize] {
    match unit {
        Unit::Ns => &NS,
        Unit::Bytes => &BYTES,
        Unit::Count => &COUNTS,
    }
}

/// One number, or several that belong together: the sum of a histogram's numbers, then its buckets,
/// not cumulated, one for each of [`bounds`] and one for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// A plain counter.
    One(u64),
    /// A histogram.
    Many(Box<[u64]>),
}

impl Numbers {
    /// What the cgroup itself used.
    pub fn own(value: &UsageValue) -> Self {
        if value.form != Form::Hist {
            return Self::One(value.own);
        }
        let ends = bounds(value.unit);
        let mut parts = vec![0_u64; ends.len() + 2];
        parts[0] = value.own;
        let buckets = value
            .histogram
            .as_ref()
            .map_or(&[][..], |h| &h.own_buckets[..]);
        for (n, count) in buckets.iter().enumerate().take(BUCKETS) {
            // Bucket n ends below 2^(n+1).
            let place = ends.partition_point(|end| *end < n + 1);
            parts[place + 1] = parts[place + 1].saturating_add(*count);
        }
        Self::Many(parts.into())
    }

    /// As many numbers, all 0.
    pub fn zero(&self) -> Self {
        match self {
            Self::One(_) => Self::One(0),
            Self::Many(parts) => Self::Many(vec![0; parts.len()].into()),
        }
    }

    /// The numbers.
    pub fn parts(&self) -> &[u64] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Many(parts) => parts,
        }
    }

    fn parts_mut(&mut self) -> &mut [u64] {
        match self {
            Self::One(number) => std::slice::from_mut(number),
            Self::Many(parts) => parts,
        }
    }

    /// The first: the number, or the sum of the histogram's.
    pub fn sum(&self) -> u64 {
        self.parts().first().copied().unwrap_or_default()
    }

    /// Whether each is 0.
    pub fn is_zero(&self) -> bool {
        self.parts().iter().all(|n| *n == 0)
    }

    /// Whether any is less than it was.
    pub fn is_behind(&self, before: &Self) -> bool {
        let pairs = self.parts().iter().zip(before.parts());
        pairs.clone().any(|(now, before)| now < before)
    }

    /// Adds each.
    pub fn add(&mut self, more: &Self) {
        for (number, more) in self.parts_mut().iter_mut().zip(more.parts()) {
            *number = number.saturating_add(*more);
        }
    }

    /// Takes each away, as far as there is something.
    pub fn take(&mut self, less: &Self) {
        for (number, less) in self.parts_mut().iter_mut().zip(less.parts()) {
            *number = number.saturating_sub(*less);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::meter::usage::{Histogram, Truth};

    fn histogram(unit: Unit, buckets: Vec<u64>) -> Numbers {
        Numbers::own(&UsageValue {
            meter: "x".into(),
            kind: Truth::Measured,
            unit,
            form: Form::Hist,
            labels: Default::default(),
            own: 7,
            total: 7,
            peak: None,
            histogram: Some(Histogram {
                own_buckets: buckets,
                total_buckets: Vec::new(),
            }),
        })
    }

    #[test]
    fn each_bucket_is_counted_below_the_bound_that_it_ends_at() {
        // 0 and 1; 2 and 3; 4 to 7; 8 to 15; 16 and more.
        let numbers = histogram(Unit::Count, vec![1, 10, 100, 1_000, 10_000]);
        assert_eq!(numbers.parts()[..5], [7, 1, 10, 1_100, 10_000]);
        // 512 to 1023 ns end at 2^10; 1024 to 2047 go on to 2^12.
        let mut buckets = vec![0; 64];
        (buckets[9], buckets[10], buckets[63]) = (5, 6, 7);
        let numbers = histogram(Unit::Ns, buckets);
        assert_eq!(numbers.parts()[..3], [7, 5, 6]);
        assert_eq!(numbers.parts().last(), Some(&7));
        assert_eq!(numbers.parts().len(), 1 + NS.len() + 1);
    }

    #[test]
    fn bounds_rise() {
        for unit in [Unit::Ns, Unit::Bytes, Unit::Count] {
            assert!(bounds(unit).is_sorted_by(|a, b| a < b));
        }
    }
}
