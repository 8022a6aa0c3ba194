//! Loading BTF.

use std::os::fd::{AsRawFd, OwnedFd};

use super::own;
use crate::errno::{Errno, SysError};

/// Loads raw BTF into the kernel, which checks it (`BPF_BTF_LOAD`).
///
/// # Errors
/// The kernel's answer; `EINVAL` for BTF it does not take.
pub fn load_btf(raw: &[u8]) -> Result<OwnedFd, SysError> {
    // SAFETY: `raw` is readable for its length; null options are allowed.
    let ret = unsafe {
        libbpf_sys::bpf_btf_load(raw.as_ptr().cast(), raw.len() as _, std::ptr::null_mut())
    };
    own("BPF_BTF_LOAD", ret)
}

/// A descriptor of the BTF that the kernel keeps for the module `name` (since 5.11).
///
/// # Errors
/// `ENOENT` for a module that is not loaded or has no BTF, `EPERM` without CAP_SYS_ADMIN.
pub fn module_btf(name: &str) -> Result<OwnedFd, SysError> {
    let mut id = 0;
    loop {
        // SAFETY: the id is writable; the end of the list is ENOENT.
        let ret = unsafe { libbpf_sys::bpf_btf_get_next_id(id, &raw mut id) };
        SysError::check("BPF_BTF_GET_NEXT_ID", ret)?;
        // SAFETY: takes a number only.
        let fd = match own("BPF_BTF_GET_FD_BY_ID", unsafe {
            libbpf_sys::bpf_btf_get_fd_by_id(id)
        }) {
            Ok(fd) => fd,
            // It went meanwhile.
            Err(e) if e.errno == Errno::ENOENT => continue,
            Err(e) => return Err(e),
        };
        let mut buffer = [0u8; 64];
        let mut info = libbpf_sys::bpf_btf_info {
            name: buffer.as_mut_ptr() as u64,
            name_len: buffer.len() as u32,
            ..Default::default()
        };
        let mut len = size_of_val(&info) as u32;
        // SAFETY: `info` is writable for `len` bytes, and the buffer it names for `name_len`.
        let ret = unsafe {
            libbpf_sys::bpf_btf_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut len)
        };
        SysError::check("BPF_OBJ_GET_INFO_BY_FD", ret)?;
        let end = buffer.iter().position(|b| *b == 0).unwrap_or(buffer.len());
        if info.kernel_btf != 0 && &buffer[..end] == name.as_bytes() {
            return Ok(fd);
        }
    }
}
