//! Compiles the fixtures and gives what was loaded to the kernel.
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

#[path = "../support/made.rs"]
mod made;

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use cgtap::asm::encode;
use cgtap::hook::HookSpec;
use cgtap::object::image::{ObjectImage, ProgramImage};
use cgtap::object::{LoadOptions, LoadedObject, ObjectError, load_file};
use cgtap_sys::bpf::{CGRP_STORAGE, LoadError, Map, Prog, ProgSpec, has_map_type, load_btf};
use cgtap_sys::libbpf::{Btf, BtfKind};

/// The folder of the fixtures' sources.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/object")
}

/// The folder for what is made from them. All test processes use the same one: what they put
/// there is the same, and put there whole.
pub fn scratch() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("object");
        std::fs::create_dir_all(&dir).unwrap();
        dir
    })
}

/// This kernel has `BPF_MAP_TYPE_CGRP_STORAGE` (since 6.2).
pub fn has_cgrp_storage() -> bool {
    has_map_type(CGRP_STORAGE).unwrap()
}

/// The object of a fixture, compiled once for each set of flags.
pub fn compile_with(fixture: &str, flags: &[&str]) -> PathBuf {
    let source = fixtures().join(format!("{fixture}.bpf.c"));
    let mut flags = flags.to_vec();
    let asks = std::fs::read_to_string(&source).unwrap();
    if asks.contains("HAVE_CGRP_STORAGE") && has_cgrp_storage() {
        flags.push("-DHAVE_CGRP_STORAGE");
    }
    let mut name = fixture.to_owned();
    for flag in &flags {
        write!(name, "{}", flag.replace(['-', '/', '='], "_")).unwrap();
    }
    let object = scratch().join(name).with_extension("o");
    made::make_once(&object, &[&fixtures()], |path| {
        let mut clang = Command::new("clang");
        clang.args(["-target", "bpf", "-O2", "-Wall", "-Werror"]);
        clang.args(["-Wno-unused-variable", "-Wno-unknown-attributes"]);
        // Structures of newer kernels (7.3) have others in them without a name.
        clang.args(["-fms-extensions", "-Wno-microsoft-anon-tag"]);
        clang.arg("-I").arg(made::kernel_types(scratch()));
        clang.arg("-I").arg(fixtures()).args(&flags).arg("-c");
        made::run(clang.arg(&source).arg("-o").arg(path));
    });
    object
}

/// The object of a fixture, with BTF.
pub fn compile(fixture: &str) -> PathBuf {
    compile_with(fixture, &["-g"])
}

/// Loads a fixture with the given variables and programs (none: all).
pub fn try_load(
    fixture: &str,
    programs: &[&str],
    set: &[(&str, &str)],
) -> Result<LoadedObject, ObjectError> {
    let options = LoadOptions {
        name: format!("{fixture}.bpf.o"),
        programs: (!programs.is_empty())
            .then(|| programs.iter().map(|p| (*p).to_owned()).collect()),
        set: set
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    load_file(&compile(fixture), &options)
}

/// Loads all of a fixture.
pub fn load_all(fixture: &str) -> LoadedObject {
    try_load(fixture, &[], &[]).unwrap_or_else(|e| panic!("{e}\n{}", e.log()))
}

/// The names of the image's programs.
pub fn names(image: &ObjectImage) -> Vec<&str> {
    image.programs.iter().map(|p| p.name.as_str()).collect()
}

/// The program of that name.
pub fn program<'a>(image: &'a ObjectImage, name: &str) -> &'a ProgramImage {
    image.programs.iter().find(|p| p.name == name).unwrap()
}

/// The map of that name.
pub fn map(object: &LoadedObject, name: &str) -> Map {
    let index = object.image.maps.iter().position(|m| m.name == name);
    let fd = object.maps[index.unwrap()].as_ref().unwrap();
    Map::from_fd(fd.try_clone().unwrap()).unwrap()
}

/// The first value of a map as a number.
pub fn first_u64(object: &LoadedObject, name: &str) -> u64 {
    let value = map(object, name).lookup(&[0; 4]).unwrap().unwrap();
    u64::from_ne_bytes(value[..8].try_into().unwrap())
}

/// Gives one program of the image to the kernel, from nothing but the image and the maps.
pub fn to_kernel(object: &LoadedObject, name: &str) -> Result<Prog, LoadError> {
    let image = &object.image;
    let program = program(image, name);
    // Any map will do where there is none: a program that names it is not loaded here.
    let any = object.maps.iter().flatten().next().map(AsFd::as_fd);
    let maps: Vec<BorrowedFd<'_>> = object
        .maps
        .iter()
        .filter_map(|fd| fd.as_ref().map(AsFd::as_fd).or(any))
        .collect();
    let btf = (!image.btf.is_empty()).then(|| load_btf(&image.btf).unwrap());
    let section = if program.section == "raw_tp" {
        "raw_tp/sys_enter"
    } else {
        &program.section
    };
    let hook = HookSpec::from_section(section).unwrap().unwrap();
    let attach_btf_id = if section.starts_with("tp_btf/") {
        Btf::vmlinux()
            .unwrap()
            .find(&format!("btf_trace_{}", hook.name()), BtfKind::Typedef)
            .unwrap()
    } else {
        0
    };
    let func_info: Vec<[u32; 2]> = program
        .func_info
        .iter()
        .map(|f| [f.insn_off, f.type_id])
        .collect();
    let line_info: Vec<[u32; 4]> = program
        .line_info
        .iter()
        .map(|l| [l.insn_off, l.file_name_off, l.line_off, l.line_col])
        .collect();
    Prog::load(&ProgSpec {
        name,
        prog_type: hook.kind().info().prog_type,
        attach_type: hook.kind().info().attach_type,
        flags: 0,
        license: &image.license,
        kern_version: image.kern_version,
        insns: &encode(&program.insns),
        maps: &maps,
        btf: btf.as_ref().map(AsFd::as_fd),
        func_info: &func_info,
        line_info: &line_info,
        attach_btf_id,
        attach_btf: None,
    })
}

/// As [`to_kernel`], with the verifier's words if it says no.
pub fn must_load(object: &LoadedObject, name: &str) -> Prog {
    to_kernel(object, name).unwrap_or_else(|e| panic!("{name}: {e}\n{}", e.log))
}
