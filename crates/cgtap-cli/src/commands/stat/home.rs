//! The new cgroup that a command runs in if none is named.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cgtap::engine::{CgroupRef, Engine};

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
    /// Makes a cgroup below this process's own one.
    ///
    /// # Errors
    /// [`Failure::System`] where none may be made, [`Failure::Unsupported`] where the own one is not to be seen.
    pub fn make(engine: &Engine) -> Result<Self, Failure> {
        let own = engine.cgroup(&CgroupRef::Pid(std::process::id()));
        let own = own.map_err(|e| {
            Failure::Unsupported(format!(
                "no cgroup can be made for the command below that of this process: {e}; name one with -c"
            ))
        })?;
        let parent = engine.cgroup_root()?.join(own.path.trim_start_matches('/'));
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
