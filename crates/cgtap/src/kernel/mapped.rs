//! Files of a name wherever processes map one: a library that a container's image brings is a file of
//! a layer of that image.
//!
//! What /proc/PID/maps shows is a path as that process sees it, and of an overlay the overlay's own inode
//! (since 6.8; fs/proc/task_mmu.c, `file_user_inode`). A uprobe stands in the real file below
//! (kernel/trace/trace_uprobe.c, `d_real_inode`), and holds the mount that it was found by: were that the
//! container's, its layers could not be taken away or mounted again. So each file is looked for by a path
//! of this machine, below all overlays, and what cannot be reached by one is told. A path that was
//! found leads to one file and no other, so that two names of a file are not probed twice.

use std::cell::RefCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use serde::{Deserialize, Serialize};

use super::binary;
use crate::cgroup::mounts::Mount;
use crate::cgroup::{self, processes};

/// What ends the name of a file that was removed.
const DELETED: &str = " (deleted)";
/// Larger files are not read: a tenant may map whatever it likes under the name.
const BYTES_MAX: u64 = 1 << 30;
/// Overlays in overlays.
const DEPTH_MAX: usize = 4;

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    /// Number of its file system.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

impl FileId {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// What the system says of the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok((&std::fs::metadata(path)?).into())
    }

    /// Whether the file at `path` is this one.
    #[must_use]
    pub fn is_at(self, path: &Path) -> bool {
        Self::of(path).is_ok_and(|found| found == self)
    }
}

impl From<&Metadata> for FileId {
    fn from(about: &Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
        }
    }
}

/// A file that is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Its path on this machine.
    pub path: PathBuf,
    /// The cgroups of the processes that map it, as /proc tells them.
    pub cgroups: BTreeSet<PathBuf>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    files: BTreeMap<String, BTreeMap<FileId, Mapped>>,
    /// What has the name and cannot be probed, and why, in words.
    pub unreached: BTreeSet<String>,
}

impl Scan {
    /// The files of a name that was looked for.
    pub fn files(&self, name: &str) -> impl Iterator<Item = (FileId, &Mapped)> {
        let files = self.files.get(name);
        files.into_iter().flatten().map(|(id, file)| (*id, file))
    }
}

/// Looks at the executable mappings of all processes for files of these names: files that are called so,
/// and libraries that say that they are (`DT_SONAME`).
///
/// # Errors
/// The process list cannot be read.
pub fn scan(names: &BTreeSet<String>) -> io::Result<Scan> {
    let mut search = Search {
        wanted: names.iter().map(|name| Wanted::of(name)).collect(),
        ours: Mount::of_process(Path::new("/proc/self")),
        known: BTreeMap::new(),
        scan: Scan::default(),
    };
    let refused = processes::each(Path::new("/proc"), |_, dir| search.process(dir))?;
    if refused > 0 {
        let words = format!(
            "what some processes map may not be looked at ({refused} of them); that takes CAP_SYS_PTRACE"
        );
        search.scan.unreached.insert(words);
    }
    Ok(search.scan)
}

/// What [`scan_one`] found, by name.
pub(super) type Scans = RefCell<BTreeMap<String, Rc<Scan>>>;

thread_local! {
    static KEPT: RefCell<Weak<Scans>> = const { RefCell::new(Weak::new()) };
}

/// Lets this thread keep what [`scan_one`] finds, for as long as anybody has this.
pub(super) fn keep() -> Rc<Scans> {
    KEPT.with_borrow_mut(|kept| {
        let scans = kept.upgrade().unwrap_or_default();
        *kept = Rc::downgrade(&scans);
        scans
    })
}

/// [`scan`] for one name, which may have been done a moment ago.
///
/// # Errors
/// As [`scan`].
pub fn scan_one(name: &str) -> io::Result<Rc<Scan>> {
    let kept = KEPT.with_borrow(Weak::upgrade).unwrap_or_default();
    if let Some(known) = kept.borrow().get(name) {
        return Ok(known.clone());
    }
    let found = Rc::new(scan(&BTreeSet::from([name.to_owned()]))?);
    kept.borrow_mut().insert(name.to_owned(), found.clone());
    Ok(found)
}

/// The file below all overlays of this machine at `path`; itself where its layers cannot be reached.
#[must_use]
pub fn real(path: &Path) -> PathBuf {
    settle(path, &Mount::of_process(Path::new("/proc/self")), 0)
}

/// A name that is looked for.
struct Wanted {
    name: String,
    /// What the lines that are looked at hold.
    beginning: String,
    /// Libraries may be called otherwise in full: `libc-2.31.so`, `libcuda.so.535.54`.
    is_library: bool,
}

impl Wanted {
    fn of(name: &str) -> Self {
        let stem = name.split_once(".so").map(|(stem, _)| stem);
        Self {
            beginning: format!("/{}", stem.unwrap_or(name)),
            is_library: stem.is_some(),
            name: name.to_owned(),
        }
    }

    /// Whether a file of this name may be meant.
    fn may_be(&self, shown: &Path) -> bool {
        let file = shown.file_name().and_then(|name| name.to_str());
        let Some(behind) = file.and_then(|f| f.strip_prefix(&self.beginning[1..])) else {
            return false;
        };
        match self.is_library {
            true => behind.starts_with(['.', '-']) && behind.contains(".so"),
            false => behind.is_empty(),
        }
    }

    fn is(&self, shown: &Path, real: &Path) -> bool {
        let is_called = |path: &Path| path.file_name().is_some_and(|f| *f == *self.name);
        is_called(shown)
            || is_called(real)
            || (self.is_library && binary::soname(real).is_some_and(|so| so == self.name))
    }
}

/// What a mapping shows of a file: device, inode and path.
type Shown = (String, String, PathBuf);

struct Search {
    wanted: Vec<Wanted>,
    ours: Vec<Mount>,
    /// What was found out of a file.
    known: BTreeMap<Shown, Option<(FileId, Vec<String>)>>,
    scan: Scan,
}

impl Search {
    /// `dir` is a process's directory in /proc.
    fn process(&mut self, dir: &Path) -> io::Result<()> {
        let bytes = std::fs::read(dir.join("maps"))?;
        let text = String::from_utf8_lossy(&bytes);
        if !self.wanted.iter().any(|w| text.contains(&w.beginning)) {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for shown in text.lines().filter_map(executable) {
            let may_be = self.wanted.iter().any(|w| w.may_be(&shown.2));
            if !may_be || !seen.insert(shown.clone()) {
                continue;
            }
            if !self.known.contains_key(&shown) {
                let found = self.look_at(dir, &shown);
                self.known.insert(shown.clone(), found);
            }
            let Some(Some((id, names))) = self.known.get(&shown) else {
                continue;
            };
            let cgroup = cgroup::of_process(dir)?;
            for name in names {
                let file = self.scan.files.get_mut(name).and_then(|f| f.get_mut(id));
                if let Some(file) = file {
                    file.cgroups.insert(cgroup.clone());
                }
            }
        }
        Ok(())
    }

    /// Which file it is, and which of the names it has; none if none, or if it cannot be reached.
    fn look_at(&mut self, dir: &Path, shown: &Shown) -> Option<(FileId, Vec<String>)> {
        let path = &shown.2;
        let found = reach(dir, path, &self.ours).and_then(|real| {
            let about = std::fs::metadata(&real).map_err(|e| e.to_string())?;
            match about.is_file() && about.len() <= BYTES_MAX {
                true => Ok((real, FileId::from(&about))),
                false => Err("it is larger than a library may be".to_owned()),
            }
        });
        let (real, id) = match found {
            Ok(found) => found,
            Err(why) => {
                let pid = dir.file_name().unwrap_or_default();
                self.scan.unreached.insert(format!(
                    "{}, as process {} maps it, is not probed: {why}",
                    path.display(),
                    pid.display()
                ));
                return None;
            }
        };
        let names = self.wanted.iter().filter(|w| w.is(path, &real));
        let names: Vec<String> = names.map(|w| w.name.clone()).collect();
        for name in &names {
            let files = self.scan.files.entry(name.clone()).or_default();
            if let Entry::Vacant(place) = files.entry(id) {
                place.insert(Mapped {
                    path: real.clone(),
                    cgroups: BTreeSet::new(),
                });
            }
        }
        Some((id, names))
    }
}

/// What an executable mapping of a file shows: `BEGIN-END r-xp OFFSET DEVICE INODE PATH`.
fn executable(line: &str) -> Option<Shown> {
    let (head, path) = line.split_at(line.find('/')?);
    let mut words = head.split_ascii_whitespace().skip(1);
    let is_code = words.next()?.as_bytes().get(2) == Some(&b'x');
    let (device, inode) = (words.nth(1)?, words.next()?);
    let path = PathBuf::from(path.replace("\\012", "\n"));
    is_code.then(|| (device.to_owned(), inode.to_owned(), path))
}

/// The path on this machine of what a process sees at `shown`; in words if there is none.
fn reach(dir: &Path, shown: &Path, ours: &[Mount]) -> Result<PathBuf, String> {
    if shown
        .as_os_str()
        .as_encoded_bytes()
        .ends_with(DELETED.as_bytes())
    {
        return Err("it was removed".to_owned());
    }
    // Its root may be a directory of what it sees (chroot).
    let root = std::fs::read_link(dir.join("root")).unwrap_or_else(|_| "/".into());
    let below = shown.strip_prefix(root).unwrap_or(shown);
    let within = dir.join("root").join(below);
    let about = std::fs::metadata(&within).map_err(|e| format!("it is not found there: {e}"))?;
    let id = FileId::from(&about);
    if id.is_at(shown) {
        return Ok(settle(shown, ours, 0));
    }
    let theirs = Mount::of_process(dir);
    let seen = Path::new("/").join(below);
    let place = Mount::showing(&within, &theirs).and_then(|m| Some((m, m.inside(&seen)?)));
    let (mount, inside) = place.ok_or("it lies on no mount of that process")?;
    if mount.fs_type == "overlay" {
        return layer(mount, &inside, &about, ours, 0).ok_or_else(|| {
            "no layer of its overlay that has it can be reached from here".to_owned()
        });
    }
    let same = ours.iter().filter(|m| m.device == mount.device);
    let mut paths = same.filter_map(|m| m.outside(&inside));
    match paths.find(|path| id.is_at(path)) {
        Some(path) => Ok(settle(&path, ours, 0)),
        None => Err(format!(
            "its file system ({}) is not mounted here",
            mount.fs_type
        )),
    }
}

/// The file of an overlay's layers that is seen at `inside`.
fn layer(
    mount: &Mount,
    inside: &Path,
    about: &Metadata,
    ours: &[Mount],
    depth: usize,
) -> Option<PathBuf> {
    let inside = inside.strip_prefix("/").unwrap_or(inside);
    for dir in mount.layers() {
        let path = dir.join(inside);
        let Ok(real) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        // What is hidden here is hidden in all below: the first one is it, or none.
        let is_it = dir.is_absolute()
            && real.is_file()
            && (real.len(), real.mtime(), real.mtime_nsec())
                == (about.len(), about.mtime(), about.mtime_nsec());
        return is_it.then(|| settle(&path, ours, depth + 1));
    }
    None
}

/// The file below all overlays of this machine.
fn settle(path: &Path, ours: &[Mount], depth: usize) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let below = Mount::showing(&path, ours)
        .filter(|mount| mount.fs_type == "overlay" && depth < DEPTH_MAX)
        .and_then(|mount| {
            let about = std::fs::metadata(&path).ok()?;
            layer(mount, &mount.inside(&path)?, &about, ours, depth)
        });
    below.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries_and_programs() {
        let may_be = |name: &str, path: &str| Wanted::of(name).may_be(Path::new(path));
        for path in ["/a/libc.so.6", "/libc-2.31.so", "/x y/libc.so"] {
            assert!(may_be("libc.so.6", path), "{path}");
        }
        for path in [
            "/a/libcrypt.so.1",
            "/libc/x.so",
            "/libc.conf",
            "/a/mylibc.so.6",
        ] {
            assert!(!may_be("libc.so.6", path), "{path}");
        }
        assert!(may_be("python3", "/usr/bin/python3"));
        assert!(!may_be("python3", "/usr/bin/python3.11"));
    }

    #[test]
    fn only_code_is_looked_at() {
        let line = "7f00-7f10 r-xp 00001000 fe:01 123                /usr/lib/x y.so";
        let path = PathBuf::from("/usr/lib/x y.so");
        let shown = Some(("fe:01".to_owned(), "123".to_owned(), path));
        assert_eq!(executable(line), shown);
        assert_eq!(executable(&line.replace("r-xp", "r--p")), None);
        assert_eq!(executable("7f00-7f10 rwxp 00000000 00:00 0 [stack]"), None);
    }

    #[test]
    fn what_was_found_is_kept_for_a_while() {
        let look = || scan_one("libc.so.6").unwrap();
        assert!(!Rc::ptr_eq(&look(), &look()));
        let kept = keep();
        let first = look();
        drop(keep());
        assert!(Rc::ptr_eq(&first, &look()));
        drop(kept);
        assert!(!Rc::ptr_eq(&first, &look()));
    }

    #[test]
    fn this_programs_own_libc_is_found() {
        let names = BTreeSet::from(["libc.so.6".to_owned(), "no-such.so".to_owned()]);
        let scan = scan(&names).unwrap();
        let machines = real(&binary::find("libc.so.6").unwrap());
        let id = FileId::of(&machines).unwrap();
        let own = cgroup::of_process(Path::new("/proc/self")).unwrap();
        let found: BTreeMap<_, _> = scan.files("libc.so.6").collect();
        assert_eq!(found[&id].path, machines);
        assert!(found[&id].cgroups.contains(&own), "{found:?}");
        assert_eq!(scan.files("no-such.so").count(), 0);
        assert_eq!(scan.files("libm.so.6").count(), 0);
    }
}
