//! What the server may do once it runs.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::failure::Failure;

/// All that a reading needs of what root may do.
///
/// Pins, the maps behind them and the files of cgroups need none: they belong to root, which the
/// server still is. These were found by taking each away (Linux 6.18):
///
/// - `SYS_ADMIN`: a dispatcher's lost events stand in its program, which is found by its id, and
///   BPF_PROG_GET_FD_BY_ID asks for exactly this. The first reading after a configured cgroup has
///   gone also mends the state, for which maps and programs are made; this stands for CAP_BPF and
///   CAP_PERFMON there.
/// - `DAC_READ_SEARCH`: cgroups are found by their ids with open_by_handle_at(2).
///
/// Keeping a policy in force (`--config`) needs no more than these, found in the same way:
///
/// - `SYS_ADMIN`: maps, programs and links of meters, chargers and gates are made. CAP_BPF and
///   CAP_PERFMON would do for that, and are not kept beside it, since it includes both. Pins are
///   made and taken away as root, which owns the state: CAP_DAC_OVERRIDE is not needed.
/// - `DAC_READ_SEARCH`: cgroups by their ids, as above; a policy that only its owner may read.
pub const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_READ_SEARCH);

/// What reading the open files of processes needs besides, which other users and processes with more
/// privileges have: /proc/PID/fd and fdinfo ask for it. Kept only where a meter reads them, or may come
/// to by a policy.
pub const FOR_PROCESSES: CapabilitySet = CapabilitySet::SYS_PTRACE;

/// Gives up all but `keep`, for this thread and those that it starts, and for good: nothing that
/// it executes gets more.
///
/// # Errors
/// [`Failure::System`] if the kernel refuses.
pub fn drop_all_but(keep: CapabilitySet) -> Result<(), Failure> {
    let refused = |e| Failure::system("cannot give up privileges", e);
    set_no_new_privs(true).map_err(refused)?;
    let held = capabilities(None).map_err(refused)?;
    let kept = held.permitted & keep;
    // Only who may set capabilities can take from the bounding set; whoever may not gains nothing
    // from it either, with no new privileges.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            // An error says that the kernel knows no more of them.
            match capability_is_in_bounding_set(one) {
                Ok(true) if !keep.contains(one) => {
                    remove_capability_from_bounding_set(one).map_err(refused)?;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
    .map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of this thread's status.
    fn field(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let field = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        u64::from_str_radix(field.trim(), 16).unwrap()
    }

    #[test]
    fn nothing_but_what_a_reading_needs_is_kept() {
        assert!(
            rustix::process::geteuid().is_root(),
            "run this as root, or with `./dev test`"
        );
        // Capabilities are a thread's own: other tests keep theirs.
        std::thread::spawn(|| {
            drop_all_but(KEPT).unwrap();
            for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
                assert_eq!(field(name), KEPT.bits(), "{name}");
            }
            assert_eq!(field("CapInh:"), 0);
            assert_eq!(field("NoNewPrivs:"), 1);
            // A thread that it starts has no more.
            let below = std::thread::spawn(|| field("CapEff:")).join().unwrap();
            assert_eq!(below, KEPT.bits());
            // Again is no error.
            drop_all_but(KEPT).unwrap();
        })
        .join()
        .unwrap();
    }
}
