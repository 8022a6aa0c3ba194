//! Steps that several generated programs take through the kernel's types, by typed pointers.

use super::layout::Layout;
use crate::asm::{Builder, Cond, Insn, Label, Reg, Size};

/// Appends `cgroup =` the cgroup of the task in `task`, in the default hierarchy. The two may be the
/// same register.
pub fn cgroup_of_task(b: &mut Builder, layout: &Layout, cgroup: Reg, task: Reg) {
    b.push(Insn::load(Size::Dw, cgroup, task, layout.task_cgroups))
        .push(Insn::load(
            Size::Dw,
            cgroup,
            cgroup,
            layout.css_set_dfl_cgrp,
        ));
}

/// Appends `R6 =` the cgroup that is the first argument of a tracepoint, its context in R1; goes to
/// `out` if it is not of the default hierarchy: ids are counted anew in each, and only that one is
/// ours. Clobbers R1.
pub fn cgroup_argument(b: &mut Builder, layout: &Layout, out: Label) {
    b.push(Insn::load(Size::Dw, Reg::R6, Reg::R1, 0))
        .push(Insn::load(Size::Dw, Reg::R1, Reg::R6, layout.cgroup_root))
        .push(Insn::load(
            Size::W,
            Reg::R1,
            Reg::R1,
            layout.root_hierarchy_id,
        ))
        .jump_if_imm(Cond::Ne, Reg::R1, 0, out);
}
