//! Who asks: whether the kernel's refusal may be for want of capabilities.

use std::fs;

use cgtap_sys::Errno;

/// A capability by its number (include/uapi/linux/capability.h), and what takes it.
pub(super) struct Capability {
    pub(super) name: &'static str,
    bit: u32,
    /// CAP_SYS_ADMIN includes it, as it did before 5.8.
    is_in_sys_admin: bool,
    pub(super) use_of: &'static str,
}

pub(super) const CAPABILITIES: [Capability; 4] = [
    Capability {
        name: "CAP_BPF",
        bit: 39,
        is_in_sys_admin: true,
        use_of: "loading programs, making maps and pinning",
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        is_in_sys_admin: true,
        use_of: "tracing programs that read the kernel's memory, and attaching them",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: 21,
        is_in_sys_admin: true,
        use_of: "looking at loaded programs (run counts, misses) and waiting for those that run",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        bit: 2,
        is_in_sys_admin: false,
        use_of: "finding a cgroup by its id",
    },
];

/// The process that asks.
pub(super) struct Caller {
    effective: Option<u64>,
    pub(super) uid: u32,
    pub(super) is_in_user_namespace: bool,
}

impl Caller {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let effective = status
            .lines()
            .find_map(|l| l.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        // The first namespace maps every id to itself.
        let is_in_user_namespace = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
            map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
        });
        Self {
            effective,
            uid: rustix::process::geteuid().as_raw(),
            is_in_user_namespace,
        }
    }

    pub(super) fn has(&self, capability: &Capability) -> Option<bool> {
        let sys_admin = if capability.is_in_sys_admin {
            1u64 << 21
        } else {
            0
        };
        self.effective
            .map(|set| set & (1u64 << capability.bit | sys_admin) != 0)
    }

    /// The capabilities that are missing, in words; empty if none is.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        CAPABILITIES
            .iter()
            .filter(|c| self.has(c) == Some(false))
            .map(|c| c.name)
            .collect()
    }

    /// What may be behind a refusal by this errno, for `why`.
    pub(super) fn reason(&self, errno: Errno) -> String {
        let missing = self.missing();
        match errno {
            Errno::EPERM | Errno::EACCES if !missing.is_empty() => {
                format!("{errno}: {} missing", missing.join(", "))
            }
            Errno::EPERM | Errno::EACCES if self.is_in_user_namespace => {
                format!("{errno}: capabilities of a user namespace do not count here")
            }
            _ => errno.to_string(),
        }
    }

    /// This errno is about who asks, and tells nothing of the kernel.
    pub(super) fn is_about_us(&self, errno: Errno) -> bool {
        matches!(errno, Errno::EPERM | Errno::EACCES)
            && (!self.missing().is_empty() || self.is_in_user_namespace)
    }
}
