//! What of the environment goes into a guest.

use cgtap_guest_init::{OUT_DIR, OUT_VARIABLE};

use crate::Result;

/// Variables by name. The rest of the host's may name what no guest has (sockets, sessions) or what
/// is none of its business.
const NAMES: [&str; 8] = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TERM",
    "LD_LIBRARY_PATH",
    "NO_COLOR",
    "LLVM_PROFILE_FILE",
];
/// Variables by the beginning of the name: cargo's, ours, Rust's.
const PREFIXES: [&str; 5] = ["CARGO", "CGTAP_", "RUST", "LC_", "PROPTEST_"];
/// Debian keeps bpftool and ip where users' PATH does not look; a guest's command is root.
const SBIN: &str = "/usr/sbin:/sbin";

/// The environment of a guest's command. `extra` are names, or `NAME=VALUE`.
pub fn for_guest(kernel: &str, extra: &[String]) -> Result<Vec<(String, String)>> {
    let mut env: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            NAMES.contains(&name.as_str()) || PREFIXES.iter().any(|p| name.starts_with(p))
        })
        .collect();
    let mut set = |name: &str, value: String| {
        env.retain(|(n, _)| n != name);
        env.push((name.to_owned(), value));
    };
    let path = std::env::var("PATH").unwrap_or_default();
    set("PATH", format!("{path}:{SBIN}"));
    set(OUT_VARIABLE, OUT_DIR.to_owned());
    set("CGTAP_GUEST", kernel.to_owned());
    // Nothing is built in a guest that was built outside: tests ask for this variable.
    set("CI", "1".to_owned());
    for word in extra {
        match word.split_once('=') {
            Some((name, value)) => set(name, value.to_owned()),
            None => {
                let value = std::env::var(word)
                    .map_err(|e| format!("--env {word}: the environment has no such text: {e}"))?;
                set(word, value);
            }
        }
    }
    Ok(env)
}
