//! Images of containers that bring a stand-in for NVIDIA's CUDA library, and a client of it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the library is called by those that are linked with it.
pub const NAME: &str = "libcuda.so.1";
/// The library's full name in an image.
pub const LIBRARY: &str = "lib/libcuda.so.550.1";

fn source() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.join("../cgtap/tests/support/cuda.c")
}

fn cc(words: &[&str], out: &Path, of: &[&Path]) {
    let mut cc = Command::new("cc");
    let status = cc.args(words).arg("-o").arg(out).args(of).status();
    assert!(status.unwrap().success(), "{cc:?}");
}

/// The stand-in at `path`, which says that it is called so; a path is where it is loaded from then.
pub fn library(path: &Path, name: &str) {
    let name = format!("-Wl,-soname,{name}");
    let words = ["-O2", "-shared", "-fPIC", "-DLIBRARY", &name];
    cc(&words, path, &[&source()]);
}

/// What images stand on: the C library and its loader, below `dir`.
pub fn base(dir: &Path) {
    std::fs::create_dir_all(dir.join("lib")).unwrap();
    let loader = match cfg!(target_arch = "aarch64") {
        true => "ld-linux-aarch64.so.1",
        false => "ld-linux-x86-64.so.2",
    };
    for (name, to) in [(loader, "loader"), ("libc.so.6", "libc.so.6")] {
        let mut cc = Command::new("cc");
        let found = cc.arg(format!("-print-file-name={name}")).output();
        let path = String::from_utf8(found.unwrap().stdout).unwrap();
        std::fs::copy(path.trim(), dir.join("lib").join(to)).unwrap();
    }
}

/// The library, and `client`, which uses it: below `dir`, with all that it stands on at the root of whoever
/// runs it.
pub fn image(dir: &Path) {
    std::fs::create_dir_all(dir.join("lib")).unwrap();
    let real = dir.join(LIBRARY);
    library(&real, NAME);
    let full = Path::new(LIBRARY).file_name().unwrap();
    std::os::unix::fs::symlink(full, dir.join("lib").join(NAME)).unwrap();
    let words = ["-O2", "-Wl,--dynamic-linker=/lib/loader"];
    cc(&words, &dir.join("client"), &[&source(), &real]);
}

/// A process that maps a library and does nothing; in the cgroup at `directory`, or where the test is.
pub fn idle(directory: Option<&Path>, library: &Path) -> Child {
    let enter = directory.map(|dir| format!("echo $$ > {}/cgroup.procs;", dir.display()));
    let enter = enter.unwrap_or_default();
    let script = format!("{enter} LD_PRELOAD={} exec cat", library.display());
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    // What cat says comes after the library was mapped.
    child.stdin.as_mut().unwrap().write_all(b".").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}
