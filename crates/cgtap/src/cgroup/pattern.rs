//! Patterns of cgroups: paths with `*` and `?` in their components.

use std::os::unix::fs::{DirEntryExt, MetadataExt};

use super::Hierarchy;
use crate::id::CgroupId;

/// A path some of whose components have `*` (any characters, also none) or `?` (one) in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<String>,
}

/// A cgroup that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: CgroupId,
    /// Its path below the root, with a leading slash.
    pub path: String,
}

fn is_wild(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether `name` is as `pattern` says.
fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut of) = (0, 0);
    // Where to go on if what follows does not fit: behind the last `*`, one character later.
    let mut again: Option<(usize, usize)> = None;
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                again = Some((at + 1, of));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[of] => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((behind, from)) = again else {
                    return false;
                };
                again = Some((behind, from + 1));
                at = behind;
                of = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

impl Pattern {
    /// The pattern that `text` is; `None` if it has neither `*` nor `?` and is a path.
    ///
    /// # Errors
    /// Why it can match nothing.
    pub fn of(text: &str) -> Result<Option<Self>, String> {
        if !is_wild(text) {
            return Ok(None);
        }
        let components: Vec<String> = text
            .split('/')
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect();
        if components.iter().any(|c| c == "." || c == "..") {
            return Err(format!(
                "`{text}` matches nothing: no cgroup is called . or .."
            ));
        }
        Ok(Some(Self { components }))
    }

    /// The cgroups below `hierarchy`'s root that it matches now, by path. One that goes meanwhile is
    /// left out.
    #[must_use]
    pub fn matching(&self, hierarchy: &Hierarchy) -> Vec<Found> {
        let mut found: Vec<Found> = vec![Found {
            id: CgroupId(0),
            path: String::new(),
        }];
        for component in &self.components {
            found = found
                .iter()
                .flat_map(|above| below(hierarchy, above, component))
                .collect();
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

/// The cgroups right below one that a component matches.
fn below(hierarchy: &Hierarchy, above: &Found, component: &str) -> Vec<Found> {
    let dir = hierarchy.directory(&above.path);
    // On 64-bit systems the inode number is the whole id.
    let made = |ino: u64, name: &str| Found {
        id: CgroupId(ino),
        path: format!("{}/{name}", above.path),
    };
    if !is_wild(component) {
        let meta = dir.join(component).metadata().ok();
        let meta = meta.filter(std::fs::Metadata::is_dir);
        return meta.map(|m| made(m.ino(), component)).into_iter().collect();
    }
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            fits(component, &name).then(|| made(entry.ino(), &name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_fit_or_do_not() {
        for (pattern, name, want) in [
            ("*", "a", true),
            ("*", "", true),
            ("a*", "a", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*b*", "abc", true),
            ("pod?", "pod1", true),
            ("pod?", "pod", false),
            ("pod?", "pod12", false),
            ("?*?", "a", false),
            ("?*?", "ab", true),
            ("*.slice", "a.slice.b", false),
            ("*é", "é", true),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_path_is_no_pattern() {
        assert_eq!(Pattern::of("/tenants/a"), Ok(None));
        let pattern = Pattern::of("/kubepods.slice//pod?").unwrap().unwrap();
        assert_eq!(pattern.components, ["kubepods.slice", "pod?"]);
        assert!(
            Pattern::of("a/../*")
                .unwrap_err()
                .contains("matches nothing")
        );
    }
}
