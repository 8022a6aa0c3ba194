//! What people call cgroups: containers, pods and units, by the names that systemd and container
//! runtimes give to directories, and by what runtimes keep on disk of their containers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

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
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (&self.called, self.kind) {
            (Some(called), _) => called,
            (None, NameKind::Container) => self.id.get(..SHORT).unwrap_or(&self.id),
            (None, _) => &self.id,
        };
        write!(f, "{}:{name}", self.kind.word())
    }
}

fn is_id(text: &str) -> bool {
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
        })
    };
    // docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope; ID alone below a
    // pod, /docker or /libpod_parent where systemd does not manage cgroups.
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

/// What the cgroups of these paths are called, with what their runtimes call them. The files of the
/// runtimes are read only if one of the cgroups is a container or a pod.
#[must_use]
pub fn of_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<Option<Name>> {
    let names: Vec<Option<Name>> = paths.map(of_path).collect();
    let has_runtime = |name: &Name| name.kind != NameKind::Unit;
    let called = if names.iter().flatten().any(has_runtime) {
        Runtimes::default().read()
    } else {
        Called::new()
    };
    let with_called = |name: Option<Name>| Some(name?.with(&called));
    names.into_iter().map(with_called).collect()
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

/// Where runtimes keep what they know of their containers. Files only: no daemon is asked.
#[derive(Clone, Debug)]
pub struct Runtimes {
    root: PathBuf,
}

/// A container as podman keeps it (containers/storage).
#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

/// A container as docker keeps it.
#[derive(Deserialize)]
struct DockerContainer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
}

/// A container's OCI configuration as containerd keeps it while it runs.
#[derive(Deserialize)]
struct OciConfig {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What runtimes call containers and pods, by their ids.
pub type Called = BTreeMap<String, String>;

impl Default for Runtimes {
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl Runtimes {
    /// Below another root than `/`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// What the runtimes of this machine call their containers and pods. What cannot be read names
    /// nothing.
    #[must_use]
    pub fn read(&self) -> Called {
        let mut called = Called::new();
        self.podman(&mut called);
        self.docker(&mut called);
        self.containerd(&mut called);
        called
    }

    fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn below(&self, dir: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.join(dir)).into_iter().flatten();
        entries.filter_map(|e| Some(e.ok()?.path())).collect()
    }

    fn podman(&self, called: &mut Called) {
        let path = "var/lib/containers/storage/overlay-containers/containers.json";
        let all: Vec<PodmanContainer> = Self::json(&self.root.join(path)).unwrap_or_default();
        for container in all {
            if let Some(name) = container.names.into_iter().next() {
                called.insert(container.id, name);
            }
        }
    }

    fn docker(&self, called: &mut Called) {
        for dir in self.below("var/lib/docker/containers") {
            if let Some(container) = Self::json::<DockerContainer>(&dir.join("config.v2.json")) {
                let name = container.name.trim_start_matches('/').to_owned();
                called.insert(container.id, name);
            }
        }
    }

    /// Through containerd's CRI: the annotations of pods are those of Kubernetes.
    fn containerd(&self, called: &mut Called) {
        const PREFIX: &str = "io.kubernetes.cri.";
        for dir in self.below("run/containerd/io.containerd.runtime.v2.task/k8s.io") {
            let Some(config) = Self::json::<OciConfig>(&dir.join("config.json")) else {
                continue;
            };
            let of = |key: &str| config.annotations.get(&format!("{PREFIX}{key}")).cloned();
            let id = dir.file_name().map(|n| n.to_string_lossy().into_owned());
            if let (Some(id), Some(name)) = (id, of("container-name")) {
                called.insert(id, name);
            }
            if let (Some(uid), Some(namespace), Some(name)) = (
                of("sandbox-uid"),
                of("sandbox-namespace"),
                of("sandbox-name"),
            ) {
                called.insert(uid, format!("{namespace}/{name}"));
            }
        }
    }
}

impl Name {
    /// With what its runtime calls it.
    #[must_use]
    pub fn with(mut self, called: &Called) -> Self {
        self.called = called.get(&self.id).cloned();
        self
    }

    /// It is meant by `text`: its name, or for a container the beginning of its id.
    #[must_use]
    pub fn is_meant_by(&self, text: &str) -> bool {
        let is_beginning = self.kind == NameKind::Container
            && text.len() >= 4
            && is_id(&self.id)
            && self.id.starts_with(text);
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
            ("/lxc.payload.web".to_owned(), "container:web"),
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
    fn runtimes_files_have_the_names() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let (pod, docker, cri) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        write(
            "var/lib/containers/storage/overlay-containers/containers.json",
            &format!(r#"[{{"id":"{pod}","names":["web"],"layer":"x"}}, {{"id":"x"}}]"#),
        );
        write(
            &format!("var/lib/docker/containers/{docker}/config.v2.json"),
            &format!(r#"{{"ID":"{docker}","Name":"/db","State":{{}}}}"#),
        );
        write("var/lib/docker/containers/broken/config.v2.json", "{");
        write(
            &format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{cri}/config.json"),
            &format!(
                r#"{{"annotations":{{"io.kubernetes.cri.container-name":"app",
                "io.kubernetes.cri.sandbox-name":"app-1","io.kubernetes.cri.sandbox-namespace":"prod",
                "io.kubernetes.cri.sandbox-uid":"{UID}"}}}}"#
            ),
        );
        let called = Runtimes::at(root.path()).read();
        let name = |path: &str| of_path(path).unwrap().with(&called);
        assert_eq!(
            name(&format!("/machine.slice/libpod-{pod}.scope")).to_string(),
            "container:web"
        );
        assert_eq!(
            name(&format!("/docker/{docker}")).to_string(),
            "container:db"
        );
        assert_eq!(
            name(&format!("/x/cri-containerd-{cri}.scope")).to_string(),
            "container:app"
        );
        let pod = name(&format!("/kubepods/pod{UID}"));
        assert_eq!(pod.to_string(), "pod:prod/app-1");
        assert!(pod.is_meant_by("prod/app-1") && pod.is_meant_by(UID));
        assert!(Runtimes::at(Path::new("/nonexistent")).read().is_empty());
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
