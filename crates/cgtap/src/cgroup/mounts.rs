//! What is mounted where, as /proc/PID/mountinfo tells it (proc_pid_mountinfo(5)).

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, as statx(2) tells of a file.
    pub id: u64,
    /// `MAJOR:MINOR` of the file system.
    pub device: String,
    /// Which directory of the file system is mounted.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Type of the file system.
    pub fs_type: String,
    /// What the file system was mounted with, with commas between.
    pub options: String,
}

impl Mount {
    /// Those that a process sees; `dir` is its directory in /proc. None where that cannot be read.
    #[must_use]
    pub fn of_process(dir: &Path) -> Vec<Self> {
        let text = std::fs::read(dir.join("mountinfo")).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// Of `mounts`, the one that a file is seen by.
    #[must_use]
    pub fn showing<'a>(path: &Path, mounts: &'a [Self]) -> Option<&'a Self> {
        let about = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        mounts.iter().find(|m| m.id == about.stx_mnt_id)
    }

    /// The lines of a process's file; those that are none are left out.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Vec<Self> {
        mountinfo.lines().filter_map(line).collect()
    }

    /// The directories that an overlay shows in one, the topmost first; none of another file system.
    #[must_use]
    pub fn layers(&self) -> Vec<PathBuf> {
        if self.fs_type != "overlay" {
            return Vec::new();
        }
        let words = self.options.split(',').filter_map(|o| o.split_once('='));
        let of = |wanted: &'static str| {
            let here = words.clone().filter(move |(name, _)| *name == wanted);
            here.map(|(_, value)| value)
        };
        // Mounted by fsconfig(2), each lower one is an option (since 6.8).
        let lower = of("lowerdir").flat_map(|all| all.split(':'));
        let lower = lower.chain(of("lowerdir+")).filter(|dir| !dir.is_empty());
        of("upperdir").chain(lower).map(unescape).collect()
    }

    /// The path in the file system of what is at `path`, below where this is mounted.
    #[must_use]
    pub fn inside(&self, path: &Path) -> Option<PathBuf> {
        Some(join(&self.root, path.strip_prefix(&self.point).ok()?))
    }

    /// Where `inside`, a path in the file system, is to be seen by this mount.
    #[must_use]
    pub fn outside(&self, inside: &Path) -> Option<PathBuf> {
        Some(join(&self.point, inside.strip_prefix(&self.root).ok()?))
    }
}

/// A path below a directory, without the slash that joining nothing leaves.
fn join(dir: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        dir.to_owned()
    } else {
        dir.join(rest)
    }
}

fn line(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ');
    let id = head.next()?.parse().ok()?;
    let device = head.nth(1)?.to_owned();
    let root = unescape(head.next()?);
    let point = unescape(head.next()?);
    let mut tail = tail.splitn(3, ' ');
    let fs_type = tail.next()?.to_owned();
    Some(Mount {
        id,
        device,
        root,
        point,
        fs_type,
        options: tail.nth(1).unwrap_or_default().to_owned(),
    })
}

/// What would end a field is written as its octal number, `\040`.
fn unescape(text: &str) -> PathBuf {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, behind) = rest.split_at(at);
        plain += before;
        let number = behind.get(1..4).map(|octal| u8::from_str_radix(octal, 8));
        match number {
            Some(Ok(byte)) if byte.is_ascii() => {
                plain.push(byte.into());
                rest = &behind[4..];
            }
            _ => {
                plain.push('\\');
                rest = &behind[1..];
            }
        }
    }
    (plain + rest).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let text = "nonsense\n\
            36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
        let mounts = Mount::parse(text);
        let [mount] = mounts.as_slice() else {
            panic!("{mounts:?}");
        };
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!(mount.options, "rw,errors=continue");
        assert_eq!(mount.layers(), Vec::<PathBuf>::new());
        let inside = mount.inside(Path::new("/mnt 2/a/b")).unwrap();
        assert_eq!(inside, Path::new("/mnt1/a/b"));
        assert_eq!(mount.outside(&inside).unwrap(), Path::new("/mnt 2/a/b"));
        assert_eq!(mount.outside(Path::new("/mnt1")).unwrap(), mount.point);
        assert_eq!(mount.outside(Path::new("/mnt10/a")), None);
        assert_eq!(mount.inside(Path::new("/elsewhere")), None);
    }

    #[test]
    fn the_layers_of_an_overlay_are_found_from_above() {
        let of = |options: &str| {
            let text = format!("1 0 0:50 / / rw - overlay overlay {options}\n");
            let layers = Mount::parse(&text)[0].layers();
            let shown = layers.iter().map(|l| l.display().to_string());
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("rw,lowerdir=/b:/c,upperdir=/a,workdir=/w"), "/a /b /c");
        assert_eq!(of("ro,lowerdir=/b:/c::/data"), "/b /c /data");
        assert_eq!(of("ro,lowerdir+=/b,lowerdir+=/c\\054d"), "/b /c,d");
        assert_eq!(of("rw"), "");
    }
}
