//! What libbpf's refusals mean.

use cgtap_sys::libbpf::LibbpfError;

use super::error::Problem;

/// `CAP_SYS_ADMIN`, which includes the two below.
const CAP_SYS_ADMIN: u64 = 21;
/// Needed to load tracing programs.
const CAP_PERFMON: u64 = 38;
/// Needed to create maps and to load BTF and programs.
const CAP_BPF: u64 = 39;

/// The problem behind an error of libbpf.
pub(super) fn verdict(error: LibbpfError) -> Problem {
    let capabilities = effective_capabilities();
    let kernel_btf = std::path::Path::new("/sys/kernel/btf/vmlinux").exists();
    judge(error, capabilities, kernel_btf)
}

/// The set of effective capabilities as a bit mask; all of them if the kernel does not tell.
fn effective_capabilities() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(u64::MAX)
}

fn missing(capabilities: u64) -> Vec<&'static str> {
    let has = |capability: u64| capabilities >> capability & 1 == 1;
    if has(CAP_SYS_ADMIN) {
        return Vec::new();
    }
    [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|(capability, _)| !has(*capability))
        .map(|(_, name)| name)
        .collect()
}

fn judge(error: LibbpfError, capabilities: u64, kernel_btf: bool) -> Problem {
    let errno = error.errno.0;
    let missing = missing(capabilities);
    // rustix's numbers: EPERM and EACCES.
    if (errno == 1 || errno == 13) && !missing.is_empty() {
        return Problem::Permission {
            missing: missing.join(" and "),
            errno,
            log: error.log,
        };
    }
    let says = |words: &str| error.log.contains(words);
    if says("BTF is required, but is missing or corrupted") {
        return Problem::NoBtf {
            needs: "a map defined by types (`SEC(\".maps\")`)".to_owned(),
            log: error.log,
        };
    }
    if !kernel_btf && (says("vmlinux BTF") || says("kernel BTF is missing")) {
        return Problem::KernelWithoutBtf { log: error.log };
    }
    Problem::Libbpf {
        doing: error.doing.to_owned(),
        summary: error.summary(),
        errno,
        log: error.log,
    }
}

#[cfg(test)]
mod tests {
    use cgtap_sys::Errno;

    use super::*;

    fn error(errno: i32, log: &str) -> LibbpfError {
        LibbpfError {
            doing: "prepare the object",
            errno: Errno(errno),
            log: log.to_owned(),
            last: String::new(),
        }
    }

    #[test]
    fn the_missing_capability_is_named() {
        let problem = judge(error(1, "x"), 0, true);
        assert_eq!(
            problem.to_string(),
            "no permission for bpf(2): CAP_BPF and CAP_PERFMON missing; run it as root, or grant \
             that"
        );
        let problem = judge(error(1, "x"), 1 << CAP_BPF, true);
        assert!(problem.to_string().contains("2): CAP_PERFMON missing"));
        // With all capabilities the refusal has another cause, which libbpf may know.
        let problem = judge(error(1, "map 'm': failed"), 1 << CAP_SYS_ADMIN, true);
        assert!(matches!(problem, Problem::Libbpf { errno: 1, .. }));
    }

    #[test]
    fn a_kernel_without_btf_is_told_from_other_lacks() {
        let log = "kernel BTF is missing at '/sys/kernel/btf/vmlinux', was CONFIG_DEBUG_INFO_BTF \
                   enabled?\nError loading vmlinux BTF: -ESRCH";
        assert!(matches!(
            judge(error(3, log), u64::MAX, false),
            Problem::KernelWithoutBtf { .. }
        ));
        assert!(matches!(
            judge(error(3, log), u64::MAX, true),
            Problem::Libbpf { .. }
        ));
    }
}
