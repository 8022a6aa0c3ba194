//! Cgroups: found by path or id, with their place in the hierarchy.

pub mod mounts;
pub mod name;
pub mod pattern;
pub mod processes;
pub mod runtime;
mod told;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cgtap_sys::{Errno, handle};

use self::mounts::Mount;
use self::told::Frame;
use crate::id::CgroupId;

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`, and `TMPFS_MAGIC` under which v1 hierarchies are mounted.
const CGROUP1_MAGIC: u64 = 0x0027_e0eb;

/// A cgroup that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its id.
    pub id: CgroupId,
    /// Its path below the root, with a leading slash; `/` for the root.
    pub path: String,
    /// Its ancestors, nearest first, up to the root of the mount.
    pub ancestors: Vec<CgroupId>,
}

/// Why something is no cgroup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 is mounted.
    #[error("no cgroup2 is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup`")]
    NoMount,
    /// The path leads nowhere.
    #[error("there is no cgroup {}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// What is mounted does not show it.
    #[error(
        "the cgroup2 that is mounted at {} does not show {}, as /proc or another mount calls it; in a container \
         that is given its own cgroup only, mount the host's hierarchy", root.display(), path.display()
    )]
    Unseen {
        /// The path, from the root of our cgroup namespace or as another mount has it.
        path: PathBuf,
        /// Where cgroup2 is.
        root: PathBuf,
    },
    /// There is no cgroup of this id, or none any more.
    #[error("there is no cgroup with id {id}; it may have been removed")]
    Gone {
        /// The id.
        id: CgroupId,
    },
    /// No cgroup, or several, have this name.
    #[error("{} called {what}{}", how_many(*.count), among(.candidates))]
    Name {
        /// `container:web`.
        what: String,
        /// How many cgroups have it: none or several.
        count: usize,
        /// Those that have it, or near names.
        candidates: Vec<String>,
    },
    /// A directory of a v1 hierarchy.
    #[error(
        "{} is a cgroup v1 directory; cgtap attaches to the cgroup2 hierarchy, which is mounted at \
         {}", path.display(), root.display()
    )]
    V1 {
        /// The path.
        path: PathBuf,
        /// Where cgroup2 is.
        root: PathBuf,
    },
    /// Some other file or directory.
    #[error("{} is not a cgroup; cgroup2 is mounted at {}", path.display(), root.display())]
    NotACgroup {
        /// The path.
        path: PathBuf,
        /// Where cgroup2 is.
        root: PathBuf,
    },
    /// The kernel said no.
    #[error("cannot look at cgroup {what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn how_many(count: usize) -> String {
    match count {
        0 => "there is no cgroup".to_owned(),
        several => format!("{several} cgroups are"),
    }
}

fn among(candidates: &[String]) -> String {
    if candidates.is_empty() {
        String::new()
    } else {
        format!("; there are {}", candidates.join(", "))
    }
}

impl CgroupError {
    /// The errno that stands for it.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::NoMount | Self::Missing { .. } | Self::Unseen { .. } | Self::Gone { .. } => {
                Some(Errno::ENOENT)
            }
            Self::Name { count: 0, .. } => Some(Errno::ENOENT),
            Self::V1 { .. } | Self::NotACgroup { .. } | Self::Name { .. } => Some(Errno::EINVAL),
            Self::Io { source, .. } => source.raw_os_error().map(Errno),
        }
    }
}

/// The mounted cgroup2 hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    root: PathBuf,
    mount: File,
    /// Found when a path of /proc is to be understood.
    frame: OnceLock<Frame>,
}

fn magic(file: &File) -> u64 {
    rustix::fs::fstatfs(file).map_or(0, |s| s.f_type as u64)
}

/// Where an open file is.
fn path_of(file: &impl AsRawFd) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The id of the cgroup of an open directory.
fn id_of(file: &File, full: &Path) -> Result<CgroupId, CgroupError> {
    let meta = file.metadata().map_err(|source| CgroupError::Io {
        what: full.display().to_string(),
        source,
    })?;
    // On 64-bit systems the inode number is the whole id (include/linux/kernfs.h).
    Ok(CgroupId(meta.ino()))
}

impl AsFd for Hierarchy {
    /// Its root.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Hierarchy {
    /// Opens the hierarchy at `root`, or at the topmost cgroup2 in /proc/self/mountinfo.
    ///
    /// # Errors
    /// [`CgroupError::NoMount`], or [`CgroupError::NotACgroup`] for a `root` that is none.
    pub fn open(root: Option<&Path>) -> Result<Self, CgroupError> {
        let root = match root {
            Some(root) => root.to_owned(),
            None => find_mount().ok_or(CgroupError::NoMount)?,
        };
        let mount = File::open(&root).map_err(|_| CgroupError::Missing { path: root.clone() })?;
        if magic(&mount) != CGROUP2_MAGIC {
            return Err(CgroupError::NotACgroup {
                path: root.clone(),
                root,
            });
        }
        Ok(Self {
            root,
            mount,
            frame: OnceLock::new(),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the cgroup is in the file system that is printed as `path`.
    #[must_use]
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The cgroup at `path`: absolute in the file system, or else below the root.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn by_path(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        let below = path.strip_prefix("/").unwrap_or(path);
        // `/tenants/a` is taken as the path that we print; a real path is tried first.
        let full = if path.starts_with(&self.root)
            || (path.is_absolute() && path != Path::new("/") && path.is_dir())
        {
            path.to_owned()
        } else {
            self.root.join(below)
        };
        let file = match File::open(&full) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(CgroupError::Missing { path: full });
            }
            Err(source) => {
                return Err(CgroupError::Io {
                    what: full.display().to_string(),
                    source,
                });
            }
        };
        let root = self.root.clone();
        match magic(&file) {
            CGROUP2_MAGIC if file.metadata().is_ok_and(|m| m.is_dir()) => {}
            CGROUP1_MAGIC => return Err(CgroupError::V1 { path: full, root }),
            _ => return Err(CgroupError::NotACgroup { path: full, root }),
        }
        let full = full.canonicalize().unwrap_or(full);
        match self.describe(&full, &file) {
            // The same hierarchy may be mounted elsewhere too.
            Err(CgroupError::Unseen { .. }) => self.by_id(id_of(&file, &full)?),
            described => described,
        }
    }

    /// The cgroup with this id.
    ///
    /// # Errors
    /// [`CgroupError::Gone`], or [`CgroupError::Io`] without CAP_DAC_READ_SEARCH.
    pub fn by_id(&self, id: CgroupId) -> Result<Cgroup, CgroupError> {
        let what = || format!("id:{id}");
        let fd = handle::open_cgroup(self.mount.as_fd(), id.0).map_err(|e| match e.errno {
            Errno::ESTALE | Errno::ENOENT => CgroupError::Gone { id },
            errno => CgroupError::Io {
                what: what(),
                source: std::io::Error::from_raw_os_error(errno.0),
            },
        })?;
        let io = |source| CgroupError::Io {
            what: what(),
            source,
        };
        let full = path_of(&fd).map_err(io)?;
        let file = File::open(&full).map_err(|_| CgroupError::Gone { id })?;
        self.describe(&full, &file)
    }

    /// Whether a cgroup with this id exists; `None` if that could not be told.
    #[must_use]
    pub fn exists(&self, id: CgroupId) -> Option<bool> {
        match handle::open_cgroup(self.mount.as_fd(), id.0) {
            Ok(_) => Some(true),
            Err(e) if e.errno == Errno::ESTALE || e.errno == Errno::ENOENT => Some(false),
            Err(_) => None,
        }
    }

    fn describe(&self, full: &Path, file: &File) -> Result<Cgroup, CgroupError> {
        let id = id_of(file, full)?;
        let root = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        // Above another mount's root there are no cgroups.
        let Ok(below) = full.strip_prefix(&root) else {
            return Err(CgroupError::Unseen {
                path: full.to_owned(),
                root: self.root.clone(),
            });
        };
        let mut ancestors = Vec::new();
        let mut up = full;
        while up != root {
            let Some(parent) = up.parent() else { break };
            let meta = parent.metadata().map_err(|_| CgroupError::Gone { id })?;
            ancestors.push(CgroupId(meta.ino()));
            up = parent;
        }
        Ok(Cgroup {
            id,
            path: format!("/{}", below.display()),
            ancestors,
        })
    }

    /// The cgroups right below `path` (a path as [`Cgroup::path`] has it), by name.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<Cgroup> {
        let dir = self.directory(path);
        let mut children: Vec<Cgroup> = std::fs::read_dir(&dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                entry
                    .file_type()
                    .ok()?
                    .is_dir()
                    .then(|| self.by_path(&entry.path()).ok())?
            })
            .collect();
        children.sort_by(|a, b| a.path.cmp(&b.path));
        children
    }
}

/// A cgroup in a listing of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its id.
    pub id: CgroupId,
    /// Path below the root, with a leading slash.
    pub path: String,
    /// Place of its parent in the listing; its own for the first.
    pub parent: usize,
    /// How far below the first one it is.
    pub level: usize,
}

impl Hierarchy {
    /// The cgroup that the task `pid` is in.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if there is no such task, [`CgroupError::Unseen`] if its cgroup is not below
    /// this mount.
    pub fn by_pid(&self, pid: u32) -> Result<Cgroup, CgroupError> {
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Io {
            what: format!("of process {pid}"),
            source,
        })?;
        let path = unified(&text).ok_or(CgroupError::NoMount)?;
        self.by_told(Path::new(path))
    }

    /// The cgroup of a path that /proc tells of a process ([`of_process`]).
    ///
    /// # Errors
    /// [`CgroupError::Unseen`] if it is not below this mount, [`CgroupError::Missing`] if it is gone.
    pub fn by_told(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        let frame = self
            .frame
            .get_or_init(|| Frame::of(&self.root, &self.mount));
        let below = frame.place(path).ok_or_else(|| CgroupError::Unseen {
            path: Path::new("/").join(path),
            root: self.root.clone(),
        })?;
        self.by_path(&self.root.join(below))
    }

    /// The one cgroup of a name: a container, pod or unit.
    ///
    /// # Errors
    /// [`CgroupError::Name`] if none or several have it.
    pub fn by_name(&self, kind: name::NameKind, text: &str) -> Result<Cgroup, CgroupError> {
        let top = self.by_path(Path::new("/"))?;
        let listing = self.listing(&top);
        let names = name::of_paths(listing.iter().map(|b| b.path.as_str()));
        let named: Vec<(&String, name::Name)> = listing
            .iter()
            .zip(names)
            .filter_map(|(branch, name)| Some((&branch.path, name?)))
            .filter(|(_, name)| name.kind == kind)
            .collect();
        let meant: Vec<&String> = named
            .iter()
            .filter(|(_, name)| name.is_meant_by(text))
            .map(|(path, _)| *path)
            .collect();
        let candidates = match meant.as_slice() {
            [path] => return self.by_path(&self.directory(path)),
            [] => named.iter().take(8).map(|(_, n)| n.to_string()).collect(),
            several => several.iter().take(8).map(ToString::to_string).collect(),
        };
        Err(CgroupError::Name {
            what: format!("{}:{text}", kind.word()),
            count: meant.len(),
            candidates,
        })
    }

    /// `top` and all below it, each before those below it, by name. Reads directories only: one that
    /// goes meanwhile is left out.
    #[must_use]
    pub fn listing(&self, top: &Cgroup) -> Vec<Branch> {
        let mut listing = Vec::new();
        let top = Branch {
            id: top.id,
            path: top.path.clone(),
            parent: 0,
            level: 0,
        };
        // Those whose directories are still to be read, and whether there is anything in them.
        let mut open = vec![(top, true)];
        while let Some((branch, has_children)) = open.pop() {
            let at = listing.len();
            let mut children = if has_children {
                self.branches(&branch, at)
            } else {
                Vec::new()
            };
            children.sort_by(|a, b| b.0.path.cmp(&a.0.path));
            listing.push(branch);
            open.extend(children);
        }
        listing
    }

    /// The cgroups right below the `at`th one of a listing, and whether they have any below them: a
    /// directory of kernfs has a link for each and two for itself (fs/kernfs/inode.c,
    /// `kernfs_refresh_inode`).
    fn branches(&self, above: &Branch, at: usize) -> Vec<(Branch, bool)> {
        let dir = self.directory(&above.path);
        let branch = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            if !entry.file_type().ok()?.is_dir() {
                return None;
            }
            let has_children = entry.metadata().map_or(true, |m| m.nlink() > 2);
            let name = entry.file_name();
            let branch = Branch {
                // On 64-bit systems the inode number is the whole id.
                id: CgroupId(entry.ino()),
                path: format!(
                    "{}/{}",
                    above.path.trim_end_matches('/'),
                    name.to_string_lossy()
                ),
                parent: at,
                level: above.level + 1,
            };
            Some((branch, has_children))
        };
        let entries = std::fs::read_dir(&dir).into_iter().flatten();
        entries.filter_map(branch).collect()
    }
}

/// A process's cgroup in the cgroup2 hierarchy, as a path below the root of our cgroup namespace, which is what
/// [`Hierarchy::by_told`] takes. `dir` is its directory in /proc.
///
/// # Errors
/// There is no such process any more, or it is in no cgroup of that hierarchy.
pub fn of_process(dir: &Path) -> std::io::Result<PathBuf> {
    let text = std::fs::read_to_string(dir.join("cgroup"))?;
    let path = unified(&text).map(PathBuf::from);
    path.ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// The line of cgroup2, which is the hierarchy without a number (cgroups(7)), without its first slash.
fn unified(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// The mount point of the cgroup2 in /proc/self/mountinfo (proc_pid_mountinfo(5)) that shows most of the
/// hierarchy: a part of it may be mounted elsewhere. The first of several.
fn find_mount() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    topmost(&text)
}

fn topmost(mountinfo: &str) -> Option<PathBuf> {
    let mounts = Mount::parse(mountinfo).into_iter();
    let mounts = mounts.filter(|mount| mount.fs_type == "cgroup2");
    // Seen from a cgroup namespace, what is mounted from above its root is `/..`.
    let shows = |mount: &Mount| {
        let ups = told::ups(&mount.root);
        (std::cmp::Reverse(ups), mount.root.components().count())
    };
    let first = mounts.min_by_key(shows)?;
    Some(first.point)
}

/// Whether a file could not be read or written since its cgroup is gone, or going.
pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    let gone = [Errno::ENOENT, Errno::ENODEV].map(|e| Some(e.0));
    gone.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_that_shows_most_is_taken() {
        let text = "24 1 0:5 / /sys rw - sysfs none rw\n\
                    40 30 0:38 /a/b /run/part rw - cgroup2 none rw\n\
                    41 31 0:38 / /sys/fs/cgroup\\040x rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                    42 31 0:38 / /mnt rw - cgroup2 none rw\n";
        let found = topmost(text).unwrap();
        assert_eq!(found, Path::new("/sys/fs/cgroup x"));
        assert_eq!(topmost("24 1 0:5 / /sys rw - sysfs none rw\n"), None);
        // A container's own, and the host's beside it.
        let text = "40 30 0:38 / /sys/fs/cgroup rw - cgroup2 none rw\n\
                    41 31 0:38 /../.. /host/cgroup rw - cgroup2 none rw\n\
                    42 31 0:38 /../a /host/a rw - cgroup2 none rw\n";
        assert_eq!(topmost(text).unwrap(), Path::new("/host/cgroup"));
    }
}
