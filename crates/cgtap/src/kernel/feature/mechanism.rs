//! What dispatching is made of.

use cgtap_sys::bpf::{
    CGRP_STORAGE, Map, MapSpec, MapType, Prog, ProgSpec, ProgType, grace_period, has_map_type,
    map_flags,
};
use cgtap_sys::libbpf::Btf;
use cgtap_sys::memory::Words;

use super::Feature;
use crate::asm::{Insn, Reg, encode};
use crate::kernel::caller::Caller;
use crate::kernel::layout::Layout;
use crate::kernel::{anchor, current};

pub(super) fn probe(caller: &Caller) -> Vec<Feature> {
    vec![
        grace(caller),
        mapped_map(caller),
        prog_array(caller),
        test_run(caller),
        current_without_call(caller),
        cgroup_storage(caller),
    ]
}

fn grace(caller: &Caller) -> Feature {
    let name = "grace period";
    match grace_period() {
        Ok(()) => Feature::yes(name, "replacing an entry of a map of maps waited for one"),
        Err(e) => Feature::no(
            name,
            format!("{}: {}", e.call, caller.reason(e.errno)),
            "it takes CAP_BPF, and memory: without it nobody knows when a detached program has run \
             for the last time",
        ),
    }
    .required()
}

fn mapped_map(caller: &Caller) -> Feature {
    let name = "mapped map values";
    let map = Map::create(&MapSpec {
        name: "cgtap_probe",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 64,
        max_entries: 1,
        flags: map_flags::MMAPABLE,
    });
    let feature = match map.and_then(|map| {
        Words::map(&map)?.set(3, 7);
        map.lookup(&0u32.to_ne_bytes())
    }) {
        Ok(Some(value)) if value[24..32] == 7u64.to_ne_bytes() => {
            Feature::yes(name, "a word written through a mapping stands in the map")
        }
        Ok(_) => Feature::no(name, "what is written does not arrive", "report this"),
        Err(e) => Feature::no(
            name,
            format!("{}: {}", e.call, caller.reason(e.errno)),
            "it takes Linux 5.5 and CAP_BPF",
        ),
    };
    feature.required()
}

fn prog_array(caller: &Caller) -> Feature {
    let name = "tail calls";
    match anchor::jump_table() {
        Ok(_) => Feature::yes(name, "a PROG_ARRAY was made"),
        Err(e) => Feature::no(
            name,
            format!("{}: {}", e.call, caller.reason(e.errno)),
            "it takes CAP_BPF, and memory",
        ),
    }
    .required()
}

/// The check of a raw tracepoint program's context (S31) is a test run.
fn test_run(caller: &Caller) -> Feature {
    let name = "test runs";
    let remedy = "it takes Linux 5.10; classic tracepoints and tp_btf work without";
    let prog = Prog::load(&ProgSpec::generated(
        "cgtap_probe",
        ProgType::RawTracepoint,
        &encode(&[Insn::mov_imm(Reg::R0, 7), Insn::exit()]),
        &[],
    ));
    match prog.map(|prog| prog.test_run_raw_tp(&[0])) {
        Ok(Ok(7)) => Feature::yes(name, "a raw tracepoint program was run once"),
        Ok(Ok(other)) => Feature::no(name, format!("a program returned {other}, not 7"), remedy),
        Ok(Err(e)) => Feature::no(name, caller.reason(e.errno), remedy),
        Err(e) => Feature::no(
            name,
            format!("loading a program gave {}", caller.reason(e.errno)),
            remedy,
        ),
    }
}

fn current_without_call(caller: &Caller) -> Feature {
    let name = "current without a call";
    let remedy = "nothing to do: the helper is called, which costs about 0.2 of an empty program \
                  more an event";
    let Some(layout) = Btf::vmlinux().ok().and_then(|b| Layout::read(&b).ok()) else {
        return Feature::unknown(name, "there is no kernel BTF to tell", remedy);
    };
    if current::find(&layout).is_some() {
        return Feature::yes(
            name,
            "its address was found on this CPU and agrees with the helper",
        );
    }
    if layout.current.is_none() {
        return Feature::no(name, "the kernel's BTF does not tell where it lies", remedy);
    }
    let missing = caller.missing();
    if missing.is_empty() {
        Feature::no(name, "it was not found, or would not be faster", remedy)
    } else {
        let why = format!(
            "it takes programs to find it: {} missing",
            missing.join(", ")
        );
        Feature::unknown(name, why, remedy)
    }
}

fn cgroup_storage(caller: &Caller) -> Feature {
    let name = "CGRP_STORAGE maps";
    let remedy = "for objects that use them only; they take Linux 6.2. Storage by \
                  bpf_get_local_storage() works on every kernel";
    match has_map_type(CGRP_STORAGE) {
        Ok(true) => Feature::yes(name, "one was made"),
        Ok(false) => Feature::no(name, "the kernel does not make one", remedy),
        Err(e) => Feature::unknown(name, caller.reason(e.errno), remedy),
    }
}
