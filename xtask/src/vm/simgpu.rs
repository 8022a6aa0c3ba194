//! The GPU that is not there: the module of `crates/cgtap-cli/tests/simgpu`, built for a guest's
//! kernel with Debian's headers.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, Package};
use super::cache::Cache;
use super::kernels::Unpacked;
use super::tool;
use crate::Result;

/// What tests find the module by.
pub const VARIABLE: &str = "CGTAP_SIMGPU";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cgtap-cli/tests/simgpu")
}

/// Builds the module for a kernel; none where Debian has no headers for it any more.
pub fn build(cache: &Cache, kernel: &Unpacked) -> Result<Option<PathBuf>> {
    let _lock = cache.lock()?;
    let Some(headers) = headers(cache, &kernel.release)? else {
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
    let mut parts: Vec<Package> = Vec::new();
    for name in apt.dependencies(&package.name)? {
        if name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-") {
            parts.extend(apt.package(&name)?);
        }
    }
    parts.push(package);
    eprintln!("vm: fetching the headers of {release}");
    apt.unpack(&parts, &root, |tree| settle(tree, &root))?;
    Ok(Some(dir))
}

/// Headers name their parts by where installing puts them.
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
    Ok(())
}
