//! What was probably meant: the names nearest to one that there is not.

/// What is alike enough to be offered.
const LIKENESS_MIN: f64 = 0.85;

/// `; did you mean A, B or C?` with the nearest names, or nothing.
#[must_use]
pub fn hint<N: AsRef<str>>(asked: &str, names: impl IntoIterator<Item = N>) -> String {
    let mut near: Vec<(f64, N)> = names
        .into_iter()
        .filter_map(|name| Some((likeness(asked, name.as_ref())?, name)))
        .collect();
    near.sort_by(|a, b| {
        let by_name = || a.1.as_ref().cmp(b.1.as_ref());
        b.0.total_cmp(&a.0).then_with(by_name)
    });
    near.dedup_by(|a, b| a.1.as_ref() == b.1.as_ref());
    let near: Vec<&str> = near.iter().take(3).map(|(_, n)| n.as_ref()).collect();
    match near.as_slice() {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [rest @ .., last] => format!("; did you mean {} or {last}?", rest.join(", ")),
    }
}

/// What is said of something without a `what` called `asked`: the nearest names, or all there are.
/// `none` is said if there are no names at all.
#[must_use]
pub fn lacking(what: &str, asked: &str, names: &[String], none: &str) -> String {
    let near = hint(asked, names);
    match (names.is_empty(), near.is_empty()) {
        (true, _) => none.to_owned(),
        (false, true) => format!("it has no {what} {asked}; there are {}", names.join(", ")),
        (false, false) => format!("it has no {what} {asked}{near}"),
    }
}

/// How alike the names are, from 0 to 1, if that is enough.
fn likeness(asked: &str, name: &str) -> Option<f64> {
    // The right name in the wrong category is the commonest mistake.
    if name.contains('/') && last(asked) == last(name) {
        return Some(1.0);
    }
    // Names of another length are not alike.
    if name.len().abs_diff(asked.len()) > 3 + asked.len() / 4 {
        return None;
    }
    if is_slip(asked, name) {
        return Some(strsim::jaro_winkler(asked, name).max(0.9));
    }
    let is_ascii = asked.is_ascii() && name.is_ascii();
    if is_ascii && likeness_max(asked.as_bytes(), name.as_bytes()) <= LIKENESS_MIN {
        return None;
    }
    Some(strsim::jaro_winkler(asked, name)).filter(|score| *score > LIKENESS_MIN)
}

/// A name without its category.
fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// What [`strsim::jaro_winkler`] of names in ASCII comes to at most, by the letters that both have, wherever
/// they stand: lists are long (200,000 functions), and this leaves few to compare.
fn likeness_max(a: &[u8], b: &[u8]) -> f64 {
    let mut left = [0u32; 256];
    for byte in a {
        left[usize::from(*byte)] += 1;
    }
    let mut common = 0u32;
    for byte in b {
        if let Some(less) = left[usize::from(*byte)].checked_sub(1) {
            left[usize::from(*byte)] = less;
            common += 1;
        }
    }
    let part = |of: &[u8]| f64::from(common) / of.len().max(1) as f64;
    let jaro = (part(a) + part(b) + 1.0) / 3.0;
    let same = a.iter().zip(b).take(4).take_while(|(a, b)| a == b).count();
    jaro + 0.1 * same as f64 * (1.0 - jaro)
}

/// One letter too many, too few or another, or two exchanged, in a short name: of those, what is
/// alike is little even so.
fn is_slip(asked: &str, name: &str) -> bool {
    const SHORT: usize = 6;
    (3..=SHORT).contains(&asked.len())
        && asked.len().abs_diff(name.len()) <= 1
        && strsim::osa_distance(asked, name) == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slip_in_a_short_name_is_seen() {
        let names = ["bio", "biotail", "tag", "q"];
        assert_eq!(hint("boi", names), "; did you mean bio?");
        assert_eq!(hint("tab", names), "; did you mean tag?");
        assert_eq!(hint("p", names), "");
    }

    #[test]
    fn near_names_are_offered_and_far_ones_not() {
        let names = ["sched/sched_switch", "block/block_rq_issue"];
        assert_eq!(
            hint("sched/sched_swich", names),
            "; did you mean sched/sched_switch?"
        );
        assert_eq!(
            hint("irq/sched_switch", names),
            "; did you mean sched/sched_switch?"
        );
        assert_eq!(hint("zzz/yyy", names), "");
    }

    proptest! {
        #[test]
        fn nothing_near_is_left_out(a in "[a-c_]{1,12}", b in "[a-c_]{1,12}") {
            let score = strsim::jaro_winkler(&a, &b);
            let at_most = likeness_max(a.as_bytes(), b.as_bytes());
            prop_assert!(score <= at_most + 1e-9, "{a:?} {b:?}: {score} {at_most}");
        }

        #[test]
        fn any_names_can_be_compared(a in "\\PC{0,9}/?\\PC{0,3}", b in "\\PC{0,9}/?\\PC{0,3}") {
            let _ = hint(&a, [&b]);
        }

        #[test]
        fn letters_of_any_script_are_compared(a in "[aé€]{1,8}", b in "[aé€]{1,8}") {
            if strsim::jaro_winkler(&a, &b) > LIKENESS_MIN && a.len().abs_diff(b.len()) <= 3 {
                prop_assert!(likeness(&a, &b).is_some(), "{a:?} {b:?}");
            }
        }
    }
}
