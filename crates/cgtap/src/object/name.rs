//! Names in errors: what there is, and what was probably meant.

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

/// The name that `wanted` is probably a slip of.
pub(super) fn near(wanted: &str, names: &[String]) -> Option<String> {
    names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.clone())
}

/// ` (did you mean NAME?)`, or nothing.
pub(super) fn hint(near: Option<&String>) -> String {
    near.map_or_else(String::new, |name| format!(" (did you mean {name}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_long_lists_cut() {
        let names: Vec<String> = (0..30).map(|i| format!("program_{i}")).collect();
        assert_eq!(near("progam_7", &names).as_deref(), Some("program_7"));
        assert_eq!(near("xyz", &names), None);
        assert!(list(&names).ends_with("program_23 and 6 more"));
        assert_eq!(list(&names[..2]), "program_0, program_1");
    }
}
