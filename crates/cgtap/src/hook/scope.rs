//! Whose event it is: how the scope of a hook is written.
//!
//! ```text
//! SCOPE  = current | PATH | owner(KEYS) noted at HOOK by KEYS [of (current | PATH)]
//! KEYS   = PATH [, PATH]
//! PATH   = IDENT ((-> | .) IDENT)*
//! ```

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use super::spec::{HookSpec, SpecError};

/// Members that a path may name.
const STEPS_MAX: usize = 16;
/// Longest name; the kernel's BTF has none that is longer.
const IDENT_MAX: usize = 128;
/// Paths that make a key.
pub const KEYS_MAX: usize = 2;

/// Whose event an event of a hook is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The cgroup of the running task.
    #[default]
    Current,
    /// The cgroup that a path from the hook's arguments leads to.
    Path(Path),
    /// The cgroup that was noted at an earlier hook.
    Owner(Box<Owner>),
}

/// A path from an argument of a hook through members. Two that name the same members are the same,
/// whether they are written with `.` or with `->`.
#[derive(Clone, Debug)]
pub struct Path {
    argument: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    arrow: bool,
    member: String,
}

/// Keys to look up, and where and by which keys a cgroup was noted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    keys: Vec<Path>,
    noted_at: HookSpec,
    by: Vec<Path>,
}

/// Why a text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// It is neither of the three forms.
    #[error(
        "`{text}` is no scope: {why}; write current, a path such as next or rq->bio, or owner(KEY) \
         noted at HOOK by KEY"
    )]
    Form {
        /// What was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// The hook where notes are made cannot be read.
    #[error("in the scope: {0}")]
    Hook(#[from] Box<SpecError>),
}

fn form(text: &str, why: impl Into<String>) -> ScopeError {
    ScopeError::Form {
        text: text.to_owned(),
        why: why.into(),
    }
}

fn is_ident(s: &str) -> bool {
    (1..=IDENT_MAX).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !s.as_bytes()[0].is_ascii_digit()
}

impl Path {
    /// The argument that it begins at.
    #[must_use]
    pub fn argument(&self) -> &str {
        &self.argument
    }

    /// The members, in order.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|s| s.member.as_str())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.argument()).chain(self.members())
    }

    /// The path as far as its first `members` members.
    #[must_use]
    pub fn head(&self, members: usize) -> Self {
        Self {
            argument: self.argument.clone(),
            steps: self.steps[..members.min(self.steps.len())].to_vec(),
        }
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }
}

impl Eq for Path {}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(other.names())
    }
}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().for_each(|name| name.hash(state));
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argument)?;
        for step in &self.steps {
            write!(f, "{}{}", if step.arrow { "->" } else { "." }, step.member)?;
        }
        Ok(())
    }
}

impl FromStr for Path {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let mut rest = text.trim();
        let next = |rest: &mut &str| -> Result<(String, Option<bool>), ScopeError> {
            let dot = rest.find('.').map(|at| (at, 1, false));
            let arrow = rest.find("->").map(|at| (at, 2, true));
            let cut = [dot, arrow].into_iter().flatten().min();
            let (name, behind, arrow) = match cut {
                Some((at, width, arrow)) => (&rest[..at], &rest[at + width..], Some(arrow)),
                None => (*rest, "", None),
            };
            *rest = behind;
            let name = name.trim();
            if is_ident(name) {
                Ok((name.to_owned(), arrow))
            } else {
                Err(form(text, format!("`{name}` is no name of C")))
            }
        };
        let (argument, mut arrow) = next(&mut rest)?;
        let mut steps = Vec::new();
        while let Some(is_arrow) = arrow {
            let (member, behind) = next(&mut rest)?;
            steps.push(Step {
                arrow: is_arrow,
                member,
            });
            arrow = behind;
        }
        if steps.len() > STEPS_MAX {
            return Err(form(
                text,
                format!("it names more than {STEPS_MAX} members"),
            ));
        }
        Ok(Self { argument, steps })
    }
}

impl Owner {
    /// What is looked up at the scoped hook.
    #[must_use]
    pub fn keys(&self) -> &[Path] {
        &self.keys
    }

    /// Where cgroups are noted. Its scope is whose cgroup that is: `current` or a path.
    #[must_use]
    pub fn noted_at(&self) -> &HookSpec {
        &self.noted_at
    }

    /// Under which keys they are noted there.
    #[must_use]
    pub fn by(&self) -> &[Path] {
        &self.by
    }
}

fn keys(text: &str, whole: &str) -> Result<Vec<Path>, ScopeError> {
    let keys: Vec<Path> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
    if keys.len() > KEYS_MAX {
        return Err(form(
            whole,
            format!("a key is made of {KEYS_MAX} paths at the most"),
        ));
    }
    Ok(keys)
}

/// Splits at a word of its own.
fn at_word<'a>(text: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let mut from = 0;
    while let Some(at) = text[from..].find(word).map(|at| at + from) {
        let (before, behind) = (&text[..at], &text[at + word.len()..]);
        let free = |c: Option<char>| c.is_none_or(char::is_whitespace);
        if free(before.chars().next_back()) && free(behind.chars().next()) {
            return Some((before.trim(), behind.trim()));
        }
        from = at + word.len();
    }
    None
}

impl FromStr for Owner {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let missing = |what: &str| form(text, format!("{what} is missing"));
        let inside = text.trim().strip_prefix("owner").map(str::trim_start);
        let inside = inside.and_then(|rest| rest.strip_prefix('('));
        let inside = inside.ok_or_else(|| missing("`owner(`"))?;
        let (looked_up, rest) = inside.split_once(')').ok_or_else(|| missing("`)`"))?;
        let looked_up = keys(looked_up, text)?;
        let rest = rest.trim().strip_prefix("noted").map(str::trim_start);
        let rest = rest.and_then(|rest| rest.strip_prefix("at"));
        let rest = rest.filter(|rest| rest.starts_with(char::is_whitespace));
        let rest = rest.ok_or_else(|| missing("`noted at HOOK`"))?;
        let (hook, rest) = at_word(rest, "by").ok_or_else(|| missing("`by KEY`"))?;
        let (by, of) = match at_word(rest, "of") {
            Some((by, of)) => (by, of.parse()?),
            None => (rest.trim(), Scope::Current),
        };
        let by = keys(by, text)?;
        if matches!(of, Scope::Owner(_)) {
            return Err(form(text, "what is noted is itself looked up"));
        }
        if by.len() != looked_up.len() {
            return Err(form(
                text,
                format!(
                    "it is noted under {} keys and looked up by {}",
                    by.len(),
                    looked_up.len()
                ),
            ));
        }
        let hook: HookSpec = hook.parse().map_err(Box::new)?;
        if hook.scope() != &Scope::Current {
            return Err(form(text, "say behind `of` whose cgroup is noted"));
        }
        Ok(Self {
            keys: looked_up,
            noted_at: hook.with_scope(of),
            by,
        })
    }
}

fn list(f: &mut fmt::Formatter<'_>, keys: &[Path]) -> fmt::Result {
    for (at, key) in keys.iter().enumerate() {
        write!(f, "{}{key}", if at == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("owner(")?;
        list(f, &self.keys)?;
        write!(f, ") noted at {} by ", self.noted_at.without_scope())?;
        list(f, &self.by)?;
        match self.noted_at.scope() {
            Scope::Current => Ok(()),
            of => write!(f, " of {of}"),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::Path(path) => path.fmt(f),
            Self::Owner(owner) => owner.fmt(f),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let text = text.trim();
        let is_owner = text
            .strip_prefix("owner")
            .is_some_and(|rest| rest.trim_start().starts_with('('));
        match text {
            "current" => Ok(Self::Current),
            _ if is_owner => Ok(Self::Owner(Box::new(text.parse()?))),
            _ => Ok(Self::Path(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ident() -> impl Strategy<Value = String> {
        "[A-Za-z_][A-Za-z0-9_]{0,12}".prop_filter("a word of its own", |s| {
            !["current", "owner", "by", "of"].contains(&s.as_str())
        })
    }

    fn path() -> impl Strategy<Value = String> {
        (
            ident(),
            prop::collection::vec((prop::bool::ANY, ident()), 0..6),
        )
            .prop_map(|(first, rest)| {
                rest.into_iter().fold(first, |text, (arrow, name)| {
                    text + if arrow { "->" } else { "." } + &name
                })
            })
    }

    fn owner() -> impl Strategy<Value = String> {
        let of = prop_oneof![Just(None), path().prop_map(Some)];
        (path(), path(), prop::bool::ANY, of).prop_map(|(a, b, two, of)| {
            let (keys, by) = if two {
                (format!("{a}, {b}"), format!("{b}, {a}"))
            } else {
                (a, b)
            };
            let of = of.map(|of| format!(" of {of}")).unwrap_or_default();
            format!("owner({keys}) noted at tp_btf:block_rq_insert by {by}{of}")
        })
    }

    proptest! {
        /// What is displayed is what was written, and reads as the same again.
        #[test]
        fn a_scope_is_displayed_as_it_is_written(
            text in prop_oneof![Just("current".to_owned()), path(), owner()],
        ) {
            let scope: Scope = text.parse().unwrap();
            prop_assert_eq!(scope.to_string(), text);
            prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
        }

        /// No text makes it panic.
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z>.,() -]{0,40}|\\PC{0,20}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
            }
        }
    }

    #[test]
    fn dots_and_arrows_name_the_same_members() {
        let path = |text: &str| text.parse::<Path>().unwrap();
        assert_eq!(path("rq->bio.bi_blkg"), path("rq.bio->bi_blkg"));
        assert_ne!(path("rq->bio"), path("rq->bio->bi_next"));
        assert_eq!(path(" rq -> bio ").to_string(), "rq->bio");
    }

    #[test]
    fn what_is_no_scope_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "`` is no name"),
            ("rq->", "`` is no name"),
            ("rq->9", "`9` is no name"),
            ("rq bio", "`rq bio` is no name"),
            ("owner(fence)", "`noted at HOOK` is missing"),
            ("owner(fence", "`)` is missing"),
            ("owner(a) noted at tp_btf:x", "`by KEY` is missing"),
            ("owner(a) noted at nonsense by a", "names no hook kind"),
            ("owner(a) noted at tp_btf:x by a, b", "under 2 keys"),
            (
                "owner(a, b, c) noted at tp_btf:x by a",
                "2 paths at the most",
            ),
            (
                "owner(a) noted at tp_btf:x by a of owner(b) noted at tp_btf:y by b",
                "itself looked up",
            ),
        ] {
            let error = text.parse::<Scope>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
