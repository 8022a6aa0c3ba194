//! What the demo makes outside of its own process: a cgroup tree, a directory for files, a state.
//! Each is removed when its value goes, however the demo ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the names begin with of everything that a demo makes; its process id follows.
const PREFIX: &str = "cgtap-demo-";

/// Where states and files of the demo are, and where files are if not there.
const BPFFS: &str = "/sys/fs/bpf";
const FILES: &str = "/var/tmp";

/// The name of everything that this run of the demo makes.
pub fn name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Removes what demos left that were killed: their processes cannot do it any more.
///
/// A demo whose cgroups still have processes after a while is left as it is: it may be one that
/// runs in another PID namespace.
pub fn sweep(mount: &Path) {
    let end = Instant::now() + PATIENCE;
    let mut kept = Vec::new();
    for path in left_in(mount) {
        // The cgroups have no files that could be removed: each directory goes by itself. The
        // workers of one that was just killed are told of it by a signal, and may still be ending.
        if below(&path).iter().any(|c| remove_cgroup(c, end).is_err()) {
            kept.extend(path.file_name().map(ToOwned::to_owned));
        }
    }
    for path in left_in(Path::new(BPFFS)).chain(left_in(Path::new(FILES))) {
        if !kept.iter().any(|name| path.ends_with(name)) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn left_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_left))
        .map(|entry| entry.path())
}

fn is_left(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir(path)
        .map_err(|e| Failure::privileged(format!("cannot make the cgroup {}", path.display()), e))
}

/// The cgroup `path` and all below it, children first.
fn below(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let mut all: Vec<_> = directories.flat_map(|e| below(&e.path())).collect();
    all.push(path.to_owned());
    all
}

/// Removes the cgroup `path`, if it is there, and waits until `end` for its processes to leave it.
fn remove_cgroup(path: &Path, end: Instant) -> io::Result<()> {
    loop {
        match fs::remove_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

/// A cgroup tree.
#[derive(Debug)]
pub struct Stage {
    root: PathBuf,
}

impl Stage {
    /// Makes the topmost cgroup below the hierarchy's `mount` point.
    ///
    /// # Errors
    /// [`Failure::System`].
    pub fn make(mount: &Path) -> Result<Self, Failure> {
        let root = mount.join(name());
        // One that was there is not ours to remove.
        make_directory(&root)?;
        Ok(Self { root })
    }

    /// Makes the cgroup `name` below the topmost one.
    ///
    /// # Errors
    /// [`Failure::System`].
    pub fn make_cgroup(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.directory(name);
        make_directory(&path)?;
        Ok(path)
    }

    /// Directory of the cgroup `name`; of the topmost one if that is empty.
    pub fn directory(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.root.clone()
        } else {
            self.root.join(name)
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The workers are gone; what they started may not be. Since 5.14.
        let _ = fs::write(self.root.join("cgroup.kill"), "1");
        let end = Instant::now() + PATIENCE;
        for cgroup in below(&self.root) {
            if let Err(e) = remove_cgroup(&cgroup, end) {
                tracing::warn!("cannot remove {}: {e}", cgroup.display());
                return;
            }
        }
    }
}

/// A directory that goes with its value, and all in it.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes a directory for files that are to reach a disk.
    ///
    /// # Errors
    /// [`Failure::System`].
    pub fn for_files() -> Result<Self, Failure> {
        // /tmp is often kept in memory.
        let wanted = Path::new(FILES).join(name());
        let path = match fs::create_dir(&wanted) {
            Ok(()) => wanted,
            Err(_) => {
                let other = std::env::temp_dir().join(name());
                fs::create_dir(&other)
                    .map_err(|e| Failure::system(format!("cannot make {}", other.display()), e))?;
                other
            }
        };
        Ok(Self(path))
    }

    /// A state of the demo's own, which no other command sees. The engine makes it.
    pub fn for_state() -> Self {
        Self(Path::new(BPFFS).join(name()))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {e}", self.0.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_demos_left_is_left() {
        assert!(is_left("cgtap-demo-4294967295"));
        assert!(!is_left(&name()));
        assert!(!is_left("cgtap-demo-x"));
        assert!(!is_left("cgtap-stat-4294967295"));
    }
}
