//! Pins in bpffs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::link::Link;
use super::map::Map;
use super::prog::Prog;
use super::{cstring, own};
use crate::errno::{Errno, SysError};

/// Pins an object at a path that must not exist yet (`BPF_OBJ_PIN`).
///
/// # Errors
/// `EEXIST`, `EPERM` (a dot in the name, or no CAP_BPF), `ENOENT`, `EROFS`, `ENOSPC`.
pub fn pin(object: &impl AsFd, path: &Path) -> Result<(), SysError> {
    let call = "BPF_OBJ_PIN";
    let path = cstring(call, path.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let ret = unsafe { libbpf_sys::bpf_obj_pin(object.as_fd().as_raw_fd(), path.as_ptr()) };
    SysError::check(call, ret).map(drop)
}

/// Opens what is pinned at `path`, which must be of the kind that the kernel names `kind`: what
/// it tells of one kind of object reads as nonsense of another, not as an error.
fn get_fd(path: &Path, kind: &str) -> Result<OwnedFd, SysError> {
    let call = "BPF_OBJ_GET";
    let path = cstring(call, path.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let ret = unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) };
    let fd = own(call, ret)?;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    match std::fs::read_link(link) {
        Ok(name) if name.as_os_str() != kind => Err(SysError {
            call,
            errno: Errno::EINVAL,
        }),
        // Without /proc nothing is known, and our own pins are of the right kind.
        _ => Ok(fd),
    }
}

/// A descriptor of the map pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no map.
pub fn get_map(path: &Path) -> Result<Map, SysError> {
    Map::from_fd(get_fd(path, "anon_inode:bpf-map")?)
}

/// A descriptor of the program pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no program.
pub fn get_prog(path: &Path) -> Result<Prog, SysError> {
    Prog::from_fd(get_fd(path, "anon_inode:bpf-prog")?)
}

/// A descriptor of the link pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no link.
pub fn get_link(path: &Path) -> Result<Link, SysError> {
    // A link that was just made is `bpf_link`; one that comes from a pin is `bpf-link`
    // (kernel/bpf/syscall.c, `bpf_link_prime` and `bpf_link_new_fd`).
    Link::from_fd(get_fd(path, "anon_inode:bpf-link")?)
}
