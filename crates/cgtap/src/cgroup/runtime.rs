//! What container runtimes keep on disk of their containers: names, images and, of those whose ids
//! are no hashes, cgroups. Files only: no daemon is asked.
//!
//! Some of the files are those of users (podman without root). They may say anything, so what they say
//! goes for that user's cgroups alone, and reading them ends, whatever they are.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;

use super::name::is_id;

/// Larger files are taken for broken: a container takes some hundred bytes in a list, and some ten
/// thousand in a file of its own.
const LARGEST_BYTES: u64 = 16 << 20;
/// Where podman's storage is unless it is told otherwise, and what of it does not outlive a boot.
const PODMAN: [&str; 2] = ["var/lib/containers/storage", "run/containers/storage"];
/// Where containerd keeps what runs, a directory a namespace.
const CONTAINERD: &str = "run/containerd/io.containerd.runtime.v2.task";

/// What a runtime knows of a container or a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it calls it.
    pub name: Option<String>,
    /// The image that it was made of.
    pub image: Option<String>,
    /// The directory in whose paths this goes for, if a user says so.
    below: Option<String>,
}

/// What the runtimes of a machine know.
#[derive(Clone, Debug, Default)]
pub struct Containers {
    by_id: BTreeMap<String, Known>,
    /// Ids by the paths of cgroups.
    by_cgroup: BTreeMap<String, String>,
}

impl Containers {
    /// The id of the container that has the cgroup of this path, where its runtime says so.
    #[must_use]
    pub fn at(&self, cgroup: &str) -> Option<&str> {
        self.by_cgroup.get(cgroup).map(String::as_str)
    }

    /// What is known of a container or a pod that has the cgroup of this path.
    #[must_use]
    pub fn of(&self, id: &str, cgroup: &str) -> Option<&Known> {
        let goes_for = |known: &&Known| known.below.as_ref().is_none_or(|b| cgroup.contains(b));
        self.by_id.get(id).filter(goes_for)
    }

    /// Who says something first is right.
    fn add(&mut self, id: String, known: Known) {
        self.by_id.entry(id).or_insert(known);
    }
}

/// Where runtimes keep what they know of their containers.
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
    /// JSON in a text.
    #[serde(default)]
    metadata: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PodmanMetadata {
    image_name: String,
}

/// podman's storage.conf, what we need of it.
#[derive(Default, Deserialize)]
struct StorageFile {
    #[serde(default)]
    storage: Storage,
}

#[derive(Default, Deserialize)]
struct Storage {
    graphroot: Option<String>,
    runroot: Option<String>,
}

/// A container as docker keeps it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    image: Option<String>,
}

/// A container's OCI configuration as containerd keeps it while it runs.
#[derive(Deserialize)]
struct OciConfig {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    linux: Option<OciLinux>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciLinux {
    cgroups_path: Option<String>,
}

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

    /// What the runtimes of this machine know. Of containers whose ids are hashes (their cgroups' paths
    /// tell them) only where `has_hashes` says that there are such cgroups. What cannot be read names
    /// nothing.
    #[must_use]
    pub fn read(&self, has_hashes: bool) -> Containers {
        let mut known = Containers::default();
        if has_hashes {
            self.podman(&mut known);
            self.docker(&mut known);
        }
        self.containerd(has_hashes, &mut known);
        if has_hashes {
            // Those that anybody may write come last.
            self.users(&mut known);
        }
        known
    }

    fn podman(&self, known: &mut Containers) {
        let file = text(&self.root.join("etc/containers/storage.conf"));
        let file: StorageFile = file
            .and_then(|t| toml::from_str(&t).ok())
            .unwrap_or_default();
        let set = [file.storage.graphroot, file.storage.runroot];
        for (set, usual) in set.into_iter().zip(PODMAN) {
            let dir = set.as_deref().unwrap_or(usual);
            storage(&self.root.join(dir.trim_start_matches('/')), None, known);
        }
    }

    /// podman without root: in each user's home.
    fn users(&self, known: &mut Containers) {
        let users = text(&self.root.join("etc/passwd")).unwrap_or_default();
        for line in users.lines() {
            let words: Vec<&str> = line.split(':').collect();
            let &[_, _, uid, _, _, home, _] = words.as_slice() else {
                continue;
            };
            let slice = format!("/user-{uid}.slice/");
            let home = self.root.join(home.trim_start_matches('/'));
            let own = home.join(".local/share/containers/storage");
            let run = self.root.join(format!("run/user/{uid}/containers"));
            for dir in [own, run] {
                storage(&dir, Some(&slice), known);
            }
        }
    }

    fn docker(&self, known: &mut Containers) {
        for dir in below(&self.root.join("var/lib/docker/containers")) {
            if let Some(container) = json::<DockerContainer>(&dir.join("config.v2.json")) {
                let of = Known {
                    name: Some(container.name.trim_start_matches('/').to_owned()),
                    image: container.config.and_then(|c| c.image),
                    below: None,
                };
                known.add(container.id, of);
            }
        }
    }

    fn containerd(&self, has_hashes: bool, known: &mut Containers) {
        for namespace in below(&self.root.join(CONTAINERD)) {
            for dir in below(&namespace) {
                let Some(id) = dir.file_name().and_then(|n| n.to_str()) else {
                    continue;
                };
                // docker's, in a namespace of its own, are known by now.
                let is_known = known.by_id.contains_key(id);
                if is_id(id) && (!has_hashes || is_known) {
                    continue;
                }
                let Some(config) = json::<OciConfig>(&dir.join("config.json")) else {
                    continue;
                };
                containerd_task(id, &config, known);
            }
        }
    }
}

/// One that runs. Through containerd's CRI the annotations are those of Kubernetes.
fn containerd_task(id: &str, config: &OciConfig, known: &mut Containers) {
    let of = |key: &str| {
        let key = format!("io.kubernetes.cri.{key}");
        config.annotations.get(&key).cloned()
    };
    let named = |name: Option<String>, image| Known {
        name,
        image,
        below: None,
    };
    if let Some(name) = of("container-name") {
        known.add(id.to_owned(), named(Some(name), of("image-name")));
    }
    if let (Some(uid), Some(namespace), Some(name)) = (
        of("sandbox-uid"),
        of("sandbox-namespace"),
        of("sandbox-name"),
    ) {
        known.add(uid, named(Some(format!("{namespace}/{name}")), None));
    }
    let path = config.linux.as_ref().and_then(|l| l.cgroups_path.as_ref());
    if let Some(path) = path.filter(|_| !is_id(id)) {
        known.by_cgroup.insert(cgroup_of(path), id.to_owned());
    }
}

/// The cgroup's path that is meant by an OCI configuration's: a path, or SLICE:PREFIX:NAME where systemd
/// makes it (runc's and crun's form of it).
fn cgroup_of(path: &str) -> String {
    let words: Vec<&str> = path.split(':').collect();
    let &[slice, prefix, name] = words.as_slice() else {
        return format!("/{}", path.trim_matches('/'));
    };
    let stem = slice.trim_end_matches(".slice");
    let mut cgroup = String::new();
    // `a-b.slice` is in `a.slice` (systemd.slice(5)).
    let ends = stem.match_indices('-').map(|(at, _)| at);
    for end in ends.chain([stem.len()]) {
        cgroup += &format!("/{}.slice", &stem[..end]);
    }
    cgroup + &format!("/{prefix}-{name}.scope")
}

/// The containers of one storage, whatever its driver. Those that go by themselves (`--rm`) are in a file
/// of their own since podman 4.4.
fn storage(dir: &Path, slice: Option<&str>, known: &mut Containers) {
    for driver in below(dir) {
        if !driver.to_string_lossy().ends_with("-containers") {
            continue;
        }
        for file in ["containers.json", "volatile-containers.json"] {
            let all: Vec<PodmanContainer> = json(&driver.join(file)).unwrap_or_default();
            for container in all {
                let metadata = serde_json::from_str::<PodmanMetadata>(&container.metadata);
                let image = metadata.ok().map(|m| m.image_name);
                let of = Known {
                    name: container.names.into_iter().next(),
                    image: image.filter(|i| !i.is_empty()),
                    below: slice.map(str::to_owned),
                };
                known.add(container.id, of);
            }
        }
    }
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|e| Some(e.ok()?.path())).collect()
}

/// A file that is one. A pipe would be waited for, and others have no end.
fn text(path: &Path) -> Option<String> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).ok()?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let length = file.metadata().ok().filter(|m| m.is_file())?.len();
    let mut text = String::new();
    (length <= LARGEST_BYTES).then_some(())?;
    file.take(LARGEST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_str(&text(path)?).ok()
}

#[cfg(test)]
mod tests {
    use super::super::name;
    use super::*;

    const UID: &str = "6d1f7a52-8c3e-4b0a-9f4d-2e5c7b8a9d01";

    /// A machine's files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// What a cgroup is called, and its image.
        fn name(&self, path: &str) -> (String, Option<String>) {
            let known = Runtimes::at(self.0.path()).read(true);
            let name = name::of(path, &known).unwrap();
            (name.to_string(), name.image)
        }
    }

    fn id(letter: char) -> String {
        letter.to_string().repeat(64)
    }

    /// As podman 4.3 writes it.
    fn podman(id: &str, name: &str, image: &str) -> String {
        let metadata = format!(r#"{{\"image-name\":\"{image}\",\"name\":\"old\"}}"#);
        format!(r#"[{{"id":"{id}","names":["{name}"],"metadata":"{metadata}"}},{{"id":"x"}}]"#)
    }

    fn named(name: &str, image: &str) -> (String, Option<String>) {
        let image = Some(image.to_owned()).filter(|i| !i.is_empty());
        (name.to_owned(), image)
    }

    #[test]
    fn podman_is_read_whatever_its_driver_and_place() {
        let machine = Machine::new();
        let (one, two, three) = (id('1'), id('2'), id('3'));
        let file = "var/lib/containers/storage/overlay-containers/containers.json";
        machine.write(file, &podman(&one, "web", "localhost/one:1"));
        let file = "run/containers/storage/vfs-containers/volatile-containers.json";
        machine.write(file, &podman(&two, "short", ""));
        let cgroup = |id: &str| format!("/libpod_parent/libpod-{id}");
        assert_eq!(
            machine.name(&cgroup(&one)),
            named("container:web", "localhost/one:1")
        );
        assert_eq!(machine.name(&cgroup(&two)), named("container:short", ""));
        machine.write(
            "etc/containers/storage.conf",
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"/big/storage\"\n",
        );
        let file = "big/storage/overlay-containers/containers.json";
        machine.write(file, &podman(&three, "big", "b"));
        assert_eq!(machine.name(&cgroup(&three)), named("container:big", "b"));
        assert_eq!(
            machine.name(&cgroup(&one)),
            named("container:111111111111", "")
        );
    }

    #[test]
    fn a_user_names_the_containers_of_that_user_alone() {
        let machine = Machine::new();
        let (own, roots) = (id('4'), id('5'));
        machine.write("etc/passwd", "u:x:1000:1000::/home/u:/bin/sh\nbroken\n");
        let home = "home/u/.local/share/containers/storage/overlay-containers";
        let (a, b) = (podman(&own, "own", "i"), podman(&roots, "stolen", "i"));
        machine.write(&format!("{home}/containers.json"), &a);
        machine.write(&format!("{home}/volatile-containers.json"), &b);
        let below = "/user.slice/user-1000.slice/user@1000.service/user.slice";
        let path = format!("{below}/libpod-{own}.scope");
        assert_eq!(machine.name(&path), named("container:own", "i"));
        let path = format!("/machine.slice/libpod-{roots}.scope");
        assert_eq!(machine.name(&path), named("container:555555555555", ""));
        // What is no file is not waited for.
        let list = machine.0.path().join(home).join("containers.json");
        std::fs::remove_file(&list).unwrap();
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &list, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let path = format!("{below}/libpod-{own}.scope");
        assert_eq!(machine.name(&path), named("container:444444444444", ""));
    }

    #[test]
    fn docker_and_containerd_have_names_and_images() {
        let machine = Machine::new();
        let (docker, cri) = (id('b'), id('c'));
        let dir = "var/lib/docker/containers";
        machine.write(
            &format!("{dir}/{docker}/config.v2.json"),
            &format!(
                r#"{{"ID":"{docker}","Name":"/db","State":{{}},"Config":{{"Image":"db:7"}}}}"#
            ),
        );
        machine.write(&format!("{dir}/broken/config.v2.json"), "{");
        machine.write(
            &format!("{CONTAINERD}/k8s.io/{cri}/config.json"),
            &format!(
                r#"{{"annotations":{{"io.kubernetes.cri.container-name":"app",
                "io.kubernetes.cri.image-name":"app:2","io.kubernetes.cri.sandbox-name":"app-1",
                "io.kubernetes.cri.sandbox-namespace":"prod",
                "io.kubernetes.cri.sandbox-uid":"{UID}"}}}}"#
            ),
        );
        let path = format!("/docker/{docker}");
        assert_eq!(machine.name(&path), named("container:db", "db:7"));
        let path = format!("/x/cri-containerd-{cri}.scope");
        assert_eq!(machine.name(&path), named("container:app", "app:2"));
        let path = format!("/kubepods/pod{UID}");
        assert_eq!(machine.name(&path), named("pod:prod/app-1", ""));
        let known = Runtimes::at(machine.0.path()).read(true);
        let pod = name::of(&path, &known).unwrap();
        assert!(pod.is_meant_by("prod/app-1") && pod.is_meant_by(UID));
        let nothing = Runtimes::at(Path::new("/nonexistent")).read(true);
        assert!(nothing.by_id.is_empty());
    }

    #[test]
    fn ids_that_somebody_thought_of_are_found_by_their_cgroups() {
        let machine = Machine::new();
        for (id, path) in [("kept", "/default/kept"), ("unit", "a-b.slice:ctr:unit")] {
            machine.write(
                &format!("{CONTAINERD}/default/{id}/config.json"),
                &format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#),
            );
        }
        for (path, called) in [
            ("/default/kept", "container:kept"),
            ("/a.slice/a-b.slice/ctr-unit.scope", "container:unit"),
            ("/a.slice/a-b.slice/ctr-other.scope", "unit:ctr-other.scope"),
        ] {
            assert_eq!(machine.name(path), named(called, ""));
        }
        // Also where no cgroup's name has a hash.
        let known = Runtimes::at(machine.0.path()).read(false);
        assert_eq!(known.at("/default/kept"), Some("kept"));
    }
}
