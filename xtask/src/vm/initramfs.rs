//! The archive that a guest starts from: init, its job, and the modules that reach the host's root.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cgtap_guest_init::{JOB_FILE, Job, Module};
use cpio::newc::{Builder, trailer};

use super::kernels::Unpacked;
use super::modules::{Modules, image};
use super::tool;
use crate::Result;

/// What every guest needs: its disk is 9p over virtio under an overlay, its output virtio ports.
/// What a kernel has built in is skipped.
const ALWAYS: [&str; 5] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
];
/// The machine that guests are.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FILE: u32 = 0o100_000;

/// Writes the archive. `modules` are `NAME` or `NAME PARAMETER=VALUE...`.
pub fn write(path: &Path, kernel: &Unpacked, modules: &[String], mut job: Job) -> Result<()> {
    let mut archive = File::create(path)?;
    let mut add = |name: &str, mode: u32, content: &[u8]| -> Result<()> {
        let entry = Builder::new(name).mode(FILE | mode);
        let mut entry = entry.write(&mut archive, u32::try_from(content.len())?);
        entry.write_all(content)?;
        entry.finish()?;
        Ok(())
    };
    add("init", 0o755, &std::fs::read(init()?)?)?;
    let lists = Modules::read(&kernel.modules_dir)?;
    let wanted = ALWAYS
        .iter()
        .copied()
        .chain(modules.iter().map(String::as_str));
    for words in wanted {
        let (name, parameters) = words.split_once(' ').unwrap_or((words, ""));
        let files = lists.resolve(&[name])?;
        let count = files.len();
        for (at, source) in files.into_iter().enumerate() {
            let number = job.modules.len();
            let file = format!(
                "module-{number}-{}",
                super::modules::name_of(&source.to_string_lossy())
            );
            add(&file, 0o644, &image(&source)?)?;
            // What the module needs is loaded with no parameters.
            let parameters = if at + 1 == count { parameters } else { "" };
            job.modules.push(Module {
                file,
                parameters: parameters.to_owned(),
            });
        }
    }
    add(JOB_FILE, 0o644, &serde_json::to_vec_pretty(&job)?)?;
    trailer(archive)?;
    Ok(())
}

/// Builds init. It has flags of its own, and so a target directory of its own: the tree's is
/// not built anew for them, and cargo's lock on it may be held by whoever runs us.
fn init() -> Result<PathBuf> {
    let tree = super::tree();
    let target = tree.join("target/guest");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(&tree)
        .args(["build", "--quiet", "--release", "-p", "cgtap-guest-init"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    tool::run(&mut build, "rustup")?;
    Ok(target.join(TARGET).join("release/cgtap-guest-init"))
}
