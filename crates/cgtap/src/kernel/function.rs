//! Functions of this kernel, as kallsyms and the kprobe blacklist tell of them. Read only to
//! explain a refusal, and to find all functions of a pattern: whether one can be probed is for the
//! kernel to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::tracepoint::tracefs;
use crate::near::hint;

/// What kallsyms knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// So many functions have it.
    Functions(usize),
    /// No function has it.
    None {
        /// `; did you mean ...`, or nothing.
        hint: String,
    },
    /// kallsyms cannot be read.
    Unreadable(String),
}

/// The names of functions in kallsyms, with their address; modules' too. Addresses are 0 for who
/// may not see them (`kernel.kptr_restrict`). There are 200,000 lines, `ADDRESS KIND NAME` with a tab and
/// the module behind some (`s_show` in kernel/kallsyms.c).
fn symbols(text: &str) -> impl Iterator<Item = (u64, &str)> {
    text.lines().filter_map(|line| {
        let (address, rest) = line.split_once(' ')?;
        let (kind, name) = rest.split_once(' ')?;
        if !matches!(kind, "t" | "T" | "w" | "W") {
            return None;
        }
        let name = name.split_once('\t').map_or(name, |(name, _module)| name);
        Some((u64::from_str_radix(address, 16).ok()?, name))
    })
}

fn kallsyms() -> Result<String, String> {
    fs::read_to_string("/proc/kallsyms").map_err(|e| format!("cannot read /proc/kallsyms: {e}"))
}

/// What is known of the function `name`.
#[must_use]
pub fn look_up(name: &str) -> Known {
    let text = match kallsyms() {
        Ok(text) => text,
        Err(e) => return Known::Unreadable(e),
    };
    let count = symbols(&text).filter(|(_, n)| *n == name).count();
    if count > 0 {
        return Known::Functions(count);
    }
    // What the compiler made of it: `name.isra.0`, `name.constprop.0`, `name.part.0`, `name.cold`.
    let prefix = format!("{name}.");
    let made: Vec<&str> = symbols(&text)
        .map(|(_, n)| n)
        .filter(|n| n.starts_with(&prefix) && !n.ends_with(".cold"))
        .take(3)
        .collect();
    let hint = if made.is_empty() {
        // Padding before functions has a name, but is none.
        let functions = symbols(&text).filter(|(_, n)| !n.starts_with("__pfx_"));
        hint(name, functions.map(|(_, n)| n))
    } else {
        format!("; the compiler changed it to {}", made.join(", "))
    };
    Known::None { hint }
}

/// The kernel keeps probes away from this function (`NOKPROBE_SYMBOL`, `notrace` entry code).
#[must_use]
pub fn is_blacklisted(name: &str) -> bool {
    fs::read_to_string("/sys/kernel/debug/kprobes/blacklist")
        .is_ok_and(|list| list.split_whitespace().any(|word| word == name))
}

/// ftrace can trace a function of this name: trampolines and multi-probes stand there. `None` where
/// its list cannot be read.
#[must_use]
pub fn is_traceable(name: &str) -> Option<bool> {
    let text = filter_functions().ok()?;
    Some(names_of(&text).any(|n| n == name))
}

/// ftrace's list of the functions that it can trace.
fn filter_functions() -> Result<String, String> {
    let list = tracefs()
        .map_err(|e| e.to_string())?
        .join("available_filter_functions");
    fs::read_to_string(&list).map_err(|e| format!("cannot read {}: {e}", list.display()))
}

/// The names in that list; a module stands behind some.
fn names_of(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .filter_map(|l| l.split_ascii_whitespace().next())
}

/// Does `name` match `pattern`, in which `*` stands for any text and `?` for one character?
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<u8>, Vec<u8>) = (pattern.bytes().collect(), name.bytes().collect());
    // The place behind the last star, and where its text ended so far.
    let (mut at, mut to, mut star) = (0, 0, None);
    while to < n.len() {
        if at < p.len() && p[at] == b'*' {
            star = Some((at + 1, to));
            at += 1;
        } else if at < p.len() && (p[at] == b'?' || p[at] == n[to]) {
            at += 1;
            to += 1;
        } else if let Some((behind, end)) = star {
            star = Some((behind, end + 1));
            at = behind;
            to = end + 1;
        } else {
            return false;
        }
    }
    p[at..].iter().all(|c| *c == b'*')
}

/// What ftrace says that it can trace.
enum Traced {
    /// Where it stands in each: at its beginning, or a few bytes behind (`endbr64`, `bti`).
    At(BTreeSet<u64>),
    /// By their names, which others may have too.
    Named(BTreeSet<String>),
}

/// How far behind the beginning of a function ftrace may stand, if that does not end before.
const ENTRY_BYTES: u64 = 16;

impl Traced {
    fn of_kernel() -> Result<Self, String> {
        // Since 6.5.
        if let Ok(dir) = tracefs()
            && let Ok(list) = fs::read_to_string(dir.join("available_filter_functions_addrs"))
        {
            let address = |line: &str| u64::from_str_radix(line.split_once(' ')?.0, 16).ok();
            return Ok(Self::At(list.lines().filter_map(address).collect()));
        }
        let list = filter_functions()?;
        Ok(Self::Named(names_of(&list).map(str::to_owned).collect()))
    }

    /// The addresses of the functions among `symbols` that can be traced.
    fn among(&self, symbols: &[(u64, &str)]) -> BTreeSet<u64> {
        match self {
            Self::At(places) => {
                let mut starts: Vec<u64> = symbols.iter().map(|(address, _)| *address).collect();
                starts.sort_unstable();
                starts.dedup();
                let ends = starts.iter().skip(1).chain([&u64::MAX]);
                let entries = starts.iter().zip(ends);
                let traced = entries.filter(|(start, next)| {
                    let end = (**next).min(start.saturating_add(ENTRY_BYTES));
                    places.range(**start..end).next().is_some()
                });
                traced.map(|(start, _)| *start).collect()
            }
            Self::Named(names) => {
                let at = |wanted: &str| {
                    let found = symbols.iter().find(|(_, name)| *name == wanted);
                    found.map_or(0, |(address, _)| *address)
                };
                // What was there is gone since the kernel came up; its names are not.
                let init = at("_sinittext")..at("_einittext");
                let traced = (symbols.iter())
                    .filter(|(address, name)| names.contains(*name) && !init.contains(address));
                traced.map(|(address, _)| *address).collect()
            }
        }
    }
}

/// Addresses of all functions whose name matches `pattern` and that ftrace can trace, in order of
/// address. A name that several functions have stands for all of them that can be traced, where ftrace says
/// which those are (since 6.5); of a function with several names ftrace lists one (of `__x64_sys_getppid`
/// another architecture's), and any matches.
///
/// # Errors
/// In words: what cannot be read.
pub fn traceable(pattern: &str) -> Result<BTreeMap<u64, String>, String> {
    let traced = Traced::of_kernel()?;
    let text = kallsyms()?;
    let symbols: Vec<_> = symbols(&text).collect();
    if symbols.iter().all(|(address, _)| *address == 0) {
        return Err(
            "the kernel hides its addresses; set /proc/sys/kernel/kptr_restrict to 1 or 0"
                .to_owned(),
        );
    }
    let listed = traced.among(&symbols);
    let found = symbols.into_iter();
    let found = found.filter(|(address, name)| matches(pattern, name) && listed.contains(address));
    Ok(found
        .map(|(address, name)| (address, name.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_shell_would() {
        for (pattern, name, want) in [
            ("vfs_*", "vfs_read", true),
            ("vfs_*", "xvfs_read", false),
            ("*_read", "vfs_read", true),
            ("v?s_*d", "vfs_read", true),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("vfs_read", "vfs_read", true),
            ("vfs_read?", "vfs_read", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn only_functions_are_read_off() {
        let text = "ffffffff81000000 T _text\nffffffff81000010 t f.isra.0\nffff D data\n\
                    0000 W weak\t[mod]\n";
        let names: Vec<_> = symbols(text).collect();
        assert_eq!(
            names,
            [
                (0xffff_ffff_8100_0000, "_text"),
                (0xffff_ffff_8100_0010, "f.isra.0"),
                (0, "weak")
            ]
        );
    }

    #[test]
    fn of_a_name_those_are_taken_that_can_be_traced() {
        let symbols = [
            (0x100, "_sinittext"),
            (0x100, "setup"),
            (0x180, "get_bits"),
            (0x200, "_einittext"),
            (0x300, "get_bits"),
            (0x400, "sync_regs"),
            (0x500, "other_name"),
            (0x500, "sync_regs"),
        ];
        let at = Traced::At([0x304, 0x500].into());
        assert_eq!(at.among(&symbols), [0x300, 0x500].into());
        // One of them cannot be told from the other there.
        let named = Traced::Named(["get_bits", "sync_regs"].map(str::to_owned).into());
        assert_eq!(named.among(&symbols), [0x300, 0x400, 0x500].into());
    }

    #[test]
    fn this_kernel_is_known() {
        assert!(matches!(look_up("do_exit"), Known::Functions(1..)));
        let Known::None { hint } = look_up("do_exi") else {
            panic!("there is no do_exi");
        };
        assert!(hint.contains("do_exit"), "{hint}");
    }
}
