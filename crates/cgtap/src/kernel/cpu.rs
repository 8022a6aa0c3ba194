//! Which CPUs there are.

use std::fs;
use std::io;

/// Where the kernel lists the CPUs that run.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The CPUs that are online, in order.
///
/// # Errors
/// If the kernel's list cannot be read.
pub fn online() -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(ONLINE)?;
    parse(text.trim()).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{}` in {ONLINE} is no list of CPUs", text.trim()),
        )
    })
}

/// Reads `0-3,8,10-11` (Documentation/admin-guide/cputopology.rst).
fn parse(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cpus_is_read() {
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("0-1"), Some(vec![0, 1]));
        assert_eq!(parse("0-1,4,6-7"), Some(vec![0, 1, 4, 6, 7]));
        assert_eq!(parse(""), None);
        assert_eq!(parse("0-"), None);
    }

    #[test]
    fn somebody_runs_this() {
        assert!(!online().unwrap().is_empty());
    }
}
