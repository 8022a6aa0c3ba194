//! Kernel modules: names to files, by the kernel's own lists.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool;
use crate::Result;

/// The modules of a kernel.
pub struct Modules {
    dir: PathBuf,
    /// The file of each name, and the files that go before it, nearest first.
    files: HashMap<String, (String, Vec<String>)>,
    built_in: HashSet<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.builtin`.
    pub fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let mut files = HashMap::new();
        for line in read("modules.dep")?.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            files.insert(name_of(file), (file.to_owned(), needs));
        }
        let built_in = read("modules.builtin")?.lines().map(name_of).collect();
        Ok(Self {
            dir: dir.to_owned(),
            files,
            built_in,
        })
    }

    /// The files of these modules and of all that they need, in the order in which they are loaded.
    /// What is built into this kernel has none.
    pub fn resolve(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let name = name.replace('-', "_");
            let Some((file, needs)) = self.files.get(&name) else {
                if self.built_in.contains(&name) {
                    continue;
                }
                let dir = self.dir.display();
                return Err(
                    format!("this kernel has no module {name}: {dir} does not list it").into(),
                );
            };
            // modules.dep names the nearest first, so the last is loaded first.
            for file in needs.iter().rev().chain([file]) {
                if !order.contains(&file.as_str()) {
                    order.push(file);
                }
            }
        }
        Ok(order.into_iter().map(|file| self.dir.join(file)).collect())
    }
}

/// The name of a module's file: dashes and underlines are the same to the kernel.
pub fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.split_once(".ko").map_or(name, |(name, _)| name);
    name.replace('-', "_")
}

/// A module as the kernel takes it.
pub fn image(file: &Path) -> Result<Vec<u8>> {
    let unpack = |program: &str, package: &str| {
        tool::run(Command::new(program).arg("-dc").arg(file), package)
    };
    match file.extension().and_then(|e| e.to_str()) {
        Some("xz") => unpack("xz", "xz-utils"),
        Some("zst") => unpack("zstd", "zstd"),
        Some("gz") => unpack("gzip", "gzip"),
        _ => Ok(std::fs::read(file)?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn modules() -> (tempfile::TempDir, Modules) {
        let dir = tempfile::tempdir().unwrap();
        let dep = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs.ko.xz\n\
                   kernel/net/9p/9pnet.ko.xz: kernel/fs/netfs.ko.xz\n\
                   kernel/fs/netfs.ko.xz:\n\
                   kernel/x/snd-pcm.ko:\n";
        std::fs::write(dir.path().join("modules.dep"), dep).unwrap();
        std::fs::write(
            dir.path().join("modules.builtin"),
            "kernel/drivers/virtio/virtio.ko\n",
        )
        .unwrap();
        let modules = Modules::read(dir.path()).unwrap();
        (dir, modules)
    }

    #[test]
    fn what_is_needed_goes_first_and_once() {
        let (dir, modules) = modules();
        let files = modules.resolve(&["9p", "9pnet"]).unwrap();
        let names = [
            "kernel/fs/netfs.ko.xz",
            "kernel/net/9p/9pnet.ko.xz",
            "kernel/fs/9p/9p.ko.xz",
        ];
        assert_eq!(files, names.map(|n| dir.path().join(n)));
    }

    #[test]
    fn what_is_built_in_has_no_file() {
        let (_dir, modules) = modules();
        assert!(modules.resolve(&["virtio"]).unwrap().is_empty());
    }

    #[test]
    fn dashes_are_underlines() {
        let (_dir, modules) = modules();
        assert_eq!(
            modules.resolve(&["snd_pcm"]).unwrap(),
            modules.resolve(&["snd-pcm"]).unwrap()
        );
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let (_dir, modules) = modules();
        assert!(
            modules
                .resolve(&["nonesuch"])
                .unwrap_err()
                .to_string()
                .contains("nonesuch")
        );
    }
}
