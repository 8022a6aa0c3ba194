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
    /// Events of a probe in the kernel for which that program was not called: it was hit within another's
    /// handler, or more calls than it has places for had not returned yet. Since 6.7; 0 before, and of other
    /// links (`bpf_perf_link_fill_kprobe`, `bpf_kprobe_multi_link_fill_link_info`).
    pub missed: u64,
}

fn missed(info: &libbpf_sys::bpf_link_info) -> u64 {
    use libbpf_sys::{BPF_LINK_TYPE_KPROBE_MULTI, BPF_LINK_TYPE_PERF_EVENT};
    use libbpf_sys::{BPF_PERF_EVENT_KPROBE, BPF_PERF_EVENT_KRETPROBE};
    match info.type_ {
        // SAFETY: all members of the union are plain numbers, and it began as zeros.
        BPF_LINK_TYPE_KPROBE_MULTI => unsafe { info.__bindgen_anon_1.kprobe_multi.missed },
        BPF_LINK_TYPE_PERF_EVENT => {
            // SAFETY: as above.
            let event = unsafe { info.__bindgen_anon_1.perf_event };
            match event.type_ {
                // SAFETY: as above.
                BPF_PERF_EVENT_KPROBE | BPF_PERF_EVENT_KRETPROBE => unsafe {
                    event.__bindgen_anon_1.kprobe.missed
                },
                _ => 0,
            }
        }
        _ => 0,
    }
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

    /// `BPF_LINK_CREATE` without options.
    fn create(
        prog: &Prog,
        target: BorrowedFd<'_>,
        attach_type: libbpf_sys::bpf_attach_type,
    ) -> Result<Self, SysError> {
        // SAFETY: takes descriptors only; null options are allowed.
        let ret = unsafe {
            libbpf_sys::bpf_link_create(
                prog.as_fd().as_raw_fd(),
                target.as_raw_fd(),
                attach_type,
                std::ptr::null(),
            )
        };
        own("BPF_LINK_CREATE", ret).map(|fd| Self { fd })
    }

    /// Attaches a program to a perf event (`BPF_LINK_CREATE` with `BPF_PERF_EVENT`, since 5.15);
    /// the link keeps the event.
    ///
    /// # Errors
    /// `EACCES` if the program reads behind the tracepoint's record, `E2BIG` when 64 programs are
    /// attached there already.
    pub fn perf_event(prog: &Prog, event: BorrowedFd<'_>) -> Result<Self, SysError> {
        Self::create(prog, event, libbpf_sys::BPF_PERF_EVENT)
    }

    /// Attaches a program to the entry (or, with `is_return`, the return) of every function that
    /// starts at one of these addresses (`BPF_TRACE_KPROBE_MULTI`, since 5.18). The program is
    /// loaded with [`AttachType::TraceKprobeMulti`](super::AttachType::TraceKprobeMulti).
    ///
    /// # Errors
    /// `EOPNOTSUPP` on a kernel without `CONFIG_FPROBE`, `EINVAL` for no address, `ENOENT` or
    /// `EINVAL` for one where no function starts that can be traced.
    pub fn kprobe_multi(prog: &Prog, addresses: &[u64], is_return: bool) -> Result<Self, SysError> {
        const BPF_F_KPROBE_MULTI_RETURN: u32 = 1;
        // SAFETY: all-zero is the documented default of this plain C struct.
        let mut opts: libbpf_sys::bpf_link_create_opts = unsafe { std::mem::zeroed() };
        opts.sz = size_of_val(&opts) as _;
        opts.__bindgen_anon_1.kprobe_multi.flags = if is_return {
            BPF_F_KPROBE_MULTI_RETURN
        } else {
            0
        };
        opts.__bindgen_anon_1.kprobe_multi.cnt = addresses.len() as u32;
        opts.__bindgen_anon_1.kprobe_multi.addrs = addresses.as_ptr();
        // SAFETY: the options name an array that is readable for its length; both outlive the
        // call.
        let ret = unsafe {
            libbpf_sys::bpf_link_create(
                prog.as_fd().as_raw_fd(),
                0,
                libbpf_sys::BPF_TRACE_KPROBE_MULTI,
                &raw const opts,
            )
        };
        own("BPF_LINK_CREATE", ret).map(|fd| Self { fd })
    }

    /// Attaches a cgroup/dev program to a cgroup and all below it, beside those that are there
    /// (`BPF_LINK_CREATE` with `BPF_CGROUP_DEVICE`, since 5.7; a link implies `BPF_F_ALLOW_MULTI`).
    /// The kernel computes the effective array of every descendant before this returns.
    ///
    /// # Errors
    /// `EPERM` where a program that excludes others is attached to the cgroup or above it, `E2BIG` when
    /// 64 are attached there already.
    pub fn cgroup_device(prog: &Prog, cgroup: BorrowedFd<'_>) -> Result<Self, SysError> {
        Self::create(prog, cgroup, libbpf_sys::BPF_CGROUP_DEVICE)
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
            missed: missed(&info),
        })
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
