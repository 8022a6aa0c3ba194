//! What is mounted: first what init itself needs, then the host's root with a system's file systems
//! in it.

use std::path::Path;

use cgtap_guest_init::{Job, OUT_DIR, OUT_TAG, ROOT_TAG};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use crate::Result;

/// The largest message that virtio can carry: 125 pages. Each round trip costs a guest without KVM
/// far more than the copying.
const P9_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,access=any";

/// A file system to mount, at a place in the new root.
struct Place {
    kind: &'static str,
    at: &'static str,
    options: &'static str,
}

const fn place(kind: &'static str, at: &'static str, options: &'static str) -> Place {
    Place { kind, at, options }
}

/// No tmpfs on /tmp: the tree may lie there, and all that is written goes to memory anyway.
const PLACES: [Place; 11] = [
    place("proc", "proc", ""),
    place("sysfs", "sys", ""),
    place("devtmpfs", "dev", "mode=755"),
    place("devpts", "dev/pts", "mode=600,ptmxmode=666"),
    place("tmpfs", "dev/shm", "mode=1777"),
    place("tmpfs", "run", "mode=755"),
    place("cgroup2", "sys/fs/cgroup", "nsdelegate"),
    place("bpf", "sys/fs/bpf", "mode=700"),
    place("tracefs", "sys/kernel/tracing", ""),
    place("debugfs", "sys/kernel/debug", ""),
    place("securityfs", "sys/kernel/security", ""),
];

/// What init itself needs, in the initramfs.
pub fn for_init() -> Result<()> {
    put(Path::new("/"), &place("proc", "proc", ""))?;
    put(Path::new("/"), &place("sysfs", "sys", ""))?;
    put(Path::new("/"), &place("devtmpfs", "dev", "mode=755"))
}

/// Makes the host's root the guest's.
pub fn take_host_root(job: &Job) -> Result<()> {
    for dir in ["/lower", "/memory", "/new"] {
        std::fs::create_dir_all(dir)?;
    }
    // Nobody else writes what is read here while it matters, so the guest may keep what it has read.
    let lower = format!("{P9_OPTIONS},cache=loose");
    attach(ROOT_TAG, "/lower", "9p", MountFlags::RDONLY, &lower)?;
    attach(
        "memory",
        "/memory",
        "tmpfs",
        MountFlags::empty(),
        "mode=755,size=75%",
    )?;
    std::fs::create_dir("/memory/upper")?;
    std::fs::create_dir("/memory/work")?;
    let layers = "lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work,xino=off";
    attach("root", "/new", "overlay", MountFlags::empty(), layers)?;

    let new = Path::new("/new");
    for place in &PLACES {
        put(new, place)?;
    }
    let out = new.join(OUT_DIR.trim_start_matches('/'));
    std::fs::create_dir_all(&out)?;
    // Mapped by programs, but never kept: the host reads it as soon as the guest is gone.
    let options = format!("{P9_OPTIONS},cache=mmap");
    attach(OUT_TAG, &out, "9p", MountFlags::empty(), &options)?;
    show_kernel(new, job)?;

    std::env::set_current_dir(new)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Puts what belongs to this kernel where programs look: its modules for `modprobe`, its
/// configuration for libbpf.
fn show_kernel(new: &Path, job: &Job) -> Result<()> {
    let uname = rustix::system::uname();
    let modules = new.join("lib/modules").join(uname.release().to_str()?);
    for (from, at) in [
        (&job.modules_dir, modules),
        (&job.boot_dir, new.join("boot")),
    ] {
        std::fs::create_dir_all(&at)?;
        let from = new.join(from.trim_start_matches('/'));
        mount_bind(&from, &at).map_err(|e| {
            let (from, at) = (from.display(), at.display());
            format!("cannot bind {from} to {at}: {e}")
        })?;
    }
    Ok(())
}

fn put(root: &Path, place: &Place) -> Result<()> {
    let at = root.join(place.at);
    // sysfs and its like have these directories, and let nobody make others.
    if !at.exists() {
        std::fs::create_dir_all(&at).map_err(|e| format!("cannot make {}: {e}", at.display()))?;
    }
    attach(
        place.kind,
        &at,
        place.kind,
        MountFlags::empty(),
        place.options,
    )
}

fn attach(
    source: &str,
    at: impl AsRef<Path>,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<()> {
    let at = at.as_ref();
    let options = std::ffi::CString::new(options)?;
    mount(source, at, kind, flags, options.as_c_str())
        .map_err(|e| format!("cannot mount {kind} at {}: {e}", at.display()))?;
    Ok(())
}
