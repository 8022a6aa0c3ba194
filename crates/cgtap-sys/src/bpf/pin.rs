//! Pins in bpffs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::link::Link;
use super::map::Map;
use super::prog::Prog;
use super::{cstring, own};
use crate::errno::SysError;

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

fn get_fd(path: &Path) -> Result<OwnedFd, SysError> {
    let call = "BPF_OBJ_GET";
    let path = cstring(call, path.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let ret = unsafe { libbpf_sys::bpf_obj_get(path.as_ptr()) };
    own(call, ret)
}

/// A descriptor of the map pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no map.
pub fn get_map(path: &Path) -> Result<Map, SysError> {
    Map::from_fd(get_fd(path)?)
}

/// A descriptor of the program pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no program.
pub fn get_prog(path: &Path) -> Result<Prog, SysError> {
    Prog::from_fd(get_fd(path)?)
}

/// A descriptor of the link pinned at `path`.
///
/// # Errors
/// `ENOENT` if nothing is there, `EINVAL` if it is no link.
pub fn get_link(path: &Path) -> Result<Link, SysError> {
    Link::from_fd(get_fd(path)?)
}
