//! How it is done without cgtap.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cgtap_sys::bpf::Prog;

use super::Offer;
use super::load::Plain;
use super::measure::{Site, Variant};
use crate::Result;
use crate::ground::{self, Ground};

/// `count` programs that each ask for a cgroup of their own; the last one asks for `hot`.
pub fn separate(
    ground: &Ground,
    hot: &Path,
    name: &str,
    fixture: &str,
    count: usize,
) -> Result<Variant> {
    let object = ground.compile(fixture)?;
    let mut progs = Vec::new();
    let mut counts = None;
    for number in 0..count {
        let cgroup = ground.cgroup(&format!("containers/{number}"))?;
        let cgroup = if number + 1 == count { hot } else { &cgroup };
        let by_id = fixture == "cgroup_id";
        let set = if by_id {
            vec![("target", ground::id(cgroup)?.to_string())]
        } else {
            Vec::new()
        };
        let plain = Plain::load(&object, &set)?;
        if !by_id {
            let dir = File::open(cgroup)?;
            let fd = dir.as_raw_fd().to_ne_bytes();
            plain.map("cgroups")?.update(&0u32.to_ne_bytes(), &fd)?;
        }
        progs.push(plain.prog(0)?);
        counts = Some(plain.map(".bss")?);
    }
    let counts = counts.ok_or("no programs")?;
    Ok(Variant::several(name, progs).counted(counts, 1))
}

/// Clauses of bpftrace that each ask for a cgroup. It is ended once they are loaded: they go on
/// without it, attached and detached by us like all others.
fn bpftrace(ground: &Ground, hot: &Path, name: &str, count: usize) -> Result<Variant> {
    let probe = "tracepoint:raw_syscalls:sys_enter";
    let mut script = String::new();
    for number in 0..count {
        let cgroup = ground.cgroup(&format!("containers/{number}"))?;
        let cgroup = if number + 1 == count { hot } else { &cgroup };
        let path = cgroup.display();
        script +=
            &format!("{probe} /cgroup == cgroupid(\"{path}\")/ {{ @c{number} = count(); }}\n");
    }
    self::script(name, &script, count)
}

/// The programs that bpftrace makes of a script with `count` probes at `raw_syscalls:sys_enter`.
pub fn script(name: &str, script: &str, count: usize) -> Result<Variant> {
    let mut child = Command::new("bpftrace")
        .args(["-e", script])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("bpftrace: {e}"))?;
    let progs = loaded_by(&mut child, count);
    drop(child.kill());
    drop(child.wait());
    let mut variant = Variant::several(name, progs?);
    let id = std::fs::read_to_string("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")?;
    variant.site = Site::Classic(id.trim().parse()?);
    Ok(variant)
}

/// Waits until a process has `count` programs attached, and takes them.
fn loaded_by(child: &mut Child, count: usize) -> Result<Vec<Prog>> {
    let start = Instant::now();
    let mut seen = 0;
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait()? {
            return Err(format!("bpftrace ended: {status}").into());
        }
        let ids = programs_of(child.id());
        if ids.len() >= count && ids.len() == seen {
            // Nothing new for a while: all are loaded.
            return ids.iter().map(|id| Ok(Prog::from_id(*id)?)).collect();
        }
        seen = ids.len();
        std::thread::sleep(Duration::from_millis(500));
    }
    Err(format!("bpftrace loaded {seen} programs in 30 s, not {count}").into())
}

/// Ids of the programs that a process holds descriptors of.
fn programs_of(pid: u32) -> BTreeSet<u32> {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let infos = infos.into_iter().flatten().flatten();
    let texts = infos.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let id = |text: String| {
        // A link has the line too; it says the same.
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("prog_id:").map(str::to_owned))?;
        line.trim().parse().ok()
    };
    texts.filter_map(id).collect()
}

/// The variants for a process in `hot`.
pub fn offers<'a>(ground: &'a Ground, hot: &'a Path) -> Vec<Offer<'a>> {
    let mut offers = vec![Offer::new("unscoped, 1 program", move |name| {
        let plain = Plain::load(&ground.compile("count")?, &[])?;
        Ok(Variant::new(name, plain.prog(0)?).counted(plain.map(".bss")?, 1))
    })];
    offers.push(Offer::new(
        "unscoped, 64 programs of 64 objects",
        move |name| {
            let mut progs = Vec::new();
            for _ in 0..64 {
                progs.push(Plain::load(&ground.compile("count")?, &[])?.prog(0)?);
            }
            Ok(Variant::several(name, progs))
        },
    ));
    for count in [1, 10, 100] {
        offers.push(Offer::new(
            &format!("today: {count} x under_cgroup"),
            move |name| separate(ground, hot, name, "under_cgroup", count),
        ));
    }
    for count in [1, 10] {
        offers.push(Offer::new(
            &format!("today: {count} x cgroup id"),
            move |name| separate(ground, hot, name, "cgroup_id", count),
        ));
    }
    for count in [1, 10] {
        let name = format!("today: bpftrace, {count} clauses");
        offers.push(Offer::new(&name, move |name| {
            bpftrace(ground, hot, name, count)
        }));
    }
    offers
}
