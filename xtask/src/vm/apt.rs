//! Fetches Debian packages without touching the machine's own apt: sources, indexes and state of
//! our own in the cache, the machine's mirror and its settings for reaching it.
//!
//! Nothing is installed. apt checks signatures and checksums, `dpkg -x` unpacks.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::cache::Cache;
use super::kernels::KERNELS;
use super::tool;
use crate::Result;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Where to take packages from, if the machine's own sources do not tell.
const MIRROR_VARIABLE: &str = "CGTAP_DEBIAN_MIRROR";
/// The same for security updates, if that is not at its usual place beside the other.
const SECURITY_VARIABLE: &str = "CGTAP_DEBIAN_SECURITY_MIRROR";
/// Indexes are fetched again after this long.
const REFRESH: Duration = Duration::from_secs(24 * 3600);

/// A package in the indexes.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    version: String,
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// apt with a configuration of our own.
pub struct Apt {
    home: PathBuf,
}

impl Apt {
    /// Makes the configuration, and fetches indexes that are more than a day old.
    pub fn open(cache: &Cache) -> Result<Self> {
        let apt = Self {
            home: cache.sub("apt")?,
        };
        for dir in ["state/lists/partial", "cache/archives/partial"] {
            cache.sub(&format!("apt/{dir}"))?;
        }
        if !Path::new(KEYRING).exists() {
            return Err(format!("{KEYRING} is missing, and with it the means to check Debian's packages; install the package debian-archive-keyring").into());
        }
        apt.refresh()?;
        Ok(apt)
    }

    fn refresh(&self) -> Result<()> {
        let sources = sources()?;
        let (list, stamp) = (self.home.join("sources.list"), self.home.join("fetched"));
        let is_same = std::fs::read_to_string(&list).is_ok_and(|old| old == sources);
        if is_same && age(&stamp).is_some_and(|age| age < REFRESH) {
            return Ok(());
        }
        if !is_same {
            // Whatever ends this run: the lists are not those of these sources until they are fetched.
            if stamp.exists() {
                std::fs::remove_file(&stamp)?;
            }
            std::fs::write(&list, sources)?;
        }
        eprintln!("vm: fetching Debian's package lists");
        // apt goes on with old lists if it cannot fetch new ones, and calls that a success.
        let fetched = tool::run(
            self.command("apt-get")
                .args(["-o", "APT::Update::Error-Mode=any", "update"]),
            "apt",
        );
        match fetched {
            Ok(_) => std::fs::write(&stamp, "")?,
            Err(error) if is_same && stamp.exists() => {
                eprintln!("vm: {error}");
                eprintln!("vm: going on with the package lists of before");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A command of apt under our configuration.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        let home = self.home.display();
        for option in [
            format!("Dir::Etc::sourcelist={home}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State={home}/state"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={home}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The cache may lie where apt's own user cannot go.
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C");
        command
    }

    /// The newest package whose name matches an extended regular expression, if there is one.
    pub fn newest(&self, pattern: &str) -> Result<Option<Package>> {
        let found = tool::text(
            self.command("apt-cache")
                .args(["search", "--names-only", &format!("^{pattern}$")]),
            "apt",
        )?;
        let names: Vec<&str> = found.lines().filter_map(|l| l.split(' ').next()).collect();
        let mut newest: Option<Package> = None;
        for package in self.versions(&names)? {
            let is_newer = match &newest {
                None => true,
                Some(old) => compare(&package.version, &old.version)? == Ordering::Greater,
            };
            if is_newer {
                newest = Some(package);
            }
        }
        Ok(newest)
    }

    /// A package by its name, if the sources have it.
    pub fn package(&self, name: &str) -> Result<Option<Package>> {
        // apt lists the newest first.
        Ok(self.versions(&[name])?.into_iter().next())
    }

    fn versions(&self, names: &[&str]) -> Result<Vec<Package>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let listed = tool::text(self.command("apt-cache").arg("madison").args(names), "apt")?;
        let package = |line: &str| {
            let mut words = line.split('|').map(str::trim);
            Some(Package {
                name: words.next()?.to_owned(),
                version: words.next()?.to_owned(),
            })
        };
        Ok(listed.lines().filter_map(package).collect())
    }

    /// The names of what a package depends on, first alternatives only.
    pub fn dependencies(&self, name: &str) -> Result<Vec<String>> {
        let said = tool::text(
            self.command("apt-cache")
                .args(["show", "--no-all-versions", name]),
            "apt",
        )?;
        let fields = said
            .lines()
            .filter_map(|line| line.strip_prefix("Depends: "));
        let names = fields.flat_map(|field| {
            field
                .split(',')
                .filter_map(|one| one.split_whitespace().next())
        });
        Ok(names.map(str::to_owned).collect())
    }

    /// A package, and those that it depends on, directly or by others of them, as far as they are wanted and
    /// the sources have them.
    pub fn with_dependencies(
        &self,
        package: Package,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Package>> {
        let mut parts = vec![package];
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            for name in self.dependencies(&part.name)? {
                if is_wanted(&name) && parts.iter().all(|p| p.name != name) {
                    parts.extend(self.package(&name)?);
                }
            }
            at += 1;
        }
        Ok(parts)
    }

    /// Unpacks packages into one new directory, which appears when all is there and `finish` is
    /// done with it.
    pub fn unpack(
        &self,
        packages: &[Package],
        root: &Path,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let home = root.parent().ok_or("no directory to unpack into")?;
        std::fs::create_dir_all(home)?;
        let work = tempfile::Builder::new()
            .prefix("unpacking-")
            .tempdir_in(home)?;
        let (archives, tree) = (work.path().join("archives"), work.path().join("tree"));
        std::fs::create_dir(&archives)?;
        std::fs::create_dir(&tree)?;
        let names = packages.iter().map(|p| format!("{}={}", p.name, p.version));
        tool::run(
            self.command("apt-get")
                .arg("download")
                .args(names)
                .current_dir(&archives),
            "apt",
        )?;
        for entry in std::fs::read_dir(&archives)? {
            let archive = entry?.path();
            tool::run(
                Command::new("dpkg").arg("-x").arg(&archive).arg(&tree),
                "dpkg",
            )?;
        }
        finish(&tree)?;
        std::fs::rename(&tree, root)?;
        Ok(())
    }
}

/// How long ago a file was written.
fn age(path: &Path) -> Option<Duration> {
    let written = std::fs::metadata(path).ok()?.modified().ok()?;
    SystemTime::now().duration_since(written).ok()
}

/// Compares versions as Debian does.
fn compare(one: &str, other: &str) -> Result<Ordering> {
    for (relation, ordering) in [("gt", Ordering::Greater), ("eq", Ordering::Equal)] {
        let status = Command::new("dpkg")
            .args(["--compare-versions", one, relation, other])
            .status()
            .map_err(|e| format!("cannot run dpkg: {e}; install the package dpkg"))?;
        if status.success() {
            return Ok(ordering);
        }
    }
    Ok(Ordering::Less)
}

/// Our sources: every suite of the table, at the machine's mirror.
fn sources() -> Result<String> {
    let (main, security) = mirrors()?;
    let mut suites: Vec<&str> = KERNELS.iter().flat_map(|k| k.suites).copied().collect();
    suites.sort_unstable();
    suites.dedup();
    let line = |suite: &str| {
        let mirror = if suite.ends_with("-security") {
            &security
        } else {
            &main
        };
        format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n")
    };
    Ok(suites.into_iter().map(line).collect())
}

/// The mirrors of Debian and of its security updates.
fn mirrors() -> Result<(String, String)> {
    let set = |name: &str| std::env::var(name).ok().filter(|url| !url.is_empty());
    let configured = configured().unwrap_or_default();
    let main = set(MIRROR_VARIABLE).or_else(|| mirror_of(&configured, "debian"));
    let main = main.ok_or_else(|| {
        format!("this machine's apt has no source whose address ends in /debian, so there is no mirror to take Debian's kernels from; name one: {MIRROR_VARIABLE}=URL")
    })?;
    let main = main.trim_end_matches('/').to_owned();
    let security = set(SECURITY_VARIABLE)
        .or_else(|| set(MIRROR_VARIABLE).map(|_| format!("{main}-security")))
        .or_else(|| mirror_of(&configured, "debian-security"))
        .unwrap_or_else(|| format!("{main}-security"));
    Ok((main, security.trim_end_matches('/').to_owned()))
}

/// The addresses of the machine's sources, each that of a suite.
fn configured() -> Result<Vec<String>> {
    let uris = tool::text(
        Command::new("apt-get").args(["update", "--print-uris"]),
        "apt",
    )?;
    let address = |line: &str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        uri.split_once("/dists/")
            .map(|(mirror, _)| mirror.to_owned())
    };
    Ok(uris.lines().filter_map(address).collect())
}

/// The first address that ends in this directory.
fn mirror_of(addresses: &[String], directory: &str) -> Option<String> {
    let is_it = |url: &&String| url.trim_end_matches('/').rsplit('/').next() == Some(directory);
    addresses.iter().find(is_it).cloned()
}
