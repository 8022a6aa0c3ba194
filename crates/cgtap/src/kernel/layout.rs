//! Where the fields lie that generated code reads, from this kernel's own BTF.

use cgtap_sys::libbpf::{Btf, BtfError, BtfKind};
use serde::{Deserialize, Serialize};

use super::pretend::{self, Pretended};

/// Offsets in bytes, and BTF ids, of what dispatchers read. The same for as long as the kernel
/// runs, so a state keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// `task_struct.cgroups`.
    pub task_cgroups: i16,
    /// `task_struct.tgid`.
    pub task_tgid: i16,
    /// `task_struct.signal`.
    pub task_signal: i16,
    /// `signal_struct.live.counter`.
    pub signal_live: i16,
    /// `css_set.dfl_cgrp`: the cgroup in the default hierarchy.
    pub css_set_dfl_cgrp: i16,
    /// `cgroup.kn`.
    pub cgroup_kn: i16,
    /// `cgroup.self.parent`.
    pub cgroup_parent: i16,
    /// `cgroup.root`.
    pub cgroup_root: i16,
    /// `cgroup_root.hierarchy_id`, 0 for the default hierarchy.
    pub root_hierarchy_id: i16,
    /// `cgroup_subsys_state.cgroup`.
    pub css_cgroup: i16,
    /// `kernfs_node.id`: the cgroup's id.
    pub kn_id: i16,
    /// `kernfs_node.name`: the cgroup's own name.
    pub kn_name: i16,
    /// What reading through any address needs; `None` where this kernel's BTF lacks it.
    pub cast: Option<CastLayout>,
    /// What finding `current` without a call needs beside that; `None` where this kernel's BTF
    /// lacks it.
    pub current: Option<CurrentLayout>,
}

/// What it takes to read through a number as if it were a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CastLayout {
    /// BTF id of the kfunc `bpf_rdonly_cast`, since 6.2.
    pub rdonly_cast_id: i32,
    /// BTF id of a struct whose first eight bytes are an integer.
    pub word_struct_id: i32,
    /// BTF id of `struct task_struct`.
    pub task_struct_id: i32,
    /// BTF id of `struct cgroup`.
    pub cgroup_struct_id: i32,
}

/// What it takes to find `current` through the per-CPU variable that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentLayout {
    /// `task_struct.se.cfs_rq`.
    pub task_cfs_rq: i16,
    /// `cfs_rq.rq`.
    pub cfs_rq_rq: i16,
    /// Distance in bytes from the per-CPU variable `runqueues` to `current_task`.
    pub runqueues_to_current: i32,
}

fn offset(btf: &Btf, name: &str, path: &str) -> Result<i16, BtfError> {
    let bytes = btf.field_offset(name, path)?;
    i16::try_from(bytes).map_err(|_| BtfError::Missing {
        what: "member within 32 KiB",
        name: format!("{name}.{path}"),
    })
}

impl Layout {
    /// Reads the layout.
    ///
    /// # Errors
    /// [`BtfError::Missing`] for a field that this kernel does not have under that name.
    pub fn read(btf: &Btf) -> Result<Self, BtfError> {
        Ok(Self {
            task_cgroups: offset(btf, "task_struct", "cgroups")?,
            task_tgid: offset(btf, "task_struct", "tgid")?,
            task_signal: offset(btf, "task_struct", "signal")?,
            signal_live: offset(btf, "signal_struct", "live.counter")?,
            css_set_dfl_cgrp: offset(btf, "css_set", "dfl_cgrp")?,
            cgroup_kn: offset(btf, "cgroup", "kn")?,
            cgroup_parent: offset(btf, "cgroup", "self.parent")?,
            cgroup_root: offset(btf, "cgroup", "root")?,
            root_hierarchy_id: offset(btf, "cgroup_root", "hierarchy_id")?,
            css_cgroup: offset(btf, "cgroup_subsys_state", "cgroup")?,
            kn_id: offset(btf, "kernfs_node", "id")?,
            kn_name: offset(btf, "kernfs_node", "name")?,
            cast: CastLayout::read(btf),
            current: CurrentLayout::read(btf),
        })
    }
}

impl CastLayout {
    fn read(btf: &Btf) -> Option<Self> {
        if pretend::is_missing(Pretended::RdonlyCast) {
            return None;
        }
        let id = |name: &str, kind| i32::try_from(btf.find(name, kind)?).ok();
        Some(Self {
            rdonly_cast_id: id("bpf_rdonly_cast", BtfKind::Func)?,
            word_struct_id: id("timespec64", BtfKind::Struct)?,
            task_struct_id: id("task_struct", BtfKind::Struct)?,
            cgroup_struct_id: id("cgroup", BtfKind::Struct)?,
        })
    }
}

impl CurrentLayout {
    fn read(btf: &Btf) -> Option<Self> {
        let section = btf.find(".data..percpu", BtfKind::Datasec)?;
        let vars = btf.section_vars(section);
        let place = |name: &str| {
            vars.iter()
                .find(|v| v.name == name)
                .map(|v| i64::from(v.offset_bytes))
        };
        // From 6.2 to 6.14 x86 kept it in a struct with other hot words.
        let in_hot = || {
            Some(place("pcpu_hot")? + i64::from(btf.field_offset("pcpu_hot", "current_task").ok()?))
        };
        let to = place("current_task").or_else(in_hot)?;
        let from = place("runqueues")?;
        Some(Self {
            task_cfs_rq: offset(btf, "task_struct", "se.cfs_rq").ok()?,
            cfs_rq_rq: offset(btf, "cfs_rq", "rq").ok()?,
            runqueues_to_current: i32::try_from(to - from).ok()?,
        })
    }
}
