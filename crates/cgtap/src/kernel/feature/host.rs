//! Whether who asks may, and what the machine has mounted.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cgtap_sys::Errno;
use cgtap_sys::bpf::{Map, MapSpec, MapType, pin};
use cgtap_sys::libbpf::Btf;

use super::Feature;
use crate::cgroup::Hierarchy;
use crate::id::CgroupId;
use crate::kernel::caller::{CAPABILITIES, Caller, Capability};
use crate::kernel::layout::Layout;
use crate::kernel::tracepoint::{self, TracepointError};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

const RUN_AS_ROOT: &str = "run as root, or give the binary what is missing: `setcap \
                           cap_bpf,cap_perfmon,cap_sys_admin,cap_dac_read_search+ep`";

pub(super) fn probe(caller: &Caller, state: &Path, cgroup_root: Option<&Path>) -> Vec<Feature> {
    let mut features = vec![user(caller)];
    features.extend(CAPABILITIES.iter().map(|c| capability(caller, c)));
    features.extend([
        lockdown(),
        btf(),
        bpffs(caller, state),
        cgroup2(cgroup_root),
        tracefs(),
    ]);
    features
}

fn user(caller: &Caller) -> Feature {
    let name = "user";
    match (caller.uid, caller.is_in_user_namespace) {
        (0, false) => Feature::yes(name, "run as root"),
        (uid, false) if caller.missing().is_empty() => Feature::yes(
            name,
            format!("run as uid {uid} with the capabilities that it takes"),
        ),
        (uid, false) => Feature::no(name, format!("run as uid {uid}"), RUN_AS_ROOT),
        (uid, true) => Feature::no(
            name,
            format!("run as uid {uid} of a user namespace"),
            "run outside of it: tracing sees the whole machine, so the kernel asks for \
             capabilities in the first namespace",
        ),
    }
}

fn capability(caller: &Caller, capability: &Capability) -> Feature {
    let Capability { name, use_of, .. } = *capability;
    match caller.has(capability) {
        Some(true) => Feature::yes(name, format!("it is effective; for {use_of}")),
        Some(false) => Feature::no(
            name,
            format!("{name} is not effective; it is for {use_of}"),
            RUN_AS_ROOT,
        ),
        None => Feature::unknown(name, "/proc/self/status cannot be read", "mount /proc"),
    }
    .required()
}

fn lockdown() -> Feature {
    let name = "no lockdown";
    let path = "/sys/kernel/security/lockdown";
    let Ok(text) = fs::read_to_string(path) else {
        return Feature::unknown(
            name,
            format!("{path} is not there: no lockdown in this kernel, or no securityfs"),
            "nothing to do if the hooks below work; else mount securityfs at \
             /sys/kernel/security and ask again",
        );
    };
    // `none [integrity] confidentiality`
    let level = text
        .split('[')
        .nth(1)
        .and_then(|t| t.split(']').next())
        .unwrap_or("none");
    match level {
        "confidentiality" => Feature::no(
            name,
            "the kernel is locked down for confidentiality: programs may not read its memory",
            "boot with lockdown=none or lockdown=integrity; counting without reading works all \
             the same where programs load",
        ),
        level => Feature::yes(name, format!("lockdown is `{level}`")),
    }
}

fn btf() -> Feature {
    let name = "kernel BTF";
    match Btf::vmlinux() {
        Ok(btf) => match Layout::read(&btf) {
            Ok(_) => Feature::yes(
                name,
                "/sys/kernel/btf/vmlinux has every field that is needed",
            ),
            Err(e) => Feature::no(
                name,
                format!("this kernel is laid out in a new way: {e}"),
                "use a newer cgtap",
            ),
        },
        // An image of a container may have nothing there.
        Err(_) if !Path::new("/sys/kernel").exists() => Feature::no(
            name,
            "no sysfs is mounted at /sys, where the kernel shows its BTF",
            "mount -t sysfs none /sys",
        ),
        Err(e) => Feature::no(
            name,
            e.to_string(),
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have it",
        ),
    }
    .required()
}

fn bpffs(caller: &Caller, state: &Path) -> Feature {
    let name = "bpffs";
    // The state itself may not be there yet.
    let place = state
        .ancestors()
        .skip(1)
        .find(|p| p.is_dir())
        .unwrap_or(Path::new("/"));
    let shown = place.display();
    let feature = match rustix::fs::statfs(place) {
        Err(e) => Feature::unknown(
            name,
            format!("cannot look at {shown}: {}", Errno::from(e)),
            "name a directory in a bpffs with --state",
        ),
        Ok(stat) if stat.f_type as u64 != BPFFS_MAGIC => Feature::no(
            name,
            format!("{shown} is not in a bpffs"),
            "mount one with `mount -t bpf bpf /sys/fs/bpf`, or name a directory in one with \
             --state",
        ),
        Ok(_) => match try_pin(place) {
            Ok(()) => Feature::yes(
                name,
                format!("a map was pinned below {shown}; a bpffs has no size of its own"),
            ),
            Err((what, errno)) => {
                let remedy = match errno {
                    Errno::EROFS => format!("`mount -o remount,rw {shown}`"),
                    Errno::EPERM | Errno::EACCES => {
                        format!("{RUN_AS_ROOT}, and own {shown}")
                    }
                    _ => "name a directory in another bpffs with --state".to_owned(),
                };
                Feature::no(
                    name,
                    format!("cannot {what} below {shown}: {}", caller.reason(errno)),
                    remedy,
                )
            }
        },
    };
    feature.required()
}

/// Makes a directory in `place`, pins a map in it, and takes both away.
fn try_pin(place: &Path) -> Result<(), (&'static str, Errno)> {
    let errno = |e: &std::io::Error| Errno(e.raw_os_error().unwrap_or(Errno::EIO.0));
    let dir: PathBuf = place.join(format!("cgtap_probe_{}", std::process::id()));
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| ("make a directory", errno(&e)))?;
    let file = dir.join("map");
    let result = Map::create(&MapSpec {
        name: "cgtap_probe",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        flags: 0,
    })
    .map_err(|e| ("make a map to pin", e.errno))
    .and_then(|map| pin(&map, &file).map_err(|e| ("pin", e.errno)));
    let unpinned = match fs::remove_file(&file) {
        Err(e) if result.is_ok() => Err(("unpin", errno(&e))),
        _ => Ok(()),
    };
    let removed = fs::remove_dir(&dir).map_err(|e| ("remove a directory", errno(&e)));
    result.and(unpinned).and(removed)
}

fn cgroup2(root: Option<&Path>) -> Feature {
    let name = "cgroup2";
    let feature = match Hierarchy::open(root) {
        Err(e) => Feature::no(
            name,
            e.to_string(),
            "mount it with `mount -t cgroup2 none /sys/fs/cgroup`, or say where it is with \
             --cgroup-root",
        ),
        Ok(hierarchy) => {
            let at = hierarchy.root().display().to_string();
            let found = hierarchy
                .by_path(Path::new("/"))
                .and_then(|root| hierarchy.by_id(CgroupId(root.id.0)));
            match found {
                Ok(root) => Feature::yes(
                    name,
                    format!("mounted at {at}; its root was found by its id {}", root.id),
                ),
                Err(e) => Feature::no(
                    name,
                    format!("mounted at {at}, but {e}"),
                    format!("finding a cgroup by its id takes CAP_DAC_READ_SEARCH; {RUN_AS_ROOT}"),
                ),
            }
        }
    };
    feature.required()
}

fn tracefs() -> Feature {
    let name = "tracefs";
    let still = "; raw_tracepoint and tp_btf hooks work without it";
    let events = tracepoint::tracefs().and_then(|path| {
        let events = path.join("events");
        match fs::read_dir(&events) {
            Ok(_) => Ok(path),
            Err(source) => Err(TracepointError::Read {
                path: events,
                source,
            }),
        }
    });
    match events {
        Ok(path) => Feature::yes(name, format!("mounted at {}", path.display())),
        Err(e @ TracepointError::Read { .. }) => {
            Feature::unknown(name, e.to_string(), format!("run as root{still}"))
        }
        Err(e) => Feature::no(
            name,
            e.to_string(),
            format!("`mount -t tracefs tracefs /sys/kernel/tracing`{still}"),
        ),
    }
}
