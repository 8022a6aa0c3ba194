//! What tests compile from C is made once and kept, until a source is newer. All test processes
//! share it, and so do guests, which see the host's and in which a compiler takes ten times as long:
//! the objects are CO-RE, compiled against one kernel's types and loaded by any.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Has `make` write the file, unless it is newer than every source. A source that is a directory
/// stands for the files in it.
pub fn make_once(path: &Path, sources: &[&Path], make: impl FnOnce(&Path)) {
    static DONE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if done.iter().any(|p| p == path) {
        return;
    }
    if !is_fresh(path, sources) {
        make_beside(path, make);
    }
    done.push(path.to_owned());
}

/// Writes beside, then moves into place: other processes do the same.
fn make_beside(path: &Path, make: impl FnOnce(&Path)) {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    make(Path::new(&beside));
    std::fs::rename(&beside, path).unwrap();
}

fn is_fresh(path: &Path, sources: &[&Path]) -> bool {
    let Some(made) = written(path) else {
        return false;
    };
    sources.iter().all(|source| {
        let inside = std::fs::read_dir(source).into_iter().flatten().flatten();
        let newest = inside.filter_map(|e| written(&e.path())).max();
        let newest = newest
            .or_else(|| written(source))
            .expect("a source is there");
        newest <= made
    })
}

fn written(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|m| m.modified()).ok()
}

/// A directory with this kernel's types as C in `vmlinux.h`, below `scratch`.
pub fn kernel_types(scratch: &Path) -> PathBuf {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = ["osrelease", "version"]
        .map(|word| std::fs::read_to_string(format!("/proc/sys/kernel/{word}")).unwrap());
    let dir = scratch.join(kernel.concat().replace([' ', '#', ':', '\n'], "_"));
    std::fs::create_dir_all(&dir).unwrap();
    // The directory's name says which kernel, so what is there is right.
    let header = dir.join("vmlinux.h");
    if header.exists() {
        return dir;
    }
    // Debian keeps it where users' PATH does not look.
    let bpftool = ["/usr/sbin/bpftool", "/sbin/bpftool"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("bpftool");
    let dump = "btf dump file /sys/kernel/btf/vmlinux format c";
    let text = run(Command::new(bpftool).args(dump.split(' ')));
    make_beside(&header, |path| std::fs::write(path, text).unwrap());
    dir
}

/// Runs a program that must succeed; its output.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}; `./dev test` installs it"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {words}");
    output.stdout
}
