//! The bpf(2) system call through libbpf's thin wrappers, one module a kind of object. Every
//! descriptor is close-on-exec, as the kernel makes them.

mod btf;
mod cgroup;
mod grace;
mod link;
mod map;
mod pin;
mod prog;
mod types;

pub use btf::{load_btf, module_btf};
pub use cgroup::{attach_cgroup_device, detach_cgroup_device, load_cgroup_device};
pub use grace::grace_period;
pub use link::{Link, LinkInfo};
pub use map::{Map, MapEntry, MapInfo, MapSpec, flags as map_flags, possible_cpus};
pub use pin::{get_link, get_map, get_prog, pin};
pub use prog::{LoadError, Prog, ProgInfo, ProgSpec};
pub use types::{AttachType, CGRP_STORAGE, MapType, ProgType, has_map_type, map_type_name};

use std::ffi::CString;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::errno::{Errno, SysError};

/// Takes a descriptor that a call returned, or its negative error.
fn own(call: &'static str, ret: i32) -> Result<OwnedFd, SysError> {
    let fd = SysError::check(call, ret)?;
    // SAFETY: the call returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn cstring(call: &'static str, text: &[u8]) -> Result<CString, SysError> {
    CString::new(text).map_err(|_| SysError {
        call,
        errno: Errno::EINVAL,
    })
}

/// The kernel takes 15 characters of letters, digits, `_` and `.` as the name of an object.
fn object_name(name: &str) -> CString {
    let clean: Vec<u8> = name
        .bytes()
        .filter(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'.')
        .take(15)
        .collect();
    CString::new(clean).unwrap_or_default()
}
