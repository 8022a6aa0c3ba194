//! The kernel's own cgroup attachments, which the benches compare ours with.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::own;
use super::prog::Prog;
use crate::errno::SysError;

/// `BPF_F_ALLOW_MULTI` (include/uapi/linux/bpf.h).
const ALLOW_MULTI: u32 = 2;

/// Loads a cgroup/dev program that allows everything (`BPF_PROG_TYPE_CGROUP_DEVICE`, since 4.15).
///
/// # Errors
/// The kernel's answer: `EPERM` without CAP_BPF, `EINVAL` without CONFIG_CGROUP_BPF.
pub fn load_cgroup_device() -> Result<Prog, SysError> {
    // r0 = 1; exit
    let insns: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    // SAFETY: names are NUL-terminated literals, the two instructions outlive the call and are
    // copied by the kernel; null options are allowed.
    let ret = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_CGROUP_DEVICE,
            c"allow_all".as_ptr(),
            c"GPL".as_ptr(),
            insns.as_ptr().cast(),
            insns.len() as _,
            std::ptr::null_mut(),
        )
    };
    Prog::from_fd(own("BPF_PROG_LOAD", ret)?)
}

/// Attaches a cgroup/dev program to a cgroup, beside those that are there (`BPF_PROG_ATTACH`). The
/// kernel computes the effective array of every descendant before this returns.
///
/// # Errors
/// The kernel's answer: `EPERM` where an ancestor's program excludes others.
pub fn attach_cgroup_device(prog: &Prog, cgroup: BorrowedFd<'_>) -> Result<(), SysError> {
    // SAFETY: takes descriptors and numbers only.
    let ret = unsafe {
        libbpf_sys::bpf_prog_attach(
            prog.as_fd().as_raw_fd(),
            cgroup.as_raw_fd(),
            libbpf_sys::BPF_CGROUP_DEVICE,
            ALLOW_MULTI,
        )
    };
    SysError::check("BPF_PROG_ATTACH", ret).map(drop)
}

/// Detaches it again (`BPF_PROG_DETACH`).
///
/// # Errors
/// `ENOENT` if it is not attached there.
pub fn detach_cgroup_device(prog: &Prog, cgroup: BorrowedFd<'_>) -> Result<(), SysError> {
    // SAFETY: takes descriptors and numbers only.
    let ret = unsafe {
        libbpf_sys::bpf_prog_detach2(
            prog.as_fd().as_raw_fd(),
            cgroup.as_raw_fd(),
            libbpf_sys::BPF_CGROUP_DEVICE,
        )
    };
    SysError::check("BPF_PROG_DETACH", ret).map(drop)
}
