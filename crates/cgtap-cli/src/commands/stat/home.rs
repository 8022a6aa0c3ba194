//! The new cgroup that a command runs in if none is named.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::failure::Failure;

/// How often the processes that a command left behind are looked for, and how long apart: each
/// may make another one before it is moved.
const ROUNDS: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// A cgroup below our own one. It is removed with the value.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    directory: fs::File,
    removed: bool,
}

impl Home {
    /// Makes a cgroup below this process's own one in the hierarchy that is mounted at `root`.
    ///
    /// # Errors
    /// [`Failure::System`] where none may be made.
    pub fn make(root: &Path) -> Result<Self, Failure> {
        let own = fs::read_to_string("/proc/self/cgroup")
            .map_err(|e| Failure::system("cannot read /proc/self/cgroup", e))?;
        let parent = own_cgroup(&own, root)?;
        let path = parent.join(format!("cgtap-stat-{}", std::process::id()));
        let cannot = |e: io::Error| {
            let path = path.display();
            Failure::privileged(
                format!("cannot make {path} for the command; name a cgroup with -c"),
                e,
            )
        };
        match fs::create_dir(&path) {
            Ok(()) => {}
            // Left by a process that had our number; rmdir takes it only if nothing is in it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => fs::remove_dir(&path)
                .and_then(|()| fs::create_dir(&path))
                .map_err(cannot)?,
            Err(e) => return Err(cannot(e)),
        }
        let directory = fs::File::open(&path).map_err(|e| {
            let _ = fs::remove_dir(&path);
            cannot(e)
        })?;
        Ok(Self {
            path,
            directory,
            removed: false,
        })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, opened.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Removes it. What the command left running goes on in our own cgroup. Returns what is to be
    /// said if it could not be removed.
    pub fn remove(mut self) -> Option<String> {
        self.removed = true;
        let error = self.try_remove().err()?;
        let path = self.path.display();
        Some(format!("cannot remove {path}: {error}"))
    }

    fn try_remove(&self) -> io::Result<()> {
        let mut result = fs::remove_dir(&self.path);
        for _ in 0..ROUNDS {
            if result.is_ok() {
                break;
            }
            self.move_processes_up();
            result = fs::remove_dir(&self.path);
            if result.is_err() {
                thread::sleep(PAUSE);
            }
        }
        result
    }

    fn move_processes_up(&self) {
        let Some(parent) = self.path.parent() else {
            return;
        };
        let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // One that has ended in the meantime is as good as moved.
            let _ = fs::write(parent.join("cgroup.procs"), process);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.try_remove();
        }
    }
}

/// Directory of the cgroup that /proc/self/cgroup, whose content is `own`, names in the unified
/// hierarchy.
fn own_cgroup(own: &str, root: &Path) -> Result<PathBuf, Failure> {
    let path = own
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| {
            Failure::Unsupported(
                "this process is in no cgroup of the unified hierarchy; name one with -c"
                    .to_owned(),
            )
        })?;
    // A cgroup outside of the namespace, and one that is gone, have no directory to be seen.
    if path.starts_with("..") || path.ends_with(" (deleted)") {
        return Err(Failure::Unsupported(format!(
            "the cgroup of this process, /{path}, is not to be seen here; name one with -c"
        )));
    }
    Ok(root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_the_line_of_the_unified_hierarchy() {
        let root = Path::new("/sys/fs/cgroup/unified");
        let own = |text: &str| own_cgroup(text, root).map_err(|e| e.status());
        assert_eq!(
            own("9:name=systemd:/\n4:memory:/x\n0::/user.slice/a\n"),
            Ok(root.join("user.slice/a"))
        );
        assert_eq!(own("0::/\n"), Ok(root.join("")));
        assert_eq!(own("4:memory:/x\n"), Err(1));
        assert_eq!(own("0::/../other\n"), Err(1));
        assert_eq!(own("0::/a (deleted)\n"), Err(1));
    }
}
