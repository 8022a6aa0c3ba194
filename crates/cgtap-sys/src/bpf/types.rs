//! The constants of `include/uapi/linux/bpf.h` that cgtap names, as types.

use crate::errno::{Errno, SysError};

/// `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ProgType {
    /// `BPF_PROG_TYPE_TRACEPOINT`.
    Tracepoint = libbpf_sys::BPF_PROG_TYPE_TRACEPOINT,
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
    RawTracepoint = libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT,
    /// `BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE`.
    RawTracepointWritable = libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE,
    /// `BPF_PROG_TYPE_TRACING`.
    Tracing = libbpf_sys::BPF_PROG_TYPE_TRACING,
    /// `BPF_PROG_TYPE_KPROBE`.
    Kprobe = libbpf_sys::BPF_PROG_TYPE_KPROBE,
    /// `BPF_PROG_TYPE_LSM`.
    Lsm = libbpf_sys::BPF_PROG_TYPE_LSM,
    /// `BPF_PROG_TYPE_PERF_EVENT`.
    PerfEvent = libbpf_sys::BPF_PROG_TYPE_PERF_EVENT,
    /// `BPF_PROG_TYPE_CGROUP_DEVICE`.
    CgroupDevice = libbpf_sys::BPF_PROG_TYPE_CGROUP_DEVICE,
}

/// `enum bpf_attach_type`, as far as a program is loaded with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum AttachType {
    /// 0: the program type has no attach types.
    None = 0,
    /// `BPF_TRACE_RAW_TP`.
    TraceRawTp = libbpf_sys::BPF_TRACE_RAW_TP,
    /// `BPF_TRACE_FENTRY`.
    TraceFentry = libbpf_sys::BPF_TRACE_FENTRY,
    /// `BPF_TRACE_FEXIT`.
    TraceFexit = libbpf_sys::BPF_TRACE_FEXIT,
    /// `BPF_MODIFY_RETURN`.
    ModifyReturn = libbpf_sys::BPF_MODIFY_RETURN,
    /// `BPF_LSM_MAC`.
    LsmMac = libbpf_sys::BPF_LSM_MAC,
    /// `BPF_TRACE_KPROBE_MULTI`, since 5.18.
    TraceKprobeMulti = libbpf_sys::BPF_TRACE_KPROBE_MULTI,
    /// `BPF_CGROUP_DEVICE`. The kernel does not ask for it when it loads, but `bpf_set_retval()` is
    /// there for programs that say it only (kernel/bpf/cgroup.c, `cgroup_common_func_proto`).
    CgroupDevice = libbpf_sys::BPF_CGROUP_DEVICE,
}

/// `enum bpf_map_type`, the ones cgtap creates itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MapType {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = libbpf_sys::BPF_MAP_TYPE_HASH,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = libbpf_sys::BPF_MAP_TYPE_ARRAY,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PercpuArray = libbpf_sys::BPF_MAP_TYPE_PERCPU_ARRAY,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PercpuHash = libbpf_sys::BPF_MAP_TYPE_PERCPU_HASH,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = libbpf_sys::BPF_MAP_TYPE_LRU_HASH,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgArray = libbpf_sys::BPF_MAP_TYPE_PROG_ARRAY,
    /// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`.
    PerfEventArray = libbpf_sys::BPF_MAP_TYPE_PERF_EVENT_ARRAY,
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    ArrayOfMaps = libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS,
}

/// Cgroup storage keyed by the event's cgroup (`BPF_MAP_TYPE_CGRP_STORAGE`, since 6.2).
pub const CGRP_STORAGE: u32 = libbpf_sys::BPF_MAP_TYPE_CGRP_STORAGE;

/// Whether this kernel has maps of an `enum bpf_map_type`: makes one and throws it away.
///
/// # Errors
/// `EOPNOTSUPP` for a type that libbpf does not know; `EPERM` if the caller may not make even a map that every
/// kernel has (an LRU hash takes CAP_BPF as well): it could not be told.
pub fn has_map_type(map_type: u32) -> Result<bool, SysError> {
    let is_made = |map_type| {
        // SAFETY: takes a number; null options are the only ones there are.
        let ret = unsafe { libbpf_sys::libbpf_probe_bpf_map_type(map_type, std::ptr::null()) };
        SysError::check("BPF_MAP_CREATE", ret).map(|yes| yes == 1)
    };
    // To libbpf, one that the caller may not make is one that there is not.
    if is_made(map_type)? {
        Ok(true)
    } else if is_made(MapType::LruHash as u32)? {
        Ok(false)
    } else {
        Err(SysError {
            call: "BPF_MAP_CREATE",
            errno: Errno::EPERM,
        })
    }
}

/// The name of an `enum bpf_map_type` as bpftool prints it, or `type N`.
#[must_use]
pub fn map_type_name(map_type: u32) -> String {
    // SAFETY: returns a static string or null for an unknown number; takes no pointer.
    let name = unsafe { libbpf_sys::libbpf_bpf_map_type_str(map_type) };
    if name.is_null() {
        return format!("type {map_type}");
    }
    // SAFETY: libbpf's table holds NUL-terminated literals that live as long as the program.
    unsafe { std::ffi::CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}
