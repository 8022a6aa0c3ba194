//! The state directory: found or made, checked, locked.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::pins;

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// It would not be in a bpffs.
    #[error(
        "{} is not in a bpffs, and only there can the state be pinned; mount one with \
         `mount -t bpf bpf /sys/fs/bpf`", path.display()
    )]
    NotBpffs {
        /// The directory, or the one it would be made in.
        path: PathBuf,
    },
    /// Somebody else's.
    #[error("{} belongs to uid {uid}; a state is adopted only from its owner, uid {want}", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Who we are.
        want: u32,
    },
    /// Others may write to it.
    #[error("{} may be written by others (mode {mode:o}); `chmod go-w` it first", path.display())]
    Mode {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// There is something in it that cgtap does not pin.
    #[error("{} is not a state of cgtap: it holds `{name}`; name another one with --state", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        name: String,
    },
    /// The kernel said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nobody: the state is going to change.
    Exclusive,
    /// Other readers.
    Shared,
}

/// A state directory, locked as long as this value lives. The kernel drops the lock of a process
/// that dies.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Never read: it is there to be closed, and with it the lock.
    _lock: File,
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DirError {
    let path = path.to_owned();
    move |source| DirError::Io { what, path, source }
}

fn in_bpffs(path: &Path) -> Result<(), DirError> {
    let stat = rustix::fs::statfs(path)
        .map_err(|e| io("look at", path)(std::io::Error::from_raw_os_error(e.raw_os_error())))?;
    if stat.f_type as u64 == BPFFS_MAGIC {
        Ok(())
    } else {
        Err(DirError::NotBpffs {
            path: path.to_owned(),
        })
    }
}

impl StateDir {
    /// Opens and locks the directory; `None` if there is none.
    ///
    /// # Errors
    /// [`DirError`] for one that is not ours to use.
    pub fn open(path: &Path, lock: Lock) -> Result<Option<Self>, DirError> {
        loop {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(io("open", path)(e)),
            };
            in_bpffs(path)?;
            let meta = file.metadata().map_err(io("look at", path))?;
            let want = rustix::process::geteuid().as_raw();
            if meta.uid() != want {
                return Err(DirError::Owner {
                    path: path.to_owned(),
                    uid: meta.uid(),
                    want,
                });
            }
            if meta.mode() & 0o022 != 0 {
                return Err(DirError::Mode {
                    path: path.to_owned(),
                    mode: meta.mode() & 0o7777,
                });
            }
            let operation = match lock {
                Lock::Exclusive => FlockOperation::LockExclusive,
                Lock::Shared => FlockOperation::LockShared,
            };
            flock_patiently(&file, operation).map_err(|e| {
                io("lock", path)(std::io::Error::from_raw_os_error(e.raw_os_error()))
            })?;
            // While we waited, whoever held it may have removed it and another may stand there.
            match std::fs::metadata(path) {
                Ok(now) if now.ino() == meta.ino() => {}
                _ => continue,
            }
            let dir = Self {
                path: path.to_owned(),
                _lock: file,
            };
            if let Some(name) = dir
                .names("")?
                .into_iter()
                .find(|n| !pins::TOP.contains(&n.as_str()))
            {
                return Err(DirError::Foreign {
                    path: dir.path,
                    name,
                });
            }
            return Ok(Some(dir));
        }
    }

    /// Opens and locks the directory exclusively; makes it if there is none.
    ///
    /// # Errors
    /// [`DirError`].
    pub fn create(path: &Path) -> Result<Self, DirError> {
        loop {
            if let Some(dir) = Self::open(path, Lock::Exclusive)? {
                return Ok(dir);
            }
            let parent = path
                .parent()
                .filter(|p| p.is_dir())
                .unwrap_or(Path::new("/sys/fs/bpf"));
            in_bpffs(parent)?;
            match DirBuilder::new().recursive(true).mode(0o700).create(path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io("make", path)(e)),
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where `name` is in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory in it, if there is none.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn make_dir(&self, name: &str) -> Result<(), DirError> {
        let path = self.join(name);
        match DirBuilder::new().recursive(true).mode(0o700).create(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io("make", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes a pin; that it is gone already is no error.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn unpin(&self, name: &str) -> Result<(), DirError> {
        let path = self.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Puts the pin `from` in the place of `to`, in one step that nobody can see half done.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn rename(&self, from: &str, to: &str) -> Result<(), DirError> {
        let path = self.join(from);
        std::fs::rename(&path, self.join(to)).map_err(io("rename", &path))
    }

    fn names(&self, below: &str) -> Result<Vec<String>, DirError> {
        let path = self.join(below);
        let entries = std::fs::read_dir(&path).map_err(io("list", &path))?;
        Ok(entries
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect())
    }

    /// Every file and directory below it, each directory before what is in it.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn walk(&self) -> Result<Vec<(String, bool)>, DirError> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(dir) = open.pop() {
            for name in self.names(&dir)? {
                let name = if dir.is_empty() {
                    name
                } else {
                    format!("{dir}/{name}")
                };
                let is_dir = self.join(&name).is_dir();
                if is_dir {
                    open.push(name.clone());
                }
                found.push((name, is_dir));
            }
        }
        Ok(found)
    }

    /// Removes everything below it that is not in `keep`; returns what went.
    ///
    /// # Errors
    /// [`DirError::Io`]; what could be removed is.
    pub fn sweep(&self, keep: &BTreeSet<String>) -> Result<Vec<String>, DirError> {
        let mut gone = Vec::new();
        // What is in a directory goes before it.
        for (name, is_dir) in self
            .walk()?
            .into_iter()
            .rev()
            .filter(|(n, _)| !keep.contains(n))
        {
            self.remove(&name, is_dir)?;
            gone.push(name);
        }
        Ok(gone)
    }

    /// Removes the pins and directories named, those in a directory before it.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn remove_all<'a>(
        &self,
        names: impl DoubleEndedIterator<Item = &'a String>,
    ) -> Result<(), DirError> {
        for name in names.rev() {
            self.remove(name, self.join(name).is_dir())?;
        }
        Ok(())
    }

    fn remove(&self, name: &str, is_dir: bool) -> Result<(), DirError> {
        if !is_dir {
            return self.unpin(name);
        }
        let path = self.join(name);
        match std::fs::remove_dir(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes the directory itself, which is empty, and with it the lock.
    ///
    /// # Errors
    /// [`DirError::Io`].
    pub fn remove_itself(self) -> Result<(), DirError> {
        std::fs::remove_dir(&self.path).map_err(io("remove", &self.path))
    }
}

/// Locks, going on after a signal.
fn flock_patiently(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}
