//! From a scope as it is written to what a dispatcher reads for it.

use cgtap_sys::libbpf::{Btf, BtfKind};
use serde::{Deserialize, Serialize};

use super::arguments::{arguments, lacks, named};
use super::path::{Walk, to_cgroup, to_key};
use super::target::{self, TargetError, TargetInfo};
use crate::hook::scope::{Owner, Path, Scope};
use crate::hook::{HookKind, HookSpec};

/// How the cgroup of an event is found on this kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScopeInfo {
    /// Through `current`.
    Current,
    /// Through an argument.
    Path(Walk),
    /// By a note that was made earlier.
    Owner(Box<OwnerInfo>),
}

/// How notes are made and looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerInfo {
    /// The key at the scoped hook.
    pub keys: Vec<Walk>,
    /// What this kernel knows of the hook where notes are made.
    pub noted_at: TargetInfo,
    /// The key there.
    pub by: Vec<Walk>,
    /// Whose cgroup is noted; none for that of `current`.
    pub of: Option<Walk>,
}

impl ScopeInfo {
    /// It takes notes.
    #[must_use]
    pub fn owner(&self) -> Option<&OwnerInfo> {
        match self {
            Self::Owner(owner) => Some(owner),
            Self::Current | Self::Path(_) => None,
        }
    }
}

/// Resolves the scope of a hook.
///
/// # Errors
/// [`TargetError::Scope`] in words: the type that was met, and what it has near.
pub fn resolve(spec: &HookSpec, info: &TargetInfo) -> Result<ScopeInfo, TargetError> {
    match spec.scope() {
        Scope::Current => Ok(ScopeInfo::Current),
        Scope::Path(path) => {
            let mut walks = walks(spec, info, &[(path, to_cgroup)])?;
            Ok(walks.pop().map_or(ScopeInfo::Current, ScopeInfo::Path))
        }
        Scope::Owner(owner) => Ok(ScopeInfo::Owner(Box::new(resolve_owner(
            spec, info, owner,
        )?))),
    }
}

type Follow = fn(&Btf, &super::arguments::Argument, &Path) -> Result<Walk, String>;

fn resolve_owner(
    spec: &HookSpec,
    info: &TargetInfo,
    owner: &Owner,
) -> Result<OwnerInfo, TargetError> {
    let keys: Vec<(&Path, Follow)> = owner.keys().iter().map(|p| (p, to_key as Follow)).collect();
    let keys = walks(spec, info, &keys)?;
    let at = owner.noted_at();
    if at.mapped().is_some() {
        return Err(TargetError::Scope {
            hook: spec.to_string(),
            path: format!("what is noted at {at}"),
            why: "notes are made at one place: name the file".to_owned(),
        });
    }
    let (_, noted_at) = target::resolve(at)?;
    let mut paths: Vec<(&Path, Follow)> =
        owner.by().iter().map(|p| (p, to_key as Follow)).collect();
    if let Scope::Path(path) = at.scope() {
        paths.push((path, to_cgroup));
    }
    let mut by = walks(at, &noted_at, &paths)?;
    let of = by.drain(owner.by().len()..).next();
    Ok(OwnerInfo {
        keys,
        noted_at,
        by,
        of,
    })
}

/// Follows paths from the arguments of one hook.
fn walks(
    spec: &HookSpec,
    info: &TargetInfo,
    paths: &[(&Path, Follow)],
) -> Result<Vec<Walk>, TargetError> {
    let refused = |path: &Path, why: String| TargetError::Scope {
        hook: spec.without_scope().to_string(),
        path: path.to_string(),
        why,
    };
    if let (Some((path, _)), Some(why)) = (paths.first(), lacks(spec)) {
        return Err(refused(path, why));
    }
    let in_btf = |btf: &Btf| -> Result<Vec<Walk>, TargetError> {
        let mut all = Vec::new();
        for (path, follow) in paths {
            let found = arguments(btf, spec, info).and_then(|arguments| {
                let argument = named(&arguments, path.argument())?;
                follow(btf, argument, path)
            });
            all.push(found.map_err(|why| refused(path, why))?);
        }
        Ok(all)
    };
    in_types(spec, info, in_btf)?
}

/// Looks into the BTF that has the types of a hook's arguments.
///
/// # Errors
/// [`TargetError::Unsupported`] without BTF.
pub fn in_types<T>(
    spec: &HookSpec,
    info: &TargetInfo,
    look: impl Fn(&Btf) -> T,
) -> Result<T, TargetError> {
    if spec.kind() == HookKind::Kprobe {
        // Its target is not looked up in BTF, so where its types are has to be found here.
        let name = spec.function().0;
        let found = target::search(|btf| {
            btf.find(name, BtfKind::Func)?;
            Some(look(btf))
        })?;
        return Ok(match found {
            Ok((seen, _)) => seen,
            Err(vmlinux) => look(&vmlinux),
        });
    }
    let unread = |e: cgtap_sys::libbpf::BtfError| TargetError::Unsupported {
        what: "types of its functions",
        why: format!("{e}; that takes CONFIG_DEBUG_INFO_BTF"),
    };
    let vmlinux = Btf::vmlinux().map_err(unread)?;
    match &info.module {
        None => Ok(look(&vmlinux)),
        Some(module) => {
            let btf = Btf::module(module, &vmlinux).map_err(unread)?;
            Ok(look(&btf))
        }
    }
}
