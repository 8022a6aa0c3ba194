//! Grace periods.

use crate::errno::SysError;

/// Returns when every program that was running at the call has ended: an RCU grace period
/// (`membarrier(MEMBARRIER_CMD_GLOBAL)`, since 4.3: kernel/sched/membarrier.c calls
/// `synchronize_rcu`).
///
/// # Errors
/// `EINVAL` on a kernel with nohz_full CPUs, `ENOSYS` without membarrier.
pub fn grace_period() -> Result<(), SysError> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers only.
    let ret = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if ret < 0 {
        Err(SysError::last("membarrier"))
    } else {
        Ok(())
    }
}
