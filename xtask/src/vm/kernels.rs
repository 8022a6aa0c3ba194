//! The kernels that guests run: one line each.

use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::cache::Cache;
use crate::Result;

/// A kernel of Debian's.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its package, as an extended regular expression. The newest that matches is taken, so that
    /// nothing breaks when a mirror drops an old one.
    package: &'static str,
    /// Where it is published, each a line of sources.
    pub suites: &'static [&'static str],
}

/// To add a kernel, add a line.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        name: "6.1",
        package: r"linux-image-6\.1\.0-[0-9]+-amd64",
        suites: &["bookworm", "bookworm-security"],
    },
    Kernel {
        name: "6.12",
        package: r"linux-image-6\.12\.[0-9.]+\+deb12[0-9.]*-amd64",
        suites: &["bookworm-backports", "bookworm-security"],
    },
    Kernel {
        name: "6.18",
        package: r"linux-image-6\.18\.[0-9.]+\+deb13[0-9.]*-amd64",
        suites: &["trixie-backports"],
    },
    Kernel {
        name: "7.3",
        package: r"linux-image-7\.3\.[0-9.]+\+deb13[0-9.]*-amd64",
        // The first for the C library of what builds modules.
        suites: &["trixie", "trixie-backports"],
    },
];

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its release, as `uname -r` has it.
    pub release: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// The directory of the kernel and its configuration.
    pub boot_dir: PathBuf,
    /// The directory of its modules.
    pub modules_dir: PathBuf,
}

/// The word for every kernel.
pub const ALL: &str = "all";

/// The kernels of a word on the command line: `all`, or names with commas between them.
pub fn named(word: &str) -> Result<Vec<&'static Kernel>> {
    if word == ALL {
        return Ok(KERNELS.iter().collect());
    }
    let find = |name: &str| {
        KERNELS.iter().find(|k| k.name == name).ok_or_else(|| {
            let known = KERNELS.map(|k| k.name).join(", ");
            format!("there is no kernel {name}; known are {known} and all").into()
        })
    };
    word.split(',').map(find).collect()
}

impl Kernel {
    /// Fetches and unpacks it, unless the cache has the newest one.
    pub fn unpack(&self, cache: &Cache) -> Result<Unpacked> {
        self.find(cache)?.ok_or_else(|| self.gone().into())
    }

    /// The same; none where Debian has it no more, and the cache neither.
    pub fn find(&self, cache: &Cache) -> Result<Option<Unpacked>> {
        let _lock = cache.lock()?;
        let home = cache.dir().join("kernels").join(self.name);
        let kept = || newest_kept(&home);
        let root = match self.fetch(cache, &home) {
            Ok(Some(root)) => root,
            Ok(None) => match kept() {
                Some(root) => root,
                None => return Ok(None),
            },
            Err(error) => {
                let kept = kept().ok_or_else(|| format!("kernel {}: {error}", self.name))?;
                eprintln!("vm: {error}");
                eprintln!(
                    "vm: going on with {}, which is in the cache",
                    kept.display()
                );
                kept
            }
        };
        unpacked(self.name, &root).map(Some)
    }

    /// What is said where there is none.
    pub fn gone(&self) -> String {
        format!(
            "no package {} is in Debian's {} any more, or the mirror is incomplete; see the table in \
             xtask/src/vm/kernels.rs",
            self.package,
            self.suites.join(", ")
        )
    }

    fn fetch(&self, cache: &Cache, home: &Path) -> Result<Option<PathBuf>> {
        let apt = Apt::open(cache)?;
        let Some(package) = apt.newest(self.package)? else {
            return Ok(None);
        };
        let root = home.join(&package.name);
        if !root.exists() {
            eprintln!("vm: fetching {package}");
            let release = package.name.trim_start_matches("linux-image-").to_owned();
            // Newer Debians have the modules in a package of their own, and one with scripts only may be
            // absent; what counts is looked for at the end.
            let parts = apt.with_dependencies(package, |name| name.ends_with(&release))?;
            apt.unpack(&parts, &root, |root| finish(root, &release))?;
            remove_others(home, &root)?;
        }
        Ok(Some(root))
    }
}

/// What installing the package would do: the list of modules.
fn finish(root: &Path, release: &str) -> Result<()> {
    if !root.join("lib").exists() {
        // Merged /usr: depmod of older Debians looks in /lib only.
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    // Debian 14 has the kernel and its configuration beside the modules; installing puts them in place.
    let beside = root.join("lib/modules").join(release);
    let boot = root.join("boot");
    std::fs::create_dir_all(&boot)?;
    for part in ["vmlinuz", "config"] {
        let from = beside.join(part);
        let to = boot.join(format!("{part}-{release}"));
        if from.exists() && !to.exists() {
            std::fs::hard_link(from, to)?;
        }
    }
    for part in ["boot/vmlinuz-", "lib/modules/"] {
        let part = format!("{part}{release}");
        if !root.join(&part).exists() {
            return Err(format!(
                "the packages of {release} hold no {part}; the mirror lacks one of them"
            )
            .into());
        }
    }
    let mut depmod = std::process::Command::new("depmod");
    super::tool::run(depmod.arg("-b").arg(root).arg(release), "kmod")?;
    Ok(())
}

fn unpacked(name: &'static str, root: &Path) -> Result<Unpacked> {
    let release = root
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_prefix("linux-image-"))
        .ok_or_else(|| format!("{} is no kernel of the cache", root.display()))?
        .to_owned();
    Ok(Unpacked {
        name,
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        boot_dir: root.join("boot"),
        // Without the link lib -> usr/lib: the guest binds this directory.
        modules_dir: std::fs::canonicalize(root.join("lib/modules").join(&release))?,
        release,
    })
}

/// The kernel that was unpacked last.
fn newest_kept(home: &Path) -> Option<PathBuf> {
    let kept = std::fs::read_dir(home).ok()?.flatten();
    kept.filter(|e| e.file_name().to_string_lossy().starts_with("linux-image-"))
        .max_by_key(|e| e.metadata().and_then(|m| m.modified()).ok())
        .map(|e| e.path())
}

/// An unpacked kernel takes half a gigabyte: only the newest stays.
fn remove_others(home: &Path, root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(home)?.flatten() {
        if entry.path() != root {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
