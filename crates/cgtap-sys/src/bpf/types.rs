//! The constants of `include/uapi/linux/bpf.h` that cgtap names, as types.

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
}

/// `enum bpf_attach_type`, as far as a program is loaded with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum AttachType {
    /// 0: the program type has no attach types.
    None = 0,
    /// `BPF_TRACE_RAW_TP`.
    TraceRawTp = libbpf_sys::BPF_TRACE_RAW_TP,
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
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    ProgArray = libbpf_sys::BPF_MAP_TYPE_PROG_ARRAY,
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
