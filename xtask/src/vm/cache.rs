//! The cache: unpacked packages and apt's indexes, outside the tree and shared by all checkouts.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::Result;

/// A directory that is ours alone.
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/cgtap-vm` or `~/.cache/cgtap-vm`.
    pub fn open() -> Result<Self> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .ok_or("no place for a cache: set HOME or XDG_CACHE_HOME")?;
        let dir = base.join("cgtap-vm");
        std::fs::create_dir_all(&dir)
            .map_err(|e| format!("cannot make the cache {}: {e}", dir.display()))?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory in it, made if need be.
    pub fn sub(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// One process at a time fetches and unpacks. The lock goes with the value.
    pub fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::create(&path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!(
                "vm: waiting for another process that fills {}",
                self.dir.display()
            );
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(file)
    }
}
