//! Policy files: which meters count and what cgroups may use, as a person writes it down.
//!
//! The reference is docs/policy.md; the JSON schema is made of the types here.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// Why a file is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", place(path, *line))]
pub struct PolicyError {
    /// The file.
    pub path: String,
    /// The line, from 1; 0 if it is of no single line.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

/// `FILE:LINE`, or the file alone where the line is 0.
#[must_use]
pub fn place(path: &str, line: usize) -> String {
    if line == 0 {
        path.to_owned()
    } else {
        format!("{path}:{line}")
    }
}

/// Which meters count, and what cgroups may use. It says at least one of the two, be it that there are
/// none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cgtap policy")]
pub struct PolicyFile {
    /// Meters that are to count. Those that are not named here are left as they are.
    meters: Option<Vec<MeterEntry>>,
    /// Limits that are to be. Those of an earlier policy that are not here go.
    limits: Option<Vec<LimitEntry>>,
}

/// A meter that is to count: its name, or its file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MeterEntry {
    /// Its name.
    #[schemars(with = "Option<String>")]
    name: Option<Spanned<String>>,
    /// A meter file; relative to the policy's directory.
    #[schemars(with = "Option<String>")]
    file: Option<Spanned<String>>,
    /// The cgroup to count for, with all below it; the root if not given.
    #[schemars(with = "Option<String>")]
    cgroup: Option<Spanned<String>>,
}

/// A limit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitEntry {
    /// The cgroup whose use, and that of the cgroups below it, is limited: a path, a name such as
    /// `unit:nginx.service`, or a pattern, a path with * and ? in its components: then each cgroup
    /// that it matches has a limit of its own.
    #[schemars(with = "String")]
    cgroup: Spanned<String>,
    /// What is limited, as usage calls it; with `{label=text}` only what has these labels.
    #[schemars(with = "String")]
    meter: Spanned<String>,
    /// How much: `10GiB` in all, `300ms/1s` each period.
    #[schemars(with = "String")]
    amount: Spanned<String>,
    /// How much may gather while nobody uses it; with a period only. As much as the amount if not
    /// given.
    #[schemars(with = "Option<String>")]
    burst: Option<Spanned<String>>,
    /// What happens then: deny:ERRNO, signal:NAME, freeze or observe. What clients of the meter bear
    /// if not given.
    #[schemars(with = "Option<String>")]
    on: Option<Spanned<String>>,
    /// With freeze: hold it only while others of the same parent want their share.
    #[serde(default)]
    borrow: bool,
    /// Also deny with an errno at which clients try again at once, for ever.
    #[serde(default)]
    force: bool,
}

/// A word, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The word.
    pub text: String,
    /// Its line, from 1.
    pub line: usize,
}

/// Which meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// That of a name.
    Name(Said),
    /// That of a file.
    File(Said),
}

/// A meter that is to count, in words that are not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyMeter {
    /// Which.
    pub which: Which,
    /// Where; the root if not given.
    pub cgroup: Option<Said>,
}

/// A limit that is to be, in words that are not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLimit {
    /// Its cgroup, or a pattern.
    pub cgroup: Said,
    /// Its value.
    pub meter: Said,
    /// How much.
    pub amount: Said,
    /// How much may gather.
    pub burst: Option<Said>,
    /// What happens then.
    pub on: Option<Said>,
    /// Only while others want their share.
    pub borrow: bool,
    /// Whatever clients make of it.
    pub force: bool,
}

/// A policy in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyText {
    /// Meters.
    pub meters: Vec<PolicyMeter>,
    /// Limits.
    pub limits: Vec<PolicyLimit>,
}

impl Which {
    /// The word that says it.
    #[must_use]
    pub fn said(&self) -> &Said {
        match self {
            Self::Name(said) | Self::File(said) => said,
        }
    }
}

/// The JSON schema of policy files.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(PolicyFile).to_value()
}

/// The policy that `text` describes, `path` for messages.
///
/// # Errors
/// [`PolicyError`] with the line.
pub fn parse(path: &str, text: &str) -> Result<PolicyText, PolicyError> {
    let line = |at: usize| {
        text.get(..at)
            .map_or(0, |before| before.matches('\n').count() + 1)
    };
    let wrong = |line, why: &str| PolicyError {
        path: path.to_owned(),
        line,
        why: why.to_owned(),
    };
    let said = |word: Spanned<String>| Said {
        line: line(word.span().start),
        text: word.into_inner(),
    };
    let file: PolicyFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(0, |span| line(span.start));
        wrong(line, e.message())
    })?;
    if file.meters.is_none() && file.limits.is_none() {
        // It may be a file that is being written.
        return Err(wrong(
            0,
            "it says nothing; write `limits = []` if nothing is to be limited",
        ));
    }
    let mut policy = PolicyText::default();
    for entry in file.meters.unwrap_or_default() {
        let which = match (entry.name.map(said), entry.file.map(said)) {
            (Some(name), None) => Which::Name(name),
            (None, Some(file)) => Which::File(file),
            (Some(name), Some(_)) => {
                return Err(wrong(name.line, "a meter has a name or a file, not both"));
            }
            (None, None) => {
                let line = entry.cgroup.map_or(0, |c| said(c).line);
                return Err(wrong(line, "a meter of [[meters]] has a name, or a file"));
            }
        };
        policy.meters.push(PolicyMeter {
            which,
            cgroup: entry.cgroup.map(said),
        });
    }
    for entry in file.limits.unwrap_or_default() {
        policy.limits.push(PolicyLimit {
            cgroup: said(entry.cgroup),
            meter: said(entry.meter),
            amount: said(entry.amount),
            burst: entry.burst.map(said),
            on: entry.on.map(said),
            borrow: entry.borrow,
            force: entry.force,
        });
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        parse("p.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_example_of_the_documentation_is_a_policy() {
        let docs = include_str!("../../../../docs/policy.md");
        let (_, from) = docs.split_once("```toml\n").unwrap();
        let (text, _) = from.split_once("```").unwrap();
        let policy = parse("policy.toml", text).unwrap();
        assert!(!policy.meters.is_empty() && policy.limits.len() >= 3);
        assert_eq!(policy.limits[0].meter.text, "nbd_bytes{direction=write}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let limit = "[[limits]]\ncgroup = \"a\"\nmeter = \"m\"\n";
        assert!(why(limit).contains("missing field `amount`"));
        let unknown = format!("{limit}amount = \"1\"\nburts = \"2\"\n");
        assert!(why(&unknown).starts_with("p.toml:5: unknown field `burts`"));
        let number = format!("{limit}amount = 1\n");
        assert!(why(&number).starts_with("p.toml:4: invalid type"));
        assert!(why("[[meters]]\nname = \"a\"\nfile = \"b\"\n").starts_with("p.toml:2: "));
        assert!(why("[[meters]]\n").contains("has a name, or a file"));
        assert!(why("# to come\n").contains("says nothing"));
        assert_eq!(parse("p.toml", "limits = []"), Ok(PolicyText::default()));
    }

    #[test]
    fn each_word_knows_its_line() {
        let text = "[[meters]]\nname = \"cpu\"\n\n[[limits]]\ncgroup = \"a/*\"\nmeter = \"m\"\n\
                    amount = \"1\"\non = \"observe\"\nborrow = true\n";
        let policy = parse("p.toml", text).unwrap();
        assert_eq!(policy.meters[0].which.said().line, 2);
        let limit = &policy.limits[0];
        assert_eq!((limit.cgroup.line, limit.amount.line), (5, 7));
        assert_eq!(limit.on.as_ref().unwrap().line, 8);
        assert!(limit.borrow && !limit.force && limit.burst.is_none());
    }
}
