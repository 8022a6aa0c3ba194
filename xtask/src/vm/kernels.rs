//! The kernels that guests run: Debian's, one line each, and those that somebody built.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::Apt;
use super::cache::Cache;
use super::tool;
use crate::Result;

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What it is called on the command line.
    pub name: String,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Debian(&'static Package),
    /// The directory in which it was built, `O=` of its make.
    Build(PathBuf),
}

/// A kernel of Debian's.
#[derive(Debug)]
pub struct Package {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its package, as an extended regular expression. The newest that matches is taken, so that
    /// nothing breaks when a mirror drops an old one.
    package: &'static str,
    /// Where it is published, each a line of sources.
    pub suites: &'static [&'static str],
}

/// To add a kernel, add a line.
pub const KERNELS: [Package; 4] = [
    Package {
        name: "6.1",
        package: r"linux-image-6\.1\.0-[0-9]+-amd64",
        suites: &["bookworm", "bookworm-security"],
    },
    Package {
        name: "6.12",
        package: r"linux-image-6\.12\.[0-9.]+\+deb12[0-9.]*-amd64",
        suites: &["bookworm-backports", "bookworm-security"],
    },
    Package {
        name: "6.18",
        package: r"linux-image-6\.18\.[0-9.]+\+deb13[0-9.]*-amd64",
        suites: &["trixie-backports"],
    },
    Package {
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
    pub name: String,
    /// Its release, as `uname -r` has it.
    pub release: String,
    /// The kernel itself.
    pub image: PathBuf,
    /// The directory of the kernel and its configuration.
    pub boot_dir: PathBuf,
    /// The directory of its modules.
    pub modules_dir: PathBuf,
    /// Where modules for it are built, if it was built here; else with Debian's headers.
    pub build_dir: Option<PathBuf>,
}

/// The word for every kernel.
pub const ALL: &str = "all";

/// The kernels of a word on the command line: `all`, or names with commas between them, or directories in which
/// a kernel was built.
pub fn named(word: &str) -> Result<Vec<Kernel>> {
    let debians = |package: &'static Package| Kernel {
        name: package.name.to_owned(),
        origin: Origin::Debian(package),
    };
    if word == ALL {
        return Ok(KERNELS.iter().map(debians).collect());
    }
    let find = |name: &str| {
        if name.contains('/') {
            return Kernel::built(Path::new(name));
        }
        KERNELS
            .iter()
            .find(|k| k.name == name)
            .map(debians)
            .ok_or_else(|| {
                let known = KERNELS.map(|k| k.name).join(", ");
                format!(
                    "there is no kernel {name}; known are {known}, all, and the directory of a kernel that you \
                     built (./ before its name)"
                )
                .into()
            })
    };
    word.split(',').map(find).collect()
}

impl Kernel {
    /// The one that was built in a directory, called by its release.
    fn built(build: &Path) -> Result<Self> {
        let release = build.join("include/config/kernel.release");
        let release = std::fs::read_to_string(&release).map_err(|e| {
            format!(
                "{} is no directory in which a kernel was built: {}: {e}",
                build.display(),
                release.display()
            )
        })?;
        Ok(Self {
            name: release.trim().to_owned(),
            origin: Origin::Build(std::fs::canonicalize(build)?),
        })
    }

    /// Fetches and unpacks it, unless the cache has the newest one.
    pub fn unpack(&self, cache: &Cache) -> Result<Unpacked> {
        self.find(cache)?.ok_or_else(|| self.gone().into())
    }

    /// The same; none where Debian has it no more, and the cache neither.
    pub fn find(&self, cache: &Cache) -> Result<Option<Unpacked>> {
        match &self.origin {
            Origin::Debian(package) => package.find(cache),
            Origin::Build(build) => install(cache, &self.name, build).map(Some),
        }
    }

    /// What is said where there is none.
    pub fn gone(&self) -> String {
        match &self.origin {
            Origin::Debian(package) => package.gone(),
            Origin::Build(build) => format!("{} holds no kernel", build.display()),
        }
    }
}

impl Package {
    /// See [`Kernel::find`].
    fn find(&self, cache: &Cache) -> Result<Option<Unpacked>> {
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

    fn gone(&self) -> String {
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
    let mut depmod = Command::new("depmod");
    tool::run(depmod.arg("-b").arg(root).arg(release), "kmod")?;
    Ok(())
}

/// Puts a kernel that somebody built into the cache, as a package would: it may be built anew meanwhile.
fn install(cache: &Cache, release: &str, build: &Path) -> Result<Unpacked> {
    let _lock = cache.lock()?;
    let root = cache.sub(&format!("kernels/built/linux-image-{release}"))?;
    let boot = root.join("boot");
    std::fs::create_dir_all(&boot)?;
    for (from, to) in [("arch/x86/boot/bzImage", "vmlinuz"), (".config", "config")] {
        let (from, to) = (build.join(from), boot.join(format!("{to}-{release}")));
        std::fs::copy(&from, to).map_err(|e| format!("{}: {e}", from.display()))?;
    }
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(build).arg("modules_install");
    make.arg(format!("INSTALL_MOD_PATH={}", root.display()));
    make.arg("INSTALL_MOD_STRIP=1");
    tool::run(&mut make, "make")?;
    let mut unpacked = unpacked(release, &root)?;
    unpacked.build_dir = Some(build.to_owned());
    Ok(unpacked)
}

fn unpacked(name: &str, root: &Path) -> Result<Unpacked> {
    let release = root
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_prefix("linux-image-"))
        .ok_or_else(|| format!("{} is no kernel of the cache", root.display()))?
        .to_owned();
    Ok(Unpacked {
        name: name.to_owned(),
        image: root.join("boot").join(format!("vmlinuz-{release}")),
        boot_dir: root.join("boot"),
        // Without the link lib -> usr/lib: the guest binds this directory.
        modules_dir: std::fs::canonicalize(root.join("lib/modules").join(&release))?,
        build_dir: None,
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
