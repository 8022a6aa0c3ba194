//! Links.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::prog::Prog;
use super::{cstring, own};
use crate::errno::SysError;

/// A descriptor of a link. The attachment lives as long as a descriptor or a pin of it.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id.
    pub id: u32,
    /// Id of the program behind it.
    pub prog_id: u32,
}

impl Link {
    /// Attaches a program to a raw tracepoint (`BPF_RAW_TRACEPOINT_OPEN`; a link since 5.7).
    /// Without a name for a program that is typed by BTF and knows its target.
    ///
    /// # Errors
    /// `ENOENT` if there is no such tracepoint, `EINVAL` if the program reads behind its
    /// arguments or writes behind its buffer.
    pub fn raw_tracepoint(prog: &Prog, name: Option<&str>) -> Result<Self, SysError> {
        let call = "BPF_RAW_TRACEPOINT_OPEN";
        let name = name.map(|n| cstring(call, n.as_bytes())).transpose()?;
        let name = name.as_ref().map_or(std::ptr::null(), |n| n.as_ptr());
        // SAFETY: the name is null or NUL-terminated and outlives the call.
        let ret = unsafe { libbpf_sys::bpf_raw_tracepoint_open(name, prog.as_fd().as_raw_fd()) };
        own(call, ret).map(|fd| Self { fd })
    }

    /// Attaches a program to a perf event (`BPF_LINK_CREATE` with `BPF_PERF_EVENT`, since 5.15);
    /// the link keeps the event.
    ///
    /// # Errors
    /// `EACCES` if the program reads behind the tracepoint's record, `E2BIG` when 64 programs are
    /// attached there already.
    pub fn perf_event(prog: &Prog, event: BorrowedFd<'_>) -> Result<Self, SysError> {
        // SAFETY: takes descriptors only; null options are allowed.
        let ret = unsafe {
            libbpf_sys::bpf_link_create(
                prog.as_fd().as_raw_fd(),
                event.as_raw_fd(),
                libbpf_sys::BPF_PERF_EVENT,
                std::ptr::null(),
            )
        };
        own("BPF_LINK_CREATE", ret).map(|fd| Self { fd })
    }

    /// Takes a descriptor, which must be one of a link.
    ///
    /// # Errors
    /// `EINVAL` if it is not.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SysError> {
        let link = Self { fd };
        link.info()?;
        Ok(link)
    }

    /// What the kernel tells of it.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn info(&self) -> Result<LinkInfo, SysError> {
        // SAFETY: all-zero is a valid value of this plain C struct.
        let mut info: libbpf_sys::bpf_link_info = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&info) as u32;
        // SAFETY: `info` is writable for `len` bytes and asks for no buffer.
        let ret = unsafe {
            libbpf_sys::bpf_link_get_info_by_fd(self.fd.as_raw_fd(), &raw mut info, &raw mut len)
        };
        SysError::check("BPF_OBJ_GET_INFO_BY_FD", ret)?;
        Ok(LinkInfo {
            id: info.id,
            prog_id: info.prog_id,
        })
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
