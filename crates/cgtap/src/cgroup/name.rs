//! What people call cgroups: containers, pods and units, by the names that systemd and container
//! runtimes give to directories, and by what runtimes keep on disk of their containers.

use std::fmt;

use super::runtime::{Containers, Runtimes};

/// Letters of an id that are shown, as runtimes do.
const SHORT: usize = 12;
/// An id of a container is a SHA-256 in hexadecimal.
const ID: usize = 64;

/// What kind of thing a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// `container:NAME`: a container, by its name or the beginning of its id.
    Container,
    /// `pod:NAME`: a pod of Kubernetes, by its uid, or NAMESPACE/NAME where the runtime knows it.
    Pod,
    /// `unit:NAME`: a unit of systemd.
    Unit,
}

impl NameKind {
    /// The word in front of the colon.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Unit => "unit",
        }
    }
}

/// What a cgroup is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// What it is.
    pub kind: NameKind,
    /// The whole id of a container, uid of a pod, name of a unit.
    pub id: String,
    /// What its runtime calls it, where that is known.
    pub called: Option<String>,
    /// The image that a container was made of, as its runtime names it, where that is known.
    pub image: Option<String>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (&self.called, self.kind) {
            (Some(called), _) => called,
            (None, _) if is_id(&self.id) => self.id.get(..SHORT).unwrap_or(&self.id),
            (None, _) => &self.id,
        };
        write!(f, "{}:{name}", self.kind.word())
    }
}

/// A text is an id as most runtimes make them.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What the last directory of a cgroup's path says that it is.
///
/// ```
/// # use cgtap::cgroup::name::of_path;
/// let name = of_path("/system.slice/nginx.service").unwrap();
/// assert_eq!(name.to_string(), "unit:nginx.service");
/// ```
#[must_use]
pub fn of_path(path: &str) -> Option<Name> {
    let (above, last) = path.rsplit_once('/')?;
    let name = |kind, id: &str| {
        Some(Name {
            kind,
            id: id.to_owned(),
            called: None,
            image: None,
        })
    };
    // A pod of podman's, where systemd manages cgroups and where it does not.
    let pod = last.strip_suffix(".slice").unwrap_or(last);
    let pod = match pod.rsplit_once("libpod_pod_") {
        Some((_, id)) => Some(id),
        None => above.ends_with("/libpod_parent").then_some(pod),
    };
    if let Some(id) = pod.filter(|id| is_id(id)) {
        return name(NameKind::Pod, id);
    }
    // docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope; ID alone below a
    // pod or /docker, libpod-ID below /libpod_parent, where systemd does not manage cgroups.
    let scope = last.strip_suffix(".scope").unwrap_or(last);
    let id = scope.rsplit('-').next().unwrap_or(scope);
    if is_id(id) && !scope.contains("conmon") {
        return name(NameKind::Container, id);
    }
    // kubepods-burstable-podUID.slice with `_` for `-`; podUID below kubepods.
    let slice = last.strip_suffix(".slice").unwrap_or(last);
    if path.contains("kubepods")
        && let Some(uid) = slice.rsplit('-').next().and_then(|s| s.strip_prefix("pod"))
        && uid.len() == 36
    {
        return name(NameKind::Pod, &uid.replace('_', "-"));
    }
    if above.contains("kubepods")
        && let Some(uid) = last.strip_prefix("pod")
        && uid.len() == 36
    {
        return name(NameKind::Pod, uid);
    }
    for prefix in ["lxc.payload.", "lxc.monitor."] {
        if let Some(container) = last.strip_prefix(prefix) {
            return name(NameKind::Container, container);
        }
    }
    let is_unit = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"]
        .iter()
        .any(|suffix| last.ends_with(suffix));
    is_unit.then(|| name(NameKind::Unit, &unescape(last)))?
}

/// What the cgroups of these paths are called, with what their runtimes call them. Most files of the
/// runtimes are read only if one of the cgroups is a container or a pod.
#[must_use]
pub fn of_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Option<Name>> {
    let paths: Vec<&str> = paths.collect();
    let has_runtime = |path: &&str| of_path(path).is_some_and(|n| n.kind != NameKind::Unit);
    let known = Runtimes::default().read(paths.iter().any(has_runtime));
    paths.iter().map(|path| of(path, &known)).collect()
}

/// What a cgroup is called, with what its runtime knows of it.
#[must_use]
pub fn of(path: &str, known: &Containers) -> Option<Name> {
    // Where the runtime says so the id is anything that its user thought of.
    let placed = known.at(path).map(|id| Name {
        kind: NameKind::Container,
        id: id.to_owned(),
        called: None,
        image: None,
    });
    let mut name = placed.or_else(|| of_path(path))?;
    if let Some(known) = known.of(&name.id, path) {
        name.called.clone_from(&known.name);
        name.image.clone_from(&known.image);
    }
    Some(name)
}

/// systemd writes what is no letter of a unit's name as `\x2d` (systemd.unit(5)).
fn unescape(unit: &str) -> String {
    let mut parts = unit.split("\\x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                text.push(char::from(byte));
                text += &part[2..];
            }
            None => {
                text += "\\x";
                text += part;
            }
        }
    }
    text
}

impl Name {
    /// It is meant by `text`: its name, or the beginning of an id that is a hash.
    #[must_use]
    pub fn is_meant_by(&self, text: &str) -> bool {
        let is_beginning = text.len() >= 4 && is_id(&self.id) && self.id.starts_with(text);
        let without = |unit: &str| unit.rsplit_once('.').map(|(name, _)| name.to_owned());
        self.id == text
            || self.called.as_deref() == Some(text)
            || is_beginning
            || (self.kind == NameKind::Unit
                && self.id.ends_with(".service")
                && without(&self.id).as_deref() == Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "3f2a9c1b7d10aa55e6c4b8d2f0e1a3c5b7d9f1e3a5c7e9b1d3f5a7c9e1b3d5f7";
    const UID: &str = "6d1f7a52-8c3e-4b0a-9f4d-2e5c7b8a9d01";

    fn shown(path: &str) -> String {
        of_path(path).map_or_else(String::new, |n| n.to_string())
    }

    #[test]
    fn directories_say_what_they_are() {
        let underscored = UID.replace('-', "_");
        for (path, name) in [
            (
                format!("/system.slice/docker-{HEX}.scope"),
                "container:3f2a9c1b7d10",
            ),
            (format!("/docker/{HEX}"), "container:3f2a9c1b7d10"),
            (
                format!("/machine.slice/libpod-{HEX}.scope"),
                "container:3f2a9c1b7d10",
            ),
            (
                format!("/machine.slice/libpod-conmon-{HEX}.scope"),
                "unit:libpod-conmon-",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{underscored}.slice/cri-containerd-{HEX}.scope"
                ),
                "container:3f2a9c1b7d10",
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{underscored}.slice"
                ),
                "pod:6d1f7a52-8c3e-4b0a-9f4d-2e5c7b8a9d01",
            ),
            (
                format!("/kubepods/burstable/pod{UID}"),
                "pod:6d1f7a52-8c3e-4b0a-9f4d-2e5c7b8a9d01",
            ),
            (
                format!("/libpod_parent/libpod-{HEX}"),
                "container:3f2a9c1b7d10",
            ),
            ("/libpod_parent/conmon".to_owned(), ""),
            (format!("/libpod_parent/{HEX}"), "pod:3f2a9c1b7d10"),
            (
                format!("/libpod_parent/{HEX}/libpod-{HEX}"),
                "container:3f2a9c1b7d10",
            ),
            (
                format!("/machine.slice/machine-libpod_pod_{HEX}.slice"),
                "pod:3f2a9c1b7d10",
            ),
            ("/lxc.payload.web".to_owned(), "container:web"),
            (
                "/lxc.payload.a-name-of-some-length".to_owned(),
                "container:a-name-of-some-length",
            ),
            (
                "/system.slice/nginx.service".to_owned(),
                "unit:nginx.service",
            ),
            (
                "/system.slice/dev-sd\\x2da.mount".to_owned(),
                "unit:dev-sd-a.mount",
            ),
            ("/system.slice/nginx.service/worker".to_owned(), ""),
            ("/tenants/a".to_owned(), ""),
            ("/".to_owned(), ""),
        ] {
            let found = shown(&path);
            assert!(
                found.starts_with(name) && found.is_empty() == name.is_empty(),
                "{path}: {found}"
            );
        }
    }

    #[test]
    fn a_name_is_meant_by_itself_or_the_beginning_of_an_id() {
        let container = of_path(&format!("/docker/{HEX}")).unwrap();
        assert!(container.is_meant_by("3f2a9c") && container.is_meant_by(HEX));
        assert!(!container.is_meant_by("3f2") && !container.is_meant_by("ffff"));
        let unit = of_path("/system.slice/nginx.service").unwrap();
        assert!(unit.is_meant_by("nginx.service") && unit.is_meant_by("nginx"));
        assert!(!unit.is_meant_by("ngin"));
    }
}
