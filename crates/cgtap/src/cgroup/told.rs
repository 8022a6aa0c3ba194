//! Cgroups as /proc tells them of processes: by paths that begin at the root of the reader's cgroup namespace
//! (cgroup_namespaces(7)). In a container that is the container's own cgroup, whatever is mounted: of what is
//! beside it the path begins with `..`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use cgtap_sys::handle;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::mounts::Mount;

/// How what is mounted stands to where such paths begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Paths of what is below our root begin with this; it is empty where both are the same.
    Below(PathBuf),
    /// Paths begin further down than the mount does.
    Above {
        /// Where they begin, below the mount's point.
        begin: PathBuf,
        /// Our root, below the mount's point.
        root: PathBuf,
    },
}

impl Frame {
    /// Of the hierarchy that is opened at `root`.
    pub(super) fn of(root: &Path, opened: &File) -> Self {
        let same = Self::Below(PathBuf::new());
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let mounts = Mount::of_process(Path::new("/proc/self"));
        let mount = Mount::showing(&root, &mounts);
        let Some(mount) = mount.filter(|m| root.starts_with(&m.point)) else {
            return same;
        };
        Self::by(mount, &root, || begin(opened, &mount.point))
    }

    /// Of the directory `root` of a mount; `begin` says where paths begin, below its point.
    fn by(mount: &Mount, root: &Path, begin: impl FnOnce() -> Option<PathBuf>) -> Self {
        let is_above = ups(&mount.root) > 0 && names(&mount.root).count() == 0;
        let below = root.strip_prefix(&mount.point).unwrap_or(Path::new(""));
        match is_above.then(begin).flatten() {
            Some(begin) => Self::Above {
                begin,
                root: below.to_owned(),
            },
            None => Self::Below(strip_slash(&mount.root).join(below)),
        }
    }

    /// The path below our root of what is told as `told`, without its first slash; none where our root does not
    /// show it.
    pub(super) fn place(&self, told: &Path) -> Option<PathBuf> {
        match self {
            Self::Below(prefix) => {
                let below = told.strip_prefix(prefix).ok()?;
                (ups(below) == 0).then(|| below.to_owned())
            }
            Self::Above { begin, root } => {
                let stays = begin.components().count().checked_sub(ups(told))?;
                let path: PathBuf = begin.components().take(stays).chain(names(told)).collect();
                Some(path.strip_prefix(root).ok()?.to_owned())
            }
        }
    }
}

/// How many levels a path goes up first.
pub(super) fn ups(path: &Path) -> usize {
    let path = strip_slash(path).components();
    path.take_while(|c| *c == Component::ParentDir).count()
}

/// What comes behind that.
fn names(path: &Path) -> impl Iterator<Item = Component<'_>> {
    strip_slash(path).components().skip(ups(path))
}

fn strip_slash(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// Where the root of our cgroup namespace is, below the point of a mount that shows it: a mount of our own, which
/// nobody sees, begins there (Linux 5.2).
fn begin(opened: &File, point: &Path) -> Option<PathBuf> {
    let own = own_mount().map_err(|e| {
        tracing::debug!("where the cgroup namespace begins is not known: {e}");
    });
    let id = File::from(own.ok()?).metadata().ok()?.ino();
    let found = handle::open_cgroup(opened.as_fd(), id).ok()?;
    let path = super::path_of(&found).ok()?;
    Some(path.strip_prefix(point).ok()?.to_owned())
}

fn own_mount() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(mounted: &str, root: &str, begin: Option<&str>) -> Frame {
        let text = format!("1 0 0:38 {mounted} /sys/fs/cgroup rw - cgroup2 none rw\n");
        let mount = &Mount::parse(&text)[0];
        Frame::by(mount, Path::new(root), || begin.map(PathBuf::from))
    }

    fn place(frame: &Frame, told: &str) -> Option<String> {
        let path = frame.place(Path::new(told))?;
        Some(path.to_str().unwrap().to_owned())
    }

    #[test]
    fn outside_of_containers_paths_are_what_is_mounted() {
        let all = frame("/", "/sys/fs/cgroup", None);
        assert_eq!(place(&all, "a/b").unwrap(), "a/b");
        assert_eq!(place(&all, "").unwrap(), "");
        let part = frame("/", "/sys/fs/cgroup/a", None);
        assert_eq!(place(&part, "a/b").unwrap(), "b");
        assert_eq!(place(&part, "a").unwrap(), "");
        assert_eq!(place(&part, "b"), None);
        let part = frame("/x", "/sys/fs/cgroup/a", None);
        assert_eq!(place(&part, "x/a/b").unwrap(), "b");
        assert_eq!(place(&part, "a/b"), None);
    }

    #[test]
    fn a_container_that_is_given_its_own_sees_nothing_beside_it() {
        let own = frame("/", "/sys/fs/cgroup", None);
        assert_eq!(place(&own, "a").unwrap(), "a");
        assert_eq!(place(&own, "../pod7/b"), None);
    }

    #[test]
    fn a_container_that_is_given_the_hosts_sees_all_of_it() {
        let all = frame("/../..", "/sys/fs/cgroup", Some("pods/own"));
        assert_eq!(place(&all, "").unwrap(), "pods/own");
        assert_eq!(place(&all, "a").unwrap(), "pods/own/a");
        assert_eq!(place(&all, "../other/b").unwrap(), "pods/other/b");
        assert_eq!(place(&all, "../../system.slice").unwrap(), "system.slice");
        assert_eq!(place(&all, "../..").unwrap(), "");
        assert_eq!(place(&all, "../../../beyond"), None);
        let part = frame("/../..", "/sys/fs/cgroup/pods", Some("pods/own"));
        assert_eq!(place(&part, "../other/b").unwrap(), "other/b");
        assert_eq!(place(&part, "../../system.slice"), None);
    }

    #[test]
    fn where_it_begins_unknown_what_is_far_away_is_known_all_the_same() {
        let all = frame("/../..", "/sys/fs/cgroup", None);
        assert_eq!(place(&all, "../../system.slice").unwrap(), "system.slice");
        assert_eq!(place(&all, "../other"), None);
        assert_eq!(place(&all, "../../../beyond"), None);
        let beside = frame("/../x", "/sys/fs/cgroup", Some("never asked"));
        assert_eq!(place(&beside, "../x/a").unwrap(), "a");
        assert_eq!(place(&beside, "a"), None);
    }

    #[test]
    fn this_process_is_where_it_is() {
        let hierarchy = super::super::Hierarchy::open(None).unwrap();
        let pid = std::process::id();
        let own = hierarchy.by_pid(pid).unwrap();
        let procs = hierarchy.directory(&own.path).join("cgroup.procs");
        let procs = std::fs::read_to_string(procs).unwrap();
        assert!(procs.lines().any(|p| p == pid.to_string()), "{own:?}");
    }
}
