//! Opening a cgroup by its id.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::SysError;

/// `struct file_handle` with room for a kernfs id.
#[repr(C)]
struct Handle {
    handle_bytes: u32,
    handle_type: i32,
    id: u64,
}

/// `FILEID_KERNFS` (include/linux/exportfs.h): the handle is the node's 64-bit id.
const FILEID_KERNFS: i32 = 0xfe;

/// Opens the cgroup with this id in the hierarchy that `mount` lies in, as a path
/// (`open_by_handle_at`, kernfs handles since 4.14).
///
/// # Errors
/// `ESTALE` if there is none, or none any more; `EPERM` without CAP_DAC_READ_SEARCH.
pub fn open_cgroup(mount: BorrowedFd<'_>, id: u64) -> Result<OwnedFd, SysError> {
    let mut handle = Handle {
        handle_bytes: 8,
        handle_type: FILEID_KERNFS,
        id,
    };
    // SAFETY: the handle has the layout and the length it states, and outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if ret < 0 {
        return Err(SysError::last("open_by_handle_at"));
    }
    // SAFETY: the call returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(ret as i32) })
}
