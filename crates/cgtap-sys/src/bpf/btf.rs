//! Loading BTF.

use std::os::fd::OwnedFd;

use super::own;
use crate::errno::SysError;

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
