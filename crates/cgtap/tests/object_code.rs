//! Instructions: what libbpf relocates arrives whole, and the kernel takes it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod object_support;

use cgtap::asm::{Insn, PSEUDO_BTF_ID};
use cgtap_sys::libbpf::{Btf, BtfKind};
use object_support::{
    compile_with, first_u64, load_all, map, must_load, names, program, to_kernel, try_load,
};

#[test]
fn subprograms_and_callbacks_come_behind_the_entry() {
    let object = load_all("calls");
    assert_eq!(names(&object.image), ["enter", "leave"]);
    let btf = Btf::from_bytes(&object.image.btf).unwrap();
    let functions = |name: &str| -> Vec<String> {
        program(&object.image, name)
            .func_info
            .iter()
            .map(|f| btf.type_name(f.type_id).unwrap().to_owned())
            .collect()
    };
    let enter = functions("enter");
    assert_eq!(enter[0], "enter");
    assert_eq!(enter.len(), 4, "{enter:?}");
    let leave = functions("leave");
    assert_eq!(leave[0], "leave");
    for name in ["each_turn", "each_entry", "global_bump", "bump"] {
        assert!(
            leave.iter().any(|f| f == name),
            "{name} is not in {leave:?}"
        );
    }
    let code = &program(&object.image, "leave").insns;
    assert_eq!(code.iter().filter(|i| i.is_load_func()).count(), 2);
    assert!(code.iter().any(|i| i.is_call_sub()));
    assert!(!program(&object.image, "enter").line_info.is_empty());

    must_load(&object, "leave");
    let enter = must_load(&object, "enter");
    enter.test_run_raw_tp(&[0, 0]).unwrap();
    let count = |key: u32| {
        let value = map(&object, "counts").lookup(&key.to_ne_bytes());
        u64::from_ne_bytes(value.unwrap().unwrap().try_into().unwrap())
    };
    assert_eq!((count(0), count(1), count(2)), (1, 2, 0));
}

#[test]
fn hidden_functions_are_static_in_the_btf() {
    let object = load_all("calls");
    let btf = Btf::from_bytes(&object.image.btf).unwrap();
    let linkage = |name: &str| {
        let id = btf.find(name, BtfKind::Func).unwrap();
        btf.func_linkage(id).unwrap()
    };
    use cgtap_sys::libbpf::Linkage::{Global, Static};
    assert_eq!(linkage("hidden_bump"), Static);
    assert_eq!(linkage("bump"), Static);
    assert_eq!(linkage("global_bump"), Global);
    assert_eq!(linkage("enter"), Global);
}

#[test]
fn what_only_this_kernel_knows_is_filled_in() {
    let object = load_all("kernel");
    assert_eq!(names(&object.image), ["look", "look_by_copy"]);
    must_load(&object, "look");
    must_load(&object, "look_by_copy");
    // kernfs_node.id lies where the kernel's BTF says, not where any header did.
    let vmlinux = Btf::vmlinux().unwrap();
    let offset = vmlinux.field_offset("kernfs_node", "id").unwrap();
    let loads = |insn: &Insn| insn.off as u32 == offset;
    assert!(program(&object.image, "look").insns.iter().any(loads));
    // A symbol without a type is its address.
    let mut wide = program(&object.image, "look").insns.iter();
    assert!(wide.any(|i| i.is_load_imm64() && i.src() == 0 && i.imm != 0));
}

#[test]
fn typed_variables_of_the_kernel_are_named_by_their_btf_id() {
    let object = try_load("kernel", &["name_variable"], &[]).unwrap();
    let variable = Btf::vmlinux()
        .unwrap()
        .find("bpf_prog_active", BtfKind::Var);
    let named: Vec<u32> = program(&object.image, "name_variable")
        .insns
        .iter()
        .filter(|i| i.is_load_imm64() && i.src() == PSEUDO_BTF_ID)
        .map(|i| i.imm.cast_unsigned())
        .collect();
    assert_eq!(named, Vec::from_iter(variable));
    // The kernel itself finds the address only with CONFIG_KALLSYMS_ALL.
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    if symbols.contains(" bpf_prog_active\n") {
        must_load(&object, "name_variable");
    }
}

#[test]
fn the_kernels_configuration_is_a_frozen_map() {
    let object = load_all("kernel");
    let kconfig = map(&object, ".kconfig");
    let values = kconfig.lookup(&[0; 4]).unwrap().unwrap();
    // Debian's name of a kernel need not have its last number: `6.1.0-56-amd64` is 6.1.192, as the version says.
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
    let (release, version) = (read("osrelease"), read("version"));
    let numbers = version
        .split_once("Debian ")
        .map_or(release.as_str(), |(_, of_debian)| of_debian);
    let mut numbers = numbers
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next() << 16) + (next() << 8) + next().min(255);
    let words: Vec<u32> = values
        .chunks_exact(4)
        .map(|w| u32::from_ne_bytes(w.try_into().unwrap()))
        .collect();
    assert!(words.contains(&version), "{words:?} lacks {version}");
    assert!(kconfig.update(&[0; 4], &values).is_err());
}

#[test]
fn kernel_functions_are_called_by_their_btf_id() {
    let object = try_load("kernel", &["call_kfunc"], &[]).unwrap();
    let id = Btf::vmlinux()
        .unwrap()
        .find("bpf_rcu_read_lock", BtfKind::Func);
    let calls: Vec<i32> = program(&object.image, "call_kfunc")
        .insns
        .iter()
        .filter(|i| i.code == 0x85 && i.src() == 2)
        .map(|i| i.imm)
        .collect();
    match id {
        // Since 6.2.
        Some(id) => assert_eq!(calls.first().copied(), Some(id.cast_signed())),
        None => assert!(calls.is_empty()),
    }
    must_load(&object, "call_kfunc");
}

#[test]
fn an_object_without_btf_loads_without_records() {
    let path = compile_with("plain", &["-DBPF_NO_PRESERVE_ACCESS_INDEX"]);
    let object = cgtap::object::load_file(&path, &Default::default()).unwrap();
    assert!(object.image.btf.is_empty());
    assert!(object.image.programs[0].func_info.is_empty());
    assert!(object.image.programs[0].line_info.is_empty());
    let prog = must_load(&object, "plain");
    assert!(prog.test_run_raw_tp(&[0, 0]).is_ok());
}

#[test]
fn prog_arrays_tell_what_they_start_with() {
    let object = load_all("tail_calls");
    let image = &object.image;
    let mut slots: Vec<(&str, u32, &str)> = image
        .prog_array_slots
        .iter()
        .map(|s| {
            (
                image.maps[s.map as usize].name.as_str(),
                s.slot,
                image.programs[s.program as usize].name.as_str(),
            )
        })
        .collect();
    slots.sort_unstable();
    assert_eq!(
        slots,
        [
            ("elsewhere", 0, "other_kind"),
            ("steps", 1, "step_one"),
            ("steps", 5, "step_two")
        ]
    );
    // Filled as told, the chain runs to its end.
    let steps = map(&object, "steps");
    let start = must_load(&object, "start");
    let targets: Vec<_> = image
        .prog_array_slots
        .iter()
        .filter(|s| image.maps[s.map as usize].name == "steps")
        .map(|s| {
            let name = &image.programs[s.program as usize].name;
            (s.slot, must_load(&object, name))
        })
        .collect();
    use std::os::fd::AsFd;
    for (slot, prog) in &targets {
        steps.set_prog(*slot, prog.as_fd()).unwrap();
    }
    start.test_run_raw_tp(&[0, 0]).unwrap();
    assert_eq!(first_u64(&object, ".bss"), 111);
}

#[test]
fn targets_of_tail_calls_come_with_the_program_that_reaches_them() {
    let object = try_load("tail_calls", &["start"], &[]).unwrap();
    let mut have = names(&object.image);
    have.sort_unstable();
    assert_eq!(have, ["start", "step_one", "step_two"]);
    assert_eq!(object.chosen.len(), 1);
    let chosen = object.chosen[0] as usize;
    assert_eq!(object.image.programs[chosen].name, "start");
    assert_eq!(object.image.prog_array_slots.len(), 2);

    let object = try_load("tail_calls", &["step_two"], &[]).unwrap();
    assert_eq!(names(&object.image), ["step_two"]);
    assert_eq!(object.chosen, [0]);
}

#[test]
fn the_licence_and_the_name_are_the_objects() {
    let object = load_all("calls");
    assert_eq!(object.image.license, "GPL");
    assert_eq!(object.image.name, "calls");
    let mut object = object;
    object.image.license = "Proprietary".to_owned();
    // bpf_loop and friends are for anyone; the object's own words decide, not ours.
    assert!(to_kernel(&object, "enter").is_ok());
}
