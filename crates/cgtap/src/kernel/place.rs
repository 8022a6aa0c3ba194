//! Places of uprobes in files, and the one name of a hook that stands in some.

use std::os::fd::OwnedFd;
use std::path::Path;

use cgtap_sys::{Errno, perf};
use serde::{Deserialize, Serialize};

use super::binary::{self, BinaryError};
use super::mapped::{self, FileId};
use super::target::{TargetError, TargetInfo, source};
use crate::hook::{BinaryPlace, HookSpec};

/// Where a uprobe stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Number of its link.
    pub number: u32,
    /// The file.
    pub path: String,
    /// Which file that is.
    pub file: FileId,
    /// In bytes from its beginning.
    pub offset: u64,
}

impl Place {
    /// Where the hook stands in a file.
    ///
    /// # Errors
    /// [`TargetError::Binary`] if it has no such place.
    pub fn find(spec: &HookSpec, number: u32, path: &Path) -> Result<Self, TargetError> {
        let (_, place) = spec.binary().unwrap_or(("", BinaryPlace::Offset(0)));
        let id = || {
            FileId::of(path).map_err(|source| BinaryError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let file = id()?;
        let found = Self {
            number,
            path: path.display().to_string(),
            file,
            offset: binary::offset(path, place)?,
        };
        // It is the place in that file and in no other.
        match id()? == file {
            true => Ok(found),
            false => Err(found.gone(spec)),
        }
    }

    /// Its file is still at its path.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.file.is_at(Path::new(&self.path))
    }

    /// Looks for it in the file that is at its path by now. Only the beginning of a function is known again: bytes
    /// behind it, or from the beginning of the file, are others there.
    ///
    /// # Errors
    /// [`TargetError::Refused`] with ESTALE for another place; as [`Place::find`].
    pub fn find_again(&self, spec: &HookSpec, number: u32) -> Result<Self, TargetError> {
        match spec.binary() {
            Some((_, BinaryPlace::Symbol(_, 0))) => Self::find(spec, number, Path::new(&self.path)),
            _ => Err(self.gone(spec)),
        }
    }

    fn gone(&self, spec: &HookSpec) -> TargetError {
        TargetError::Refused {
            what: format!("cannot probe {}", spec.target()),
            why: format!(
                "another file is at {} by now, and only the beginning of a function is found again there; \
                 detach what is attached, and attach it where it is to be",
                self.path
            ),
            errno: Errno::ESTALE,
        }
    }
}

/// A uprobe's hook under its one name, and its first place.
pub(super) fn resolve(spec: &HookSpec) -> Result<(HookSpec, TargetInfo), TargetError> {
    let (canonical, place) = match spec.mapped() {
        Some(name) => (spec.clone(), mapped_place(spec, name)?),
        None => {
            let name = spec.binary().map_or("", |(name, _)| name);
            let path = binary::find(name)?;
            (in_binary(spec, &path), Place::find(spec, 0, &path)?)
        }
    };
    match open(&canonical, &place) {
        Ok(_) => {
            let info = TargetInfo {
                places: vec![place],
                ..TargetInfo::default()
            };
            Ok((canonical, info))
        }
        Err(TargetError::Sys(e)) if !is_of_caller(e.errno) => Err(TargetError::Refused {
            what: format!("cannot probe {}", canonical.target()),
            why: "the kernel does not take the file; is it on a file system that can be mapped \
                  (not procfs or sysfs)?"
                .to_owned(),
            errno: e.errno,
        }),
        Err(other) => Err(other),
    }
}

/// Where a program can be tried that is to run at a hook: in a file of the hook's that is still there; else, of
/// a hook that follows a name, in another of that name.
///
/// # Errors
/// As [`Place::find`].
pub fn any(spec: &HookSpec, places: &[Place]) -> Result<Option<Place>, TargetError> {
    match (places.iter().find(|place| place.is_there()), spec.mapped()) {
        (None, Some(name)) => mapped_place(spec, name).map(Some),
        (found, _) => Ok(found.or(places.first()).cloned()),
    }
}

/// The first of a hook's files: this machine's own, or one that a process maps. The others are found when
/// it is known for which cgroups they are looked for.
fn mapped_place(spec: &HookSpec, name: &str) -> Result<Place, TargetError> {
    let missing = match binary::find(name) {
        Ok(path) => return Place::find(spec, 0, &mapped::real(&path)),
        Err(missing) => missing,
    };
    let scan = mapped::scan_one(name).map_err(|_| missing)?;
    let mut refused = None;
    for (_, file) in scan.files(name) {
        match Place::find(spec, 0, &file.path) {
            Ok(place) => return Ok(place),
            Err(e) => refused = Some(e),
        }
    }
    let unreached: Vec<&str> = scan.unreached.iter().map(String::as_str).collect();
    Err(refused.unwrap_or_else(|| {
        let unreached = match unreached.is_empty() {
            true => String::new(),
            false => format!(" that was found ({})", unreached.join("; ")),
        };
        let name = name.to_owned();
        BinaryError::Unmapped { name, unreached }.into()
    }))
}

/// The one name that stands for all names of a hook's place: a binary under the path that no link
/// leads on from. One that is not found keeps its name: a hook may outlive its binary's.
#[must_use]
pub fn one_name(spec: &HookSpec) -> HookSpec {
    if spec.mapped().is_some() {
        return spec.clone();
    }
    match spec.binary().map(|(name, _)| binary::find(name)) {
        Some(Ok(path)) => in_binary(spec, &path),
        _ => spec.clone(),
    }
}

/// The hook at the same place in the binary at `path`.
fn in_binary(spec: &HookSpec, path: &Path) -> HookSpec {
    let name = spec.binary().map_or("", |(name, _)| name);
    let place = &spec.target()[name.len()..];
    HookSpec::new(spec.kind(), &format!("{}{place}", path.display())).map_or_else(
        |_| spec.clone(),
        |found| found.with_scope(spec.scope().clone()),
    )
}

/// Opens the probe of a hook at a place in a file. In another file that is there by now it is not opened:
/// the kernel would put a breakpoint in the middle of whatever stands there.
///
/// # Errors
/// [`TargetError::Refused`] with ESTALE for such a file, or as
/// [`open_kprobe`](super::target::open_kprobe).
pub fn open(spec: &HookSpec, place: &Place) -> Result<OwnedFd, TargetError> {
    let (source, is_return) = (source("uprobe")?, spec.kind().is_return());
    let check = || match place.is_there() {
        true => Ok(()),
        false => Err(place.gone(spec)),
    };
    check()?;
    let path = place.path.as_bytes();
    let probe = perf::open_probe(source, is_return, path, place.offset)?;
    // It may have been replaced while that was done.
    check()?;
    Ok(probe)
}

/// The kernel's answer is about who asks, or what the machine has, and not about the place.
pub(super) fn is_of_caller(errno: Errno) -> bool {
    [
        Errno::EPERM,
        Errno::EACCES,
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOMEM,
    ]
    .contains(&errno)
}
