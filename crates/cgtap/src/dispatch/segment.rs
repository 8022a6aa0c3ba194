//! Cutting a set that is too large for one program.

/// What a member adds to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The maps it uses, by their place in the pool.
    pub maps: Vec<usize>,
    /// Its functions, entry included.
    pub functions: usize,
    /// Its instructions.
    pub insns: usize,
    /// Instructions the verifier processes for it.
    pub verified: u64,
}

/// What one program may hold. The kernel's own limits, less what main needs, and two of ours that
/// keep loading fast.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Distinct maps (`MAX_USED_MAPS` 64, less the counter, the array of sets and the control words).
    pub maps: usize,
    /// Functions (`BPF_MAX_SUBPROGS` 256, less main).
    pub functions: usize,
    /// Instructions the verifier may process (`BPF_COMPLEXITY_LIMIT_INSNS` 1M, less a tenth).
    pub verified: u64,
    /// Instructions; verification grows faster than the program.
    pub insns: usize,
    /// Segments of one set: the dispatcher's tail call and theirs share `MAX_TAIL_CALL_CNT` 33.
    pub segments: usize,
}

/// What the kernel takes.
pub const LIMITS: Limits = Limits {
    maps: 61,
    functions: 250,
    verified: 900_000,
    insns: 6_000,
    segments: 30,
};

/// Longest program (`BPF_COMPLEXITY_LIMIT_INSNS`).
const INSNS_MAX: usize = 1_000_000;

/// A set that no cutting makes loadable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{members} programs would be effective, in {segments} segments; the kernel lets \
     {limit} follow one another (MAX_TAIL_CALL_CNT)"
)]
pub struct TooManySegments {
    /// Members of the set.
    pub members: usize,
    /// Segments they would need.
    pub segments: usize,
    /// Segments there may be.
    pub limit: usize,
}

/// Cuts members as [`cut`] does. Where that makes too many segments, they may be longer than is
/// good for loading: slow is better than refused.
///
/// # Errors
/// [`TooManySegments`] if they are too many at any length.
pub fn fit(
    weights: &[Weight],
    limits: &Limits,
) -> Result<Vec<std::ops::Range<usize>>, TooManySegments> {
    let mut limits = *limits;
    loop {
        match cut(weights, &limits) {
            Err(_) if limits.insns < INSNS_MAX => {
                limits.insns = (limits.insns * 2).min(INSNS_MAX);
            }
            other => return other,
        }
    }
}

/// Cuts members into runs that each fit one program, greedily and in order. A member that alone
/// is over a limit of ours gets a segment of its own: the kernel took it alone.
///
/// The order is that of the array, whatever it costs: a member that tail-calls uses up the budget
/// that the jump to the next segment shares, and where that jump then fails the event is counted
/// as lost.
///
/// # Errors
/// [`TooManySegments`].
pub fn cut(
    weights: &[Weight],
    limits: &Limits,
) -> Result<Vec<std::ops::Range<usize>>, TooManySegments> {
    let mut segments: Vec<std::ops::Range<usize>> = Vec::new();
    let mut start = 0;
    let mut maps: Vec<usize> = Vec::new();
    let (mut functions, mut verified, mut insns) = (0, 0, 0);
    for (at, weight) in weights.iter().enumerate() {
        let mut merged = maps.clone();
        merged.extend(&weight.maps);
        merged.sort_unstable();
        merged.dedup();
        let fits = merged.len() <= limits.maps
            && functions + weight.functions <= limits.functions
            && verified + weight.verified <= limits.verified
            && insns + weight.insns <= limits.insns;
        if !fits && at > start {
            segments.push(start..at);
            start = at;
            (functions, verified, insns) = (0, 0, 0);
            merged = weight.maps.clone();
            merged.sort_unstable();
            merged.dedup();
        }
        maps = merged;
        functions += weight.functions;
        verified += weight.verified;
        insns += weight.insns;
    }
    if start < weights.len() {
        segments.push(start..weights.len());
    }
    if segments.len() > limits.segments {
        return Err(TooManySegments {
            members: weights.len(),
            segments: segments.len(),
            limit: limits.segments,
        });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weight() -> impl Strategy<Value = Weight> {
        (
            proptest::collection::vec(0usize..90, 0..40),
            1usize..60,
            2usize..4000,
            2u64..1_000_000,
        )
            .prop_map(|(maps, functions, insns, verified)| Weight {
                maps,
                functions,
                insns,
                verified,
            })
    }

    proptest! {
        /// Every member is in exactly one segment, in order; a segment of several keeps every
        /// limit; and no two neighbours would have fitted one.
        #[test]
        fn segments_keep_order_and_limits(weights in proptest::collection::vec(weight(), 0..60)) {
            let limits = Limits { segments: usize::MAX, ..LIMITS };
            let segments = cut(&weights, &limits).unwrap();
            let all: Vec<usize> = segments.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
            let fits = |w: &[Weight]| {
                let mut maps: Vec<usize> = w.iter().flat_map(|w| w.maps.clone()).collect();
                maps.sort_unstable();
                maps.dedup();
                maps.len() <= limits.maps
                    && w.iter().map(|w| w.functions).sum::<usize>() <= limits.functions
                    && w.iter().map(|w| w.verified).sum::<u64>() <= limits.verified
                    && w.iter().map(|w| w.insns).sum::<usize>() <= limits.insns
            };
            for segment in &segments {
                prop_assert!(segment.len() == 1 || fits(&weights[segment.clone()]));
            }
            for pair in segments.windows(2) {
                prop_assert!(!fits(&weights[pair[0].start..=pair[1].start]));
            }
        }
    }

    #[test]
    fn long_members_share_segments_rather_than_be_refused() {
        let long = Weight {
            maps: vec![],
            functions: 3,
            insns: 5_000,
            verified: 10_000,
        };
        let many = vec![long; 62];
        assert_eq!(cut(&many, &LIMITS).unwrap_err().segments, 62);
        assert_eq!(fit(&many, &LIMITS).unwrap().len(), 16);
    }

    #[test]
    fn a_chain_that_is_too_long_is_named() {
        let one = Weight {
            maps: vec![],
            functions: 250,
            insns: 1,
            verified: 1,
        };
        let error = fit(&vec![one; 31], &LIMITS).unwrap_err();
        assert_eq!((error.segments, error.limit), (31, 30));
    }
}
