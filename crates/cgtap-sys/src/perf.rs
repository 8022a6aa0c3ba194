//! Perf events.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::Prog;
use crate::errno::{Errno, SysError};

/// The head of `struct perf_event_attr`, version 1 (`PERF_ATTR_SIZE_VER1`, 72 bytes): all that is
/// needed here.
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
}

const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;

/// Opens the tracepoint with this tracefs id as a perf event for every task on CPU 0. A program
/// that is set on it runs on all CPUs: the kernel keeps programs with the tracepoint
/// (kernel/events/core.c, `perf_event_attach_bpf_prog`).
///
/// # Errors
/// `EACCES`/`EPERM` without CAP_PERFMON, `EINVAL` for an id that is no tracepoint.
pub fn open_tracepoint(id: u64) -> Result<OwnedFd, SysError> {
    let attr = Attr {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attr>() as u32,
        config: id,
        // No samples are wanted: a period that is never reached.
        sample_period: u64::MAX >> 1,
        ..Attr::default()
    };
    open_on_cpu(&attr, 0)
}

/// Opens the counter of this `perf_event_attr.type` and `config` for every task on one CPU, user
/// and kernel alike. It counts from now on until its last descriptor, or place in a map, goes.
///
/// # Errors
/// `ENOENT`, `EOPNOTSUPP` or `ENODEV` where no PMU has the event (`ENODEV` also for a CPU that is
/// not online), `EINVAL` where the PMU has no such `config`, `EACCES`/`EPERM` without CAP_PERFMON.
pub fn open_counter(kind: u32, config: u64, cpu: u32) -> Result<OwnedFd, SysError> {
    let attr = Attr {
        kind,
        size: size_of::<Attr>() as u32,
        config,
        ..Attr::default()
    };
    open_on_cpu(&attr, cpu)
}

fn open_on_cpu(attr: &Attr, cpu: u32) -> Result<OwnedFd, SysError> {
    // SAFETY: `attr` is a valid attribute of the size it states and outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attr),
            -1 as libc::pid_t,
            cpu as libc::c_int,
            -1 as libc::c_int,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if ret < 0 {
        return Err(SysError::last("perf_event_open"));
    }
    // SAFETY: the call returned a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(ret as i32) })
}

/// A dynamic perf event source, as /sys/bus/event_source/devices describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSource {
    /// Its perf type.
    pub kind: u32,
    /// The bit of `config` that asks for the return instead of the entry.
    pub return_bit: u32,
}

/// Opens a kprobe at a kernel function, or a uprobe at a place in a file: `name` is the function
/// or the file, `offset` is within it. A program that is set on it runs on all CPUs, like that of
/// a tracepoint (kernel/events/core.c, since 4.17).
///
/// # Errors
/// `ENOENT` for a function or file that is not there, `EINVAL` for a place that cannot be probed,
/// `EADDRNOTAVAIL` for a name that several functions have (since 6.6), `EPERM`/`EACCES` without
/// CAP_PERFMON.
pub fn open_probe(
    source: ProbeSource,
    is_return: bool,
    name: &[u8],
    offset: u64,
) -> Result<OwnedFd, SysError> {
    let name = CString::new(name).map_err(|_| SysError {
        call: "perf_event_open",
        errno: Errno::EINVAL,
    })?;
    let attr = Attr {
        kind: source.kind,
        size: size_of::<Attr>() as u32,
        config: u64::from(is_return) << source.return_bit,
        sample_period: u64::MAX >> 1,
        config1: name.as_ptr() as u64,
        config2: offset,
        ..Attr::default()
    };
    // The kernel copies the name during the call.
    open_on_cpu(&attr, 0)
}

/// How often an event calls its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// After every so many.
    Period(u64),
    /// So many times a second, as nearly as the kernel can.
    FrequencyHz(u64),
}

/// Opens a sampling event of perf type `kind` and `config` for every task on `cpu`.
///
/// # Errors
/// `ENOENT` or `EOPNOTSUPP` for an event that this machine does not have, `ENODEV`/`ENXIO` for a
/// CPU that is not online, `EINVAL` for a frequency above
/// /proc/sys/kernel/perf_event_max_sample_rate, `EACCES`/`EPERM` without CAP_PERFMON.
pub fn open_sampling(
    kind: u32,
    config: u64,
    sampling: Sampling,
    cpu: u32,
) -> Result<OwnedFd, SysError> {
    /// `freq`, the 11th bit field of `struct perf_event_attr`.
    const FREQ: u64 = 1 << 10;
    let (sample_period, flags) = match sampling {
        Sampling::Period(period) => (period, 0),
        Sampling::FrequencyHz(hz) => (hz, FREQ),
    };
    let attr = Attr {
        kind,
        size: size_of::<Attr>() as u32,
        config,
        sample_period,
        flags,
        ..Attr::default()
    };
    open_on_cpu(&attr, cpu)
}

/// Sets a program on a perf event, for as long as the event's descriptor lives.
///
/// # Errors
/// `EACCES` if the program reads behind the tracepoint's record, `EEXIST` if the event has one.
pub fn set_bpf(event: BorrowedFd<'_>, prog: &Prog) -> Result<(), SysError> {
    // `_IOW('$', 8, __u32)`, the same on every architecture with the generic ioctl encoding.
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: this request takes a descriptor by value.
    let ret = unsafe {
        libc::ioctl(
            event.as_raw_fd(),
            PERF_EVENT_IOC_SET_BPF as _,
            prog.as_fd().as_raw_fd() as libc::c_long,
        )
    };
    if ret < 0 {
        Err(SysError::last("PERF_EVENT_IOC_SET_BPF"))
    } else {
        Ok(())
    }
}
