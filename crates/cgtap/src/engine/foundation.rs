//! What a state stands on: its control words, what is watched, and the programs that watch.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use cgtap_sys::SysError;
use cgtap_sys::bpf::{
    AttachType, Link, Map, MapSpec, MapType, Prog, ProgSpec, ProgType, map_flags, pin,
};
use cgtap_sys::libbpf::Btf;
use cgtap_sys::memory::Words;

use super::error::{Error, ErrorKind, Result};
use super::session::{UNDER_WAY, boot_id, write_config};
use crate::asm::{EditError, Insn, encode};
use crate::dispatch::reaper::{self, GATES_MAX};
use crate::dispatch::switch::CONFIGURED_MAX;
use crate::kernel::layout::Layout;
use crate::kernel::target::TargetError;
use crate::kernel::{current, tracepoint};
use crate::limit::record::Limits;
use crate::store::config::{Config, NextIds};
use crate::store::dir::StateDir;
use crate::store::pins;

/// The pins that a state stands on. They go together: the programs hold the maps.
pub(super) const PINS: [&str; 5] = [
    pins::REAPER,
    pins::CONTROL,
    pins::CGROUPS,
    pins::OWNERS,
    pins::GATES,
];

/// Fills a new state: maps, the program at cgroup_rmdir, the record last.
pub(super) fn make_state(dir: &StateDir) -> Result<Config> {
    // What a maker that died left.
    dir.sweep(&BTreeSet::new())?;
    let (layout, current_table) = lay(dir, false)?;
    dir.make_dir(pins::HOOKS)?;
    dir.make_dir(pins::INSTANCES)?;
    let config = Config {
        boot_id: boot_id(),
        next: NextIds {
            attachment: 1,
            instance: 1,
            hook: 1,
            set: 1,
        },
        deaths_seen: 0,
        layout,
        current_table,
        cgroups: BTreeMap::new(),
        instances: BTreeMap::new(),
        hooks: BTreeMap::new(),
        owners: BTreeMap::new(),
        limits: Limits::default(),
    };
    write_config(dir, &config)?;
    Ok(config)
}

/// Makes it all anew for a state in which some of it is missing.
pub(super) fn lay_again(dir: &StateDir, mut config: Config) -> Result<Config> {
    for name in PINS.iter().chain(&[pins::UNDERTAKER, pins::CURRENT]) {
        dir.unpin(name)?;
    }
    let (layout, current_table) = lay(dir, true)?;
    dir.make_dir(pins::HOOKS)?;
    dir.make_dir(pins::INSTANCES)?;
    config.layout = layout;
    config.current_table = current_table;
    config.deaths_seen = 0;
    write_config(dir, &config)?;
    Ok(config)
}

/// Makes and pins what the state stands on; the kernel's layout, and whether there is a table of
/// the addresses of `current`. With `is_interrupted` whoever opens the state next makes the kernel
/// agree with the record.
fn lay(dir: &StateDir, is_interrupted: bool) -> Result<(Layout, bool)> {
    let btf = Btf::vmlinux().map_err(|e| {
        Error::new(
            ErrorKind::Unsupported,
            format!("cannot read this kernel's BTF: {e}; cgtap needs CONFIG_DEBUG_INFO_BTF"),
        )
    })?;
    let layout = Layout::read(&btf).map_err(|e| {
        Error::new(
            ErrorKind::Unsupported,
            format!("this kernel is laid out in a new way: {e}"),
        )
    })?;
    let sys = |e: SysError| Error::sys(format!("make the state {}", dir.path().display()), &e);
    let control = Map::create(&MapSpec {
        name: "cgtap_state",
        map_type: MapType::Array,
        key_size: 4,
        value_size: 64,
        max_entries: 1,
        flags: map_flags::MMAPABLE,
    })
    .map_err(sys)?;
    let cgroups = Map::create(&MapSpec {
        name: "cgtap_cgroups",
        map_type: MapType::Hash,
        key_size: 8,
        value_size: 8,
        max_entries: CONFIGURED_MAX,
        flags: map_flags::NO_PREALLOC,
    })
    .map_err(sys)?;
    let owners = Map::create(&MapSpec {
        name: "cgtap_owners",
        map_type: MapType::Hash,
        key_size: 4,
        value_size: 4,
        max_entries: u32::from(GATES_MAX),
        flags: map_flags::NO_PREALLOC,
    })
    .map_err(sys)?;
    let gates = Map::create(&MapSpec {
        name: "cgtap_gates",
        map_type: MapType::Array,
        key_size: 4,
        value_size: u32::from(GATES_MAX) * 8,
        max_entries: 1,
        flags: map_flags::MMAPABLE,
    })
    .map_err(sys)?;
    if is_interrupted {
        Words::map(&control).map_err(sys)?.set(UNDER_WAY, 1);
    }
    let insns = reaper::generate(&layout);
    let link = attach_watcher(&btf, "cgroup_rmdir", insns, &[&cgroups, &control])?;
    let table = current::find(&layout);
    for (name, map) in [
        (pins::CONTROL, Some(&control)),
        (pins::CGROUPS, Some(&cgroups)),
        (pins::OWNERS, Some(&owners)),
        (pins::GATES, Some(&gates)),
        (pins::CURRENT, table.as_ref()),
    ] {
        if let Some(map) = map {
            pin(map, &dir.join(name)).map_err(sys)?;
        }
    }
    pin(&link, &dir.join(pins::REAPER)).map_err(sys)?;
    Ok((layout, table.is_some()))
}

/// Loads and attaches a program of ours at a typed raw tracepoint.
pub(super) fn attach_watcher(
    btf: &Btf,
    name: &str,
    insns: std::result::Result<Vec<Insn>, EditError>,
    maps: &[&Map],
) -> Result<Link> {
    let target = tracepoint::raw(btf, name).map_err(TargetError::from)?;
    let insns = insns.map_err(|e| {
        Error::new(
            ErrorKind::Kernel,
            format!("cannot generate the program at {name}: {e}"),
        )
    })?;
    let maps: Vec<_> = maps.iter().map(|m| m.as_fd()).collect();
    let prog = Prog::load(&ProgSpec {
        attach_type: AttachType::TraceRawTp,
        attach_btf_id: target.typedef_id,
        ..ProgSpec::generated("cgtap_watch", ProgType::Tracing, &encode(&insns), &maps)
    })
    .map_err(|e| {
        let sys = SysError {
            call: "BPF_PROG_LOAD",
            errno: e.errno,
        };
        Error::sys(format!("load the program at {name}"), &sys).with_log(e.log)
    })?;
    Link::raw_tracepoint(&prog, None)
        .map_err(|e| Error::sys(format!("attach the program at {name}"), &e))
}
