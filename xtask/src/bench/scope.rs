//! What it costs to find whose event it is.
//!
//! The hook is `task_rename`, which has a task among its arguments: the loop renames its own
//! thread. Nothing is configured, so that all that is measured is finding the cgroup and its word.

use std::os::fd::AsFd;

use cgtap::asm::encode;
use cgtap::dispatch::dispatcher;
use cgtap::dispatch::noter;
use cgtap::dispatch::switch::Switch;
use cgtap::hook::HookSpec;
use cgtap::hook::kind::Returns;
use cgtap::kernel::layout::Layout;
use cgtap::kernel::read::Access;
use cgtap::kernel::scope::ScopeInfo;
use cgtap::kernel::target::{self, Target};
use cgtap::kernel::{current, scope};
use cgtap_sys::bpf::{Map, Prog, ProgSpec};
use cgtap_sys::libbpf::Btf;

use super::Offer;
use super::measure::{Site, Variant, Work, best_quarter};
use crate::Result;

/// Where all of it is attached.
pub const SITE: Site = Site::At("task_rename");

const RAW: &str = "raw_tracepoint:task_rename";
const TYPED: &str = "tp_btf:task_rename";
const OWNER: &str = "owner(task->pid) noted at raw_tracepoint:task_rename by task->pid";

/// A loop that renames its thread.
pub struct Rename {
    /// Calls a lap.
    pub calls: u32,
}

fn rename(count: u32) {
    for _ in 0..count {
        let _ = rustix::thread::set_name(c"cgtap-bench");
    }
}

impl Work for Rename {
    fn lap(&mut self, _: Option<&Variant>) -> Result<f64> {
        Ok(best_quarter(self.calls, rename))
    }

    fn warm(&mut self, _: Option<&Variant>) -> Result<u64> {
        rename(500);
        Ok(500)
    }
}

/// What is measured of a scope.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The dispatcher; nothing is configured.
    Dispatcher,
    /// The program that makes notes.
    Noter,
    /// The dispatcher, which looks up a note that the noter made before.
    Lookup,
}

struct Loaded {
    prog: Prog,
    keep: Vec<Map>,
}

/// Loads for a hook what is generated for it.
fn load(name: &str, spec: &HookSpec, insns: &[cgtap::asm::Insn], maps: &[&Map]) -> Result<Prog> {
    let (spec, info) = target::resolve(spec)?;
    let target = Target {
        spec: &spec,
        info: &info,
    };
    let kind = spec.kind().info();
    let maps: Vec<_> = maps.iter().map(|m| m.as_fd()).collect();
    let loaded = Prog::load(&ProgSpec {
        attach_type: kind.attach_type,
        attach_btf_id: target.load_btf_id(),
        ..ProgSpec::generated(name, kind.prog_type, &encode(insns), &maps)
    });
    Ok(loaded.map_err(|e| format!("{e}: {}", e.log))?)
}

fn make(hook: &str, scope: &str, access: Access, part: Part) -> Result<Loaded> {
    let spec: HookSpec = format!("{hook} scope={scope}").parse()?;
    let layout = Layout::read(Btf::vmlinux()?.as_ref())?;
    let (_, info) = target::resolve(&spec)?;
    let found = scope::resolve(&spec, &info)?;
    let table = current::find(&layout);
    let dir = tempfile::Builder::new()
        .prefix("cgtap-bench-scope-")
        .tempdir_in("/sys/fs/bpf")?;
    let switch = Switch::create(dir.path())?;
    let notes = noter::make_notes()?;
    let with_current_table = table.is_some();
    let is_current = matches!(found, ScopeInfo::Current);
    let noter = match found.owner() {
        Some(owner) => {
            let insns = noter::generate(&layout, owner, access, with_current_table)?;
            let maps: Vec<&Map> = [&notes, &switch.control]
                .into_iter()
                .chain(&table)
                .collect();
            Some(load("cgtap_note", &spec, &insns, &maps)?)
        }
        None => None,
    };
    if let (Part::Noter, Some(prog)) = (part, noter.as_ref()) {
        let prog = Prog::from_fd(prog.as_fd().try_clone_to_owned()?)?;
        return Ok(Loaded {
            prog,
            keep: Vec::new(),
        });
    }
    let insns = dispatcher::generate(&dispatcher::Plan {
        layout: &layout,
        returns: Returns::Ignored,
        has_func_ip: false,
        scope: &found,
        access,
        with_current_table,
        decides: false,
    })?;
    let mut maps = vec![&switch.progs, &switch.cache, &switch.control];
    maps.extend(&switch.tables);
    if is_current {
        maps.extend(&table);
    } else if found.owner().is_some() {
        maps.push(&notes);
    }
    let prog = load("cgtap_dispatch", &spec, &insns, &maps)?;
    if let (Part::Lookup, Some(noter)) = (part, noter) {
        let link = cgtap_sys::bpf::Link::raw_tracepoint(&noter, Some("task_rename"))?;
        rename(1);
        drop(link);
        if notes.keys()?.is_empty() {
            return Err("the noter made no note".into());
        }
    }
    Ok(Loaded {
        prog,
        keep: vec![notes],
    })
}

/// The variants.
pub fn offers<'a>() -> Vec<Offer<'a>> {
    let rows: [(&str, &str, &str, Access, Part); 8] = [
        ("current", RAW, "current", Access::Typed, Part::Dispatcher),
        ("task, by cast", RAW, "task", Access::Cast, Part::Dispatcher),
        (
            "task, by probe_read",
            RAW,
            "task",
            Access::Probe,
            Part::Dispatcher,
        ),
        (
            "current, tp_btf",
            TYPED,
            "current",
            Access::Typed,
            Part::Dispatcher,
        ),
        (
            "task, tp_btf, by typed load",
            TYPED,
            "task",
            Access::Typed,
            Part::Dispatcher,
        ),
        (
            "task, tp_btf, by cast",
            TYPED,
            "task",
            Access::Cast,
            Part::Dispatcher,
        ),
        ("owner, lookup", RAW, OWNER, Access::Cast, Part::Lookup),
        ("owner, noter", RAW, OWNER, Access::Cast, Part::Noter),
    ];
    let offer = |(name, hook, scope, access, part): (&str, &'a str, &'a str, Access, Part)| {
        Offer::new(&format!("scope: {name}"), move |name| {
            let loaded = make(hook, scope, access, part)?;
            let mut variant = Variant::new(name, loaded.prog);
            variant.site = if hook == TYPED { Site::Typed } else { SITE };
            variant.keep = loaded.keep;
            Ok(variant)
        })
    };
    rows.into_iter().map(offer).collect()
}
