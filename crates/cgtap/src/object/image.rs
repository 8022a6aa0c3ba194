//! What an object becomes: relocated programs and the maps they use, still without a place to
//! run.

use cgtap_sys::SysError;
use cgtap_sys::bpf::Map;
use serde::{Deserialize, Serialize};

use crate::asm::Insn;
use crate::hook::HookSpec;

/// One program of an object after relocation. Instructions hold no descriptors: a map is its
/// index in [`ObjectImage::maps`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProgramImage {
    /// Name of the entry function in C.
    pub name: String,
    /// Section as written in the object, e.g. `raw_tp/sys_enter`.
    pub section: String,
    /// `BPF_F_SLEEPABLE` is wanted (sections that end in `.s`).
    pub sleepable: bool,
    /// The whole stream, entry first, subprograms behind it. `ldimm64` of a map has
    /// `src_reg = BPF_PSEUDO_MAP_IDX` / `BPF_PSEUDO_MAP_IDX_VALUE` and the index of the map as
    /// its immediate (the same encoding libbpf's light skeletons give the kernel).
    pub insns: Vec<Insn>,
    /// Function records, in the order of the stream; empty where the object has no BTF.
    pub func_info: Vec<FuncInfo>,
    /// Line records, in the order of the stream; may be empty.
    pub line_info: Vec<LineInfo>,
}

/// `struct bpf_func_info` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FuncInfo {
    /// First instruction of the function, as an index into the stream.
    pub insn_off: u32,
    /// Its `FUNC` in the object's BTF.
    pub type_id: u32,
}

/// `struct bpf_line_info` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineInfo {
    /// The instruction, as an index into the stream.
    pub insn_off: u32,
    /// Offset of the file name in the BTF's strings.
    pub file_name_off: u32,
    /// Offset of the source line in the BTF's strings.
    pub line_off: u32,
    /// Line number and column, packed as the kernel has them.
    pub line_col: u32,
}

/// A map of an object. Its descriptor travels beside it, at the same index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapImage {
    /// Name as in the object (`counts`, `.rodata`, ...).
    pub name: String,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Number of entries.
    pub max_entries: u32,
    /// A `CGROUP_STORAGE` map: not created with the object but once for each key of an
    /// attachment.
    pub storage: Option<StorageKind>,
}

/// What the key of a cgroup storage map makes of sharing (S25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageKind {
    /// One value a CPU (`PERCPU_CGROUP_STORAGE`).
    pub per_cpu: bool,
    /// Key is `struct bpf_cgroup_storage_key`: hooks of one cgroup do not share. Otherwise the
    /// key is a bare `__u64` cgroup id and they do.
    pub per_hook: bool,
}

/// What an object puts into a PROG_ARRAY before it runs (`.values = { ... }`). libbpf does that
/// when it has loaded the programs; here it is owed by whoever loads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgArraySlot {
    /// Index of the PROG_ARRAY in [`ObjectImage::maps`].
    pub map: u32,
    /// The slot.
    pub slot: u32,
    /// Index of the program in [`ObjectImage::programs`].
    pub program: u32,
}

/// A whole object, relocated for this kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectImage {
    /// Name the object has for libbpf (file name without its ending).
    pub name: String,
    /// The licence it declares.
    pub license: String,
    /// `LINUX_VERSION_CODE` it declares, 0 if none.
    pub kern_version: u32,
    /// Its BTF, raw, as the kernel takes it; empty where it has none.
    pub btf: Vec<u8>,
    /// Its maps.
    pub maps: Vec<MapImage>,
    /// Its programs.
    pub programs: Vec<ProgramImage>,
    /// Initial entries of its PROG_ARRAYs.
    pub prog_array_slots: Vec<ProgArraySlot>,
}

impl MapImage {
    /// A map that was made, not read from an object, and is no cgroup storage.
    ///
    /// # Errors
    /// The kernel's answer when it is asked about the map.
    pub fn of(name: &str, map: &Map) -> Result<Self, SysError> {
        let info = map.info()?;
        Ok(Self {
            name: name.to_owned(),
            map_type: info.map_type,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            storage: None,
        })
    }
}

impl ProgramImage {
    /// A program for a hook that was generated, not read from an object.
    #[must_use]
    pub fn generated(name: &str, hook: &HookSpec, insns: Vec<Insn>) -> Self {
        Self {
            name: name.to_owned(),
            section: format!("{}/{}", hook.kind().info().sections[0], hook.target()),
            sleepable: false,
            insns,
            func_info: Vec::new(),
            line_info: Vec::new(),
        }
    }
}

impl ObjectImage {
    /// An object of generated programs and made maps.
    #[must_use]
    pub fn generated(name: &str, maps: Vec<MapImage>, programs: Vec<ProgramImage>) -> Self {
        Self {
            name: name.to_owned(),
            license: "GPL".to_owned(),
            kern_version: 0,
            btf: Vec::new(),
            maps,
            programs,
            prog_array_slots: Vec::new(),
        }
    }
}
