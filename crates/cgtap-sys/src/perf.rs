//! Perf events.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::Prog;
use crate::errno::SysError;
use std::os::fd::AsFd;

/// The head of `struct perf_event_attr`, version 0 (`PERF_ATTR_SIZE_VER0`, 64 bytes): all that
/// tracepoints and plain counters need.
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
