//! Hooks: a program that does nothing is loaded and attached, and taken away again.

use std::fs;
use std::os::fd::AsFd;

use cgtap_sys::bpf::{AttachType, Link, LoadError, Prog, ProgSpec, ProgType};
use cgtap_sys::libbpf::{Btf, BtfKind};
use cgtap_sys::{Errno, SysError, perf};

use super::Feature;
use super::host::Caller;
use crate::asm::{Insn, Reg, encode};
use crate::hook::HookKind;
use crate::hook::kind::{KINDS, KindInfo};
use crate::kernel::tracepoint;

/// Tracepoints that hardly ever fire, so that attaching there disturbs nobody: the first that this
/// kernel has is taken.
const QUIET: [&str; 3] = [
    "task/task_rename",
    "bpf_test_run/bpf_test_finish",
    "sched/sched_process_exec",
];

fn load(
    prog_type: ProgType,
    attach_type: AttachType,
    attach_btf_id: u32,
) -> Result<Prog, LoadError> {
    // 1 is what changes nothing where the value means something, except for LSM.
    let value = i32::from(prog_type != ProgType::Lsm);
    Prog::load(&ProgSpec {
        name: "cgtap_probe",
        prog_type,
        attach_type,
        flags: 0,
        license: "GPL",
        kern_version: 0,
        insns: &encode(&[Insn::mov_imm(Reg::R0, value), Insn::exit()]),
        maps: &[],
        btf: None,
        func_info: &[],
        line_info: &[],
        attach_btf_id,
    })
}

/// Why a hook did not work.
enum Lack {
    Load(Errno),
    Attach(SysError),
    NoTarget(String),
}

pub(super) fn probe(caller: &Caller) -> Vec<Feature> {
    let btf = Btf::vmlinux().ok();
    let mut features: Vec<Feature> = KINDS
        .iter()
        .map(|kind| hook(caller, btf.as_ref(), kind))
        .collect();
    // Any of them is enough; only if none works, nothing does.
    let none_works = features.iter().all(|f| f.state != super::FeatureState::Yes);
    if none_works {
        features.iter_mut().for_each(|f| f.required = true);
    }
    features.extend([
        link(caller),
        jit(caller),
        kprobe(caller),
        typed(caller, btf.as_ref(), &FENTRY),
        typed(caller, btf.as_ref(), &LSM),
    ]);
    features
}

fn hook(caller: &Caller, btf: Option<&Btf>, kind: &KindInfo) -> Feature {
    let name = format!("hook {}", kind.prefix);
    match try_hook(btf, kind) {
        Ok(target) => Feature::yes(&name, format!("a program was attached to {target}")),
        Err(lack) => {
            let (what, errno) = match &lack {
                Lack::Load(errno) => ("loading a program", *errno),
                Lack::Attach(e) => (e.call, e.errno),
                Lack::NoTarget(why) => {
                    return Feature::unknown(&name, why.clone(), remedy(kind));
                }
            };
            let why = format!("{what} gave {}", caller.reason(errno));
            if caller.is_about_us(errno) {
                Feature::no(&name, why, "run as root")
            } else {
                Feature::no(&name, why, remedy(kind))
            }
        }
    }
}

fn remedy(kind: &KindInfo) -> &'static str {
    match kind.kind {
        HookKind::Tracepoint => {
            "it takes CONFIG_BPF_EVENTS, CONFIG_PERF_EVENTS and tracefs; raw_tracepoint hooks see \
             the same events"
        }
        HookKind::TpBtf => {
            "it takes CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS; raw_tracepoint hooks see the \
             same events"
        }
        _ => "it takes CONFIG_BPF_EVENTS; the other hooks that say `yes` work all the same",
    }
}

fn try_hook(btf: Option<&Btf>, kind: &KindInfo) -> Result<&'static str, Lack> {
    let name = |target: &'static str| target.split_once('/').map_or(target, |(_, name)| name);
    let attach = |e: SysError| Lack::Attach(e);
    if kind.has_category {
        // Who may not load may not read tracefs either, and should be told of the first.
        let prog = load(kind.prog_type, kind.attach_type, 0).map_err(|e| Lack::Load(e.errno))?;
        let (target, id) = QUIET
            .into_iter()
            .find_map(|t| Some((t, tracepoint::classic_id(t).ok()?)))
            .ok_or_else(|| no_target("tracefs shows none of the tracepoints that are tried"))?;
        let event = perf::open_tracepoint(id).map_err(attach)?;
        Link::perf_event(&prog, event.as_fd()).map_err(attach)?;
        return Ok(target);
    }
    let found = btf.and_then(|btf| {
        QUIET
            .into_iter()
            .find_map(|t| Some((t, tracepoint::raw(btf, name(t)).ok()?)))
    });
    let (target, id) = match (found, kind.attach_type) {
        (Some((target, raw)), AttachType::TraceRawTp) => (name(target), raw.typedef_id),
        (Some((target, _)), _) => (name(target), 0),
        (None, AttachType::TraceRawTp) => {
            return Err(no_target("there is no BTF to find a target in"));
        }
        (None, _) => (name(QUIET[0]), 0),
    };
    let prog = load(kind.prog_type, kind.attach_type, id).map_err(|e| Lack::Load(e.errno))?;
    let by_name = (id == 0).then_some(target);
    Link::raw_tracepoint(&prog, by_name).map_err(attach)?;
    Ok(target)
}

fn no_target(why: &str) -> Lack {
    Lack::NoTarget(why.to_owned())
}

/// Links of perf events, which pin classic tracepoints.
fn link(caller: &Caller) -> Feature {
    let name = "link of a perf event";
    let event = QUIET
        .into_iter()
        .find_map(|t| tracepoint::classic_id(t).ok())
        .map(perf::open_tracepoint);
    let remedy = "it takes Linux 5.15; the hooks that are no classic tracepoints work without";
    let event = match event {
        Some(Ok(event)) => event,
        Some(Err(e)) if caller.is_about_us(e.errno) => {
            let why = format!("perf_event_open gave {}", caller.reason(e.errno));
            return Feature::no(name, why, "run as root");
        }
        Some(Err(e)) => return Feature::unknown(name, e.to_string(), remedy),
        None => {
            return Feature::unknown(name, "no tracepoint to try it on", "mount tracefs");
        }
    };
    let prog = match load(ProgType::Tracepoint, AttachType::None, 0) {
        Ok(prog) => prog,
        Err(e) => {
            let why = format!("loading a program gave {}", caller.reason(e.errno));
            return Feature::no(name, why, "see `hook tracepoint`");
        }
    };
    match Link::perf_event(&prog, event.as_fd()) {
        Ok(_) => Feature::yes(name, "a link was made and dropped"),
        Err(e) => Feature::no(name, caller.reason(e.errno), remedy),
    }
}

fn jit(caller: &Caller) -> Feature {
    let name = "JIT";
    let remedy = "set /proc/sys/net/core/bpf_jit_enable to 1; interpreted programs run all the \
                  same, but slower, and sets of several programs may be refused";
    let bytes = load(ProgType::RawTracepoint, AttachType::None, 0)
        .map_err(|e| e.errno)
        .and_then(|prog| prog.info().map_err(|e| e.errno))
        .map(|info| info.jited_bytes);
    match bytes {
        Ok(0) => Feature::no(name, "a program was loaded and is interpreted", remedy),
        Ok(bytes) => Feature::yes(
            name,
            format!("a program of two instructions became {bytes} bytes of machine code"),
        ),
        Err(errno) => Feature::unknown(
            name,
            format!("no program could be looked at: {}", caller.reason(errno)),
            remedy,
        ),
    }
}

fn kprobe(caller: &Caller) -> Feature {
    let name = "kprobe programs";
    let remedy = "for information: cgtap has no kprobe hooks yet. They take CONFIG_KPROBES and \
                  CONFIG_KPROBE_EVENTS; tracepoint hooks work without";
    match load(ProgType::Kprobe, AttachType::None, 0) {
        Err(e) => {
            let why = format!("loading one gave {}", caller.reason(e.errno));
            Feature::no(name, why, remedy)
        }
        Ok(_) => match fs::read_to_string("/sys/bus/event_source/devices/kprobe/type") {
            Ok(kind) => Feature::yes(
                name,
                format!("one loads, and perf has kprobes (type {})", kind.trim()),
            ),
            Err(_) => Feature::no(
                name,
                "programs load (uprobes are of the same type), but perf has no kprobes",
                remedy,
            ),
        },
    }
}

/// A program type whose target is named by BTF.
struct Typed {
    name: &'static str,
    prog_type: ProgType,
    attach_type: AttachType,
    /// Functions, the first that this kernel has.
    targets: [&'static str; 2],
    remedy: &'static str,
}

const FENTRY: Typed = Typed {
    name: "fentry programs",
    prog_type: ProgType::Tracing,
    attach_type: AttachType::TraceFentry,
    targets: ["bpf_fentry_test1", "do_exit"],
    remedy: "for information: cgtap has no fentry hooks yet. They take CONFIG_FUNCTION_TRACER, \
             CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS and CONFIG_DEBUG_INFO_BTF; tracepoint hooks \
             work without",
};

const LSM: Typed = Typed {
    name: "LSM programs",
    prog_type: ProgType::Lsm,
    attach_type: AttachType::LsmMac,
    targets: ["bpf_lsm_file_open", "bpf_lsm_file_ioctl"],
    remedy: "for information: cgtap has no lsm hooks yet. They take CONFIG_BPF_LSM and `bpf` in \
             the kernel's lsm= list; tracepoint hooks work without",
};

fn typed(caller: &Caller, btf: Option<&Btf>, kind: &Typed) -> Feature {
    let Typed { name, remedy, .. } = *kind;
    let Some(btf) = btf else {
        return Feature::unknown(name, "there is no kernel BTF to find a target in", remedy);
    };
    let target = kind
        .targets
        .into_iter()
        .find_map(|t| Some((t, btf.find(t, BtfKind::Func)?)));
    let Some((target, id)) = target else {
        return Feature::no(
            name,
            format!("the kernel's BTF has none of {}", kind.targets.join(", ")),
            remedy,
        );
    };
    match load(kind.prog_type, kind.attach_type, id) {
        Ok(_) => Feature::yes(name, format!("one for {target} loads")),
        Err(e) => {
            let said = match e.log.trim() {
                "" => "and the kernel said no more".to_owned(),
                log => format!(
                    "the kernel said: {}",
                    log.lines().next_back().unwrap_or(log)
                ),
            };
            let why = format!(
                "loading one for {target} gave {}, {said}",
                caller.reason(e.errno)
            );
            Feature::no(name, why, remedy)
        }
    }
}
