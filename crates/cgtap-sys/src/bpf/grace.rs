//! Grace periods.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use super::map::{Map, MapSpec};
use super::types::MapType;
use crate::errno::SysError;

/// A map of maps, and the map that is put into it again and again.
static MAPS: OnceLock<(Map, Map)> = OnceLock::new();

fn make() -> Result<(Map, Map), SysError> {
    let inner = Map::create(&MapSpec {
        name: "cgtap_grace",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        flags: 0,
    })?;
    Ok((Map::of_maps("cgtap_graces", &inner)?, inner))
}

/// Returns when every program that was running at the call has ended: an RCU grace period. The kernel
/// waits for one when an entry of a map of maps is replaced, since 4.20 (kernel/bpf/syscall.c,
/// `maybe_wait_bpf_programs()`), wherever programs run: `membarrier(MEMBARRIER_CMD_GLOBAL)` waits for none
/// while one CPU is online, and refuses on kernels with `nohz_full=` CPUs (kernel/sched/membarrier.c).
///
/// # Errors
/// `EPERM` without CAP_BPF; `ENOMEM`, `EMFILE`.
pub fn grace_period() -> Result<(), SysError> {
    let (outer, inner) = match MAPS.get() {
        Some(maps) => maps,
        None => {
            let made = make()?;
            MAPS.get_or_init(|| made)
        }
    };
    let fd = inner.as_fd().as_raw_fd();
    outer.update(&0u32.to_ne_bytes(), &fd.to_ne_bytes())
}
