//! Names in errors: what there is.

/// More names than this are counted, not listed.
const LISTED: usize = 24;

/// `a, b, c and 4 more`.
pub(super) fn list(names: &[String]) -> String {
    let mut text = names
        .iter()
        .take(LISTED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > LISTED {
        text.push_str(&format!(" and {} more", names.len() - LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..30).map(|i| format!("program_{i}")).collect();
        assert!(list(&names).ends_with("program_23 and 6 more"));
        assert_eq!(list(&names[..2]), "program_0, program_1");
    }
}
