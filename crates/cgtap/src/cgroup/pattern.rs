//! Patterns of cgroups: paths with `*` and `?` in their components.
//!
//! What is below the directories that a pattern names outright, its [`Anchor`], a program can follow
//! at `cgroup_mkdir`, if each component is one that [`Glob`] can be.

use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use super::{Cgroup, CgroupError, Hierarchy};
use crate::id::CgroupId;

/// A path some of whose components have `*` (any bytes, also none) or `?` (one) in them.
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

/// Components that are compared below an anchor at the most.
pub const LEVELS_MAX: usize = 8;

/// The directory below which a pattern has to be looked for, and what is to be compared there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The directory.
    pub cgroup: Cgroup,
    /// The components below it, from the top down.
    pub components: Vec<String>,
}

/// A component as a program compares it: the bytes in front of its `*` and those behind it; `None`
/// stands for any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    /// In front of the `*`; all of it if there is none.
    pub head: Vec<Option<u8>>,
    /// Behind the `*`; `None` if there is none.
    pub tail: Option<Vec<Option<u8>>>,
}

impl Glob {
    /// The component `text`.
    ///
    /// # Errors
    /// Why no program compares it.
    pub fn of(text: &str) -> Result<Self, String> {
        let bytes = |part: &str| part.bytes().map(|b| (b != b'?').then_some(b)).collect();
        let mut parts = text.split('*');
        let head = parts.next().map(bytes).unwrap_or_default();
        let tail = parts.next().map(bytes);
        if parts.next().is_some() {
            return Err(format!("`{text}` has more than one *"));
        }
        Ok(Self { head, tail })
    }

    #[cfg(test)]
    fn fits(&self, name: &str) -> bool {
        let name = name.as_bytes();
        let tail = self.tail.as_deref().unwrap_or_default();
        let is = |want: &[Option<u8>], part: &[u8]| {
            want.iter()
                .zip(part)
                .all(|(w, b)| w.is_none_or(|w| w == *b))
        };
        let least = self.head.len() + tail.len();
        (if self.tail.is_some() {
            name.len() >= least
        } else {
            name.len() == least
        }) && is(&self.head, name)
            && is(tail, &name[name.len() - tail.len()..])
    }
}

fn is_wild(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether `name` is as `pattern` says.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut of) = (0, 0);
    // Where to go on if what follows does not fit: behind the last `*`, one byte later.
    let mut again: Option<(usize, usize)> = None;
    while of < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                again = Some((at + 1, of));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == name[of] => {
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
    pattern[at..].iter().all(|c| *c == b'*')
}

impl Anchor {
    /// The components as a program compares them.
    ///
    /// # Errors
    /// Why no program does.
    pub fn globs(&self) -> Result<Vec<Glob>, String> {
        let (levels, path) = (self.components.len(), &self.cgroup.path);
        if levels > LEVELS_MAX {
            return Err(format!(
                "it goes {levels} levels below {path}; {LEVELS_MAX} are followed"
            ));
        }
        self.components.iter().map(|c| Glob::of(c)).collect()
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.components.iter().try_for_each(|c| write!(f, "/{c}"))
    }
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

    /// Where a program has to look for what it matches later: below the last directory that it names
    /// outright and that is there.
    ///
    /// # Errors
    /// [`CgroupError`] if the hierarchy's root cannot be looked at.
    pub fn anchor(&self, hierarchy: &Hierarchy) -> Result<Anchor, CgroupError> {
        let mut cgroup = hierarchy.by_path(Path::new("/"))?;
        let mut named = 0;
        for component in self.components.iter().take_while(|c| !is_wild(c)) {
            let dir = hierarchy.directory(&cgroup.path).join(component);
            match hierarchy.by_path(&dir) {
                Ok(found) => cgroup = found,
                Err(CgroupError::Missing { .. } | CgroupError::Gone { .. }) => break,
                Err(e) => return Err(e),
            }
            named += 1;
        }
        Ok(Anchor {
            cgroup,
            components: self.components[named..].to_vec(),
        })
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
            ("??", "é", true),
            ("", "a", false),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
            match Glob::of(pattern) {
                Ok(glob) => assert_eq!(glob.fits(name), want, "{pattern} {name}"),
                Err(why) => assert!(why.contains("more than one *"), "{why}"),
            }
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
