//! The GPU that is not there: the module of `crates/cgtap-cli/tests/simgpu`, built for a guest's
//! kernel with Debian's headers, or where the kernel was built.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::Apt;
use super::cache::Cache;
use super::kernels::Unpacked;
use super::tool;
use crate::Result;

/// What headers take of what they depend on, by how it begins: their parts, the tools that build, and the
/// libraries of those, which may be newer than this machine's.
const PARTS: [&str; 4] = ["linux-headers-", "linux-kbuild-", "lib", "zlib1g"];

/// Where the libraries are.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What tests find the module by.
pub const VARIABLE: &str = "CGTAP_SIMGPU";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cgtap-cli/tests/simgpu")
}

/// Builds the module for a kernel; none where Debian has no headers for it any more.
pub fn build(cache: &Cache, kernel: &Unpacked) -> Result<Option<PathBuf>> {
    let _lock = cache.lock()?;
    let headers = match &kernel.build_dir {
        Some(dir) => Some(dir.clone()),
        None => headers(cache, &kernel.release)?,
    };
    let Some(headers) = headers else {
        return Ok(None);
    };
    let dir = cache.sub(&format!("simgpu/{}", kernel.release))?;
    for name in ["simgpu.c", "Makefile"] {
        std::fs::copy(sources().join(name), dir.join(name))?;
    }
    let mut make = Command::new("make");
    make.arg("-s")
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", dir.display()))
        // Not the compiler that Debian built the kernel with, but the one that is here.
        .arg("CC=cc")
        // A flag that only newer compilers have.
        .arg("CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=")
        .arg("modules");
    tool::run(&mut make, "make")?;
    Ok(Some(dir.join("simgpu.ko")))
}

/// The directory of a release's headers, unpacked.
fn headers(cache: &Cache, release: &str) -> Result<Option<PathBuf>> {
    let root = cache.dir().join("headers").join(release);
    let dir = root.join(format!("usr/src/linux-headers-{release}"));
    if dir.exists() {
        return Ok(Some(dir));
    }
    let apt = Apt::open(cache)?;
    let Some(package) = apt.package(&format!("linux-headers-{release}"))? else {
        return Ok(None);
    };
    let parts = apt.with_dependencies(package, |name| {
        PARTS.iter().any(|part| name.starts_with(part))
    })?;
    eprintln!("vm: fetching the headers of {release}");
    apt.unpack(&parts, &root, |tree| settle(tree, &root))?;
    Ok(Some(dir))
}

/// Headers name their parts by where installing puts them, and so do tools their libraries.
fn settle(tree: &Path, root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(tree.join("usr/src"))? {
        let makefile = entry?.path().join("Makefile");
        let Ok(text) = std::fs::read_to_string(&makefile) else {
            continue;
        };
        let own = format!("{}/usr/src/", root.display());
        std::fs::write(&makefile, text.replace("/usr/src/", &own))?;
        // With it the module would get BTF, for which pahole is needed.
        let vmlinux = makefile.with_file_name("vmlinux");
        if vmlinux.exists() {
            std::fs::remove_file(vmlinux)?;
        }
    }
    for entry in std::fs::read_dir(tree.join("usr/lib"))? {
        let entry = entry?;
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with("linux-kbuild-")
        {
            settle_tools(&entry.path(), tree, root)?;
        }
    }
    Ok(())
}

/// Puts a script into the place of each program below `dir`, which runs it with the libraries that came
/// with it. It finds others beside it by the name it is called by.
fn settle_tools(dir: &Path, tree: &Path, root: &Path) -> Result<()> {
    // All of them first: more come on the way.
    let entries: Vec<_> = std::fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            settle_tools(&path, tree, root)?;
        }
        let mode = entry.metadata()?.permissions();
        if !entry.file_type()?.is_file() || mode.mode() & 0o111 == 0 || !is_elf(&path)? {
            continue;
        }
        let mut name = entry.file_name();
        name.push(".elf");
        let program = path.with_file_name(name);
        std::fs::rename(&path, &program)?;
        let libraries = root.join(LIBRARIES);
        let script = format!(
            "#!/bin/sh\nexec '{libraries}/ld-linux-x86-64.so.2' --argv0 \"$0\" --library-path '{libraries}' \
             '{program}' \"$@\"\n",
            libraries = libraries.display(),
            program = root.join(program.strip_prefix(tree)?).display(),
        );
        std::fs::write(&path, script)?;
        std::fs::set_permissions(&path, mode)?;
    }
    Ok(())
}

fn is_elf(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path)?.read(&mut magic)?;
    Ok(read == magic.len() && magic == *b"\x7fELF")
}
