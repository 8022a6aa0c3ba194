//! What the kernel holds: every program of ours that came after a moment must be gone in the end,
//! and with it the links and maps that only it holds. Others may work on the same machine, so what
//! is theirs has to be told from ours: what is still pinned below another state, or held by a
//! process that lives, is.
//!
//! Programs are looked up one by one. `bpftool map list`, and to a lesser degree `prog list`,
//! opens every map by its id, and a PROG_ARRAY that is opened so between its last descriptor and
//! its end is never freed (kernel/bpf/arraymap.c: `prog_array_map_clear()` takes a reference that
//! is lost when the work that drops it is queued already). Seen on 6.18: three in 40 lists beside
//! 30 detaches; without them none.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgtap::asm::{Insn, Reg, encode};
use cgtap_sys::bpf::{AttachType, Prog, ProgSpec, ProgType, get_link, get_map};

/// The moment at which it was opened, as the id of a program of that time.
pub struct Ledger {
    from: u32,
}

/// The id that a program gets now.
fn next_id() -> u32 {
    let prog = Prog::load(&ProgSpec {
        name: "ledger",
        prog_type: ProgType::RawTracepoint,
        attach_type: AttachType::None,
        flags: 0,
        license: "GPL",
        kern_version: 0,
        insns: &encode(&[Insn::mov_imm(Reg::R0, 0), Insn::exit()]),
        maps: &[],
        btf: None,
        func_info: &[],
        line_info: &[],
        attach_btf_id: 0,
        attach_btf: None,
    });
    prog.unwrap().info().unwrap().id
}

/// The programs that are pinned below `dir`, by their links or in arrays.
fn pinned(dir: &Path, found: &mut BTreeSet<u32>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            pinned(&path, found);
        } else if let Ok(link) = get_link(&path) {
            found.extend(link.info().map(|info| info.prog_id));
        } else if let Ok(map) = get_map(&path) {
            let Ok(info) = map.info() else { continue };
            // BPF_MAP_TYPE_PROG_ARRAY reads as the ids of its programs.
            for index in 0..if info.map_type == 3 {
                info.max_entries
            } else {
                0
            } {
                if let Ok(Some(id)) = map.lookup(&index.to_ne_bytes()) {
                    found.insert(u32::from_ne_bytes(id[..4].try_into().unwrap()));
                }
            }
        }
    }
}

/// The programs that a process holds, itself or by a link: their descriptors say so.
fn held(found: &mut BTreeSet<u32>) {
    let list = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    for process in list("/proc".into()) {
        for fd in list(process.path().join("fdinfo")) {
            let text = std::fs::read_to_string(fd.path()).unwrap_or_default();
            let ids = text.lines().filter_map(|l| l.strip_prefix("prog_id:"));
            found.extend(ids.filter_map(|id| id.trim().parse::<u32>().ok()));
        }
    }
}

impl Ledger {
    pub fn open() -> Self {
        Self { from: next_id() }
    }

    /// Waits until nothing is left of what came since, but what is pinned below other states or
    /// held by processes.
    pub fn close(self) {
        let mut left: BTreeSet<u32> = (self.from + 1..next_id()).collect();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            left.retain(|id| Prog::from_id(*id).is_ok());
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(300));
            let mut theirs = BTreeSet::new();
            held(&mut theirs);
            pinned(Path::new("/sys/fs/bpf"), &mut theirs);
            left.retain(|id| Prog::from_id(*id).is_ok());
            if left.is_subset(&theirs) {
                return;
            }
            let lost: Vec<_> = left.difference(&theirs).collect();
            assert!(
                Instant::now() < end,
                "nobody holds these programs: {lost:?}"
            );
        }
    }
}
